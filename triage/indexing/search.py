"""Lattices of an unknown cell: candidate vectors, bases of three, each brought onto the spots; the least likely to be chance is best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from triage.indexing.fit import START_PX, START_RAD, fit
from triage.indexing.matrices import inverse
from triage.indexing.observed import Bools, Floats, Measured, Observed
from triage.indexing.significance import chance, log10_chance, on_a_point
from triage.indexing.vectors import join, refine_vectors
from triage.lattice import peaks_of, transform

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")

ALL_NINE = np.eye(9).reshape(9, 3, 3)
"""Every element of A free."""
_STEP = 0.25  # of the grid across the beam, in units of 1 / s_c (triage.lattice)
_MOST_PLANES = 41
_PEAKS, _SHORT_PEAKS, _VECTORS, _BASES = 70, 30, 30, 24
_SCREENED, _SCREEN_ROUNDS = 80, 2
"""Spots that lattices are first held against, about, and rounds of least squares on these."""
_SETTLED = 12
"""Lattices that are then settled on all spots (with 8 one of 560 frames was lost: `benchmarks.indexing`, seeds 35, 51, 53 and 55)."""
_SHORT = 3  # of the grid's reach: of a small cell among other lattices the short vectors stand out, the long ones not


class Held(NamedTuple):
    """What a lattice is refined by, and how firmly it is held to what was known of it."""

    ways: Floats
    """(m, 3, 3): A changes by the sum of x_k ways_k A."""
    per_sigma2: Floats
    """(m,): 1 / sigma^2 of each x_k, zero for what is free."""
    taken: Floats
    """(m,): how far each has gone; refining adds to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is transformed, and how far out in real space."""

    spots: int
    """How many of the innermost."""
    half: int
    """Grid points from the origin to the edge."""


SCOPES = (Scope(spots=64, half=144), Scope(spots=150, half=120), Scope(spots=36, half=240))
"""Tried in turn: the usual one; more spots, where many are not the lattice's; fewer and further, for a long axis."""


@dataclass(slots=True, kw_only=True, eq=False)
class Trial:
    """A lattice as fitted so far."""

    a: Floats
    """(3, 3): columns a*, b*, c* of a primitive cell, 1/A."""
    shift_px: Floats
    """(2,) beam centre, against where it is stated."""
    spin: Floats
    """(3,) half the exposure's rotation, rad; zero for a still, and where no axis fits better than none."""
    spread: Floats
    """(2,) standard deviations: px across the ray, rad along it."""
    inside: Bools
    """(n,) spots that it explains."""
    hkl: Floats
    """(n, 3); zeros for spots that were not in use."""
    away: Floats
    """(n, 2) from their points, 1/A across and along; inf for spots that were not in use."""
    log10_chance: float
    """That so many spots lie on its points by chance (`triage.indexing.significance`), before any number of trials."""

    @property
    def n(self) -> int:
        """How many spots it explains, each reflection once."""
        return int(self.inside.sum())


START = (START_PX, START_RAD)
TIGHT = (0.45, 0.0025)
"""Spreads to start from; the narrow one keeps two lattices with a small angle between them apart."""


def settle(
    observed: Observed,
    use: Bools,
    a: Floats,
    *,
    ways: Floats | Held = ALL_NINE,
    rounds: int = 6,
    like: Trial | None = None,
    start: tuple[float, float] | None = None,
    spin: Floats | None = None,
) -> Trial:
    """`a` fitted to the spots in `use`, starting from the shift, spread and spin of `like` where given and not stated."""
    a = np.array(a, dtype=np.float64)
    shift = np.zeros(2) if like is None else like.shift_px.copy()
    if like is None or start is not None:
        px, rad = start or START
        spread = np.array([px, rad + observed.half_wedge_rad])
    else:
        spread = like.spread.copy()
    if spin is None:
        spin = np.zeros(3) if like is None else like.spin
    held = ways if isinstance(ways, Held) else Held(ways, np.zeros(len(ways)), np.zeros(len(ways)))
    inside, hkl, away = fit(a, shift, spread, held, observed.measured, spin, observed.per_px_A, observed.s, use, rounds)
    trial = Trial(a=a, shift_px=shift, spin=spin, spread=spread, inside=inside, hkl=hkl, away=away, log10_chance=0.0)
    trial.log10_chance = chance(observed, use, trial)
    return trial


def chances(
    observed: Observed,
    which: npt.NDArray[np.intp],
    q: Floats,
    ray: Floats,
    starts: Floats,
    *,
    rounds: int,
    start: tuple[float, float] = START,
    spin: Floats | None = None,
) -> Floats:
    """(m,) log10 of the chance of each of the lattices `starts` (m, 3, 3) fitted to the spots `which`, as `settle` has it, in one call.

    `q` and `ray` (m, n, 3) are those of all spots, for each lattice its own, or (1, n, 3) those of every lattice.
    """
    q, ray = np.ascontiguousarray(q[:, which]), np.ascontiguousarray(ray[:, which])
    per_px, per_px_A = np.ascontiguousarray(observed.measured.per_px[which]), observed.per_px_A[which]
    spread = np.array([start[0], start[1] + observed.half_wedge_rad])
    turn = np.zeros(3) if spin is None else spin
    return np.asarray(_chances((q, ray, per_px), per_px_A, np.linalg.norm(q, axis=2), starts, spread, turn, ALL_NINE, rounds))


@_jit
def _chances(spots, per_px_A, s, starts, spread, spin, ways, rounds):  # type: ignore[no-untyped-def]
    """As `chances`, of spots that are all in use: q and rays (m or 1, n, 3) and dq/dx (n, 3, 2); s (m or 1, n) in 1/A."""
    (q, ray, per_px), (number, n) = spots, s.shape
    found, free = np.zeros(len(starts)), np.zeros(len(ways))
    use = np.ones(n, dtype=np.bool_)
    for m in range(len(starts)):
        of = min(m, number - 1)
        a, shift, here = starts[m].copy(), np.zeros(2), spread.copy()
        held, measured = Held(ways, free, np.zeros(len(ways))), Measured(q[of], ray[of], per_px)
        inside, _, _ = fit(a, shift, here, held, measured, spin, per_px_A, s[of], use, rounds)
        k = inside.sum()
        if k > 0:
            found[m] = log10_chance(k, n, on_a_point(a, here, per_px_A, s[of], use))
    return found


def some_of(use: Bools) -> npt.NDArray[np.intp]:
    """Numbers of about _SCREENED spots in `use`, which go as far out as all do: the inner ones fit wrong lattices as well."""
    return np.flatnonzero(use)[:: max(int(use.sum()) // _SCREENED, 1)]


def screened(
    observed: Observed,
    use: Bools,
    lattices: Sequence[Floats],
    most: int,
    *,
    rounds: int = _SCREEN_ROUNDS,
    start: tuple[float, float] = START,
    spin: Floats | None = None,
) -> list[Floats]:
    """The `most` of `lattices` (matrices A, unfitted) that are least likely to be chance on some of the spots, the least likely first."""
    if len(lattices) <= most or int(use.sum()) < 2 * _SCREENED:
        return list(lattices)
    q, ray, _ = observed.measured
    found = chances(observed, some_of(use), q[None], ray[None], np.stack(lattices), rounds=rounds, start=start, spin=spin)
    return [lattices[k] for k in np.argsort(found, kind="stable")[:most]]


def first_of_each(same: Bools) -> list[int]:
    """Of things of which `same` (k, k) says which are alike, those that are like none kept before them."""
    kept: list[int] = []
    for k in range(len(same)):
        if not same[k, kept].any():
            kept.append(k)
    return kept


def candidates(observed: Observed, use: Bools, scope: Scope) -> list[Floats]:
    """Matrices A (3, 3) of lattices that may explain the spots in `use`, unfitted."""
    q = np.ascontiguousarray(observed.measured.q[use])
    n_inner = min(len(q), scope.spots)
    s_c = max(float(observed.s[use][n_inner - 1]), 0.02)
    step = min(8.0, 2.0 / (observed.wavelength_A * s_c))  # along the beam the sphere is thin, and coarser steps resolve it
    half, planes = scope.half, min(_MOST_PLANES, 2 * int(scope.half * _STEP / step) + 1)
    power = np.empty((planes, half + 1, 2 * half + 1), dtype=np.float32)
    transform(q[:n_inner].astype(np.float32), np.float32(s_c), np.float32(step), power)
    near, middle = half // _SHORT, planes // 2
    thin = max(middle // _SHORT, 1)
    inner = np.ascontiguousarray(power[max(middle - thin, 0) : middle + thin + 1, : near + 1, half - near : half + near + 1])
    peaks = np.concatenate([peaks_of(inner, np.float32(step), n_inner, _SHORT_PEAKS), peaks_of(power, np.float32(step), n_inner, _PEAKS)])
    vectors, on, _ = refine_vectors(np.ascontiguousarray(q.T), min(n_inner, 32), peaks, s_c, _VECTORS)
    bases, _ = join(vectors, on, _BASES)
    return [inverse(basis) for basis in bases]


def likeliest(observed: Observed, use: Bools, lattices: Sequence[Floats]) -> list[Trial]:
    """Matrices A (3, 3), unfitted, brought onto the spots in `use`, or the most promising of them; the least likely to be chance first."""
    return sorted((settle(observed, use, a) for a in screened(observed, use, lattices, _SETTLED)), key=lambda trial: trial.log10_chance)
