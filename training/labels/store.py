"""The label store: one SQLite file, append-only, for any number of labellers at once.

One row per (source, frame, labeller, time). Nothing is ever changed or deleted: triggers refuse it. Taking a label back is a further
row that says what stands without it. Writers wait for one another (write-ahead log, busy timeout).
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from training.labels.label import JUDGED, Label, LabelError, combined, standing
from triage.core import TriageError

BUSY_S = 30.0
"""How long a writer waits for another."""
_APPLICATION_ID = 0x7472_6C62  # "trlb"
_FORMAT = 1
_TICK = timedelta(microseconds=1)
_YES_NO = ("diffracts", "ice_rings", "decayed")
_COLUMNS = ("source", "frame", *JUDGED, "labeller", "origin", "time", "undoes")
_CREATE = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS labels (
    source TEXT NOT NULL,
    frame INTEGER NOT NULL CHECK (frame >= 0),
    n_lattices INTEGER CHECK (n_lattices >= 0),
    diffracts INTEGER CHECK (diffracts IN (0, 1)),
    non_diffraction_kind TEXT CHECK (non_diffraction_kind IN ('blank', 'ice', 'salt', 'artefact')),
    ice_rings INTEGER CHECK (ice_rings IN (0, 1)),
    decayed INTEGER CHECK (decayed IN (0, 1)),
    d_min_A REAL CHECK (d_min_A > 0),
    labeller TEXT NOT NULL,
    origin TEXT NOT NULL CHECK (origin IN ('simulated', 'indexing', 'person')),
    time TEXT NOT NULL,
    undoes TEXT,
    PRIMARY KEY (source, frame, labeller, time)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS never_changed BEFORE UPDATE ON labels BEGIN SELECT RAISE(ABORT, 'the label store is append-only'); END;
CREATE TRIGGER IF NOT EXISTS never_deleted BEFORE DELETE ON labels BEGIN SELECT RAISE(ABORT, 'the label store is append-only'); END;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_FORMAT};
COMMIT;
"""
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM labels"
_INSERT = f"INSERT INTO labels ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"


class LabelStoreError(TriageError):
    """The store cannot be used; the message names the file and the mend."""


@dataclass(slots=True)
class Written:
    """What became of labels that were added."""

    rows: int = 0
    known: int = 0
    """There already."""
    refused: list[tuple[int, str]] = field(default_factory=list)
    """Which label (from zero), and why: another row has its key and says something else."""


class LabelStore:
    """An open label store; safe to use from several threads, and from several processes that each open it."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Raises LabelStoreError where there is none (unless `create`), or the file is something else."""
        self.path = path
        self._lock = threading.Lock()
        if not create and not path.is_file():
            raise LabelStoreError(f"{path}: no such label store; triage label import FILE.csv label.store={path} makes one")
        with self._named_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            with self._named_errors():
                self._check_or_create(create)
        except LabelStoreError:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file."""
        self._connection.close()

    def add(self, labels: Iterable[Label], *, news_only: bool = False) -> Written:
        """Appends labels, all in one transaction. One without a time gets the present, later than all others of its frame and labeller;
        with `news_only` it is left out where the labeller's other labels say all that it says. One whose row is there already adds nothing.
        """
        written = Written()
        with self._writing() as connection:
            for k, label in enumerate(labels):
                rows = _rows(connection, label.source, label.frame, label.labeller)
                if label.time is None:
                    if news_only and label.says.items() <= _said(standing(rows)).items():
                        written.known += 1
                        continue
                    label = replace(label, time=_after(rows))
                elif same := [row for row in rows if row.time == label.time]:
                    if same == [label]:
                        written.known += 1
                    else:
                        written.refused.append((k, f"another label of this frame by {label.labeller} has the same time"))
                    continue
                connection.execute(_INSERT, _cells(label))
                written.rows += 1
        return written

    def undo(self, source: str, frame: int, labeller: str) -> Label:
        """Takes back the labeller's last standing label of a frame, by a further row that says what stood before it; returns that row.

        Raises LabelError where nothing stands.
        """
        with self._writing() as connection:
            rows = _rows(connection, source, frame, labeller)
            labels = standing(rows)
            if not labels:
                raise LabelError(f"{source}, frame {frame}: no label by {labeller} to take back")
            taken, before = labels[-1], _said(labels[:-1])
            values: dict[str, Any] = {name: before.get(name) for name in JUDGED}
            row = replace(taken, **values, time=_after(rows), undoes=taken.time)
            connection.execute(_INSERT, _cells(row))
        return row

    def merge(self, other: LabelStore) -> Written:
        """Appends what another store has and this one lacks, undone labels and all."""
        return self.add(other.history())

    def history(self, source: str | None = None, frame: int | None = None) -> list[Label]:
        """Every row, in the order of source, frame and time."""
        wanted = [(name, value) for name, value in (("source", source), ("frame", frame)) if value is not None]
        where = " AND ".join(f"{name} = ?" for name, _ in wanted) or "TRUE"
        with self._lock, self._named_errors():
            return _labels(self._connection, f"{_SELECT} WHERE {where} ORDER BY source, frame, time, labeller", tuple(v for _, v in wanted))

    def current(self, source: str | None = None, frame: int | None = None) -> list[Label]:
        """One label a frame, from all that stands (see `combined`); frames whose labels were all taken back are left out."""
        found = []
        for _, rows in groupby(self.history(source, frame), key=lambda label: (label.source, label.frame)):
            by_labeller: dict[str, list[Label]] = {}
            for row in rows:
                by_labeller.setdefault(row.labeller, []).append(row)
            if labels := [label for theirs in by_labeller.values() for label in standing(theirs) if label.says]:
                found.append(combined(labels))
        return found

    def _check_or_create(self, create: bool) -> None:
        if create and self._pragma("application_id") == 0 and not self._connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            self._set_write_ahead()
            self._connection.executescript(_CREATE)
        if self._pragma("application_id") != _APPLICATION_ID:
            raise LabelStoreError(f"{self.path}: not a label store; set label.store to another file")
        if (version := self._pragma("user_version")) != _FORMAT:
            raise LabelStoreError(f"{self.path}: a label store of format {version}, this triage reads {_FORMAT}; use the triage it is from")

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    def _set_write_ahead(self) -> None:
        """The one change that SQLite does not wait for others with: two processes may be making the same store."""
        deadline = time.monotonic() + BUSY_S
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LabelStoreError(
                f"{self.path}: cannot be used as a label store ({error}); set label.store to a file on a local disk"
            ) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it, or nothing."""
        with self._lock, self._named_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


def _labels(connection: sqlite3.Connection, query: str, values: tuple[Any, ...]) -> list[Label]:
    return [_label(row) for row in connection.execute(query, values)]


def _rows(connection: sqlite3.Connection, source: str, frame: int, labeller: str) -> list[Label]:
    """One labeller's rows of a frame, in order of time."""
    where = "source = ? AND frame = ? AND labeller = ?"
    return _labels(connection, f"{_SELECT} WHERE {where} ORDER BY time", (source, frame, labeller))


def _said(labels: list[Label]) -> dict[str, object]:
    """All that labels say together."""
    return combined(labels).says if labels else {}


def _after(rows: list[Label]) -> datetime:
    """The present, or a tick later than the last row: clocks may be set back."""
    now = datetime.now(UTC)
    return now if not rows or rows[-1].time is None else max(now, rows[-1].time + _TICK)


def _cells(label: Label) -> tuple[Any, ...]:
    return tuple(_text(value) if isinstance(value, datetime) else value for value in (getattr(label, name) for name in _COLUMNS))


def _label(row: tuple[Any, ...]) -> Label:
    values = dict(zip(_COLUMNS, row, strict=True))
    for name in _YES_NO:
        values[name] = None if values[name] is None else bool(values[name])
    for name in ("time", "undoes"):
        values[name] = None if values[name] is None else datetime.fromisoformat(values[name])
    return Label(**values)


def _text(time: datetime) -> str:
    """Of one length, so that the order of the texts is that of the times."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"
