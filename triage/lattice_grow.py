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
    """Fills the normal equations of the spots whose three indices are nearly whole; returns the number of these.

    A spot's three indices have the same derivatives, each by its own three elements of the basis and its own offset, and by the beam
    through its vector alone: sums over spots are made of q, of its moves and of what is left of the indices, and put together at the end.
    """
    basis, shifts, moved = lattice
    beam, used = len(equations[1]) - 12, 0.0
    squares, sums, by_move = np.zeros((3, 3)), np.zeros(3), np.zeros((3, 6))
    move_squares, move_sums = np.zeros((6, 6)), np.zeros(6)
    left, left_sums, left_by_move = np.zeros((3, 3)), np.zeros(3), np.zeros((3, 6))
    here, off, move = np.empty(3), np.empty(3), np.empty(6)
    for i in range(len(q)):
        for j in range(3):
            here[j] = q[i, j] + moves[i, j, 0] * moved[0] + moves[i, j, 1] * moved[1]
        for k in range(3):
            off[k] = off_whole(here[0] * basis[k, 0] + here[1] * basis[k, 1] + here[2] * basis[k, 2] - shifts[k])
        if max(abs(off[0]), abs(off[1]), abs(off[2])) > limit:
            continue
        used += 1.0
        for j in range(3):
            sums[j] += here[j]
            left_sums[j] += off[j]
            for k in range(3):
                squares[j, k] += here[j] * here[k]
                left[j, k] += off[j] * here[k]
        if beam > 0:
            for j in range(6):
                move[j] = moves[i, j // 2, j % 2]
            _add_moves(move, here, off, (move_sums, move_squares, by_move, left_by_move))
    _put_together(equations, basis, used, (squares, sums, by_move), (move_squares, move_sums), (left, left_sums, left_by_move))
    return used


@_jit
def _add_moves(move, here, off, sums):  # type: ignore[no-untyped-def]
    """Adds what the normal equations need of one spot's moves with the beam (6,): themselves, and by themselves, its q and its misfits."""
    move_sums, move_squares, by_move, left_by_move = sums
    for j in range(6):
        move_sums[j] += move[j]
        for k in range(6):
            move_squares[j, k] += move[j] * move[k]
    for j in range(3):
        for k in range(6):
            by_move[j, k] += here[j] * move[k]
            left_by_move[j, k] += off[j] * move[k]


@_jit
def _put_together(equations, basis, used, of_q, of_moves, of_left):  # type: ignore[no-untyped-def]
    """Fills the normal equations from the sums over `used` spots (`_sum_up`)."""
    normal, right = equations
    (squares, sums, by_move), (move_squares, move_sums), (left, left_sums, left_by_move) = of_q, of_moves, of_left
    normal[:], right[:] = 0.0, 0.0
    for k in range(3):
        normal[9 + k, 9 + k] = used
        right[9 + k] = left_sums[k]
        for j in range(3):
            right[3 * k + j] = -left[k, j]
            normal[3 * k + j, 9 + k] = normal[9 + k, 3 * k + j] = -sums[j]
            for m in range(3):
                normal[3 * k + j, 3 * k + m] = squares[j, m]
        for c in range(len(right) - 12):
            for i in range(3):
                normal[9 + k, 12 + c] -= basis[k, i] * move_sums[2 * i + c]
                right[12 + c] -= basis[k, i] * left_by_move[k, 2 * i + c]
                for j in range(3):
                    normal[3 * k + j, 12 + c] += basis[k, i] * by_move[j, 2 * i + c]
                    for d in range(2):
                        normal[12 + c, 12 + d] += basis[k, i] * basis[k, j] * move_squares[2 * i + c, 2 * j + d]
            normal[12 + c, 9 + k] = normal[9 + k, 12 + c]
            for j in range(3):
                normal[12 + c, 3 * k + j] = normal[3 * k + j, 12 + c]
