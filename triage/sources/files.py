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

from triage.core import Event, Frame, FrameError, Pixels, Run, RunEnd, SourceError
from triage.sources import nexus
from triage.sources.chunks import FrameReader
from triage.sources.follow import GrowingFrames
from triage.sources.hdf5 import FrameTable, Place, without_tail
from triage.sources.image_series import Series, image_pixels, problem_of, series_of, with_shape
from triage.sources.naming import batches, is_hdf5, run_name
from triage.sources.resolve import RunResolver

log = logging.getLogger(__name__)

POLL_S = 0.1
"""How often a growing file is looked at."""
STOPPED = "stopped"


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

    def _refused(self, path: str, problem: str) -> Iterator[Event]:
        """The two events of a file that cannot be read."""
        run = self._resolver.unknown(path, run_name(path, is_series=False))
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
        reader = FrameReader()
        try:
            growing = GrowingFrames(_existing(path), reader, self._follow_timeout_s)
        except SourceError as error:
            yield from self._refused(path, str(error))
            return
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
        present = []
        for path in paths:
            try:
                _existing(path)
                present.append(path)
            except SourceError as error:
                yield from self._refused(path, str(error))
        for series in series_of(present):
            if not self._stopped.is_set():
                yield from self._image_run(series)

    def _image_run(self, series: Series) -> Iterator[Event]:
        try:
            shaped = with_shape(series)
        except SourceError as error:
            for path in series.paths:
                yield from self._refused(path, problem_of(path) or str(error))
            return
        first = series.paths[0]
        try:
            header = replace(shaped, source=first, frames_expected=len(series.paths))
            run = self._resolver.resolve(header, run_name(first, is_series=self._by_series))
        except SourceError as error:
            yield from self._refused(first, str(error))
            return
        yield run
        for index, path in enumerate(series.paths):
            if self._stopped.is_set():
                break
            decode = partial(image_pixels, Path(path), shaped, series.is_checked)
            yield Frame(run=run, index=index, decode=decode, arrived_s=time.monotonic(), file=path)
        yield self._end(run, first, None, len(series.paths))


def _existing(path: str) -> Path:
    """The path of a file; raises SourceError in one line where it is none."""
    file = Path(path)
    if file.is_dir():
        raise SourceError(f"{path}: is a folder; name the files in it")
    if not file.exists():
        raise SourceError(f"{path}: no such file")
    return file


def _stored_pixels(reader: FrameReader, where: tuple[Place, int] | None, name: str, shape_px: tuple[int, int]) -> Pixels:
    if where is None:
        raise FrameError(f"{name}: no data file is mapped for this frame")
    pixels = reader.read(*where)
    if pixels.shape != shape_px:
        raise FrameError(f"{name}: is {pixels.shape[0]} x {pixels.shape[1]} pixels, its run {shape_px[0]} x {shape_px[1]}")
    return pixels
