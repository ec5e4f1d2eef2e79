"""Rendered frames of simulated runs in pairs, reference and now: what the network's looks at them say of damage is learnt from these.

Runs are simulated without pixels and tracked as they are; of each a few reference frames and the frames of a few blocks are rendered too,
and looked at by the released network up to where its looks are joined (`models.decay`).
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from models.decay import Looks
from training.dataset import SPLITS
from training.decay.agree import scene_of
from training.decay.lane import MIN_SPOTS, Keeping, tracked
from training.decay.runs import SimulatedRun, draw_plan, simulate
from training.simulate.render import render
from triage.decay.evidence import FEATURES
from triage.decay.network import NOW_FRAMES, REFERENCE_FRAMES, spread_over
from triage.spots import DispersionFinder

LOG = logging.getLogger(__name__)
Floats = npt.NDArray[np.float64]
DETECTORS = ("EIGER2 1M", "EIGER2 500K", "PILATUS3 1M", "PILATUS 300K", "JUNGFRAU 1M", "EIGER 1M")
HELD_OUT_DETECTORS = ("LAMBDA 750K", "MAR165 BINNED", "IDEAL 1M")
"""Of every other test run."""
BLOCKS = 4
"""Of a run, beside the first after the reference."""
_EVERY = 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairedRun:
    """What was rendered of one run. The first reference frames are followed by those of each block, in `looks` and `truth`."""

    index: int
    kind: str
    looks: npt.NDArray[np.float16]
    """(frames, n) of the network."""
    truth: Floats
    """(frames, 4): ln of B, of photons, of the mosaicity; loss of the outer shell."""
    block: npt.NDArray[np.int64]
    """(frames,) which block a frame is of; -1 for the reference's."""
    at: npt.NDArray[np.int64]
    """(blocks,) last frame of each."""
    features: Floats
    """(blocks, FEATURES) of the tracker's evidence; nan where it has none yet."""


def paired(looks: Looks, seed: int, split: str, index: int) -> PairedRun | None:
    """Run `index` of a split; None where the tracker never has a reference that can be compared."""
    rng = np.random.default_rng([seed, SPLITS[split][0], 29, index])
    detectors = HELD_OUT_DETECTORS if split == "test" and index % 2 else DETECTORS
    run = simulate(draw_plan(seed, split, index, detectors=detectors))
    tracker, frames = Keeping(run.plan.run()), list(run.frames())
    for _ in tracked(tracker, run.plan.run(), frames):
        pass
    diffracting = [frame for frame, spots in frames if len(spots) >= MIN_SPOTS]
    reference = tracker.reference
    if reference is None or not tracker.at:
        return None
    kept = [frame.frame for frame in reference.kept]
    later = [frame for frame in diffracting if frame > kept[-1]]
    ends = later[reference.window - 1 : reference.window]
    ends += sorted(int(at) for at in rng.choice(tracker.at, min(BLOCKS, len(tracker.at)), replace=False))
    blocks = [[frame for frame in diffracting if frame <= end][-reference.window :] for end in ends]
    chosen = [spread_over(kept, REFERENCE_FRAMES), *(spread_over(block, NOW_FRAMES) for block in blocks)]
    rendered = [frame for each in chosen for frame in each]
    known = dict(zip(tracker.at, tracker.taken, strict=True))
    return PairedRun(
        index=index,
        kind=run.plan.kind,
        looks=_looked_at(looks, run, rendered),
        truth=np.array([_truth(run, frame) for frame in rendered]),
        block=np.repeat(np.arange(-1, len(ends)), [len(each) for each in chosen]),
        at=np.array(ends),
        features=np.array([known.get(end, np.full(len(FEATURES), np.nan)) for end in ends]),
    )


def _looked_at(looks: Looks, run: SimulatedRun, frames: Sequence[int]) -> npt.NDArray[np.float16]:
    finder, found = DispersionFinder(), {}
    for frame in sorted(set(frames)):
        rendered = render(scene_of(run, frame))
        found[frame] = looks(rendered.counts, finder.find(rendered.counts, rendered.run), rendered.run)
    return np.array([found[frame] for frame in frames], dtype=np.float16)


def _truth(run: SimulatedRun, frame: int) -> tuple[float, float, float, float]:
    plan, delta_B = run.plan, float(run.delta_B_A2[frame])
    photons = run.photons * float(plan.course.brightness[frame] * run.scale[frame])
    mosaicity = plan.lattice.mosaicity_deg * (1.0 + plan.damage.broadening_per_B * delta_B)
    return (
        float(np.log(plan.lattice.crystal.b_factor_A2 + delta_B)),
        float(np.log(max(photons, 1e-12))),
        float(np.log(mosaicity)),
        float(run.loss[frame]),
    )


def collect(path: Path, model: Path, *, seed: int, split: str, number: int) -> list[PairedRun]:
    """Renders pairs of runs 0 to `number` - 1; goes on where it was cut off. Runs without a reference are left out."""
    torch.set_num_threads(1)
    done: dict[int, PairedRun | None] = pickle.loads(path.read_bytes()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    looks = Looks(model)
    missing = [index for index in range(number) if index not in done]
    for count, index in enumerate(missing, start=1):
        done[index] = paired(looks, seed, split, index)
        if count % _EVERY == 0 or count == len(missing):
            LOG.info("%d of %d runs", number - len(missing) + count, number)
            part = path.with_suffix(".part")
            part.write_bytes(pickle.dumps(done))
            part.replace(path)
    return [run for index in range(number) if (run := done[index]) is not None]
