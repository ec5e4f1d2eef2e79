"""Chains of translation and rotation axes, as NeXus and imgCIF write detector positions, and the flat detector they lead to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from triage.geometry import GeometryError, StatedGeometry, Vector

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of a chain, at its setting."""

    name: str
    is_rotation: bool
    vector: Vector
    """Direction, in the frame of the axis it depends on; need not have unit length."""
    offset_mm: Vector = (0.0, 0.0, 0.0)
    """Where the axis sits, in the frame of the axis it depends on."""
    setting: float = 0.0
    """Millimetres or degrees."""

    def matrix(self) -> FloatArray:
        """The 4 x 4 matrix that takes points on this axis to the frame of the axis it depends on (NeXus NXtransformations)."""
        matrix = np.eye(4)
        matrix[:3, 3] = self.offset_mm
        direction = unit(self.vector, self.name)
        if self.is_rotation:
            matrix[:3, :3] = rotation(direction, self.setting)
        else:
            matrix[:3, 3] += self.setting * direction
        return matrix


def unit(vector: npt.ArrayLike, name: str) -> FloatArray:
    """`vector` at unit length; raises GeometryError naming the axis when it has none."""
    array = np.asarray(vector, dtype=np.float64)
    length = float(np.linalg.norm(array))
    if array.shape != (3,) or not np.isfinite(length) or length < 1e-9:
        raise GeometryError(f"axis {name} has no direction ({np.array2string(array)})")
    return array / length


def rotation(direction: FloatArray, angle_deg: float) -> FloatArray:
    """Right-handed rotation by `angle_deg` about a unit vector, 3 x 3 (Rodrigues 1840)."""
    x, y, z = direction
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(angle_deg)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)


def to_laboratory(chain: Iterable[Axis]) -> FloatArray:
    """The 4 x 4 matrix of a chain that is listed from the component outwards to the laboratory."""
    total = np.eye(4)
    for axis in chain:
        total = axis.matrix() @ total
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """A flat detector in the laboratory (z along the beam, origin at the sample)."""

    origin_mm: Vector
    """The outer corner of the first pixel."""
    fast_axis: Vector
    slow_axis: Vector
    pixel_mm: tuple[float, float]
    """(slow, fast)."""

    @property
    def normal(self) -> FloatArray:
        """Unit normal, pointing away from the sample."""
        normal = unit(np.cross(self.fast_axis, self.slow_axis), "normal of the detector")
        return normal if normal @ self.origin_mm >= 0 else -normal

    @property
    def distance_mm(self) -> float:
        """From the sample to the plane, along its normal."""
        return float(self.normal @ self.origin_mm)

    @property
    def is_upstream(self) -> bool:
        """Whether the plane faces the sample from upstream, or stands parallel to the beam: no beam meets it."""
        return bool(self.normal[2] < 1e-3)

    def point_px(self, laboratory_mm: npt.ArrayLike) -> tuple[float, float]:
        """The pixel position (slow, fast) of the foot of a laboratory point on the plane."""
        offset = np.asarray(laboratory_mm, dtype=np.float64) - self.origin_mm
        return float(offset @ self.slow_axis) / self.pixel_mm[0], float(offset @ self.fast_axis) / self.pixel_mm[1]

    @property
    def beam_px(self) -> tuple[float, float]:
        """Where the primary beam meets the plane; raises GeometryError where it does not."""
        if self.is_upstream:
            raise GeometryError("the header puts the detector upstream of the sample or parallel to the beam")
        return self.point_px([0.0, 0.0, self.distance_mm / self.normal[2]])

    @property
    def foot_px(self) -> tuple[float, float]:
        """The pixel nearest to the sample: the beam centre at a two-theta of zero."""
        return self.point_px(self.distance_mm * self.normal)

    def stated(self, wavelength_A: float | None) -> StatedGeometry:
        """What this plane says of the geometry."""
        return StatedGeometry(
            wavelength_A=wavelength_A,
            distance_mm=self.distance_mm,
            pixel_mm=self.pixel_mm,
            beam_px=self.beam_px,
            fast_axis=self.fast_axis,
            slow_axis=self.slow_axis,
        )


def plane(origin_mm: npt.ArrayLike, fast: npt.ArrayLike, slow: npt.ArrayLike, pixel_mm: tuple[float, float]) -> Plane:
    """A Plane of vectors of any length; raises GeometryError where they span none."""
    origin = np.asarray(origin_mm, dtype=np.float64)
    return Plane(
        origin_mm=_vector(origin),
        fast_axis=_vector(unit(fast, "fast_pixel_direction")),
        slow_axis=_vector(unit(slow, "slow_pixel_direction")),
        pixel_mm=pixel_mm,
    )


def _vector(array: FloatArray) -> Vector:
    return float(array[0]), float(array[1]), float(array[2])


@dataclass(frozen=True, slots=True)
class HeaderGeometry:
    """What a header says of the geometry, and whether that can be used."""

    stated: StatedGeometry
    source: str = "header"
    problem: str | None = None
    mendable: bool = False
    """Whether overriding distance_mm and beam_px settles the problem."""


WITHOUT_RESOLUTION = "its frames are judged without resolution"
SMALLEST_SWING_DEG = 0.01


def swing_problem(two_theta_deg: float | None) -> str | None:
    """Why a two-theta swing about an axis that the header does not name must not be used, or None where there is no swing."""
    if two_theta_deg is None or abs(two_theta_deg) < SMALLEST_SWING_DEG:
        return None
    return f"the header swings the detector by {two_theta_deg:g} deg in two-theta and does not say about which axis; {WITHOUT_RESOLUTION}"


FAR_PX = 5.0
"""Two statements of a beam centre that lie further apart are not the same one, rounded."""
FAR_DISTANCE = 0.01
"""Relative difference of two distances that are not the same one, rounded."""


def contradiction(tables: Plane, distance_mm: float | None, beam_px: tuple[float, float] | None) -> str | None:
    """How plain header fields contradict a chain of axes, or None.

    The plain beam centre may be that of the position at two-theta zero; the plain distance may be taken along the beam (NXdetector).
    """
    wrong_distance = distance_mm is not None and not any(
        abs(distance_mm - d) <= FAR_DISTANCE * d for d in (tables.distance_mm, tables.distance_mm / float(tables.normal[2]))
    )
    wrong_beam = beam_px is not None and not any(_near(beam_px, b) for b in (tables.beam_px, tables.foot_px))
    if not (wrong_distance or wrong_beam):
        return None
    fields, axes = _words(distance_mm, beam_px), _words(tables.distance_mm, tables.beam_px)
    mend = "set source.geometry.distance_mm and source.geometry.beam_px"
    return f"the header contradicts itself: its fields say {fields}, its axes say {axes}; {mend}"


def _near(one: Sequence[float], other: Sequence[float]) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= FAR_PX


def _words(distance_mm: float | None, beam_px: tuple[float, float] | None) -> str:
    distance = "no distance" if distance_mm is None else f"{distance_mm:.2f} mm"
    beam = "no beam centre" if beam_px is None else f"beam centre {beam_px[0]:.1f}, {beam_px[1]:.1f} px (slow, fast)"
    return f"{distance}, {beam}"
