"""Labels from indexing results: CrystFEL streams, and triage's own records.

What indexing found is visible; what it did not find may be. A frame that was not indexed is no label, and one crystal is a count of
lattices only where the left-over spots were indexed, too: otherwise it says that the frame diffracts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.labels.label import Label, LabelError
from training.labels.rows import BadRow, Defaults, Parsed, TableError

MOST_UNEXPLAINED = 0.3
"""Largest share of a frame's spots left over by the only solution for which one lattice is one lattice. With DIALS and a known cell, this
share tells two lattices from one at AUROC 0.80 only: the limit is a caution, not a measurement."""
_BEGIN, _END, _CRYSTAL = "----- Begin chunk -----", "----- End chunk -----", "--- Begin crystal"
_RESOLUTION = re.compile(r"diffraction_resolution_limit = \S+ nm\^-1 or (\S+) A")


@dataclass(slots=True)
class _Chunk:
    """One frame of a stream."""

    line: int
    image: str | None = None
    event: str | None = None
    crystals: int = 0
    limits_A: list[float] = field(default_factory=list)


def read_stream(path: Path, defaults: Defaults) -> Parsed:
    """The indexed frames of a CrystFEL stream (indexamajig; CrystFEL's `stream.c`, formats 2.1 to 2.3).

    A chunk with n crystals is a frame with n lattices; n = 1 counts only where the command line in the header says `--multi`. The
    resolution is that of the best crystal's `diffraction_resolution_limit`. Raises TableError where the file is no stream.
    """
    is_multi = False
    chunk: _Chunk | None = None
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            if not file.readline().startswith("CrystFEL stream format"):
                raise TableError(f"{path}: not a CrystFEL stream; its first line must name the format")
            for number, line in enumerate(file, start=2):
                text = line.rstrip("\n")
                if text == _BEGIN:
                    if chunk is not None:
                        yield _broken(path, chunk)
                    chunk = _Chunk(number)
                elif chunk is None:
                    is_multi = is_multi or ("indexamajig" in text and "--multi" in text.split())
                elif text == _END:
                    if chunk.crystals:
                        yield _of_chunk(path, chunk, is_multi, defaults)
                    chunk = None
                else:
                    _take(chunk, text)
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from error
    if chunk is not None:
        yield _broken(path, chunk)


def read_records(path: Path, defaults: Defaults) -> Parsed:
    """The `indexing` records of JSON lines that `triage run` or `listen` wrote; a `run` record names each one's source.

    Raises TableError where the file is not text.
    """
    sources: dict[str, str] = {}
    for number, record in _records(path):
        where = f"{path}, line {number}"
        if isinstance(record, BadRow):
            yield record
        elif record.get("type") == "run":
            sources[str(record.get("run"))] = str(record.get("source"))
        elif record.get("type") == "indexing" and record.get("status") == "indexed":
            yield _of_record(record, sources, where, defaults)


def _take(chunk: _Chunk, text: str) -> None:
    """Notes what one line says of its chunk."""
    if text.startswith(_CRYSTAL):
        chunk.crystals += 1
    elif text.startswith("Image filename: "):
        chunk.image = text.partition(": ")[2].strip()
    elif text.startswith("Event: "):
        chunk.event = text.partition(": ")[2].strip()
    elif match := _RESOLUTION.match(text):
        chunk.limits_A.append(_number(match.group(1)))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _of_chunk(path: Path, chunk: _Chunk, is_multi: bool, defaults: Defaults) -> Label | BadRow:
    where = f"{path}, line {chunk.line}"
    if chunk.image is None:
        return BadRow(f"{where}, column source: the chunk names no image")
    frame = _frame_of(chunk.event)
    if frame is None:
        return BadRow(f"{where}, column frame: event {chunk.event!r} is no frame number; label these frames by a CSV file")
    best_A = min((d for d in chunk.limits_A if 0.0 < d < float("inf")), default=None)
    counted = chunk.crystals > 1 or is_multi
    return _label(where, chunk.image, frame, chunk.crystals if counted else None, best_A, defaults)


def _frame_of(event: str | None) -> int | None:
    """The frame number of a CrystFEL event: `//5` or `entry//5`; 0 where the file holds one image."""
    if event is None:
        return 0
    number = event.rpartition("//")[2]
    return int(number) if number.isdecimal() else None


def _of_record(record: dict[str, Any], sources: dict[str, str], where: str, defaults: Defaults) -> Label | BadRow:
    run, frame, solutions = str(record.get("run")), record.get("frame"), record.get("solutions")
    if run not in sources:
        return BadRow(f"{where}, column source: no `run` record of {run!r} before it")
    if not isinstance(frame, int) or not isinstance(solutions, list) or not solutions:
        return BadRow(f"{where}, column frame: an `indexing` record needs a frame and its solutions")
    left_over = record.get("fraction_unexplained")
    explained = isinstance(left_over, (int, float)) and left_over <= MOST_UNEXPLAINED
    return _label(where, sources[run], frame, len(solutions) if len(solutions) > 1 or explained else None, None, defaults)


def _label(where: str, source: str, frame: int, n_lattices: int | None, d_min_A: float | None, defaults: Defaults) -> Label | BadRow:
    try:
        return Label(
            source=source,
            frame=frame,
            n_lattices=n_lattices,
            diffracts=True,
            d_min_A=d_min_A,
            labeller=defaults.labeller,
            origin=defaults.origin,
        )
    except LabelError as error:
        return BadRow(f"{where}, column {error.column}: {error}")


def _broken(path: Path, chunk: _Chunk) -> BadRow:
    return BadRow(f"{path}, line {chunk.line}: the chunk has no end; was indexamajig interrupted?")


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    yield number, BadRow(f"{path}, line {number}: not JSON ({error.msg})")
                    continue
                if isinstance(record, dict):
                    yield number, record
                else:
                    yield number, BadRow(f"{path}, line {number}: not a record")
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: cannot be read ({error})") from error
