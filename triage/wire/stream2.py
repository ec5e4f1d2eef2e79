"""DECTRIS stream2 (CBOR over ZeroMQ): `decode` and `encode` are each other's inverse, up to fields that are not understood.

Source: DECTRIS documentation, stream_v2/README.md and cbor/dectris-compression-tag.md. Others (Jungfraujoch) send the same with more fields
and more message types: those are skipped, never an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from triage.wire import cbor, stream2_start
from triage.wire.arrays import EncodedArray
from triage.wire.errors import WireError, brief
from triage.wire.fields import Fields, plain
from triage.wire.stream2_start import Axis, Start

__all__ = ["Axis", "End", "Image", "Message", "Other", "Start", "decode", "encode"]

Rational = tuple[int, int]
"""Numerator and denominator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One exposure: every channel's pixels, still compressed."""

    series_id: int
    image_id: int
    """Counts from zero."""
    data: Mapping[str, EncodedArray]
    """Channel (threshold) to pixels (slow, fast), in the order sent."""
    series_unique_id: str | None = None
    real_time_s: Rational | None = None
    series_date: datetime | None = None
    start_time_s: Rational | None = None
    stop_time_s: Rational | None = None
    user_data: Any = None
    problems: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Closes a series."""

    series_id: int
    series_unique_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """A message of a type that is not understood; not an error."""

    type: str


Message = Start | Image | End | Other


def decode(data: bytes) -> Message:
    """The message in one ZeroMQ frame; pixels stay compressed. Raises WireError saying what is wrong with it."""
    values = cbor.loads(data)
    kind = values.get("type")
    if kind == "start":
        return stream2_start.read(values)
    if kind == "image":
        return _read_image(values)
    if kind == "end":
        fields = Fields(values)
        return End(series_id=fields.required_count("series_id", "end"), series_unique_id=fields.text("series_unique_id"))
    if not isinstance(kind, str):
        raise WireError(f"the message's type is {brief(kind)}, not start, image or end")
    return Other(type=kind)


def encode(message: Message) -> bytes:
    """The inverse of `decode`. Raises WireError for arrays that cannot travel in stream2."""
    if isinstance(message, Start):
        return cbor.dumps(stream2_start.write(message))
    if isinstance(message, Other):
        return cbor.dumps({"type": message.type})
    values: dict[str, Any] = {
        "type": "image" if isinstance(message, Image) else "end",
        "series_id": message.series_id,
        "series_unique_id": message.series_unique_id,
    }
    if isinstance(message, Image):
        values |= {
            "image_id": message.image_id,
            "real_time": message.real_time_s,
            "series_date": message.series_date,
            "start_time": message.start_time_s,
            "stop_time": message.stop_time_s,
            "user_data": message.user_data,
            "data": {channel: cbor.write_image(array) for channel, array in message.data.items()},
        }
    return cbor.dumps({key: value for key, value in values.items() if value is not None})


def _read_image(values: Mapping[Any, Any]) -> Image:
    fields = Fields(values)
    series_id, image_id = fields.required_count("series_id", "image"), fields.required_count("image_id", "image")
    channels = fields.map("data")
    if not channels:
        raise WireError(f"image {image_id} of series {series_id}: it has no data")
    try:
        user_data = plain(fields.raw("user_data"))
    except WireError as error:
        user_data = None
        fields.problems.append(str(error))
    return Image(
        series_id=series_id,
        image_id=image_id,
        series_unique_id=fields.text("series_unique_id"),
        data={
            channel: cbor.read_image(v, f"image {image_id} of series {series_id}, channel {brief(channel)}")
            for channel, v in channels.items()
        },
        real_time_s=_rational(fields, "real_time"),
        series_date=fields.date("series_date"),
        start_time_s=_rational(fields, "start_time"),
        stop_time_s=_rational(fields, "stop_time"),
        user_data=user_data,
        problems=tuple(fields.problems),
    )


def _rational(fields: Fields, key: str) -> Rational | None:
    value = fields.raw(key)
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(type(n) is int and 0 <= n < 1 << 64 for n in value) and value[1] > 0:
        return value[0], value[1]
    if value is not None:
        fields.problems.append(f"{key} is {brief(value)}, not a ratio of two whole numbers")
    return None
