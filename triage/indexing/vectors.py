"""Real-space vectors of an unknown lattice: maxima of the spots' Fourier transform, refined one by one, and joined to bases.

The transform is that of `triage.lattice`, on a grid that reaches as far as cells do (`Grid`).
"""

from __future__ import annotations

import math

import numba
import numpy as np

from triage.cholesky import solve_in_place

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")
_vectorised = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "nnan", "ninf", "contract", "arcp"})

ON_PLANE = 0.18
"""Of an index, for a spot to lie on a plane."""
_LEAST_SPREAD = 0.8  # standard deviation of the spots' indices along a vector: where all are about the same, any vector explains them
_LEAST_SKEW = 0.1  # of a basis: its volume over the product of its lengths
_SHORTEST = 1.6  # vector, in units of 1 / s_c: shorter is the origin's own peak
_SAME = 0.04  # of their length: vectors this near are one


@_vectorised
def sine(x):  # type: ignore[no-untyped-def]
    """Sine of 2 pi x for -1/4 <= x <= 1/4 by its series to x^7, in the precision of x."""
    square = x * x
    series = np.float32(41.341702) - square * (np.float32(81.605249) - square * np.float32(76.7058597))
    return x * (np.float32(6.2831853) - square * series)


@_vectorised
def offset_of(t, q, n):  # type: ignore[no-untyped-def]
    """The phase common to the first `n` spots of q (3, m), in turns: zero but for an error of the beam centre.

    Sine and cosine by their series, which compilers turn into vector instructions; its error is under 2e-4.
    """
    real, imaginary = 0.0, 0.0
    for i in range(n):
        turn = q[0, i] * t[0] + q[1, i] * t[1] + q[2, i] * t[2]
        f = turn - np.floor(turn + 0.5)  # -1/2 to 1/2
        real -= sine(abs(f) - 0.25)  # cos 2 pi f = -sin 2 pi (|f| - 1/4)
        size = sine(0.25 - abs(abs(f) - 0.25))  # |sin 2 pi f|
        imaginary += size if f >= 0 else -size
    return math.atan2(imaginary, real) / (2 * np.pi)


@_vectorised
def _normal_equations(t, shift, q, n, limit, normal, right):  # type: ignore[no-untyped-def]
    """Fills `normal` (3, 3; its lower half) and `right` (3,) of t's least squares on the first `n` spots; returns how many are in them."""
    xx, yx, yy, zx, zy, zz, x, y, z, number = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(n):
        a, b, c = q[0, i], q[1, i], q[2, i]
        index = a * t[0] + b * t[1] + c * t[2] - shift
        off = index - np.rint(index)
        taken = 1.0 if abs(off) <= limit else 0.0
        number += taken
        xx += taken * a * a
        yx += taken * b * a
        yy += taken * b * b
        zx += taken * c * a
        zy += taken * c * b
        zz += taken * c * c
        off *= taken
        x, y, z = x - off * a, y - off * b, z - off * c
    normal[0, 0], normal[1, 0], normal[1, 1], normal[2, 0], normal[2, 1], normal[2, 2] = xx, yx, yy, zx, zy, zz
    right[0], right[1], right[2] = x, y, z
    return number


@_jit
def refine_vector(t, q, n, limit, rounds):  # type: ignore[no-untyped-def]
    """Least squares of t (3,) on the whole numbers nearest to q t of the first `n` spots of q (3, m), in place.

    Returns the common offset of the indices.
    """
    shift = offset_of(t, q, n)
    normal, right = np.zeros((3, 3)), np.zeros(3)
    for _ in range(rounds):
        if _normal_equations(t, shift, q, n, limit, normal, right) < 5:
            break
        ridge = 1e-5 * (normal[0, 0] + normal[1, 1] + normal[2, 2]) + 1e-12  # along the beam there may be next to no information
        for j in range(3):
            normal[j, j] += ridge
        if not solve_in_place(normal, right):
            break
        t += right
        shift = offset_of(t, q, n)
    return shift


@_jit
def mark_planes(t, shift, q, on):  # type: ignore[no-untyped-def]
    """Marks the spots of q (3, n) whose index along t is whole; returns their number and the standard deviation of the indices."""
    n, total, square = 0, 0.0, 0.0
    for i in range(len(on)):
        index = q[0, i] * t[0] + q[1, i] * t[1] + q[2, i] * t[2] - shift
        total += index
        square += index * index
        on[i] = abs(index - np.rint(index)) < ON_PLANE
        n += on[i]
    return n, math.sqrt(max(square / len(on) - (total / len(on)) ** 2, 0.0))


@_jit
def refine_vectors(q, n_inner, candidates, s_c, most):  # type: ignore[no-untyped-def]
    """Refined, distinct vectors of `candidates` (c, 4; peaks of the transform), those that explain most first.

    Spots q (3, n), innermost first, are taken in from within. Returns (vectors (v, 3) in A, which
    spots each explains (v, n), numbers (v,)).
    """
    n = q.shape[1]
    vectors = np.zeros((most, 3))
    on = np.zeros((most, n), dtype=np.bool_)
    number = np.zeros(most, dtype=np.int64)
    here = np.zeros(n, dtype=np.bool_)
    t = np.zeros(3)
    found = 0
    for k in range(len(candidates)):
        t[0], t[1], t[2] = candidates[k, 1] / s_c, candidates[k, 2] / s_c, candidates[k, 0] / s_c
        taken = n_inner
        shift = refine_vector(t, q, taken, 0.3, 2)
        while taken < n:
            taken = min(n, int(1.6 * taken) + 1)
            shift = refine_vector(t, q, taken, 0.25, 2)
        explained, spread = mark_planes(t, shift, q, here)
        length = math.sqrt(t[0] ** 2 + t[1] ** 2 + t[2] ** 2)
        if spread < _LEAST_SPREAD or length * s_c < _SHORTEST:
            continue
        twin = False
        for m in range(found):
            twin |= min(((t - vectors[m]) ** 2).sum(), ((t + vectors[m]) ** 2).sum()) < (_SAME * length) ** 2
        at = min(found, most - 1)
        if twin or (found == most and number[at] >= explained):
            continue
        while at > 0 and number[at - 1] < explained:
            number[at], vectors[at], on[at] = number[at - 1], vectors[at - 1], on[at - 1]
            at -= 1
        number[at], vectors[at], on[at] = explained, t, here
        found = min(found + 1, most)
    return vectors[:found], on[:found], number[:found]


@_jit
def join(vectors, on, most):  # type: ignore[no-untyped-def]
    """The `most` best threes of vectors that are not in a plane: (bases (b, 3, 3) as rows in A, spots that all three explain (b,)).

    Best is who explains more spots for its volume: a basis of twice the volume explains some of any spots by chance.
    """
    bases, best = np.zeros((most, 3, 3)), np.full(most, -np.inf)
    agreed_of, volumes = np.zeros(most, dtype=np.int64), np.zeros(most)
    lengths = np.sqrt((vectors**2).sum(axis=1))
    found = 0
    for a in range(len(vectors)):
        for b in range(a + 1, len(vectors)):
            both = on[a] & on[b]
            if found == most and both.sum() < best[most - 1]:
                continue
            u, v = vectors[a], vectors[b]
            nx, ny, nz = u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]
            for c in range(b + 1, len(vectors)):
                w = vectors[c]
                volume = abs(nx * w[0] + ny * w[1] + nz * w[2])
                if volume < _LEAST_SKEW * lengths[a] * lengths[b] * lengths[c]:
                    continue
                agreed = 0
                for i in range(on.shape[1]):
                    agreed += both[i] & on[c, i]
                worth = agreed - 1.5 * math.log(volume)
                if found == most and worth <= best[most - 1]:
                    continue
                known = False
                for m in range(found):  # other threes of the same lattice
                    known |= abs(volume / volumes[m] - 1.0) < 0.02 and agreed <= agreed_of[m] and best[m] - worth < 3.0
                if known:
                    continue
                at = min(found, most - 1)
                while at > 0 and best[at - 1] < worth:
                    best[at], bases[at], agreed_of[at], volumes[at] = best[at - 1], bases[at - 1], agreed_of[at - 1], volumes[at - 1]
                    at -= 1
                best[at], agreed_of[at], volumes[at] = worth, agreed, volume
                bases[at, 0], bases[at, 1], bases[at, 2] = u, v, w
                found = min(found + 1, most)
    return bases[:found], agreed_of[:found]
