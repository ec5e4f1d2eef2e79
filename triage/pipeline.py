"""The one loop: source -> buffer -> judges -> in frame order -> decay and flag policies -> sinks.

A source thread fills the buffer, judge threads work on it, and the thread that calls `Pipeline.run` does everything that has memory.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from datetime import UTC, datetime

from triage.buffer import FrameBuffer, Mode, Pending
from triage.core import (
    Flag,
    Frame,
    FrameSource,
    Lost,
    Progress,
    Record,
    Run,
    RunEnd,
    Severity,
    Sink,
    TriageError,
    Verdict,
)
from triage.fold import FoldParts, RunFold
from triage.slow_lane import Outcome, SlowLane

log = logging.getLogger(__name__)

STOPPED_REASON = "stopped before the end of the run"
NOT_INDEXED_IN_TIME = "the run ended before its turn came"
_POLL_S = 0.2
_SOURCE_GRACE_S = 3.0  # how long a source may take to end after it was asked to

ProgressListener = Callable[[Run, Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """How wide and how patient the early lane is."""

    mode: Mode = Mode.COMPLETE
    judges: int = 1
    """Threads."""
    buffer_frames: int = 32
    """Frames waiting or being judged, at most; bounds memory and, in live mode, latency."""
    indexing_patience_s: float = 3.0
    """How long a run's end waits for indexing in live mode, unless something else comes; in complete mode it waits until all is done."""


class Pipeline:
    """Takes a source to its end; made for one use."""

    def __init__(
        self,
        source: FrameSource,
        judge: Callable[[Frame], Verdict],
        sinks: Sequence[Sink],
        *,
        parts: FoldParts | None = None,
        lane: Lane | None = None,
        slow: SlowLane | None = None,
        on_progress: ProgressListener | None = None,
    ) -> None:
        """`slow` indexes beside the early lane; None: nothing is indexed."""
        lane = lane or Lane()
        self._lane = lane
        self._slow = slow
        self._source = source
        self._sinks = list(sinks)
        self._working = list(sinks)
        self._parts = parts or FoldParts()
        self._buffer = FrameBuffer(judge, judges=lane.judges, capacity=max(lane.buffer_frames, lane.judges), mode=lane.mode)
        self._on_progress = on_progress
        self._told_s = 0.0
        self._fold: RunFold | None = None
        self._source_error: Exception | None = None
        self._stopped = False
        self._sink_problems: list[str] = []

    @property
    def sink_problems(self) -> tuple[str, ...]:
        """One line for every sink that failed."""
        return tuple(self._sink_problems)

    @property
    def stopped(self) -> bool:
        """Whether somebody asked for an early end."""
        return self._stopped

    def stop(self) -> None:
        """Asks for an early end: frames in flight are finished, runs and sinks closed. Takes no lock: a signal handler may call it."""
        self._stopped = True
        self._buffer.stop()
        stop_source = getattr(self._source, "stop", None)  # optional: a source that never waits needs none
        if stop_source is not None:
            stop_source()

    def run(self) -> None:
        """Runs to the source's end, or until `stop`. Raises what the source raised, once every run and sink is closed."""
        reader = threading.Thread(target=self._read, name="source", daemon=True)
        reader.start()
        try:
            self._consume(reader)
            self._finish_open_run(self._end_reason())
        finally:
            self._buffer.close()
            try:
                self._finish_open_run(STOPPED_REASON if self._stopped else "the pipeline failed")
            finally:
                if self._slow is not None:
                    self._slow.close()
                self._close_sinks()
        if self._source_error is not None:
            raise self._source_error

    def _end_reason(self) -> str:
        if self._source_error is not None:
            return str(self._source_error)
        return STOPPED_REASON if self._stopped else "the source ended without ending the run"

    def _read(self) -> None:
        """The source thread."""
        try:
            for event in self._source:
                if not self._buffer.put(event):
                    break
        except TriageError as error:
            self._source_error = error
        except Exception as error:  # the edge of the source thread; run() raises it again
            log.exception("the source failed")
            self._source_error = error
        finally:
            self._buffer.finish()

    def _consume(self, reader: threading.Thread) -> None:
        deadline_s: float | None = None
        while not self._buffer.exhausted:
            item = self._buffer.take(_POLL_S)
            if item is None:
                if self._stopped and deadline_s is None:
                    deadline_s = time.monotonic() + _SOURCE_GRACE_S
                if deadline_s is not None and time.monotonic() > deadline_s:
                    log.warning("the source did not stop when asked; leaving it behind (%s)", reader.name)
                    return
            elif isinstance(item, Pending):
                self._record_verdict(item)
                self._buffer.judged()
            elif isinstance(item, Run):
                self._open_run(item)
            elif isinstance(item, Lost):
                self._record_loss(item)
            else:
                self._end_run(item)
            self._record_indexing()
            self._tell_progress()

    def _open_run(self, run: Run) -> None:
        self._finish_open_run("another run began before this one ended")
        self._fold = RunFold(run, self._parts)
        self._emit(self._fold.start())
        self._told_s = 0.0

    def _record_verdict(self, pending: Pending) -> None:
        verdict = self._await(pending)
        fold = self._fold_of(pending.frame.run)
        if verdict.error is not None:
            self._log_failure(fold, verdict)
        latency_ms = 1000.0 * (time.monotonic() - pending.frame.arrived_s)
        for record in fold.judged(verdict, max(latency_ms, 0.0)):
            self._emit(record)
        self._offer(fold.run, verdict, pending.frame.arrived_s)

    def _offer(self, run: Run, verdict: Verdict, arrived_s: float) -> None:
        """Gives the frame to the slow lane; waits only where everything is to be indexed and memory is full of what waits for it."""
        if self._slow is None:
            return
        while self._slow.is_full and not self._stopped:
            self._record_indexing(_POLL_S)
        self._slow.offer(run, verdict, arrived_s)

    def _record_indexing(self, timeout_s: float = 0.0) -> None:
        if self._slow is not None and self._fold is not None:
            self._record_outcomes(self._fold, self._slow.take(timeout_s))

    def _record_outcomes(self, fold: RunFold, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            for record in fold.indexed(outcome):
                self._emit(record)
        if outcomes and self._slow is not None:
            self._slow.know(fold.run.id, fold.known)

    def _finish_indexing(self, fold: RunFold) -> None:
        """Waits for the slow lane as long as the mode allows, and gives up the rest, so that nothing of a run comes after its end."""
        if self._slow is None:
            return
        deadline_s = time.monotonic() + self._lane.indexing_patience_s
        while self._slow.is_busy and not self._stopped and (self._lane.mode is Mode.COMPLETE or self._may_wait(deadline_s)):
            self._record_outcomes(fold, self._slow.take(_POLL_S))
            self._tell_progress()
        self._record_outcomes(fold, self._slow.abandon(STOPPED_REASON if self._stopped else NOT_INDEXED_IN_TIME))

    def _may_wait(self, deadline_s: float) -> bool:
        return time.monotonic() < deadline_s and self._buffer.is_idle

    def _await(self, pending: Pending) -> Verdict:
        while True:
            try:
                return pending.verdict.result(timeout=_POLL_S)
            except NotYet:
                self._tell_progress()

    def _record_loss(self, loss: Lost) -> None:
        for record in self._fold_of(loss.run).lost(loss):
            self._emit(record)

    def _fold_of(self, run: Run) -> RunFold:
        """The fold of the open run; a source that sends frames of a run it did not announce has its run opened for it."""
        if self._fold is None or self._fold.run is not run:
            self._open_run(run)
        if self._fold is None:
            raise RuntimeError("no run is open")
        return self._fold

    def _log_failure(self, fold: RunFold, verdict: Verdict) -> None:
        """One line for a run's first failed frame; the records tell the others."""
        level = logging.WARNING if fold.first_failure is None else logging.DEBUG
        log.log(level, "run %s, frame %d: %s", verdict.run_id, verdict.frame, verdict.error)

    def _end_run(self, end: RunEnd) -> None:
        fold = self._fold_of(end.run)
        self._finish(fold, complete=end.complete, reason=end.reason)

    def _finish_open_run(self, reason: str) -> None:
        if self._fold is not None:
            self._finish(self._fold, complete=False, reason=reason)

    def _finish(self, fold: RunFold, *, complete: bool, reason: str | None) -> None:
        self._finish_indexing(fold)
        self._fold = None
        self._emit(fold.finish(complete=complete, reason=reason))
        if self._on_progress is not None:
            self._on_progress(fold.run, fold.progress)

    def _tell_progress(self) -> None:
        now_s = time.monotonic()
        if self._on_progress is not None and self._fold is not None and now_s - self._told_s >= 1.0:
            self._told_s = now_s
            self._on_progress(self._fold.run, self._fold.progress)

    def _emit(self, record: Record) -> None:
        for sink in tuple(self._working):
            try:
                sink.accept(record)
            except BrokenPipeError:
                self._working.remove(sink)
                self.stop()  # whoever read the results has gone; nobody wants the rest
            except (TriageError, OSError) as error:
                self._give_up(sink, str(error))
            except Exception as error:  # the edge of a sink: the others still want their records
                log.exception("%s failed", type(sink).__name__)
                self._give_up(sink, f"{type(error).__name__}: {error}")

    def _give_up(self, sink: Sink, why: str) -> None:
        """Sends nothing more to a sink that failed, and tells the others by a flag."""
        self._working.remove(sink)
        problem = f"{type(sink).__name__} stopped taking results: {' '.join(why.split())}"
        self._sink_problems.append(problem)
        log.warning("%s", problem)
        if self._fold is not None:
            self._emit(self._fold.note(self._sink_flag(self._fold, problem)))

    def _sink_flag(self, fold: RunFold, problem: str) -> Flag:
        return Flag(
            id=f"{fold.run.id}:sink:{len(self._sink_problems)}",
            run_id=fold.run.id,
            flag="sink",
            state="raised",
            first_frame=fold.last_frame,
            frame=fold.last_frame,
            severity=Severity.CRITICAL,
            probability=None,
            reason=problem,
            at=datetime.now(UTC),
        )

    def _close_sinks(self) -> None:
        for sink in self._sinks:
            try:
                sink.close()
            except BrokenPipeError:
                continue
            except (TriageError, OSError) as error:
                self._sink_problems.append(f"{type(sink).__name__} could not be closed: {error}")
                log.warning("%s", self._sink_problems[-1])
            except Exception:  # the edge of a sink: the others must be closed too
                self._sink_problems.append(f"{type(sink).__name__} could not be closed")
                log.exception("%s could not be closed", type(sink).__name__)
