"""The evidence as one probability: small networks, learnt on simulated runs by `python -m training.decay learn` (docs/decay.md)."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from triage.decay.evidence import FEATURES, Floats

UNSEEN = 0.1
"""Probability while there are too few blocks for any evidence."""


class Layers(NamedTuple):
    """Of every member: (members, FEATURES, hidden), (members, hidden), (members, hidden), (members,)."""

    inner: Floats
    inner_bias: Floats
    outer: Floats
    outer_bias: Floats


class Fusion:
    """Mean of the logits of some networks of one hidden layer, on standardised features."""

    def __init__(self, mean: Floats, spread: Floats, layers: Layers, slope: float = 1.0, offset: float = 0.0) -> None:
        self._mean, self._spread, self._layers = mean, spread, layers
        self._slope, self._offset = slope, offset

    def probability(self, features: Floats) -> float:
        """That the outer shell has lost more than LOSS_MEANT, given (FEATURES,)."""
        inner, inner_bias, outer, outer_bias = self._layers
        x = np.clip((features - self._mean) / self._spread, -5.0, 5.0)
        hidden = np.tanh(x @ inner + inner_bias)
        logit = self._slope * float(((hidden * outer).sum(axis=1) + outer_bias).mean()) + self._offset
        return float(1.0 / (1.0 + np.exp(-np.clip(logit, -30.0, 30.0))))


LOSS_MEANT = 0.15
"""Of the outer shell, that a probability speaks of."""


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
    return Fusion(np.array(found["mean"]), np.array(found["spread"]), layers, found["slope"], found["offset"])
