"""The header of stream v1 in the terms of stream2's start message, and back: one meaning, two spellings."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from triage.wire import stream1, stream2
from triage.wire.fields import Fields

AXES = ("omega", "phi", "chi", "kappa", "two_theta")
THRESHOLD = "threshold_1"
"""The name stream2 gives to the only channel that stream v1 has."""

_NUMBERS = {
    "count_time": "count_time_s",
    "detector_distance": "detector_distance_m",
    "frame_time": "frame_time_s",
    "photon_energy": "incident_energy_eV",
    "wavelength": "incident_wavelength_A",
    "sensor_thickness": "sensor_thickness_m",
}
_TEXTS = {"description": "detector_description", "detector_number": "detector_serial_number", "sensor_material": "sensor_material"}
_FLAGS = {
    "countrate_correction_applied": "countrate_correction_enabled",
    "flatfield_correction_applied": "flatfield_enabled",
    "pixel_mask_applied": "pixel_mask_enabled",
    "virtual_pixel_correction_applied": "virtual_pixel_interpolation_enabled",
}
"""Names of the SIMPLON detector configuration (API 1.8 manual) to those of stream2.Start."""


def as_stream2(start: stream1.Start) -> stream2.Start:
    """The same header as a stream2 start; what the configuration lacks is None, and what cannot be used is noted in `problems`."""
    fields = Fields(start.config)
    values: dict[str, Any] = {name: fields.number(key) for key, name in _NUMBERS.items()}
    values |= {name: fields.text(key) for key, name in _TEXTS.items()}
    values |= {name: fields.flag(key) for key, name in _FLAGS.items()}
    slow, fast = fields.count("y_pixels_in_detector"), fields.count("x_pixels_in_detector")
    axes = {axis: stream2.Axis(start=fields.number(f"{axis}_start"), increment=fields.number(f"{axis}_increment")) for axis in AXES}
    return stream2.Start(
        series_id=start.series,
        **values,
        arm_date=_date(fields.text("data_collection_date")),
        beam_center_px=fields.pair("beam_center_y", "beam_center_x"),
        bit_depth_image=fields.count("bit_depth_image"),
        detector_orientation=fields.vector("detector_orientation", 6),
        detector_translation_m=fields.vector("detector_translation", 3),
        flatfield={} if start.flatfield is None else {THRESHOLD: start.flatfield},
        goniometer={name: axis for name, axis in axes.items() if axis != stream2.Axis()},
        number_of_images=_images(fields),
        pixel_m=fields.pair("y_pixel_size", "x_pixel_size"),
        pixel_mask={} if start.pixel_mask is None else {THRESHOLD: start.pixel_mask},
        saturation_value=fields.count("countrate_correction_count_cutoff"),
        shape_px=(slow, fast) if slow and fast else None,
        user_data=start.appendix,
        problems=(*start.problems, *fields.problems),
    )


def as_stream1(start: stream2.Start) -> stream1.Start:
    """The same header as stream v1 would send it: header_detail all where there is a mask or flatfield, else basic."""
    config: dict[str, Any] = {key: getattr(start, name) for names in (_NUMBERS, _TEXTS, _FLAGS) for key, name in names.items()}
    beam, pixel, shape = start.beam_center_px or (None, None), start.pixel_m or (None, None), start.shape_px or (None, None)
    config |= {
        "beam_center_x": beam[1],
        "beam_center_y": beam[0],
        "bit_depth_image": start.bit_depth_image,
        "data_collection_date": start.arm_date and start.arm_date.isoformat(),
        "countrate_correction_count_cutoff": start.saturation_value,
        "detector_orientation": start.detector_orientation and list(start.detector_orientation),
        "detector_translation": start.detector_translation_m and list(start.detector_translation_m),
        "nimages": start.number_of_images,
        "ntrigger": None if start.number_of_images is None else 1,
        "x_pixel_size": pixel[1],
        "y_pixel_size": pixel[0],
        "x_pixels_in_detector": shape[1],
        "y_pixels_in_detector": shape[0],
    }
    for name, axis in start.goniometer.items():
        config |= {f"{name}_start": axis.start, f"{name}_increment": axis.increment}
    mask, flatfield = next(iter(start.pixel_mask.values()), None), next(iter(start.flatfield.values()), None)
    return stream1.Start(
        series=start.series_id,
        header_detail="all" if mask or flatfield else "basic",
        config={key: value for key, value in config.items() if value is not None},
        flatfield=flatfield,
        pixel_mask=mask,
        appendix=start.user_data,
    )


def _date(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None


def _images(fields: Fields) -> int | None:
    images, triggers = fields.count("nimages"), fields.count("ntrigger")
    return None if images is None else images * (1 if triggers is None else triggers)
