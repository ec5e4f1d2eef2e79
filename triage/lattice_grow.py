"""A lattice refined from the innermost spots outwards, with the beam centre free; and the lattices it is a part of.

A beam centre that the header has wrong by s moves every spot's scattering vector q by a constant, by something linear in q and by
something quadratic. Offsets of the indices take up the first and the basis the second, so that the innermost spots are indexed in any
case; the quadratic rest, which makes the outer spots miss, tells s. Least squares on the indices (Gauss-Newton), more and more spots.
"""

from __future__ import annotations

import numba
import numpy as np

from triage.cholesky import solve_in_place
from triage.lattice import off_whole

_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "nnan", "ninf", "contract", "arcp"})

_UNKNOWNS = 14  # nine of the basis, three offsets of the indices, two of the beam centre
_FIRST = 48  # spots refined on at first; half as many again each time
_GROWTH = 1.45
_LIMIT = 0.25  # of an index, for a spot to be refined on
_TIGHTER, _LAST_LIMIT = 0.65, 0.08  # when all spots are in, the limit shrinks by this, down to that: another lattice's stay out
_EXPECTED = 0.1  # standard deviation of an index, against which the beam centre's own uncertainty is weighed
_FEWEST = 8
_ROUNDS = 2


@_jit
def grown(q, moves, basis, shifts, beam_px):  # type: ignore[no-untyped-def]
    """Refines a basis (3, 3; rows, A) and the offsets of its indices (3,), in place, on spots q (n, 3), innermost first.

    `moves` (n, 3, 2): how q changes with the beam centre, 1/A per pixel (slow, fast); `beam_px`: its standard deviation, 0 to hold it.
    Returns the move of the beam centre (2,) in pixels.
    """
    n, moved = len(q), np.zeros(2)
    unknowns = _UNKNOWNS if beam_px > 0 else _UNKNOWNS - 2
    normal, right = np.empty((unknowns, unknowns)), np.empty(unknowns)
    number, limit = min(n, _FIRST), _LIMIT
    while True:
        for _ in range(_ROUNDS):
            if _sum_up(q[:number], moves, (basis, shifts, moved), limit, (normal, right)) < _FEWEST:
                return moved
            if beam_px > 0:
                weight = (_EXPECTED / beam_px) ** 2
                for c in range(2):
                    normal[12 + c, 12 + c] += weight
                    right[12 + c] -= weight * moved[c]
            for m in range(unknowns):
                normal[m, m] += 1e-9 * (1.0 + normal[m, m])
            if not solve_in_place(normal, right):
                return moved
            basis += right[:9].reshape(3, 3)
            shifts += right[9:12]
            moved[: unknowns - 12] += right[12:]
        if number == n:
            if limit <= _LAST_LIMIT:
                return moved
            limit *= _TIGHTER
        number = min(n, int(number * _GROWTH))


@_jit
def _sum_up(q, moves, lattice, limit, equations):  # type: ignore[no-untyped-def]
    """Fills the normal equations of the spots whose three indices are nearly whole; returns the number of these."""
    basis, shifts, moved = lattice
    normal, right = equations
    unknowns, used = len(right), 0
    row, here, off = np.empty(unknowns), np.empty(3), np.empty(3)
    normal[:], right[:] = 0.0, 0.0
    for i in range(len(q)):
        for j in range(3):
            here[j] = q[i, j] + moves[i, j, 0] * moved[0] + moves[i, j, 1] * moved[1]
        for k in range(3):
            off[k] = off_whole(here[0] * basis[k, 0] + here[1] * basis[k, 1] + here[2] * basis[k, 2] - shifts[k])
        if max(abs(off[0]), abs(off[1]), abs(off[2])) > limit:
            continue
        used += 1
        for k in range(3):
            row[:] = 0.0
            for j in range(3):
                row[3 * k + j] = here[j]
            row[9 + k] = -1.0
            for c in range(unknowns - 12):
                row[12 + c] = basis[k, 0] * moves[i, 0, c] + basis[k, 1] * moves[i, 1, c] + basis[k, 2] * moves[i, 2, c]
            _add(normal, right, row, -off[k])
    return used


@_jit
def _add(normal, right, row, value):  # type: ignore[no-untyped-def]
    """Adds one equation row x = value."""
    for a in range(len(row)):
        if row[a] == 0.0:
            continue
        right[a] += row[a] * value
        for b in range(len(row)):
            normal[a, b] += row[a] * row[b]
