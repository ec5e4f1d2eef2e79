"""Lattices of an unknown cell: candidate vectors, bases of three, each brought onto the spots; the least likely to be chance is best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from triage.indexing.fit import START_PX, START_RAD, fit
from triage.indexing.observed import Bools, Floats, Observed
from triage.indexing.significance import chance
from triage.indexing.vectors import join, refine_vectors
from triage.lattice import peaks_of, transform

ALL_NINE = np.eye(9).reshape(9, 3, 3)
"""Every element of A free."""
TRANSFORMED = 64
"""Innermost spots in the transform."""
_STEP = 0.25  # of the grid across the beam, in units of 1 / s_c (triage.lattice)
_LONGEST_A = 160.0  # vectors sought at least this long where spots go far out
_HALF = (144, 240)  # grid points from the origin to the edge: at least, at most
_MOST_PLANES = 41
_PEAKS, _VECTORS, _BASES = 80, 30, 24


@dataclass(slots=True, kw_only=True, eq=False)
class Trial:
    """A lattice as fitted so far."""

    a: Floats
    """(3, 3): columns a*, b*, c* of a primitive cell, 1/A."""
    shift_px: Floats
    """(2,) beam centre, against where it is stated."""
    spread: Floats
    """(2,) standard deviations: px across the ray, rad along it."""
    inside: Bools
    """(n,) spots that it explains."""
    hkl: Floats
    """(n, 3)."""
    away: Floats
    """(n, 2) from their points, 1/A across and along."""
    log10_chance: float
    """That so many spots lie on its points by chance (`triage.indexing.significance`), before any number of trials."""

    @property
    def n(self) -> int:
        """How many spots it explains, each reflection once."""
        return int(self.inside.sum())


def settle(observed: Observed, use: Bools, a: Floats, *, ways: Floats = ALL_NINE, rounds: int = 6, like: Trial | None = None) -> Trial:
    """`a` fitted to the spots in `use`, starting from the shift and spread of `like` where given."""
    a = np.array(a, dtype=np.float64)
    shift = np.zeros(2) if like is None else like.shift_px.copy()
    spread = np.array([START_PX, START_RAD + observed.half_wedge_rad]) if like is None else like.spread.copy()
    inside, hkl, away = fit(a, shift, spread, ways, observed.measured, observed.per_px_A, observed.s, use, rounds)
    trial = Trial(a=a, shift_px=shift, spread=spread, inside=inside, hkl=hkl, away=away, log10_chance=0.0)
    trial.log10_chance = chance(observed, use, trial)
    return trial


def candidates(observed: Observed, use: Bools) -> list[Floats]:
    """Matrices A (3, 3) of lattices that may explain the spots in `use`, unfitted."""
    q = np.ascontiguousarray(observed.measured.q[use])
    n_inner = min(len(q), TRANSFORMED)
    s_c = max(float(observed.s[use][n_inner - 1]), 0.02)
    wavelength_A = float(np.linalg.norm(observed.measured.ray[0] - np.array([0.0, 0.0, 1.0])) / observed.s[0])
    step = min(8.0, 2.0 / (wavelength_A * s_c))  # along the beam the sphere is thin, and coarser steps resolve it
    half = int(np.clip(_LONGEST_A * s_c / _STEP, *_HALF))
    planes = min(_MOST_PLANES, 2 * int(half * _STEP / step) + 1)
    power = np.empty((planes, half + 1, 2 * half + 1), dtype=np.float32)
    transform(q[:n_inner].astype(np.float32), np.float32(s_c), np.float32(step), power)
    peaks = peaks_of(power, np.float32(step), n_inner, _PEAKS)
    vectors, on, _ = refine_vectors(q, min(n_inner, 32), peaks, s_c, _VECTORS)
    bases, _ = join(vectors, on, _BASES)
    return [np.linalg.inv(basis) for basis in bases]


def unknown_cell(observed: Observed, use: Bools) -> list[Trial]:
    """Lattices that explain spots in `use`, the least likely to be chance first."""
    trials = [settle(observed, use, a) for a in candidates(observed, use)]
    return sorted(trials, key=lambda trial: trial.log10_chance)
