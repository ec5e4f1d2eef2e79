"""A virtual dataset of chosen frames of an HDF5 file: no pixel is copied."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from triage.sinks.paths import SinkError

_NUMBERED = re.compile(r"data_\d+")


@dataclass(frozen=True, slots=True)
class _Stack:
    """Consecutive frames of a run in one dataset."""

    file: str
    dataset: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def write_virtual(target: Path, master: Path, frames: Sequence[int]) -> None:
    """Writes `target` with `/entry/data/data`, the frames (ascending) of the run in `master`, and `source_frame`, their numbers there.

    `/entry/instrument` links to the master's, so that the geometry is at hand. Raises SinkError where the master's frames cannot be
    found or `target` cannot be written.
    """
    try:
        with h5py.File(master, "r") as source:
            stacks = _stacks(source)
            has_instrument = "entry/instrument" in source
        if not stacks:
            raise SinkError(f"{master}: its images are not all to be found, so {target} is not written")
        layout = _layout(stacks, frames, target)
        with h5py.File(target, "w", libver=("v110", "v110")) as file:
            _write(file, layout, frames)
            if has_instrument:
                file["entry/instrument"] = h5py.ExternalLink(str(master.absolute()), "/entry/instrument")
    except (OSError, RuntimeError) as error:
        raise SinkError(f"{target}: the good frames could not be linked to {master} ({' '.join(str(error).split())})") from error


def _stacks(source: h5py.File) -> list[_Stack]:
    """The run's stacks in order: `data`, or its signal, or `data_000001` and on (DECTRIS's file writer), or the largest stack there is.

    Empty where one of several data files is absent: nobody can then say which frame is which.
    """
    data = source.get("entry/data")
    if isinstance(data, h5py.Group):
        for name in ("data", data.attrs.get("signal")):
            if isinstance(name, str) and (whole := _stack(data, name)) is not None:
                return [whole]
        names = sorted(filter(_NUMBERED.fullmatch, data), key=lambda name: int(name.removeprefix("data_")))
        parts = [_stack(data, name) for name in names]
        if parts:
            return [part for part in parts if part is not None] if None not in parts else []
    found: list[h5py.Dataset] = []

    def look(_: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 3:
            found.append(item)

    source.visititems(look)
    return [_described(max(found, key=lambda item: int(item.size)))] if found else []


def _stack(group: h5py.Group, name: str) -> _Stack | None:
    try:
        item = group[name]
    except (KeyError, OSError):  # absent, or a link to a file that is
        return None
    return _described(item) if isinstance(item, h5py.Dataset) and item.ndim == 3 else None


def _described(item: h5py.Dataset) -> _Stack:
    return _Stack(str(Path(item.file.filename).absolute()), str(item.name), item.shape, item.dtype)


def _layout(stacks: Sequence[_Stack], frames: Sequence[int], target: Path) -> h5py.VirtualLayout:
    shape, dtype = stacks[0].shape[1:], stacks[0].dtype
    layout = h5py.VirtualLayout(shape=(len(frames), *shape), dtype=dtype)
    begin = written = 0
    for stack in stacks:
        source = h5py.VirtualSource(stack.file, stack.dataset, shape=stack.shape, dtype=stack.dtype)
        inside = [frame - begin for frame in frames if begin <= frame < begin + stack.shape[0]]
        for first, count in _stretches(inside):
            layout[written : written + count] = source[first : first + count]
            written += count
        begin += stack.shape[0]
    if written != len(frames):
        raise SinkError(f"{target}: {len(frames) - written} good frames lie past the {begin} that can be found, so it is not written")
    return layout


def _stretches(frames: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First frame and length of each stretch of consecutive frames."""
    breaks = [0, *(i for i in range(1, len(frames)) if frames[i] != frames[i - 1] + 1), len(frames)]
    for begin, end in pairwise(breaks):
        if end > begin:
            yield frames[begin], end - begin


def _write(file: h5py.File, layout: h5py.VirtualLayout, frames: Sequence[int]) -> None:
    file.attrs.update({"NX_class": "NXroot", "default": "entry"})
    entry = file.create_group("entry")
    entry.attrs.update({"NX_class": "NXentry", "default": "data"})
    data = entry.create_group("data")
    data.attrs.update({"NX_class": "NXdata", "signal": "data"})
    data.create_virtual_dataset("data", layout)
    data["source_frame"] = np.asarray(frames, dtype=np.int64)
    data["source_frame"].attrs["description"] = "number of each frame in the run it comes from"
