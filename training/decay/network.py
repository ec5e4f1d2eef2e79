"""What the network's word adds to the tracker's: by kind of run, on pairs that the heads did not learn from (docs/decay.md)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import log_loss, roc_auc_score

from training.decay.heads import Bools, Floats, Learnt, Pairs, compared, weighed
from training.decay.measure import GROUPS, with_interval
from triage.pair import APPEARANCE, PairHead

_LEAST_PAIRS = 50


def gain(pairs: Pairs, network: Floats, head: PairHead, alone: Sequence[float]) -> str:
    """AUROC and log loss of the tracker, the network and both, by kind of run, as Markdown; the gain with 95 % over runs.

    `alone`: offset and weight that calibrate the tracker's log-odds on the pairs learnt from, so that what is gained is the network's.
    """
    columns = "AUROC: tracker | network | both | log loss: tracker | network | both | gain of both over the tracker"
    lines = [f"| runs | pairs | damaged | {columns} |", "|---" * 10 + "|"]
    rows = {name: ~pairs.early & np.isin(pairs.kind, list(kinds)) for name, kinds in GROUPS.items()}
    rows |= {"the first block, without evidence": pairs.early}
    tracker = np.where(pairs.early, pairs.tracker, alone[0] + alone[1] * pairs.tracker)
    trackers = (None if early else t for early, t in zip(pairs.early, pairs.tracker, strict=True))
    both = np.array([head.with_tracker(n, t) for n, t in zip(network, trackers, strict=True)])
    for name, chosen in rows.items():
        y, weight = pairs.damaged[chosen], pairs.weight[chosen]
        if len(y) < _LEAST_PAIRS or y.all() or not y.any():
            continue
        said = [_probability(each[chosen]) for each in (tracker, network, both)]
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


def _interval(gained: Floats, weight: Floats, run: npt.NDArray[np.int64]) -> list[float]:
    """Weighted mean with 95 % over runs."""
    sums = np.stack([np.bincount(run, weight * gained), np.bincount(run, weight)], axis=1).astype(np.float64)
    return with_interval(sums[sums[:, 1] > 0], lambda some: float(some[:, 0].sum() / some[:, 1].sum()))


def tables(learnt: Learnt, train: Pairs, test: Pairs) -> str:
    """Out of fold on the runs learnt from, then once on the test runs."""
    alone = weighed(train, [train.tracker], ~train.early)
    seen = learnt.heads(test.looks)
    parts = (("Out of fold", train, learnt.out_of_fold), ("Test runs", test, learnt.head.of(compared(seen, test))))
    texts = [f"{name}, {len(set(pairs.run.tolist()))} runs:\n\n{gain(pairs, said, learnt.head, alone)}" for name, pairs, said in parts]
    correlations = [np.corrcoef(seen[:, k + 1], test.truth[:, k])[0, 1] for k in range(len(APPEARANCE) - 1)]
    named = ", ".join(f"{name} {r:.2f}" for name, r in zip(APPEARANCE[1:], correlations, strict=True))
    weights = f"Weights: without evidence {learnt.head.early}, with {learnt.head.joined}."
    return "\n\n".join([*texts, weights, f"Single test frames against the truth, correlation: {named}."])
