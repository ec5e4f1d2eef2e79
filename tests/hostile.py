"""Payloads that a broken or malicious sender could send; add new ways of being wrong here, so that every layer's tests pick them up.

Two families: malformed bytes, and well-formed but insane messages. `STREAM2` and `STREAM1` are refused by `decode`; `PIXELS` decode as
messages, but their pixels must be refused when asked for. Each is named, and must cost one named error and next to no memory.
"""

import json
import struct

import cbor2
import numpy as np

from triage.wire.arrays import EncodedArray

TERABYTE = 1 << 40


def cbor(values):
    return cbor2.dumps(cbor2.CBORTag(55799, values))


def tag40(shape, content, tag=40):
    return cbor2.CBORTag(tag, [shape, content])


def image2(data=None, **changes):
    values = {"type": "image", "series_id": 1, "image_id": 0, "data": data if data is not None else {"a": good_pixels()}}
    return cbor({k: v for k, v in (values | changes).items() if v is not ...})


def good_pixels():
    return tag40([2, 3], cbor2.CBORTag(69, bytes(12)))


def start2(**changes):
    return cbor({"type": "start", "series_id": 1, "image_size_x": 3, "image_size_y": 2} | changes)


GOOD_BSLZ4 = EncodedArray.encode(np.random.default_rng(1).poisson(2.0, (64, 100)).astype("u2"), "bslz4")
GOOD_LZ4 = EncodedArray.encode(np.random.default_rng(1).poisson(0.1, (64, 100)).astype("u2"), "lz4")
BOMB_HEAD = struct.pack(">QI", TERABYTE, 8192)

STREAM2 = {
    "empty": b"",
    "one byte": b"\xff",
    "text": b"hello",
    "truncated": image2()[:-5],
    "huge length of bytes": b"\x5b\x00\x00\x00\xff\xff\xff\xff\xff",
    "huge length of list": b"\x9b\x7f" + b"\xff" * 7,
    "huge length of map": b"\xbb\x7f" + b"\xff" * 7,
    "deep nesting": b"\x81" * 100_000,
    "deep nesting in a map": b"\xa1\x61a" * 10_000,
    "not a map": cbor2.dumps([1, 2, 3]),
    "a number": cbor2.dumps(42),
    "invalid text": b"\xa1\x61\xff\x01",
    "bigfloat of 2^60 digits": b"\xa1\x64type\xc5\x82\x1b\x0f\xff\xff\xff\xff\xff\xff\xff\x01",
    "invalid date": b"\xa1\x64date\xc0\x63abc",
    "no type": cbor({"series_id": 1}),
    "type is a number": cbor({"type": 3}),
    "type is a list": cbor({"type": ["image"]}),
    "start without series": cbor({"type": "start"}),
    "start with a text as series": cbor({"type": "start", "series_id": "six"}),
    "start of no pixels": start2(image_size_x=0),
    "end without series": cbor({"type": "end"}),
    "end with negative series": cbor({"type": "end", "series_id": -1}),
    "image without series": image2(series_id=...),
    "image without number": image2(image_id=...),
    "negative image number": image2(image_id=-1),
    "image number is a float": image2(image_id=1.5),
    "image number is true": image2(image_id=True),
    "image number nan": image2(image_id=float("nan")),
    "image number of 10,000 bits": image2(image_id=1 << 10_000),
    "no data": image2(data={}),
    "data is a list": image2(data=[good_pixels()]),
    "data is bytes": image2(data=b"123"),
    "data is null": cbor({"type": "image", "series_id": 1, "image_id": 0, "data": None}),
    "channel of plain bytes": image2(data={"a": b"123456"}),
    "channel of a map": image2(data={"a": {}}),
    "unknown tag": image2(data={"a": cbor2.CBORTag(41, [1, 2])}),
    "tag 40 with a number": image2(data={"a": cbor2.CBORTag(40, 7)}),
    "tag 40 with three items": image2(data={"a": cbor2.CBORTag(40, [[2, 3], b"", b""])}),
    "tag 40 with plain bytes": image2(data={"a": tag40([2, 3], bytes(12))}),
    "tag 40 with a list": image2(data={"a": tag40([2, 3], [1, 2, 3, 4, 5, 6])}),
    "tag 40 in tag 40": image2(data={"a": tag40([2, 3], good_pixels())}),
    "one dimension": image2(data={"a": tag40([6], cbor2.CBORTag(69, bytes(12)))}),
    "three dimensions": image2(data={"a": tag40([1, 2, 3], cbor2.CBORTag(69, bytes(12)))}),
    "dimensions are a text": image2(data={"a": tag40("23", cbor2.CBORTag(69, bytes(12)))}),
    "negative dimension": image2(data={"a": tag40([-2, 3], cbor2.CBORTag(69, bytes(12)))}),
    "zero dimension": image2(data={"a": tag40([0, 3], cbor2.CBORTag(69, b""))}),
    "nan dimension": image2(data={"a": tag40([float("nan"), 3], cbor2.CBORTag(69, bytes(12)))}),
    "dimension is true": image2(data={"a": tag40([True, 6], cbor2.CBORTag(69, bytes(12)))}),
    "terabyte shape": image2(data={"a": tag40([1 << 20, 1 << 20], cbor2.CBORTag(69, bytes(12)))}),
    "shape beyond 64 bits": image2(data={"a": tag40([1 << 70, 3], cbor2.CBORTag(69, bytes(12)))}),
    "half floats": image2(data={"a": tag40([2, 3], cbor2.CBORTag(84, bytes(12)))}),
    "quadruple floats": image2(data={"a": tag40([2, 3], cbor2.CBORTag(87, bytes(96)))}),
    "reserved tag 76": image2(data={"a": tag40([2, 3], cbor2.CBORTag(76, bytes(12)))}),
    "typed array of a text": image2(data={"a": tag40([2, 3], cbor2.CBORTag(69, "abc"))}),
    "unknown compression": image2(data={"a": tag40([2, 3], cbor2.CBORTag(69, cbor2.CBORTag(56500, ["zstd", 2, b"1"])))}),
    "compression with two items": image2(data={"a": tag40([2, 3], cbor2.CBORTag(69, cbor2.CBORTag(56500, ["bslz4", 2])))}),
    "compression of a text": image2(data={"a": tag40([2, 3], cbor2.CBORTag(69, cbor2.CBORTag(56500, ["bslz4", 2, "x"])))}),
    "compression nested": image2(
        data={"a": tag40([2, 3], cbor2.CBORTag(69, cbor2.CBORTag(56500, ["lz4", 0, cbor2.CBORTag(56500, ["lz4", 0, b""])])))}
    ),
    "element size 3": image2(data={"a": tag40([2, 3], cbor2.CBORTag(69, cbor2.CBORTag(56500, ["bslz4", 3, b"1"])))}),
    "element size is a text": image2(data={"a": tag40([2, 3], cbor2.CBORTag(69, cbor2.CBORTag(56500, ["bslz4", "2", b"1"])))}),
}

STREAM2_CURIOUS = {
    "unknown message type": cbor({"type": "calibration", "data": b"x"}),
    "unknown fields": image2(spots=[1.0, 2.0], az_int_profile={"x": 1}, jf_info=1 << 40),
    "start with unknown fields": start2(storage_cell_number=3, gain_file_names=["a"], unit_cell={"a": 1.0}),
    "start of wrong types": start2(
        beam_center_x="abc",
        beam_center_y=float("nan"),
        detector_translation=[0, 1],
        incident_wavelength=float("inf"),
        goniometer=[1, 2],
        pixel_mask={"a": b"123"},
        flatfield=7,
        channels="threshold_1",
        number_of_images=-4,
        saturation_value=1.5,
        pixel_mask_enabled="yes",
        threshold_energy={"a": "b"},
        countrate_correction_lookup_table=[1, 2],
        count_time=1 << 5000,
    ),
    "endless user data": b"\xa5\x64type\x65image\x69series_id\x01\x68image_id\x00\x64data\xa1\x61a"
    + cbor2.dumps(good_pixels())
    + b"\x69user_data\xd8\x1c\x81\xd8\x1d\x00",
}
"""Strange, but usable: decoded without an error."""


def part(**values):
    return json.dumps(values).encode()


def header1(config=None, *tables, detail="basic"):
    return [part(htype="dheader-1.0", header_detail=detail, series=1), config if config is not None else b"{}", *tables]


def image1(payload=bytes(12), frame=0, **changes):
    described = {"htype": "dimage_d-1.0", "shape": [3, 2], "type": "uint16", "encoding": "<", "size": len(payload)} | changes
    return [part(htype="dimage-1.0", series=1, frame=frame, hash=""), part(**described), payload, part(htype="dconfig-1.0")]


STREAM1 = {
    "no parts": [],
    "empty part": [b""],
    "binary": [bytes(range(256))],
    "65 parts": [b"{}"] * 65,
    "not a map": [b"[1, 2]"],
    "deep nesting": [b"[" * 200_000],
    "deep maps": [b'{"a":' * 200_000],
    "a number of a million digits": [b'{"htype": ' + b"9" * 1_000_000 + b"}"],
    "no htype": [part(series=1)],
    "htype is a number": [part(htype=1)],
    "header without series": [part(htype="dheader-1.0", header_detail="none")],
    "header with a negative series": [part(htype="dheader-1.0", header_detail="none", series=-3)],
    "unknown detail": [part(htype="dheader-1.0", header_detail="everything", series=1)],
    "header without configuration": header1()[:1],
    "configuration is a list": header1(b"[]"),
    "configuration is binary": header1(b"\xff\x00"),
    "table without its bytes": header1(None, part(htype="dpixelmask-1.0", shape=[3, 2], type="uint32"), detail="all"),
    "end without series": [part(htype="dseries_end-1.0")],
    "image without frame": [part(htype="dimage-1.0", series=1), *image1()[1:]],
    "frame is nan": [b'{"htype":"dimage-1.0","series":1,"frame":NaN}', *image1()[1:]],
    "frame is a text": image1(frame="7"),
    "negative frame": image1(frame=-7),
    "image without pixels": image1()[:2],
    "image without description": image1()[:1],
    "description is binary": [image1()[0], b"\xff\xff", *image1()[2:]],
    "no shape": image1(shape=None),
    "negative shape": image1(shape=[-3, 2]),
    "zero shape": image1(shape=[0, 2]),
    "float shape": image1(shape=[3.0, 2]),
    "one dimension": image1(shape=[6]),
    "terabyte shape": image1(shape=[1 << 20, 1 << 20]),
    "shape beyond 64 bits": image1(shape=[1 << 70, 2]),
    "unknown type": image1(type="complex64"),
    "half floats": image1(type="float16"),
    "type is a list": image1(type=["uint16"]),
    "no encoding": image1(encoding=None),
    "unknown encoding": image1(encoding="zstd<"),
    "shuffled without lz4": image1(encoding="bs16<"),
    "no byte order": image1(encoding="lz4"),
}


def bslz4(payload, shape=(64, 100), dtype="<u2", element_size=0):
    return EncodedArray(shape=shape, dtype=dtype, payload=payload, compression="bslz4", element_size=element_size)


def framed_lz4(payload, shape=(64, 100)):
    return EncodedArray(shape=shape, dtype="<u2", payload=payload, compression="lz4")


def block_lz4(payload, shape=(64, 100)):
    return EncodedArray(shape=shape, dtype="<u2", payload=payload, compression="lz4_block")


def patched(payload, at, new):
    return payload[:at] + new + payload[at + len(new) :]


PIXELS = {
    "bslz4 empty": bslz4(b""),
    "bslz4 head only": bslz4(GOOD_BSLZ4.payload[:12]),
    "bslz4 cut in the head": bslz4(GOOD_BSLZ4.payload[:11]),
    "bslz4 cut in the last block": bslz4(GOOD_BSLZ4.payload[:-3]),
    "bslz4 cut in the middle": bslz4(GOOD_BSLZ4.payload[: len(GOOD_BSLZ4.payload) // 2]),
    "bslz4 promises another size": bslz4(GOOD_BSLZ4.payload, shape=(64, 101)),
    "bslz4 promises terabytes": bslz4(BOMB_HEAD + GOOD_BSLZ4.payload[12:]),
    "bslz4 block size 1": bslz4(patched(GOOD_BSLZ4.payload, 8, struct.pack(">I", 1))),
    "bslz4 block size too large": bslz4(patched(GOOD_BSLZ4.payload, 8, struct.pack(">I", 0xFFFFFFF0))),
    "bslz4 block size too small": bslz4(patched(GOOD_BSLZ4.payload, 8, struct.pack(">I", 16))),
    "bslz4 block length too large": bslz4(patched(GOOD_BSLZ4.payload, 12, b"\xff\xff\xff\xff")),
    "bslz4 block length zero": bslz4(patched(GOOD_BSLZ4.payload, 12, bytes(4))),
    "bslz4 random blocks": bslz4(GOOD_BSLZ4.payload[:16] + b"\xff" * (len(GOOD_BSLZ4.payload) - 16)),
    "bslz4 bomb": bslz4(struct.pack(">QI", 1 << 29, 8192) + bytes(100), shape=(1 << 14, 1 << 14)),
    "bslz4 bomb of plausible ratio": bslz4(struct.pack(">QI", 2 * 160 * 16000, 8192) + bytes(21_000), shape=(160, 16000)),
    "bslz4 element size does not divide": bslz4(struct.pack(">QI", 6, 8192) + bytes(40), shape=(1, 3), element_size=4),
    "lz4 empty": framed_lz4(b""),
    "lz4 head only": framed_lz4(GOOD_LZ4.payload[:12]),
    "lz4 cut": framed_lz4(GOOD_LZ4.payload[:-1]),
    "lz4 promises terabytes": framed_lz4(BOMB_HEAD + GOOD_LZ4.payload[12:]),
    "lz4 block size 0": framed_lz4(patched(GOOD_LZ4.payload, 8, bytes(4))),
    "lz4 block length zero": framed_lz4(patched(GOOD_LZ4.payload, 12, bytes(4))),
    "lz4 block length too large": framed_lz4(patched(GOOD_LZ4.payload, 12, b"\xff\xff\xff\xff")),
    "lz4 random blocks": framed_lz4(GOOD_LZ4.payload[:16] + b"\xff" * (len(GOOD_LZ4.payload) - 16)),
    "raw lz4 empty": block_lz4(b""),
    "raw lz4 of zeros": block_lz4(bytes(200)),
    "raw lz4 of less": block_lz4(EncodedArray.encode(np.zeros((64, 99), "u2"), "lz4_block").payload),
    "raw lz4 of more": block_lz4(EncodedArray.encode(np.zeros((64, 101), "u2"), "lz4_block").payload),
    "raw lz4 bomb": block_lz4(bytes(100), shape=(1 << 14, 1 << 14)),
    "raw bytes too few": EncodedArray(shape=(2, 3), dtype="<u2", payload=bytes(11)),
    "raw bytes too many": EncodedArray(shape=(2, 3), dtype="<u2", payload=bytes(13)),
}
