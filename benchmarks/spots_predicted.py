"""Are spots that only one of two finders has reflections of the lattice that the spots of both are of?

The lattice is indexed from the spots that both finders have, so that it owes nothing to the others. One of these is *predicted* where a
lattice point that none of the common spots holds lies as near to it as nearly all common ones lie to theirs. How many would be by chance
is counted on the same spots turned about the beam, which keeps their number and their resolution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from benchmarks.indexing_truth import direct_axes
from triage.core import Indexed, Run, Spots
from triage.geometry import Geometry
from triage.indexing import EmbeddedIndexer

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SAME_PX = 2.0
"""Within which two finders' spots are one."""
APERTURE_PX, RIM_PX = 3.0, (5.0, 9.0)
"""Radius of the disc that is summed, and of the ring that its background is the mean of."""
SHARE_WITHIN = 95.0
"""Per cent of the common spots of a lattice, within whose distance from their points a spot is predicted."""
START_PX, START_RAD = 1.3, 0.006
"""Spreads across and along the ray that nearest points are first told by (triage.indexing.fit)."""
CUT = 3.0
TURNS_DEG = np.linspace(7.0, 353.0, 36)
"""About the beam; none is near a right angle or 60 deg, by which a lattice with an axis along the beam is its own."""
_ABOUT = np.array(list(product((-1, 0, 1), repeat=3)), dtype=np.float64)


def near(positions_px: Floats, others_px: Floats) -> Bools:
    """Which of the positions (n, 2) have one of the others (m, 2) within SAME_PX."""
    apart = positions_px[:, None] - others_px[None]
    return np.asarray((np.hypot(apart[..., 0], apart[..., 1]) < SAME_PX).any(axis=1))


def i_over_sigma(image: Floats, usable: Bools, positions_px: Floats, every_px: Floats) -> Floats:
    """(n,) I/sigma of spots at positions (n, 2; slow, fast) by plain summation, the same for whoever found them; nan without a background.

    The counts (photons) of the usable pixels within APERTURE_PX, less the mean of the usable ones of the ring RIM_PX which lie further than
    APERTURE_PX from all of `every_px` (m, 2), the spots of either finder. Sigma is that of counting, of the spot and of its background.
    """
    reach = int(RIM_PX[1]) + 1
    steps = np.arange(-reach, reach + 1)
    found = np.full(len(positions_px), np.nan)
    for k, at in enumerate(positions_px):
        slow, fast = np.floor(at).astype(int)
        rows, columns = slow + steps, fast + steps
        rows, columns = rows[(rows >= 0) & (rows < image.shape[0])], columns[(columns >= 0) & (columns < image.shape[1])]
        window = np.ix_(rows, columns)
        centres = np.stack(np.meshgrid(rows + 0.5, columns + 0.5, indexing="ij"), axis=-1)
        away = np.hypot(*(centres - at).transpose(2, 0, 1))
        others = every_px[np.abs(every_px - at).max(axis=1) < reach + APERTURE_PX]
        free = (np.hypot(*(centres[:, :, None] - others).transpose(3, 0, 1, 2)) > APERTURE_PX).all(axis=2)
        inside = usable[window] & (away <= APERTURE_PX)
        around = usable[window] & free & (away >= RIM_PX[0]) & (away <= RIM_PX[1])
        n, m = int(inside.sum()), int(around.sum())
        if n and m:
            total, background = float(image[window][inside].sum()), float(image[window][around].mean())
            found[k] = (total - n * background) / np.sqrt(max(total + n * n * background / m, 1.0))
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Nearest:
    """The lattice point nearest to each of n spots."""

    hkl: npt.NDArray[np.int64]
    """(n, 3)."""
    px: Floats
    """(n,) how far away across the ray."""
    rad: Floats
    """(n,) and along it, as an angle at the origin."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predicted:
    """A lattice, where the beam is with it, and how near to a point a spot of it lies."""

    direct: Floats
    """(3, 3): primitive vectors, rows, A."""
    geometry: Geometry
    within: tuple[float, float]
    """px across the ray, rad along it."""
    held: frozenset[tuple[int, ...]]
    """Points that a common spot holds."""

    def fresh(self, positions_px: Floats) -> Bools:
        """Which of the spots at positions (n, 2; slow, fast) are predicted, at points that no common spot holds."""
        if len(positions_px) == 0:
            return np.zeros(0, dtype=bool)
        found = nearest(self.direct, self.geometry, positions_px, self.within)
        free = np.array([tuple(hkl) not in self.held for hkl in found.hkl.tolist()])
        return np.asarray((found.px < self.within[0]) & (found.rad < self.within[1]) & free & found.hkl.any(axis=1))

    def by_chance(self, positions_px: Floats) -> float:
        """How many of them would be, wherever round the beam they lay: the mean over TURNS_DEG."""
        return float(np.mean([self.fresh(turned(positions_px, self.geometry.beam_px, angle)).sum() for angle in TURNS_DEG]))


def turned(positions_px: Floats, beam_px: tuple[float, float], angle_deg: float) -> Floats:
    """Positions (n, 2; slow, fast) turned about the beam in the detector's plane (square pixels)."""
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    return np.asarray((positions_px - beam_px) @ np.array([[c, s], [-s, c]]) + beam_px)


def nearest(direct: Floats, geometry: Geometry, positions_px: Floats, sigmas: tuple[float, float]) -> Nearest:
    """The points of the lattice with the primitive vectors `direct` (3, 3; rows, A) nearest to spots at positions (n, 2), in `sigmas`.

    Of the 27 about the point whose indices are nearest, the one that is least far from the spot, across the ray (px) and
    along it (rad).
    """
    q = geometry.scattering_vectors_per_A(positions_px)
    ray = q * geometry.wavelength_A + np.array([0.0, 0.0, 1.0])
    per_px = np.linalg.norm(
        geometry.scattering_vectors_per_A(positions_px + np.sqrt(0.5)) - q, axis=1
    )  # along the diagonal: of either side
    hkl = np.rint(q @ direct.T)[:, None] + _ABOUT  # (n, 27, 3)
    off = hkl @ np.linalg.inv(direct).T - q[:, None]
    along = (off * ray[:, None]).sum(axis=2)
    across = np.sqrt(np.maximum((off**2).sum(axis=2) - along**2, 0.0))
    px, rad = across / per_px[:, None], np.abs(along) / np.linalg.norm(q, axis=1)[:, None]
    best = np.argmin((px / sigmas[0]) ** 2 + (rad / sigmas[1]) ** 2, axis=1)
    of_each = np.arange(len(q)), best
    return Nearest(hkl=hkl[of_each].astype(np.int64), px=px[of_each], rad=rad[of_each])


def chosen(spots: Spots, which: Bools) -> Spots:
    """Those of the spots that `which` (n,) marks."""
    names = ("positions_px", "intensity", "sigma", "background", "peak", "n_pixels", "on_ice")
    s = None if spots.inverse_d_per_A is None else spots.inverse_d_per_A[which]
    return replace(spots, inverse_d_per_A=s, **{name: getattr(spots, name)[which] for name in names})


def lattices_of(common: Spots, run: Run) -> tuple[Indexed, list[Predicted]]:
    """What the indexer finds on the spots that both finders have, without a cell; none where the geometry is not known."""
    indexed = EmbeddedIndexer().index(common, run)
    if run.geometry is None or indexed.beam_shift_px is None:
        return indexed, []
    slow, fast = np.add(run.geometry.beam_px, indexed.beam_shift_px)
    geometry = replace(run.geometry, beam_px=(float(slow), float(fast)))
    positions = np.asarray(common.positions_px, dtype=np.float64)
    directs = [direct_axes(one.orientation, one.cell, one.bravais[1]) for one in indexed.solutions]
    return indexed, [predicted_by(direct, geometry, positions) for direct in directs]


def predicted_by(direct: Floats, geometry: Geometry, common_px: Floats) -> Predicted:
    """What a lattice (3, 3; primitive vectors, rows, A) predicts, of which the spots at `common_px` (n, 2) tell how sharp it is."""
    found = nearest(direct, geometry, common_px, (START_PX, START_RAD))
    its_own = (found.px < CUT * START_PX) & (found.rad < CUT * START_RAD)
    across, along = (float(np.percentile(part[its_own], SHARE_WITHIN)) for part in (found.px, found.rad))
    its_own &= (found.px <= across) & (found.rad <= along)
    held = frozenset(tuple(hkl) for hkl in found.hkl[its_own].tolist())
    return Predicted(direct=direct, geometry=geometry, within=(across, along), held=held)
