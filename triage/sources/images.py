"""Single-image files: CBF, and the other formats fabio reads."""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fabio
import numpy as np

from triage.core import FrameError, Pixels, RunHeader, RunKind, SourceError
from triage.geometry import StatedGeometry
from triage.sources import cbf, imgcif
from triage.sources.axes import swing_problem

FABIO_FAILURES = (
    OSError,
    EOFError,
    zlib.error,
    struct.error,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
)
"""What fabio and the readers under it were seen to raise for damaged files."""
MARCCD_PEDESTAL = 10.0
"""Counts that marCCD and Rayonix detectors add, where the header's mean_bias is not set (DIALS: trusted range from the bias)."""

logging.getLogger("fabio").setLevel(logging.CRITICAL)  # what it would log is raised here as one named error


def is_cbf(path: Path) -> bool:
    """Whether a path names a CBF file, compressed or not."""
    return path.name.lower().endswith((".cbf", ".cbf.gz", ".cbf.bz2"))


def read_header(path: Path, source: str) -> RunHeader:
    """What one image file states of its run; its shape may be unknown. Raises SourceError in one line."""
    if is_cbf(path):
        return imgcif.run_header(cbf.read_header(path), source)
    try:
        image = fabio.openheader(str(path))
        fields = {str(key): str(value) for key, value in image.header.items()}
        n_images = int(image.nframes)
    except FABIO_FAILURES as error:
        raise SourceError(f"{path}: not an image that fabio reads, or damaged ({cbf.reason(error)})") from error
    if n_images > 1:
        raise SourceError(f"{path}: holds {n_images} images; convert it to HDF5 or to files of one image each")
    return _fabio_header(type(image).__name__, fields, source)


def read_pixels(path: Path) -> Pixels:
    """One image file's pixels, (slow, fast). Raises FrameError in one line."""
    if is_cbf(path):
        return cbf.read_pixels(path)
    try:
        with fabio.open(str(path)) as image:
            pixels, is_cut = image.data, bool(image.incomplete_file)
    except FABIO_FAILURES as error:
        raise FrameError(f"{path}: cannot be read ({cbf.reason(error)})") from error
    if pixels is None or is_cut:
        raise FrameError(f"{path}: cut short or damaged")
    if pixels.ndim != 2 or pixels.dtype.kind not in "iuf":
        raise FrameError(f"{path}: not a grey-scale image (shape {pixels.shape}, type {pixels.dtype})")
    return np.ascontiguousarray(pixels, dtype=native(pixels.dtype))


def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which pixels are judged: this machine's byte order, and float32 for every float."""
    return np.dtype(np.float32) if dtype.kind == "f" else dtype.newbyteorder("=")


def _fabio_header(format_name: str, fields: Mapping[str, str], source: str) -> RunHeader:
    if format_name == "MarccdImage":
        return _marccd(fields, source)
    if format_name == "DtrekImage" and "BEAM_CENTER_X" in fields:
        return _adsc(fields, source)
    pilatus = fields.get("imageDescription", "") if format_name in ("PilatusImage", "TifImage") else ""
    if "Pixel_size" in fields or "Pixel_size" in pilatus:
        return _pilatus_tif(fields, pilatus, source)
    return RunHeader(source=source)


def _number(fields: Mapping[str, str], key: str, scale: float = 1.0) -> float | None:
    """A header value times `scale`; None where it is absent, no number, or zero (these headers' word for unknown)."""
    try:
        value = float(fields[key]) * scale
    except (KeyError, ValueError):
        return None
    return value if np.isfinite(value) and value != 0 else None


def _marccd(fields: Mapping[str, str], source: str) -> RunHeader:
    """What marCCD and Rayonix write: "The MarCCD header" (Rayonix 2006), lengths in um or nm and angles in 0.001 deg."""
    slow, fast = _number(fields, "pixelsize_y", 1e-6), _number(fields, "pixelsize_x", 1e-6)
    n_slow, n_fast = _number(fields, "nslow"), _number(fields, "nfast")
    shape = (int(n_slow), int(n_fast)) if n_slow and n_fast else None
    pixel = (slow, fast) if slow and fast else None
    step = _number(fields, "rotation_range", 1e-3)
    stated = StatedGeometry(
        wavelength_A=_number(fields, "source_wavelength", 1e-5),
        distance_mm=_number(fields, "xtal_to_detector", 1e-3) or _number(fields, "start_xtal_to_detector", 1e-3),
        pixel_mm=pixel,
        beam_px=_marccd_beam_px(fields, shape, pixel),
    )
    return RunHeader(
        source=source,
        detector="marCCD or Rayonix",
        shape_px=shape,
        stated=stated,
        geometry_problem=swing_problem(_number(fields, "start_twotheta", 1e-3)),
        offset=_number(fields, "mean_bias", 1e-3) or MARCCD_PEDESTAL,
        saturation_value=_number(fields, "saturated_value"),
        kind=RunKind.ROTATION if step else None,
        omega_start_deg=_number(fields, "start_phi", 1e-3) or (0.0 if step else None),
        omega_step_deg=step,
        exposure_s=_number(fields, "exposure_time", 1e-3),
    )


def _marccd_beam_px(
    fields: Mapping[str, str], shape: tuple[int, int] | None, pixel: tuple[float, float] | None
) -> tuple[float, float] | None:
    """The beam centre, which the manual wants in 0.001 pixel and some beamlines write in um: whichever lies near the middle.

    None where both or neither does: better no resolution than a wrong one.
    """
    slow, fast = _number(fields, "beam_y", 1e-3), _number(fields, "beam_x", 1e-3)
    if slow is None or fast is None or shape is None:
        return None
    candidates = [(slow, fast)]
    if pixel is not None:
        candidates.append((slow / pixel[0], fast / pixel[1]))
    central = [c for c in candidates if all(0.25 * n <= b <= 0.75 * n for b, n in zip(c, shape, strict=True))]
    return central[0] if len(central) == 1 else None


def _adsc(fields: Mapping[str, str], source: str) -> RunHeader:
    """ADSC's SMV: lengths in mm, BEAM_CENTER_X along slow and BEAM_CENTER_Y along fast (as DIALS reads it)."""
    pixel, step = _number(fields, "PIXEL_SIZE"), _number(fields, "OSC_RANGE")
    slow, fast = _number(fields, "BEAM_CENTER_X"), _number(fields, "BEAM_CENTER_Y")
    n_slow, n_fast = _number(fields, "SIZE2"), _number(fields, "SIZE1")
    stated = StatedGeometry(
        wavelength_A=_number(fields, "WAVELENGTH"),
        distance_mm=_number(fields, "DISTANCE"),
        pixel_mm=(pixel, pixel) if pixel else None,
        beam_px=(slow / pixel, fast / pixel) if slow and fast and pixel else None,
    )
    return RunHeader(
        source=source,
        detector=" ".join(["ADSC", fields.get("DETECTOR_SN", "")]).strip(),
        shape_px=(int(n_slow), int(n_fast)) if n_slow and n_fast else None,
        stated=stated,
        geometry_problem=swing_problem(_number(fields, "TWOTHETA")),
        offset=_number(fields, "IMAGE_PEDESTAL") or 0.0,
        counts_per_photon=_number(fields, "GAIN") or 1.0,
        saturation_value=_number(fields, "CCD_IMAGE_SATURATION"),
        kind=RunKind.ROTATION if step else None,
        omega_start_deg=_number(fields, "OSC_START") or (0.0 if step else None),
        omega_step_deg=step,
        exposure_s=_number(fields, "TIME"),
    )


def _pilatus_tif(fields: Mapping[str, str], description: str, source: str) -> RunHeader:
    """A PILATUS TIFF: the lines of a miniCBF header, in its ImageDescription or as fabio's fields."""
    text = description or "\n".join(f"# {key} {value}" for key, value in fields.items())
    mini = imgcif.parse_mini(text.replace("\r\n", "\n"))
    step = mini.omega_step_deg
    return RunHeader(
        source=source,
        detector=mini.detector,
        stated=mini.stated(),
        geometry_problem=imgcif.not_flat(mini.detector, None) or swing_problem(mini.two_theta_deg),
        negative_is_no_data=True,
        saturation_value=mini.count_cutoff,
        kind=RunKind.ROTATION if step else None,
        omega_start_deg=mini.omega_start_deg,
        omega_step_deg=step,
        exposure_s=mini.exposure_s,
    )
