"""File names: which files form one series, in which order, and what a run is called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

COMPRESSED = (".gz", ".bz2")
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".nxs", ".nx", ".nexus", ".cxi")
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5, by its name or its first bytes."""
    if path.suffix.lower() in HDF5_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE
    except OSError:
        return False


def template(path: Path) -> tuple[str, int | None]:
    """The path with its frame number replaced by `#`, and that number: `a/run2_1_00148.cbf.bz2` -> `a/run2_1_#.cbf.bz2`, 148.

    The number is the last group of digits before the suffix, or the suffix itself (`xtal.0148`). None where there is none.
    """
    name, packed = path.name, ""
    if path.suffix.lower() in COMPRESSED:
        name, packed = path.name[: -len(path.suffix)], path.suffix
    stem, dot, suffix = name.rpartition(".")
    if dot and suffix.isdecimal():
        return str(path.with_name(f"{stem}.#{packed}")), int(suffix)
    stem, tail = (stem, f".{suffix}{packed}") if dot else (name, packed)
    match = re.search(r"(\d+)(\D*)$", stem)
    if match is None:
        return str(path), None
    return str(path.with_name(f"{stem[: match.start()]}#{match.group(2)}{tail}")), int(match.group(1))


def series(paths: Sequence[str]) -> list[list[str]]:
    """Paths of image files grouped by folder and template, each group in number order, groups in the order of their first file."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for path in dict.fromkeys(paths):
        name, number = template(Path(path))
        groups.setdefault(name, []).append((-1 if number is None else number, path))
    return [[path for _, path in sorted(group)] for group in groups.values()]


def batches(paths: Iterable[str], *, by_series: bool) -> list[list[str]]:
    """What becomes one run each (or more, where geometries differ): every HDF5 file, every image or every series of images."""
    listed = list(paths)
    images = [path for path in listed if not is_hdf5(Path(path))]
    group_of = {path: group for group in series(images) for path in group} if by_series else {}
    found: list[list[str]] = []
    begun: set[int] = set()
    for path in listed:
        group = group_of.get(path, [path])
        if id(group) not in begun:
            found.append(group)
        if path in group_of:
            begun.add(id(group))
    return found


def run_name(path: str, *, is_series: bool) -> str:
    """What a run is called by its (first) file: `run2_1` or `run2_1_00148`; a master without its `_master`."""
    file = Path(path)
    name = file.name[: -len(file.suffix)] if file.suffix.lower() in COMPRESSED else file.name
    stem = re.sub(r"_master$", "", name.rpartition(".")[0] or name)
    series_name, number = template(file)
    if not is_series or number is None:
        return stem
    prefix, _, _ = Path(series_name).name.partition("#")
    return prefix.rstrip("_-. ") or file.resolve().parent.name or stem
