"""What the last runs said, in versions: one writer, any number of readers, no asyncio and no I/O.

Each record accepted raises the board's version by one. A reader that has seen version v asks for the snapshot since v, gets exactly
what changed, and asks again from the version it was given. Nothing is pushed, so nothing can be lost on the way.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from triage.core import Flag, Indexing, Progress, Record, RunFinished, RunStarted, Verdict
from triage.dashboard.history import FrameHistory, RateMeter, as_columns
from triage.dashboard.indexing import IndexingTotals
from triage.records import to_json

_log = logging.getLogger(__name__)

FRAME_COLUMNS = (
    "frame",
    "probabilities_multi_lattice",
    "probabilities_non_diffraction",
    "ice_rings",
    "resolution_A",
    "decay_probability",
    "decay_alarm_probability",
    "decay_delta_B_A2",
    "decay_delta_B_sigma",
    "spots_count",
    "spots_count_no_ice",
    "spots_resolution_A",
    "latency_ms",
)
"""What the page draws of a frame: the results' names, nested ones joined by `_`."""
KEEP_FRAMES = 20_000
KEEP_FLAGS = 500
KEEP_RUNS = 20
DIFFRACTS_BELOW = 0.5
"""A frame is a hit when the network finds no diffraction less probable than this."""


class _RunState:
    """What the board holds of one run; each part with the version of its last change."""

    def __init__(self, started: dict[str, Any], version: int, keep_frames: int, keep_flags: int) -> None:
        self.parts: dict[str, tuple[int, dict[str, Any]]] = {"started": (version, started)}
        self.frames = FrameHistory(FRAME_COLUMNS, keep_frames)
        self.flags: list[tuple[int, dict[str, Any]]] = []
        self.totals: dict[str, Any] = {"judged": 0, "hits": 0, "errors": 0, "last_error": None}
        self.indexing = IndexingTotals()
        self.judging, self.receiving = RateMeter(), RateMeter()
        self.received = 0
        self._keep_flags = keep_flags

    def add_verdict(self, verdict: Verdict, version: int) -> None:
        self.frames.append(version, _row(verdict))
        totals = dict(self.totals)
        if verdict.judgement is not None:
            totals["judged"] += 1
            totals["hits"] += verdict.judgement.non_diffraction < DIFFRACTS_BELOW
        if verdict.error is not None:
            totals["errors"] += 1
            totals["last_error"] = f"frame {verdict.frame}: {verdict.error}"
        self.totals = totals
        self.parts["totals"] = (version, totals)

    def add_indexing(self, indexing: Indexing, version: int) -> None:
        self.indexing.add(indexing)
        self.parts["indexing"] = (version, self.indexing.shown())

    def add_flag(self, flag: dict[str, Any], version: int) -> None:
        self.flags.append((version, flag))
        if len(self.flags) <= self._keep_flags:
            return
        cleared = {other["id"] for _, other in self.flags if other["state"] == "cleared"}
        oldest = next((k for k, (_, other) in enumerate(self.flags) if other["id"] in cleared), 0)  # a standing flag goes last
        del self.flags[oldest]

    def changed(self, since: int, upto: int) -> dict[str, Any]:
        """Copies of what changed after version `since`, up to `upto`; empty where nothing did."""
        news: dict[str, Any] = {name: value for name, (version, value) in self.parts.items() if since < version <= upto}
        if flags := [flag for version, flag in self.flags if since < version <= upto]:
            news["flags"] = flags
        if len(frames := self.frames.between(since, upto)):
            news["frames"] = frames
        return news


class Board:
    """The live page's memory: a sink that holds the last runs, frames and flags, and says what changed since a version.

    Thread-safe. Accepting takes microseconds and never waits for a reader. Records of a run that never started here, or that was
    forgotten since, are ignored.
    """

    def __init__(
        self,
        *,
        waiting_for: str = "the first run",
        keep_frames: int = KEEP_FRAMES,
        keep_flags: int = KEEP_FLAGS,
        keep_runs: int = KEEP_RUNS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`waiting_for` completes the page's "Waiting for ..." until the first run; the limits are per run, and of runs."""
        self.id = uuid.uuid4().hex
        self._waiting_for = waiting_for
        self._keep_frames, self._keep_flags, self._keep_runs = keep_frames, keep_flags, keep_runs
        self._clock = clock
        self._lock = threading.Lock()
        self._runs: dict[str, _RunState] = {}  # oldest first
        self._version = 0

    @property
    def version(self) -> int:
        """How many changes there have been."""
        return self._version

    def accept(self, record: Record) -> None:
        """Takes a record in; the next snapshot shows it."""
        shown = None if isinstance(record, Verdict | Indexing) else to_json(record)
        with self._lock:
            match record:
                case RunStarted() if shown is not None:
                    self._start(record.run.id, shown)
                case Verdict():
                    self._add_verdict(record)
                case Indexing():
                    if state := self._known(record.run_id):
                        state.add_indexing(record, self._next_version())
                case Flag() if shown is not None:
                    if state := self._known(record.run_id):
                        state.add_flag(shown, self._next_version())
                case RunFinished() if shown is not None:
                    if state := self._known(record.run_id):
                        state.parts["finished"] = (self._next_version(), shown)

    def progress(self, run_id: str, progress: Progress) -> None:
        """Takes the run's books in; the pipeline tells them about once a second."""
        with self._lock:
            state = self._known(run_id)
            if state is None:
                return
            state.receiving.add(progress.received - state.received, self._clock())
            state.received = progress.received
            state.parts["progress"] = (self._next_version(), asdict(progress))

    def close(self) -> None:
        """Nothing to release: what was accepted can still be read."""

    def snapshot(self, since: int = 0, limit: int | None = None) -> dict[str, Any]:
        """Exactly what changed after version `since`, in JSON's own types; of frames and flags, what is still kept.

        With `limit`, at most so many frames: then `version` is the version up to which this snapshot is complete, and `more` is true
        when it is not the board's own. `kept` lists the runs still held, oldest first. `rates` are of now, not of a version.
        """
        with self._lock:
            upto = self._upto(since, limit)
            news = {run_id: changed for run_id, state in self._runs.items() if (changed := state.changed(since, upto))}
            kept, more, rates = list(self._runs), upto < self._version, self._rates()
        for changed in news.values():
            if "frames" in changed:
                changed["frames"] = as_columns(FRAME_COLUMNS, changed["frames"])
        return {
            "board": self.id,
            "version": upto,
            "more": more,
            "waiting_for": self._waiting_for,
            "kept": kept,
            "runs": [{"run": run_id, **changed} for run_id, changed in news.items()],
            "rates": rates,
        }

    def _next_version(self) -> int:
        self._version += 1
        return self._version

    def _start(self, run_id: str, started: dict[str, Any]) -> None:
        self._runs.pop(run_id, None)
        self._runs[run_id] = _RunState(started, self._next_version(), self._keep_frames, self._keep_flags)
        while len(self._runs) > self._keep_runs:
            del self._runs[next(iter(self._runs))]

    def _add_verdict(self, verdict: Verdict) -> None:
        if state := self._known(verdict.run_id):
            state.add_verdict(verdict, self._next_version())
            state.judging.add(1, self._clock())

    def _known(self, run_id: str) -> _RunState | None:
        state = self._runs.get(run_id)
        if state is None:
            _log.debug("run %s is not on the board: its record is not shown", run_id)
        return state

    def _upto(self, since: int, limit: int | None) -> int:
        """The version of the limit-th frame after `since`, or the newest where there are no more than `limit`."""
        if limit is None or not self._runs:
            return self._version
        versions = np.concatenate([state.frames.versions_after(since) for state in self._runs.values()])
        if len(versions) <= limit:
            return self._version
        return int(np.partition(versions, limit - 1)[limit - 1])

    def _rates(self) -> dict[str, Any] | None:
        """Frames a second of the newest run."""
        if not self._runs:
            return None
        run_id, state = next(reversed(self._runs.items()))
        now_s = self._clock()
        return {
            "run": run_id,
            "judged_per_s": round(state.judging.per_second(now_s), 2),
            "received_per_s": round(state.receiving.per_second(now_s), 2),
        }


def _row(verdict: Verdict) -> tuple[float | None, ...]:
    """FRAME_COLUMNS of a verdict; None where not known."""
    judged: tuple[float | None, ...] = (None,) * 4
    decayed: tuple[float | None, ...] = (None,) * 4
    spotted: tuple[float | None, ...] = (None,) * 3
    if (judgement := verdict.judgement) is not None:
        judged = (judgement.multi_lattice, judgement.non_diffraction, judgement.ice_rings, judgement.resolution_A)
    if (decay := verdict.decay) is not None:
        decayed = (decay.probability, decay.alarm_probability, decay.delta_B_A2, decay.delta_B_sigma)
    if (spots := verdict.spots) is not None:
        spotted = (spots.count, spots.count_no_ice, spots.resolution_A)
    return (verdict.frame, *judged, *decayed, *spotted, verdict.latency_ms)
