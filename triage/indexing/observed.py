"""One frame's spots as indexing sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from triage.core import Run, Spots
from triage.geometry import Geometry
from triage.ranks import crowded_along

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]

MOST_SPOTS = 500
"""Strongest spots that are indexed: more make it slower, not surer."""

_LINE_HALF_PX = 0.75
_LEAST_ON_LINE = 7
_SAME_PX = 2.0
_OF_SPOTS = ("positions_px", "turned_rad", "per_px_A", "s", "off_ice", "on_line", "strength")


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
    turned_rad: Floats
    """(n,) by which spots of other exposures were turned about `axis`; zero for the frame's own."""
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
    axis: Floats | None
    """(3,) unit vector that the sample turns about; None where the header does not say."""
    wavelength_A: float

    def __len__(self) -> int:
        return len(self.s)

    @property
    def usable(self) -> Bools:
        """(n,) spots that lattices are sought among."""
        return self.off_ice & ~self.on_line


def observe(spots: Spots, run: Run, geometry: Geometry, most: int = MOST_SPOTS) -> Observed:
    """The strongest `most` of `spots`; `geometry` is the run's."""
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
        turned_rad=np.zeros(len(positions)),
        per_px_A=np.sqrt(area),
        s=np.linalg.norm(q, axis=1),
        off_ice=~spots.on_ice[kept],
        on_line=_on_line(positions, geometry.shape_px),
        strength=strength[kept],
        half_wedge_rad=abs(float(np.deg2rad(run.header.omega_step_deg or 0.0))) / 2.0,
        axis=None if run.header.rotation_axis is None else np.asarray(run.header.rotation_axis, dtype=np.float64),
        wavelength_A=geometry.wavelength_A,
    )


def together(own: Observed, others: Sequence[tuple[float, Observed]], most: int = MOST_SPOTS) -> Observed:
    """The spots of several exposures of one rotation as if the crystal had stood where it stands in `own`; the strongest `most` of them.

    Each other exposure comes with the angle in rad that the sample has turned by from it to `own`, about the header's axis (ValueError
    where there is none). A distance is split into across and along the ray as before: rays turn with their spots. A spot that an
    exposure shares with one nearer to `own` is the same reflection, and is left out.
    """
    if own.axis is None:
        raise ValueError("exposures can be joined only where the rotation axis is known")
    parts, seen = [own], own.positions_px
    for angle_rad, other in sorted(others, key=lambda pair: abs(pair[0])):
        fresh = ~_shared(other.positions_px, seen)
        parts.append(_turned(_chosen(other, np.flatnonzero(fresh)), own.axis, angle_rad))
        seen = np.concatenate([seen, other.positions_px])
    every = _joined(parts)
    kept = np.argsort(-every.strength, kind="stable")[:most]
    return _chosen(every, kept[np.argsort(every.s[kept], kind="stable")])


def _shared(positions_px: Floats, seen_px: Floats) -> Bools:
    """Which of the positions (n, 2) lie within _SAME_PX of one of (m, 2)."""
    if len(positions_px) == 0 or len(seen_px) == 0:
        return np.zeros(len(positions_px), dtype=bool)
    apart = positions_px[:, None] - seen_px[None]
    return np.asarray((np.hypot(apart[..., 0], apart[..., 1]) < _SAME_PX).any(axis=1))


def with_beam_moved(observed: Observed, geometry: Geometry, moves_px: Floats) -> tuple[Floats, Floats]:
    """Q and the rays of the spots (m, n, 3 each) with the beam of `geometry` moved by each of (m, 2; slow, fast)."""
    positions = observed.positions_px - moves_px[:, None]  # a flat detector: only how far a spot is from the beam counts
    q = geometry.scattering_vectors_per_A(positions)
    ray = q * geometry.wavelength_A + np.array([0.0, 0.0, 1.0])
    if observed.axis is not None and observed.turned_rad.any():
        turns = rotations(observed.turned_rad[:, None] * observed.axis)
        q, ray = np.einsum("nij,mnj->mni", turns, q), np.einsum("nij,mnj->mni", turns, ray)
    return np.ascontiguousarray(q), np.ascontiguousarray(ray)


def remeasured(observed: Observed, q: Floats, ray: Floats) -> Observed:
    """The same spots, in the same order, with other q and rays (n, 3 each); how these move with the beam is left as it is."""
    return replace(observed, measured=observed.measured._replace(q=q, ray=ray), s=np.linalg.norm(q, axis=1))


def _turned(observed: Observed, axis: Floats, angle_rad: float) -> Observed:
    """The same spots with the crystal, its rays and the detector turned about `axis` (3,)."""
    rotation = rotations(axis[None] * angle_rad)[0]
    q, ray, per_px = observed.measured
    measured = Measured(
        q=np.ascontiguousarray(q @ rotation.T),
        ray=np.ascontiguousarray(ray @ rotation.T),
        per_px=np.ascontiguousarray(np.einsum("ij,njk->nik", rotation, per_px)),
    )
    return replace(observed, measured=measured, turned_rad=observed.turned_rad + angle_rad)


def _chosen(observed: Observed, which: npt.NDArray[np.intp]) -> Observed:
    """The spots of these numbers, in this order."""
    arrays: dict[str, Any] = {name: getattr(observed, name)[which] for name in _OF_SPOTS}
    return replace(observed, measured=Measured(*(np.ascontiguousarray(part[which]) for part in observed.measured)), **arrays)


def _joined(parts: Sequence[Observed]) -> Observed:
    """All spots, exposure after exposure; what is said once is said by the first."""
    arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _OF_SPOTS}
    measured = Measured(*(np.concatenate(same) for same in zip(*(part.measured for part in parts), strict=True)))
    return replace(parts[0], measured=measured, **arrays)


def _on_line(positions_px: Floats, shape_px: tuple[int, int]) -> Bools:
    """Which of the spots (n, 2) lie in a row or column of pixels that has far more of them than chance would."""
    slow, fast = (crowded_along(positions_px[:, k], shape_px[k], half_px=_LINE_HALF_PX, least=_LEAST_ON_LINE) for k in range(2))
    return slow | fast


def rotations(vectors: Floats) -> Floats:
    """Rotations (r, 3, 3) by the length of vectors (r, 3) in rad about their direction (Rodrigues)."""
    angle = np.linalg.norm(vectors, axis=1)
    unit = vectors / np.maximum(angle, 1e-12)[:, None]
    cross = np.zeros((len(vectors), 3, 3))
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        cross[:, i, j], cross[:, j, i] = -unit[:, k], unit[:, k]
    sine, cosine = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + sine * cross + (1.0 - cosine) * cross @ cross
