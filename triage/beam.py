"""Where a run's lattices have the beam: frames of one run share it, so what several agree on is the run's."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

_LEAST_SPOTS = 20
"""Of its first lattice, below which a frame does not tell where the beam is."""
_KEPT = 50
"""Last frames that are remembered."""
_LEAST = 3
"""Frames that must agree."""
_WITHIN_PX = 1.0
"""Of one of them: a sharp lattice of 30 spots tells the centre to some tenths of a pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreedBeam:
    """Where more than half of a run's frames have the beam."""

    shift_px: tuple[float, float]
    """From where it is stated (slow, fast): the median of those that agree."""
    scatter_px: float
    """Median distance of those from it."""
    n: int
    """How many agree."""
    first_frame: int
    """The earliest of them."""


class BeamCentres:
    """The beam centres of one run's frames, fed in any order. Memory is bounded."""

    def __init__(self) -> None:
        self._last: deque[tuple[int, float, float]] = deque(maxlen=_KEPT)

    def add(self, frame: int, shift_px: tuple[float, float] | None, n_indexed: int) -> None:
        """Where a frame's first lattice, of so many spots, has the beam, from where it is stated; None where that is not told."""
        if shift_px is not None and n_indexed >= _LEAST_SPOTS:
            self._last.append((frame, *shift_px))

    def agreed(self) -> AgreedBeam | None:
        """What at least three frames, and more than half of the last ones, agree on."""
        if len(self._last) < _LEAST:
            return None
        seen = np.array(self._last)  # (n, 3)
        near = np.linalg.norm(seen[:, None, 1:] - seen[None, :, 1:], axis=2) < _WITHIN_PX
        like = near[int(near.sum(axis=1).argmax())]
        if like.sum() < _LEAST or 2 * like.sum() <= len(seen):
            return None
        middle = np.median(seen[like, 1:], axis=0)
        return AgreedBeam(
            shift_px=(float(middle[0]), float(middle[1])),
            scatter_px=float(np.median(np.linalg.norm(seen[like, 1:] - middle, axis=1))),
            n=int(like.sum()),
            first_frame=int(seen[like, 0].min()),
        )
