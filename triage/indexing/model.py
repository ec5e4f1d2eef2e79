"""A trial lattice made primitive, given its symmetry, and refined under it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from triage.indexing.bravais import Integers, Setting, busing_levy, cell_of, settings, tidy
from triage.indexing.fit import DOMAIN_PER_A
from triage.indexing.matrices import inverse, nearest_rotation
from triage.indexing.observed import Bools, Floats, Observed, rotations
from triage.indexing.search import ALL_NINE, START, TIGHT, Held, Trial, screened, settle
from triage.indexing.significance import chance_of_more

_ON_SUBLATTICE = 0.65
"""Share of the spots on every second or third plane, above which that lattice is tried: half of them are there by chance."""
_ALL_EVEN = 0.5
"""Share of the spots with all indices even (by chance 1/8), above which the odd ones are half the wavelength's."""
_ON_ONE_PLANE = 0.9
"""Share of the other spots on one and the same set of every second planes, above which they are a centred lattice's own: of half the
wavelength's 3/7 are (0.72 of 64 was the most, and 1 of every centred one's: `benchmarks.indexing`, seeds 21, 31, 33 and 53)."""
_LOG10_NEEDED = -3.0
"""Chance of the spots on points between a lattice's own, below which the larger cell is taken."""
_FEW = 2
_MOST_OF_LEFT = 0.5
"""Share of the spots left over that a larger cell must explain: those of another lattice are no reason for one."""
_NEAR, _NEAR_PX = (6.0, 5.0), 3.0
"""Standard deviations (across, along) and least pixels, within which a spot is too near a lattice's points to be another's."""
_LEAST_WEDGE_RAD = np.deg2rad(0.03)
"""Half a rotation that moves a spot by a tenth of a pixel (3,000 px from the sample, at 1.5 A)."""
_BLUNT = (0.6, 0.006)
"""Spread (px, rad) that a single lattice seldom has."""
_APART_DEG = 0.4
_TURNS_SETTLED = 4
"""Small turns of a blunt lattice that are settled on all spots, of the 27 that are held against some of them."""
_BALL = np.array([(x, y, z) for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0) for z in (-1.0, 0.0, 1.0)])
_MAX_OBLIQUITY_DEG = 3.0
"""Between a direct and a reciprocal axis that may be a two-fold's, of a cell refined on one frame."""
_MOST_F = 8.0
"""Variance ratio of what a symmetry costs in misfit to what is left, per parameter: errors between spots are alike in part, so that the
textbook's 3.8 is too strict."""
_HONEST = (0.3, 0.0015)
"""Least errors (px, rad) that a comparison of misfits believes in: below, spots err together."""
_LEAST_STRAIN = 0.003
"""That a symmetry may cost whatever the misfit: what a still leaves uncertain of a cell in any case (White, Acta Cryst. D75 (2019) 26)."""
_MOST_STRAIN, _MOST_GROWTH, _MOST_MISFIT_PX = 0.02, 0.45, 0.9
"""Of a symmetry that is taken all the same: what an error of the beam centre, a tilt or a distance do to a triclinic cell on real frames
(strains of 0.7 to 1.6 %, a misfit larger by 15 to 40 %, or 0.8 px in all; benchmarks/indexed_real.py). A false symmetry costs pixels."""
_LEAST_KEPT = 0.9
"""Of the spots of the triclinic lattice, which a symmetry must keep."""
_CELL_SIGMA = 0.01
"""Strain (standard deviation) of a crystal against a known cell: cells of one crystal form, and the distances that headers state, differ by
about a percent."""
_WORST = 9.0  # squared standard deviations at which one spot's misfit is cut


@dataclass(slots=True, kw_only=True, eq=False)
class Lattice:
    """A lattice with its symmetry."""

    trial: Trial
    setting: Setting
    log10_trials: float
    """Of the search that found it."""

    @property
    def a_conventional(self) -> Floats:
        """(3, 3): A of the conventional cell."""
        return inverse(self.setting.change @ inverse(self.trial.a))

    @property
    def orientation(self) -> Floats:
        """U (3, 3): the rotation nearest to A B^-1."""
        return nearest_rotation(self.a_conventional @ inverse(self.setting.reciprocal))


def _classes(prime: int) -> list[tuple[int, ...]]:
    """The planes c h = 0 modulo a prime that are different: first index that is not 0 is 1."""
    every = itertools.product(range(prime), repeat=3)
    return [c for c in every if any(c) and next(x for x in c if x) == 1]


_CLASSES = [(prime, np.array(c)) for prime in (2, 3) for c in _classes(prime)]


def primitive(observed: Observed, use: Bools, trial: Trial, *, ways: Floats = ALL_NINE) -> Trial:
    """The lattice without points that no spot needs: a cell too large, or a centred one, becomes the smaller one."""
    for _ in range(4):
        smaller = _smaller(observed, use, trial, ways)
        if smaller is None:
            return trial
        trial = smaller
    return trial


def _smaller(observed: Observed, use: Bools, trial: Trial, ways: Floats) -> Trial | None:
    hkl = np.rint(trial.hkl[trial.inside]).astype(np.int64)
    if len(hkl) == 0:
        return None
    even = (hkl % 2 == 0).all(axis=1)
    if even.mean() >= _ALL_EVEN and not _on_one_plane(hkl[~even]):
        return settle(observed, use, 2.0 * trial.a, ways=ways, like=trial, rounds=4)
    for prime, c in _CLASSES:
        if ((hkl @ c) % prime == 0).mean() < _ON_SUBLATTICE:
            continue
        smaller = settle(observed, use, inverse(_divided(inverse(trial.a), c, prime)), ways=ways, like=trial, rounds=4)
        few = trial.n - smaller.n <= _FEW
        if smaller.n and (few or chance_of_more(observed, use & ~claimed(observed, smaller), trial, smaller) > _LOG10_NEEDED):
            return smaller
    return None


def _on_one_plane(hkl: Integers) -> bool:
    """Whether nearly all indices (n, 3) are on every second plane in one direction, as a centred lattice's are; of no indices, not."""
    return len(hkl) > 0 and max(float(((hkl @ c) % 2 == 0).mean()) for prime, c in _CLASSES if prime == 2) >= _ON_ONE_PLANE


def claimed(observed: Observed, trial: Trial) -> Bools:
    """Spots that are the lattice's or too near its points to be told from its."""
    px = max(_NEAR[0] * trial.spread[0], _NEAR_PX)
    along = np.hypot(DOMAIN_PER_A, trial.spread[1] * observed.s)
    return np.asarray((trial.away[:, 0] < px * observed.per_px_A) & (np.abs(trial.away[:, 1]) < _NEAR[1] * along))


def harmonics(observed: Observed, use: Bools, trial: Trial) -> Bools:
    """Spots in `use` half way between the lattice's points, where they are there by more than chance: those of half the wavelength."""
    halved = settle(observed, use, 0.5 * trial.a, like=trial, rounds=0)
    left = use & ~claimed(observed, trial)
    if chance_of_more(observed, left, halved, trial) > _LOG10_NEEDED:
        return np.zeros(len(use), dtype=bool)
    return np.asarray(halved.inside & left)


def _divided(direct: Floats, c: Floats, prime: int) -> Floats:
    """Direct vectors (3, 3; rows) with the vector c direct / prime among them."""
    divided = direct.copy()
    divided[int(np.flatnonzero(c)[0])] = c @ direct / prime
    return divided


def multiplied(observed: Observed, use: Bools, trial: Trial) -> Trial:
    """The lattice with points half or a third between its own, where the spots left over lie there.

    Where they lie half way in all directions alike, they are of half the wavelength, not of a larger cell.
    """
    left = use & ~claimed(observed, trial)
    if int(left.sum()) <= _FEW:
        return trial
    best, least = trial, _LOG10_NEEDED - np.log10(len(_CLASSES))
    alike = int((settle(observed, use, 0.5 * trial.a, like=trial, rounds=0).inside & left).sum())
    for prime, c in _CLASSES:
        a = np.array(trial.a)
        a[:, int(np.flatnonzero(c)[0])] = trial.a @ c / prime
        larger = settle(observed, use, a, like=trial, rounds=0)
        more = int((larger.inside & left).sum())
        if more < _MOST_OF_LEFT * left.sum() or (prime == 2 and more < 0.5 * alike):
            continue
        found = chance_of_more(observed, left, larger, trial)
        if found < least:
            best, least = settle(observed, use, a, like=trial, rounds=4), found
    return best


def with_spin(observed: Observed, use: Bools, trial: Trial, *, ways: Floats = ALL_NINE) -> Trial:
    """The lattice turned by the exposure, about the header's axis or, where it states none, the better of the two that beamlines have.

    Where the lattice fits better without, it is left as it is.
    """
    if observed.half_wedge_rad < _LEAST_WEDGE_RAD:
        return trial
    axes = np.eye(3)[:2] if observed.axis is None else observed.axis[None]
    spins = [observed.half_wedge_rad * axis for axis in axes]
    turned = [settle(observed, use, trial.a, ways=ways, like=trial, spin=spin, rounds=4) for spin in spins]
    return min([trial, *turned], key=lambda one: one.log10_chance)


def sharpened(observed: Observed, use: Bools, trial: Trial) -> Trial:
    """One of several lattices at a small angle, where `trial` has gone between them; else `trial`."""
    if trial.spread[0] < _BLUNT[0] and trial.spread[1] < _BLUNT[1] + observed.half_wedge_rad:
        return trial
    turned = [turn @ trial.a for turn in rotations(np.deg2rad(_APART_DEG) * _BALL)]
    likely = screened(observed, use, turned, _TURNS_SETTLED, start=TIGHT, spin=trial.spin)
    trials = [settle(observed, use, a, start=TIGHT, spin=trial.spin) for a in likely]
    return min([trial, *trials], key=lambda one: one.log10_chance)


def symmetrised(observed: Observed, use: Bools, trial: Trial, log10_trials: float) -> Lattice:
    """The most symmetrical lattice whose misfit is within what the spots' own errors allow, refined under its symmetry."""
    free = settle(observed, use, trial.a, like=trial, rounds=4)
    if free.n < trial.n - 2:
        free = trial
    lattice = None
    for setting in settings(inverse(free.a), _MAX_OBLIQUITY_DEG):
        lattice = under(observed, use, free, setting, log10_trials, start=START)
        if setting.bravais[0] == "a" or _is_allowed(observed, free, lattice):
            return lattice
    if lattice is None:
        raise AssertionError("every lattice is triclinic at least")
    return lattice


def under(
    observed: Observed, use: Bools, trial: Trial, setting: Setting, log10_trials: float, *, start: tuple[float, float] | None = None
) -> Lattice:
    """`trial` with the symmetry of `setting`, refined in orientation and in what it leaves free of the cell, held to a known one."""
    conventional = inverse(setting.change @ inverse(trial.a))
    u = nearest_rotation(conventional @ inverse(setting.reciprocal))
    a = _to_primitive(u @ setting.reciprocal, setting)
    strains = u @ setting.strains() @ u.T
    ways = Held(np.concatenate([TURNS, strains]), *_held(setting))
    refined = settle(observed, use, a, ways=ways, like=trial, rounds=4, start=start)
    if refined.n == 0:
        refined = trial
    direct = setting.change @ inverse(refined.a)
    return Lattice(trial=refined, setting=_restated(setting, direct), log10_trials=log10_trials)


def _held(setting: Setting) -> tuple[Floats, Floats]:
    """How firmly a known cell holds three turns and the strains of its symmetry, 1 / sigma^2 (m,), and how far each has gone (m,)."""
    ways = setting.strains()
    firmness, taken = np.zeros(3 + len(ways)), np.zeros(3 + len(ways))
    if setting.stated is not None:
        strain = setting.reciprocal @ inverse(busing_levy(setting.stated)) - np.eye(3)
        squares = (ways**2).sum(axis=(1, 2))
        firmness[3:] = squares / _CELL_SIGMA**2
        taken[3:] = (ways * (strain + strain.T) / 2.0).sum(axis=(1, 2)) / squares
    return firmness, taken


def _to_primitive(conventional: Floats, setting: Setting) -> Floats:
    return inverse(inverse(setting.change) @ inverse(conventional))


def _restated(setting: Setting, direct: Floats) -> Setting:
    """The same symmetry with the cell of these conventional axes (3, 3; rows)."""
    return replace(setting, cell=tidy(cell_of(direct), setting.bravais))


def _is_allowed(observed: Observed, free: Trial, lattice: Lattice) -> bool:
    """Whether a symmetry keeps the spots and costs no more misfit than chance would."""
    trial = lattice.trial
    if trial.n < _LEAST_KEPT * free.n - 1:
        return False
    if _strain(free.a, trial.a) < _LEAST_STRAIN:
        return True
    both = free.inside
    fewer = 6 - len(lattice.setting.strains())
    left, costs = _misfit(observed, free, free, both), _misfit(observed, trial, free, both)
    freedom = max(3 * int(both.sum()) - 11, 1)
    if _strain(free.a, trial.a) < _MOST_STRAIN and (costs - left < _MOST_GROWTH * left or trial.spread[0] < _MOST_MISFIT_PX):
        return True
    return (costs - left) / max(fewer, 1) < _MOST_F * left / freedom


def _strain(a: Floats, b: Floats) -> float:
    """Largest principal strain between two lattices with the same indices."""
    return float(np.abs(np.linalg.svd(b @ inverse(a), compute_uv=False) - 1.0).max())


def _misfit(observed: Observed, trial: Trial, like: Trial, spots: Bools) -> float:
    """Summed squared standard deviations (those of `like`) of `spots`, each cut."""
    across = trial.away[spots, 0] / (max(like.spread[0], _HONEST[0]) * observed.per_px_A[spots])
    along = trial.away[spots, 1] / np.hypot(DOMAIN_PER_A, max(like.spread[1], _HONEST[1]) * observed.s[spots])
    return float(np.minimum(across**2 + along**2, _WORST).sum())


TURNS = np.stack([(rotations(1e-6 * row[None])[0] - np.eye(3)) / 1e-6 for row in np.eye(3)])
"""The three generators of rotations; 1e-6 rad is small enough for the derivative."""
