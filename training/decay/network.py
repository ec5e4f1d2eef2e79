"""What the network's word adds to the tracker's: by kind of run, on pairs that the heads did not learn from (docs/decay.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from training.decay.heads import Bools, Floats, Learnt, Pairs, compared, said_by
from training.decay.measure import GROUPS
from triage.pair import APPEARANCE

_DRAWS = 400
_LEAST_PAIRS = 50


@dataclass(frozen=True, slots=True)
class Weighing:
    """How the tracker's log-odds and the network's are weighed; each is (offset, of the tracker, of the network)."""

    alone: tuple[float, float, float]
    """The tracker's, calibrated on these pairs, so that what is gained is the network's."""
    both: tuple[float, float, float]
    early: tuple[float, float, float]
    """While the tracker has no evidence."""

    @classmethod
    def learnt(cls, pairs: Pairs, network: Floats) -> Weighing:
        """By logistic regression, every run weighing the same."""
        return cls(
            _fitted(pairs, np.stack([pairs.tracker, 0.0 * network], axis=1), ~pairs.early),
            _fitted(pairs, np.stack([pairs.tracker, network], axis=1), ~pairs.early),
            _fitted(pairs, np.stack([0.0 * network, network], axis=1), pairs.early),
        )

    def __str__(self) -> str:
        rows = (("Tracker alone", self.alone), ("Both", self.both), ("Without evidence", self.early))
        return "; ".join(
            f"{name}: {offset:+.2f} {t:+.2f} x the tracker's log-odds {n:+.2f} x the network's" for name, (offset, t, n) in rows
        )


def _fitted(pairs: Pairs, x: Floats, chosen: Bools) -> tuple[float, float, float]:
    model = LogisticRegression(C=1e3).fit(x[chosen], pairs.damaged[chosen], sample_weight=pairs.weight[chosen])
    return float(model.intercept_[0]), float(model.coef_[0, 0]), float(model.coef_[0, 1])


def _weighed(pairs: Pairs, network: Floats, weights: tuple[float, float, float]) -> Floats:
    return np.asarray(weights[0] + weights[1] * pairs.tracker + weights[2] * network)


def gain(pairs: Pairs, network: Floats, weighing: Weighing) -> str:
    """AUROC and log loss of the tracker, the network and both, by kind of run, as Markdown; the gain with 95 % over runs."""
    columns = "AUROC: tracker | network | both | log loss: tracker | network | both | gain of both over the tracker"
    lines = [f"| runs | pairs | damaged | {columns} |", "|---" * 10 + "|"]
    rows = {name: ~pairs.early & np.isin(pairs.kind, list(kinds)) for name, kinds in GROUPS.items()}
    rows |= {"the first block, without evidence": pairs.early}
    alone = np.where(pairs.early, pairs.tracker, _weighed(pairs, network, weighing.alone))
    both = np.where(pairs.early, _weighed(pairs, network, weighing.early), _weighed(pairs, network, weighing.both))
    for name, chosen in rows.items():
        y, weight = pairs.damaged[chosen], pairs.weight[chosen]
        if len(y) < _LEAST_PAIRS or y.all() or not y.any():
            continue
        said = [_probability(each[chosen]) for each in (alone, network, both)]
        auroc = " | ".join(f"{roc_auc_score(y, p, sample_weight=weight):.3f}" for p in said)
        cost = " | ".join(f"{log_loss(y, p, sample_weight=weight):.3f}" for p in said)
        middle, low, high = _interval(_cost(said[0], y) - _cost(said[2], y), weight, pairs.run[chosen])
        lines.append(
            f"| {name} | {len(y)} | {np.average(y, weights=weight):.0%} | {auroc} | {cost} | {middle:+.4f} ({low:+.4f} to {high:+.4f}) |"
        )
    return "\n".join(lines)


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


def tables(learnt: Learnt, train: Pairs, test: Pairs) -> str:
    """Out of fold on the runs learnt from, then once on the test runs, with what weighs both learnt on the former."""
    weighing = Weighing.learnt(train, learnt.out_of_fold)
    seen = learnt.heads(test.looks)
    said = said_by(learnt.head, compared(seen, test))
    parts = (("Out of fold", train, learnt.out_of_fold), ("Test runs", test, said))
    texts = [f"{title}, {len(set(pairs.run.tolist()))} runs:\n\n{gain(pairs, network, weighing)}" for title, pairs, network in parts]
    correlations = [np.corrcoef(seen[:, k + 1], test.truth[:, k])[0, 1] for k in range(len(APPEARANCE) - 1)]
    named = ", ".join(f"{name} {r:.2f}" for name, r in zip(APPEARANCE[1:], correlations, strict=True))
    return "\n\n".join([*texts, str(weighing), f"Single test frames against the truth, correlation: {named}."])
