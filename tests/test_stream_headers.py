"""From start messages to what is known of a run."""

from dataclasses import replace

import cbor2
import numpy as np
import pytest

from triage.core import Run, RunHeader, RunKind
from triage.geometry import Geometry, StatedGeometry
from triage.sources.resolve import Overrides, RunResolver
from triage.sources.stream_headers import SeriesName, header_of, start_of
from triage.wire import stream1, stream2
from triage.wire.arrays import EncodedArray
from triage.wire.translate import as_stream1, as_stream2

MASK = np.zeros((20, 30), bool)
MASK[3:5, 7] = True
START = stream2.Start(
    series_id=7,
    beam_center_px=(10.5, 15.25),
    count_time_s=0.01,
    detector_description="Dectris EIGER2",
    detector_translation_m=(0.0, 0.0, 0.15),
    goniometer={"omega": stream2.Axis(start=90.0, increment=0.1)},
    incident_wavelength_A=0.9795,
    number_of_images=1800,
    pixel_m=(75e-6, 75e-6),
    pixel_mask={"threshold_1": EncodedArray.encode(MASK.astype("u4") * 17)},
    saturation_value=65533,
    shape_px=(20, 30),
)


def test_everything_a_start_states():
    header = header_of(START, "tcp://x:1")
    assert header.stated.distance_mm == pytest.approx(150.0)
    assert header.stated.pixel_mm == pytest.approx((0.075, 0.075))
    assert (header.stated.wavelength_A, header.stated.beam_px) == (0.9795, (10.5, 15.25))
    assert (header.kind, header.omega_start_deg, header.omega_step_deg) == (RunKind.ROTATION, 90.0, 0.1)
    assert (header.frames_expected, header.exposure_s, header.saturation_value, header.detector) == (1800, 0.01, 65533.0, "Dectris EIGER2")
    np.testing.assert_array_equal(header.pixel_mask, MASK)
    assert header.mask_source == "header"
    assert header.geometry_problem is None


def test_nothing_stated_is_nothing_known():
    header = header_of(stream2.Start(series_id=1), "tcp://x:1")
    assert header == RunHeader(source="tcp://x:1")


def test_stream1_says_the_same():
    one, two = header_of(as_stream2(as_stream1(START)), "x"), header_of(START, "x")
    np.testing.assert_array_equal(one.pixel_mask, two.pixel_mask)
    assert replace(one, pixel_mask=None) == replace(two, pixel_mask=None)


def test_stream1_x_is_fast_and_triggers_multiply():
    config = {
        "beam_center_x": 15,
        "beam_center_y": 10,
        "x_pixels_in_detector": 30,
        "y_pixels_in_detector": 20,
        "nimages": 1,
        "ntrigger": 50,
    }
    header = header_of(as_stream2(stream1.Start(series=1, config=config | {"x_pixel_size": 1e-4, "y_pixel_size": 2e-4})), "x")
    assert (header.stated.beam_px, header.shape_px, header.stated.pixel_mm) == ((10, 15), (20, 30), (0.2, 0.1))
    assert header.frames_expected == 50


def test_a_translation_that_contradicts_the_distance_is_told_not_guessed():
    header = header_of(replace(START, detector_distance_m=0.2), "x")
    assert "200.00 mm" in header.geometry_problem
    assert "150.00 mm" in header.geometry_problem
    given = Overrides(geometry=StatedGeometry(distance_mm=150.0, beam_px=(10.0, 15.0)))
    assert RunResolver(given).resolve(header, "a").geometry.distance_mm == 150.0
    assert header_of(replace(START, detector_distance_m=0.1505), "x").geometry_problem is None
    upstream = replace(START, detector_translation_m=(0.0, 0.0, -0.15), detector_distance_m=0.15)
    assert header_of(upstream, "x").geometry_problem is None


def test_a_swing_that_the_position_does_not_show_is_told():
    swung = replace(START, goniometer={"two_theta": stream2.Axis(start=20.0)})
    assert "two-theta of 20 deg" in header_of(swung, "x").geometry_problem


def test_wavelength_from_the_energy():
    header = header_of(replace(START, incident_wavelength_A=None, incident_energy_eV=12398.42), "x")
    assert header.stated.wavelength_A == pytest.approx(1.0, rel=1e-6)


def test_zeros_are_not_statements():
    """As recorded: wavelength 1.54 A, distance 0, translation 0, beam centre 0."""
    zeros = replace(START, beam_center_px=(0.0, 0.0), detector_translation_m=(0.0, 0.0, 0.0), detector_distance_m=0.0)
    run = RunResolver().resolve(header_of(zeros, "x"), "a")
    assert run.geometry is None
    assert "no distance" in run.geometry_problem


@pytest.mark.parametrize(("axis", "kind"), [("phi", RunKind.ROTATION), ("two_theta", None), ("detector_z", None)])
def test_which_axis_turns_the_crystal(axis, kind):
    header = header_of(replace(START, goniometer={axis: stream2.Axis(start=1.0, increment=0.5)}), "x")
    assert header.kind == kind
    assert header.omega_step_deg == (0.5 if kind else None)


def test_a_grid_is_told():
    assert header_of(replace(START, grid_scan=True), "x").kind is RunKind.GRID


def test_a_mask_that_cannot_be_used_is_named_and_left_out():
    cut = replace(START.pixel_mask["threshold_1"], payload=b"123")
    header = header_of(replace(START, pixel_mask={"threshold_1": cut}), "x")
    assert header.pixel_mask is None
    assert header.mask_source.startswith("no-data values (the header's mask is unreadable: bslz4")
    other = EncodedArray.encode(np.zeros((3, 4), "u4"))
    assert "3 x 4" in header_of(replace(START, pixel_mask={"threshold_1": other}), "x").mask_source


def test_the_mask_of_the_channel():
    masks = {"a": EncodedArray.encode(np.zeros((20, 30), "u4")), "b": START.pixel_mask["threshold_1"]}
    assert header_of(replace(START, pixel_mask=masks), "x", "b").pixel_mask.sum() == 2
    assert header_of(replace(START, pixel_mask=masks), "x").pixel_mask.sum() == 0


def test_values_without_data_of_signed_frames():
    run = RunResolver().resolve(header_of(replace(START, error_value=-32768), "x"), "a")
    assert run.valid_range(np.dtype("i2")) == (-32767.0, 32767.0)


def tilted():
    angle = np.deg2rad(20)
    return Geometry(
        wavelength_A=1.0,
        distance_mm=120.0,
        pixel_mm=(0.1, 0.2),
        beam_px=(-30.0, 12.0),
        shape_px=(20, 30),
        fast_axis=(1.0, 0.0, 0.0),
        slow_axis=(0.0, float(np.cos(angle)), float(np.sin(angle))),
    )


@pytest.mark.parametrize(
    "through", [lambda s: stream2.decode(stream2.encode(s)), lambda s: as_stream2(stream1.decode(stream1.encode(as_stream1(s))))]
)
def test_a_run_survives_the_detector_in_a_box(through):
    geometry = tilted()
    header = RunHeader(
        source="a.h5",
        detector="Jungfrau",
        shape_px=(20, 30),
        pixel_mask=MASK,
        negative_is_no_data=True,
        saturation_value=12.5,
        counts_per_photon=3.0,
        offset=-2.0,
        kind=RunKind.SERIAL,
        frames_expected=9,
        omega_start_deg=1.5,
        omega_step_deg=0.0,
        exposure_s=0.1,
    )
    run = Run(id="a", header=header, kind=RunKind.SERIAL, geometry=geometry, mask=MASK, mask_source="a file")
    start = start_of(run, SeriesName(id=3, unique_id="u"), "threshold_1", 16)
    again = RunResolver().resolve(header_of(through(start), "tcp://x:1"), "b")
    assert again.geometry.distance_mm == pytest.approx(120.0)
    corners = [(0, 0), (19, 29), (7, 3)]
    np.testing.assert_allclose(again.geometry.resolution_A(corners), geometry.resolution_A(corners), rtol=1e-9)
    np.testing.assert_array_equal(again.mask, MASK)
    assert (again.kind, again.mask_source) == (RunKind.SERIAL, "a file")
    kept = (
        "detector",
        "shape_px",
        "negative_is_no_data",
        "saturation_value",
        "counts_per_photon",
        "offset",
        "frames_expected",
        "exposure_s",
    )
    assert {k: getattr(again.header, k) for k in kept} == {k: getattr(header, k) for k in kept}
    assert (again.header.omega_start_deg, again.header.omega_step_deg) == (1.5, 0.0)


@pytest.mark.parametrize("mendable", [True, False])
def test_a_run_without_geometry_stays_without(mendable):
    header = RunHeader(
        source="x", shape_px=(20, 30), stated=StatedGeometry(wavelength_A=1.0), geometry_problem="odd", geometry_mendable=mendable
    )
    run = RunResolver().resolve(header, "a")
    again = RunResolver().resolve(header_of(start_of(run, SeriesName(id=1, unique_id="u"), "c", 16), "y"), "a")
    assert (again.geometry, again.geometry_problem) == (None, "odd")
    assert again.header.geometry_mendable is mendable


@pytest.mark.fixtures
def test_recorded_header(fixtures_dir):
    with (fixtures_dir / "stream1" / "eiger-small.cbors").open("rb") as file:
        start = stream1.decode(cbor2.CBORDecoder(file, read_size=1).decode())
    header = header_of(as_stream2(start), "tcp://eiger:9999")
    assert (header.detector, header.shape_px, header.frames_expected) == ("Dectris EIGER2 CdTe 9M", (3262, 3108), 3)
    assert header.stated.wavelength_A == pytest.approx(1.5419, abs=1e-4)
    assert (header.stated.distance_mm, header.stated.beam_px, header.kind) == (None, None, None)
    assert (header.saturation_value, header.exposure_s) == (83270.0, 0.0099999)
    assert header.pixel_mask is None
    assert "unreadable" in header.mask_source


@pytest.mark.fixtures
def test_recorded_header_that_contradicts_itself(fixtures_dir):
    """SSRL's converter: a distance of 0.15 m, a translation of -0.25 m; phi turns."""
    config = (fixtures_dir / "stream1" / "interceptor_000001_part02.bin").read_bytes()
    start = stream1.decode([b'{"htype":"dheader-1.0","header_detail":"basic","series":1}', config])
    header = header_of(as_stream2(start), "x")
    assert "150.00 mm, but a translation of 250.00 mm" in header.geometry_problem
    assert (header.kind, header.omega_start_deg, header.omega_step_deg) == (RunKind.ROTATION, 361.0, 1.0)
    assert header.stated.beam_px == (2186.0, 2075.5)
