"""One frame's spots as indexing sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from triage.core import Spots
from triage.geometry import Geometry

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]

MOST_SPOTS = 500
"""Strongest spots that are indexed: more make it slower, not surer."""

_LINE_HALF_PX = 0.75
_LEAST_ON_LINE = 7


class Measured(NamedTuple):
    """What least squares needs of n spots."""

    q: Floats
    """(n, 3) scattering vectors, 1/A."""
    ray: Floats
    """(n, 3) unit vectors of the scattered rays."""
    per_px: Floats
    """(n, 3, 2) dq/dx, 1/A a pixel along (slow, fast)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observed:
    """Spots of one frame, innermost first."""

    measured: Measured
    positions_px: Floats
    """(n, 2) slow, fast."""
    per_px_A: Floats
    """(n,) how far a pixel is across the ray, 1/A."""
    s: Floats
    """(n,) 1/d in 1/A."""
    off_ice: Bools
    """(n,) what may be a lattice's: off the ice rings."""
    on_line: Bools
    """(n,) one of too many spots along one row or column of pixels: a hot line or a module's edge, not diffraction."""
    strength: Floats
    """(n,) I/sigma."""
    half_wedge_rad: float
    """Half the rotation during the exposure."""

    def __len__(self) -> int:
        return len(self.s)


def observe(spots: Spots, geometry: Geometry, rotation_deg: float, most: int = MOST_SPOTS) -> Observed:
    """The strongest `most` of `spots`."""
    strength = np.asarray(spots.intensity / np.maximum(spots.sigma, 1e-6), dtype=np.float64)
    kept = np.argsort(-strength, kind="stable")[:most]
    s = geometry.inverse_d_per_A(spots.positions_px[kept])
    kept = kept[np.argsort(s, kind="stable")]
    positions = spots.positions_px[kept].astype(np.float64)
    q = np.ascontiguousarray(geometry.scattering_vectors_per_A(positions))
    steps = [
        geometry.scattering_vectors_per_A(positions + 0.5 * np.eye(2)[k])
        - geometry.scattering_vectors_per_A(positions - 0.5 * np.eye(2)[k])
        for k in range(2)
    ]
    area = np.linalg.norm(np.cross(steps[0], steps[1]), axis=1)
    return Observed(
        measured=Measured(
            q=q,
            ray=np.ascontiguousarray(q * geometry.wavelength_A + np.array([0.0, 0.0, 1.0])),
            per_px=np.ascontiguousarray(np.stack(steps, axis=-1)),
        ),
        positions_px=positions,
        per_px_A=np.sqrt(area),
        s=np.linalg.norm(q, axis=1),
        off_ice=~spots.on_ice[kept],
        on_line=_on_line(positions, geometry.shape_px),
        strength=strength[kept],
        half_wedge_rad=float(np.deg2rad(rotation_deg)) / 2.0,
    )


def _on_line(positions_px: Floats, shape_px: tuple[int, int]) -> Bools:
    """Which of the spots (n, 2) lie in a row or column of pixels that has far more of them (6 sigma and 4) than chance would."""
    n, result = len(positions_px), np.zeros(len(positions_px), dtype=bool)
    for k in range(2):
        near = np.abs(positions_px[:, None, k] - positions_px[None, :, k]) < _LINE_HALF_PX
        expected = n * 2.0 * _LINE_HALF_PX / shape_px[k]
        result |= near.sum(axis=1) > max(_LEAST_ON_LINE, expected + 6.0 * np.sqrt(expected) + 4.0)
    return result
