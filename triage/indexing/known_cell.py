"""Orientations of a known cell: its two or three shortest vectors turned to where the spots' Fourier transform is highest.

The lengths are known, so the first vector is sought on a sphere and the second on a cone about it, instead of both in space. A small
rotation of a lattice that was found is sought the same way, in a ball of rotations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import product

import numba
import numpy as np
import numpy.typing as npt

from triage.indexing.bravais import niggli
from triage.indexing.matrices import inverse
from triage.indexing.observed import Bools, Floats, Observed, rotations
from triage.indexing.search import first_of_each
from triage.indexing.vectors import sine

_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "nnan", "ninf", "contract", "arcp"})

TRANSFORMED = 64
"""Innermost spots in the transform."""
_STEP = 0.35  # between trial positions of a vector's end, in units of 1 / s_c: what the transform resolves is about 0.6
_DIRECTIONS = 48  # of the first vector, that are followed
_BEST, _FEWEST_BEST = 24, 8  # orientations; of a symmetrical cell, of which each would be there several times, fewer
_ORIENTATIONS_APART = 0.8  # in all nine elements of the three vectors, in units of 1 / s_c: nearer ones are the same
_MOST_DIRECTIONS = 60_000
_MOST_TURNS = 40_000
_LOOKED_AT = 60  # of the worthiest, for each that is wanted
_ASKED_FURTHER = 4  # one in so many orientations, whose next vectors are transformed
_NEAR_ORIGIN = np.array(list(product(range(-3, 4), repeat=3)))
"""Points of a reduced lattice, among which the axes of a cell of up to four times its volume are."""
_ALIKE = 1e-3  # of an index: a known cell's two-fold


@_jit
def coherences(q, t, result):  # type: ignore[no-untyped-def]
    """|sum exp(2 pi i q t)| / n for vectors t (m, 3) into `result` (m,); q (3, n), all float32.

    Sine and cosine by their series, which compilers turn into vector instructions; its error is under 2e-4.
    """
    n = q.shape[1]
    for k in range(len(t)):
        x, y, z = t[k, 0], t[k, 1], t[k, 2]
        real, imaginary = np.float32(0), np.float32(0)
        for i in range(n):
            turn = x * q[0, i] + y * q[1, i] + z * q[2, i]
            f = turn - np.floor(turn + np.float32(0.5))  # -1/2 to 1/2
            g = abs(f) - np.float32(0.25)
            real -= sine(g)  # cos 2 pi f = -sin 2 pi (|f| - 1/4)
            size = sine(np.float32(0.25) - abs(g))  # |sin 2 pi f|
            imaginary += size if f >= 0 else -size
        result[k] = math.sqrt(real * real + imaginary * imaginary) / n


@_jit
def sphere(number):  # type: ignore[no-untyped-def]
    """`number` directions (number, 3) spread evenly over half a sphere (a Fibonacci lattice: Gonzalez, Math. Geosci. 42 (2010) 49)."""
    directions = np.empty((number, 3), dtype=np.float32)
    golden = np.pi * (3.0 - math.sqrt(5.0))
    for k in range(number):
        z = 1.0 - (k + 0.5) / number
        radius = math.sqrt(1.0 - z * z)
        directions[k, 0], directions[k, 1], directions[k, 2] = radius * math.cos(golden * k), radius * math.sin(golden * k), z
    return directions


@_jit
def distinct(vectors, worth, most, apart):  # type: ignore[no-untyped-def]
    """Indices of the `most` worthiest of vectors (n, m) that lie further than `apart` from worthier ones and their opposites."""
    order = np.argsort(-worth)
    chosen = np.empty(most, dtype=np.int64)
    count = 0
    for k in order:
        near = False
        for m in range(count):
            plus, minus = np.float32(0), np.float32(0)
            for j in range(vectors.shape[1]):
                plus += (vectors[k, j] - vectors[chosen[m], j]) ** 2
                minus += (vectors[k, j] + vectors[chosen[m], j]) ** 2
            near |= min(plus, minus) < apart * apart
            if near:
                break
        if not near:
            chosen[count] = k
            count += 1
            if count == most:
                break
    return chosen[:count]


@_jit
def _on_cones(firsts, direct, steps, order, senses):  # type: ignore[no-untyped-def]
    """Orientations (r, 3, 3; rows: the three vectors turned), float32, all of one first vector one after the other.

    `firsts` (f, 3): directions of the first vector, in one or both `senses`; `direct` (3, 3): the cell's vectors in any frame, which are
    turned about the first one by `steps` equal parts of a turn of 1 / `order`.
    """
    turned = np.empty((len(firsts) * senses * steps, 3, 3), dtype=np.float32)
    length = math.sqrt((direct[0] ** 2).sum())
    x0 = direct[0] / length
    y0 = direct[1] - (direct[1] * x0).sum() * x0
    y0 = y0 / math.sqrt((y0**2).sum())
    z0 = np.array([x0[1] * y0[2] - x0[2] * y0[1], x0[2] * y0[0] - x0[0] * y0[2], x0[0] * y0[1] - x0[1] * y0[0]])
    parts = np.empty((3, 3))  # components of each vector along x0, y0, z0
    for k in range(3):
        parts[k, 0], parts[k, 1], parts[k, 2] = (direct[k] * x0).sum(), (direct[k] * y0).sum(), (direct[k] * z0).sum()
    at = 0
    for f in range(len(firsts)):
        for sense in range(senses):
            x = firsts[f].astype(np.float64) * (1.0 - 2.0 * sense)
            helper = np.zeros(3)
            helper[np.argmin(np.abs(x))] = 1.0
            u = np.array([x[1] * helper[2] - x[2] * helper[1], x[2] * helper[0] - x[0] * helper[2], x[0] * helper[1] - x[1] * helper[0]])
            u /= math.sqrt((u**2).sum())
            v = np.array([x[1] * u[2] - x[2] * u[1], x[2] * u[0] - x[0] * u[2], x[0] * u[1] - x[1] * u[0]])
            for step in range(steps):
                angle = 2.0 * np.pi * step / (steps * order)
                y = math.cos(angle) * u + math.sin(angle) * v
                z = math.cos(angle) * v - math.sin(angle) * u
                for k in range(3):
                    for j in range(3):
                        turned[at, k, j] = parts[k, 0] * x[j] + parts[k, 1] * y[j] + parts[k, 2] * z[j]
                at += 1
    return turned


def _worthiest(q: Floats, turned: Floats, worth: Floats, vectors: Sequence[int]) -> tuple[Floats, Floats]:
    """The orientations `turned` (r, 3, 3) that may be the worthiest, and their worth: `worth` (r,) and the coherence of `vectors`.

    The first of these is asked of all orientations, the others of those that are then among the best.
    """
    for k, vector in enumerate(vectors):
        scores = np.empty(len(turned), dtype=np.float32)
        coherences(q, np.ascontiguousarray(turned[:, vector]), scores)
        worth = worth + scores
        kept = max(len(worth) // _ASKED_FURTHER, _BEST * _LOOKED_AT)
        if k == 0 and len(worth) > kept:
            best = np.argpartition(-worth, kept)[:kept]
            turned, worth = turned[best], worth[best]
    return turned, worth


def _inner(observed: Observed, use: Bools) -> tuple[Floats, float]:
    """The innermost spots (3, n) float32, and the 1/d that they go out to."""
    q = observed.measured.q[use][:TRANSFORMED]
    return np.ascontiguousarray(q.T.astype(np.float32)), max(float(np.linalg.norm(q[-1])), 0.02)


@functools.lru_cache(maxsize=4)
def _sphere(number: int) -> Floats:
    return np.asarray(sphere(number))


def _distinct(vectors: Floats, worth: Floats, most: int, apart: float) -> npt.NDArray[np.intp]:
    """As `distinct`, among the worthiest alone: sorting all of them takes longer than the transform."""
    looked_at = most * _LOOKED_AT
    worthiest = np.argpartition(-worth, looked_at)[:looked_at] if len(worth) > looked_at else np.arange(len(worth))
    looked_at_vectors = np.ascontiguousarray(vectors[worthiest].reshape(len(worthiest), -1))
    return np.asarray(worthiest[distinct(looked_at_vectors, worth[worthiest], most, apart)])


def anywhere(observed: Observed, use: Bools, direct: Floats) -> list[Floats]:
    """Matrices A (3, 3) of the lattice with the primitive vectors `direct` (3, 3; rows, A) in likely orientations, unfitted."""
    q, s_c = _inner(observed, use)
    reduced = niggli(direct) @ direct
    length = float(np.linalg.norm(reduced[0]))
    number = int(np.clip(2.0 * np.pi * (length * s_c / _STEP) ** 2, 200, _MOST_DIRECTIONS))
    directions = _sphere(number)
    worth = np.empty(number, dtype=np.float32)
    coherences(q, np.ascontiguousarray(directions * np.float32(length)), worth)
    spacing = math.sqrt(2.0 * np.pi / number)
    chosen = _distinct(directions, worth, _DIRECTIONS, 1.5 * spacing)
    radius = float(np.linalg.norm(np.cross(reduced[0], reduced[1]))) / length
    order = _order_about_first(reduced)
    steps = math.ceil(int(np.clip(2.0 * np.pi * radius * s_c / _STEP, 24, 360)) / order)
    senses = 1 if _turns_over(reduced) else 2
    turned = _on_cones(directions[chosen], reduced, steps, order, senses)
    turned, worth = _worthiest(q, turned, np.repeat(worth[chosen], senses * steps), (1, 2))
    return _best(turned, worth, s_c, reduced, direct, max(_BEST // order, _FEWEST_BEST))


def _inequivalent(bases: Floats, apart: float) -> list[Floats]:
    """Those of `bases` (k, 3, 3; rows, A) that are no other one's lattice: a symmetrical cell has one lattice in many orientations.

    Two are the same where whole numbers take one within `apart` (A, in all nine elements) of the other.
    """
    changes = np.rint(bases[:, None] @ np.linalg.inv(bases)[None])  # (k, k, 3, 3)
    misfit = np.linalg.norm((changes @ bases[None] - bases[:, None]).reshape(len(bases), len(bases), 9), axis=2)
    same = (misfit < apart) & (np.abs(np.rint(np.linalg.det(changes))) == 1)
    return [bases[k] for k in first_of_each(same)]


def axes_like(direct: Floats, lattice: Floats, within: float) -> Floats | None:
    """Vectors (3, 3; rows, A) of the lattice with the primitive vectors `lattice` that are `direct` but for a rotation and a strain.

    None where all strain it by more than `within`, along some direction. The vectors may leave points out, as those of a centred cell do
    (one in four at least is there).
    """
    points = _NEAR_ORIGIN @ (niggli(lattice) @ lattice)
    to_reduced = niggli(direct)
    wanted = to_reduced @ direct
    lengths = np.linalg.norm(points, axis=1)
    likely = [np.flatnonzero(np.abs(lengths / length - 1.0) < within) for length in np.linalg.norm(wanted, axis=1)]
    found = points[np.stack(np.meshgrid(*likely, indexing="ij"), axis=-1).reshape(-1, 3)]  # (k, 3, 3)
    stretches = np.linalg.svd(np.linalg.inv(wanted) @ found, compute_uv=False)
    strains = np.abs(stretches - 1.0).max(axis=1)
    if not len(strains) or strains.min() > within:
        return None
    best = found[int(strains.argmin())]
    return np.asarray(np.linalg.inv(to_reduced) @ best * np.sign(np.linalg.det(best)))  # a lattice has the opposite of each vector


def _turns_over(direct: Floats) -> bool:
    """Whether a two-fold of the lattice turns its first vector (of 3; rows) round: then either sense gives the same lattices."""
    first = direct[0] / np.linalg.norm(direct[0])
    second = direct[1] - (direct[1] @ first) * first
    second /= np.linalg.norm(second)
    inverse = np.linalg.inv(direct)
    for axis in (second, np.cross(first, second)):
        changed = direct @ (2.0 * np.outer(axis, axis) - np.eye(3)) @ inverse
        if np.abs(changed - np.rint(changed)).max() < _ALIKE:
            return True
    return False


def _order_about_first(direct: Floats) -> int:
    """The order of the lattice's rotation about its first vector (of 3; rows): turned by that part of a turn, it is the same lattice."""
    first = direct[0] / np.linalg.norm(direct[0])
    inverse = np.linalg.inv(direct)
    for order in (6, 4, 3, 2):
        turn = rotations(2.0 * np.pi / order * first[None])[0]
        changed = direct @ turn.T @ inverse
        if np.abs(changed - np.rint(changed)).max() < _ALIKE:
            return order
    return 1


@functools.lru_cache(maxsize=4)
def _turns(points: int, within_rad: float) -> Floats:
    """Rotations by less than `within_rad`, `points` to a side: (3, 3 r) float32, the transpose of each beside that of the next."""
    axis = np.arange(-points, points + 1) * (within_rad / points)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    turns = rotations(grid[np.linalg.norm(grid, axis=1) <= within_rad])  # (r, 3, 3)
    return np.ascontiguousarray(turns.transpose(2, 0, 1).reshape(3, -1).astype(np.float32))


def nearby(observed: Observed, use: Bools, a: Floats, within_deg: float) -> list[Floats]:
    """Matrices A (3, 3) of the lattice `a` turned by less than `within_deg`, unfitted."""
    q, s_c = _inner(observed, use)
    direct = inverse(a)
    reduced = niggli(direct) @ direct
    longest = float(np.linalg.norm(reduced, axis=1).max())
    within = float(np.deg2rad(within_deg))
    points = int(np.clip(within * longest * s_c / _STEP, 3, (3.0 * _MOST_TURNS / (4.0 * np.pi)) ** (1.0 / 3.0)))
    turned = (reduced.astype(np.float32) @ _turns(points, within)).reshape(3, -1, 3)  # vector, rotation, component
    none = np.zeros(turned.shape[1], dtype=np.float32)
    likely, worth = _worthiest(q, turned.transpose(1, 0, 2), none, (2, 1, 0))  # the longest is the most particular
    return _best(likely, worth, s_c, reduced, direct, _BEST)


def _best(turned: Floats, worth: Floats, s_c: float, reduced: Floats, direct: Floats, most: int) -> list[Floats]:
    """A of the `most` worthiest orientations, with axes in the order of `direct`; `turned` (r, 3, 3): the vectors of `reduced` turned."""
    apart = _ORIENTATIONS_APART / s_c
    chosen = _distinct(turned, worth, most, apart)
    to_given = direct @ inverse(reduced)
    return [inverse(to_given @ basis) for basis in _inequivalent(turned[chosen].astype(np.float64), apart)]
