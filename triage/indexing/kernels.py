"""Inner loops of indexing: spots assigned to a lattice's points, and least squares of the lattice on them.

A lattice is its matrix A (3, 3) with columns a*, b*, c* in 1/A, so that g = A h. A spot measures g well across its ray (where it lies on
the detector) and badly along it (mosaicity, partiality and rotation let a point diffract off the Ewald sphere), so every distance is
split in two.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from triage.cholesky import solve_in_place

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")

CUT = 3.0
"""Standard deviations, across and along, within which a spot belongs to a lattice point."""
_SHIFT_SIGMA_PX = 2.0
"""Of the beam centre's error that is expected: beamlines state it to a few pixels."""
_ITSELF = 13
"""The point itself among the 27 about it."""
_NEGLIGIBLE, _LARGE = 1e-16, 1e200
"""Of a sum, what double precision cannot tell from none; and where a sum begins anew, before it overflows."""


@_jit
def inverse3(a, inverse):  # type: ignore[no-untyped-def]
    """Writes the inverse of a (3, 3); returns its determinant, of which zero means that there is none."""
    c00 = a[1, 1] * a[2, 2] - a[1, 2] * a[2, 1]
    c01 = a[1, 2] * a[2, 0] - a[1, 0] * a[2, 2]
    c02 = a[1, 0] * a[2, 1] - a[1, 1] * a[2, 0]
    determinant = a[0, 0] * c00 + a[0, 1] * c01 + a[0, 2] * c02
    if determinant == 0.0:
        return 0.0
    inverse[0, 0], inverse[1, 0], inverse[2, 0] = c00 / determinant, c01 / determinant, c02 / determinant
    inverse[0, 1] = (a[0, 2] * a[2, 1] - a[0, 1] * a[2, 2]) / determinant
    inverse[1, 1] = (a[0, 0] * a[2, 2] - a[0, 2] * a[2, 0]) / determinant
    inverse[2, 1] = (a[0, 1] * a[2, 0] - a[0, 0] * a[2, 1]) / determinant
    inverse[0, 2] = (a[0, 1] * a[1, 2] - a[0, 2] * a[1, 1]) / determinant
    inverse[1, 2] = (a[0, 2] * a[1, 0] - a[0, 0] * a[1, 2]) / determinant
    inverse[2, 2] = (a[0, 0] * a[1, 1] - a[0, 1] * a[1, 0]) / determinant
    return determinant


@_jit
def _part_of_turn(along, speed):  # type: ignore[no-untyped-def]
    """Which part (-1 to 1) of half an exposure's turn brings a point that is `along` (1/A) off the sphere onto it, or nearest."""
    return 0.0 if speed == 0.0 else min(max(-along / speed, -1.0), 1.0)


@_jit
def _around(a, spin):  # type: ignore[no-untyped-def]
    """What leads from a lattice point to the 27 about it, and what the turn `spin` moves these by: each (3, 27), 1/A."""
    steps, turns = np.empty((3, 27)), np.empty((3, 27))
    for k in range(27):
        u, v, w = k // 9 - 1, k // 3 % 3 - 1, k % 3 - 1
        for j in range(3):
            steps[j, k] = u * a[j, 0] + v * a[j, 1] + w * a[j, 2]
        x, y, z = steps[0, k], steps[1, k], steps[2, k]
        turns[0, k], turns[1, k], turns[2, k] = spin[1] * z - spin[2] * y, spin[2] * x - spin[0] * z, spin[0] * y - spin[1] * x
    return steps, turns


@_jit
def _misfits(from_spot, ray, weights, steps, turned, worth):  # type: ignore[no-untyped-def]
    """Fills the squared misfit of the 27 points about one that is `from_spot` (3,) away from its spot; vector instructions do it.

    `turned`: what the exposure's turn moves that point by (3,), and the 27 about it beyond that (3, 27).
    """
    per_across2, per_along2 = weights
    turn, turns = turned
    rx, ry, rz = ray[0], ray[1], ray[2]
    if turn[0] == 0.0 and turn[1] == 0.0 and turn[2] == 0.0:  # a still
        for k in range(27):
            x, y, z = from_spot[0] + steps[0, k], from_spot[1] + steps[1, k], from_spot[2] + steps[2, k]
            along = x * rx + y * ry + z * rz
            worth[k] = (x * x + y * y + z * z - along * along) * per_across2 + along * along * per_along2
        return
    for k in range(27):
        x, y, z = from_spot[0] + steps[0, k], from_spot[1] + steps[1, k], from_spot[2] + steps[2, k]
        tx, ty, tz = turn[0] + turns[0, k], turn[1] + turns[1, k], turn[2] + turns[2, k]
        along, speed = x * rx + y * ry + z * rz, tx * rx + ty * ry + tz * rz
        part = _part_of_turn(along, speed)
        x, y, z = x + part * tx, y + part * ty, z + part * tz
        left = along + part * speed
        worth[k] = (x * x + y * y + z * z - left * left) * per_across2 + along * along * per_along2


@_jit
def _shortest2(steps):  # type: ignore[no-untyped-def]
    """The squared length of the shortest of the 26 steps (3, 27) that lead away from a point, 1/A^2."""
    least = np.inf
    for k in range(27):
        if k != _ITSELF:
            least = min(least, steps[0, k] ** 2 + steps[1, k] ** 2 + steps[2, k] ** 2)
    return least


@_jit
def _has_no_nearer(off, ray, weights, shortest2):  # type: ignore[no-untyped-def]
    """Whether no point about the one that is `off` (3,) from its spot can be nearer to it, in standard deviations, of a still.

    These are a norm, and so another one is no nearer if it is twice as far from this one as this one from the spot; and a step has
    the length of `shortest2`^(1/2) over the larger standard deviation at least.
    """
    along = off[0] * ray[0] + off[1] * ray[1] + off[2] * ray[2]
    square = (off[0] ** 2 + off[1] ** 2 + off[2] ** 2 - along * along) * weights[0] + along * along * weights[1]
    return 4.0 * square <= shortest2 * min(weights[0], weights[1])


@_jit
def assign(a, q, ray, spin, sigma_across, sigma_along, use, hkl, away):  # type: ignore[no-untyped-def]
    """The lattice point that is nearest to each spot q (n, 3) in `use` (n,), in standard deviations: fills hkl (n, 3) and away (n, 2), 1/A.

    `away` is the distance across the ray and the signed one along it. Points around the nearest in indices are tried too: in a long
    cell the nearest across the ray may be another. `spin` (3,) in rad is half the rotation of the exposure, about its axis: a point off
    the sphere is turned onto it, as far as the exposure turns, before it is held against the spot.
    """
    direct = np.empty((3, 3))
    if inverse3(a, direct) == 0.0:
        away[:] = np.inf
        return
    steps, turns = _around(a, spin)
    shortest2 = _shortest2(steps) if spin[0] == 0.0 and spin[1] == 0.0 and spin[2] == 0.0 else 0.0
    index, off, turn, worth = np.empty(3), np.empty(3), np.empty(3), np.empty(27)
    for i in range(len(q)):
        if not use[i]:
            continue
        for k in range(3):
            index[k] = np.rint(direct[k, 0] * q[i, 0] + direct[k, 1] * q[i, 1] + direct[k, 2] * q[i, 2])
        for j in range(3):
            off[j] = a[j, 0] * index[0] + a[j, 1] * index[1] + a[j, 2] * index[2]
        turn[0] = spin[1] * off[2] - spin[2] * off[1]
        turn[1] = spin[2] * off[0] - spin[0] * off[2]
        turn[2] = spin[0] * off[1] - spin[1] * off[0]
        for j in range(3):
            off[j] -= q[i, j]
        weights = (1.0 / sigma_across[i] ** 2, 1.0 / sigma_along[i] ** 2)
        best = _ITSELF
        if not _has_no_nearer(off, ray[i], weights, shortest2):
            _misfits(off, ray[i], weights, steps, (turn, turns), worth)
            best = 0
            for k in range(1, 27):
                if worth[k] < worth[best]:
                    best = k
        along, speed, left2 = 0.0, 0.0, 0.0
        for j in range(3):
            along += (off[j] + steps[j, best]) * ray[i, j]
            speed += (turn[j] + turns[j, best]) * ray[i, j]
        part = _part_of_turn(along, speed)
        for j in range(3):
            left2 += (off[j] + steps[j, best] + part * (turn[j] + turns[j, best])) ** 2
        away[i, 0], away[i, 1] = math.sqrt(max(left2 - (along + part * speed) ** 2, 0.0)), along
        hkl[i, 0], hkl[i, 1], hkl[i, 2] = index[0] + best // 9 - 1, index[1] + best // 3 % 3 - 1, index[2] + best % 3 - 1


@_jit
def belongs(hkl, away, sigma_across, sigma_along, inside):  # type: ignore[no-untyped-def]
    """Marks the spots within CUT of their lattice point; of several at one point the nearest. Returns their number."""
    n, count, size = len(hkl), 0, 16
    while size < 2 * n:
        size *= 2
    holder = np.full(size, -1, dtype=np.int64)  # which spot has a point, in a table of hashes
    for i in range(n):
        inside[i] = away[i, 0] < CUT * sigma_across[i] and abs(away[i, 1]) < CUT * sigma_along[i]
        inside[i] &= hkl[i, 0] != 0 or hkl[i, 1] != 0 or hkl[i, 2] != 0
        if not inside[i]:
            continue
        at = (np.int64(hkl[i, 0]) * 73856093 ^ np.int64(hkl[i, 1]) * 19349663 ^ np.int64(hkl[i, 2]) * 83492791) & (size - 1)
        while holder[at] >= 0:
            j = holder[at]
            if hkl[i, 0] == hkl[j, 0] and hkl[i, 1] == hkl[j, 1] and hkl[i, 2] == hkl[j, 2]:
                break
            at = (at + 1) & (size - 1)
        other = holder[at]
        if other < 0:
            holder[at] = i
            count += 1
        elif away[i, 0] < away[other, 0]:
            inside[other] = False
            holder[at] = i
        else:
            inside[i] = False
    return count


@_jit
def _reduced(spots, a, shift_px, spin, hkl, use, sigmas):  # type: ignore[no-untyped-def]
    """The sums over spots of the normal equations of all nine elements of a (3, 3) and of the beam's shift, whatever is refined of a.

    The derivative of a spot's misfit by element (i, j) of a is g_j along i: of the weight of a misfit, W (3, 3), and of g only the
    products of W_ik with g_j g_l are summed, which are (6, 6), over half of either: (0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2).
    Returns these; those of a with the shift (3, 3, 2), of the shift (2, 2); and the right sides of a (3, 3) and the shift (2,).
    """
    q, ray, per_px = spots
    squares, mixed, of_shift = np.zeros((6, 6)), np.zeros((3, 3, 2)), np.zeros((2, 2))
    right, right_shift = np.zeros((3, 3)), np.zeros(2)
    off, g, weighed = np.empty(3), np.empty(3), np.empty(3)
    weight, products = np.empty(6), np.empty(6)
    for i in range(len(q)):
        if not use[i]:
            continue
        for j in range(3):
            g[j] = a[j, 0] * hkl[i, 0] + a[j, 1] * hkl[i, 1] + a[j, 2] * hkl[i, 2]
        for j in range(3):
            off[j] = g[j] - q[i, j] + per_px[i, j, 0] * shift_px[0] + per_px[i, j, 1] * shift_px[1]
        across, along = 1.0 / sigmas[0][i] ** 2, 1.0 / sigmas[1][i] ** 2
        x, y, z = ray[i, 0], ray[i, 1], ray[i, 2]
        tx, ty, tz = spin[1] * g[2] - spin[2] * g[1], spin[2] * g[0] - spin[0] * g[2], spin[0] * g[1] - spin[1] * g[0]
        d, speed = off[0] * x + off[1] * y + off[2] * z, tx * x + ty * y + tz * z
        part = _part_of_turn(d, speed)  # what the turn moves across the ray; along it, the whole exposure is as likely
        off[0], off[1], off[2] = off[0] + part * (tx - speed * x), off[1] + part * (ty - speed * y), off[2] + part * (tz - speed * z)
        worth = (off[0] ** 2 + off[1] ** 2 + off[2] ** 2 - d * d) * across + d * d * along
        robust = 1.0 / (1.0 + worth / 6.0) ** 2
        even, ray_too = robust * across, robust * (along - across)
        weight[0], weight[2], weight[5] = even + ray_too * x * x, even + ray_too * y * y, even + ray_too * z * z
        weight[1], weight[3], weight[4] = ray_too * x * y, ray_too * x * z, ray_too * y * z
        products[0], products[2], products[5] = g[0] * g[0], g[1] * g[1], g[2] * g[2]
        products[1], products[3], products[4] = g[0] * g[1], g[0] * g[2], g[1] * g[2]
        for j in range(6):
            for k in range(6):
                squares[j, k] += weight[j] * products[k]
        _weigh(weight, off, weighed)
        for j in range(3):
            for k in range(3):
                right[j, k] -= weighed[j] * g[k]
        for k in range(2):
            right_shift[k] -= weighed[0] * per_px[i, 0, k] + weighed[1] * per_px[i, 1, k] + weighed[2] * per_px[i, 2, k]
        for k in range(2):
            _weigh(weight, per_px[i, :, k], weighed)
            for j in range(3):
                for m in range(3):
                    mixed[j, m, k] += weighed[j] * g[m]
            for m in range(2):
                of_shift[k, m] += weighed[0] * per_px[i, 0, m] + weighed[1] * per_px[i, 1, m] + weighed[2] * per_px[i, 2, m]
    return squares, mixed, of_shift, right, right_shift


@_jit
def _weigh(weight, vector, weighed):  # type: ignore[no-untyped-def]
    """Fills `weighed` (3,) with a symmetric matrix (its half, 6) times a vector (3,)."""
    weighed[0] = weight[0] * vector[0] + weight[1] * vector[1] + weight[3] * vector[2]
    weighed[1] = weight[1] * vector[0] + weight[2] * vector[1] + weight[4] * vector[2]
    weighed[2] = weight[3] * vector[0] + weight[4] * vector[1] + weight[5] * vector[2]


@_jit
def _half(i, j):  # type: ignore[no-untyped-def]
    """Where element (i, j) of a symmetric matrix (3, 3) is in its half (6,)."""
    high, low = max(i, j), min(i, j)
    return high * (high + 1) // 2 + low


@_jit
def step(a, shift_px, held, spots, spin, hkl, use, sigma_across, sigma_along):  # type: ignore[no-untyped-def]
    """One round of least squares of a (3, 3) and of the beam's shift (2,), both in place; False if there is no answer.

    a changes by the sum of x_k ways_k a. `held`: the ways (m, 3, 3), which are rotations, strains, or all nine elements; 1 / sigma^2 (m,)
    of each x_k, zero for what is free; and what they have come to (m,), which is added to. `spots` are q (n, 3), rays (n, 3)
    and dq/dx (n, 3, 2) in 1/A a pixel. Weights fall off with the misfit as those of Geman & McClure (Bull. Int. Stat. Inst. 52 (1987) 5).
    """
    ways, weight, taken = held
    m = len(ways)
    normal, right = np.zeros((m + 2, m + 2)), np.zeros(m + 2)
    squares, mixed, of_shift, of_a, right_shift = _reduced(spots, a, shift_px, spin, hkl, use, (sigma_across, sigma_along))
    part = np.empty((3, 3))
    for k in range(m):
        for i in range(3):
            for j in range(3):
                part[i, j] = 0.0
                for u in range(3):
                    for v in range(3):
                        part[i, j] += squares[_half(i, u), _half(j, v)] * ways[k, u, v]
        for p in range(k, m):
            normal[p, k] = (part * ways[p]).sum()
        for p in range(2):
            normal[m + p, k] = (mixed[:, :, p] * ways[k]).sum()
        right[k] = (of_a * ways[k]).sum()
    for k in range(2):
        right[m + k] = right_shift[k]
        for p in range(2):
            normal[m + k, m + p] = of_shift[k, p]
    for k in range(m):
        normal[k, k] = normal[k, k] * (1.0 + 1e-9) + 1e-12
    for k in range(m):
        normal[k, k] += weight[k]
        right[k] -= weight[k] * taken[k]
    for k in range(2):
        normal[m + k, m + k] += 1.0 / _SHIFT_SIGMA_PX**2
        right[m + k] -= shift_px[k] / _SHIFT_SIGMA_PX**2
    if not solve_in_place(normal, right):
        return False
    change = np.zeros((3, 3))
    for k in range(m):
        change += right[k] * ways[k]
        taken[k] += right[k]
    a += _product(change, a)
    shift_px[0] += right[m]
    shift_px[1] += right[m + 1]
    return True


@_jit
def _product(one, other):  # type: ignore[no-untyped-def]
    """Of two matrices (3, 3)."""
    result = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            result[i, j] = one[i, 0] * other[0, j] + one[i, 1] * other[1, j] + one[i, 2] * other[2, j]
    return result


@_jit
def log10_tail(k, n, p):  # type: ignore[no-untyped-def]
    """log10 of the probability of k or more successes in n trials of probability p (binomial)."""
    if k <= 0 or p >= 1.0:
        return 0.0
    if p <= 0.0:
        return -np.inf
    odds = p / (1.0 - p)
    first = math.lgamma(n + 1.0) - math.lgamma(k + 1.0) - math.lgamma(n - k + 1.0) + k * math.log(p) + (n - k) * math.log1p(-p)
    term, total = 1.0, 1.0  # in units of the first one
    for i in range(k, n):
        ratio = (n - i) / (i + 1.0) * odds  # falls with i
        term *= ratio
        total += term
        if ratio < 1.0 and term < _NEGLIGIBLE * total * (1.0 - ratio):
            break
        if total > _LARGE:
            first += math.log(total)
            term, total = term / total, 1.0
    return min((first + math.log(total)) / math.log(10.0), 0.0)
