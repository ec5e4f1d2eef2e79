"""Every lattice of a frame's spots: known cells first, an unknown one where they fail, and again on what is left over."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from triage.core import Cell, Indexed, IndexingStatus, Run, Solution, Spots
from triage.indexing.bravais import Setting, busing_levy, is_flat, settings
from triage.indexing.centre import LOG10_CENTRES, SHARP_PX, Move, View, free_centre, is_sharp
from triage.indexing.known_cell import anywhere, axes_like, nearby
from triage.indexing.matrices import apart_rad, inverse
from triage.indexing.model import (
    TURNS,
    Lattice,
    claimed,
    harmonics,
    multiplied,
    primitive,
    sharpened,
    symmetrised,
    under,
    with_spin,
)
from triage.indexing.observed import Bools, Floats, Observed
from triage.indexing.search import SCOPES, START, Scope, Trial, candidates, likeliest, settle

LEAST_SPOTS = 10
"""Off the ice rings, below which nothing is sought."""
LEAST_INDEXED = 8
"""Spots of a lattice: what counts as visible (contract, section 7)."""
_FURTHER = -2.0
"""Added to the significance of a further lattice: spots that another one leaves over are not scattered as evenly as chance would."""
_MOST_BLUNT_PX = 1.2
"""Spread across the ray above which a further lattice is taken for several, or for none."""
_CONVERGED_RAD = math.radians(0.1)
"""Within which two orientations of a known cell have been brought to one and the same."""
_LEAST_ANGLE_RAD, _MOSAIC = math.radians(0.3), 1.0
_INNER, _FOLLOWED = 80, 5
"""Innermost spots that orientations are brought onto first, and how many of those then onto all."""
_WORTH_FOLLOWING = 0.5
"""Of the best orientation's log10 of chance, that another must have to be followed: right ones stand far above the others."""
_SPLIT_DEG = 8.0
"""Small angles, among which another lattice of the same cell is sought first: cracked crystals and their mosaic blocks."""
_EXACT_DEG = 0.05
"""Obliquity within which a known cell has a symmetry: what its digits say."""
_LOG10_UNKNOWN = 15.0
"""Lattices of an unknown cell that a search tells apart: three vectors, each of the 10^5 or so that the grid holds."""
_LOG10_STRAINS = 2.0
"""Cells a little larger or smaller than a known one that can be told apart, roughly."""
_NEARLY_ALL = 0.9
"""Of the spots, that a lattice must explain for its symmetry to speak for the stated beam centre."""
_ORIENTATIONS = 8
"""Of a known cell, that a beam centre is sought with where none of them explains the spots with the stated one."""
_ENOUGH = 0.6
"""Of the spots, that a lattice must explain for no other scope to be tried."""
_SURE_SPOTS = 50
"""That a sharp lattice must have instead: some with 12 to 26 were sharp by chance (`benchmarks.indexing`, seeds 21, 31 and 33)."""
_MANY_LEFT = 0.25
"""Of the spots, left over by the lattices found, for a further one of another cell to be sought with every scope."""
_TWELVE = 12
"""Parts of a known cell's axes of which those of a lattice with fewer points are whole numbers: halves, thirds, and halves of these."""
_AGREES, _UNSTRAINED = 0.02, 0.01
"""Largest strain of a lattice that is of a known cell, and of one that no wrong index has strained: cells of one crystal form, and the
distances that headers state, differ by about a percent."""
_MORE_POINTS = 1.5
"""Of a reciprocal cell's volume over another's, above which the other has points that it leaves out: twice as many at least."""
_ENOUGH_KNOWN = 0.3
"""Of the spots, that a lattice of a known cell must explain for an unknown one not to be sought as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedIndexer:
    """Indexes one frame's spots; implements Indexer."""

    most_lattices: int = 4
    log10_significance: float = -3.0
    """Of a lattice to be there by chance, all trials counted."""

    def index(
        self,
        spots: Spots,
        run: Run,
        *,
        cells: Sequence[Cell] = (),
        before: Sequence[tuple[int, Spots]] = (),
        beam_shift_px: tuple[float, float] | None = None,
    ) -> Indexed:
        """Every lattice of the spots; `cells` are known ones, likeliest first, tried before an unknown one is sought.

        `before`: spots of earlier frames of the same rotation, each with how many frames earlier it was taken. Lattices are sought on
        all of them; what is said is said of `spots`. Without the header's rotation axis they are left out. `beam_shift_px` (slow, fast):
        where other frames of the run have the beam, from where it is stated; tried first, and where nothing is found so, as it is stated.
        """
        if run.geometry is None:
            return _not(f"the run's geometry is not known ({run.geometry_problem or 'the header states none'})")
        view = View.of(spots, run, before, beam_shift_px)
        n_off_ice = int(view.observed.off_ice.sum())
        if n_off_ice < LEAST_SPOTS:
            return _not(f"{n_off_ice} spots off the ice rings; at least {LEAST_SPOTS} are needed")
        found = self._first(view, cells)
        if found is None and beam_shift_px is not None:
            found = self._first(View.of(spots, run, before), cells)
        lattices = [] if found is None else self._with_further(found.view.observed, found.lattice)
        if found is None or not lattices:
            return _not("no lattice explains the spots better than chance")
        return _indexed(found.view, lattices)

    def _first(self, view: View, cells: Sequence[Cell]) -> _Found | None:
        """The first lattice: of a known cell, or of any; with the beam where the view has it, or where that leaves it blunt, elsewhere."""
        observed, use = view.observed, view.observed.usable
        known, oriented = self._of_cells(observed, cells)
        best = self._recentred(view, known, [a for _, a in oriented], cells, of=[cell for cell, _ in oriented])
        if best is not None and _is_certain(best, cells):
            return best
        known_one = best
        bases = candidates(observed, use, SCOPES[0])
        other = self._recentred(view, self._unknown(observed, use, [bases]), bases, cells)
        best = self._known_or_other(view, best, other, cells)
        if best is not None and (best is known_one or _is_enough(best)):
            return best
        places = [view] if best is None or best.view is view else [best.view, view]
        for place in places:
            wider = self._unknown(place.observed, place.observed.usable, _scopes(place.observed, place.observed.usable, SCOPES[1:]))
            best = _better(best, _found(place, wider if place is view else _of_a_search(wider)))
        return best

    def _recentred(
        self, view: View, first: Lattice | None, lattices: Sequence[Floats], cells: Sequence[Cell], *, of: Sequence[Cell] = ()
    ) -> _Found | None:
        """The lattice `first`, or one with the beam elsewhere, where that is less likely to be chance, all centres counted.

        Where `first` is sharp, no other is sought; `lattices` (matrices A, unfitted) are what its centre is sought with, and `of` the
        known cells that each of them is of, if they are.
        """
        here = _found(view, first)
        if first is not None and is_sharp(view.observed, view.observed.usable, first):
            return here
        move = free_centre(view, lattices) if len(lattices) else None
        if move is None:
            return here
        moved = view.with_beam_moved(move.by_px)
        other = _of_a_search(self._elsewhere(moved.observed, move, cells, of[move.which] if of else None))
        if other is None:
            return here
        if first is not None and _keeps_symmetry(view.observed, first, other):
            return here
        needed = 0.0 if first is None else _worth(first)
        if not self._is_there(other.trial, other.log10_trials) or _worth(other) > needed + self.log10_significance:
            return here
        return _Found(view=moved, lattice=other)

    def _elsewhere(self, observed: Observed, move: Move, cells: Sequence[Cell], of: Cell | None) -> Lattice | None:
        """The first lattice with the beam moved.

        Where the lattice that tells where the beam is is `of` a known cell, that one, if it holds under that cell: it is fitted there,
        and a search finds the same (58 of 64 times, and five times one a little better: `benchmarks.indexing`, seeds 21, 31 and 33).
        Else known cells are sought, and where these are not all that is known, the lattices that came with the move are tried.
        """
        use = observed.usable
        if of is not None:
            log10_trials = _log10_trials(observed, use)
            trial = settle(observed, use, move.a, ways=TURNS, rounds=0)
            carried = self._completed(observed, use, under(observed, use, trial, _stated(of)[1], log10_trials, start=START))
            return self._of_cells(observed, cells)[0] if carried is None else carried
        other, _ = self._of_cells(observed, cells)
        if other is None or other.trial.n < _ENOUGH_KNOWN * use.sum():
            other = _least([other, self._unknown(observed, use, move.options())])
        return other

    def _with_further(self, observed: Observed, first: Lattice) -> list[Lattice]:
        """The first lattice and those of the spots that it leaves over, strongest first."""
        found: list[Lattice] = []
        use = observed.usable
        for _ in range(2 * self.most_lattices):
            if len(found) == self.most_lattices or int(use.sum()) < LEAST_INDEXED:
                break
            lattice = first if not found else self._next(observed, use, found)
            if lattice is None or not self._is_there(lattice.trial, lattice.log10_trials, further=bool(found)):
                break
            use = use & ~claimed(observed, lattice.trial)
            if any(_is_same(lattice.trial, other.trial) for other in found):
                continue
            found.append(lattice)
            if len(found) == 1:
                use = use & ~harmonics(observed, use | lattice.trial.inside, lattice.trial)
        return sorted(found, key=lambda lattice: -lattice.trial.n)

    def _is_there(self, trial: Trial, log10_trials: float, *, further: bool = False) -> bool:
        if is_flat(trial.a.T) or (further and trial.spread[0] > _MOST_BLUNT_PX):
            return False
        needed = self.log10_significance + (_FURTHER if further else 0.0)
        return trial.n >= LEAST_INDEXED and trial.log10_chance + log10_trials < needed

    def _of_cells(self, observed: Observed, cells: Sequence[Cell]) -> tuple[Lattice | None, list[tuple[Cell, Floats]]]:
        """The best lattice of known cells, and the orientations (a cell and a matrix A, unfitted) that were tried for it."""
        use, tried = observed.usable, list[tuple[Cell, Floats]]()
        best: Lattice | None = None
        for cell in cells:
            lattice, orientations = self._known(observed, use, cell)
            tried += [(cell, a) for a in orientations[:_ORIENTATIONS]]
            best = _least([best, lattice])
        return best, tried

    def _known(self, observed: Observed, use: Bools, cell: Cell) -> tuple[Lattice | None, list[Floats]]:
        direct, setting = _stated(cell)
        log10_trials = _log10_trials(observed, use)
        orientations = anywhere(observed, use, direct)
        lattice = _oriented(observed, use, orientations, setting, log10_trials)
        return self._completed(observed, use, lattice), orientations

    def _completed(self, observed: Observed, use: Bools, lattice: Lattice) -> Lattice | None:
        """A lattice of a known cell without the points that no spot needs and turned by the exposure; None where it may be chance."""
        if not self._is_there(lattice.trial, lattice.log10_trials):
            return None
        smaller = primitive(observed, use, lattice.trial, ways=TURNS)
        best = with_spin(observed, use, smaller, ways=TURNS)
        if is_flat(best.a.T):
            return None
        setting = lattice.setting
        if smaller is not lattice.trial:  # else its symmetry is the stated cell's: only turned since
            setting = next(iter(settings(inverse(best.a), _EXACT_DEG)))
            if lattice.setting.stated is not None:
                stated = inverse(lattice.setting.change) @ inverse(busing_levy(lattice.setting.stated))
                setting = setting.held_to(np.rint(_TWELVE * inverse(best.a) @ lattice.trial.a) / _TWELVE @ stated)
        return under(observed, use, best, setting, lattice.log10_trials)

    def _known_or_other(self, view: View, known: _Found | None, other: _Found | None, cells: Sequence[Cell]) -> _Found | None:
        """Of a known cell's lattice and one of any cell the one that is less likely to be chance.

        The one of any cell is put under the first of `cells` that it agrees with, where that makes it less likely to be chance, and in
        any case where that has points which it leaves out: whether these are there has been asked of the known cell. One that agrees
        with none of them must explain more spots than the known cell's, too: another crystal form is rare.
        """
        if other is None:
            return known
        for cell in cells:
            axes = axes_like(_stated(cell)[0], inverse(other.lattice.trial.a), _AGREES)
            if axes is not None:
                return _better(known, self._under_known(view, other, cell, axes))
        if known is not None and other.lattice.trial.n <= known.lattice.trial.n:
            return known
        return _better(known, other)

    def _under_known(self, view: View, found: _Found, cell: Cell, axes: Floats) -> _Found:
        """A lattice of any cell whose vectors `axes` (3, 3; rows, A) are those of a known cell, under that cell."""
        observed, use, lattice = found.view.observed, found.view.observed.usable, found.lattice
        log10_trials = _log10_trials(observed, use) + (0.0 if found.view is view else LOG10_CENTRES)
        trial = settle(observed, use, inverse(axes), ways=TURNS, like=lattice.trial, rounds=0)
        known = self._completed(observed, use, under(observed, use, trial, _stated(cell)[1], log10_trials, start=START))
        if known is None:
            return found
        leaves_out = abs(np.linalg.det(lattice.trial.a)) > _MORE_POINTS * abs(np.linalg.det(known.trial.a))
        return replace(found, lattice=known) if leaves_out or _worth(known) < _worth(lattice) else found

    def _unknown(self, observed: Observed, use: Bools, options: Iterable[Sequence[Floats]]) -> Lattice | None:
        """A lattice of any cell, from the first of `options` (matrices A, unfitted) that explain enough."""
        if int(use.sum()) < LEAST_SPOTS:
            return None
        best: Trial | None = None
        for lattices in options:
            trials = [primitive(observed, use, trial) for trial in likeliest(observed, use, lattices)[:4]]
            best = min([trial for trial in (best, *trials) if trial is not None], key=lambda trial: trial.log10_chance, default=None)
            if best is not None and self._is_there(best, _LOG10_UNKNOWN) and best.n >= _ENOUGH * use.sum():
                break
        if best is None or not self._is_there(best, _LOG10_UNKNOWN):
            return None
        best = sharpened(observed, use, with_spin(observed, use, best))
        best = primitive(observed, use, multiplied(observed, use, best))
        if is_flat(best.a.T):
            return None
        lattice = symmetrised(observed, use, best, _LOG10_UNKNOWN)
        return None if is_flat(lattice.trial.a.T) else lattice

    def _next(self, observed: Observed, use: Bools, found: list[Lattice]) -> Lattice | None:
        first = found[0]
        setting = replace(first.setting, stated=None)  # as refined, which these spots share: header and crystal are the same
        for within_deg in (_SPLIT_DEG, 180.0):
            near = within_deg < 180.0
            options = nearby(observed, use, first.trial.a, within_deg) if near else anywhere(observed, use, inverse(first.trial.a))
            log10_trials = _log10_orientations(observed, use, np.deg2rad(within_deg))
            lattice = _oriented(observed, use, options, setting, log10_trials, like=first.trial)
            if self._is_there(lattice.trial, log10_trials, further=True):
                return lattice
        scopes = SCOPES if use.sum() >= _MANY_LEFT * observed.usable.sum() else SCOPES[:1]
        return self._unknown(observed, use, _scopes(observed, use, scopes))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Found:
    """A frame's first lattice, and where the beam is then."""

    view: View
    lattice: Lattice


@functools.lru_cache(maxsize=16)
def _stated(cell: Cell) -> tuple[Floats, Setting]:
    """Direct axes (3, 3; rows, A) of a known cell, and its symmetry: asked for on every frame of a run, and of a moved beam again."""
    direct = inverse(busing_levy(cell))
    return direct, next(iter(settings(direct, _EXACT_DEG))).held_to(direct)


def _found(view: View, lattice: Lattice | None) -> _Found | None:
    return None if lattice is None else _Found(view=view, lattice=lattice)


def _is_enough(found: _Found) -> bool:
    """Whether a lattice explains so many spots, or so sharply, that no other scope is tried: one of several cannot explain most."""
    observed, n = found.view.observed, found.lattice.trial.n
    use = observed.usable
    return bool(n >= _ENOUGH * use.sum()) or (n >= _SURE_SPOTS and is_sharp(observed, use, found.lattice))


def _is_certain(found: _Found, cells: Sequence[Cell]) -> bool:
    """Whether a known cell's lattice is such that no other cell is sought: sharp, and of many spots or most.

    Or blunt along the ray alone, which mosaicity makes it, of nearly all spots, and of one of `cells` as stated: wrong indices strain it.
    """
    observed, lattice = found.view.observed, found.lattice
    if is_sharp(observed, observed.usable, lattice):
        return _is_enough(found)
    if lattice.trial.spread[0] > SHARP_PX or lattice.trial.n < _NEARLY_ALL * observed.usable.sum():
        return False
    direct = inverse(lattice.trial.a)
    return any(axes_like(_stated(cell)[0], direct, _UNSTRAINED) is not None for cell in cells)


def _of_a_search(lattice: Lattice | None) -> Lattice | None:
    """The lattice, its beam centre having been sought: the centres that were tried count too."""
    return None if lattice is None else replace(lattice, log10_trials=lattice.log10_trials + LOG10_CENTRES)


def _least(lattices: Iterable[Lattice | None]) -> Lattice | None:
    """The one that is least likely to be chance."""
    return min((lattice for lattice in lattices if lattice is not None), key=_worth, default=None)


def _better(one: _Found | None, other: _Found | None) -> _Found | None:
    """The one that is less likely to be chance."""
    return min((found for found in (one, other) if found is not None), key=lambda found: _worth(found.lattice), default=None)


def _scopes(observed: Observed, use: Bools, scopes: Iterable[Scope]) -> Iterator[list[Floats]]:
    """The candidates of each scope, made when they are asked for."""
    return (candidates(observed, use, scope) for scope in scopes)


def _worth(lattice: Lattice) -> float:
    """log10 of its chance, all trials counted."""
    return lattice.trial.log10_chance + lattice.log10_trials


def _keeps_symmetry(observed: Observed, first: Lattice, other: Lattice) -> bool:
    """Whether a lattice that explains nearly all spots has a symmetry that another one lacks: a wrong centre strains, and makes none."""
    return first.trial.n >= _NEARLY_ALL * observed.usable.sum() and len(first.setting.strains()) < len(other.setting.strains())


def _oriented(
    observed: Observed, use: Bools, options: list[Floats], setting: Setting, log10_trials: float, like: Trial | None = None
) -> Lattice:
    """The orientation that is least likely to be chance, brought onto the innermost spots first, and the best of them onto all."""
    inner = use & (np.cumsum(use) <= _INNER)
    trials = [settle(observed, inner, a, ways=TURNS, rounds=3, like=like, start=START) for a in options]
    trials.sort(key=lambda trial: trial.log10_chance)
    followed, seen = list[Lattice](), list[Trial]()
    for trial in trials[:_FOLLOWED]:
        if trial.log10_chance > _WORTH_FOLLOWING * trials[0].log10_chance:
            break
        if any(apart_rad(trial.a, other.a) < _CONVERGED_RAD for other in seen):
            continue
        lattice = under(observed, inner, trial, setting, log10_trials, start=START)
        if not any(apart_rad(lattice.trial.a, other.a) < _CONVERGED_RAD for other in seen):
            followed.append(under(observed, use, lattice.trial, lattice.setting, log10_trials, start=START))
        seen += [trial, lattice.trial]
    return min(followed, key=_worth)


def _is_same(one: Trial, other: Trial) -> bool:
    """Whether two lattices are so nearly parallel that they are one crystal's mosaic blocks."""
    return apart_rad(one.a, other.a) < max(_LEAST_ANGLE_RAD, _MOSAIC * float(other.spread[1]))


def _log10_orientations(observed: Observed, use: Bools, within_rad: float) -> float:
    """log10 of the number of orientations that can be told apart, within an angle of one of them."""
    reach = float(np.percentile(observed.s[use], 90))
    apart = 3.0 * float(np.median(observed.per_px_A[use])) / reach
    volume = 4.0 * np.pi * (within_rad - math.sin(within_rad)) * 2.0  # of rotation vectors, with Haar's measure
    return max(math.log10(volume / apart**3), 0.0)


def _log10_trials(observed: Observed, use: Bools) -> float:
    """log10 of the lattices of a known cell that can be told apart."""
    return _log10_orientations(observed, use, np.pi) + _LOG10_STRAINS


def _not(reason: str) -> Indexed:
    return Indexed(status=IndexingStatus.NOT_INDEXED, reason=reason)


def _indexed(view: View, lattices: list[Lattice]) -> Indexed:
    """The answer for all the spots of a frame, of which `lattices` may have been found on the strongest."""
    observed = view.every_spot()
    n = len(observed)
    everywhere = np.ones(n, dtype=bool)
    explained = np.zeros(n, dtype=bool)
    solutions = []
    for lattice in lattices:
        trial = settle(observed, everywhere, lattice.trial.a, like=lattice.trial, rounds=0)
        explained |= trial.inside
        solutions.append(
            Solution(
                cell=lattice.setting.cell,
                bravais=lattice.setting.bravais,
                space_group=None,
                n_indexed=trial.n,
                fraction_indexed=trial.n / n,
                orientation=tuple(float(x) for x in lattice.orientation.ravel()),
            )
        )
    first = settle(observed, everywhere, lattices[0].trial.a, like=lattices[0].trial, rounds=0)
    unexplained = observed.off_ice & ~claimed(observed, first)
    beam_px = view.moved_px + lattices[0].trial.shift_px
    return Indexed(
        status=IndexingStatus.INDEXED,
        solutions=tuple(solutions),
        n_unindexed=int((~explained).sum()),
        fraction_unexplained=float(unexplained.sum() / max(int(observed.off_ice.sum()), 1)),
        beam_shift_px=(float(beam_px[0]), float(beam_px[1])),
    )
