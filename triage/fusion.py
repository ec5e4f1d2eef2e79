"""Several lattices: the network's probability fused with what indexing made of the same frame.

A logistic regression of the truth on the network's logit and on the classical evidence; training/fusion.py fits it on simulated frames.
A frame that was not indexed, or that the fit has never seen the like of, keeps the network's probability.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from triage.core import Indexed, IndexingStatus, TriageError

FEATURES = ("constant", "logit_network", "unexplained", "second", "second_share", "log_spots")
WEIGHTS = Path(__file__).with_name("fusion.json")
_LIMIT = 1e-6  # probabilities are kept so far from 0 and 1


class FusionError(TriageError):
    """The file of weights cannot be used."""


def evidence(p_network: float, indexed: Indexed, n_spots: int) -> tuple[float, ...] | None:
    """FEATURES of an indexed frame, `n_spots` off the ice rings; None where indexing says nothing.

    `unexplained` is the share that the first lattice leaves, `second` whether another was found, `second_share` its spots over the
    first one's, `log_spots` ln(n / 100).
    """
    if indexed.status is not IndexingStatus.INDEXED or not indexed.solutions or indexed.fraction_unexplained is None:
        return None
    first, *others = indexed.solutions
    share = others[0].n_indexed / max(first.n_indexed, 1) if others else 0.0
    return (1.0, logit(p_network), indexed.fraction_unexplained, float(bool(others)), min(share, 1.0), math.log(max(n_spots, 1) / 100.0))


def logit(p: float) -> float:
    """ln(p / (1 - p)), finite."""
    p = min(max(p, _LIMIT), 1.0 - _LIMIT)
    return math.log(p / (1.0 - p))


def expit(x: float) -> float:
    """The inverse of `logit`."""
    return 1.0 / (1.0 + math.exp(-min(max(x, -50.0), 50.0)))


@dataclass(frozen=True, slots=True)
class Fusion:
    """The weights, one for each of FEATURES."""

    weights: tuple[float, ...]

    def fused(self, p_network: float, indexed: Indexed, n_spots: int) -> float:
        """The probability of several lattices given both witnesses."""
        features = evidence(p_network, indexed, n_spots)
        if features is None:
            return p_network
        return expit(sum(weight * feature for weight, feature in zip(self.weights, features, strict=True)))


def as_weights(tree: Mapping[str, object]) -> Fusion:
    """The fusion that a JSON object holds under `weights`. Raises FusionError where one is absent or no finite number."""
    found = tree.get("weights")
    named = found if isinstance(found, Mapping) else {}
    if set(named) != set(FEATURES):
        raise FusionError(f"weights of the fusion: {sorted(named)} are there, {sorted(FEATURES)} are wanted")
    weights = tuple(float(named[name]) for name in FEATURES)
    if not all(map(math.isfinite, weights)):
        raise FusionError("weights of the fusion: not all are finite")
    return Fusion(weights)


@lru_cache(maxsize=1)
def released() -> Fusion:
    """The fusion that comes with triage. Raises FusionError where its file is broken."""
    return as_weights(json.loads(WEIGHTS.read_text(encoding="utf-8")))
