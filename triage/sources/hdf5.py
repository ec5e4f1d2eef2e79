"""Where the frames of an HDF5 dataset really lie: through external and soft links and virtual datasets to the stored chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers the filters that detectors use
import numpy as np
import numpy.typing as npt

from triage.core import SourceError
from triage.sources.cbf import PIXEL_LIMIT, reason

HDF5_FAILURES = (OSError, RuntimeError, ValueError, KeyError, TypeError)
"""What h5py raises for damaged, locked or vanished files and objects."""
LINK_DEPTH = 12
"""More links on one way are a circle."""
OPENINGS = ((False, True), (False, False), (None, True), (None, False))
"""(locking, SWMR) in the order tried: a file that is being written opens for SWMR only, one of the oldest format only without it;
locks fail on some network file systems, and a file already open in this process opens only in the same way again."""
Frames = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Place:
    """A dataset, by the file that really holds it."""

    file: Path
    dataset: str


class MissingFileError(SourceError):
    """A file that another one refers to is not there (yet)."""


class NoDatasetError(SourceError):
    """A file has no such group or dataset (yet)."""


def open_file(path: Path) -> h5py.File:
    """An HDF5 file opened for reading, also while its writer works on it. Raises SourceError in one line."""
    if not path.exists():
        raise MissingFileError(f"{path}: no such file")
    problems = []
    for locking, swmr in OPENINGS:
        try:
            return h5py.File(path, "r", libver="latest" if swmr else None, swmr=swmr, locking=locking)
        except HDF5_FAILURES as error:
            problems.append(error)
    raise SourceError(f"{path}: not an HDF5 file, or damaged ({reason(problems[-1])})") from problems[-1]


def locate(path: Path, name: str, depth: int = LINK_DEPTH) -> Place:
    """The place of an object, through links of every kind. Raises MissingFileError or NoDatasetError, naming what is not there."""
    if depth == 0:
        raise SourceError(f"{path}: the links to {name} go in a circle")
    with open_file(path) as file:
        group = file["/"]
        parts = [part for part in name.split("/") if part not in ("", ".")]
        for i, part in enumerate(parts):
            link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
            rest = "/".join(parts[i + 1 :])
            if link is None:
                raise NoDatasetError(f"{path}: it has no {name}")
            if isinstance(link, h5py.ExternalLink):
                return locate(linked_file(path, link.filename), f"{link.path}/{rest}", depth - 1)
            if isinstance(link, h5py.SoftLink):
                start = "" if link.path.startswith("/") else group.name
                return locate(path, f"{start}/{link.path}/{rest}", depth - 1)
            group = group[part]
    return Place(path, "/" + "/".join(parts))


def linked_file(path: Path, name: str) -> Path:
    """The file that a link in `path` names, found as HDF5 finds it. Raises MissingFileError."""
    if name == ".":
        return path
    folders = dict.fromkeys((path.parent, path.resolve().parent))
    candidates = [folder / part for part in dict.fromkeys((name, Path(name).name)) for folder in folders]  # folder / absolute is absolute
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise MissingFileError(f"{path}: its data file {name} is missing; put it beside this file")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameTable:
    """Where each frame of a series is stored. The three arrays have one entry a frame."""

    shape_px: tuple[int, int]
    dtype: np.dtype[Any]
    places: tuple[Place, ...]
    place: Frames
    """Index into `places`; -1 where nothing is mapped."""
    position: Frames
    """Index along the first axis of that dataset."""
    is_fixed: bool = True
    """Whether the number of frames cannot grow."""

    def __len__(self) -> int:
        return len(self.place)

    def at(self, frame: int) -> tuple[Place, int] | None:
        """Where a frame is stored, or None where nothing is."""
        place = int(self.place[frame])
        return None if place < 0 else (self.places[place], int(self.position[frame]))

    def then(self, other: FrameTable) -> FrameTable:
        """The frames of both, in this order. Raises SourceError when they are of different shape or type."""
        if (self.shape_px, self.dtype) != (other.shape_px, other.dtype):
            raise SourceError(f"{other.places[0].file}: its frames are {_words(other)}, those before it {_words(self)}")
        moved = np.where(other.place < 0, -1, other.place + len(self.places))
        return FrameTable(
            shape_px=self.shape_px,
            dtype=self.dtype,
            places=self.places + other.places,
            place=np.concatenate([self.place, moved]),
            position=np.concatenate([self.position, other.position]),
            is_fixed=self.is_fixed and other.is_fixed,
        )

    def part(self, start: int, stop: int) -> FrameTable:
        """The frames from `start` up to, not including, `stop`."""
        return replace(self, place=self.place[start:stop], position=self.position[start:stop])


def _words(table: FrameTable) -> str:
    return f"{table.shape_px[0]} x {table.shape_px[1]} {table.dtype}"


def frame_table(place: Place, depth: int = LINK_DEPTH) -> FrameTable:
    """The frames of the dataset at a place. Raises SourceError when it does not hold frames, or a file it maps is missing."""
    with open_file(place.file) as file:
        dataset = file.get(place.dataset)
        if not isinstance(dataset, h5py.Dataset):
            raise NoDatasetError(f"{place.file}: {place.dataset} is not a dataset")
        shape_px, n_frames = _frames_of(dataset, place)
        dtype = dataset.dtype
        is_fixed = dataset.ndim == 2 or dataset.maxshape[0] == dataset.shape[0]
        sources = list(dataset.virtual_sources()) if dataset.is_virtual else None
    if sources is None:
        return _stored(place, shape_px, dtype, n_frames, is_fixed)
    return _mapped(place, _stored(place, shape_px, dtype, n_frames, is_fixed), sources, depth)


def _frames_of(dataset: h5py.Dataset, place: Place) -> tuple[tuple[int, int], int]:
    where = f"{place.file}: {place.dataset}"
    if dataset.dtype.kind not in "iuf":
        raise SourceError(f"{where} holds {dataset.dtype}, not pixels")
    if dataset.ndim not in (2, 3):
        raise SourceError(f"{where} has {dataset.ndim} dimensions {dataset.shape}; frames must be assembled: (frames, slow, fast)")
    slow, fast = dataset.shape[-2:]
    if slow < 1 or fast < 1 or slow * fast > PIXEL_LIMIT:
        raise SourceError(f"{where}: a frame of {slow} x {fast} pixels is not plausible")
    return (int(slow), int(fast)), int(dataset.shape[0]) if dataset.ndim == 3 else 1


def _stored(place: Place, shape_px: tuple[int, int], dtype: np.dtype[Any], n_frames: int, is_fixed: bool) -> FrameTable:
    return FrameTable(
        shape_px=shape_px,
        dtype=dtype,
        places=(place,),
        place=np.zeros(n_frames, dtype=np.int64),
        position=np.arange(n_frames, dtype=np.int64),
        is_fixed=is_fixed,
    )


def _mapped(place: Place, whole: FrameTable, sources: list[Any], depth: int) -> FrameTable:
    """A virtual dataset's frames, at the places they are mapped from.

    Where a mapping is not of whole frames (modules in files of their own), the virtual dataset itself is read.
    """
    if depth == 0:
        raise SourceError(f"{place.file}: the virtual dataset {place.dataset} maps itself")
    n_frames = len(whole)
    places: list[Place] = []
    which, position = np.full(n_frames, -1, dtype=np.int64), np.zeros(n_frames, dtype=np.int64)
    for source in sources:
        inner = frame_table(locate(linked_file(place.file, source.file_name), source.dset_name, depth - 1), depth - 1)
        here, there = _frames_selected(source.vspace, n_frames), _frames_selected(source.src_space, len(inner))
        if here is None or there is None or inner.shape_px != whole.shape_px:
            return whole
        if not (_covers(source.vspace, whole.shape_px) and _covers(source.src_space, whole.shape_px)):
            return whole
        n = min(len(here), len(there))
        here, there = here[:n], there[:n]
        which[here] = np.where(inner.place[there] < 0, -1, inner.place[there] + len(places))
        position[here] = inner.position[there]
        places += inner.places
    return FrameTable(
        shape_px=whole.shape_px, dtype=whole.dtype, places=tuple(places), place=which, position=position, is_fixed=whole.is_fixed
    )


def _frames_selected(space: Any, n_frames: int) -> Frames | None:
    """Indices along the first of three axes, below `n_frames`, that a regular selection covers, in order; None for any other."""
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return np.arange(n_frames, dtype=np.int64)
    if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab():
        return None
    slab = space.get_regular_hyperslab()
    if len(slab[0]) == 2:
        return np.zeros(1, dtype=np.int64)
    start, stride, count, block = (int(values[0]) for values in slab)
    if start >= n_frames:
        return np.zeros(0, dtype=np.int64)
    n_blocks = min(count, -(-(n_frames - start) // stride))  # an unlimited count, or block, is a huge one
    n_block = min(block, n_frames - start)
    frames = (start + stride * np.arange(n_blocks, dtype=np.int64)[:, None] + np.arange(n_block, dtype=np.int64)).ravel()
    return frames[frames < n_frames]


def _covers(space: Any, shape_px: tuple[int, int]) -> bool:
    """Whether a regular selection spans all rows and columns of frames of this shape."""
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return True
    start, stride, count, block = space.get_regular_hyperslab()
    spans = [(start[i], count[i] * block[i], count[i] == 1 or stride[i] == block[i]) for i in (-2, -1)]
    return spans == [(0, n, True) for n in shape_px]


def written(table: FrameTable, start: int) -> int:
    """How many frames from `start` on are stored without a gap; what a preallocated dataset has not yet got does not count."""
    chunks = _Chunks(table)
    n = 0
    while start + n < len(table) and chunks.has(start + n):
        n += 1
    return n


def without_tail(table: FrameTable) -> FrameTable:
    """The table without frames at its end that were never stored: a preallocated dataset whose run ended early."""
    chunks = _Chunks(table)
    n = len(table)
    while n > 0 and not chunks.has(n - 1):
        n -= 1
    return table.part(0, n)


class _Chunks:
    """Asks whether the chunk of a frame is stored; keeps the dataset it last asked open."""

    def __init__(self, table: FrameTable) -> None:
        self._table = table
        self._open: dict[Place, tuple[h5py.File, h5py.Dataset]] = {}

    def has(self, frame: int) -> bool:
        where = self._table.at(frame)
        if where is None:
            return False
        place, position = where
        if place not in self._open:
            file = open_file(place.file)
            self._open = {place: (file, file[place.dataset])}
        dataset = self._open[place][1]
        if dataset.is_virtual or dataset.chunks is None or dataset.ndim != 3:
            return True
        return dataset.id.get_chunk_info_by_coord((position, 0, 0)).byte_offset is not None


def datasets(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every dataset that holds numbers in three dimensions, by name and shape; links out of the file are not followed."""
    found: list[tuple[str, tuple[int, ...]]] = []

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 3 and item.dtype.kind in "iuf":
            found.append((name, tuple(int(n) for n in item.shape)))

    with open_file(path) as file:
        file.visititems(visit)
    yield from found
