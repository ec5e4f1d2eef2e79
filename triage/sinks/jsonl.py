"""Records as JSON lines, to a file or standard output."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import BinaryIO

from triage.core import Record
from triage.records import to_json
from triage.sinks.paths import SinkError, make_folder


class JsonLinesSink:
    """One record a line, each written out at once: whoever follows the file sees whole lines only, and none late.

    `-` is standard output. A file that exists is replaced. Raises SinkError where it cannot be written. A reader that closes its end
    of a pipe is a BrokenPipeError, for the caller to stop on.
    """

    def __init__(self, path: str | Path) -> None:
        self._name = str(path)
        self._owned = self._name != "-"
        if self._owned:
            target = Path(path).expanduser()
            make_folder(target)
            try:
                self._file: BinaryIO = target.open("wb", buffering=0)
            except OSError as error:
                raise SinkError(f"{self._name}: cannot be written ({error.strerror}); set sinks.jsonl.path to another file") from error
        else:
            sys.stdout.flush()
            self._file = sys.stdout.buffer

    def accept(self, record: Record) -> None:
        """Writes the record's line. Raises SinkError when the disk is full, say; half a line is taken back."""
        line = json.dumps(to_json(record), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        start = self._file.tell() if self._owned and self._file.seekable() else None
        try:
            self._write(line)
        except BrokenPipeError:
            raise
        except OSError as error:
            if start is not None:
                with contextlib.suppress(OSError):
                    self._file.truncate(start)
                    self._file.seek(start)
            raise SinkError(f"{self._name}: a record could not be written ({error.strerror}); free some space") from error

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[self._file.write(rest) :]  # an unbuffered file may take only part of it
        self._file.flush()

    def close(self) -> None:
        """Closes the file; standard output stays open."""
        if self._owned:
            self._file.close()
