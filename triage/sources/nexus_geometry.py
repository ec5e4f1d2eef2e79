"""The geometry that a NeXus file states: the module's transformation chain, or the plain fields of NXdetector.

NeXus's frame (McStas) has its origin at the sample, z along the primary beam, y up: it is ours, nothing is turned. `module_offset` is
taken to end at the outer corner of the module's first pixel, and `beam_center_x`, `_y` count from there (as DIALS takes them).
"""

from __future__ import annotations

import h5py
import numpy as np

from triage.geometry import GeometryError, StatedGeometry
from triage.sources.axes import WITHOUT_RESOLUTION, HeaderGeometry, Plane, contradiction, plane, swing_problem, to_laboratory
from triage.sources.nexus_tree import (
    ANGSTROMS,
    DEGREES,
    ELECTRONVOLTS,
    EV_ANGSTROM,
    MILLIMETRES,
    PIXELS,
    attribute,
    axis_of,
    chain,
    child,
    depends_on,
    group_at,
    number,
    of_class,
)

FLAT_WITHIN_PX = 2.0
"""Modules that lie further from the first one's plane, or from their place on it, make no flat detector (JUNGFRAUs keep within one)."""
CORNER_PX = 1.0
"""A beam centre this near the first pixel's corner is one that nobody set."""


def stated_geometry(entry: h5py.Group | None) -> HeaderGeometry:
    """What an NXentry states; quantities it lacks are None."""
    instrument = of_class(entry, "NXinstrument", "instrument")
    detector = of_class(instrument, "NXdetector", "detector")
    wavelength = None
    try:
        wavelength = _wavelength(entry, instrument, detector)
        fields = _fields(detector, wavelength)
    except GeometryError as error:
        return HeaderGeometry(StatedGeometry(wavelength_A=wavelength), problem=f"{error}; {WITHOUT_RESOLUTION}")
    try:
        axes = module_plane(detector)
    except GeometryError as error:
        return HeaderGeometry(fields, problem=f"{error}; {WITHOUT_RESOLUTION}")
    if axes is None:
        return HeaderGeometry(fields, problem=_swing(detector))
    return _reconciled(fields, axes)


def _reconciled(fields: StatedGeometry, axes: Plane) -> HeaderGeometry:
    """Axes and plain fields brought together: axes decide, unless they leave the detector where nobody put it."""
    is_unset = axes.is_upstream or max(abs(b) for b in axes.beam_px) <= CORNER_PX
    if is_unset and fields.distance_mm is not None and fields.beam_px is not None:
        if not _is_perpendicular(axes):
            return HeaderGeometry(fields, problem=f"the header's axes tilt the detector and leave out where it is; {WITHOUT_RESOLUTION}")
        source = "header (fields; its axes put the detector upstream of the sample, or the beam at its first pixel)"
        return HeaderGeometry(_turned(fields, axes), source=source)
    if axes.is_upstream:
        return HeaderGeometry(fields, problem=f"the header's axes put the detector upstream of the sample; {WITHOUT_RESOLUTION}")
    problem = contradiction(axes, fields.distance_mm, fields.beam_px)
    return HeaderGeometry(axes.stated(fields.wavelength_A), source="header (axes)", problem=problem, mendable=True)


def _is_perpendicular(axes: Plane) -> bool:
    return bool(abs(axes.normal[2]) > 0.9999)


def _turned(fields: StatedGeometry, axes: Plane) -> StatedGeometry:
    """The plain fields, with the pixel directions of the axes."""
    return StatedGeometry(
        wavelength_A=fields.wavelength_A,
        distance_mm=fields.distance_mm,
        pixel_mm=fields.pixel_mm or axes.pixel_mm,
        beam_px=fields.beam_px,
        fast_axis=axes.fast_axis,
        slow_axis=axes.slow_axis,
    )


def _fields(detector: h5py.Group | None, wavelength_A: float | None) -> StatedGeometry:
    """The plain fields of NXdetector; x is along fast, y along slow."""
    slow, fast = number(detector, "y_pixel_size", MILLIMETRES, "m"), number(detector, "x_pixel_size", MILLIMETRES, "m")
    pixel = (slow, fast) if slow is not None and fast is not None else None
    beam_slow, beam_fast = _beam_px(detector, "beam_center_y", slow), _beam_px(detector, "beam_center_x", fast)
    distance = next((d for name in ("detector_distance", "distance") if (d := number(detector, name, MILLIMETRES, "m"))), None)
    return StatedGeometry(
        wavelength_A=wavelength_A,
        distance_mm=abs(distance) if distance is not None else None,
        pixel_mm=pixel,
        beam_px=(beam_slow, beam_fast) if beam_slow is not None and beam_fast is not None else None,
    )


def _beam_px(detector: h5py.Group | None, name: str, pixel_mm: float | None) -> float | None:
    """A beam centre in pixels; NXdetector has it as a length, DECTRIS in pixels, where no units are said too."""
    item = child(detector, name)
    unit = (attribute(item, "units") or "pixel").lower() if item is not None else "pixel"
    if unit in PIXELS:
        return number(detector, name)
    length = number(detector, name, MILLIMETRES)
    return length / pixel_mm if length is not None and pixel_mm else None


def _wavelength(entry: h5py.Group | None, instrument: h5py.Group | None, detector: h5py.Group | None) -> float | None:
    """In A, from the beam, the monochromator, or DECTRIS's photon energy: the first that is above zero."""
    beams = (of_class(instrument, "NXbeam", "beam"), of_class(of_class(entry, "NXsample", "sample"), "NXbeam", "beam"))
    monochromator = of_class(instrument, "NXmonochromator", "monochromator")
    wavelengths = [(beam, name) for beam in beams for name in ("incident_wavelength", "wavelength")] + [(monochromator, "wavelength")]
    for group, name in wavelengths:
        wavelength = number(group, name, ANGSTROMS, "angstrom")
        if wavelength is not None and wavelength > 0:
            return wavelength
    energies = [(beam, "incident_energy") for beam in beams] + [
        (monochromator, "energy"),
        (detector, "photon_energy"),
        (group_at(detector, "detectorSpecific"), "photon_energy"),
    ]
    for group, name in energies:
        energy = number(group, name, ELECTRONVOLTS, "ev")
        if energy is not None and energy > 0:
            return EV_ANGSTROM / energy
    return None


def _swing(detector: h5py.Group | None) -> str | None:
    """Why the detector's two-theta, which DECTRIS writes without an axis, must not be ignored; None where it is zero."""
    goniometer = group_at(detector, "goniometer")
    return swing_problem(next((v for name in ("two_theta", "two_theta_start") if (v := number(goniometer, name, DEGREES, "deg"))), None))


def module_plane(detector: h5py.Group | None) -> Plane | None:
    """The plane of the detector's modules by their chains of axes; None where there are none.

    Raises GeometryError where a chain is broken, or the modules do not lie on one plane.
    """
    if detector is None:
        return None
    modules = [group for name in detector if (group := group_at(detector, name)) is not None and _is_module(group)]
    planes = [(_module(group), _data_origin(group)) for group in modules]
    if not planes:
        return None
    first, (slow, fast) = planes[0]
    corner = np.asarray(first.origin_mm) - slow * first.pixel_mm[0] * np.asarray(first.slow_axis)
    whole = plane(corner - fast * first.pixel_mm[1] * np.asarray(first.fast_axis), first.fast_axis, first.slow_axis, first.pixel_mm)
    for other, origin in planes[1:]:
        _check_on_plane(whole, other, origin)
    return whole


def _is_module(group: h5py.Group) -> bool:
    return (
        "fast_pixel_direction" in group and "slow_pixel_direction" in group and attribute(group, "NX_class") in ("NXdetector_module", None)
    )


def _data_origin(module: h5py.Group) -> tuple[float, float]:
    """Where the module's first pixel lies in the frame (slow, fast)."""
    item = child(module, "data_origin")
    values = np.asarray(item[()], dtype=np.float64).reshape(-1) if isinstance(item, h5py.Dataset) else np.zeros(2)
    return (float(values[-2]), float(values[-1])) if len(values) >= 2 else (0.0, 0.0)


def _module(module: h5py.Group) -> Plane:
    fast, slow = (axis_of(module[f"{name}_pixel_direction"]) for name in ("fast", "slow"))
    offset = child(module, "module_offset")
    start = offset if isinstance(offset, h5py.Dataset) else module["fast_pixel_direction"]
    if isinstance(offset, h5py.Dataset):
        to_lab = to_laboratory(chain(offset))
    else:
        to_lab = to_laboratory(chain(parent) if (parent := depends_on(start, attribute(start, "depends_on"))) is not None else ())
    turn = to_lab[:3, :3]
    pixel = abs(slow.setting), abs(fast.setting)
    if min(pixel) <= 0:
        raise GeometryError(f"{module.name} has a pixel size of zero")
    return plane(to_lab[:3, 3], turn @ np.asarray(fast.vector), turn @ np.asarray(slow.vector), pixel)


def _check_on_plane(whole: Plane, module: Plane, origin: tuple[float, float]) -> None:
    """Raises GeometryError when a module's corner or its direction is not where the first module's plane has it."""
    expected = np.asarray(whole.origin_mm) + origin[0] * whole.pixel_mm[0] * np.asarray(whole.slow_axis)
    expected = expected + origin[1] * whole.pixel_mm[1] * np.asarray(whole.fast_axis)
    off_px = float(np.linalg.norm(np.asarray(module.origin_mm) - expected)) / min(whole.pixel_mm)
    if off_px > FLAT_WITHIN_PX or float(module.normal @ whole.normal) < np.cos(np.deg2rad(0.2)):
        raise GeometryError("the detector's modules do not lie on one flat plane")
