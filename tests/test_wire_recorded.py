"""The wire on messages recorded from detectors (see the fixtures' README for where they come from)."""

import cbor2
import h5py
import hdf5plugin
import numpy as np
import pytest

from triage.wire import stream1, stream2
from triage.wire.errors import WireError

pytestmark = pytest.mark.fixtures


def recorded2(fixtures_dir, number):
    return stream2.decode((fixtures_dir / "stream2" / f"{number:06d}.cbor").read_bytes())


def recorded1(fixtures_dir):
    with (fixtures_dir / "stream1" / "eiger-small.cbors").open("rb") as file:
        decoder = cbor2.CBORDecoder(file, read_size=1)
        return [stream1.decode(decoder.decode()) for _ in range(5)]


def converter_message(fixtures_dir, payload):
    parts = {n: fixtures_dir / "stream1" / f"interceptor_000001_part0{n}.bin" for n in (1, 2, 3, 4, 6)}
    return [payload if n == 5 else parts[n].read_bytes() for n in range(1, 7)]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_stream2_images(fixtures_dir, number):
    image = recorded2(fixtures_dir, number)
    assert (image.series_id, image.image_id, image.series_unique_id) == (1, number - 1, "01GRXWT80JSDY2FNW8SGCCDZD9")
    assert list(image.data) == ["threshold_1", "threshold_2", "difference"]
    assert image.real_time_s == (999995, 50_000_000)
    assert image.user_data == (1, "💙")
    assert {(array.shape, array.dtype, array.compression) for array in image.data.values()} == {((514, 1030), "<u2", "bslz4")}
    assert stream2.decode(stream2.encode(image)) == image


def test_stream2_pixels_are_those_hdf5_reads(fixtures_dir, tmp_path):
    """The same payload as an HDF5 chunk, decoded by the HDF5 filter: an independent decoder."""
    for name, array in recorded2(fixtures_dir, 1).data.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            data = file.create_dataset(
                "x", shape=array.shape, chunks=array.shape, dtype=array.dtype, **hdf5plugin.Bitshuffle(nelems=0, cname="lz4")
            )
            data.id.write_direct_chunk((0, 0), array.payload)
            expected = data[()]
        np.testing.assert_array_equal(array.decode(), expected)


def test_stream2_end(fixtures_dir):
    assert recorded2(fixtures_dir, 11) == stream2.End(series_id=1, series_unique_id="01GRXWT80JSDY2FNW8SGCCDZD9")


def test_stream1_series_with_all_header_detail(fixtures_dir):
    start, *images, end = recorded1(fixtures_dir)
    assert (start.series, start.header_detail) == (6, "all")
    assert start.config["description"] == "Dectris EIGER2 CdTe 9M"
    assert start.config["wavelength"] == pytest.approx(1.5419, abs=1e-4)
    assert start.pixel_mask.shape == start.flatfield.shape == (3262, 3108)
    assert start.countrate_table.decode().shape == (1001, 2)
    assert start.appendix["collect_dict"]["col_id"] == 128579
    assert [image.frame for image in images] == [0, 1, 2]
    assert {(image.array.shape, image.array.dtype, image.array.compression) for image in images} == {((3262, 3108), "<u4", "bslz4")}
    assert images[0].real_time_ns == 9999900
    assert end == stream1.End(series=6)
    for message in (start, *images, end):
        assert stream1.decode(stream1.encode(message)) == message


def test_stream1_cut_parts_are_named_when_their_numbers_are_wanted(fixtures_dir):
    start, image, *_ = recorded1(fixtures_dir)
    with pytest.raises(WireError, match="20000 bytes cannot hold the 40553184"):
        image.array.decode()
    with pytest.raises(WireError, match="20000 bytes but its shape and type need 40553"):
        start.pixel_mask.decode()


def test_stream1_header_and_frame_in_one_message(fixtures_dir):
    message = stream1.decode(converter_message(fixtures_dir, b"cut"))
    assert message.start.htype == "cbfToEiger-0.1"
    assert message.start.config["description"] == "Dectris Eiger 16M"
    assert (message.series, message.frame, message.array.shape) == (1, 1, (4371, 4150))
    assert stream1.decode(stream1.encode(message)) == message
    with pytest.raises(WireError):
        message.array.decode()
