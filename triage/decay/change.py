"""Has B begun to grow? A sequential test on a run's blocks of frames, with bounded memory.

Damage only grows. Against a constant B stands one that grows linearly from some frame on: the generalised likelihood ratio of Siegmund &
Venkatraman (Ann. Stat. 23 (1995) 255) over all beginnings, one-sided. Anisotropic diffraction makes the apparent B go with twice the
rotation angle (a tensor of rank two, turned); a nuisance with a prior, told from growth once the angle is wide enough. So is an error of B
that goes with the logarithm of the scale: what the correction of the detection threshold leaves where a crystal leaves the beam.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_Block = tuple[float, float, float, float]

_FREE_LOOKS, _PRICE_OF_LOOKS = 10.0, 4.0
"""Blocks up to which looking again costs nothing; what z^2 is lessened by with each e-fold more, so that long runs alarm no oftener than
short ones. Two would do for beginnings alone; blocks that are not quite independent ask for more (training runs)."""
MOST_BLOCKS = 64
"""When there are more, neighbours are joined two by two."""
LEAST_BLOCKS = 4
ANISOTROPY_A2 = 2.0
"""Standard deviation of the amplitude of the apparent B over the angle."""
SCALE_ERROR_A2 = 2.0
"""Standard deviation of the error of B for each e-fold in the scale."""
SCALE_BLUR_A2 = 3.0
"""Standard deviation of a block's B for each e-fold that its scale has fallen: how well the threshold's correction holds."""
_FLOOR_A2, _STILL_FLOOR_A2 = 0.1, 0.3
"""Standard deviation of each block's B beyond what is counted: of rotations, and of stills, where next to nothing else is left."""
_USUAL_NOISE, _USUAL_BLOCKS = 0.7, 6.0
"""Variance of blocks over the stated one before they are looked at, and how many blocks that counts for."""


@dataclass(frozen=True, slots=True)
class Change:
    """What the test says."""

    z: float
    """Of the growth, at the likeliest beginning, in standard deviations, less what so many looks would show anyway."""
    since: int
    """Frame of the likeliest beginning."""
    noise: float
    """Variance of the blocks about the growth, over the stated one."""


class ChangeTest:
    """Blocks of (frame, B, variance, logarithm of the scale), oldest first."""

    def __init__(self, step_deg: float) -> None:
        self._step = math.radians(step_deg)
        self._blocks: list[_Block] = []
        self._noise = _USUAL_NOISE
        self._looks = 0
        turning = [ANISOTROPY_A2**-2] * (2 if self._step else 0)
        self._prior = np.diag([0.0, SCALE_ERROR_A2**-2, *turning])  # inverse covariance of the nuisance

    def __len__(self) -> int:
        return len(self._blocks)

    def __bool__(self) -> bool:
        return True

    def add(self, frame: float, delta_B: float, sigma: float, log_scale: float = 0.0) -> None:
        """Takes a block: its middle frame, B in A^2 with its standard deviation, its scale. Too many, and older ones are joined."""
        self._blocks.append((frame, delta_B, sigma**2, log_scale))
        self._looks += 1
        if len(self._blocks) > MOST_BLOCKS:
            pairs = zip(self._blocks[:-1:2], self._blocks[1::2], strict=True)
            self._blocks = [_joined(*pair) for pair in pairs] + self._blocks[-1:]

    def result(self) -> Change | None:
        """The likeliest growth; None before there are LEAST_BLOCKS blocks."""
        if len(self._blocks) < LEAST_BLOCKS:
            return None
        frame, b, variance, log_scale = np.array(self._blocks).T
        floor = _FLOOR_A2 if self._step else _STILL_FLOOR_A2
        weight = 1.0 / (variance * self._noise + floor**2 + (SCALE_BLUR_A2 * np.minimum(log_scale, 0.0)) ** 2)
        starts = frame[:-2]
        ramps = np.maximum(frame - starts[:, None], 0.0) / max(frame[-1] - frame[0], 1e-9)  # (starts, n)
        both = np.concatenate([ramps, b[None]])
        weighted = both * weight
        nuisance = self._nuisance(frame, log_scale)
        inner = weighted @ nuisance.T
        solved = np.linalg.solve((nuisance * weight) @ nuisance.T + self._prior, inner.T)
        along = weighted @ b - inner @ solved[:, -1]  # products with b, the nuisance projected out
        size = (both * weighted).sum(axis=1) - (inner * solved.T).sum(axis=1)
        z = along[:-1] / np.sqrt(np.maximum(size[:-1], 1e-12))
        best = int(np.argmax(z))
        left = max(float(along[-1]) - max(float(z[best]), 0.0) ** 2, 0.0) * self._noise
        freedom = max(len(b) - 2.0, 0.0)  # constant and growth; the others are held by their priors
        self._noise = (left + _USUAL_NOISE * _USUAL_BLOCKS) / (freedom + _USUAL_BLOCKS)
        return Change(z=_discounted(float(z[best]), self._looks), since=int(starts[best]), noise=self._noise)

    def _nuisance(self, frame: Floats, log_scale: Floats) -> Floats:
        """A constant, the scale and, for rotations, the two components of a tensor that turns; (2 or 4, n)."""
        rows = [np.ones(len(frame)), log_scale]
        if self._step:
            angle = 2.0 * self._step * frame
            rows += [np.cos(angle), np.sin(angle)]
        return np.array(rows)


def _discounted(z: float, looks: int) -> float:
    """What is left of z where so many looks were taken."""
    return math.sqrt(max(z * z - _PRICE_OF_LOOKS * math.log(max(looks / _FREE_LOOKS, 1.0)), 0.0)) if z > 0 else z


def _joined(one: _Block, other: _Block) -> _Block:
    """Two neighbours as one, by weight."""
    total = 1.0 / one[2] + 1.0 / other[2]
    share = 1.0 / (one[2] * total)
    frame, b, log_scale = (share * one[k] + (1.0 - share) * other[k] for k in (0, 1, 3))
    return frame, b, 1.0 / total, log_scale
