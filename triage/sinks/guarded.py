"""Several sinks as one, in which the failure of one costs the others nothing."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from triage.core import Flag, Record, RunFinished, RunStarted, Severity, Sink, Verdict

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


class GuardedSinks:
    """Sends every record to every sink. One that fails is reported once, by a `sink` flag to the others and in the log, and is tried
    again: at the next run, and after a pause that doubles from 1 s to a minute. When it works again the flag is cleared, and says how
    many records it lacks.

    A sink whose reader has gone (BrokenPipeError: `| head`) is not tried again; `on_broken_pipe` is called.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        *,
        clock: Callable[[], float] = time.monotonic,
        on_broken_pipe: Callable[[], None] = lambda: None,
    ) -> None:
        self._guards = [_Guard(sink) for sink in sinks]
        self._clock, self._on_broken_pipe = clock, on_broken_pipe
        self._flags = 0
        self._raised_in_run: Counter[str] = Counter()
        self._frame = 0

    def accept(self, record: Record) -> None:
        """Gives the record to every sink that works, then reports those that changed. Never raises."""
        if isinstance(record, RunStarted):
            self._frame = 0
        if isinstance(record, Verdict):
            self._frame = record.frame
        if isinstance(record, RunFinished):
            record = self._with_own_flags(record)
        self._send(record)
        if not isinstance(record, RunFinished):  # nothing of a run comes after its end: the log says it, and the next run's flag
            self._report(record.run.id if isinstance(record, RunStarted) else record.run_id)

    def close(self) -> None:
        """Closes every sink. Never raises."""
        for guard in self._guards:
            try:
                guard.sink.close()
            except Exception as error:  # noqa: BLE001  the edge of a sink: the others must be closed too
                log.warning("%s: could not be closed: %s", guard.name, _one_line(error))

    def _send(self, record: Record) -> None:
        now_s = self._clock()
        new_run = isinstance(record, RunStarted)
        for guard in self._guards:
            if guard.dead or not (new_run or now_s >= guard.retry_s):
                guard.lost += 1
                continue
            try:
                guard.sink.accept(record)
            except BrokenPipeError as error:
                guard.dead = True
                guard.fail(error, now_s)
                self._on_broken_pipe()
            except Exception as error:  # noqa: BLE001  the edge of a sink: the others still want their records
                guard.fail(error, now_s)
            else:
                guard.succeed()

    def _report(self, run_id: str) -> None:
        """Tells of sinks that stopped or started working; telling may itself make one fail, which is then told too."""
        for _ in range(len(self._guards) + 1):
            flags = [flag for guard in self._guards for flag in self._news(guard, run_id)]
            if not flags:
                return
            for flag in flags:
                self._raised_in_run[run_id] += flag.state == "raised"
                self._send(flag)

    def _news(self, guard: _Guard, run_id: str) -> list[Flag]:
        if guard.problem is not None and guard.flag is None:
            reason = f"{guard.name} takes no results: {guard.problem.rstrip('.')}; the other sinks go on, and it is tried again."
            self._flags += 1
            guard.flag = self._flag(run_id, f"{run_id}:sink:{self._flags}", Severity.CRITICAL, reason)
            return [guard.flag]
        if guard.problem is None and guard.flag is not None:
            reason = f"{guard.name} takes results again; it lacks {guard.lost} records."
            cleared = self._flag(guard.flag.run_id, guard.flag.id, Severity.INFO, reason)
            raised, guard.flag, guard.lost = guard.flag, None, 0
            if raised.run_id != run_id:  # that run has ended; the log has said it
                return []
            return [replace(cleared, state="cleared", first_frame=raised.first_frame)]
        return []

    def _flag(self, run_id: str, flag_id: str, severity: Severity, reason: str) -> Flag:
        return Flag(
            id=flag_id,
            run_id=run_id,
            flag="sink",
            state="raised",
            first_frame=self._frame,
            frame=self._frame,
            severity=severity,
            probability=None,
            reason=reason,
            at=datetime.now(UTC),
        )

    def _with_own_flags(self, record: RunFinished) -> RunFinished:
        """The run's end, counting the `sink` flags raised here as well."""
        own = self._raised_in_run.pop(record.run_id, 0)
        return replace(record, flags={**record.flags, "sink": record.flags.get("sink", 0) + own}) if own else record


@dataclass(slots=True)
class _Guard:
    """One sink and how it fares."""

    sink: Sink
    problem: str | None = None
    """What is wrong with it now."""
    flag: Flag | None = None
    """The flag that stands for it."""
    pause_s: float = _FIRST_PAUSE_S
    retry_s: float = 0.0
    lost: int = 0
    dead: bool = False

    @property
    def name(self) -> str:
        return type(self.sink).__name__

    def fail(self, error: Exception, now_s: float) -> None:
        if self.problem is None:
            log.warning("%s takes no results: %s", self.name, _one_line(error))
        self.problem = _one_line(error)
        self.lost += 1
        self.retry_s = now_s + self.pause_s
        self.pause_s = min(2 * self.pause_s, _LONGEST_PAUSE_S)

    def succeed(self) -> None:
        if self.problem is not None:
            log.warning("%s takes results again; it lacks %d records", self.name, self.lost)
        self.problem, self.pause_s, self.retry_s = None, _FIRST_PAUSE_S, 0.0


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
