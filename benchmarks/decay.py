"""What judging decay costs the early lane a frame: the tracker with reflections measured again and the fusion, on simulated runs."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.timing import repeats_from, show, timed
from triage.core import Decay, Indexed, Run, Verdict
from triage.decay import DecayTracker

if TYPE_CHECKING:
    from training.decay.runs import SimulatedRun

SEED, RUNS = 99, 32
"""Of the training split."""
AIM_MS = 1.0


class Recording(DecayTracker):
    """Notes what the lanes tell it, in their order."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.events: list[Callable[[DecayTracker], object]] = []

    def update(self, verdict: Verdict) -> Decay | None:
        """As the tracker's."""
        self.events.append(lambda tracker: tracker.update(verdict))
        return super().update(verdict)

    def indexed(self, frame: int, indexed: Indexed) -> None:
        """As the tracker's."""
        self.events.append(lambda tracker: tracker.indexed(frame, indexed))
        super().indexed(frame, indexed)


def main(arguments: Sequence[str] | None = None) -> None:
    """The table, by kind of run."""
    repeats = repeats_from(arguments, __doc__)
    if importlib.util.find_spec("torch") is None:
        print("decay: skipped, torch is absent (pip install -e '.[train]')")
        return
    import torch

    from training.decay.runs import draw_plan, simulate

    torch.set_num_threads(1)
    of_kind: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
    for index in range(RUNS):
        run = simulate(draw_plan(SEED, "train", index))
        costs = (run.plan.n_frames, len(run.rows), cost_ms(run, max(1, repeats // 8)))
        for kind in (run.plan.kind, "all"):
            of_kind[kind].append(costs)
    rows = []
    for kind, costs in sorted(of_kind.items()):
        frames, spots, ms = (np.asarray(column) for column in zip(*costs, strict=True))
        of_runs = ms / frames
        numbers = (ms.sum() / frames.sum(), np.median(of_runs), of_runs.max())
        rows.append([kind, str(len(costs)), f"{spots.sum() / frames.sum():.0f}", *(f"{each:.2f}" for each in numbers)])
    columns = ("runs", "number", "spots a frame", "mean of frames", "median run", "dearest run")
    show("decay, one core (CPU ms a frame)", columns, rows, (f"wanted: at most {AIM_MS:g} ms a frame",))


def cost_ms(run: SimulatedRun, repeats: int) -> float:
    """CPU ms of a tracker's share in a whole run; rendering, spot finding and indexing are left out."""
    from training.decay.lane import tracked

    plan = run.plan.run()
    recording = Recording(plan)
    for _ in tracked(recording, plan, run.frames()):
        pass

    def again() -> None:
        tracker = DecayTracker(plan)
        for event in recording.events:
            event(tracker)

    return timed(again, repeats).cpu_ms


if __name__ == "__main__":
    main()
