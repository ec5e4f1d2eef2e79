"""Real-space vectors of an unknown lattice: maxima of the spots' Fourier transform, refined one by one, and joined to bases.

The transform is that of `triage.lattice`, on a grid that reaches as far as cells do (`Grid`).
"""

from __future__ import annotations

import math

import numba
import numpy as np

from triage.cholesky import solve_in_place

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")

ON_PLANE = 0.18
"""Of an index, for a spot to lie on a plane."""
_LEAST_SPREAD = 0.8  # standard deviation of the spots' indices along a vector: where all are about the same, any vector explains them
_LEAST_SKEW = 0.1  # of a basis: its volume over the product of its lengths
_SHORTEST = 1.6  # vector, in units of 1 / s_c: shorter is the origin's own peak
_SAME = 0.04  # of their length: vectors this near are one


@_jit
def offset_of(t, q):  # type: ignore[no-untyped-def]
    """The phase common to all spots (n, 3), in turns: zero but for an error of the beam centre."""
    real, imaginary = 0.0, 0.0
    for i in range(len(q)):
        phase = 2 * np.pi * (q[i, 0] * t[0] + q[i, 1] * t[1] + q[i, 2] * t[2])
        real += math.cos(phase)
        imaginary += math.sin(phase)
    return math.atan2(imaginary, real) / (2 * np.pi)


@_jit
def refine_vector(t, q, limit, rounds):  # type: ignore[no-untyped-def]
    """Least squares of t (3,) on the whole numbers nearest to q t, in place; returns the common offset of the indices."""
    shift = offset_of(t, q)
    normal, right = np.zeros((3, 3)), np.zeros(3)
    for _ in range(rounds):
        normal[:], right[:] = 0.0, 0.0
        n, total = 0, 0.0
        for i in range(len(q)):
            index = q[i, 0] * t[0] + q[i, 1] * t[1] + q[i, 2] * t[2] - shift
            off = index - np.rint(index)
            if abs(off) > limit:
                continue
            n += 1
            total += off
            for j in range(3):
                right[j] -= off * q[i, j]
                for m in range(j + 1):
                    normal[j, m] += q[i, j] * q[i, m]
        if n < 5:
            break
        ridge = 1e-5 * (normal[0, 0] + normal[1, 1] + normal[2, 2]) + 1e-12  # along the beam there may be next to no information
        for j in range(3):
            normal[j, j] += ridge
        if not solve_in_place(normal, right):
            break
        t += right
        shift = offset_of(t, q)
    return shift


@_jit
def mark_planes(t, shift, q, on):  # type: ignore[no-untyped-def]
    """Marks the spots whose index along t is whole; returns their number and the standard deviation of the indices."""
    n, total, square = 0, 0.0, 0.0
    for i in range(len(q)):
        index = q[i, 0] * t[0] + q[i, 1] * t[1] + q[i, 2] * t[2] - shift
        total += index
        square += index * index
        on[i] = abs(index - np.rint(index)) < ON_PLANE
        n += on[i]
    return n, math.sqrt(max(square / len(q) - (total / len(q)) ** 2, 0.0))


@_jit
def refine_vectors(q, n_inner, candidates, s_c, most):  # type: ignore[no-untyped-def]
    """Refined, distinct vectors of `candidates` (c, 4; peaks of the transform), those that explain most first.

    Spots q (n, 3), innermost first, are taken in from within. Returns (vectors (v, 3) in A, which
    spots each explains (v, n), numbers (v,)).
    """
    n = len(q)
    vectors = np.zeros((most, 3))
    on = np.zeros((most, n), dtype=np.bool_)
    number = np.zeros(most, dtype=np.int64)
    here = np.zeros(n, dtype=np.bool_)
    t = np.zeros(3)
    found = 0
    for k in range(len(candidates)):
        t[0], t[1], t[2] = candidates[k, 1] / s_c, candidates[k, 2] / s_c, candidates[k, 0] / s_c
        taken = n_inner
        shift = refine_vector(t, q[:taken], 0.3, 2)
        while taken < n:
            taken = min(n, int(1.6 * taken) + 1)
            shift = refine_vector(t, q[:taken], 0.25, 2)
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
