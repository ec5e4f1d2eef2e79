"""Frames from files: NeXus and Eiger HDF5, complete or still growing, and series of single images."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from triage.core import Event, Frame, FrameError, Pixels, Run, RunEnd, RunHeader, SourceError
from triage.geometry import StatedGeometry
from triage.sources import images, nexus
from triage.sources.chunks import FrameReader
from triage.sources.follow import GrowingFrames
from triage.sources.hdf5 import FrameTable, Place, without_tail
from triage.sources.naming import batches, is_hdf5, run_name
from triage.sources.resolve import RunResolver

log = logging.getLogger(__name__)

POLL_S = 0.1
"""How often a growing file is looked at."""
STOPPED = "stopped"
SAME_WITHIN = 1e-3
"""Relative difference of distances and wavelengths that are one geometry: motors read back with noise."""
SAME_BEAM_PX = 1.0


class FileSource:
    """Yields the runs and frames of files, in the order given; a bad file costs that file.

    `group="series"` makes one run of the single-image files of one folder, name template and geometry, in number order;
    `"file"` one of each. An HDF5 file is always one run. With `follow`, an HDF5 file that was written to within the last
    `follow_timeout_s` is followed until the announced frames are there, or nothing new came for that long.
    """

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        resolver: RunResolver,
        group: Literal["series", "file"] = "series",
        follow: bool = False,
        follow_timeout_s: float = 30.0,
    ) -> None:
        self._paths = [os.fspath(path) for path in paths]
        self._resolver = resolver
        self._by_series = group == "series"
        self._follow = follow
        self._follow_timeout_s = follow_timeout_s
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ends the iteration soon: the open run ends as not complete, later files are not begun. Safe from any thread or signal handler."""
        self._stopped.set()

    def __iter__(self) -> Iterator[Event]:
        """Runs, frames and run ends. Runs do not interleave."""
        for batch in batches(self._paths, by_series=self._by_series):
            if self._stopped.is_set():
                return
            if is_hdf5(Path(batch[0])):
                yield from self._growing(batch[0]) if self._follow else self._whole(batch[0])
            else:
                yield from self._image_runs(batch)

    def _refused(self, path: str, problem: str, run_id: str | None = None) -> Iterator[Event]:
        """The two events of a file that cannot be read."""
        run = self._resolver.unknown(path, run_id or run_name(path, is_series=False))
        yield run
        yield RunEnd(run=run, complete=False, reason=problem)

    # HDF5

    def _whole(self, path: str) -> Iterator[Event]:
        """One HDF5 file as it is now."""
        try:
            stored = nexus.stored_frames(_existing(path))
            table = without_tail(stored.table)
            header = nexus.read_header(Path(path), path, table)
            expected = max(stored.first_image + len(stored.table), header.frames_expected or 0)
            run = self._resolver.resolve(replace(header, frames_expected=expected), run_name(path, is_series=False))
        except SourceError as error:
            yield from self._refused(path, str(error))
            return
        yield run
        yield from self._frames(run, path, table, stored.first_image, FrameReader())
        yield self._end(run, path, stored.missing, len(table))

    def _growing(self, path: str) -> Iterator[Event]:
        """One HDF5 file, followed to its end."""
        if not Path(path).exists():
            yield from self._refused(path, f"{path}: no such file")
            return
        reader = FrameReader()
        growing = GrowingFrames(Path(path), reader, self._follow_timeout_s)
        run: Run | None = None
        n_told = 0
        for table in self._news(growing, path):
            if run is None:
                try:
                    run = self._open_growing(path, table, growing)
                except SourceError as error:
                    yield from self._refused(path, str(error))
                    return
                yield run
            n_told += len(table)
            yield from self._frames(run, path, table, growing.next_number, reader)
            if growing.next_number + len(table) >= (run.header.frames_expected or float("inf")):
                break
        if run is not None:
            yield self._end(run, path, growing.skipped, n_told)
        elif not self._stopped.is_set():
            yield from self._refused(path, growing.problem or f"{path}: it has no frames")

    def _news(self, growing: GrowingFrames, path: str) -> Iterator[FrameTable]:
        """What a growing file gains, until it is quiet or the source is stopped."""
        is_watched = False
        while not self._stopped.is_set():
            table = growing.poll()
            if table is not None:
                if is_watched:
                    growing.noted()
                yield table
            elif not growing.is_quiet:
                is_watched = True
                self._stopped.wait(POLL_S)
            elif not growing.skip_missing():
                log.debug("%s: nothing new for %g s", path, self._follow_timeout_s)
                return

    def _open_growing(self, path: str, table: FrameTable, growing: GrowingFrames) -> Run:
        header = nexus.read_header(Path(path), path, table)
        expected = max(header.frames_expected or 0, growing.fixed_length or 0) or None
        return self._resolver.resolve(replace(header, frames_expected=expected), run_name(path, is_series=False))

    def _frames(self, run: Run, path: str, table: FrameTable, first: int, reader: FrameReader) -> Iterator[Frame]:
        for i in range(len(table)):
            if self._stopped.is_set():
                return
            decode = partial(_stored_pixels, reader, table.at(i), f"{path}, frame {first + i}", table.shape_px)
            yield Frame(run=run, index=first + i, decode=decode, arrived_s=time.monotonic(), file=path)

    def _end(self, run: Run, path: str, missing: str | None, n_frames: int) -> RunEnd:
        expected = run.header.frames_expected
        if self._stopped.is_set():
            return RunEnd(run=run, complete=False, reason=STOPPED)
        if missing is not None:
            return RunEnd(run=run, complete=False, reason=missing)
        if expected is not None and n_frames < expected:
            return RunEnd(run=run, complete=False, reason=f"{path}: {n_frames} of {expected} announced frames are there")
        return RunEnd(run=run, complete=True)

    # single images

    def _image_runs(self, paths: list[str]) -> Iterator[Event]:
        """One batch of image files as one run, or several where the geometry changes."""
        part: list[str] = []
        header: RunHeader | None = None
        for path in paths:
            if self._stopped.is_set():
                break
            try:
                own = images.read_header(_existing(path), path)
            except SourceError as error:
                if len(paths) > 1 and Path(path).is_file():  # damaged, in a series: costs one frame there
                    part.append(path)
                else:
                    yield from self._refused(path, str(error))
                continue
            if header is not None and not _same_geometry(header, own):
                yield from self._image_run(part, header)
                part, header = [], None
            header = header or own
            part.append(path)
        yield from self._image_run(part, header)

    def _image_run(self, paths: list[str], header: RunHeader | None) -> Iterator[Event]:
        try:
            whole = None if header is None else _with_shape(header, paths)
        except FrameError as error:
            log.debug("%s", error)
            whole = None
        if whole is None or whole.shape_px is None:
            for path in paths:
                yield from self._refused(path, _problem(path))
            return
        try:
            name = run_name(paths[0], is_series=self._by_series)
            run = self._resolver.resolve(replace(whole, source=paths[0], frames_expected=len(paths)), name)
        except SourceError as error:
            yield from self._refused(paths[0], str(error))
            return
        yield run
        for index, path in enumerate(paths):
            if self._stopped.is_set():
                break
            decode = partial(_image_pixels, Path(path), whole.shape_px)
            yield Frame(run=run, index=index, decode=decode, arrived_s=time.monotonic(), file=path)
        yield self._end(run, paths[0], None, len(paths))


def _existing(path: str) -> Path:
    """The path of a file; raises SourceError in one line where it is none."""
    file = Path(path)
    if file.is_dir():
        raise SourceError(f"{path}: is a folder; name the files in it")
    if not file.exists():
        raise SourceError(f"{path}: no such file")
    return file


def _problem(path: str) -> str:
    """Why an image file cannot be read."""
    try:
        images.read_header(_existing(path), path)
        images.read_pixels(Path(path))
    except (SourceError, FrameError) as error:
        return str(error)
    return f"{path}: cannot be read"


def _with_shape(header: RunHeader, paths: list[str]) -> RunHeader:
    """The header with the frames' shape, from the first image that can be read where the format's header lacks it."""
    if header.shape_px is not None:
        return header
    problem = FrameError(f"{paths[0]}: cannot be read")
    for path in paths:
        try:
            slow, fast = images.read_pixels(Path(path)).shape
        except FrameError as error:
            problem = error
            continue
        return replace(header, shape_px=(int(slow), int(fast)))
    raise problem


def _image_pixels(path: Path, shape_px: tuple[int, int]) -> Pixels:
    pixels = images.read_pixels(path)
    if pixels.shape != shape_px:
        raise FrameError(f"{path}: is {pixels.shape[0]} x {pixels.shape[1]} pixels, its series {shape_px[0]} x {shape_px[1]}")
    return pixels


def _stored_pixels(reader: FrameReader, where: tuple[Place, int] | None, name: str, shape_px: tuple[int, int]) -> Pixels:
    if where is None:
        raise FrameError(f"{name}: no data file is mapped for this frame")
    pixels = reader.read(*where)
    if pixels.shape != shape_px:
        raise FrameError(f"{name}: is {pixels.shape[0]} x {pixels.shape[1]} pixels, its run {shape_px[0]} x {shape_px[1]}")
    return pixels


def _same_geometry(one: RunHeader, other: RunHeader) -> bool:
    """Whether two image headers can belong to one run."""
    if (one.shape_px, one.detector) != (other.shape_px, other.detector):
        return False
    a, b = one.stated, other.stated
    return _near(a.beam_px, b.beam_px, absolute=SAME_BEAM_PX) and all(
        _near(_numbers(a, name), _numbers(b, name), relative=SAME_WITHIN)
        for name in ("wavelength_A", "distance_mm", "pixel_mm", "fast_axis", "slow_axis")
    )


def _numbers(stated: StatedGeometry, name: str) -> tuple[float, ...] | None:
    value = getattr(stated, name)
    return value if value is None or isinstance(value, tuple) else (value,)


def _near(one: tuple[float, ...] | None, other: tuple[float, ...] | None, *, relative: float = 0.0, absolute: float = 0.0) -> bool:
    if one is None or other is None:
        return one is other
    scale = max(abs(a) for a in one)
    return all(abs(a - b) <= max(absolute, relative * scale) for a, b in zip(one, other, strict=True))
