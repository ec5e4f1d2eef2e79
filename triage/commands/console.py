"""What a person at the terminal sees while frames are judged: flags, files that could not be read, a progress bar."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from triage.core import Flag, Progress, Record, Run, RunFinished, RunStarted, Severity

_STYLES = {Severity.INFO: "cyan", Severity.WARNING: "yellow", Severity.CRITICAL: "bold red"}
_WIDE = 180  # columns, where the output is no terminal and nobody says how wide it is


def console(*, stderr: bool = False) -> Console:
    """A console on standard output or error, wide enough for a table where it goes to a file."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _WIDE, highlight=False, emoji=False)


class ConsoleSink:
    """Prints flags as they are raised and cleared, and one line for each run that is not complete."""

    def __init__(self, out: Console, err: Console, *, announce_runs: bool = False) -> None:
        self._out, self._err = out, err
        self._announce_runs = announce_runs
        self._sources: dict[str, str] = {}

    def accept(self, record: Record) -> None:
        """Prints what a person wants to know at once."""
        if isinstance(record, RunStarted):
            self._sources[record.run.id] = record.run.header.source
            if self._announce_runs:
                self._say(self._out, _started(record.run))
        elif isinstance(record, Flag):
            self._say(self._out, _flag_line(record))
        elif isinstance(record, RunFinished):
            source = self._sources.pop(record.run_id, record.run_id)
            if not record.complete:
                self._say(self._err, Text(_incomplete(source, record)))
            elif self._announce_runs:
                self._say(self._out, Text(f"run {record.run_id} ended: {_books(record.progress)}"))

    def close(self) -> None:
        """Nothing to release."""

    def _say(self, where: Console, line: Text) -> None:
        where.print(line, soft_wrap=True)


def _started(run: Run) -> Text:
    kind = run.kind.value if run.kind is not None else "unknown"
    shape = "" if run.header.shape_px is None else f", {run.header.shape_px[0]} x {run.header.shape_px[1]} pixels (slow x fast)"
    return Text(f"run {run.id} began: {kind}, {run.header.detector or 'unnamed detector'}{shape}")


def _flag_line(flag: Flag) -> Text:
    probability = "" if flag.probability is None else f", p {flag.probability:.2f}"
    line = Text()
    if flag.state == "raised":
        line.append(f"RAISED  {flag.flag}", style=_STYLES[flag.severity])
    else:
        line.append(f"cleared {flag.flag}", style="green")
    line.append(f"  run {flag.run_id}, frame {flag.frame} (since {flag.first_frame}){probability}: {flag.reason}")
    return line


def _incomplete(source: str, end: RunFinished) -> str:
    reason = end.reason or "the run is not complete"
    return reason if reason.startswith(source) else f"{source}: {reason}"


def _books(progress: Progress) -> str:
    missing = f", {progress.missing} missing" if progress.missing else ""
    return f"{progress.judged} judged, {progress.dropped} dropped, {progress.failed} failed of {progress.received} received{missing}"


class ProgressBar:
    """A progress bar on standard error; silent where that is no terminal."""

    def __init__(self, *, enabled: bool = True) -> None:
        err = console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"), TimeElapsedColumn())
        self._bar = Bar(
            *columns,
            console=err,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            disable=not (enabled and err.is_terminal),
        )
        self._task: TaskID | None = None
        self._run_id: str | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def update(self, run: Run, progress: Progress) -> None:
        """Shows a run's books; the pipeline calls it about once a second."""
        with self._lock:
            if self._run_id != run.id:
                if self._task is not None:
                    self._bar.remove_task(self._task)
                self._task = self._bar.add_task(run.id, total=run.header.frames_expected)
                self._run_id = run.id
            if self._task is not None:
                self._bar.update(self._task, completed=progress.received)
