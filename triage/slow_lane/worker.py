"""A process that indexes one frame at a time, and its other end here. It may hang, crash or be killed: that costs one frame."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from triage.core import Cell, Indexed, Indexer, IndexingStatus, Run, Spots, TriageError

NICENESS = 10
"""The early lane goes first where there are more threads than cores."""
START_WITHIN_S = 600.0
"""Compiling the hot loops for the first time takes a minute of a free core; a process ended meanwhile leaves the next one the same."""
_POLL_S = 0.2
_GO_WITHIN_S = 0.3
_CLOSE_WITHIN_S = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """What the process is asked: a frame's spots, and what is known already."""

    spots: Spots
    run: Run
    cells: tuple[Cell, ...] = ()
    before: tuple[tuple[int, Spots], ...] = ()
    """Spots of earlier frames to be indexed together with these, each with how many frames earlier."""
    beam_shift_px: tuple[float, float] | None = None
    """Where earlier frames have the beam, from where it is stated (slow, fast)."""

    @property
    def only_where_taken(self) -> dict[str, Any]:
        """Arguments that not every indexer takes; plans and answers have them only where it does."""
        arguments: dict[str, Any] = {"before": self.before, "beam_shift_px": self.beam_shift_px}
        return {name: value for name, value in arguments.items() if value}


class WorkerError(TriageError):
    """A worker did not answer; it has been ended."""


class WorkerClosed(WorkerError):
    """The lane was closed meanwhile."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker's first word: it works."""

    engine: str


@dataclass(frozen=True, slots=True)
class Unable:
    """A worker's first and last word: it cannot work."""

    reason: str


class Worker:
    """One indexing process at a time; after it was ended, `start` makes the next."""

    def __init__(self, make: Callable[[], Indexer], engine: str, closing: Callable[[], bool]) -> None:
        """`make` is called in the process: it must be picklable. `engine` names it until it names itself."""
        self._make, self._closing = make, closing
        self._connection: Connection | None = None
        self._process: multiprocessing.process.BaseProcess | None = None
        self.engine = engine

    @property
    def is_alive(self) -> bool:
        """Whether there is a process that may be given work."""
        return self._process is not None and self._process.is_alive()

    def start(self) -> None:
        """Starts the process and waits until it works. Raises WorkerError where it does not."""
        self.end()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self._make, self.engine), name="indexing", daemon=True)
        with _signals_blocked():  # the process inherits it, and has no handlers yet: Ctrl-C is for its parent to act on
            self._process.start()
        theirs.close()
        match self._answer(START_WITHIN_S):
            case Ready(engine=engine):
                self.engine = engine
            case Unable(reason=reason):
                self.end()
                raise WorkerError(reason)
            case other:
                self.end()
                raise WorkerError(f"it began with {type(other).__name__}")

    def index(self, task: Task, timeout_s: float) -> Indexed:
        """What the process says of these spots. Raises WorkerError where it dies or takes longer than `timeout_s`; it is ended then."""
        if self._connection is None:
            raise WorkerError("no indexing process runs")
        try:
            self._connection.send(task)
        except OSError as error:
            self.end()
            raise WorkerError("the indexing process has died") from error
        answer = self._answer(timeout_s)
        if not isinstance(answer, Indexed):
            self.end()
            raise WorkerError(f"the indexing process answered with {type(answer).__name__}")
        return answer

    def _answer(self, within_s: float) -> object:
        connection, process = self._connection, self._process
        if connection is None or process is None:
            raise WorkerError("no indexing process runs")
        deadline_s = time.monotonic() + within_s
        while not wait([connection, process.sentinel], timeout=_POLL_S):
            if self._closing():
                self.end()
                raise WorkerClosed("indexing was closed")
            if time.monotonic() > deadline_s:
                self.end()
                raise WorkerError(f"no answer within {within_s:g} s; the indexing process was ended")
        try:
            return connection.recv()
        except (EOFError, OSError) as error:
            process.join(_CLOSE_WITHIN_S)
            code = process.exitcode
            self.end()
            raise WorkerError(f"the indexing process died ({_how(code)})") from error

    def end(self) -> None:
        """Ends the process, by force where it does not go by itself. Safe to call twice."""
        if self._connection is not None:
            self._connection.close()  # an idle process takes this as the end of its work
        if self._process is not None:
            self._process.join(_GO_WITHIN_S)
            if self._process.is_alive():
                self._process.kill()
            self._process.join(_CLOSE_WITHIN_S)
        self._connection = self._process = None


def _how(code: int | None) -> str:
    if code is None:
        return "nobody knows how"
    return f"signal {signal.Signals(-code).name}" if code < 0 and -code in set(signal.Signals) else f"exit status {code}"


@contextlib.contextmanager
def _signals_blocked():  # type: ignore[no-untyped-def]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(connection: Connection, make: Callable[[], Indexer], engine: str) -> None:
    """The process: indexes what it is sent until the other end is closed. Ctrl-C is for its parent, which closes that end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    os.nice(NICENESS)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            indexer = make()
        except TriageError as error:
            connection.send(Unable(str(error)))
            return
        try:
            connection.send(Ready(getattr(indexer, "engine", engine)))
            while True:
                connection.send(_index(indexer, connection.recv()))
        finally:
            getattr(indexer, "close", lambda: None)()


def _index(indexer: Indexer, task: Task) -> Indexed:
    try:
        return indexer.index(task.spots, task.run, cells=task.cells, **task.only_where_taken)
    except Exception as error:  # noqa: BLE001  the edge of the process: a fault costs this frame, and is told in its record
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}" if str(error) else type(error).__name__
        return Indexed(status=IndexingStatus.FAILED, reason=reason if not isinstance(error, TriageError) else str(error))
