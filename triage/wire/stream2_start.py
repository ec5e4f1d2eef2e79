"""The start message of stream2: what the detector says of a series before its images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from triage.wire import cbor
from triage.wire.arrays import EncodedArray
from triage.wire.errors import WireError, brief
from triage.wire.fields import Fields, finite, plain

Pair = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One goniometer axis during the series, in degrees."""

    start: float | None = None
    increment: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Opens a series. None where the message says nothing; pairs are (slow, fast)."""

    series_id: int
    series_unique_id: str | None = None
    arm_date: datetime | None = None
    beam_center_px: Pair | None = None
    bit_depth_image: int | None = None
    channels: tuple[str, ...] = ()
    count_time_s: float | None = None
    countrate_correction_enabled: bool | None = None
    countrate_correction_lookup_table: EncodedArray | None = None
    detector_description: str | None = None
    detector_distance_m: float | None = None
    """Not a DECTRIS field; Jungfraujoch sends it."""
    detector_orientation: tuple[float, ...] | None = None
    """Not a stream2 field; that of stream v1: six numbers, the fast and slow axes in the NeXus (McStas) frame."""
    detector_serial_number: str | None = None
    detector_translation_m: tuple[float, ...] | None = None
    """Three numbers; the last is along the beam."""
    error_value: int | None = None
    """Not a DECTRIS field: the value of pixels without data, from Jungfraujoch."""
    flatfield: Mapping[str, EncodedArray] = field(default_factory=dict)
    flatfield_enabled: bool | None = None
    frame_time_s: float | None = None
    goniometer: Mapping[str, Axis] = field(default_factory=dict)
    grid_scan: bool = False
    """Not a DECTRIS field: Jungfraujoch describes a grid."""
    incident_energy_eV: float | None = None
    incident_wavelength_A: float | None = None
    number_of_images: int | None = None
    pixel_m: Pair | None = None
    pixel_mask: Mapping[str, EncodedArray] = field(default_factory=dict)
    pixel_mask_enabled: bool | None = None
    saturation_value: int | None = None
    sensor_material: str | None = None
    sensor_thickness_m: float | None = None
    shape_px: tuple[int, int] | None = None
    threshold_energy_eV: Mapping[str, float] = field(default_factory=dict)
    user_data: Any = None
    virtual_pixel_interpolation_enabled: bool | None = None
    problems: tuple[str, ...] = field(default=(), compare=False)
    """Fields that were there but could not be used, a line each."""


_SCALARS: tuple[tuple[str, str, Callable[[Fields, str], Any]], ...] = (
    ("series_unique_id", "series_unique_id", Fields.text),
    ("arm_date", "arm_date", Fields.date),
    ("bit_depth_image", "bit_depth_image", Fields.count),
    ("count_time", "count_time_s", Fields.number),
    ("countrate_correction_enabled", "countrate_correction_enabled", Fields.flag),
    ("detector_description", "detector_description", Fields.text),
    ("detector_distance", "detector_distance_m", Fields.number),
    ("detector_serial_number", "detector_serial_number", Fields.text),
    ("flatfield_enabled", "flatfield_enabled", Fields.flag),
    ("frame_time", "frame_time_s", Fields.number),
    ("incident_energy", "incident_energy_eV", Fields.number),
    ("incident_wavelength", "incident_wavelength_A", Fields.number),
    ("pixel_mask_enabled", "pixel_mask_enabled", Fields.flag),
    ("saturation_value", "saturation_value", Fields.count),
    ("sensor_material", "sensor_material", Fields.text),
    ("sensor_thickness", "sensor_thickness_m", Fields.number),
    ("virtual_pixel_interpolation_enabled", "virtual_pixel_interpolation_enabled", Fields.flag),
)
"""Name on the wire, name here, how it is read (DECTRIS documentation, stream_v2/README.md, "Start Message")."""


def read(values: Mapping[Any, Any]) -> Start:
    """The Start in a received map. Raises WireError only where the series or the images' size cannot be known."""
    fields = Fields(values)
    scalars = {name: reader(fields, key) for key, name, reader in _SCALARS}
    images = fields.count("number_of_images")
    error_value = fields.raw("error_value")
    start = Start(
        series_id=fields.required_count("series_id", "start"),
        **scalars,
        beam_center_px=fields.pair("beam_center_y", "beam_center_x"),
        channels=_channels(fields),
        countrate_correction_lookup_table=_table(fields, "countrate_correction_lookup_table"),
        detector_orientation=fields.vector("detector_orientation", 6),
        detector_translation_m=fields.vector("detector_translation", 3),
        error_value=error_value if type(error_value) is int and abs(error_value) < 1 << 63 else None,
        flatfield=_arrays(fields, "flatfield"),
        goniometer=_goniometer(fields),
        grid_scan=isinstance(fields.raw("grid_scan"), Mapping),
        number_of_images=images if images is not None else fields.count("images_expected"),
        pixel_m=fields.pair("pixel_size_y", "pixel_size_x"),
        pixel_mask=_arrays(fields, "pixel_mask"),
        shape_px=_shape(fields),
        threshold_energy_eV={k: e for k, v in fields.map("threshold_energy").items() if (e := finite(v)) is not None},
        user_data=_user_data(fields),
        problems=tuple(fields.problems),
    )
    return start


def write(start: Start) -> dict[str, Any]:
    """The map of a Start, without what is unknown; the inverse of `read`."""
    values: dict[str, Any] = {"type": "start", "series_id": start.series_id}
    values |= {key: getattr(start, name) for key, name, _ in _SCALARS}
    beam, pixel, shape = start.beam_center_px or (None, None), start.pixel_m or (None, None), start.shape_px or (None, None)
    table = start.countrate_correction_lookup_table
    values |= {
        "beam_center_x": beam[1],
        "beam_center_y": beam[0],
        "channels": list(start.channels) or None,
        "countrate_correction_lookup_table": None if table is None else cbor.write_table(table),
        "detector_orientation": None if start.detector_orientation is None else list(start.detector_orientation),
        "detector_translation": None if start.detector_translation_m is None else list(start.detector_translation_m),
        "error_value": start.error_value,
        "flatfield": {k: cbor.write_image(v) for k, v in start.flatfield.items()} or None,
        "goniometer": {k: _known({"start": a.start, "increment": a.increment}) for k, a in start.goniometer.items()} or None,
        "grid_scan": {} if start.grid_scan else None,
        "image_size_x": shape[1],
        "image_size_y": shape[0],
        "number_of_images": start.number_of_images,
        "pixel_mask": {k: cbor.write_image(v) for k, v in start.pixel_mask.items()} or None,
        "pixel_size_x": pixel[1],
        "pixel_size_y": pixel[0],
        "threshold_energy": dict(start.threshold_energy_eV) or None,
        "user_data": start.user_data,
    }
    return _known(values)


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _shape(fields: Fields) -> tuple[int, int] | None:
    slow, fast = fields.count("image_size_y"), fields.count("image_size_x")
    if slow is None or fast is None:
        return None
    if slow == 0 or fast == 0:
        raise WireError(f"start: images of {slow} x {fast} pixels cannot be")
    return slow, fast


def _channels(fields: Fields) -> tuple[str, ...]:
    names = fields.raw("channels")
    if names is None:
        return ()
    if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
        fields.problems.append(f"channels is {brief(names)}, not a list of names")
        return ()
    return tuple(names)


def _goniometer(fields: Fields) -> dict[str, Axis]:
    axes = {name: axis for name, axis in fields.map("goniometer").items() if isinstance(axis, Mapping)}
    return {name: Axis(start=finite(axis.get("start")), increment=finite(axis.get("increment"))) for name, axis in axes.items()}


def _arrays(fields: Fields, key: str) -> dict[str, EncodedArray]:
    arrays = {}
    for channel, value in fields.map(key).items():
        try:
            arrays[channel] = cbor.read_image(value, f"{key} of {channel}")
        except WireError as error:
            fields.problems.append(str(error))
    return arrays


def _table(fields: Fields, key: str) -> EncodedArray | None:
    value = fields.raw(key)
    if value is None:
        return None
    try:
        return cbor.read_table(value, key)
    except WireError as error:
        fields.problems.append(str(error))
        return None


def _user_data(fields: Fields) -> Any:
    try:
        return plain(fields.raw("user_data"))
    except WireError as error:
        fields.problems.append(str(error))
        return None
