"""A file that is still being written, followed to its end: frames of a growing dataset, and data files that appear one by one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from triage.core import SourceError
from triage.sources.cbf import reason
from triage.sources.chunks import FrameReader
from triage.sources.hdf5 import HDF5_FAILURES, FrameTable, frame_table, locate, written
from triage.sources.nexus import image_number, linked_names, whole_name


class GrowingFrames:
    """The frames of one HDF5 file, each told once, in order, when it is there."""

    def __init__(self, path: Path, reader: FrameReader, quiet_after_s: float) -> None:
        self._path = path
        self._reader = reader
        self._quiet_after_s = quiet_after_s
        self._link = 0
        self._within = 0
        self._told = 0
        self._files = {path}
        self._news_s = time.monotonic() - _age_s(path)
        self.problem: str | None = None
        """Why nothing came at the last look, in one line; None where nothing was wrong."""
        self.skipped: str | None = None
        """Which data file never appeared though later ones did, or None."""
        self.next_number = 0
        """The run's number for the next frame told."""
        self.fixed_length: int | None = None
        """How many frames there will be, where the dataset was made with its final size."""

    def poll(self) -> FrameTable | None:
        """The frames that came since the last call; None where none did."""
        try:
            self._reader.refresh()
            names = linked_names(self._path)
            new = self._next_of_links(names) if names else self._next_of_whole()
            self.problem = None
        except SourceError as error:  # not there yet
            self.problem = str(error)
            return None
        except HDF5_FAILURES as error:  # caught in the middle of being written
            self.problem = f"{self._path}: cannot be read ({reason(error)})"
            return None
        if new is None:
            return None
        self.next_number = self._told
        self._told += len(new)
        self._files.update(place.file for place in new.places)
        return new

    def noted(self) -> None:
        """Frames came just now, while the file was watched."""
        self._news_s = time.monotonic()

    @property
    def is_quiet(self) -> bool:
        """Whether no frame came, and no file concerned was touched, for the time given."""
        youngest_s = min(_age_s(file) for file in self._files)
        return min(time.monotonic() - self._news_s, youngest_s) >= self._quiet_after_s

    def skip_missing(self) -> bool:
        """Goes on to the first later data file that is there; False where none is."""
        missing: str | None = None
        for i, found in self._later_files():
            if isinstance(found, str):
                missing = missing or found
            elif i > self._link:
                self.skipped = self.skipped or missing
                self._link, self._within = i, 0
                self._told = max(self._told, image_number(found))
                return True
        return False

    def _later_files(self) -> Iterator[tuple[int, FrameTable | str]]:
        """From the present data file on: what each holds, or why it is not there."""
        try:
            names = linked_names(self._path)
        except SourceError:
            return
        for i in range(self._link, len(names)):
            try:
                yield i, frame_table(locate(self._path, names[i]))
            except SourceError as error:
                yield i, str(error)

    def _next_of_whole(self) -> FrameTable | None:
        table = frame_table(locate(self._path, whole_name(self._path)))
        self.fixed_length = len(table) if table.is_fixed else None
        n = written(table, self._told)
        return table.part(self._told, self._told + n) if n else None

    def _next_of_links(self, names: list[str]) -> FrameTable | None:
        while self._link < len(names):
            has_later = self._link + 1 < len(names) and _table_of(self._path, names[self._link + 1]) is not None
            table = frame_table(locate(self._path, names[self._link]))  # looked at after the later one: it grows no more then
            n = written(table, self._within)
            if n:
                self._within += n
                return table.part(self._within - n, self._within)
            if not has_later:
                return None
            self._link, self._within = self._link + 1, 0
        return None


def _table_of(path: Path, name: str) -> FrameTable | None:
    try:
        return frame_table(locate(path, name))
    except SourceError:
        return None


def _age_s(file: Path) -> float:
    """Seconds since a file was last written; 0 where it is not there or its clock is ahead."""
    try:
        return max(0.0, time.time() - file.stat().st_mtime)
    except OSError:
        return 0.0
