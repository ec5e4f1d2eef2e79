"""Where the beam is when the header has it wrong: a lattice that settles sharply with another centre, and not with the one stated.

With a wrong centre the innermost spots are indexed all the same, and a lattice is found whose origin is a point or two off:
strained, turned, blunt. `triage.lattice_grow` refines bases with the centre and the origin of the indices free; what it finds is where a
search with a moved centre begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from triage.core import Run, Spots
from triage.geometry import Geometry
from triage.indexing.model import Lattice
from triage.indexing.observed import Bools, Floats, Observed, observe, together
from triage.indexing.search import SCOPES, candidates, settle
from triage.indexing.vectors import offset_of
from triage.lattice_features import BEAM_PX, MANY
from triage.lattice_grow import grown
from triage.spots import on_ice_ring

LOG10_CENTRES = 4.0
"""Beam centres that a search tells apart: those within 80 px, a pixel and a half apart."""
_FARTHEST_PX = 4.0 * BEAM_PX
_NEAREST_PX = 1.0
"""A move that the fit of any lattice finds by itself."""
_SHARP_PX, _SHARP_RAD = 0.5, 0.006
"""Spread of a lattice whose centre is not doubted: nine of ten that are right are sharper, and one of three of the others
(`benchmarks.indexing`, seed 31)."""
_LEAST_SHARE = 0.3
"""Of the spots, that it explains."""
_ON_POINT = 0.15
"""Of an index, for a spot to lie on a point of a lattice that was refined with the centre free."""
_INNER = 64
"""Innermost spots that tell the origin of the indices to begin with."""
_PER_VOLUME = 1.5
"""Spots that a basis must explain more than one of 1/e times its volume (as bases are joined: `triage.indexing.vectors`)."""
_BASES = 2
_STEPS = (-2, -1, 0, 1, 2)
_MOST_MISFIT = 0.2
_MOST_ORIGINS = 24
"""Bases whose origins are tried, points a side, indices by which the third offset may miss, and origins of all bases."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """A frame's spots, and those of frames before it, with the beam where it is stated, or moved."""

    spots: Spots
    run: Run
    before: tuple[tuple[int, Spots], ...]
    """Spots of earlier frames of the rotation, each with how many frames earlier."""
    moved_px: Floats
    """(2,) slow, fast: by how much the beam is off where it is stated."""
    geometry: Geometry
    """With the beam moved so."""
    observed: Observed
    """The spots that lattices are sought among; those of earlier frames are left out where the rotation axis is not known."""

    @classmethod
    def of(cls, spots: Spots, run: Run, before: Sequence[tuple[int, Spots]] = ()) -> View:
        """With the beam as the run's geometry states it (ValueError where that is not known)."""
        if run.geometry is None:
            raise ValueError("spots can be indexed only where the geometry is known")
        observed = _together(spots, run, run.geometry, before)
        return cls(spots=spots, run=run, before=tuple(before), moved_px=np.zeros(2), geometry=run.geometry, observed=observed)

    def with_beam_moved(self, by_px: Floats) -> View:
        """The same spots with the beam moved by (2,; slow, fast); which of them lie on ice rings is told anew."""
        slow, fast = self.geometry.beam_px
        geometry = replace(self.geometry, beam_px=(slow + float(by_px[0]), fast + float(by_px[1])))
        spots = _seen_in(geometry, self.spots)
        before = tuple((earlier, _seen_in(geometry, other)) for earlier, other in self.before)
        observed = _together(spots, self.run, geometry, before)
        moved = self.moved_px + by_px
        return View(spots=spots, run=self.run, before=before, moved_px=moved, geometry=geometry, observed=observed)

    def every_spot(self) -> Observed:
        """All of the frame's own spots."""
        return observe(self.spots, self.run, self.geometry, len(self.spots))


def _seen_in(geometry: Geometry, spots: Spots) -> Spots:
    """The same spots with the resolution, and the ice rings, of a geometry."""
    inverse_d = geometry.inverse_d_per_A(spots.positions_px).astype(np.float32)
    return replace(spots, inverse_d_per_A=inverse_d, on_ice=on_ice_ring(inverse_d))


def _together(spots: Spots, run: Run, geometry: Geometry, before: Sequence[tuple[int, Spots]]) -> Observed:
    own, step_deg = observe(spots, run, geometry), run.header.omega_step_deg
    if not before or own.axis is None or not step_deg:
        return own
    return together(own, [(np.deg2rad(earlier * step_deg), observe(other, run, geometry)) for earlier, other in before])


def is_sharp(observed: Observed, use: Bools, lattice: Lattice) -> bool:
    """Whether a lattice found with the stated centre explains its spots so closely that the centre is not doubted."""
    trial = lattice.trial
    blunt = trial.spread[0] > _SHARP_PX or trial.spread[1] > _SHARP_RAD + observed.half_wedge_rad
    return not blunt and trial.n >= _LEAST_SHARE * use.sum()


def free_centre(view: View) -> Floats | None:
    """By how many pixels (2,; slow, fast) the beam is off where the lattice that explains the spots best has its origin.

    None where the spots are too few to tell (MANY), no lattice is found, or the beam is where it is stated.
    """
    observed, use = view.observed, view.observed.usable
    if int(use.sum()) < MANY:
        return None
    grown_ones = sorted(_grown(observed, use), key=lambda one: -one.worth)[:_BASES]
    options = sorted((option for one in grown_ones for option in _origins(one)), key=lambda option: option.misfit)[:_MOST_ORIGINS]
    best = min((_chance(view, option), k) for k, option in enumerate(options)) if options else None
    if best is None:
        return None
    move = options[best[1]].move_px
    return move if np.hypot(*move) > _NEAREST_PX else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Grown:
    """A basis refined with the centre and the origin of its indices free, which leaves the centre uncertain by tilts and distances."""

    basis: Floats
    """(3, 3), rows, A."""
    offsets: Floats
    """(3,): of the indices."""
    move_px: Floats
    """(2,): of the beam."""
    per_px: Floats
    """(3, 2): how q moves with the beam, 1/A a pixel, near it."""
    worth: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Origin:
    """A centre at which the offsets of the indices are whole, as a lattice's are: one of its points is the origin."""

    basis: Floats
    move_px: Floats
    misfit: float
    """What is left of the three offsets, of which moving the beam in its plane can mend two."""


def _grown(observed: Observed, use: Bools) -> list[_Grown]:
    q, per_px = (np.ascontiguousarray(part[use]) for part in (observed.measured.q, observed.measured.per_px))
    found = []
    for a in candidates(observed, use, SCOPES[0]):
        basis = np.linalg.inv(a)
        offsets = np.array([offset_of(vector, q[:_INNER]) for vector in basis])
        move = grown(q, -per_px, basis, offsets, BEAM_PX)
        volume = abs(float(np.linalg.det(basis)))
        if not (np.isfinite(basis).all() and np.isfinite(move).all() and volume > 1.0):
            continue
        indices = (q - per_px @ move) @ basis.T - offsets
        explained = (np.abs(indices - np.rint(indices)) < _ON_POINT).all(axis=1).sum()
        worth = float(explained - _PER_VOLUME * np.log(volume))
        found.append(_Grown(basis=basis, offsets=offsets, move_px=move, per_px=-per_px[:_INNER].mean(axis=0), worth=worth))
    return found


def _origins(one: _Grown) -> list[_Origin]:
    """The centres about the one found where offsets are whole."""
    by_px = one.basis @ one.per_px  # (3, 2): of the indices
    found = []
    for step in product(_STEPS, repeat=3):
        wanted = np.rint(one.offsets) + step - one.offsets
        further, *_ = np.linalg.lstsq(by_px, wanted, rcond=None)
        misfit, move = float(np.linalg.norm(by_px @ further - wanted)), one.move_px + further
        if misfit < _MOST_MISFIT and np.hypot(*move) < _FARTHEST_PX:
            found.append(_Origin(basis=one.basis, move_px=move, misfit=misfit))
    return found


def _chance(view: View, origin: _Origin) -> float:
    """log10 of the chance that so many spots fit the lattice with the beam there, times how far headers usually are off."""
    observed = view.with_beam_moved(origin.move_px).observed
    trial = settle(observed, observed.usable, np.linalg.inv(origin.basis))
    return trial.log10_chance + 0.5 * float((origin.move_px**2).sum()) / BEAM_PX**2 / math.log(10.0)
