"""What CBF headers say of the experiment: the PILATUS lines (miniCBF) and the axis tables of full imgCIF.

imgCIF's frame has its origin at the sample, x along the principal goniometer axis, z from the sample to the source (International
Tables G, 3.7); turned by 180 deg about x it becomes ours, with z along the beam: (x, y, z) -> (x, -y, -z).
The PILATUS lines are those of DECTRIS's "PILATUS CBF header specification" 1.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import gemmi
import numpy as np

from triage.core import RunHeader, RunKind
from triage.geometry import GeometryError, StatedGeometry, Vector
from triage.sources.axes import (
    WITHOUT_RESOLUTION,
    Axis,
    HeaderGeometry,
    Plane,
    contradiction,
    plane,
    swing_problem,
    to_laboratory,
    unit,
)
from triage.sources.cbf import CbfHeader

NUMBER = r"([-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)"
TO_MM = {"m": 1e3, "mm": 1.0}
SMALLEST_STEP_DEG = 1e-6
NOT_FLAT = ("PILATUS 12M", "PILATUS3 12M", "PILATUS12M")
"""Detectors whose modules lie on a cylinder (I23 at Diamond), by the names that their headers use."""
NOT_FLAT_SHAPES = {(5071, 2463)}
"""The same, where the header has no name: 24 rows of the modules of a PILATUS 6M."""
VALID_NEGATIVES = re.compile(r"jungfrau|rayonix|mar ?ccd|adsc|cspad|epix|agipd", re.IGNORECASE)
"""Detectors that integrate: their negative values are measurements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniHeader:
    """The PILATUS lines of a CBF header; None where there is no such line."""

    detector: str | None = None
    pixel_mm: tuple[float, float] | None = None
    distance_mm: float | None = None
    beam_px: tuple[float, float] | None = None
    wavelength_A: float | None = None
    two_theta_deg: float | None = None
    omega_start_deg: float | None = None
    omega_step_deg: float | None = None
    oscillation_axis: str | None = None
    exposure_s: float | None = None
    count_cutoff: float | None = None

    def stated(self) -> StatedGeometry:
        """What these lines say of the geometry."""
        return StatedGeometry(wavelength_A=self.wavelength_A, distance_mm=self.distance_mm, pixel_mm=self.pixel_mm, beam_px=self.beam_px)


def parse_mini(text: str) -> MiniHeader:
    """The PILATUS lines in a header's text: `# Key value unit`, with `:`, `=` or a bracket between key and value."""
    name = re.search(r"^# *Detector: *(.+?) *$", text, re.MULTILINE)
    pixel = _find(text, "Pixel_size", rf"{NUMBER} *(m|mm) *x *{NUMBER} *(m|mm)\b")
    distance = _find(text, "Detector_distance", rf"{NUMBER} *(m|mm)\b")
    beam = _find(text, "Beam_xy", rf"{NUMBER} *, *{NUMBER}")
    return MiniHeader(
        detector=name.group(1) if name else None,
        pixel_mm=(float(pixel[2]) * TO_MM[pixel[3]], float(pixel[0]) * TO_MM[pixel[1]]) if pixel else None,
        distance_mm=float(distance[0]) * TO_MM[distance[1]] if distance else None,
        beam_px=(float(beam[1]), float(beam[0])) if beam else None,
        wavelength_A=_number(text, "Wavelength"),
        two_theta_deg=_number(text, "Detector_2theta"),
        omega_start_deg=_number(text, "Start_angle"),
        omega_step_deg=_number(text, "Angle_increment"),
        oscillation_axis=turned.group(1) if (turned := re.search(r"^# *Oscillation_axis[ \t:=(]+(.+?)\s*$", text, re.MULTILINE)) else None,
        exposure_s=_number(text, "Exposure_time"),
        count_cutoff=_number(text, "Count_cutoff"),
    )


def _find(text: str, key: str, value: str) -> tuple[str, ...] | None:
    match = re.search(rf"^# *{key}[ \t:=(]+{value}", text, re.MULTILINE)
    return match.groups() if match else None


def _number(text: str, key: str) -> float | None:
    found = _find(text, key, NUMBER)
    return float(found[0]) if found else None


def axis_tables(text: str) -> Plane | None:
    """The detector's plane as the imgCIF tables of a header give it, in our laboratory frame; None where there are none.

    Raises GeometryError where the tables are there and cannot be used.
    """
    if "_array_structure_list_axis." not in text or "_axis.vector[1]" not in text:
        return None
    try:
        block = gemmi.cif.read_string(text.partition("_array_data.data")[0]).sole_block()
    except (ValueError, RuntimeError, IndexError) as error:
        raise GeometryError(f"the header's axis tables cannot be read ({' '.join(str(error).split())[:120]})") from error
    steps = _pixel_axes(block)
    if steps is None:
        raise GeometryError("the header's axis tables do not describe one flat detector of two pixel axes, increasing")
    return _plane(_axes(block), *steps)


def scan_direction(text: str) -> Vector | None:
    """The unit vector, in our laboratory frame, that the sample turns about by the imgCIF tables of a header; None where they name none.

    It is the axis with an increment from frame to frame, with the axes it depends on at this frame's settings.
    """
    if "_diffrn_scan_axis." not in text or "_axis.vector[1]" not in text:
        return None
    try:
        block = gemmi.cif.read_string(text.partition("_array_data.data")[0]).sole_block()
        table = block.find("_diffrn_scan_axis.", ["axis_id", "angle_increment"])
        turning = [row.str(0) for row in table if abs(_value(row[1])) > SMALLEST_STEP_DEG]
        if len(turning) != 1:
            return None
        own, *outer = _chain(_axes(block), turning[0])
        x, y, z = np.diag([1.0, -1.0, -1.0]) @ to_laboratory(outer)[:3, :3] @ unit(own.vector, own.name)
    except (ValueError, RuntimeError, IndexError):  # GeometryError is a ValueError: broken tables tell nothing of the scan
        return None
    return float(x), float(y), float(z)


def _pixel_axes(block: gemmi.cif.Block) -> tuple[tuple[str, float], tuple[str, float]] | None:
    """The axis and step in mm of the fast and of the slow direction."""
    layout = block.find("_array_structure_list.", ["precedence", "axis_set_id", "?direction"])
    sets = {row.str(0): row.str(1) for row in layout}
    if len(layout) != 2 or set(sets) != {"1", "2"} or any(row.has(2) and row.str(2) != "increasing" for row in layout):
        return None
    increments = {
        row.str(0): (row.str(1), gemmi.cif.as_number(row[2]))
        for row in block.find("_array_structure_list_axis.", ["axis_set_id", "axis_id", "displacement_increment"])
    }
    if sets["1"] not in increments or sets["2"] not in increments:
        return None
    return increments[sets["1"]], increments[sets["2"]]


def _axes(block: gemmi.cif.Block) -> dict[str, tuple[Axis, str]]:
    """Every axis at its setting in this frame, and the one it depends on."""
    settings = {
        row.str(0): (_value(row[1]), _value(row[2])) for row in block.find("_diffrn_scan_frame_axis.", ["axis_id", "angle", "displacement"])
    }
    axes = {}
    for row in block.find("_axis.", ["id", "type", "depends_on", *(f"{kind}[{i}]" for kind in ("vector", "offset") for i in (1, 2, 3))]):
        is_rotation = row.str(1) == "rotation"
        angle, displacement = settings.get(row.str(0), (0.0, 0.0))
        numbers = [_value(row[i]) for i in range(3, 9)]
        axis = Axis(
            name=row.str(0),
            is_rotation=is_rotation,
            vector=(numbers[0], numbers[1], numbers[2]),
            offset_mm=(numbers[3], numbers[4], numbers[5]),
            setting=angle if is_rotation else displacement,
        )
        axes[axis.name] = (axis, row.str(2))
    return axes


def _value(text: str) -> float:
    """A CIF number; `.` and `?` are zero (the dictionary's default for vectors and offsets)."""
    number = gemmi.cif.as_number(text)
    return float(number) if np.isfinite(number) else 0.0


def _chain(axes: dict[str, tuple[Axis, str]], name: str) -> Iterator[Axis]:
    """From an axis outwards to the laboratory."""
    seen: set[str] = set()
    while name not in (".", "?", ""):
        if name not in axes or name in seen:
            raise GeometryError(f"the header's axis tables name an axis {name} that they do not define, or that depends on itself")
        seen.add(name)
        axis, name = axes[name]
        yield axis


def _plane(axes: dict[str, tuple[Axis, str]], fast: tuple[str, float], slow: tuple[str, float]) -> Plane:
    chains = {name: list(_chain(axes, name)) for name, _ in (fast, slow)}
    leaf = max(chains.values(), key=len)
    to_ours = np.diag([1.0, -1.0, -1.0])
    directions = [
        to_ours @ to_laboratory(chains[name])[:3, :3] @ np.asarray(axes[name][0].vector) * np.sign(step) for name, step in (fast, slow)
    ]
    origin = to_ours @ to_laboratory(leaf)[:3, 3]
    return plane(origin, directions[0], directions[1], (abs(slow[1]), abs(fast[1])))


def run_header(cbf: CbfHeader, source: str) -> RunHeader:
    """What a CBF header states of its run."""
    mini = parse_mini(cbf.text)
    geometry = _geometry(cbf, mini)
    step = mini.omega_step_deg
    rotates = step is not None and abs(step) > SMALLEST_STEP_DEG
    return RunHeader(
        source=source,
        detector=mini.detector,
        shape_px=cbf.shape_px,
        stated=geometry.stated,
        geometry_source=geometry.source,
        geometry_problem=geometry.problem,
        geometry_mendable=geometry.mendable,
        negative_is_no_data=not VALID_NEGATIVES.search(mini.detector or ""),
        saturation_value=mini.count_cutoff,
        kind=RunKind.ROTATION if rotates else None,
        omega_start_deg=mini.omega_start_deg,
        omega_step_deg=step,
        rotation_axis=scan_direction(cbf.text) or _along_x(mini.oscillation_axis),
        exposure_s=mini.exposure_s,
    )


def _along_x(oscillation_axis: str | None) -> Vector | None:
    """The axis that DECTRIS's header calls X, clockwise: imgCIF's and our x, as dxtbx takes it. None for any other word."""
    return (1.0, 0.0, 0.0) if re.fullmatch(r"X *[.,] *CW", (oscillation_axis or "").strip(), re.IGNORECASE) else None


def not_flat(detector: str | None, shape_px: tuple[int, int] | None) -> str | None:
    """Why a detector known by name or shape has no geometry of a plane, or None."""
    if any(curved in (detector or "").upper() for curved in NOT_FLAT) or shape_px in NOT_FLAT_SHAPES:
        return f"{detector or 'the PILATUS 12M'} is not flat (24 rows of modules on a cylinder); {WITHOUT_RESOLUTION}"
    return None


def _geometry(cbf: CbfHeader, mini: MiniHeader) -> HeaderGeometry:
    curved = not_flat(mini.detector, cbf.shape_px)
    if curved is not None:
        return HeaderGeometry(mini.stated(), problem=curved)
    try:
        tables = axis_tables(cbf.text)
        if tables is not None:
            problem = contradiction(tables, mini.distance_mm, mini.beam_px)
            return HeaderGeometry(tables.stated(mini.wavelength_A), source="header (axis tables)", problem=problem, mendable=True)
    except GeometryError as error:
        return HeaderGeometry(mini.stated(), problem=str(error))
    return HeaderGeometry(mini.stated(), problem=swing_problem(mini.two_theta_deg))
