"""The lane itself: a queue fed by the thread that records verdicts, and a thread for each indexing process that works it off."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from triage.core import Cell, Indexed, Indexer, IndexingStatus, Run, Verdict
from triage.slow_lane.jobs import LAGS, Job, JobQueue, Known, Outcome, Recent, light, outcome, skipped, unfit
from triage.slow_lane.worker import Task, Worker, WorkerClosed, WorkerError

log = logging.getLogger(__name__)

MOST_BYTES = 256_000_000
"""Of spots that wait where none may be dropped: some 20,000 frames; then the early lane waits."""
_JOIN_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is indexed, by how many, and how patiently."""

    every: int | None = None
    """Every so manieth frame; None: as many as the lane keeps up with."""
    complete: bool = False
    """Whether every chosen frame that is worth it is indexed, however long it takes."""
    processes: int = 1
    queue: int = 16
    """Frames that wait, at most, where not `complete`."""
    timeout_s: float = 20.0
    """For one frame."""
    cells: tuple[Cell, ...] = ()
    """Known ones, tried first."""
    together: int = 1
    """Frames of a rotation that are indexed at once: each with those before it. Above 1 only with an indexer that takes them."""


class SlowLane:
    """Indexes frames beside the early lane. `offer`, `take` and the rest are for one thread; only `close` may be called from another.

    Every judged frame that `every` chooses has exactly one outcome: indexed, not indexed, skipped (not worth it, or the lane lags) or
    failed. Nothing here waits for indexing but `take`, for as long as it is told to.
    """

    def __init__(self, make: Callable[[], Indexer], *, engine: str, plan: Plan | None = None) -> None:
        """`make` makes the indexer, in each process: it must be picklable. `engine` names it in records until it names itself."""
        self.plan = plan or Plan()
        self._make, self._engine = make, engine
        self._queue = JobQueue(None if self.plan.complete else self.plan.queue)
        self._recent = Recent(self.plan.together)
        self._changed = threading.Condition()
        self._done: deque[Outcome] = deque()
        self._in_hand: set[Job] = set()
        self._known: dict[str, Known] = {}
        self._closed = False
        self._unable: str | None = None
        self._threads: list[threading.Thread] = []
        self._lagging: str | None = None
        self._lightened: tuple[Run, Run] | None = None

    def start(self) -> None:
        """Starts the processes now, rather than with the first frame that is worth indexing."""
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._work, name=f"indexing-{k}", daemon=True) for k in range(max(1, self.plan.processes))
            ]
            for thread in self._threads:
                thread.start()

    def offer(self, run: Run, verdict: Verdict, arrived_s: float) -> None:
        """Takes a judged frame, with the spots found in it. Never waits."""
        before = self._recent.before(run, verdict)
        if self.plan.every is not None and verdict.frame % self.plan.every:
            return
        reason = unfit(run, verdict, sum(len(spots) - int(spots.on_ice.sum()) for _, spots in before))
        if reason is not None or verdict.found is None or verdict.judgement is None:
            with self._changed:
                self._done.append(skipped(run, verdict, arrived_s, self._engine, reason or "the frame could not be judged"))
            return
        job = Job(
            run=self._light(run),
            frame=verdict.frame,
            spots=verdict.found,
            judgement=verdict.judgement,
            arrived_s=arrived_s,
            before=before,
        )
        self.start()
        with self._changed:
            shed = self._queue.add(job)
            if shed is not None:
                self._done.append(outcome(shed, Indexed(status=IndexingStatus.SKIPPED, reason=LAGS), self._engine))
            self._changed.notify_all()
        if shed is not None and self._lagging != run.id:
            self._lagging = run.id
            log.info("run %s, frame %d: %s", run.id, verdict.frame, LAGS)

    def know(self, run_id: str, known: Known) -> None:
        """What the run's frames have told of it: tried first on its later ones."""
        with self._changed:
            self._known = {run_id: known}

    def take(self, timeout_s: float = 0.0) -> list[Outcome]:
        """What is done since the last call, waiting up to `timeout_s` for something to be."""
        with self._changed:
            if not self._done and timeout_s > 0:
                self._changed.wait(timeout_s)
            done = list(self._done)
            self._done.clear()
        return done

    @property
    def is_busy(self) -> bool:
        """Whether frames wait, are being indexed, or are done and not taken."""
        with self._changed:
            return bool(self._done or self._in_hand or len(self._queue))

    @property
    def is_full(self) -> bool:
        """Whether so much waits that no more should be offered; only where everything is indexed."""
        with self._changed:
            return self.plan.complete and self._queue.n_bytes > MOST_BYTES

    def abandon(self, reason: str) -> list[Outcome]:
        """Gives up what waits and what is being indexed, and what is done: all of it as outcomes."""
        with self._changed:
            while (job := self._queue.pop()) is not None:
                self._in_hand.add(job)
            given_up = sorted(self._in_hand, key=lambda job: job.frame)
            self._in_hand.clear()
            self._done.extend(outcome(job, Indexed(status=IndexingStatus.SKIPPED, reason=reason), self._engine) for job in given_up)
        return self.take()

    def close(self) -> None:
        """Ends the processes. Safe to call twice, and from any thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_JOIN_WITHIN_S)

    def _light(self, run: Run) -> Run:
        if self._lightened is None or self._lightened[0] is not run:
            self._lightened = (run, light(run))
        return self._lightened[1]

    # In the lane's own threads, one for each process:

    def _work(self) -> None:
        worker = Worker(self._make, self._engine, lambda: self._closed)
        try:
            self._prepare(worker)
            while (job := self._next()) is not None:
                self._record(job, self._index(worker, job), worker.engine)
        finally:
            worker.end()

    def _next(self) -> Job | None:
        with self._changed:
            while not self._closed:
                job = self._queue.pop()
                if job is not None:
                    self._in_hand.add(job)
                    return job
                self._changed.wait()
        return None

    def _index(self, worker: Worker, job: Job) -> Indexed:
        if not worker.is_alive:
            self._prepare(worker)
        if self._unable is not None:
            return Indexed(status=IndexingStatus.FAILED, reason=f"the indexer does not start: {self._unable}")
        with self._changed:
            own = self._known.get(job.run.id, Known())
        task = Task(
            spots=job.spots,
            run=job.run,
            cells=(*self.plan.cells, *(() if own.cell is None else (own.cell,))),
            before=job.before,
            beam_shift_px=own.beam_shift_px,
        )
        try:
            return worker.index(task, self.plan.timeout_s)
        except WorkerClosed:
            return Indexed(status=IndexingStatus.SKIPPED, reason="indexing was closed")
        except WorkerError as error:
            log.warning("run %s, frame %d: %s; the next frame gets a new one", job.run.id, job.frame, error)
            return Indexed(status=IndexingStatus.FAILED, reason=str(error))

    def _prepare(self, worker: Worker) -> None:
        """Starts the process; where it cannot start, no other is tried again."""
        if self._unable is not None or self._closed:
            return
        try:
            worker.start()
        except WorkerClosed:
            return
        except WorkerError as error:
            if self._unable is None:
                log.warning("frames are not indexed: %s", error)
            self._unable = str(error)

    def _record(self, job: Job, indexed: Indexed, engine: str) -> None:
        with self._changed:
            if job in self._in_hand:  # else it was given up, and has its outcome
                self._in_hand.remove(job)
                self._done.append(outcome(job, indexed, engine))
                self._changed.notify_all()
