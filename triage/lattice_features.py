"""What one lattice explains of a frame's spots, as numbers for the network: see `triage.lattice` for how."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from triage.core import Spots
from triage.geometry import Geometry
from triage.lattice import HALF, MOST_PLANES, REACH, TRANSFORMED, lattice_of, residuals, same_indices, small_rotation
from triage.lattice_grow import grown

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LATTICE_FEATURES = (
    "lattice_log_spots",
    "lattice_s_transformed",
    "lattice_coherence",
    "lattice_share_on_planes",
    "lattice_share_agreed",
    "lattice_share_of_fitted",
    "lattice_share_explained",
    "lattice_share_of_intensity",
    "lattice_share_of_strongest",
    "lattice_share_off_ice",
    "lattice_log_unexplained",
    "lattice_log_unexplained_off_ice",
    "lattice_log_across_px",
    "lattice_log_across_px_q90",
    "lattice_log_along",
    "lattice_log_volume",
    "lattice_share_double",
    "lattice_log_double",
    "second_coherence",
    "second_share_agreed",
    "second_log_agreed",
    "second_log_volume_ratio",
    "split_share",
    "split_log_agreed",
    "split_log_deg",
    "lattice_share_unmoved",
    "lattice_log_moved_px",
    "lattice_share_between",
    "lattice_log_between",
    "lattice_share_halfway",
)
MIN_SPOTS = 8
FITTED = 256
"""Strongest spots that a lattice is sought in."""
MOST_SPOTS = 1000
"""Strongest spots that are held against it."""
_APART_PX = 2.5
_INDEX_TOLERANCE = 0.2
_ACROSS_PX = 2.0
_ACROSS_MEDIANS = 3.5  # a spot is explained within this many medians of the explained ones' distances, and at least _ACROSS_PX
BEAM_PX = 30.0
"""Standard deviation of the beam centre's error."""
MANY = 32
"""Spots from which the beam centre is free."""
_SHARE_BETWEEN, _LEAST_BETWEEN = 0.35, 6
"""Of the unexplained spots, half or a third of the way between the lattice's points in one direction, for it to be a larger cell's."""


class _Lattice(NamedTuple):
    basis: Floats
    shifts: Floats
    agreed: int
    on_planes: int
    coherence: float


class _Explained(NamedTuple):
    """Which spots (n,) a lattice explains, and how."""

    spots: Bools
    near: Bools
    """Within _INDEX_TOLERANCE of whole indices, wherever they lie across the ray."""
    between: Bools
    halfway: Bools
    across_px: Floats
    along_per_A: Floats
    indices: npt.NDArray[np.int64]


def lattice_features(spots: Spots, geometry: Geometry, clean: Bools | None = None) -> list[float]:
    """One number for each of LATTICE_FEATURES, of the spots that are `clean` (n,); zeros where these are fewer than MIN_SPOTS."""
    usable = np.arange(len(spots)) if clean is None else np.flatnonzero(clean)
    if len(usable) < MIN_SPOTS:
        return [0.0] * len(LATTICE_FEATURES)
    significance = spots.intensity[usable] / spots.sigma[usable]
    kept = usable[np.argsort(-significance, kind="stable")[:MOST_SPOTS]]
    q = np.asarray(geometry.scattering_vectors_per_A(spots.positions_px[kept]), dtype=np.float64)
    strongest = np.ascontiguousarray(_inside_out(q[:FITTED]))
    found = _find(strongest, geometry.wavelength_A)
    n = len(strongest)
    values = [np.log(n), _innermost(strongest), found.coherence, found.on_planes / n, found.agreed / n]
    if found.agreed < MIN_SPOTS // 2:
        return values + [0.0] * (len(LATTICE_FEATURES) - len(values))
    unmoved = _away(q, found, geometry.wavelength_A)[0][:, 0] < _INDEX_TOLERANCE
    found, move_px, q = _grown(found, q, spots.positions_px[kept], geometry)
    px_per_A = geometry.distance_mm / float(np.mean(geometry.pixel_mm)) * geometry.wavelength_A  # pixels in 1/A, near the beam
    explained = _explained(q, found, geometry.wavelength_A, px_per_A)
    left = np.ascontiguousarray(_inside_out(q[~explained.spots][:FITTED]))
    n_left = max(int((~(explained.spots & ~explained.between)).sum()), 1)  # before a larger cell took those between
    return [
        *values,
        *_of_explained(spots, kept, explained, found),
        *_left_over(left, found, geometry.wavelength_A, _ACROSS_PX / px_per_A),
        float(unmoved.mean()),
        float(np.log1p(np.hypot(*move_px))),
        float(explained.between.sum()) / n_left,
        float(np.log1p(explained.between.sum())),
        float(explained.halfway.sum()) / n_left,
    ]


def _explained(q: Floats, lattice: _Lattice, wavelength_A: float, px_per_A: float) -> _Explained:
    """Which of the spots q (n, 3) lie on the lattice's points, or between them where that asks for a larger cell."""
    away, indices = _away(q, lattice, wavelength_A)
    near = away[:, 0] < _INDEX_TOLERANCE
    across_px = away[:, 1] * px_per_A
    typical = float(np.median(across_px[near])) if near.any() else _ACROSS_PX
    limit_px = max(_ACROSS_PX, _ACROSS_MEDIANS * typical)
    on_points = near & (across_px < limit_px)
    between, halfway = _between(q, ~on_points, lattice, wavelength_A, limit_px / px_per_A)
    is_larger = between.sum() >= max(_LEAST_BETWEEN, _SHARE_BETWEEN * max(int((~on_points).sum()), 1))
    return _Explained(on_points | between if is_larger else on_points, near, between, halfway, across_px, away[:, 2], indices)


def _of_explained(spots: Spots, kept: npt.NDArray[np.int64], explained: _Explained, lattice: _Lattice) -> list[float]:
    """Shares of the spots `kept` that are explained, how closely, and how many twice over."""
    which, near = explained.spots, explained.near
    intensity, off_ice = spots.intensity[kept], ~spots.on_ice[kept]
    half = max(len(kept) // 2, MIN_SPOTS // 2)
    typical = float(np.median(explained.across_px[near])) if near.any() else _ACROSS_PX
    double = int(same_indices(explained.indices[near], spots.positions_px[kept][near].astype(np.float64), _APART_PX))
    return [
        float(which[:FITTED].mean()),
        float(which.mean()),
        float(intensity[which].sum() / max(float(intensity.sum()), 1e-6)),
        float(which[:half].mean()),
        float(which[off_ice].mean()) if off_ice.any() else 0.0,
        float(np.log1p((~which).sum())),
        float(np.log1p((~which & off_ice).sum())),
        float(np.log(typical + 0.05)),
        float(np.log(np.percentile(explained.across_px[near], 90) + 0.05)) if near.any() else 0.0,
        float(np.log(np.median(explained.along_per_A[near]) + 1e-5)) if near.any() else 0.0,
        float(np.log(abs(np.linalg.det(lattice.basis)) + 1.0)),
        double / max(int(near.sum()), 1),
        float(np.log1p(double)),
    ]


def _away(q: Floats, lattice: _Lattice, wavelength_A: float, *, divided: int = 1) -> tuple[Floats, npt.NDArray[np.int64]]:
    """`residuals` of spots q (n, 3) from the points of a lattice, or of the one with `divided` times as many in each direction."""
    rays = q * wavelength_A + np.array([0.0, 0.0, 1.0])
    basis = divided * lattice.basis
    away, indices = residuals(q, rays, basis, np.linalg.inv(basis), divided * lattice.shifts)
    return away, indices


def _grown(lattice: _Lattice, q: Floats, positions_px: npt.NDArray[np.floating], geometry: Geometry) -> tuple[_Lattice, Floats, Floats]:
    """The lattice refined on all spots with the beam centre free, by how much that moved (slow, fast; px), and the spots' vectors then."""
    step = 2.0
    moves = [(geometry.scattering_vectors_per_A(positions_px - step * axis) - q) / step for axis in np.eye(2)]
    per_px = np.stack(moves, axis=-1)
    order = np.argsort(np.linalg.norm(q, axis=1), kind="stable")
    basis, shifts = lattice.basis.copy(), lattice.shifts.copy()
    moved = grown(q[order], per_px[order], basis, shifts, BEAM_PX if len(q) >= MANY else 0.0)
    if not (np.isfinite(basis).all() and np.isfinite(moved).all() and abs(np.linalg.det(basis)) > 1.0):
        return lattice, np.zeros(2), q
    return lattice._replace(basis=basis, shifts=shifts), moved, q + per_px @ moved


def _between(q: Floats, left: Bools, lattice: _Lattice, wavelength_A: float, limit_per_A: float) -> tuple[Bools, Bools]:
    """Which of the unexplained spots lie on points that one larger cell adds, the best of those twice and thrice as large; which half way.

    A cell of which every second or third point is too weak to be seen often is found too small. Spots half way in all directions alike
    are of half the wavelength.
    """
    best, halfway = np.zeros(len(q), dtype=bool), np.zeros(len(q), dtype=bool)
    for prime in (2, 3):
        away, indices = _away(q, lattice, wavelength_A, divided=prime)
        near = left & (away[:, 0] < _INDEX_TOLERANCE) & (away[:, 1] < limit_per_A)
        rest = indices % prime
        first = np.argmax(rest != 0, axis=1)
        leading = rest[np.arange(len(rest)), first]
        rest = np.where((leading == 2)[:, None], (2 * rest) % 3, rest)  # c and 2 c are points of the same larger cell
        code = rest @ np.array([9, 3, 1])
        near &= code > 0
        if prime == 2:
            halfway = near
        if near.any():
            classes, counts = np.unique(code[near], return_counts=True)
            most = near & (code == classes[np.argmax(counts)])
            best = most if most.sum() > best.sum() else best
    return best, halfway


def _inside_out(q: Floats) -> Floats:
    """In the order of their resolution, innermost first."""
    return q[np.argsort(np.linalg.norm(q, axis=1), kind="stable")]


def _left_over(q: Floats, first: _Lattice, wavelength_A: float, tolerance: float) -> list[float]:
    """Whether the unexplained spots are a lattice of their own, or the first lattice turned a little."""
    n = len(q)
    if n < MIN_SPOTS:
        return [0.0] * 7
    second = _find(q, wavelength_A)
    ratio = abs(np.linalg.det(second.basis)) / abs(np.linalg.det(first.basis)) if second.agreed else 1.0
    rays = q * wavelength_A + np.array([0.0, 0.0, 1.0])
    turned, angle = small_rotation(q, rays, (first.basis, np.linalg.inv(first.basis), first.shifts), tolerance, n)
    return [
        second.coherence,
        second.agreed / n,
        float(np.log1p(second.agreed)),
        float(np.log(ratio + 1e-3)),
        turned / n,
        float(np.log1p(turned)),
        float(np.log(angle + 0.05)),
    ]


def _innermost(q: Floats) -> float:
    """The resolution s_c in 1/A within which spots are transformed."""
    return max(float(np.linalg.norm(q[min(len(q), TRANSFORMED) - 1])), 0.02)


def _find(q: Floats, wavelength_A: float) -> _Lattice:
    s_c = _innermost(q)
    step = min(8.0, 2.0 / (wavelength_A * s_c))  # along the beam the sphere is thin, and coarser steps resolve it
    planes = min(MOST_PLANES, 2 * int(REACH / step) + 1)
    power = np.empty((planes, HALF + 1, 2 * HALF + 1), dtype=np.float32)
    basis, shifts, agreed, on_planes, coherence = lattice_of(q, min(len(q), TRANSFORMED), np.float32(s_c), np.float32(step), power)
    return _Lattice(basis, shifts, int(agreed), int(on_planes), float(coherence))
