"""The head that compares a frame with others of its run, from what the network saw in each: it travels in the model file.

The network gives each frame an embedding, the last three numbers of which are its estimates of the fall-off with resolution, of the scale
and of the mosaicity. Both are learnt on rendered frames of simulated runs (`python -m training.decay pairs`, docs/decay.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ESTIMATES = ("log_B", "log_photons", "log_mosaicity")
"""What the last numbers of an embedding estimate of a frame, each less its mean over the frames learnt from, over their spread."""
_ARRAYS = ("inner", "inner_bias", "outer", "straight")


@dataclass(frozen=True, slots=True, eq=False)
class PairHead:
    """Log-odds of damage from embeddings (n,) of the run's reference and of now: one layer of hidden units beside a straight term."""

    inner: Floats
    """(hidden, 2 n - ESTIMATES): of the difference, and of the reference without its estimates."""
    inner_bias: Floats
    """(hidden,)"""
    outer: Floats
    """(hidden,)"""
    straight: Floats
    """(n,): what each difference adds past the hidden units."""
    bias: float

    def __post_init__(self) -> None:
        """Raises ValueError when the sizes do not fit."""
        hidden, n = len(self.outer), len(self.straight)
        if self.inner.shape != (hidden, 2 * n - len(ESTIMATES)) or self.inner_bias.shape != (hidden,):
            shapes = ", ".join(f"{name} {getattr(self, name).shape}" for name in _ARRAYS)
            raise ValueError(f"the sizes of its pair head do not fit one another: {shapes}")

    def log_odds(self, reference: Sequence[Floats], now: Sequence[Floats]) -> float:
        """That the outer shell has lost more than LOSS_MEANT of `triage.decay.evidence`; some frames' embeddings (n,) each."""
        then = np.mean(reference, axis=0)
        change = np.mean(now, axis=0) - then
        hidden = np.tanh(self.inner @ np.concatenate([change, then[: -len(ESTIMATES)]]) + self.inner_bias)
        return float(self.outer @ hidden + self.straight @ change) + self.bias

    def to_json(self) -> dict[str, Any]:
        """As it is written into the model file."""
        return {**{name: np.round(getattr(self, name), 5).tolist() for name in _ARRAYS}, "bias": round(self.bias, 5)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PairHead:
        """Raises KeyError or ValueError when something is absent or does not fit."""
        inner, inner_bias, outer, straight = (np.array(value[name], dtype=np.float64) for name in _ARRAYS)
        return cls(inner, inner_bias, outer, straight, bias=float(value["bias"]))
