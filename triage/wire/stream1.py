"""DECTRIS stream v1 (multipart JSON and binary over ZeroMQ): `decode` and `encode` are each other's inverse.

Source: SIMPLON API manual, "Stream interface": dheader-1.0 with header_detail none, basic or all; dimage-1.0 with dimage_d-1.0, the
pixels and dconfig-1.0; dseries_end-1.0; an appendix may follow the header and every image. `shape` on the wire is [fast, slow]; here
it is (slow, fast). A converter in use at SSRL sends header and frame in one message (`htype` cbfToEiger-0.1): an Image with a `start`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from triage.wire.arrays import EncodedArray
from triage.wire.compression import Compression
from triage.wire.errors import WireError, brief
from triage.wire.fields import Fields

HEADER, IMAGE, IMAGE_DATA, CONFIG, END = "dheader-1.0", "dimage-1.0", "dimage_d-1.0", "dconfig-1.0", "dseries_end-1.0"
TABLES = {"dflatfield-1.0": "flatfield", "dpixelmask-1.0": "pixel_mask", "dcountrate_table-1.0": "countrate_table"}
MAX_PARTS = 64
ENCODING = re.compile(r"(?:bs(?P<bits>8|16|32|64)-?)?(?P<lz4>lz4)?(?P<order>[<>])")
"""`[bs<BIT>][[-]lz4][<|>]`: bitshuffle, LZ4, byte order (SIMPLON API manual)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Opens a series."""

    series: int
    header_detail: str = "basic"
    htype: str = HEADER
    config: Mapping[str, Any] = field(default_factory=dict)
    """The detector's configuration as sent; empty with header_detail none."""
    flatfield: EncodedArray | None = None
    pixel_mask: EncodedArray | None = None
    countrate_table: EncodedArray | None = None
    appendix: Any = None
    """JSON, or a text."""
    problems: tuple[str, ...] = field(default=(), compare=False)
    """Tables that were there but could not be used, a line each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One exposure, its pixels still compressed."""

    series: int
    frame: int
    array: EncodedArray
    hash: str | None = None
    start_time_ns: int | None = None
    stop_time_ns: int | None = None
    real_time_ns: int | None = None
    appendix: Any = None
    start: Start | None = None
    """The series' header, where a converter sends it with every frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Closes a series."""

    series: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """A message of a type that is not understood; not an error."""

    htype: str


Message = Start | Image | End | Other


def decode(parts: Sequence[bytes]) -> Message:
    """The message in the parts of one multipart message; pixels stay compressed. Raises WireError saying what is wrong with it."""
    if not 0 < len(parts) <= MAX_PARTS:
        raise WireError(f"a message of {len(parts)} parts is not stream v1")
    first = _json_map(parts[0], "the first part")
    htype = first.get("htype")
    if not isinstance(htype, str):
        raise WireError(f"the first part's htype is {brief(htype)}")
    if htype == IMAGE:
        return _image(first, parts, None)
    if htype == END:
        return End(series=Fields(first).required_count("series", END))
    if htype == HEADER or "header_detail" in first:
        return _header(first, parts)
    return Other(htype=htype)


def encode(message: Message) -> list[bytes]:
    """The inverse of `decode`. Raises WireError for arrays that cannot travel in stream v1."""
    if isinstance(message, Start):
        return [*_header_parts(message), *_appendix_parts(message.appendix)]
    if isinstance(message, End):
        return [_dump({"htype": END, "series": message.series})]
    if isinstance(message, Other):
        return [_dump({"htype": message.htype})]
    header = [] if message.start is None else _header_parts(message.start)
    times = {"start_time": message.start_time_ns, "stop_time": message.stop_time_ns, "real_time": message.real_time_ns}
    return [
        *header,
        _dump({"htype": IMAGE, "series": message.series, "frame": message.frame, "hash": message.hash}),
        _dump(
            {
                "htype": IMAGE_DATA,
                "size": len(message.array.payload),
                "encoding": _encoding(message.array),
                **_shape_and_type(message.array),
            }
        ),
        message.array.payload,
        _dump({"htype": CONFIG, **times}),
        *_appendix_parts(message.appendix),
    ]


def _header(first: Mapping[str, Any], parts: Sequence[bytes]) -> Message:
    detail = first.get("header_detail")
    if detail not in ("none", "basic", "all"):
        raise WireError(f"header_detail is {brief(detail)}, not none, basic or all")
    config = {} if detail == "none" else _json_map(_part(parts, 1, "configuration"), "the detector configuration")
    position = 1 if detail == "none" else 2
    tables: dict[str, EncodedArray] = {}
    problems: list[str] = []
    while position < len(parts) and (described := _table_header(parts[position])) is not None:
        name, values = described
        payload = _part(parts, position + 1, name)
        try:
            tables[name] = _array(values, payload, "<", name)
        except WireError as error:
            problems.append(str(error))
        position += 2
    series = Fields(first).required_count("series", "header")
    start = Start(series=series, header_detail=detail, htype=first["htype"], config=config, problems=tuple(problems), **tables)
    if position == len(parts):
        return start
    appendix = _json(parts[position])
    if isinstance(appendix, dict) and appendix.get("htype") == IMAGE:
        return _image(appendix, parts[position:], start)
    return replace(start, appendix=appendix)


def _header_parts(start: Start) -> list[bytes]:
    parts = [_dump({"header_detail": start.header_detail, "htype": start.htype, "series": start.series})]
    if start.header_detail != "none":
        parts.append(_dump(start.config))
    for htype, name in TABLES.items():
        array: EncodedArray | None = getattr(start, name)
        if array is not None:
            if array.compression != "none" or array.dtype.startswith(">"):
                raise WireError(f"{name}: stream v1 sends tables uncompressed and little-endian")
            parts += [_dump({"htype": htype, **_shape_and_type(array)}), array.payload]
    return parts


def _image(first: Mapping[str, Any], parts: Sequence[bytes], start: Start | None) -> Image:
    series, frame = Fields(first).required_count("series", IMAGE), Fields(first).required_count("frame", IMAGE)
    what = f"image {frame} of series {series}"
    described = _json_map(_part(parts, 1, f"{what}: {IMAGE_DATA}"), what)
    array = _array(described, _part(parts, 2, f"{what}: pixels"), described.get("encoding"), what)
    times = Fields(_json_map(parts[3], what) if len(parts) > 3 else {})
    return Image(
        series=series,
        frame=frame,
        array=array,
        hash=Fields(first).text("hash"),
        start_time_ns=times.count("start_time"),
        stop_time_ns=times.count("stop_time"),
        real_time_ns=times.count("real_time"),
        appendix=_json(parts[4]) if len(parts) > 4 else None,
        start=start,
    )


def _array(values: Mapping[str, Any], payload: bytes, encoding: object, what: str) -> EncodedArray:
    shape, type_name = values.get("shape"), values.get("type")
    if not isinstance(shape, list) or len(shape) != 2:
        raise WireError(f"{what}: shape is {brief(shape)}, not [fast, slow]")
    match = ENCODING.fullmatch(encoding) if isinstance(encoding, str) else None
    if match is None or (match["bits"] and not match["lz4"]):
        raise WireError(f"{what}: encoding {brief(encoding)} is not understood")
    kind = re.fullmatch(r"(u?int|float)(8|16|32|64)", type_name) if isinstance(type_name, str) else None
    if kind is None:
        raise WireError(f"{what}: element type {brief(type_name)} is not understood")
    itemsize = int(kind[2]) // 8
    dtype = ("|" if itemsize == 1 else match["order"]) + {"uint": "u", "int": "i", "float": "f"}[kind[1]] + str(itemsize)
    compression: Compression = "none" if not match["lz4"] else "bslz4" if match["bits"] else "lz4_block"
    element_size = int(match["bits"]) // 8 if match["bits"] else 0
    try:
        return EncodedArray(
            shape=(shape[1], shape[0]),
            dtype=dtype,
            payload=payload,
            compression=compression,
            element_size=0 if element_size == itemsize else element_size,
        )
    except WireError as error:
        raise WireError(f"{what}: {error}") from None


def _encoding(array: EncodedArray) -> str:
    order = ">" if array.dtype.startswith(">") else "<"
    if array.compression == "lz4" or array.column_major:
        raise WireError("stream v1 has no HDF5-framed LZ4 and no column-major pixels; encode the array as lz4_block or bslz4")
    packed = {"none": "", "lz4_block": "lz4", "bslz4": f"bs{8 * (array.element_size or array.itemsize)}-lz4"}[array.compression]
    return packed + order


def _shape_and_type(array: EncodedArray) -> dict[str, Any]:
    slow, fast = array.shape
    kind = {"u": "uint", "i": "int", "f": "float"}[array.dtype[1]]
    return {"shape": [fast, slow], "type": f"{kind}{8 * array.itemsize}"}


def _table_header(part: bytes) -> tuple[str, Mapping[str, Any]] | None:
    values = _json(part)
    name = TABLES.get(str(values.get("htype"))) if isinstance(values, dict) else None
    return None if name is None else (name, values)


def _appendix_parts(appendix: Any) -> list[bytes]:
    return [] if appendix is None else [_dump(appendix)]


def _part(parts: Sequence[bytes], index: int, what: str) -> bytes:
    if index >= len(parts):
        raise WireError(f"{what}: the part is missing ({len(parts)} parts)")
    return parts[index]


def _json(part: bytes) -> Any:
    """The JSON value of a part, or its text where it is none (appendices may be anything); trailing NULs occur."""
    text = part.decode("utf-8", errors="replace").rstrip("\0")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _json_map(part: bytes, what: str) -> dict[str, Any]:
    value = _json(part) if len(part) < 1 << 24 else None
    if not isinstance(value, dict):
        raise WireError(f"{what}: it is not a JSON map ({len(part)} bytes)")
    return value


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()
