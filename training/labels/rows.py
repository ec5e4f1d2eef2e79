"""Labels as rows of CSV and Parquet: the columns of the store, an empty cell where nothing was judged."""

from __future__ import annotations

import csv
import difflib
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from training.labels.label import JUDGED, Label, LabelError
from triage.core import TriageError

COLUMNS = ("source", "frame", *JUDGED, "labeller", "origin", "time")
UNDOES = "undoes"
"""A further column, where a label was taken back."""
_KNOWN = (*COLUMNS, UNDOES)
_NEEDED = ("source", "frame")
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")
_WHOLE = ("frame", "n_lattices")
_TIMES = ("time", UNDOES)
_YES_NO = ("diffracts", "ice_rings", "decayed")


class TableError(TriageError):
    """A file of labels cannot be read or written at all; the message names it and the mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What rows are taken to say that leave these columns out."""

    labeller: str
    origin: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no label; the others are kept."""

    problem: str
    """One line: file, line and column, what is wrong."""


Parsed = Iterator[Label | BadRow]


def read_csv(path: Path, defaults: Defaults) -> Parsed:
    """The rows of a CSV file with a header line. Raises TableError where it has no such header or is not text."""
    with _opened(path) as file:
        reader = csv.reader(file, strict=True)
        try:
            names = [name.strip() for name in next(reader, [])]
            _check_names(path, names)
            for cells in reader:
                where = f"{path}, line {reader.line_num}"
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(names):
                    yield BadRow(f"{where}: {len(cells)} cells, the header names {len(names)} columns")
                    continue
                yield parsed(dict(zip(names, cells, strict=True)), where, defaults)
        except (csv.Error, UnicodeDecodeError) as error:
            raise TableError(f"{path}, line {reader.line_num + 1}: not CSV ({error}); save it as comma-separated UTF-8") from error


def read_parquet(path: Path, defaults: Defaults) -> Parsed:
    """The rows of a Parquet file. Raises TableError where it is none, or pyarrow is absent."""
    pyarrow, parquet = _pyarrow(path)
    try:
        table = parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise TableError(f"{path}: not a Parquet file that can be read ({error})") from error
    _check_names(path, table.column_names)
    for k, row in enumerate(table.to_pylist(), start=1):
        cells = {name: _cell(value) for name, value in row.items()}
        yield parsed(cells, f"{path}, row {k}", defaults)


def parsed(cells: Mapping[str, str], where: str, defaults: Defaults) -> Label | BadRow:
    """One row of text cells."""
    values: dict[str, Any] = {}
    try:
        for name in _KNOWN:
            text = cells.get(name, "").strip()
            values[name] = _value(name, text) if text else None
        values["labeller"] = values["labeller"] or defaults.labeller
        values["origin"] = values["origin"] or defaults.origin
        for name in _NEEDED:
            if values[name] is None:
                raise LabelError("empty", name)
        return Label(**values)
    except LabelError as error:
        return BadRow(f"{where}, column {error.column}: {error}")


def write_csv(path: Path, labels: Sequence[Label]) -> None:
    """Writes a CSV file, complete or not at all; `-` is standard output."""
    if str(path) == "-":
        _write_rows(sys.stdout, labels)
        return
    text = io.StringIO(newline="")
    _write_rows(text, labels)
    _replace(path, text.getvalue().encode())


def write_parquet(path: Path, labels: Sequence[Label]) -> None:
    """Writes a Parquet file, complete or not at all. Raises TableError where pyarrow is absent."""
    pyarrow, parquet = _pyarrow(path)
    names = _names(labels)
    types = {name: pyarrow.string() for name in names}
    types |= {name: pyarrow.int64() for name in _WHOLE} | {name: pyarrow.bool_() for name in _YES_NO}
    types |= {"d_min_A": pyarrow.float64()} | {name: pyarrow.timestamp("us", tz="UTC") for name in _TIMES}
    rows = [{name: getattr(label, name) for name in names} for label in labels]
    table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema([(name, types[name]) for name in names]))
    packed = io.BytesIO()
    parquet.write_table(table, packed)
    _replace(path, packed.getvalue())


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    try:
        file = path.open(newline="", encoding="utf-8-sig")
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from error
    with file:
        yield file


def _check_names(path: Path, names: Iterable[str]) -> None:
    given = list(names)
    for name in given:
        if name not in _KNOWN:
            close = difflib.get_close_matches(name, _KNOWN, n=1)
            meant = f"did you mean {close[0]}?" if close else f"the columns are {', '.join(COLUMNS)}"
            raise TableError(f"{path}, line 1: no such column {name!r}; {meant}")
        if given.count(name) > 1:
            raise TableError(f"{path}, line 1: two columns {name!r}; leave one out")
    for name in _NEEDED:
        if name not in given:
            raise TableError(f"{path}, line 1: no column {name!r}; each row needs {' and '.join(_NEEDED)}")


def _value(name: str, text: str) -> Any:
    if name in _WHOLE:
        return _whole(name, text)
    if name in _YES_NO:
        return _yes_no(name, text)
    if name == "d_min_A":
        try:
            return float(text)
        except ValueError:
            raise LabelError(f"{text!r} is not a number", name) from None
    return _time(name, text) if name in _TIMES else text


def _whole(name: str, text: str) -> int:
    try:
        number = float(text)  # spreadsheets and pandas write whole numbers with gaps between them as 2.0
        if number == int(number):
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise LabelError(f"{text!r} is not a whole number", name)


def _yes_no(name: str, text: str) -> bool:
    word = text.lower().removesuffix(".0")
    if word not in (*_TRUE, *_FALSE):
        raise LabelError(f"{text!r} is not true or false", name)
    return word in _TRUE


def _time(name: str, text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise LabelError(f"{text!r} is not a time as ISO 8601 writes it (2025-03-31T14:00:00Z)", name) from None
    return time.replace(tzinfo=UTC) if time.utcoffset() is None else time.astimezone(UTC)


def _cell(value: Any) -> str:
    if value is None or value != value:  # pandas writes absence as nan
        return ""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _names(labels: Sequence[Label]) -> tuple[str, ...]:
    return _KNOWN if any(label.undoes is not None for label in labels) else COLUMNS


def _write_rows(file: IO[str], labels: Sequence[Label]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    names = _names(labels)
    writer.writerow(names)
    for label in labels:
        cells = (getattr(label, name) for name in names)
        writer.writerow(str(cell).lower() if isinstance(cell, bool) else _cell(cell) for cell in cells)


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise TableError(f"{path}: cannot be written ({error.strerror})") from error


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise TableError(f"{path}: Parquet needs the train extra: pip install -e '.[train]'; CSV does not") from error
    return pyarrow, parquet
