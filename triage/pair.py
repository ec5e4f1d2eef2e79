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
    early: tuple[float, float] = (0.0, 1.0)
    """Offset and slope of these log-odds where nothing else is known yet."""
    joined: tuple[float, float, float] = (0.0, 1.0, 0.0)
    """Offset, and weights of the tracker's log-odds and of these, where the tracker has evidence of its own."""

    def __post_init__(self) -> None:
        """Raises ValueError when the sizes do not fit."""
        hidden, n = len(self.outer), 2 * len(APPEARANCE)
        if self.inner.shape != (hidden, n) or self.inner_bias.shape != (hidden,) or self.straight.shape != (n,):
            shapes = ", ".join(f"{name} {getattr(self, name).shape}" for name in _ARRAYS)
            raise ValueError(f"the sizes of its pair head do not fit: {shapes}")

    def log_odds(self, reference: Sequence[Floats], now: Sequence[Floats]) -> float:
        """That the outer shell has lost more than LOSS_MEANT of `triage.decay.evidence`; the appearance (n,) of some frames each."""
        then = np.mean(reference, axis=0)
        return float(self.of(np.concatenate([np.mean(now, axis=0) - then, then])))

    def of(self, pairs: Floats) -> Floats:
        """Log-odds (...,) of differences beside the reference (..., 2 n)."""
        return np.asarray(np.tanh(pairs @ self.inner.T + self.inner_bias) @ self.outer + pairs @ self.straight + self.bias)

    def with_tracker(self, network: float, tracker: float | None) -> float:
        """Log-odds from both: these, and the tracker's where it has any."""
        if tracker is None:
            return self.early[0] + self.early[1] * network
        return self.joined[0] + self.joined[1] * tracker + self.joined[2] * network

    def to_json(self) -> dict[str, Any]:
        """As it is written into the model file."""
        arrays = {name: np.round(getattr(self, name), 5).tolist() for name in _ARRAYS}
        weights = {name: [round(each, 5) for each in getattr(self, name)] for name in ("early", "joined")}
        return {**arrays, "bias": round(self.bias, 5), **weights}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PairHead:
        """Raises KeyError or ValueError when something is absent or does not fit."""
        inner, inner_bias, outer, straight = (np.array(value[name], dtype=np.float64) for name in _ARRAYS)
        offset, slope = (float(each) for each in value["early"])
        joined = [float(each) for each in value["joined"]]
        if len(joined) != 3:
            raise ValueError(f"its pair head is joined by {len(joined)} numbers, not 3")
        weights = joined[0], joined[1], joined[2]
        return cls(inner, inner_bias, outer, straight, float(value["bias"]), early=(offset, slope), joined=weights)
