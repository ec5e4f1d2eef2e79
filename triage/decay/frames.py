"""One frame's spots as the tracker keeps them, and what neighbouring frames have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from triage.core import Spots
from triage.decay.shells import N_SHELLS, Floats, Ints, shell_of

MATCH_PX = 2.5
"""A spot within this distance in another frame is the same reflection: some widths of a spot, and less than most spots lie apart."""
_MOST_MATCHED = 80
"""Strongest spots that are matched: they hold most of the squared intensity."""
_BASES = 3


@dataclass(frozen=True, slots=True, eq=False)
class FrameSpots:
    """The usable spots of one frame, strongest first; arrays of length n."""

    frame: int
    shell: Ints
    intensity: Floats
    variance: Floats
    background: Floats
    s_per_A: Floats
    positions_px: Floats
    """(n, 2)"""
    appearance: Floats | None = None
    """The network's, of the whole frame; None from a model that gives none."""

    def sums(self, cut: Floats) -> Sums:
        """Over the spots above `cut` (shells,) photons."""
        above = np.flatnonzero(self.intensity >= cut[self.shell])
        shell, intensity = self.shell[above], self.intensity[above]
        return Sums(
            intensity=_summed(shell, intensity),
            count=np.bincount(shell, minlength=N_SHELLS).astype(np.float64),
            background=_summed(shell, self.background[above]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Of one frame's spots in each shell; all (shells,)."""

    intensity: Floats
    count: Floats
    background: Floats
    """Photons a pixel, summed over spots."""


def _summed(shell: Ints, weights: Floats) -> Floats:
    return np.bincount(shell, weights, N_SHELLS).astype(np.float64)


def frame_spots(frame: int, spots: Spots, appearance: Floats | None = None) -> FrameSpots:
    """Spots off the ice rings, within the shells, with finite numbers. The frame must have geometry."""
    s = np.zeros(0) if spots.inverse_d_per_A is None else np.asarray(spots.inverse_d_per_A, dtype=np.float64)
    shell = shell_of(s)
    used = np.flatnonzero(
        (shell >= 0) & (shell < N_SHELLS) & ~spots.on_ice & np.isfinite(spots.intensity) & np.isfinite(spots.sigma) & (spots.intensity > 0)
    )
    return FrameSpots(
        frame=frame,
        shell=shell[used],
        intensity=spots.intensity[used].astype(np.float64),
        variance=spots.sigma[used].astype(np.float64) ** 2,
        background=np.maximum(spots.background[used].astype(np.float64), 0.0),
        s_per_A=s[used],
        positions_px=spots.positions_px[used].astype(np.float64),
        appearance=appearance,
    )


def likeness(frames: Sequence[FrameSpots], lags: int) -> Floats:
    """How much of the squared intensity recurs in place after 1, 2, ... frames, (lags,): 1 for stills, 0 for new reflections.

    It is the correlation of summed intensities from frame to frame: of sums over reflections, only those in both are shared.
    """
    result = np.zeros(lags)
    for lag in range(1, lags + 1):
        last = len(frames) - 1 - lag
        bases = sorted({last * k // (_BASES - 1) for k in range(_BASES)}) if last >= 0 else []
        shared = [_shared(frames[base], frames[base + lag]) for base in bases]
        result[lag - 1] = sum(shared) / len(shared) if shared else 0.0
    return result


def _shared(one: FrameSpots, other: FrameSpots) -> float:
    first, second = one.intensity[:_MOST_MATCHED], other.intensity[:_MOST_MATCHED]
    whole = math.sqrt(float(first @ first) * float(second @ second))
    if whole <= 0:
        return 0.0
    here, there = one.positions_px[:_MOST_MATCHED].T, other.positions_px[:_MOST_MATCHED].T
    slow, fast = (np.abs(apart, out=apart) for apart in (np.subtract.outer(here[k], there[k]) for k in (0, 1)))
    apart = np.maximum(slow, fast, out=slow)
    nearest = apart.argmin(axis=1)
    same = np.flatnonzero(apart[np.arange(len(first)), nearest] < MATCH_PX)
    return min(float(first[same] @ second[nearest[same]]) / whole, 1.0)
