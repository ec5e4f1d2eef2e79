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
from triage.indexing.observed import Bools, Floats, Observed, observe, remeasured, together
from triage.indexing.search import settle
from triage.indexing.vectors import offset_of
from triage.lattice_features import BEAM_PX, MANY
from triage.lattice_grow import grown
from triage.spots import on_ice_ring

LOG10_CENTRES = 4.0
"""Beam centres that a search tells apart: those within 80 px, a pixel and a half apart."""
_FARTHEST_PX = 4.0 * BEAM_PX
_NEAREST_PX = 2.0
"""A move that the fit of any lattice finds by itself."""
_USUAL_PX, _SHARE_WRONG = 2.0, 1.0 / 12.0
"""How far headers are usually off (standard deviation), and the share of them that are off by BEAM_PX instead (docs/indexing.md)."""
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
_STEPS = np.array(list(product((-2, -1, 0, 1, 2), repeat=3)))
_MOST_MISFIT = 0.2
_MOST_ORIGINS = 24
"""Bases whose origins are tried, points about each, indices by which the third offset may miss, and origins of all bases."""
_SAME_VOLUME, _SAME_PX = 0.01, 0.5
"""Within which two origins are one and the same lattice's."""
_MISFIT_SIGMA = 0.06
"""What is left of the offsets at the right origin (`benchmarks.indexing`, seeds 21, 31 and 33: nine of ten are below it)."""
_ROUNDS = 3
"""Of least squares, for an origin: it begins near where it ends."""
_FOLLOWED = 24
"""Grown lattices that are searched with the beam moved."""


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
    def of(cls, spots: Spots, run: Run, before: Sequence[tuple[int, Spots]] = (), moved_px: Sequence[float] | Floats | None = None) -> View:
        """With the beam as the run's geometry states it (ValueError where that is not known), or moved from there (slow, fast)."""
        geometry, before = run.geometry, tuple(before)
        if geometry is None:
            raise ValueError("spots can be indexed only where the geometry is known")
        moved = np.zeros(2) if moved_px is None else np.asarray(moved_px, dtype=np.float64)
        if moved.any():
            geometry = _with_beam_moved(geometry, moved)
            spots, before = _seen_in(geometry, spots), tuple((earlier, _seen_in(geometry, other)) for earlier, other in before)
        observed = _together(spots, run, geometry, before)
        return cls(spots=spots, run=run, before=before, moved_px=moved, geometry=geometry, observed=observed)

    def geometry_moved(self, by_px: Floats) -> Geometry:
        """The geometry with the beam moved by (2,; slow, fast)."""
        return _with_beam_moved(self.geometry, by_px)

    def with_beam_moved(self, by_px: Floats) -> View:
        """The same spots with the beam moved by (2,; slow, fast); which of them lie on ice rings is told anew."""
        return View.of(self.spots, self.run, self.before, self.moved_px + by_px)

    def every_spot(self) -> Observed:
        """All of the frame's own spots."""
        return observe(self.spots, self.run, self.geometry, len(self.spots))


def _with_beam_moved(geometry: Geometry, by_px: Floats) -> Geometry:
    slow, fast = geometry.beam_px
    return replace(geometry, beam_px=(slow + float(by_px[0]), fast + float(by_px[1])))


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Move:
    """Where the beam seems to be."""

    by_px: Floats
    """(2,; slow, fast): from where the view has it."""
    lattices: list[Floats]
    """Matrices A (3, 3) as they are with the beam there, unfitted, those that explain most first."""


def free_centre(view: View, lattices: Sequence[Floats]) -> Move | None:
    """Where the beam is when that of `lattices` (matrices A, unfitted) which explains the spots best has its origin.

    None where the spots are too few to tell (MANY), no lattice is found, or the beam is where the view has it.
    """
    observed, use = view.observed, view.observed.usable
    if int(use.sum()) < MANY:
        return None
    grown_ones = sorted(_grown(observed, use, lattices), key=lambda one: -one.worth)
    options = sorted((option for one in grown_ones[:_BASES] for option in _origins(one)), key=lambda option: option.misfit)
    best = min(
        ((_chance(view, option), option.move_px) for option in _distinct(options)[:_MOST_ORIGINS]), key=lambda pair: pair[0], default=None
    )
    if best is None:
        return None
    move = best[1]
    if np.hypot(*move) <= _NEAREST_PX:
        return None
    moved = remeasured(observed, view.geometry_moved(move)).measured.q[use]
    return Move(by_px=move, lattices=[_carried(one, moved) for one in grown_ones[:_FOLLOWED]])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Grown:
    """A basis refined with the centre and the origin of its indices free, which leaves the centre uncertain by tilts and distances."""

    basis: Floats
    """(3, 3), rows, A."""
    offsets: Floats
    """(3,): of the indices."""
    move_px: Floats
    """(2,): of the beam."""
    q: Floats
    """(n, 3): of the spots in use, with the beam moved so, in 1/A."""
    per_px: Floats
    """(3, 2): how q moves with the beam, 1/A a pixel, near it."""
    worth: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Origin:
    """A centre at which the offsets of the indices are whole, as a lattice's are: one of its points is the origin."""

    grown: _Grown
    move_px: Floats
    misfit: float
    """What is left of the three offsets, of which moving the beam in its plane can mend two."""


def _grown(observed: Observed, use: Bools, lattices: Sequence[Floats]) -> list[_Grown]:
    q, per_px = (np.ascontiguousarray(part[use]) for part in (observed.measured.q, observed.measured.per_px))
    found = []
    for a in lattices:
        basis = np.linalg.inv(a)
        offsets = np.array([offset_of(vector, q[:_INNER]) for vector in basis])
        move = grown(q, -per_px, basis, offsets, BEAM_PX)
        volume = abs(float(np.linalg.det(basis)))
        if not (np.isfinite(basis).all() and np.isfinite(move).all() and volume > 1.0):
            continue
        moved = q - per_px @ move
        indices = moved @ basis.T - offsets
        explained = (np.abs(indices - np.rint(indices)) < _ON_POINT).all(axis=1).sum()
        worth = float(explained - _PER_VOLUME * np.log(volume))
        found.append(_Grown(basis=basis, offsets=offsets, move_px=move, q=moved, per_px=-per_px[:_INNER].mean(axis=0), worth=worth))
    return found


def _origins(one: _Grown) -> list[_Origin]:
    """The centres about the one found where offsets are whole."""
    by_px = one.basis @ one.per_px  # (3, 2): of the indices
    wanted = np.rint(one.offsets) + _STEPS - one.offsets  # (k, 3)
    further = wanted @ np.linalg.pinv(by_px).T
    misfits, moves = np.linalg.norm(further @ by_px.T - wanted, axis=1), one.move_px + further
    taken = np.flatnonzero((misfits < _MOST_MISFIT) & (np.hypot(*moves.T) < _FARTHEST_PX))
    return [_Origin(grown=one, move_px=moves[k], misfit=float(misfits[k])) for k in taken]


def _distinct(options: Sequence[_Origin]) -> list[_Origin]:
    """Without those that are another one's centre and cell: a lattice has many bases."""
    kept: list[_Origin] = []
    for option in options:
        if not any(_is_alike(option, other) for other in kept):
            kept.append(option)
    return kept


def _is_alike(one: _Origin, other: _Origin) -> bool:
    ratio = float(np.linalg.det(one.grown.basis) / np.linalg.det(other.grown.basis))
    return abs(abs(ratio) - 1.0) < _SAME_VOLUME and float(np.hypot(*(one.move_px - other.move_px))) < _SAME_PX


def _carried(one: _Grown, q: Floats) -> Floats:
    """A (3, 3) of the grown lattice when its spots are at q (n, 3): a move of the beam strains and turns it, besides moving it."""
    known = np.concatenate([one.q, np.ones((len(q), 1))], axis=1)
    change = np.linalg.lstsq(known, q, rcond=None)[0][:3].T  # q = change q_before + a constant
    return np.asarray(change @ np.linalg.inv(one.basis))


def _chance(view: View, origin: _Origin) -> float:
    """log10 of the chance that so many spots fit the lattice with the beam there, times how unlikely the centre and what is left are."""
    observed, use = remeasured(view.observed, view.geometry_moved(origin.move_px)), view.observed.usable
    trial = settle(observed, use, _carried(origin.grown, observed.measured.q[use]), rounds=_ROUNDS)
    unlikely = _log_unlikely(float((origin.move_px**2).sum())) + 0.5 * (origin.misfit / _MISFIT_SIGMA) ** 2
    return trial.log10_chance + unlikely / math.log(10.0)


def _log_unlikely(square_px2: float) -> float:
    """Natural logarithm of how much less often headers are off by so much (px^2) than not at all."""

    def density(square: float) -> float:
        usual, wrong = (math.exp(-0.5 * square / sigma**2) / sigma**2 for sigma in (_USUAL_PX, BEAM_PX))
        return (1.0 - _SHARE_WRONG) * usual + _SHARE_WRONG * wrong

    return math.log(density(0.0) / density(square_px2))
