"""ROC measures and calibration errors with bootstrap intervals.

Every scorer of a contrast is measured on the same resampled frames, so that differences between scorers are paired
(Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: percentile intervals).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BOOTSTRAPS = 500
LEAST_FRAMES = 20
"""Fewer frames on either side: counts alone are reported."""
FALSE_ALARMS = {"recall_at_1pc": 0.01, "recall_at_5pc": 0.05}
MEASURES = ("auroc", *FALSE_ALARMS)
ECE_BINS = 15
_INTERVAL_PERCENT = (2.5, 97.5)


@dataclass(frozen=True, slots=True, eq=False)
class Roc:
    """ROC curves of one scorer, one row a resampling; the last point is (1, 1)."""

    hits: Floats
    """(resamplings, thresholds): share of the positives at or above each distinct score, highest score first."""
    false_alarms: Floats
    """(resamplings, thresholds)."""

    def auroc(self) -> Floats:
        """(resamplings,) areas; ties count half."""
        steps = np.diff(self.false_alarms, axis=1, prepend=0.0)
        before = np.concatenate((np.zeros((len(self.hits), 1)), self.hits[:, :-1]), axis=1)
        return np.asarray((steps * 0.5 * (self.hits + before)).sum(axis=1))

    def recall(self, at_most: float) -> Floats:
        """(resamplings,) recall at the lowest threshold with at most this share of false alarms."""
        allowed = (self.false_alarms <= at_most + 1e-12).sum(axis=1)
        found = self.hits[np.arange(len(self.hits)), np.maximum(allowed - 1, 0)]
        return np.where(allowed > 0, found, 0.0)


def roc(scores: Floats, truth: Bools, weights: Ints | None = None) -> Roc:
    """ROC curves of `scores` (n,); `weights` (resamplings, n) count how often each frame was drawn, None: each once."""
    order = np.argsort(-scores, kind="stable")
    ordered, right = scores[order], truth[order]
    drawn = np.ones((1, len(scores)), dtype=np.int64) if weights is None else weights[:, order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    hits, alarms = (np.cumsum(drawn * side, axis=1)[:, ends].astype(np.float64) for side in (right, ~right))
    return Roc(hits=hits / hits[:, -1:], false_alarms=alarms / alarms[:, -1:])


def precision(scores: Floats, truth: Bools) -> tuple[Floats, Floats]:
    """Recall and precision at every distinct score, highest first."""
    curve = roc(scores, truth)
    hits, alarms = curve.hits[0] * truth.sum(), curve.false_alarms[0] * (~truth).sum()
    return curve.hits[0], hits / (hits + alarms)


def resampled(truth: Bools, bootstraps: int = BOOTSTRAPS, seed: int = 0) -> Ints:
    """(1 + bootstraps, n) how often each frame was drawn, positives and negatives apart; the first row is the frames themselves."""
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + bootstraps, len(truth)), dtype=np.int64)
    for side in (np.flatnonzero(truth), np.flatnonzero(~truth)):
        weights[1:, side] = _draws(rng, bootstraps, len(side))
    return weights


def _draws(rng: np.random.Generator, rows: int, n: int) -> Ints:
    """(rows, n) counts of n draws with replacement."""
    drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)


def contrast(scorers: Mapping[str, Floats], truth: Bools) -> dict[str, dict[str, Any]]:
    """What each scorer is worth in telling `truth` (n,) from the rest.

    Per scorer: numbers of frames; AUROC and recall at 1 % and 5 % false alarms as [value, low, high] (95 %); for all but the
    first scorer `first_minus_this`, the paired difference in AUROC. Too few frames: numbers alone; a recall is left out where
    its share of the negatives is less than one frame.
    """
    sides = {"n_positive": int(truth.sum()), "n_negative": int((~truth).sum())}
    rows: dict[str, dict[str, Any]] = {name: dict(sides) for name in scorers}
    if min(sides.values()) < LEAST_FRAMES:
        return rows
    weights = resampled(truth)
    first: Floats | None = None
    for name, scores in scorers.items():
        curve = roc(scores, truth, weights)
        area = curve.auroc()
        rows[name]["auroc"] = with_interval(area)
        for key, share in FALSE_ALARMS.items():
            if share * sides["n_negative"] >= 1.0:
                rows[name][key] = with_interval(curve.recall(share))
        if first is None:
            first = area
        else:
            rows[name]["first_minus_this"] = with_interval(first - area)
    return rows


def with_interval(values: Floats) -> list[float]:
    """[value, low, high] of resampled values whose first is the estimate."""
    low, high = np.percentile(values[1:], _INTERVAL_PERCENT)
    return [round(float(x), 4) for x in (values[0], low, high)]


def threshold_at(scores: Floats, truth: Bools, false_alarms: float) -> float:
    """The lowest score that at most this share of the negatives exceeds; frames strictly above it are called."""
    negative = np.sort(scores[~truth])[::-1]
    return float(negative[min(int(false_alarms * len(negative) + 1e-9), len(negative) - 1)])


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Stated against true shares over equal-width bins of probability; empty bins are left out."""

    stated: Floats
    true: Floats
    frames: Ints
    ece: list[float]
    """Expected calibration error [value, low, high] (Naeini et al., AAAI 2015)."""


def reliability(probability: Floats, truth: Bools, bins: int = ECE_BINS) -> Reliability:
    """Reliability of `probability` (n,).

    The bootstrap interval of an ECE lies high: resampling adds noise to bins that have noise already.
    """
    index = np.minimum((probability * bins).astype(np.int64), bins - 1)
    frames = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, weights=x, minlength=bins) for x in (probability, truth.astype(np.float64))]
    used = frames > 0
    off = np.zeros((len(truth), bins))
    off[np.arange(len(truth)), index] = probability - truth
    weights = np.concatenate((np.ones((1, len(truth)), dtype=np.int64), _draws(np.random.default_rng(0), BOOTSTRAPS, len(truth))))
    errors = np.abs(weights @ off).sum(axis=1) / len(truth)
    return Reliability(
        stated=sums[0][used] / frames[used], true=sums[1][used] / frames[used], frames=frames[used], ece=with_interval(errors)
    )


def percentile_with_interval(values: Floats, percent: float) -> list[float]:
    """A percentile of `values` (n,) with its 95 % bootstrap interval."""
    drawn = values[np.random.default_rng(0).integers(0, len(values), size=(BOOTSTRAPS, len(values)))]
    return with_interval(np.append(np.percentile(values, percent), np.percentile(drawn, percent, axis=1)))
