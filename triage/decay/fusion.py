"""The evidence as a probability, and as what the flag watches: small networks, learnt on simulated runs by `python -m training.decay learn`
(docs/decay.md).
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from triage.decay.evidence import FEATURES, Floats

_Z, _STILLS, _LOG_FRAMES = (FEATURES.index(name) for name in ("z", "stills", "log_frames"))
_FEW_FRAMES = math.log(60.0)
FARTHEST = 5.0
"""Standard deviations beyond which a feature counts no more."""
_DOUBT_Z, _PER_Z = 4.0, 0.6
"""Significance of the growth of B past which each unit adds so much to the alarm's log-odds: chosen out of fold on training runs, where it
costs no false alarm. Networks that learn from runs damaged from their start on hold back where growth sets in late and steeply."""
UNSEEN = 0.1
"""Either probability while there are too few blocks for any evidence."""


class Said(NamedTuple):
    """That the outer shell has lost more than LOSS_MEANT of `evidence`."""

    probability: float
    """Calibrated: of the blocks of which 0.7 is said, 7 in 10 have."""
    alarm: float
    """Evened over kinds and lengths of runs, so that one level is one rate of false alarms: the flag watches it."""


class Layers(NamedTuple):
    """Of every member: (members, FEATURES, hidden), (members, hidden), (members, hidden), (members,), (members, FEATURES)."""

    inner: Floats
    inner_bias: Floats
    outer: Floats
    outer_bias: Floats
    straight: Floats
    """What each feature adds to the log-odds past the hidden units: evidence beyond doubt is not held back by their saturation."""


def beyond_doubt(features: Floats) -> Floats:
    """What a growth of B beyond doubt adds to the alarm's log-odds of (..., FEATURES); (...,)."""
    return np.asarray(_PER_Z * np.maximum(np.sinh(features[..., _Z]) - _DOUBT_Z, 0.0))


def evened(features: Floats, even: tuple[float, float]) -> Floats:
    """What is added to the log-odds so that one level is one rate of false alarms: for stills, and for each e-fold of frames past 60."""
    return np.asarray(even[0] * features[..., _STILLS] - even[1] * np.maximum(features[..., _LOG_FRAMES] - _FEW_FRAMES, 0.0))


def calibrated(features: Floats, calibration: tuple[float, float]) -> Floats:
    """What is added to the log-odds so that they are right in stills too: so much for stills, and a share of `beyond_doubt` for all."""
    return np.asarray(calibration[0] * features[..., _STILLS] + calibration[1] * beyond_doubt(features))


class Fusion:
    """Mean of the logits of some networks of one hidden layer beside a straight term, on standardised features."""

    def __init__(
        self,
        mean: Floats,
        spread: Floats,
        layers: Layers,
        *,
        slope: float = 1.0,
        offset: float = 0.0,
        calibration: tuple[float, float] = (0.0, 1.0),
        even: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """`slope` and `offset` calibrate the networks' mean over all runs; `calibration` and `even` are those of the functions."""
        self._mean, self._spread = mean, spread
        self._inner = np.concatenate(list(layers.inner), axis=1)  # members side by side: (FEATURES, members hidden)
        self._inner_bias, self._outer = layers.inner_bias.ravel(), layers.outer.ravel() / len(layers.outer)
        self._straight, self._bias = layers.straight.mean(axis=0), float(layers.outer_bias.mean())
        self._slope, self._offset, self._calibration, self._even = slope, offset, calibration, even

    def says(self, features: Floats) -> Said:
        """Both probabilities, given (FEATURES,)."""
        x = np.minimum(np.maximum((features - self._mean) / self._spread, -FARTHEST), FARTHEST)
        found = float(np.tanh(x @ self._inner + self._inner_bias) @ self._outer + x @ self._straight) + self._bias
        found = self._slope * found + self._offset
        added = calibrated(features, self._calibration), beyond_doubt(features) + evened(features, self._even)
        return Said(*(probability_of(found + float(each)) for each in added))

    def probability(self, features: Floats) -> float:
        """The calibrated one alone."""
        return self.says(features).probability


def probability_of(logit: float) -> float:
    """The probability whose logarithm of the odds this is."""
    return 1.0 / (1.0 + math.exp(-min(max(logit, -30.0), 30.0)))


@lru_cache(maxsize=1)
def told() -> dict[str, Any]:
    """What was learnt, as it comes with the package."""
    found: dict[str, Any] = json.loads(files("triage.decay").joinpath("fusion.json").read_text())
    if tuple(found["features"]) != FEATURES:
        raise ValueError("triage/decay/fusion.json is of other features: learn it anew with `python -m training.decay learn`")
    return found


def released() -> Fusion:
    """The one that comes with the package."""
    found = told()
    layers = Layers(*(np.array(found[name]) for name in Layers._fields))
    numbers: dict[str, Any] = {name: found[name] for name in ("slope", "offset")}
    numbers |= {name: tuple(found[name]) for name in ("calibration", "even")}
    return Fusion(np.array(found["mean"]), np.array(found["spread"]), layers, **numbers)
