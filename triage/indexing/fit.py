"""A trial lattice brought onto the spots: assignment, least squares, and what the lattice's own spread is, in turns."""

from __future__ import annotations

import math

import numba
import numpy as np

from triage.indexing.kernels import assign, belongs, step

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")

DOMAIN_PER_A = 3e-4
"""Least standard deviation along the ray: coherent blocks of 1,400 A (Nave, Acta Cryst. D54 (1998) 848)."""
START_PX, LEAST_PX, MOST_PX = 1.3, 0.35, 1.6
"""Standard deviations across the ray: to start with, and within which it is measured."""
START_RAD, LEAST_RAD, MOST_RAD = 0.006, 0.0007, 0.014
"""The same along the ray, an angle at the origin (mosaicity 0.35, 0.04 and 0.8 deg)."""
_RAYLEIGH_MEDIAN = 1.1774
_HALF_NORMAL_MEDIAN = 0.6745
_ROOM = 1.1  # the spread is measured from what lies within CUT of the last one: a little too small
_LEAST = 5  # spots to measure a spread from


@_jit
def sigmas(per_px_A, s, px, rad, across, along):  # type: ignore[no-untyped-def]
    """Fills the standard deviations (n,) across and along the ray, 1/A."""
    for i in range(len(s)):
        across[i] = px * per_px_A[i]
        along[i] = math.sqrt(DOMAIN_PER_A**2 + (rad * s[i]) ** 2)


@_jit
def _measure(inside, away, per_px_A, s):  # type: ignore[no-untyped-def]
    """The spread of the spots `inside`: px across, rad along."""
    n = inside.sum()
    if n < _LEAST:
        return START_PX, START_RAD
    across, along = np.empty(n), np.empty(n)
    k = 0
    for i in range(len(s)):
        if inside[i]:
            across[k], along[k] = away[i, 0] / per_px_A[i], math.sqrt(max(away[i, 1] ** 2 - 0.45 * DOMAIN_PER_A**2, 0.0)) / s[i]
            k += 1
    px = _ROOM * np.median(across) / _RAYLEIGH_MEDIAN
    rad = _ROOM * np.median(along) / _HALF_NORMAL_MEDIAN
    return min(max(px, LEAST_PX), MOST_PX), min(max(rad, LEAST_RAD), MOST_RAD)


@_jit
def shifted(q, per_px, shift_px, result):  # type: ignore[no-untyped-def]
    """Fills what the spots' q (n, 3) are with the beam `shift_px` (2,) from where it is stated."""
    for i in range(len(q)):
        for j in range(3):
            result[i, j] = q[i, j] - per_px[i, j, 0] * shift_px[0] - per_px[i, j, 1] * shift_px[1]


@_jit
def fit(a, shift_px, spread, held, spots, spin, per_px_A, s, use, rounds):  # type: ignore[no-untyped-def]
    """Fits a (3, 3), the beam's shift (2,) and the spread (px, rad), all in place, to the spots that are in `use` (n,).

    `held`, what a is changed by, is as `triage.indexing.kernels.step` has it, and changed, too. Returns (the spots inside (n,), hkl (n, 3),
    away (n, 2) in 1/A); nobody is inside where the fit fails. Spots that are not in use are inf away and have no hkl.
    """
    q, ray, per_px = spots
    n = len(q)
    hkl, away = np.zeros((n, 3)), np.full((n, 2), np.inf)
    inside = np.zeros(n, dtype=np.bool_)
    across, along = np.empty(n), np.empty(n)
    moved = np.empty((n, 3))
    sigmas(per_px_A, s, spread[0], spread[1], across, along)
    for k in range(rounds + 1):
        shifted(q, per_px, shift_px, moved)
        assign(a, moved, ray, spin, across, along, use, hkl, away)
        belongs(hkl, away, across, along, inside)
        if k == rounds:
            break
        if not step(a, shift_px, held, spots, spin, hkl, inside, across, along):
            inside[:] = False
            break
        if k % 2 == 1:
            spread[0], spread[1] = _measure(inside, away, per_px_A, s)
            sigmas(per_px_A, s, spread[0], spread[1], across, along)
    return inside, hkl, away
