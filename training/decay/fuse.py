"""Learns the runtime's fusion from simulated training runs; out-of-fold probabilities say what it is worth without simulating again."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from training.decay.course import LOSS_THAT_COUNTS
from training.decay.lane import Keeping, tracked
from training.decay.runs import SimulatedRun, dimmed, draw_plan, simulate
from triage.core import Decay, Run
from triage.decay.evidence import FEATURES, LOSS_MEANT, OWN
from triage.decay.fusion import FARTHEST, Fusion, Layers, beyond_doubt, calibrated, evened
from triage.decay.reference import Reference

LOG = logging.getLogger(__name__)
Floats = npt.NDArray[np.float64]

FOLDS = 4
REPEATS = 3
"""Networks a fold, from other beginnings: their mean is steadier than one."""
HIDDEN = 16
STEPS = 1000
BATCH = 1024
LEARNING_RATE = 0.01
WEIGHT_DECAY = 0.2
NOISE = 0.2
"""Standard deviation of what is added to the standardised features while learning."""
EMPHASIS = {"leaving": 12.0, "plate": 5.0, "flux_dips": 5.0}
"""What an undamaged run of these look-alikes weighs while learning: they are what a trend alone takes for damage."""
UNNAMED = 0.25
"""Share of the blocks that are learnt from as if no frame had been indexed."""
_AGAIN = slice(len(OWN), len(FEATURES))
_EVERY = 20
_RIDGE = 1e-3
"""Of one run's weight: for numbers that the data say nothing of, such as those of stills where there are none."""


@dataclass(frozen=True, slots=True, eq=False)
class Witnessed:
    """A run as the fusion sees it; `features` (n, FEATURES) and `frame` (n,), the last of each block."""

    index: int
    kind: str
    look_alike: str
    damaged: bool
    n_frames: int
    loss: Floats
    """True, of the outer shell, of every frame planned."""
    features: npt.NDArray[np.float32]
    frame: npt.NDArray[np.int64]

    @property
    def has_to_be_flagged(self) -> bool:
        """Whether the outer shell loses LOSS_THAT_COUNTS within the run."""
        return bool(self.loss[-1] > LOSS_THAT_COUNTS)


class _Witness(Keeping):
    """Keeps the evidence of every block, and judges nothing."""

    def __init__(self, run: Run) -> None:
        n = len(FEATURES)
        none = Layers(np.zeros((1, n, 1)), np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(1), np.zeros((1, n)))
        super().__init__(run, fusion=Fusion(np.zeros(n), np.ones(n), none))

    def _judged(self, reference: Reference) -> Decay | None:  # noqa: ARG002
        return None


def witnessed(run: SimulatedRun) -> Witnessed:
    """The evidence of a run's blocks, by the runtime's own tracker."""
    plan, tracker = run.plan, _Witness(run.plan.run())
    for _ in tracked(tracker, plan.run(), run.frames()):
        pass
    return Witnessed(
        index=plan.index,
        kind=plan.kind,
        look_alike=plan.course.look_alike,
        damaged=plan.damage.exponent > 0,
        n_frames=int(plan.course.present.sum()),
        loss=run.loss,
        features=np.array(tracker.taken, dtype=np.float32).reshape(-1, len(FEATURES)),
        frame=np.array(tracker.at, dtype=np.int64),
    )


def collect(path: Path, *, seed: int, number: int) -> list[Witnessed]:
    """Training runs 0 to `number` - 1, and a dimmed copy of each in which nothing else happens; goes on where it was cut off."""
    torch.set_num_threads(1)
    runs: list[Witnessed] = pickle.loads(path.read_bytes()) if path.exists() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    for index in range(runs[-1].index + 1 if runs else 0, number):
        run = simulate(draw_plan(seed, "train", index))
        runs.append(witnessed(run))
        if run.plan.course.look_alike == "none":
            runs.append(witnessed(dimmed(run)))
        if (index + 1) % _EVERY == 0 or index + 1 == number:
            LOG.info("%d of %d runs", index + 1, number)
            path.with_suffix(".part").write_bytes(pickle.dumps(runs))
            path.with_suffix(".part").replace(path)
    return runs


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Blocks of runs; all of length n but for `features` (n, FEATURES)."""

    features: Floats
    loss: Floats
    """True, of the outer shell."""
    index: npt.NDArray[np.int64]
    """Of the run; a run and its dimmed copy have the same, so that no fold learns on the one and is measured on the other."""
    weight: Floats
    """Every run weighs the same, a copy nothing: of the probability's calibration."""
    emphasis: Floats
    """Of learning."""


def samples_of(runs: Sequence[Witnessed]) -> Samples:
    """All blocks of all runs."""
    chosen = [run for run in runs if len(run.frame)]
    copies = [k > 0 and chosen[k - 1].index == run.index for k, run in enumerate(chosen)]
    emphasis = [1.0 if run.damaged else EMPHASIS.get(run.look_alike, 1.0) for run in chosen]
    return Samples(
        features=np.concatenate([run.features.astype(np.float64) for run in chosen]),
        loss=np.concatenate([run.loss[run.frame] for run in chosen]),
        index=np.concatenate([np.full(len(run.frame), run.index) for run in chosen]),
        weight=np.concatenate([np.full(len(run.frame), (not copy) / len(run.frame)) for run, copy in zip(chosen, copies, strict=True)]),
        emphasis=np.concatenate([np.full(len(run.frame), its / len(run.frame)) for run, its in zip(chosen, emphasis, strict=True)]),
    )


class Member(torch.nn.Module):
    """One network: hidden units, and what each feature adds past them."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(features, HIDDEN)
        self.outer = torch.nn.Linear(HIDDEN, 1)
        self.straight = torch.nn.Linear(features, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Log-odds (n,) of standardised features (n, features)."""
        found: torch.Tensor = self.outer(torch.tanh(self.inner(x))) + self.straight(x)
        return found[:, 0]


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFold:
    """Log-odds of every block by networks that did not learn from its run, all of length n."""

    named: Floats
    """With what indexing gave, as the flag watches them."""
    unnamed: Floats
    """As if no frame had been indexed."""
    said: Floats
    """Calibrated, with what indexing gave."""
    said_unnamed: Floats


def learn(samples: Samples, steps: int = STEPS) -> tuple[dict[str, Any], OutOfFold]:
    """What `triage.decay.fusion` reads but for what evens the rates of false alarms; folds are of runs."""
    torch.manual_seed(0)
    mean, spread = samples.features.mean(axis=0), samples.features.std(axis=0) + 1e-3
    without = samples.features.copy()
    without[:, _AGAIN] = 0.0
    both = [torch.from_numpy(np.clip((x - mean) / spread, -FARTHEST, FARTHEST).astype(np.float32)) for x in (samples.features, without)]
    y = torch.from_numpy((samples.loss > LOSS_MEANT).astype(np.float32))
    weight = torch.from_numpy(samples.emphasis / samples.emphasis.mean()).float()
    fold = samples.index % FOLDS
    logits = np.zeros((2, len(y)))
    members: list[Member] = []
    for k in range(FOLDS):
        its = [_member([x[fold != k] for x in both], y[fold != k], weight[fold != k], steps) for _ in range(REPEATS)]
        with torch.no_grad():
            logits[:, fold == k] = [np.mean([member(x[fold == k]).numpy() for member in its], axis=0) for x in both]
        members += its
    told: dict[str, Any] = {"features": list(FEATURES), "mean": _short(mean), "spread": _short(spread)}
    told |= {name: _short(value) for name, value in _layers(members)._asdict().items()}
    slope, offset = platt(np.stack([logits[0], np.ones(len(y))], axis=1), y.numpy(), samples.weight, np.array([1.0, 0.0]))
    told |= {"slope": slope, "offset": offset}
    logits = slope * logits + offset
    calibration = calibration_of(samples, logits[0])
    said, alarm = logits + calibrated(samples.features, calibration), logits + beyond_doubt(samples.features)
    return told | {"calibration": list(calibration)}, OutOfFold(named=alarm[0], unnamed=alarm[1], said=said[0], said_unnamed=said[1])


def calibration_of(samples: Samples, logits: Floats) -> tuple[float, float]:
    """What `triage.decay.fusion.calibrated` adds to log-odds (n,) that are right over all runs."""
    each = [calibrated(samples.features, (1.0, 0.0)), calibrated(samples.features, (0.0, 1.0))]
    y = np.where(samples.loss > LOSS_MEANT, 1.0, 0.0)
    stills, doubt = platt(np.stack(each, axis=1), y, samples.weight, np.zeros(2), logits)
    return stills, doubt


def learnt_from(runs: Sequence[Witnessed], steps: int = STEPS) -> tuple[dict[str, Any], OutOfFold]:
    """All that `triage.decay.fusion` reads, and out-of-fold log-odds, those of alarms with their rates evened."""
    samples = samples_of(runs)
    told, found = learn(samples, steps)
    even = even_rates(runs, samples.features, found.named)
    added = evened(samples.features, even)
    found = replace(found, named=found.named + added, unnamed=found.unnamed + added)
    return told | {"even": list(even), "alarms": alarms_of(runs, 1.0 / (1.0 + np.exp(-found.named)))}, found


def _layers(members: Sequence[Member]) -> Layers:
    def stacked(of: Callable[[Member], torch.Tensor]) -> Floats:
        return np.stack([of(member).detach().numpy() for member in members])

    return Layers(
        inner=stacked(lambda member: member.inner.weight.T),
        inner_bias=stacked(lambda member: member.inner.bias),
        outer=stacked(lambda member: member.outer.weight[0]),
        outer_bias=stacked(lambda member: member.outer.bias[0]),
        straight=stacked(lambda member: member.straight.weight[0]),
    )


def _short(values: Floats) -> Any:
    return np.round(np.asarray(values, dtype=np.float64), 4).tolist()


def _member(both: Sequence[torch.Tensor], y: torch.Tensor, weight: torch.Tensor, steps: int) -> Member:
    """`both`: the features with what indexing gave, and without."""
    network = Member(both[0].shape[1])
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    up_to = torch.cumsum(weight.double(), 0)
    for _ in range(steps):
        some = torch.searchsorted(up_to, up_to[-1] * torch.rand(BATCH, dtype=torch.float64)).clamp_max(len(y) - 1)
        x = torch.where(torch.rand(BATCH, 1) < UNNAMED, both[1][some], both[0][some])
        noisy = x + NOISE * torch.randn(BATCH, x.shape[1])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(noisy), y[some])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return network


def platt(design: Floats, y: Floats, weight: Floats, start: Floats, logits: Floats | float = 0.0) -> tuple[float, ...]:
    """What the columns of `design` (n, k) weigh in log-odds beside `logits`, by Newton's method from `start` (k,), to which what the data
    leave open stays near.
    """
    found = start.copy()
    for _ in range(30):
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ found + logits, -30, 30)))
        gradient = design.T @ (weight * (y - p)) - _RIDGE * (found - start)
        hessian = (design * (weight * p * (1 - p))[:, None]).T @ design + _RIDGE * np.eye(len(found))
        found = found + np.linalg.solve(hessian, gradient)
    return tuple(float(np.round(each, 4)) for each in found)


LEVELS = (-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)
"""Logits at which alarms are counted."""
_CLEAR_AT = 0.1
_LEAST_ALARMS = 0.3
"""Taken for none, so that a rate is never nought."""


def of_each(runs: Sequence[Witnessed], values: Floats, *, copies: bool = False) -> list[tuple[Witnessed, Floats]]:
    """Runs with the values of their blocks, of those given for all; dimmed copies only where asked for."""
    ends = np.cumsum([len(run.frame) for run in runs])
    each = [(run, values[end - len(run.frame) : end]) for run, end in zip(runs, ends, strict=True)]
    first = {run.index: k for k, run in reversed(list(enumerate(runs)))}
    return [pair for k, pair in enumerate(each) if copies or first[pair[0].index] == k]


_SHARES = (0.03, 0.05, 0.08)
"""Of undamaged runs, at whose levels the rates of kinds are evened."""
_PRICES = np.arange(0.0, 1.01, 0.05)
_LONG = 600


def even_rates(runs: Sequence[Witnessed], features: Floats, logits: Floats) -> tuple[float, float]:
    """What `triage.decay.fusion.evened` adds: the price of many looks, so that long rotations exceed a level as often as the shortest, then
    what stills get, so that they exceed it as often as rotations.
    """

    def level(which: Callable[[Witnessed], bool], even: tuple[float, float]) -> float:
        chosen = [(run, values) for run, values in of_each(runs, logits + evened(features, even)) if not run.damaged and which(run)]
        highest = sorted((float(values.max(initial=-30.0)) for _, values in chosen), reverse=True)
        return float(np.mean([highest[int(share * len(highest))] for share in _SHARES])) if highest else 0.0

    def apart(price: float) -> float:
        return abs(level(lambda run: run.n_frames >= _LONG, (0.0, price)) - level(lambda run: run.kind == "rotation_60", (0.0, price)))

    price = round(float(min(_PRICES, key=apart)), 2)
    rotations, stills = level(lambda run: run.kind != "stills", (0.0, price)), level(lambda run: run.kind == "stills", (0.0, price))
    return round(rotations - stills, 2), price


def alarms_of(runs: Sequence[Witnessed], probability: Floats) -> list[tuple[float, float]]:
    """(logit, alarms per 1,000 undamaged frames) for LEVELS; the flag clears in between."""
    sound = [(run, p) for run, p in of_each(runs, probability) if not run.damaged]
    frames = sum(run.n_frames for run, _ in sound)
    table: list[tuple[float, float]] = []
    for level in LEVELS:
        raised = sum(_raised(p, 1.0 / (1.0 + np.exp(-level))) for _, p in sound)
        rate = 1000.0 * max(float(raised), _LEAST_ALARMS) / frames
        table.append((level, round(min(rate, 0.999 * table[-1][1]) if table else rate, 4)))
    return table


def _raised(probability: Floats, level: float) -> int:
    """How often a flag is raised that clears at _CLEAR_AT."""
    number, standing = 0, False
    for p in probability:
        if not standing and p >= level:
            number, standing = number + 1, True
        elif standing and p <= _CLEAR_AT:
            standing = False
    return number
