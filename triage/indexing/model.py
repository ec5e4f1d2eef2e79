"""A trial lattice made primitive, given its symmetry, and refined under it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from triage.indexing.bravais import Setting, cell_of, settings, tidy
from triage.indexing.known_cell import rotations
from triage.indexing.observed import Bools, Floats, Observed
from triage.indexing.search import Trial, settle

_ON_SUBLATTICE = 0.85
"""Share of the spots on every second or third plane, above which that lattice is tried: half of them are there by chance."""
_MAX_OBLIQUITY_DEG = 3.0
"""Between a direct and a reciprocal axis that may be a two-fold's, of a cell refined on one frame."""
_MOST_F = 8.0
"""Variance ratio of what a symmetry costs in misfit to what is left, per parameter: errors between spots are alike in part, so that the
textbook's 3.8 is too strict."""
_LEAST_KEPT = 0.94
"""Of the spots of the triclinic lattice, which a symmetry must keep."""
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
        return np.linalg.inv(self.setting.change @ np.linalg.inv(self.trial.a))

    @property
    def orientation(self) -> Floats:
        """U (3, 3): the rotation nearest to A B^-1."""
        return nearest_rotation(self.a_conventional @ np.linalg.inv(self.setting.reciprocal))


def nearest_rotation(matrix: Floats) -> Floats:
    """The rotation nearest to a matrix (3, 3) (Kabsch, Acta Cryst. A32 (1976) 922)."""
    u, _, vt = np.linalg.svd(matrix)
    return np.asarray(u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt)


def _classes(prime: int) -> list[tuple[int, ...]]:
    """The planes c h = 0 modulo a prime that are different: first index that is not 0 is 1."""
    every = itertools.product(range(prime), repeat=3)
    return [c for c in every if any(c) and next(x for x in c if x) == 1]


_CLASSES = [(prime, np.array(c)) for prime in (2, 3) for c in _classes(prime)]


def primitive(observed: Observed, use: Bools, trial: Trial) -> Trial:
    """The lattice without points that no spot needs: a cell too large, or a centred one, becomes the smaller one."""
    for _ in range(4):
        hkl = np.rint(trial.hkl[trial.inside]).astype(np.int64)
        if len(hkl) == 0:
            return trial
        for prime, c in _CLASSES:
            if ((hkl @ c) % prime == 0).mean() < _ON_SUBLATTICE:
                continue
            smaller = settle(observed, use, np.linalg.inv(_divided(np.linalg.inv(trial.a), c, prime)), like=trial, rounds=4)
            if smaller.log10_chance < trial.log10_chance:
                trial = smaller
                break
        else:
            return trial
    return trial


def _divided(direct: Floats, c: Floats, prime: int) -> Floats:
    """Direct vectors (3, 3; rows) with the vector c direct / prime among them."""
    divided = direct.copy()
    divided[int(np.flatnonzero(c)[0])] = c @ direct / prime
    return divided


def multiplied(observed: Observed, use: Bools, trial: Trial) -> Trial:
    """The lattice with points half or a third between its own, where the spots left over lie there."""
    best = trial
    direct = np.linalg.inv(trial.a)
    for prime, c in _CLASSES:
        # reciprocal vectors h with h = c m / prime: the dual of dropping direct vectors
        a = np.linalg.inv(direct)
        a[:, int(np.flatnonzero(c)[0])] = a @ c / prime
        larger = settle(observed, use, a, like=trial, rounds=2)
        if larger.log10_chance < best.log10_chance - 2.0 and larger.n >= 1.2 * trial.n:
            best = larger
    return best


def symmetrised(observed: Observed, use: Bools, trial: Trial, log10_trials: float) -> Lattice:
    """The most symmetrical lattice whose misfit is within what the spots' own errors allow, refined under its symmetry."""
    free = settle(observed, use, trial.a, like=trial, rounds=4)
    if free.n < trial.n - 2:
        free = trial
    lattice = None
    for setting in settings(np.linalg.inv(free.a), _MAX_OBLIQUITY_DEG):
        lattice = under(observed, use, free, setting, log10_trials)
        if setting.bravais[0] == "a" or _is_allowed(observed, free, lattice):
            return lattice
    if lattice is None:
        raise AssertionError("every lattice is triclinic at least")
    return lattice


def under(observed: Observed, use: Bools, trial: Trial, setting: Setting, log10_trials: float, *, rounds: int = 4) -> Lattice:
    """`trial` with the symmetry of `setting`, refined in orientation and in what it leaves free of the cell."""
    conventional = np.linalg.inv(setting.change @ np.linalg.inv(trial.a))
    u = nearest_rotation(conventional @ np.linalg.inv(setting.reciprocal))
    start = _to_primitive(u @ setting.reciprocal, setting)
    strains = np.einsum("ij,mjk,lk->mil", u, setting.strains(), u)
    refined = settle(observed, use, start, ways=np.concatenate([TURNS, strains]), like=trial, rounds=rounds)
    if refined.n == 0:
        refined = trial
    direct = setting.change @ np.linalg.inv(refined.a)
    return Lattice(trial=refined, setting=_restated(setting, direct), log10_trials=log10_trials)


def _to_primitive(conventional: Floats, setting: Setting) -> Floats:
    return np.linalg.inv(np.linalg.inv(setting.change) @ np.linalg.inv(conventional))


def _restated(setting: Setting, direct: Floats) -> Setting:
    """The same symmetry with the cell of these conventional axes (3, 3; rows)."""
    return Setting(bravais=setting.bravais, change=setting.change, cell=tidy(cell_of(direct), setting.bravais))


def _is_allowed(observed: Observed, free: Trial, lattice: Lattice) -> bool:
    """Whether a symmetry keeps the spots and costs no more misfit than chance would."""
    trial = lattice.trial
    if trial.n < _LEAST_KEPT * free.n - 1:
        return False
    both = free.inside
    fewer = 6 - len(lattice.setting.strains())
    left, costs = _misfit(observed, free, free, both), _misfit(observed, trial, free, both)
    freedom = max(3 * int(both.sum()) - 11, 1)
    return (costs - left) / max(fewer, 1) < _MOST_F * left / freedom


def _misfit(observed: Observed, trial: Trial, like: Trial, spots: Bools) -> float:
    """Summed squared standard deviations (those of `like`) of `spots`, each cut."""
    across = trial.away[spots, 0] / (like.spread[0] * observed.per_px_A[spots])
    along = trial.away[spots, 1] / np.hypot(3e-4, like.spread[1] * observed.s[spots])
    return float(np.minimum(across**2 + along**2, _WORST).sum())


TURNS = np.stack([(rotations(1e-6 * row[None])[0] - np.eye(3)) / 1e-6 for row in np.eye(3)])
"""The three generators of rotations; 1e-6 rad is small enough for the derivative."""
