"""Where a pixel of a flat detector lies, and what resolution it sees.

The laboratory frame has its origin at the sample, z along the primary beam (from the source to the sample and on), and
right-handed x, y. Pixel positions are (slow, fast), counted from the outer corner of the first pixel, so that the centre of the
first pixel is (0.5, 0.5), as in DIALS. Resolution is d = lambda / (2 sin theta); s = 1/d (International Tables B, 1.1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = tuple[float, float, float]
FloatArray = npt.NDArray[np.floating[Any]]

FAST_AXIS: Vector = (1.0, 0.0, 0.0)
SLOW_AXIS: Vector = (0.0, 1.0, 0.0)

WAVELENGTH_RANGE_A = (0.01, 12.0)
"""From 3D electron diffraction (0.0197 A at 300 kV) to the tender X-rays of the longest-wavelength beamlines (I23: 6 A)."""
DISTANCE_RANGE_MM = (20.0, 20_000.0)
"""Closer than 2 cm no sample environment fits; headers say 10 mm or 0 when nobody set the distance."""
PIXEL_RANGE_MM = (0.001, 2.0)


class GeometryError(ValueError):
    """The experiment's geometry is absent or cannot be true; the message names the quantity and the mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedGeometry:
    """What a header (or the configuration) says of the geometry; None where it says nothing. Not checked."""

    wavelength_A: float | None = None
    distance_mm: float | None = None
    """From the sample to the detector plane, along the plane's normal."""
    pixel_mm: tuple[float, float] | None = None
    beam_px: tuple[float, float] | None = None
    """Where the primary beam meets the detector plane (slow, fast)."""
    fast_axis: Vector = FAST_AXIS
    slow_axis: Vector = SLOW_AXIS

    def overridden_by(self, other: StatedGeometry) -> StatedGeometry:
        """The geometry with every scalar quantity that `other` states replaced."""
        names = ("wavelength_A", "distance_mm", "pixel_mm", "beam_px")
        return replace(self, **{name: value for name in names if (value := getattr(other, name)) is not None})

    def resolve(self, shape_px: tuple[int, int], *, trusted: frozenset[str] = frozenset()) -> Geometry:
        """A checked geometry for a detector of `shape_px` (slow, fast).

        `trusted` names quantities (a person's overrides) that are taken although they look wrong.
        Raises GeometryError naming what is absent or implausible.
        """
        words = {"wavelength_A": "wavelength", "distance_mm": "distance", "pixel_mm": "pixel size", "beam_px": "beam centre"}
        for name, key in words.items():
            if getattr(self, name) is None:
                raise GeometryError(f"the header states no {key}; set source.geometry.{name}")
        if self.wavelength_A is None or self.distance_mm is None or self.pixel_mm is None or self.beam_px is None:
            raise GeometryError("incomplete geometry")
        _check_range("wavelength_A", self.wavelength_A, WAVELENGTH_RANGE_A, "A", trusted)
        _check_range("distance_mm", self.distance_mm, DISTANCE_RANGE_MM, "mm", trusted)
        for size in self.pixel_mm:
            _check_range("pixel_mm", size, PIXEL_RANGE_MM, "mm", trusted)
        geometry = Geometry(
            wavelength_A=self.wavelength_A,
            distance_mm=self.distance_mm,
            pixel_mm=self.pixel_mm,
            beam_px=self.beam_px,
            shape_px=shape_px,
            fast_axis=self.fast_axis,
            slow_axis=self.slow_axis,
        )
        on_detector = all(0 <= b <= n for b, n in zip(self.beam_px, shape_px, strict=True))
        may_be_off = geometry.is_swung or "beam_px" in trusted
        if not (on_detector or (may_be_off and all(np.isfinite(self.beam_px)))):
            raise GeometryError(
                f"the beam centre {self.beam_px[0]:.1f}, {self.beam_px[1]:.1f} (slow, fast) is off the "
                f"{shape_px[0]} x {shape_px[1]} detector; set source.geometry.beam_px"
            )
        return geometry


def _check_range(name: str, value: float, bounds: tuple[float, float], unit: str, trusted: frozenset[str]) -> None:
    if name in trusted and np.isfinite(value) and value > 0:
        return
    if not bounds[0] <= value <= bounds[1]:
        expected = f"expected {bounds[0]:g} to {bounds[1]:g}"
        raise GeometryError(f"{name} = {value:g} {unit} is implausible ({expected}); set source.geometry.{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """A flat detector at any tilt or two-theta swing below 90 deg."""

    wavelength_A: float
    distance_mm: float
    """From the sample to the detector plane, along the plane's normal."""
    pixel_mm: tuple[float, float]
    beam_px: tuple[float, float]
    """Where the primary beam meets the detector plane (slow, fast); may lie outside the detector."""
    shape_px: tuple[int, int]
    fast_axis: Vector = FAST_AXIS
    """Unit vector along the fast axis, in the laboratory frame."""
    slow_axis: Vector = SLOW_AXIS

    def __post_init__(self) -> None:
        fast, slow = np.asarray(self.fast_axis), np.asarray(self.slow_axis)
        if not (abs(fast @ fast - 1) <= 1e-3 and abs(slow @ slow - 1) <= 1e-3 and abs(fast @ slow) <= 1e-2):  # nan too
            raise GeometryError("the detector's fast and slow axes are not orthogonal unit vectors")
        if abs(self._normal[2]) < 1e-3:
            raise GeometryError("the detector plane is parallel to the beam (two-theta swing of 90 deg), where no beam centre exists")

    @property
    def _normal(self) -> FloatArray:
        """Unit normal of the plane, pointing away from the sample."""
        normal = np.cross(self.fast_axis, self.slow_axis)
        return normal if normal[2] >= 0 else -normal

    @property
    def is_swung(self) -> bool:
        """Whether the plane is tilted by more than 5 deg from perpendicular to the beam."""
        return bool(self._normal[2] < np.cos(np.deg2rad(5.0)))

    def laboratory_mm(self, positions_px: npt.ArrayLike) -> FloatArray:
        """Laboratory coordinates (..., 3) in mm of pixel positions (..., 2)."""
        offsets = (np.asarray(positions_px, dtype=np.float64) - self.beam_px) * self.pixel_mm  # (..., 2) mm in the plane
        centre = np.array([0.0, 0.0, self.distance_mm / self._normal[2]])
        return centre + offsets[..., :1] * np.asarray(self.slow_axis) + offsets[..., 1:] * np.asarray(self.fast_axis)

    def scattering_vectors_per_A(self, positions_px: npt.ArrayLike) -> FloatArray:
        """Reciprocal-lattice positions (s1 - s0) in 1/A, (..., 3), of elastic scattering that meets these pixel positions (..., 2)."""
        laboratory = self.laboratory_mm(positions_px)
        s1 = laboratory / np.linalg.norm(laboratory, axis=-1, keepdims=True)
        return (s1 - np.array([0.0, 0.0, 1.0])) / self.wavelength_A

    def inverse_d_per_A(self, positions_px: npt.ArrayLike) -> FloatArray:
        """Inverse resolution s = 1/d in 1/A at pixel positions (..., 2); zero at the beam centre."""
        return np.linalg.norm(self.scattering_vectors_per_A(positions_px), axis=-1)

    def resolution_A(self, positions_px: npt.ArrayLike) -> FloatArray:
        """Resolution d in A at pixel positions (..., 2); infinite at the beam centre."""
        s = self.inverse_d_per_A(positions_px)
        with np.errstate(divide="ignore"):
            return np.divide(1.0, s)

    def positions_px(self, directions: npt.ArrayLike) -> FloatArray:
        """Pixel positions (..., 2) where rays from the sample along `directions` (..., 3) meet the plane; nan where they never do."""
        rays = np.asarray(directions, dtype=np.float64)
        normal = self._normal
        along = rays @ normal
        with np.errstate(divide="ignore", invalid="ignore"):
            hit = rays * np.where(along > 0, self.distance_mm / along, np.nan)[..., None]
        hit = hit - np.array([0.0, 0.0, self.distance_mm / normal[2]])
        in_plane = np.stack([hit @ np.asarray(self.slow_axis), hit @ np.asarray(self.fast_axis)], axis=-1)
        return in_plane / np.asarray(self.pixel_mm) + np.asarray(self.beam_px)
