"""Learns the heads for decay on rendered pairs, and asks what the network's word adds to the tracker's (docs/decay.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor, nn

from models.decay import DecayHeads
from training.decay.measure import GROUPS
from training.decay.pairs import PairedRun
from triage.decay.evidence import LOSS_MEANT
from triage.decay.fusion import UNSEEN, released
from triage.decay.network import NOW_FRAMES, REFERENCE_FRAMES
from triage.pair import ESTIMATES

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

FOLDS = 5
STEPS = 2000
BATCH = 256
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
_LEAST_SPREAD = 0.05
"""Of a look, that it is standardised with."""
_MOST_EXPONENT, _MOST_CHANGE = 2.0, 2.0
"""Of the outer shell's loss and of ln photons, as targets."""
_WEIGHTS = (0.5, 0.2, 0.3)
"""In the loss: of the exponent, of the change of ln photons, and of the estimates of single frames; the log-odds count one."""
_DRAWS = 400
_LEAST_PAIRS = 50


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """All pairs of some runs: a reference and a block; arrays have one entry a pair but for the first two."""

    looks: Tensor
    """(frames, n)"""
    truth: Tensor
    """(frames, ESTIMATES)"""
    reference: Tensor
    """(pairs, REFERENCE_FRAMES) frames."""
    now: Tensor
    """(pairs, NOW_FRAMES)"""
    loss: Floats
    """Of the outer shell."""
    exponent: Floats
    """-ln of what is left of the outer shell, against the reference."""
    change: Floats
    """Of ln photons."""
    run: npt.NDArray[np.int64]
    kind: npt.NDArray[np.str_]
    tracker: Floats
    """Log-odds that the tracker gives."""
    early: Bools
    """The tracker has no evidence yet."""

    @property
    def weight(self) -> Floats:
        """Every run weighs the same."""
        return np.asarray(1.0 / np.bincount(self.run)[self.run])

    @property
    def damaged(self) -> Bools:
        """What the probability is of."""
        return np.asarray(self.loss > LOSS_MEANT)


def pairs_of(runs: Sequence[PairedRun]) -> Pairs:
    """All pairs of these runs; a block of fewer frames than NOW_FRAMES has some twice."""
    rows, first, fusion = [], 0, released()
    for number, run in enumerate(runs):
        its = np.flatnonzero(run.block < 0)
        for block, features in enumerate(run.features):
            now = np.flatnonzero(run.block == block)
            then_loss, loss = run.truth[its, 3].mean(), run.truth[now, 3].mean()
            early = bool(np.isnan(features).any())
            p = UNSEEN if early else fusion.probability(features)
            rows.append(
                (
                    np.resize(first + its, REFERENCE_FRAMES),
                    np.resize(first + now, NOW_FRAMES),
                    loss,
                    np.log(max(1.0 - then_loss, 0.02)) - np.log(max(1.0 - loss, 0.02)),
                    run.truth[now, 1].mean() - run.truth[its, 1].mean(),
                    number,
                    run.kind,
                    np.log(p / (1.0 - p)),
                    early,
                )
            )
        first += len(run.block)
    reference, now, *rest = zip(*rows, strict=True)
    looks = np.concatenate([run.looks for run in runs]).astype(np.float32)
    truth = np.concatenate([run.truth[:, : len(ESTIMATES)] for run in runs]).astype(np.float32)
    return Pairs(
        torch.from_numpy(looks),
        torch.from_numpy(truth),
        torch.from_numpy(np.array(reference)),
        torch.from_numpy(np.array(now)),
        *(np.array(column) for column in rest),
    )


def learnt(pairs: Pairs, chosen: Bools, *, steps: int = STEPS, seed: int = 0) -> DecayHeads:
    """Heads learnt on the chosen pairs, in evaluation mode."""
    torch.manual_seed(seed)
    reference, now = (torch.as_tensor(each[torch.from_numpy(chosen)]) for each in (pairs.reference, pairs.now))
    used = torch.unique(torch.cat([reference.flatten(), now.flatten()]))
    heads = DecayHeads(pairs.looks[used].mean(dim=0), pairs.looks[used].std(dim=0) + _LEAST_SPREAD)
    middle, spread = pairs.truth[used].mean(dim=0), pairs.truth[used].std(dim=0)
    optimiser = torch.optim.AdamW(heads.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    y = torch.from_numpy(pairs.damaged[chosen]).float()
    exponent = torch.from_numpy(np.minimum(pairs.exponent[chosen], _MOST_EXPONENT)).float()
    change = torch.from_numpy(np.clip(pairs.change[chosen], -_MOST_CHANGE, _MOST_CHANGE)).float()
    weight = torch.from_numpy(pairs.weight[chosen])
    for _ in range(steps):
        some = torch.multinomial(weight, BATCH, replacement=True)
        frames = torch.cat([reference[some].flatten(), now[some].flatten()])
        embedding = heads(pairs.looks[frames])
        then, later = (each.reshape(BATCH, -1, embedding.shape[1]).mean(dim=1) for each in embedding.split(BATCH * REFERENCE_FRAMES))
        said = heads.pair(then, later)
        estimates = embedding[:, -len(ESTIMATES) :] - (pairs.truth[frames] - middle) / spread
        parts = (said[:, 1] - exponent[some], said[:, 2] - change[some], estimates)
        loss = nn.functional.binary_cross_entropy_with_logits(said[:, 0], y[some])
        loss = loss + sum(share * (part**2).mean() for share, part in zip(_WEIGHTS, parts, strict=True))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return heads.eval()


def said_by(heads: DecayHeads, pairs: Pairs, chosen: Bools) -> Floats:
    """Log-odds of the chosen pairs."""
    with torch.inference_mode():
        embedding = heads(pairs.looks)
        means = [embedding[each[torch.from_numpy(chosen)]].mean(dim=1) for each in (pairs.reference, pairs.now)]
        return np.asarray(heads.pair(*means)[:, 0].double().numpy())


def out_of_fold(pairs: Pairs, steps: int = STEPS) -> Floats:
    """Log-odds of every pair by heads that did not learn from its run."""
    found = np.zeros(len(pairs.run))
    for fold in range(FOLDS):
        held = pairs.run % FOLDS == fold
        found[held] = said_by(learnt(pairs, ~held, steps=steps), pairs, held)
    return found


def calibrated(log_odds: Floats, pairs: Pairs) -> tuple[float, float]:
    """Slope and offset (Platt), every run weighing the same."""
    model = LogisticRegression(C=1e3).fit(log_odds[:, None], pairs.damaged, sample_weight=pairs.weight)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


@dataclass(frozen=True, slots=True)
class Joined:
    """A weighing of the tracker's log-odds and the network's: offset, and one weight for each."""

    offset: float
    tracker: float
    network: float

    @classmethod
    def learnt(cls, pairs: Pairs, network: Floats, chosen: Bools) -> Joined:
        """On the chosen pairs."""
        x = np.stack([pairs.tracker, network], axis=1)[chosen]
        model = LogisticRegression(C=1e3).fit(x, pairs.damaged[chosen], sample_weight=pairs.weight[chosen])
        return cls(float(model.intercept_[0]), float(model.coef_[0, 0]), float(model.coef_[0, 1]))

    def __call__(self, pairs: Pairs, network: Floats) -> Floats:
        """Log-odds of all pairs."""
        return np.asarray(self.offset + self.tracker * pairs.tracker + self.network * network)


def gain(pairs: Pairs, network: Floats, joined: Joined) -> str:
    """AUROC and log loss of the tracker, the network and both, by kind of run, as Markdown; the gain with 95 % over runs."""
    columns = "AUROC: tracker | network | both | log loss: tracker | network | both | gain of both over the tracker"
    lines = [f"| runs | pairs | damaged | {columns} |", "|---" * 10 + "|"]
    seen = ~pairs.early
    rows = {name: seen & np.isin(pairs.kind, list(kinds)) for name, kinds in GROUPS.items()}
    rows |= {"the first block, without evidence": pairs.early}
    both = joined(pairs, network)
    for name, chosen in rows.items():
        y, weight = pairs.damaged[chosen], pairs.weight[chosen]
        if len(y) < _LEAST_PAIRS or y.all() or not y.any():
            continue
        said = [_probability(each[chosen]) for each in (pairs.tracker, network, both)]
        auroc = " | ".join(f"{roc_auc_score(y, p, sample_weight=weight):.3f}" for p in said)
        cost = " | ".join(f"{log_loss(y, p, sample_weight=weight):.3f}" for p in said)
        middle, low, high = _interval(_cost(said[0], y) - _cost(said[2], y), weight, pairs.run[chosen])
        lines.append(f"| {name} | {len(y)} | {np.average(y, weights=weight):.0%} | {auroc} | {cost} | {middle:+.4f} ({low:+.4f} to {high:+.4f}) |")
    return "\n".join(lines)


def estimates_told(heads: Callable[[Tensor], Tensor], pairs: Pairs) -> str:
    """How well single frames' estimates go with the truth: correlations, as one line."""
    with torch.inference_mode():
        said = heads(pairs.looks)[:, -len(ESTIMATES) :].numpy()
    each = [np.corrcoef(said[:, k], pairs.truth[:, k].numpy())[0, 1] for k in range(len(ESTIMATES))]
    return "Estimates of single frames against the truth, correlation: " + ", ".join(
        f"{name} {r:.2f}" for name, r in zip(ESTIMATES, each, strict=True)
    )


def _probability(log_odds: Floats) -> Floats:
    return np.asarray(np.clip(1.0 / (1.0 + np.exp(-log_odds)), 1e-6, 1.0 - 1e-6))


def _cost(p: Floats, y: Bools) -> Floats:
    return -np.log(np.where(y, p, 1.0 - p))


def _interval(gained: Floats, weight: Floats, run: npt.NDArray[np.int64]) -> tuple[float, float, float]:
    """Weighted mean with 95 % by resampling runs."""
    _, of = np.unique(run, return_inverse=True)
    total, its = np.bincount(of, weight * gained), np.bincount(of, weight)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_DRAWS):
        some = rng.integers(0, len(its), len(its))
        drawn.append(total[some].sum() / its[some].sum())
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(total.sum() / its.sum()), float(low), float(high)
