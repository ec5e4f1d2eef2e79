"""Every lattice of a frame's spots: known cells first, an unknown one where they fail, and again on what is left over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from triage.core import Cell, Indexed, IndexingStatus, Run, Solution, Spots
from triage.indexing.bravais import Setting, busing_levy, is_flat, settings
from triage.indexing.centre import LOG10_CENTRES, View, free_centre, is_sharp
from triage.indexing.known_cell import anywhere, nearby
from triage.indexing.model import (
    TURNS,
    Lattice,
    claimed,
    harmonics,
    multiplied,
    nearest_rotation,
    primitive,
    sharpened,
    symmetrised,
    under,
    with_spin,
)
from triage.indexing.observed import Bools, Floats, Observed
from triage.indexing.search import SCOPES, START, Trial, settle, unknown_cell

LEAST_SPOTS = 10
"""Off the ice rings, below which nothing is sought."""
LEAST_INDEXED = 8
"""Spots of a lattice: what counts as visible (contract, section 7)."""
_FURTHER = -2.0
"""Added to the significance of a further lattice: spots that another one leaves over are not scattered as evenly as chance would."""
_MOST_BLUNT_PX = 1.2
"""Spread across the ray above which a further lattice is taken for several, or for none."""
_LEAST_ANGLE_RAD, _MOSAIC = math.radians(0.3), 1.0
_INNER, _FOLLOWED = 80, 5
"""Innermost spots that orientations are brought onto first, and how many of those then onto all."""
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
_ENOUGH = 0.6
"""Of the spots, that a lattice must explain for no other scope to be tried."""
_ENOUGH_KNOWN = 0.3
"""Of the spots, that a lattice of a known cell must explain for an unknown one not to be sought as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedIndexer:
    """Indexes one frame's spots; implements Indexer."""

    most_lattices: int = 4
    log10_significance: float = -3.0
    """Of a lattice to be there by chance, all trials counted."""

    def index(self, spots: Spots, run: Run, *, cells: Sequence[Cell] = (), before: Sequence[tuple[int, Spots]] = ()) -> Indexed:
        """Every lattice of the spots; `cells` are known ones, likeliest first, tried before an unknown one is sought.

        `before`: spots of earlier frames of the same rotation, each with how many frames earlier it was taken. Lattices are sought on
        all of them; what is said is said of `spots`. Without the header's rotation axis they are left out.
        """
        if run.geometry is None:
            return _not(f"the run's geometry is not known ({run.geometry_problem or 'the header states none'})")
        view = View.of(spots, run, before)
        n_off_ice = int(view.observed.off_ice.sum())
        if n_off_ice < LEAST_SPOTS:
            return _not(f"{n_off_ice} spots off the ice rings; at least {LEAST_SPOTS} are needed")
        view, first = self._recentred(view, self._first(view.observed, view.observed.usable, cells), cells)
        lattices = [] if first is None else self._with_further(view.observed, first)
        if not lattices:
            return _not("no lattice explains the spots better than chance")
        return _indexed(view, lattices)

    def _recentred(self, view: View, first: Lattice | None, cells: Sequence[Cell]) -> tuple[View, Lattice | None]:
        """The frame with the beam elsewhere and the first lattice there, where that is less likely to be chance, all centres counted.

        Where the lattice `first` is sharp with the beam as it is stated, no other is sought.
        """
        observed = view.observed
        if first is not None and is_sharp(observed, observed.usable, first):
            return view, first
        move_px = free_centre(view)
        if move_px is None:
            return view, first
        moved = view.with_beam_moved(move_px)
        other = self._first(moved.observed, moved.observed.usable, cells)
        if other is None:
            return view, first
        other = replace(other, log10_trials=other.log10_trials + LOG10_CENTRES)
        if first is not None and _keeps_symmetry(observed, first, other):
            return view, first
        needed = 0.0 if first is None else _worth(first)
        if not self._is_there(other.trial, other.log10_trials) or _worth(other) > needed + self.log10_significance:
            return view, first
        return moved, other

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
        if further and trial.spread[0] > _MOST_BLUNT_PX:
            return False
        needed = self.log10_significance + (_FURTHER if further else 0.0)
        return trial.n >= LEAST_INDEXED and trial.log10_chance + log10_trials < needed

    def _first(self, observed: Observed, use: Bools, cells: Sequence[Cell]) -> Lattice | None:
        found = [lattice for cell in cells if (lattice := self._known(observed, use, cell)) is not None]
        best = min(found, key=_worth, default=None)
        if best is not None and best.trial.n >= _ENOUGH_KNOWN * use.sum():
            return best
        unknown = self._unknown(observed, use)
        return min((one for one in (best, unknown) if one is not None), key=_worth, default=None)

    def _known(self, observed: Observed, use: Bools, cell: Cell) -> Lattice | None:
        direct = np.linalg.inv(busing_levy(cell))
        log10_trials = _log10_orientations(observed, use, np.pi) + _LOG10_STRAINS
        stated = next(iter(settings(direct, _EXACT_DEG)))
        lattice = _oriented(observed, use, anywhere(observed, use, direct), stated, log10_trials)
        if not self._is_there(lattice.trial, log10_trials):
            return None
        best = with_spin(observed, use, primitive(observed, use, lattice.trial, ways=TURNS), ways=TURNS)
        if is_flat(best.a.T):
            return None
        return under(observed, use, best, next(iter(settings(np.linalg.inv(best.a), _EXACT_DEG))), log10_trials)

    def _unknown(self, observed: Observed, use: Bools) -> Lattice | None:
        if int(use.sum()) < LEAST_SPOTS:
            return None
        best: Trial | None = None
        for scope in SCOPES:
            trials = [primitive(observed, use, trial) for trial in unknown_cell(observed, use, scope)[:4]]
            best = min([trial for trial in (best, *trials) if trial is not None], key=lambda trial: trial.log10_chance, default=None)
            if best is not None and self._is_there(best, _LOG10_UNKNOWN) and best.n >= _ENOUGH * use.sum():
                break
        if best is None or not self._is_there(best, _LOG10_UNKNOWN):
            return None
        best = sharpened(observed, use, with_spin(observed, use, best))
        best = primitive(observed, use, multiplied(observed, use, best))
        if is_flat(best.a.T):
            return None
        return symmetrised(observed, use, best, _LOG10_UNKNOWN)

    def _next(self, observed: Observed, use: Bools, found: list[Lattice]) -> Lattice | None:
        first = found[0]
        for within_deg in (_SPLIT_DEG, 180.0):
            near = within_deg < 180.0
            options = nearby(observed, use, first.trial.a, within_deg) if near else anywhere(observed, use, np.linalg.inv(first.trial.a))
            log10_trials = _log10_orientations(observed, use, np.deg2rad(within_deg))
            lattice = _oriented(observed, use, options, first.setting, log10_trials, like=first.trial)
            if self._is_there(lattice.trial, log10_trials, further=True):
                return lattice
        return self._unknown(observed, use)


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
    followed = []
    for trial in trials[:_FOLLOWED]:
        lattice = under(observed, inner, trial, setting, log10_trials, start=START)
        followed.append(under(observed, use, lattice.trial, lattice.setting, log10_trials, start=START))
    return min(followed, key=_worth)


def _is_same(one: Trial, other: Trial) -> bool:
    """Whether two lattices are so nearly parallel that they are one crystal's mosaic blocks."""
    change = np.rint(np.linalg.inv(other.a) @ one.a)
    if round(abs(float(np.linalg.det(change)))) != 1:
        return False
    turn = nearest_rotation(one.a @ np.linalg.inv(other.a @ change))
    angle = math.acos(min(max((float(np.trace(turn)) - 1.0) / 2.0, -1.0), 1.0))
    return angle < max(_LEAST_ANGLE_RAD, _MOSAIC * float(other.spread[1]))


def _log10_orientations(observed: Observed, use: Bools, within_rad: float) -> float:
    """log10 of the number of orientations that can be told apart, within an angle of one of them."""
    reach = float(np.percentile(observed.s[use], 90))
    apart = 3.0 * float(np.median(observed.per_px_A[use])) / reach
    volume = 4.0 * np.pi * (within_rad - math.sin(within_rad)) * 2.0  # of rotation vectors, with Haar's measure
    return max(math.log10(volume / apart**3), 0.0)


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
