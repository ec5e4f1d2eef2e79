"""Where the beam is when the header has it wrong: a lattice that settles sharply with another centre, and not with the one stated.

With a wrong centre the innermost spots are indexed all the same, and a lattice is found whose origin is a point or two off:
strained, turned, blunt. `triage.lattice_grow` refines bases with the centre and the origin of the indices free; what it finds is where a
search with a moved centre begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from triage.core import Run, Spots
from triage.geometry import Geometry
from triage.indexing.matrices import inverse
from triage.indexing.model import Lattice
from triage.indexing.observed import Bools, Floats, Observed, observe, remeasured, together, with_beam_moved
from triage.indexing.search import chances, first_of_each, settle, some_of
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
SHARP_PX, _SHARP_RAD = 0.5, 0.006
"""Spread of a lattice whose centre is not doubted: nine of ten that are right are sharper, and one of three of the others
(`benchmarks.indexing`, seed 31)."""
_MOST_SHIFT_PX = 6.0
"""Of the beam by a sharp lattice's own fit: three standard deviations of what a fit expects."""
_LEAST_SHARE = 0.3
"""Of the spots, that it explains."""
_ON_POINT = 0.15
"""Of an index, for a spot to lie on a point of a lattice that was refined with the centre free."""
_INNER = 64
"""Innermost spots that tell the origin of the indices to begin with."""
_PER_VOLUME = 1.5
"""Spots that a basis must explain more than one of 1/e times its volume (as bases are joined: `triage.indexing.vectors`)."""
_MOST_GROWN = 12
"""Lattices that are refined with the centre free: of the 24 of an unknown cell the likeliest, most of which are one."""
_BASES = 2
_STEPS = np.array(list(product((-2, -1, 0, 1, 2), repeat=3)))
_MOST_MISFIT = 0.2
_MOST_ORIGINS = 24
"""Bases whose origins are tried, points about each, indices by which the third offset may miss, and origins of all bases."""
_SAME_VOLUME, _SAME_PX = 0.01, 0.5
"""Within which two origins are one and the same lattice's."""
_MISFIT_SIGMA = 0.06
"""What is left of the offsets at the right origin (`benchmarks.indexing`, seeds 21, 31 and 33: nine of ten are below it)."""
_SCREEN_ROUNDS = 2
"""Rounds of least squares on the spots that origins are first held against."""
_SETTLED, _ROUNDS = 6, 3
"""Origins that are then settled on all spots (of 377 searches the one that is best on all was among the six 376 times:
`benchmarks.indexing`, seeds 21, 31 and 33), and rounds of that: they begin near where they end."""


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
    blunt = trial.spread[0] > SHARP_PX or trial.spread[1] > _SHARP_RAD + observed.half_wedge_rad
    blunt |= np.hypot(*trial.shift_px) > _MOST_SHIFT_PX
    return not blunt and trial.n >= _LEAST_SHARE * use.sum()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Grown:
    """A basis refined with the centre and the origin of its indices free, which leaves the centre uncertain by tilts and distances."""

    which: int
    """The number of the lattice among those asked about."""
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
    volume: float
    """A^3."""
    worth: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Move:
    """Where the beam seems to be."""

    by_px: Floats
    """(2,; slow, fast): from where the view has it."""
    which: int
    """The number of the lattice that says so among those asked about."""
    a: Floats
    """A (3, 3) of that lattice, fitted to the spots with the beam there."""
    grown: Sequence[_Grown]
    """All lattices asked about, those that explain most first."""
    q: Floats
    """(n, 3): of the spots in use with the beam there, 1/A."""

    def options(self) -> Iterator[list[Floats]]:
        """Matrices A (3, 3) with the beam there: that of the lattice that says so, then all of them, unfitted."""
        yield [self.a]
        yield [_carried(one, self.q[None])[0] for one in self.grown]


def free_centre(view: View, lattices: Sequence[Floats]) -> Move | None:
    """Where the beam is when that of `lattices` (matrices A, unfitted) which explains the spots best has its origin.

    None where the spots are too few to tell (MANY), no lattice is found, or the beam is where the view has it.
    """
    observed, use = view.observed, view.observed.usable
    if int(use.sum()) < MANY:
        return None
    grown_ones = sorted(_grown(observed, use, lattices[:_MOST_GROWN]), key=lambda one: -one.worth)
    options = sorted((option for one in grown_ones[:_BASES] for option in _origins(one)), key=lambda option: option.misfit)
    found = _likeliest(view, _distinct(options)[:_MOST_ORIGINS])
    if found is None or np.hypot(*found[0].move_px) <= _NEAREST_PX:
        return None
    origin, a = found
    q, _ = with_beam_moved(observed, view.geometry, origin.move_px[None])
    return Move(by_px=origin.move_px, which=origin.grown.which, a=a, grown=grown_ones, q=q[0, use])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Origin:
    """A centre at which the offsets of the indices are whole, as a lattice's are: one of its points is the origin."""

    grown: _Grown
    move_px: Floats
    misfit: float
    """What is left of the three offsets, of which moving the beam in its plane can mend two."""


def _grown(observed: Observed, use: Bools, lattices: Sequence[Floats]) -> list[_Grown]:
    q, per_px = (np.ascontiguousarray(part[use]) for part in (observed.measured.q, observed.measured.per_px))
    inner = np.ascontiguousarray(q[:_INNER].T)
    found = []
    for which, a in enumerate(lattices):
        basis = inverse(a)
        offsets = np.array([offset_of(vector, inner, inner.shape[1]) for vector in basis])
        move = grown(q, -per_px, basis, offsets, BEAM_PX)
        volume = abs(float(np.linalg.det(basis)))
        if not (np.isfinite(basis).all() and np.isfinite(move).all() and volume > 1.0):
            continue
        moved = q - per_px @ move
        indices = moved @ basis.T - offsets
        explained = (np.abs(indices - np.rint(indices)) < _ON_POINT).all(axis=1).sum()
        worth = float(explained - _PER_VOLUME * np.log(volume))
        near = -per_px[:_INNER].mean(axis=0)
        found.append(_Grown(which=which, basis=basis, offsets=offsets, move_px=move, q=moved, per_px=near, volume=volume, worth=worth))
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
    """Without those that are an earlier one's centre and cell: a lattice has many bases."""
    if not options:
        return []
    volumes = np.array([option.grown.volume for option in options])
    moves = np.stack([option.move_px for option in options])  # (k, 2)
    same = np.abs(volumes[:, None] / volumes[None] - 1.0) < _SAME_VOLUME
    same &= np.linalg.norm(moves[:, None] - moves[None], axis=2) < _SAME_PX
    return [options[k] for k in first_of_each(same)]


def _carried(one: _Grown, q: Floats) -> Floats:
    """A (m, 3, 3) of the grown lattice when its spots are at q (m, n, 3): a move of the beam strains and turns it, besides moving it."""
    known = np.concatenate([one.q, np.ones((len(one.q), 1))], axis=1)
    change = (np.linalg.pinv(known) @ q)[:, :3]  # q_before change + a constant = q, by least squares
    return np.asarray(change.transpose(0, 2, 1) @ inverse(one.basis))


def _likeliest(view: View, origins: Sequence[_Origin]) -> tuple[_Origin, Floats] | None:
    """The origin that is least likely to be chance, and A (3, 3) fitted there; the best ones of some of the spots are held against all.

    Some go as far out as all do: with a wrong origin the inner ones fit as well.
    """
    if not origins:
        return None
    observed, use = view.observed, view.observed.usable
    q, ray = with_beam_moved(observed, view.geometry, np.stack([one.move_px for one in origins]))
    starts = np.empty((len(origins), 3, 3))
    for one in {id(option.grown): option.grown for option in origins}.values():
        of_it = [k for k, option in enumerate(origins) if option.grown is one]
        starts[of_it] = _carried(one, q[of_it][:, use])
    unlikely = np.array([_log10_unlikely(option) for option in origins])
    screened = unlikely + chances(observed, some_of(use), q, ray, starts, rounds=_SCREEN_ROUNDS)
    best, least = None, np.inf
    for k in np.argsort(screened, kind="stable")[:_SETTLED]:
        trial = settle(remeasured(observed, q[k], ray[k]), use, starts[k], rounds=_ROUNDS)
        if trial.n and trial.log10_chance + unlikely[k] < least:
            best, least = (origins[k], trial.a), trial.log10_chance + unlikely[k]
    return best


def _log10_unlikely(origin: _Origin) -> float:
    """log10 of how much less often headers are so far off, and so much is left of the offsets, than neither."""
    return (_log_unlikely(float((origin.move_px**2).sum())) + 0.5 * (origin.misfit / _MISFIT_SIGMA) ** 2) / math.log(10.0)


def _log_unlikely(square_px2: float) -> float:
    """Natural logarithm of how much less often headers are off by so much (px^2) than not at all."""

    def density(square: float) -> float:
        usual, wrong = (math.exp(-0.5 * square / sigma**2) / sigma**2 for sigma in (_USUAL_PX, BEAM_PX))
        return (1.0 - _SHARE_WRONG) * usual + _SHARE_WRONG * wrong

    return math.log(density(0.0) / density(square_px2))
