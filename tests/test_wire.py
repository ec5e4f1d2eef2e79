"""stream v1 and stream2: inverse of each other, true to recorded messages, and hard to hurt."""

import contextlib
import tracemalloc
from datetime import UTC, datetime

import hostile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triage.core import FrameError
from triage.wire import stream1, stream2
from triage.wire.arrays import DTYPES, EncodedArray
from triage.wire.compression import compress
from triage.wire.errors import WireError

numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 1 << 53)
texts = st.text(max_size=8)
pairs = st.tuples(numbers, numbers)
vectors = st.tuples(numbers, numbers, numbers)
flags = st.booleans()
rationals = st.tuples(st.integers(0, 1 << 60), st.integers(1, 1 << 60))
dates = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


def maybe(strategy):
    return st.none() | strategy


def user_data(sequence):
    scalars = st.none() | flags | st.integers(-(1 << 60), 1 << 60) | numbers | texts
    return st.recursive(scalars, lambda inner: sequence(inner) | st.dictionaries(texts, inner, max_size=3), max_leaves=5)


ALL_DTYPES = tuple(sorted(DTYPES))


@st.composite
def arrays(draw, compressions=("none", "bslz4", "lz4"), dtypes=ALL_DTYPES, ndim=2, column_major=False):
    shape = tuple(draw(st.lists(st.integers(1, 40), min_size=ndim, max_size=ndim)))
    values = np.random.default_rng(draw(st.integers(0, 1000))).poisson(3, shape).astype(draw(st.sampled_from(dtypes)))
    compression = draw(st.sampled_from(compressions))
    return EncodedArray(
        shape=shape,
        dtype=values.dtype.str,
        payload=compress(compression, values),
        compression=compression,
        column_major=column_major and draw(flags),
    )


images2 = arrays(column_major=True)
channels = st.dictionaries(texts, images2, max_size=3)
starts2 = st.builds(
    stream2.Start,
    series_id=counts,
    series_unique_id=maybe(texts),
    arm_date=maybe(dates),
    beam_center_px=maybe(pairs),
    bit_depth_image=maybe(counts),
    channels=st.lists(texts, max_size=3).map(tuple),
    count_time_s=maybe(numbers),
    countrate_correction_enabled=maybe(flags),
    countrate_correction_lookup_table=maybe(arrays(ndim=1)),
    detector_description=maybe(texts),
    detector_distance_m=maybe(numbers),
    detector_orientation=maybe(st.tuples(*[numbers] * 6)),
    detector_serial_number=maybe(texts),
    detector_translation_m=maybe(vectors),
    error_value=maybe(st.integers(-(1 << 31), 1 << 31)),
    flatfield=channels,
    flatfield_enabled=maybe(flags),
    frame_time_s=maybe(numbers),
    goniometer=st.dictionaries(texts, st.builds(stream2.Axis, start=maybe(numbers), increment=maybe(numbers)), max_size=3),
    grid_scan=flags,
    incident_energy_eV=maybe(numbers),
    incident_wavelength_A=maybe(numbers),
    number_of_images=maybe(counts),
    pixel_m=maybe(pairs),
    pixel_mask=channels,
    pixel_mask_enabled=maybe(flags),
    saturation_value=maybe(counts),
    sensor_material=maybe(texts),
    sensor_thickness_m=maybe(numbers),
    shape_px=maybe(st.tuples(st.integers(1, 1 << 40), st.integers(1, 1 << 40))),
    threshold_energy_eV=st.dictionaries(texts, numbers, max_size=3),
    user_data=user_data(lambda inner: st.lists(inner, max_size=3).map(tuple)),
    virtual_pixel_interpolation_enabled=maybe(flags),
)
messages2 = st.one_of(
    starts2,
    st.builds(
        stream2.Image,
        series_id=counts,
        image_id=counts,
        data=st.dictionaries(texts, images2, min_size=1, max_size=3),
        series_unique_id=maybe(texts),
        real_time_s=maybe(rationals),
        series_date=maybe(dates),
        start_time_s=maybe(rationals),
        stop_time_s=maybe(rationals),
        user_data=user_data(lambda inner: st.lists(inner, max_size=3).map(tuple)),
    ),
    st.builds(stream2.End, series_id=counts, series_unique_id=maybe(texts)),
    st.builds(stream2.Other, type=texts.filter(lambda t: t not in ("start", "image", "end"))),
)

little = tuple(d for d in ALL_DTYPES if not d.startswith(">"))
tables1 = maybe(arrays(compressions=("none",), dtypes=little))
appendices = user_data(lambda inner: st.lists(inner, max_size=3)).filter(lambda a: not isinstance(a, dict) or "htype" not in a)
starts1 = st.one_of(
    st.builds(
        stream1.Start,
        series=counts,
        header_detail=st.sampled_from(["basic", "all"]),
        config=st.dictionaries(texts, numbers | counts | texts | st.lists(numbers, max_size=3), max_size=4),
        flatfield=tables1,
        pixel_mask=tables1,
        countrate_table=tables1,
        appendix=appendices,
    ),
    st.builds(stream1.Start, series=counts, header_detail=st.just("none"), appendix=appendices),
)
messages1 = st.one_of(
    starts1,
    st.builds(
        stream1.Image,
        series=counts,
        frame=counts,
        array=arrays(compressions=("none", "bslz4", "lz4_block")),
        hash=maybe(texts),
        start_time_ns=maybe(counts),
        stop_time_ns=maybe(counts),
        real_time_ns=maybe(counts),
        appendix=appendices,
        start=maybe(starts1.filter(lambda s: s.appendix is None)),
    ),
    st.builds(stream1.End, series=counts),
    st.builds(stream1.Other, htype=st.sampled_from(["dmonitor-1.0", "x"])),
)


@settings(max_examples=150, deadline=None)
@given(messages2)
def test_stream2_decode_inverts_encode(message):
    again = stream2.decode(stream2.encode(message))
    assert again == message
    assert not getattr(again, "problems", ())


@settings(max_examples=150, deadline=None)
@given(messages1)
def test_stream1_decode_inverts_encode(message):
    assert stream1.decode(stream1.encode(message)) == message


@pytest.mark.parametrize("compression", ["none", "bslz4", "lz4", "lz4_block"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 100), (97, 1031)])
def test_pixels_survive_every_compression(compression, dtype, shape):
    pixels = np.random.default_rng(3).integers(0, 120, shape).astype(dtype)
    pixels[0, 0] = np.iinfo(dtype).max if dtype[0] in "ui" else 1e30
    decoded = EncodedArray.encode(pixels, compression).decode()
    assert decoded.dtype == pixels.dtype
    np.testing.assert_array_equal(decoded, pixels)


def test_big_endian_and_column_major_pixels_come_out_native():
    pixels = np.arange(12, dtype=">u2").reshape(3, 4)
    array = EncodedArray(shape=(3, 4), dtype=">u2", payload=pixels.tobytes(order="F"), column_major=True)
    assert array.decode().dtype == np.dtype("u2")
    np.testing.assert_array_equal(array.decode(), pixels)


def test_shuffled_by_another_element_size_than_the_type():
    pixels = np.arange(200, dtype="u4").reshape(10, 20)
    payload = compress("bslz4", pixels.reshape(-1).view("u2"))
    array = EncodedArray(shape=(10, 20), dtype="<u4", payload=payload, compression="bslz4", element_size=2)
    np.testing.assert_array_equal(array.decode(), pixels)


@pytest.mark.parametrize("name", hostile.STREAM2)
def test_stream2_refuses(name):
    with pytest.raises(WireError) as caught:
        stream2.decode(hostile.STREAM2[name])
    assert 0 < len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", hostile.STREAM2_CURIOUS)
def test_stream2_takes_what_it_can(name):
    message = stream2.decode(hostile.STREAM2_CURIOUS[name])
    if name == "start of wrong types":
        assert message.shape_px == (2, 3)
        assert message.beam_center_px is None
        assert len(message.problems) == 13
    if name == "endless user data":
        assert message.user_data is None
        assert "user data" in message.problems[0]


@pytest.mark.parametrize("name", hostile.STREAM1)
def test_stream1_refuses(name):
    with pytest.raises(WireError) as caught:
        stream1.decode(hostile.STREAM1[name])
    assert 0 < len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", hostile.PIXELS)
def test_pixels_refuse_cheaply(name):
    array = hostile.PIXELS[name]
    tracemalloc.start()
    with pytest.raises(FrameError):
        array.decode()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300 * len(array.payload) + (1 << 20)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damage_to_a_payload_does_more_than_a_wire_error(data):
    """Bytes changed anywhere: the pixels decode to something of the right shape, or a WireError says why not."""
    good = data.draw(st.sampled_from([hostile.GOOD_BSLZ4, hostile.GOOD_LZ4]))
    damaged = bytearray(good.payload)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    array = EncodedArray(shape=good.shape, dtype=good.dtype, payload=bytes(damaged), compression=good.compression)
    with contextlib.suppress(WireError):
        assert array.decode().shape == good.shape


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_wire_error(data):
    for decode, message in ((stream2.decode, data), (stream1.decode, [data]), (stream1.decode, [data, data])):
        with contextlib.suppress(WireError):
            decode(message)


def test_tags_are_those_of_rfc_8746():
    """Tag 0b010_f_s_e_ll: float, signed, little-endian, length (RFC 8746, section 2.1)."""
    from triage.wire.cbor import DTYPE_OF_TAG

    for tag, dtype in DTYPE_OF_TAG.items():
        is_float, signed, little_endian, length = tag >> 4 & 1, tag >> 3 & 1, tag >> 2 & 1, tag & 3
        size = 1 << (length + is_float)
        kind = "f" if is_float else "i" if signed else "u"
        order = "|" if size == 1 else "<" if little_endian else ">"
        assert dtype == f"{order}{kind}{size}"
