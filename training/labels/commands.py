"""`triage label`: what is done with the label store."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from training.labels.indexing import read_records, read_stream
from training.labels.label import JUDGED, Label
from training.labels.rows import BadRow, Defaults, Parsed, TableError, read_csv, read_parquet, write_csv, write_parquet
from training.labels.simulated import read_simulated
from training.labels.store import LabelStore, Written
from training.settings import LabelPart, LabelSettings
from triage.commands import arguments
from triage.commands.console import console
from triage.compose import compose_settings
from triage.refusal import ConfigError

HELP = """\
triage label ACTION [FILE...] [key=value ...]

The label store: append-only, for several labellers at once (docs/labels.md). Needs no torch.

  triage label import labels.csv label.labeller=ada       CSV or Parquet (.parquet) with the store's columns; bad rows are named
  triage label import run.stream results.jsonl            what CrystFEL, or triage itself, indexed
  triage label import frames/simulated_1_*.h5             the truth of simulated files
  triage label export labels.csv label.rows=current       one row a frame; label.rows=all: every row; - is standard output
  triage label merge other.sqlite                         what another store has and this one lacks
  triage label list label.source=run.h5                   every row; `current`: one a frame
  triage label undo label.source=run.h5 label.frame=12    the labeller's last label of a frame, by a further row

  label.store=FILE   the store (labels.sqlite)

Exit status: 0; 1 when rows or files were left out; 2 for a wrong setting.
"""
Reader = Callable[[Path, Defaults], Parsed]


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file that labels come from."""

    read: Reader
    origin: str
    labeller: str | None
    """Who labels, where the file does not say; None: the person at the keyboard."""


FORMATS = {
    ".csv": Format(read_csv, "person", None),
    ".parquet": Format(read_parquet, "person", None),
    ".stream": Format(read_stream, "indexing", "CrystFEL"),
    ".jsonl": Format(read_records, "indexing", "triage"),
    ".h5": Format(read_simulated, "simulated", "triage simulate"),
}
WRITERS = {".csv": write_csv, ".parquet": write_parquet}
STANDARD_OUTPUT = "-"
OK, FAILED = 0, 1


def label(argv: Sequence[str]) -> int:
    """The verb; gives the exit status."""
    if not argv or any(argument in ("-h", "--help") for argument in argv):
        print(HELP, end="")
        return OK
    action, *rest = argv
    files, overrides = arguments.split([argument for argument in rest if argument != STANDARD_OUTPUT])
    files += [STANDARD_OUTPUT] * rest.count(STANDARD_OUTPUT)
    return run(action, files, compose_settings("label", overrides, LabelSettings).label)


def run(action: str, files: Sequence[str], wanted: LabelPart) -> int:
    """Does one thing with the store; gives the exit status: 1 where rows or files were left out."""
    if action not in ACTIONS:
        raise ConfigError(f"no action {action!r}; there are {', '.join(ACTIONS)} (see triage label --help)")
    takes_files, act = ACTIONS[action]
    if takes_files and not files:
        raise ConfigError(f"{action}: name a file (see triage label --help)")
    if not takes_files and files:
        raise ConfigError(f"{action} takes no files ({files[0]}); settings are written key=value")
    return act([Path(file).expanduser() for file in files], wanted)


def import_files(files: Sequence[Path], wanted: LabelPart) -> int:
    """Adds the labels of files; a file or row that is none costs itself."""
    status = OK
    with LabelStore(_store(wanted), create=True) as store:
        for path in files:
            try:
                rows = list(_reader(path, wanted))
                labels = [row for row in rows if isinstance(row, Label) and (row.says or row.time is not None)]
                written = store.add(labels, news_only=True)
            except TableError as error:
                _complain(str(error))
                status = FAILED
                continue
            problems = [row.problem for row in rows if isinstance(row, BadRow)]
            problems += [f"{path}: {labels[k].source}, frame {labels[k].frame}: {problem}" for k, problem in written.refused]
            status = _tell("imported", path, written, problems) or status
    return status


def merge(files: Sequence[Path], wanted: LabelPart) -> int:
    """Adds what other stores have and this one lacks."""
    status = OK
    with LabelStore(_store(wanted), create=True) as store:
        for path in files:
            with LabelStore(path) as other:
                labels = other.history()
            written = store.add(labels)
            problems = [f"{path}: {labels[k].source}, frame {labels[k].frame}: {problem}" for k, problem in written.refused]
            status = _tell("merged", path, written, problems) or status
    return status


def export(files: Sequence[Path], wanted: LabelPart) -> int:
    """Writes every row, or one a frame."""
    for path in files:
        if str(path) != STANDARD_OUTPUT and path.suffix.lower() not in WRITERS:
            raise ConfigError(f"export: {path}: name a file that ends in {' or '.join(WRITERS)}, or - for standard output")
    with LabelStore(_store(wanted)) as store:
        labels = (store.history if wanted.rows == "all" else store.current)(wanted.source, wanted.frame)
    for path in files:
        WRITERS.get(path.suffix.lower(), write_csv)(path, labels)
        if str(path) != STANDARD_OUTPUT:
            print(f"exported: {len(labels)} rows: {path}")
    return OK


def show_history(_: Sequence[Path], wanted: LabelPart) -> int:
    """Prints every row; a row that takes a label back says so."""
    with LabelStore(_store(wanted)) as store:
        _print_table(store.history(wanted.source, wanted.frame))
    return OK


def show_current(_: Sequence[Path], wanted: LabelPart) -> int:
    """Prints one label a frame."""
    with LabelStore(_store(wanted)) as store:
        _print_table(store.current(wanted.source, wanted.frame))
    return OK


def undo(_: Sequence[Path], wanted: LabelPart) -> int:
    """Takes a labeller's last label of a frame back."""
    if wanted.source is None or wanted.frame is None:
        raise ConfigError("undo: set label.source and label.frame")
    with LabelStore(_store(wanted)) as store:
        row = store.undo(wanted.source, wanted.frame, wanted.labeller or getpass.getuser())
    stands = ", ".join(f"{name} {_shown(value)}" for name, value in row.says.items()) or "nothing"
    print(f"taken back: {row.source}, frame {row.frame}: {row.labeller} now says {stands}")
    return OK


ACTIONS: dict[str, tuple[bool, Callable[[Sequence[Path], LabelPart], int]]] = {
    "import": (True, import_files),
    "export": (True, export),
    "merge": (True, merge),
    "list": (False, show_history),
    "current": (False, show_current),
    "undo": (False, undo),
}
"""Whether it takes files, and what it does."""


def _store(wanted: LabelPart) -> Path:
    return Path(wanted.store).expanduser()


def _reader(path: Path, wanted: LabelPart) -> Parsed:
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise TableError(f"{path}: labels are read from {', '.join(FORMATS)}")
    labeller = wanted.labeller or kind.labeller or getpass.getuser()
    return kind.read(path, Defaults(labeller=labeller, origin=wanted.origin or kind.origin))


def _tell(done: str, path: Path, written: Written, problems: Sequence[str]) -> int:
    for problem in problems:
        _complain(problem)
    known = f", {written.known} there already" if written.known else ""
    bad = f", {len(problems)} left out" if problems else ""
    print(f"{done}: {path}: {written.rows} rows{known}{bad}")
    return FAILED if problems else OK


def _complain(problem: str) -> None:
    print(problem, file=sys.stderr)


def _print_table(labels: Sequence[Label]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("source", "frame", *JUDGED, "labeller", "origin", "time"):
        table.add_column(name, overflow="fold")
    for label in labels:
        time = "" if label.time is None else label.time.isoformat(timespec="seconds")
        values = [_shown(getattr(label, name)) for name in JUDGED]
        taken_back = " (taken back)" if label.undoes is not None else ""
        table.add_row(label.source, str(label.frame), *values, label.labeller + taken_back, label.origin, time)
    console().print(table)


def _shown(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
