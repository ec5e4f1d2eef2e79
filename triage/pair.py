"""The head that compares a frame with others of its run, from how the network sees each: it travels in the model file.

The numbers that say how a frame appears, and the head, are learnt on rendered frames of simulated runs
(`python -m training.decay pairs`, docs/decay.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

APPEARANCE = ("log_inverse_d", "log_B", "log_photons", "log_mosaicity")
"""Of one frame, as the network sees it: the resolution limit, and estimates of the fall-off with resolution, of the scale and of the
sharpness of spots, the last three less their mean over the frames learnt from, over their spread."""
_ARRAYS = ("inner", "inner_bias", "outer", "straight")


@dataclass(frozen=True, slots=True, eq=False)
class PairHead:
    """Log-odds of damage from the appearance (n,) of the run's reference and of now: hidden units beside a straight term."""

    inner: Floats
    """(hidden, 2 n): of the difference, and of the reference."""
    inner_bias: Floats
    """(hidden,)"""
    outer: Floats
    """(hidden,)"""
    straight: Floats
    """(2 n,): what each adds past the hidden units."""
    bias: float

    def __post_init__(self) -> None:
        """Raises ValueError when the sizes do not fit."""
        hidden, n = len(self.outer), 2 * len(APPEARANCE)
        if self.inner.shape != (hidden, n) or self.inner_bias.shape != (hidden,) or self.straight.shape != (n,):
            shapes = ", ".join(f"{name} {getattr(self, name).shape}" for name in _ARRAYS)
            raise ValueError(f"the sizes of its pair head do not fit: {shapes}")

    def log_odds(self, reference: Sequence[Floats], now: Sequence[Floats]) -> float:
        """That the outer shell has lost more than LOSS_MEANT of `triage.decay.evidence`; the appearance (n,) of some frames each."""
        then = np.mean(reference, axis=0)
        x = np.concatenate([np.mean(now, axis=0) - then, then])
        return float(self.outer @ np.tanh(self.inner @ x + self.inner_bias) + self.straight @ x) + self.bias

    def to_json(self) -> dict[str, Any]:
        """As it is written into the model file."""
        return {**{name: np.round(getattr(self, name), 5).tolist() for name in _ARRAYS}, "bias": round(self.bias, 5)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PairHead:
        """Raises KeyError or ValueError when something is absent or does not fit."""
        inner, inner_bias, outer, straight = (np.array(value[name], dtype=np.float64) for name in _ARRAYS)
        return cls(inner, inner_bias, outer, straight, bias=float(value["bias"]))
