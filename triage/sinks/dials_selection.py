"""The good frames as arguments of DIALS' programs, one a line, which they read by `--phil FILE`; written as the run proceeds."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO


class DialsSelection:
    """Image files, for `dials.import --phil NAME.dials`; or, of a file of many images or a stream, ranges of their numbers (from one, both
    inclusive) for `dials.find_spots imported.expt --phil NAME.dials`. A range is written with its first image, and grows.
    """

    def __init__(self, path: Path) -> None:
        """Replaces the file. Raises OSError."""
        self._file: TextIO = path.open("w", encoding="utf-8", errors="surrogateescape", newline="\n")
        self._range: tuple[int, int] | None = None
        self._range_at = 0

    def add(self, file: Path | None, frame: int | None) -> None:
        """Adds an image of its own file, or the frame (from zero) of one that holds many. Raises OSError."""
        if frame is None:
            if self._file.tell() == 0:
                self._file.write("input.allow_multiple_sequences=True\n")
            self._file.write(f"{file}\n")
        else:
            self._extend(frame)
        self._file.flush()

    def _extend(self, frame: int) -> None:
        number = frame + 1
        if self._range is not None and number == self._range[1] + 1:
            self._range = (self._range[0], number)
            self._file.seek(self._range_at)  # the line only gets longer
        else:
            self._range = (number, number)
            self._range_at = self._file.tell()
        self._file.write(f"spotfinder.scan_range={self._range[0]},{self._range[1]}\n")

    def close(self) -> None:
        """Closes the file. Raises OSError."""
        self._file.close()
