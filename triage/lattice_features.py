"""What one lattice explains of a frame's spots, as numbers for the network: see `triage.lattice` for how."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from triage.core import Spots
from triage.geometry import Geometry
from triage.lattice import HALF, MOST_PLANES, REACH, TRANSFORMED, lattice_of, residuals, same_indices, small_rotation

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


class _Lattice(NamedTuple):
    basis: Floats
    shifts: Floats
    agreed: int
    on_planes: int
    coherence: float


def lattice_features(spots: Spots, geometry: Geometry) -> list[float]:
    """One number for each of LATTICE_FEATURES; zeros where there are fewer than MIN_SPOTS spots."""
    if len(spots) < MIN_SPOTS:
        return [0.0] * len(LATTICE_FEATURES)
    significance = spots.intensity / spots.sigma
    kept = np.argsort(-significance, kind="stable")[:MOST_SPOTS]
    q_all = np.asarray(geometry.scattering_vectors_per_A(spots.positions_px[kept]), dtype=np.float64)
    strongest = np.ascontiguousarray(_inside_out(q_all[:FITTED]))
    px_per_A = geometry.distance_mm / float(np.mean(geometry.pixel_mm)) * geometry.wavelength_A  # pixels in 1/A, near the beam
    found = _find(strongest, geometry.wavelength_A)
    n = len(strongest)
    values = [np.log(n), _innermost(strongest), found.coherence, found.on_planes / n, found.agreed / n]
    if found.agreed < MIN_SPOTS // 2:
        return values + [0.0] * (len(LATTICE_FEATURES) - len(values))
    rays = q_all * geometry.wavelength_A + np.array([0.0, 0.0, 1.0])
    away, indices = residuals(q_all, rays, found.basis, np.linalg.inv(found.basis), found.shifts)
    near = away[:, 0] < _INDEX_TOLERANCE
    across = away[:, 1] * px_per_A
    typical = float(np.median(across[near])) if near.any() else _ACROSS_PX
    explained = near & (across < max(_ACROSS_PX, _ACROSS_MEDIANS * typical))
    intensity, off_ice = spots.intensity[kept], ~spots.on_ice[kept]
    half = max(len(kept) // 2, MIN_SPOTS // 2)
    double = int(same_indices(indices[near], spots.positions_px[kept][near].astype(np.float64), _APART_PX))
    values += [
        float(explained[:FITTED].mean()),
        float(explained.mean()),
        float(intensity[explained].sum() / max(float(intensity.sum()), 1e-6)),
        float(explained[:half].mean()),
        float(explained[off_ice].mean()) if off_ice.any() else 0.0,
        float(np.log1p((~explained).sum())),
        float(np.log1p((~explained & off_ice).sum())),
        float(np.log(typical + 0.05)),
        float(np.log(np.percentile(across[near], 90) + 0.05)) if near.any() else 0.0,
        float(np.log(np.median(away[near, 2]) + 1e-5)) if near.any() else 0.0,
        float(np.log(abs(np.linalg.det(found.basis)) + 1.0)),
        double / max(int(near.sum()), 1),
        float(np.log1p(double)),
    ]
    left = np.ascontiguousarray(_inside_out(q_all[~explained][:FITTED]))
    return values + _left_over(left, found, geometry.wavelength_A, _ACROSS_PX / px_per_A)


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
