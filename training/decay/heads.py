"""Learns the heads for decay (`models.decay`) on rendered pairs of a reference and a block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

from models.decay import FARTHEST, DecayHeads
from training.decay.pairs import PairedRun
from triage.decay.evidence import LOSS_MEANT
from triage.decay.fusion import UNSEEN, released
from triage.decay.network import NOW_FRAMES, REFERENCE_FRAMES
from triage.pair import PairHead

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

FOLDS = 5
INNER_FOLDS = 3
"""Of the runs learnt from: the pair head learns on estimates by heads that did not learn from the run."""
RIDGE = 1000.0
"""Penalty of the linear heads, on standardised looks."""
HIDDEN = 12
STEPS = 1000
BATCH = 256
LEARNING_RATE = 0.01
WEIGHT_DECAY = 0.05
_LEAST_SPREAD = 0.05
"""Of a look, that it is standardised with."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """All pairs of some runs: a reference and a block; arrays have one entry a pair, or as said."""

    looks: npt.NDArray[np.float32]
    """(frames, n + 1) of `models.decay.Looks`."""
    truth: Floats
    """(frames, 3) of what the linear heads estimate."""
    owner: npt.NDArray[np.int64]
    """(frames,) number of the run."""
    reference: npt.NDArray[np.int64]
    """(pairs, REFERENCE_FRAMES) frames."""
    now: npt.NDArray[np.int64]
    """(pairs, NOW_FRAMES)"""
    loss: Floats
    """Of the outer shell."""
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
    rows: list[tuple[Any, ...]] = []
    first, fusion = 0, released()
    for number, run in enumerate(runs):
        its = np.flatnonzero(run.block < 0)
        for block, features in enumerate(run.features):
            now = np.flatnonzero(run.block == block)
            early = bool(np.isnan(features).any())
            p = UNSEEN if early else fusion.probability(features)
            frames = np.resize(first + its, REFERENCE_FRAMES), np.resize(first + now, NOW_FRAMES)
            rows.append((*frames, run.truth[now, 3].mean(), number, run.kind, np.log(p / (1.0 - p)), early))
        first += len(run.block)
    return Pairs(
        np.concatenate([run.looks for run in runs]).astype(np.float32),
        np.concatenate([run.truth[:, :3] for run in runs]),
        np.repeat(np.arange(len(runs)), [len(run.block) for run in runs]),
        *(np.array(column) for column in zip(*rows, strict=True)),
    )


def linear_heads(pairs: Pairs, frames: Bools) -> DecayHeads:
    """Heads of single frames, learnt by ridge regression on the chosen frames (frames,) of `pairs`."""
    looks, truth = pairs.looks[frames, :-1].astype(np.float64), pairs.truth[frames]
    mean, spread = looks.mean(axis=0), looks.std(axis=0) + _LEAST_SPREAD
    held = np.clip((looks - mean) / spread, -FARTHEST, FARTHEST)
    model = Ridge(alpha=RIDGE).fit(held, (truth - truth.mean(axis=0)) / truth.std(axis=0))
    return DecayHeads(mean, spread, model.coef_, model.intercept_)


def compared(appearance: Floats, pairs: Pairs) -> Floats:
    """What the pair head is asked (pairs, 2 APPEARANCE), from the appearance of all frames."""
    then, now = (appearance[each].mean(axis=1) for each in (pairs.reference, pairs.now))
    return np.concatenate([now - then, then], axis=1)


def pair_head(x: Floats, damaged: Bools, weight: Floats) -> PairHead:
    """Learnt on (pairs, 2 APPEARANCE), standardised meanwhile."""
    torch.manual_seed(0)
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    known, y = torch.from_numpy((x - mean) / spread).float(), torch.from_numpy(damaged).float()
    inner, outer, straight = nn.Linear(x.shape[1], HIDDEN), nn.Linear(HIDDEN, 1), nn.Linear(x.shape[1], 1, bias=False)
    network = nn.ModuleList([inner, outer, straight])
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    share = torch.from_numpy(weight)
    for _ in range(STEPS):
        some = torch.multinomial(share, BATCH, replacement=True)
        said = outer(torch.tanh(inner(known[some]))) + straight(known[some])
        loss = nn.functional.binary_cross_entropy_with_logits(said[:, 0], y[some])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    weights = inner.weight.detach().double().numpy() / spread
    straight_weights = straight.weight.detach().double().numpy()[0] / spread
    return PairHead(
        inner=weights,
        inner_bias=inner.bias.detach().double().numpy() - weights @ mean,
        outer=outer.weight.detach().double().numpy()[0],
        straight=straight_weights,
        bias=float(outer.bias.detach()) - float(straight_weights @ mean),
    )


def appearances(pairs: Pairs, chosen: Bools) -> Floats:
    """Of all frames (frames, APPEARANCE); of those of the chosen runs (runs,) by heads that did not learn from the run."""
    learnt_from = chosen[pairs.owner]
    found = linear_heads(pairs, learnt_from)(pairs.looks)
    for fold in range(INNER_FOLDS):
        held = learnt_from & (pairs.owner // FOLDS % INNER_FOLDS == fold)
        found[held] = linear_heads(pairs, learnt_from & ~held)(pairs.looks[held])
    return found


def out_of_fold(pairs: Pairs) -> Floats:
    """Log-odds of every pair by heads that did not learn from its run."""
    found = np.zeros(len(pairs.run))
    for fold in range(FOLDS):
        runs = np.arange(pairs.owner[-1] + 1) % FOLDS != fold
        x, inside = compared(appearances(pairs, runs), pairs), runs[pairs.run]
        found[~inside] = pair_head(x[inside], pairs.damaged[inside], pairs.weight[inside]).of(x[~inside])
    return found


def weighed(pairs: Pairs, log_odds: Sequence[Floats], chosen: Bools) -> list[float]:
    """Offset, and a weight for each of these log-odds (pairs,), by logistic regression on the chosen pairs; every run weighs the same."""
    x = np.stack(log_odds, axis=1)[chosen]
    model = LogisticRegression(C=1e3).fit(x, pairs.damaged[chosen], sample_weight=pairs.weight[chosen])
    return [float(model.intercept_[0]), *(float(each) for each in model.coef_[0])]


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """Heads learnt on all pairs, and what heads that did not learn from a run say of it."""

    heads: DecayHeads
    head: PairHead
    """Calibrated, and weighed beside the tracker."""
    out_of_fold: Floats
    """Log-odds (pairs,), calibrated."""


def learn_heads(pairs: Pairs) -> Learnt:
    """All is calibrated and weighed out of fold: heads that learnt from more runs are no worse."""
    found = out_of_fold(pairs)
    offset, slope = weighed(pairs, [found], np.ones(len(found), dtype=bool))
    found = slope * found + offset
    every = np.ones(pairs.owner[-1] + 1, dtype=bool)
    head = pair_head(compared(appearances(pairs, every), pairs), pairs.damaged, pairs.weight)
    early, joined = weighed(pairs, [found], pairs.early), weighed(pairs, [pairs.tracker, found], ~pairs.early)
    head = replace(
        head,
        outer=slope * head.outer,
        straight=slope * head.straight,
        bias=slope * head.bias + offset,
        early=(early[0], early[1]),
        joined=(joined[0], joined[1], joined[2]),
    )
    return Learnt(linear_heads(pairs, every[pairs.owner]), head, found)
