"""From the start message of a stream to what the rest of the system knows of a run, and back for the detector in a box.

Lengths on the wire are metres, the beam centre pixels, x the fast direction. The frame of `detector_orientation` is that of NeXus
(McStas: z along the beam, y up), half a turn about the beam from ours, in which an untilted detector's fast axis is x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from triage.core import Mask, Run, RunHeader, RunKind
from triage.geometry import FAST_AXIS, SLOW_AXIS, StatedGeometry, Vector
from triage.wire.arrays import EncodedArray
from triage.wire.errors import WireError
from triage.wire.fields import finite
from triage.wire.stream2 import Axis, Start

HC_EV_A = 12398.419843320026
"""Planck's constant times the speed of light (CODATA 2018), eV A."""
FAR = 0.01
"""Relative difference of two distances that are not one distance, rounded."""
ROTATION_AXES = ("omega", "phi", "chi", "kappa")
OWN_KEY = "triage"
"""In the user data (stream v1: the appendix): what DECTRIS headers have no field for, from our own detector in a box."""


def header_of(start: Start, source: str, channel: str | None = None) -> RunHeader:
    """What a start message says of the run; None where it says nothing, nothing checked but the mask's shape."""
    own = start.user_data.get(OWN_KEY) if isinstance(start.user_data, Mapping) else None
    own = own if isinstance(own, Mapping) else {}
    stated = _stated(start)
    problem, mendable = _problem(start, stated)
    if problem is None:
        problem, mendable = _text(own.get("geometry_problem")), own.get("geometry_mendable") is True
    mask, mask_source = _mask(start, channel)
    axis = _scanned(start)
    name = own.get("mask_source")
    return RunHeader(
        source=source,
        detector=start.detector_description,
        shape_px=start.shape_px,
        stated=stated,
        geometry_problem=problem,
        geometry_mendable=mendable,
        pixel_mask=mask,
        mask_source=name if mask is not None and isinstance(name, str) else mask_source,
        negative_is_no_data=own.get("negative_is_no_data") is True,
        no_data_value=None if start.error_value is None else float(start.error_value),
        saturation_value=finite(own.get("saturation_value")) if start.saturation_value is None else float(start.saturation_value),
        counts_per_photon=_positive(own.get("counts_per_photon")) or 1.0,
        offset=finite(own.get("offset")) or 0.0,
        kind=_kind(start, own, axis),
        frames_expected=start.number_of_images,
        omega_start_deg=axis.start,
        omega_step_deg=axis.increment,
        exposure_s=start.count_time_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesName:
    """How the detector in a box names a series."""

    id: int
    unique_id: str


def start_of(run: Run, series: SeriesName, channel: str, bit_depth: int) -> Start:
    """The start message from which a listener learns what is known of `run`: the inverse of `header_of`."""
    header, geometry = run.header, run.geometry
    stated = header.stated
    if geometry is not None:
        stated = StatedGeometry(
            wavelength_A=geometry.wavelength_A,
            distance_mm=geometry.distance_mm,
            pixel_mm=geometry.pixel_mm,
            beam_px=geometry.beam_px,
            fast_axis=geometry.fast_axis,
            slow_axis=geometry.slow_axis,
        )
    turned = (stated.fast_axis, stated.slow_axis) != (FAST_AXIS, SLOW_AXIS)
    mask = {} if run.mask is None else {channel: EncodedArray.encode(run.mask.astype(np.uint32), "none")}
    omega = Axis(start=header.omega_start_deg, increment=header.omega_step_deg)
    saturation = header.saturation_value
    return Start(
        series_id=series.id,
        series_unique_id=series.unique_id,
        beam_center_px=stated.beam_px,
        bit_depth_image=bit_depth,
        channels=(channel,),
        count_time_s=header.exposure_s,
        detector_description=header.detector,
        detector_distance_m=None if stated.distance_mm is None else stated.distance_mm * 1e-3,
        detector_orientation=(*_half_turn(stated.fast_axis), *_half_turn(stated.slow_axis)) if turned else None,
        detector_translation_m=None if stated.distance_mm is None or turned else (0.0, 0.0, stated.distance_mm * 1e-3),
        error_value=None if header.no_data_value is None else int(header.no_data_value),
        goniometer={} if omega == Axis() else {"omega": omega},
        grid_scan=run.kind is RunKind.GRID,
        incident_wavelength_A=stated.wavelength_A,
        number_of_images=header.frames_expected,
        pixel_m=None if stated.pixel_mm is None else (stated.pixel_mm[0] * 1e-3, stated.pixel_mm[1] * 1e-3),
        pixel_mask=mask,
        saturation_value=int(saturation) if saturation is not None and saturation >= 0 and saturation == int(saturation) else None,
        shape_px=header.shape_px,
        user_data={OWN_KEY: _own(run)},
    )


def _own(run: Run) -> dict[str, Any]:
    header = run.header
    values = {
        "kind": None if run.kind is None else run.kind.value,
        "counts_per_photon": header.counts_per_photon,
        "offset": header.offset,
        "negative_is_no_data": header.negative_is_no_data,
        "saturation_value": header.saturation_value,
        "mask_source": run.mask_source,
        "geometry_mendable": header.geometry_mendable,
        "geometry_problem": header.geometry_problem if run.geometry is None else None,
    }
    return {key: value for key, value in values.items() if value is not None}


def _stated(start: Start) -> StatedGeometry:
    wavelength = start.incident_wavelength_A
    if not wavelength and start.incident_energy_eV:
        wavelength = HC_EV_A / start.incident_energy_eV
    fast, slow = FAST_AXIS, SLOW_AXIS
    if start.detector_orientation is not None and any(start.detector_orientation):
        fast, slow = _half_turn(start.detector_orientation[:3]), _half_turn(start.detector_orientation[3:])
    distance_m = _distances_m(start)[0]
    return StatedGeometry(
        wavelength_A=wavelength or None,
        distance_mm=None if distance_m is None else distance_m * 1e3,
        pixel_mm=None if start.pixel_m is None else (start.pixel_m[0] * 1e3, start.pixel_m[1] * 1e3),
        beam_px=start.beam_center_px if start.beam_center_px and any(start.beam_center_px) else None,  # 0, 0: nobody set it
        fast_axis=fast,
        slow_axis=slow,
    )


def _distances_m(start: Start) -> tuple[float | None, float | None]:
    """The distance as stated, else along the beam; and along the beam from the translation (whose z some count towards the source)."""
    along = abs(start.detector_translation_m[2]) or None if start.detector_translation_m else None
    return start.detector_distance_m or along, along


def _problem(start: Start, stated: StatedGeometry) -> tuple[str | None, bool]:
    """Why the geometry must not be used, and whether overriding distance and beam centre mends that."""
    if abs(abs(np.cross(stated.fast_axis, stated.slow_axis)[2]) - 1.0) > 1e-4:
        return None, False  # a tilted detector: its distance, along the normal, is not its translation along the beam
    distance_m, along_m = _distances_m(start)
    if distance_m is not None and along_m is not None and abs(distance_m - along_m) > FAR * distance_m:
        what = f"a distance of {distance_m * 1e3:.2f} mm, but a translation of {along_m * 1e3:.2f} mm along the beam"
        return f"the header contradicts itself: {what}; set source.geometry.distance_mm and source.geometry.beam_px", True
    swing = start.goniometer.get("two_theta", Axis()).start
    if swing:
        return f"the header states a two-theta of {swing:g} deg but gives the detector's position without it", False
    return None, False


def _half_turn(vector: Vector | tuple[float, ...]) -> Vector:
    """Between the NeXus frame and ours: half a turn about the beam."""
    return -vector[0] + 0.0, -vector[1] + 0.0, vector[2] + 0.0


def _mask(start: Start, channel: str | None) -> tuple[Mask | None, str | None]:
    """True where the header's mask has any bit set (NXdetector pixel_mask), and where it comes from."""
    encoded = start.pixel_mask.get(channel or "") or next(iter(start.pixel_mask.values()), None)
    if encoded is None:
        return None, None
    if start.shape_px is not None and encoded.shape != start.shape_px:
        return None, f"no-data values (the header's mask is {encoded.shape[0]} x {encoded.shape[1]}, the frames are not)"
    try:
        return encoded.decode() != 0, "header"
    except WireError as error:
        return None, f"no-data values (the header's mask is unreadable: {error})"


def _scanned(start: Start) -> Axis:
    """The axis that turns during the series; omega where none does."""
    turning = [start.goniometer[name] for name in ROTATION_AXES if name in start.goniometer and start.goniometer[name].increment]
    return turning[0] if turning else start.goniometer.get("omega", Axis())


def _kind(start: Start, own: Mapping[str, Any], axis: Axis) -> RunKind | None:
    stated = own.get("kind")
    if isinstance(stated, str) and stated in set(RunKind):
        return RunKind(stated)
    if start.grid_scan:
        return RunKind.GRID
    return RunKind.ROTATION if axis.increment else None


def _positive(value: object) -> float | None:
    number = finite(value)
    return number if number is not None and number > 0 else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
