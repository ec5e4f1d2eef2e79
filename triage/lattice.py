"""How well one lattice explains a frame's spots: periodicity of their reciprocal-space positions, and what it leaves over.

The positions are Fourier-transformed directly (as in auto-indexing after Rossmann & van Beek, Acta Cryst. D55 (1999) 1631, and Steller,
Bolotovsky & Rossmann, J. Appl. Cryst. 30 (1997) 1036): real-space vectors t of a lattice are where |sum exp(2 pi i q t)| peaks. Three of
them that agree on the same spots are a basis; the spots they do not explain are another lattice's, or no lattice's. Evidence for the
network, quick and blind (no cell, no least squares on the detector), not an indexing result.
"""

from __future__ import annotations

import numba
import numpy as np

_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "nnan", "ninf", "contract", "arcp"})

HALF = 144
"""Grid points from the origin to the edge, across the beam."""
REACH = HALF / 4  # of the grid, in units of 1 / s_c
_STEP = np.float32(0.25)  # of the grid, in units of 1 / s_c, across the beam: half of what s_c can resolve
MOST_PLANES = 33
_AT_ONCE, _ROWS_AT_ONCE = 4, 8  # spots, and rows of the grid, that are summed at once: a processor's registers, and its nearest cache
TRANSFORMED = 32  # spots in the transform: the innermost, whose indices are small
_PEAKS = 40
_VECTORS = 18  # refined vectors from which bases are made
_TOLERANCE = np.float32(0.18)  # of an index, for a spot to lie on a plane
_MIN_U = np.float32(1.6)  # shorter than this is the origin's own peak, in units of 1 / s_c
_LEAST_SPREAD = 0.8  # standard deviation of the spots' indices along a vector: where all are about the same, any vector explains them
_TRIALS = 60  # random pairs of spots for a small rotation
_MOST_TURN = 0.16  # rad
_LEAST_SKEW = 0.2  # of a basis: its volume over the product of its lengths


@_jit
def transform(q, s_c, step_z, power):  # type: ignore[no-untyped-def]
    """|sum exp(2 pi i q t)|^2 on a half space of real-space vectors t: fills `power` (planes, rows, 2 rows - 1), its half HALF or another.

    `q` (n, 3) float32 in 1/A (slow, fast, beam). t = ((k - planes // 2) step_z, i step, (j - half) step) / s_c along (beam, slow, fast).

    A row's cosines and sines along fast are summed apart: of t and of its mirror image the one sum is the same and the other the opposite.
    """
    n, planes, rows = len(q), power.shape[0], power.shape[1]
    two_pi = np.float32(2 * np.pi)
    step = _STEP / s_c
    groups = (n + _AT_ONCE - 1) // _AT_ONCE
    waves = np.zeros((groups, 2, _AT_ONCE, rows), dtype=np.float32)  # cosines and sines along fast; none of spots that fill the last group
    across = np.zeros((2, groups * _AT_ONCE), dtype=np.float32)  # cosine and sine of a step along slow
    here = np.zeros((2, groups * _AT_ONCE), dtype=np.float32)
    for i in range(n):
        a = two_pi * q[i, 1] * step
        c1, s1 = np.cos(a), np.sin(a)
        c, s = np.float32(1), np.float32(0)
        for j in range(rows):  # a rotation a step: errors stay under 1e-5
            waves[i // _AT_ONCE, 0, i % _AT_ONCE, j], waves[i // _AT_ONCE, 1, i % _AT_ONCE, j] = c, s
            c, s = c * c1 - s * s1, s * c1 + c * s1
        a = two_pi * q[i, 0] * step
        across[0, i], across[1, i] = np.cos(a), np.sin(a)
    turns = np.empty((_ROWS_AT_ONCE, 2, groups * _AT_ONCE), dtype=np.float32)
    summed = np.empty((_ROWS_AT_ONCE, 4, rows), dtype=np.float32)
    for k in range(planes):
        t_z = (k - planes // 2) * step_z / s_c
        for i in range(n):
            a = two_pi * q[i, 2] * t_z
            here[0, i], here[1, i] = np.cos(a), np.sin(a)
        for first in range(0, rows, _ROWS_AT_ONCE):  # few enough that sums and waves stay in the nearest cache
            number = min(_ROWS_AT_ONCE, rows - first)
            for row in range(number):
                turns[row] = here
                for i in range(n):
                    c, s = here[0, i], here[1, i]
                    here[0, i], here[1, i] = c * across[0, i] - s * across[1, i], s * across[0, i] + c * across[1, i]
            summed[:] = 0
            for group in range(groups):
                for row in range(number):
                    _accumulate(summed[row, :2], waves[group, 0], turns[row], group * _AT_ONCE)
                    _accumulate(summed[row, 2:], waves[group, 1], turns[row], group * _AT_ONCE)
            for row in range(number):
                _squared(summed[row], power[k, first + row])


@_jit
def _accumulate(summed, waves, turns, at):  # type: ignore[no-untyped-def]
    """Adds the waves (_AT_ONCE, m) of some spots times the cosine, and times the sine, of their phases: to `summed` (2, m).

    The cosines and sines of all spots are `turns` (2, n); these are the spots from `at` on.
    """
    a0, a1, a2, a3 = turns[0, at], turns[0, at + 1], turns[0, at + 2], turns[0, at + 3]
    b0, b1, b2, b3 = turns[1, at], turns[1, at + 1], turns[1, at + 2], turns[1, at + 3]
    for j in range(summed.shape[1]):
        summed[0, j] += a0 * waves[0, j] + a1 * waves[1, j] + a2 * waves[2, j] + a3 * waves[3, j]
        summed[1, j] += b0 * waves[0, j] + b1 * waves[1, j] + b2 * waves[2, j] + b3 * waves[3, j]


@_jit
def _squared(summed, line):  # type: ignore[no-untyped-def]
    """Fills a row's |F|^2 (2 m - 1) from its sums (4, m): of cosines along fast times cosine and sine of the phase, of sines the same."""
    half = summed.shape[1] - 1
    for j in range(half + 1):
        line[half + j] = (summed[0, j] - summed[3, j]) ** 2 + (summed[1, j] + summed[2, j]) ** 2
    for j in range(1, half + 1):
        line[half - j] = (summed[0, j] + summed[3, j]) ** 2 + (summed[1, j] - summed[2, j]) ** 2


@_jit
def peaks_of(power, step_z, n, most):  # type: ignore[no-untyped-def]
    """The `most` highest local maxima of `power`: rows (t_beam, t_slow, t_fast) in units of 1 / s_c and the coherence |F| / n."""
    planes, rows, width = power.shape
    half = rows - 1
    found = np.zeros((most, 4), dtype=np.float32)
    count = 0
    threshold = np.float32(3.0 * n)  # three times the mean of no structure
    for k in range(planes):
        u_z = (k - planes // 2) * step_z
        for i in range(rows):
            for j in range(1, width - 1):
                value = power[k, i, j]
                if value <= threshold or value < power[k, i, j - 1] or value <= power[k, i, j + 1]:
                    continue
                u_slow, u_fast = i * _STEP, (j - half) * _STEP
                mirrored = i == 0 and (u_fast < 0 or (u_fast == 0 and u_z < 0))  # -t is there as well
                if mirrored or u_slow * u_slow + u_fast * u_fast + u_z * u_z < _MIN_U * _MIN_U or not _is_top(power, k, i, j):
                    continue
                coherence = np.sqrt(value) / n
                if count == most and found[most - 1, 3] >= coherence:
                    continue
                at = min(count, most - 1)
                while at > 0 and found[at - 1, 3] < coherence:
                    found[at] = found[at - 1]
                    at -= 1
                found[at, 0], found[at, 1], found[at, 2], found[at, 3] = u_z, u_slow, u_fast, coherence
                count = min(count + 1, most)
                if count == most:
                    threshold = max(threshold, (found[most - 1, 3] * n) ** 2)
    return found[:count]


@_jit
def _is_top(power, k, i, j):  # type: ignore[no-untyped-def]
    """Whether none of the neighbours is higher."""
    planes, rows, _ = power.shape
    for kk in range(max(0, k - 1), min(planes, k + 2)):
        for ii in range(max(0, i - 1), min(rows, i + 2)):
            for jj in range(j - 1, j + 2):
                if power[kk, ii, jj] > power[k, i, j]:
                    return False
    return True


@_jit
def off_whole(index):  # type: ignore[no-untyped-def]
    """How far an index is from the nearest whole number, -0.5 to 0.5."""
    return index - np.rint(index)


@_jit
def _solve3(a, b, x):  # type: ignore[no-untyped-def]
    """Solves the symmetric a x = b (3, 3) for x, with a small ridge: along the beam there may be next to no information."""
    ridge = 1e-5 * (a[0, 0] + a[1, 1] + a[2, 2]) + 1e-12
    a00, a11, a22, a01, a02, a12 = a[0, 0] + ridge, a[1, 1] + ridge, a[2, 2] + ridge, a[0, 1], a[0, 2], a[1, 2]
    c00, c01, c02 = a11 * a22 - a12 * a12, a02 * a12 - a01 * a22, a01 * a12 - a02 * a11
    c11, c12, c22 = a00 * a22 - a02 * a02, a01 * a02 - a00 * a12, a00 * a11 - a01 * a01
    determinant = a00 * c00 + a01 * c01 + a02 * c02
    x[0] = (c00 * b[0] + c01 * b[1] + c02 * b[2]) / determinant
    x[1] = (c01 * b[0] + c11 * b[1] + c12 * b[2]) / determinant
    x[2] = (c02 * b[0] + c12 * b[1] + c22 * b[2]) / determinant


@_jit
def _offset(t, q):  # type: ignore[no-untyped-def]
    """The phase common to all spots, in turns: zero but for an error of the beam centre."""
    real, imaginary = 0.0, 0.0
    for i in range(len(q)):
        phase = 2 * np.pi * (q[i, 0] * t[0] + q[i, 1] * t[1] + q[i, 2] * t[2])
        real += np.cos(phase)
        imaginary += np.sin(phase)
    return np.arctan2(imaginary, real) / (2 * np.pi)


@_jit
def _refine(t, q, limit, work):  # type: ignore[no-untyped-def]
    """Least squares of a real-space vector t (3,) on the indices nearest to q t, two rounds; spots off by `limit` are left out.

    Returns the common offset of the indices.
    """
    a, b, x = work[:3], work[3], work[4]
    shift = _offset(t, q)
    for _ in range(2):
        a[:], b[:] = 0.0, 0.0
        total, n = 0.0, 0
        for i in range(len(q)):
            off = off_whole(q[i, 0] * t[0] + q[i, 1] * t[1] + q[i, 2] * t[2] - shift)
            if abs(off) > limit:
                continue
            total += off
            n += 1
            for j in range(3):
                b[j] -= off * q[i, j]
                for m in range(j, 3):
                    a[j, m] += q[i, j] * q[i, m]
        if n < 5:
            break
        _solve3(a, b, x)
        t += x
        shift = _offset(t, q)
    return shift


@_jit
def _on_planes(t, shift, q, on):  # type: ignore[no-untyped-def]
    """Marks the spots whose index along t is whole; returns their number and the standard deviation of the indices."""
    n, total, square = 0, 0.0, 0.0
    for i in range(len(q)):
        index = q[i, 0] * t[0] + q[i, 1] * t[1] + q[i, 2] * t[2] - shift
        total += index
        square += index * index
        on[i] = abs(off_whole(index)) < _TOLERANCE
        n += on[i]
    return n, np.sqrt(max(square / len(q) - (total / len(q)) ** 2, 0.0))


@_jit
def _vectors_of(q, n_inner, candidates, s_c):  # type: ignore[no-untyped-def]
    """Refined, distinct vectors, best first: (vectors (v, 3), which spots each explains (v, n), their number (v,))."""
    n = len(q)
    vectors = np.zeros((_VECTORS, 3))
    on = np.zeros((_VECTORS, n), dtype=np.bool_)
    number = np.zeros(_VECTORS, dtype=np.int64)
    here = np.zeros(n, dtype=np.bool_)
    t, work = np.zeros(3), np.zeros((5, 3))
    found = 0
    for k in range(len(candidates)):
        t[0], t[1], t[2] = candidates[k, 1] / s_c, candidates[k, 2] / s_c, candidates[k, 0] / s_c
        _refine(t, q[:n_inner], 0.3, work)
        _refine(t, q[: 3 * n_inner], 0.25, work)
        shift = _refine(t, q, 0.25, work)
        explained, spread = _on_planes(t, shift, q, here)
        length = np.sqrt((t**2).sum())
        if spread < _LEAST_SPREAD or length * s_c < _MIN_U:
            continue
        twin = False
        for m in range(found):
            twin |= min(((t - vectors[m]) ** 2).sum(), ((t + vectors[m]) ** 2).sum()) < (0.03 * length) ** 2
        at = min(found, _VECTORS - 1)
        if twin or (found == _VECTORS and number[at] >= explained):
            continue
        while at > 0 and number[at - 1] < explained:
            number[at], vectors[at], on[at] = number[at - 1], vectors[at - 1], on[at - 1]
            at -= 1
        number[at], vectors[at], on[at] = explained, t, here
        found = min(found + 1, _VECTORS)
    return vectors[:found], on[:found], number[:found]


@_jit
def _basis_of(vectors, on, number):  # type: ignore[no-untyped-def]
    """Three vectors, not in a plane, that agree on most spots: (basis (3, 3) as rows, number of those spots)."""
    basis, best = np.zeros((3, 3)), 0
    lengths = np.sqrt((vectors**2).sum(axis=1))
    best_volume = 0.0
    for a in range(len(vectors)):
        for b in range(a + 1, len(vectors)):
            if number[b] < best:
                break
            for c in range(b + 1, len(vectors)):
                if number[c] < best:
                    break
                u, v, w = vectors[a], vectors[b], vectors[c]
                volume = abs(u[0] * (v[1] * w[2] - v[2] * w[1]) - u[1] * (v[0] * w[2] - v[2] * w[0]) + u[2] * (v[0] * w[1] - v[1] * w[0]))
                if volume < _LEAST_SKEW * lengths[a] * lengths[b] * lengths[c]:
                    continue
                agreed = 0
                for i in range(on.shape[1]):
                    agreed += on[a, i] & on[b, i] & on[c, i]
                if agreed > best or (agreed == best and volume < best_volume):
                    best, best_volume = agreed, volume
                    basis[0], basis[1], basis[2] = u, v, w
    return basis, best


@_jit
def _settle(basis, q):  # type: ignore[no-untyped-def]
    """Refines a basis in place on the spots that all three vectors explain; returns the offsets of the indices (3,)."""
    n = len(q)
    shifts, work = np.zeros(3), np.zeros((5, 3))
    chosen = np.empty((n, 3))
    for limit in (0.25, 0.2, 0.15):
        for k in range(3):
            shifts[k] = _offset(basis[k], q)
        m = 0
        for i in range(n):
            inside = True
            for k in range(3):
                inside &= abs(off_whole(q[i, 0] * basis[k, 0] + q[i, 1] * basis[k, 1] + q[i, 2] * basis[k, 2] - shifts[k])) < limit
            if inside:
                chosen[m] = q[i]
                m += 1
        if m < 6:
            break
        for k in range(3):
            shifts[k] = _refine(basis[k], chosen[:m], 0.25, work)
    return shifts


@_jit
def lattice_of(q, n_inner, s_c, step_z, power):  # type: ignore[no-untyped-def]
    """The lattice that explains most of the spots q (n, 3), innermost first.

    Returns the basis (3, 3) as rows in A, the offsets of its indices (3,), the number of spots that agree, the number that the best single
    vector explains, and the coherence |F| / n of the highest peak. The basis is zero where no three vectors agree.
    """
    transform(q[:n_inner].astype(np.float32), s_c, step_z, power)
    candidates = peaks_of(power, step_z, n_inner, _PEAKS)
    vectors, on, number = _vectors_of(q, n_inner, candidates, s_c)
    basis, agreed = _basis_of(vectors, on, number)
    shifts = _settle(basis, q) if agreed > 0 else np.zeros(3)
    coherence = candidates[0, 3] if len(candidates) else np.float32(0)
    return basis, shifts, agreed, (number[0] if len(number) else 0), coherence


@_jit
def residuals(q, s1, basis, inverse, shifts):  # type: ignore[no-untyped-def]
    """Per spot (n, 3): the largest index residual, and the distance to the lattice point in 1/A across and along the ray; (n, 3) indices.

    `s1` (n, 3): unit vectors of the scattered rays. Where the lattice point lies along the ray is mosaicity and partiality, across it is
    position on the detector.
    """
    result = np.empty((len(q), 3))
    indices = np.empty((len(q), 3), dtype=np.int64)
    delta = np.empty(3)
    for i in range(len(q)):
        worst = 0.0
        for k in range(3):
            index = q[i, 0] * basis[k, 0] + q[i, 1] * basis[k, 1] + q[i, 2] * basis[k, 2] - shifts[k]
            delta[k] = off_whole(index)
            indices[i, k] = np.int64(np.rint(index))
            worst = max(worst, abs(delta[k]))
        along, square = 0.0, 0.0
        for j in range(3):
            component = inverse[j, 0] * delta[0] + inverse[j, 1] * delta[1] + inverse[j, 2] * delta[2]
            along += component * s1[i, j]
            square += component * component
        result[i, 0], result[i, 1], result[i, 2] = worst, np.sqrt(max(square - along * along, 0.0)), abs(along)
    return result, indices


@_jit
def same_indices(indices, positions_px, apart_px):  # type: ignore[no-untyped-def]
    """How many spots share their indices (n, 3) with another that lies more than `apart_px` away: a lattice gives each reflection once."""
    n = len(indices)
    double = np.zeros(n, dtype=np.bool_)
    for i in range(n):
        for j in range(i + 1, n):
            if indices[i, 0] == indices[j, 0] and indices[i, 1] == indices[j, 1] and indices[i, 2] == indices[j, 2]:
                away = (positions_px[i, 0] - positions_px[j, 0]) ** 2 + (positions_px[i, 1] - positions_px[j, 1]) ** 2
                if away > apart_px * apart_px:
                    double[i], double[j] = True, True
    return double.sum()


@_jit
def small_rotation(q, s1, lattice, tolerance, seed):  # type: ignore[no-untyped-def]
    """The small rotation of a lattice (basis, its inverse, offsets) that carries most of the spots q (n, 3) onto its points.

    Returns their number and the angle in degrees.

    Random consensus over pairs of spots (Fischler & Bolles, Comm. ACM 24 (1981) 381). A spot agrees when the turned lattice point lies
    within `tolerance` (1/A) across its ray. For what another lattice leaves over when a crystal is split.
    """
    n = len(q)
    if n < 4:
        return 0, 0.0
    basis, inverse, shifts = lattice
    point, off = np.empty((n, 3)), np.empty((n, 3))
    for i in range(n):
        for j in range(3):
            point[i, j], off[i, j] = 0.0, q[i, j]
        for k in range(3):
            index = np.rint(q[i, 0] * basis[k, 0] + q[i, 1] * basis[k, 1] + q[i, 2] * basis[k, 2] - shifts[k]) + shifts[k]
            for j in range(3):
                point[i, j] += inverse[j, k] * index
                off[i, j] -= inverse[j, k] * index
    a, b, w, best_w = np.zeros((3, 3)), np.zeros(3), np.zeros(3), np.zeros(3)
    best, state = 0, np.int64(seed * 2 + 1)
    for _ in range(_TRIALS):
        a[:], b[:] = 0.0, 0.0
        for _ in range(2):
            state = (state * 1103515245 + 12345) % 2147483648
            _add_turn(a, b, point[(state >> 8) % n], off[(state >> 8) % n], s1[(state >> 8) % n])
        _solve3(a, b, w)
        if (w**2).sum() > _MOST_TURN**2:
            continue
        agreed = _count_turned(point, off, s1, w, tolerance)
        if agreed > best:
            best = agreed
            best_w[:] = w
    return best, np.rad2deg(np.sqrt((best_w**2).sum()))


@_jit
def _across(v, ray, result):  # type: ignore[no-untyped-def]
    along = v[0] * ray[0] + v[1] * ray[1] + v[2] * ray[2]
    for j in range(3):
        result[j] = v[j] - along * ray[j]


@_jit
def _add_turn(a, b, point, off, ray):  # type: ignore[no-untyped-def]
    """Adds one spot's normal equations of off = w x point, across its ray."""
    column, across = np.zeros((3, 3)), np.zeros(3)
    unit = np.zeros(3)
    for k in range(3):  # derivative by w_k: e_k x point
        unit[:] = 0.0
        unit[(k + 1) % 3] = -point[(k + 2) % 3]
        unit[(k + 2) % 3] = point[(k + 1) % 3]
        _across(unit, ray, column[k])
    _across(off, ray, across)
    for k in range(3):
        b[k] += (column[k] * across).sum()
        for m in range(3):
            a[k, m] += (column[k] * column[m]).sum()


@_jit
def _count_turned(point, off, s1, w, tolerance):  # type: ignore[no-untyped-def]
    agreed = 0
    for i in range(len(point)):
        p, o, ray = point[i], off[i], s1[i]
        x = o[0] - (w[1] * p[2] - w[2] * p[1])
        y = o[1] - (w[2] * p[0] - w[0] * p[2])
        z = o[2] - (w[0] * p[1] - w[1] * p[0])
        along = x * ray[0] + y * ray[1] + z * ray[2]
        agreed += x * x + y * y + z * z - along * along < tolerance * tolerance
    return agreed
