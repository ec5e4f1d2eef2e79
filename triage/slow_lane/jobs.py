"""What the slow lane is asked and what it answers, which frames are worth it, and which wait and which are shed when it lags."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, replace

from triage.buffer import Sampler
from triage.core import Cell, Indexed, IndexingStatus, Judgement, Run, RunKind, Spots, Verdict

log = logging.getLogger(__name__)

DIFFRACTS_BELOW = 0.5
"""A frame is worth indexing when the network finds no diffraction less probable than this."""
TOGETHER_BELOW = 0.9
"""The same for a frame that is indexed together with others: of each alone the network may well doubt it, as the spots are too few."""
LEAST_SPOTS = 10
"""Off the ice rings: nine numbers describe a lattice, so fewer spots prove none."""
DOUBTED_WITHIN = 0.4
"""Of one half: between 0.1 and 0.9 the network doubts whether there are several lattices."""
LAGS = "indexing was slower than the frames came; an even sample is indexed, those in doubt first"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """A frame to be indexed."""

    run: Run
    frame: int
    spots: Spots
    judgement: Judgement
    arrived_s: float
    """time.monotonic() when the frame arrived."""
    before: tuple[tuple[int, Spots], ...] = ()
    """Spots of earlier frames to be indexed together with this one's, each with how many frames earlier."""

    @property
    def certainty(self) -> float:
        """How sure the network is of one lattice or several: 0 (it cannot tell) to 0.5."""
        return abs(self.judgement.multi_lattice - 0.5)

    @property
    def n_bytes(self) -> int:
        """Roughly what it holds in memory."""
        return 500 + 40 * len(self.spots)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a run's frames have told of it so far, tried first on its later ones."""

    cell: Cell | None = None
    """The run's own."""
    beam_shift_px: tuple[float, float] | None = None
    """Where the beam is, from where it is stated (slow, fast)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What became of a frame that was chosen to be indexed."""

    run_id: str
    frame: int
    engine: str
    """The indexer with its version."""
    indexed: Indexed
    judgement: Judgement | None
    n_spots: int
    """Off the ice rings."""
    arrived_s: float


def unfit(run: Run, verdict: Verdict, n_before: int = 0) -> str | None:
    """Why a frame is not worth indexing, with `n_before` spots of earlier ones beside its own; None where it is."""
    if verdict.judgement is None or verdict.spots is None or verdict.found is None:
        return "the frame could not be judged"
    if verdict.judgement.non_diffraction >= (TOGETHER_BELOW if n_before else DIFFRACTS_BELOW):
        return f"it does not diffract (probability {verdict.judgement.non_diffraction:.2f})"
    if run.geometry is None:
        return "the geometry is not known"
    if verdict.spots.count_no_ice + n_before < LEAST_SPOTS:
        beside = f" and {n_before} of the frames before" if n_before else ""
        return f"{verdict.spots.count_no_ice} spots off the ice rings{beside}; at least {LEAST_SPOTS} are needed"
    return None


def light(run: Run) -> Run:
    """The run without its masks: what an indexer needs of it, small enough to go with every job."""
    return replace(run, mask=None, header=replace(run.header, pixel_mask=None))


def skipped(run: Run, verdict: Verdict, arrived_s: float, engine: str, reason: str) -> Outcome:
    """The outcome of a frame that is not worth indexing."""
    return Outcome(
        run_id=run.id,
        frame=verdict.frame,
        engine=engine,
        indexed=Indexed(status=IndexingStatus.SKIPPED, reason=reason),
        judgement=verdict.judgement,
        n_spots=verdict.spots.count_no_ice if verdict.spots is not None else 0,
        arrived_s=arrived_s,
    )


def outcome(job: Job, indexed: Indexed, engine: str) -> Outcome:
    """The outcome of a job."""
    return Outcome(
        run_id=job.run.id,
        frame=job.frame,
        engine=engine,
        indexed=indexed,
        judgement=job.judgement,
        n_spots=len(job.spots) - int(job.spots.on_ice.sum()),
        arrived_s=job.arrived_s,
    )


class Recent:
    """The spots of a rotation's last frames, to be indexed together with those of the next one. Not thread-safe."""

    def __init__(self, frames: int) -> None:
        """`frames`: how many at once, the next one among them."""
        self._frames = frames
        self._run: Run | None = None
        self._spots: dict[int, Spots] = {}

    def before(self, run: Run, verdict: Verdict) -> tuple[tuple[int, Spots], ...]:
        """(How many frames earlier, its spots) of the frames that go with this one, nearest first; it is remembered for later ones.

        None where frames are indexed one by one, or the run is no rotation about an axis that its header states.
        """
        if run is not self._run:
            self._run, self._spots = run, {}
            if self._frames > 1 and run.kind is RunKind.ROTATION and not _turns(run):
                log.info("run %s: its header states no rotation axis, so that its frames are indexed one by one", run.id)
        if self._frames <= 1 or not _turns(run):
            return ()
        window = range(verdict.frame - 1, verdict.frame - self._frames, -1)
        found = tuple((verdict.frame - frame, self._spots[frame]) for frame in window if frame in self._spots)
        if verdict.found is not None:
            self._spots = {verdict.frame - earlier: spots for earlier, spots in found} | {verdict.frame: verdict.found}
        return found


def _turns(run: Run) -> bool:
    return run.kind is RunKind.ROTATION and run.header.rotation_axis is not None and bool(run.header.omega_step_deg)


class JobQueue:
    """Jobs that wait. Bounded: half of it for frames the network doubts, which go first, the rest an even sample of the others.

    Every second job taken is the oldest of the others, so that doubt on every frame does not starve them. Without a bound everything
    waits, in order. Not thread-safe.
    """

    def __init__(self, capacity: int | None) -> None:
        self._bounded = capacity is not None
        self._most_doubted = max(1, (capacity or 0) // 2)
        self._capacity = max(2, (capacity or 0) - self._most_doubted)
        self._sampler = Sampler(self._capacity)
        self._plain: deque[Job] = deque()
        self._doubted: list[Job] = []
        self._doubted_next = True
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._plain) + len(self._doubted)

    def add(self, job: Job) -> Job | None:
        """Takes a job in; gives the one that is shed for it, which may be itself."""
        self.n_bytes += job.n_bytes
        shed = self._admit(job)
        self.n_bytes -= 0 if shed is None else shed.n_bytes
        return shed

    def _admit(self, job: Job) -> Job | None:
        if self._bounded and job.certainty < DOUBTED_WITHIN:
            self._doubted.append(job)
            self._doubted.sort(key=lambda waiting: waiting.certainty)
            return self._doubted.pop() if len(self._doubted) > self._most_doubted else None
        if self._bounded and not self._sampler.admits(len(self._plain)):
            return job
        self._plain.append(job)
        return None

    def pop(self) -> Job | None:
        """The next job, or None where none waits."""
        job = self._next()
        self.n_bytes -= 0 if job is None else job.n_bytes
        return job

    def _next(self) -> Job | None:
        if self._doubted and (self._doubted_next or not self._plain):
            self._doubted_next = False
            return self._doubted.pop(0)
        self._doubted_next = True
        return self._plain.popleft() if self._plain else None
