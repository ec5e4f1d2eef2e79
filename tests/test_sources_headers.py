"""What headers say: NeXus axes and fields, PILATUS lines, imgCIF tables, other formats; and what is refused rather than guessed."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import fabio.dtrekimage
import fabio.tifimage
import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest
from file_writers import PILATUS_LINES, SHAPE, cbf_bytes, frames, nx, quantity, write_data_file, write_header, write_nxmx
from hypothesis import given
from hypothesis import strategies as st

from triage.core import Event, Frame, FrameError, Run, RunEnd, RunHeader, RunKind, SourceError
from triage.geometry import GeometryError, StatedGeometry
from triage.sources import cbf, images, imgcif, nexus
from triage.sources.axes import Axis, rotation, to_laboratory
from triage.sources.files import FileSource
from triage.sources.resolve import Overrides, RunResolver

GOLDEN = json.loads((Path(__file__).parent / "golden" / "dxtbx_resolution.json").read_text())["files"]


def nexus_header(path: Path) -> RunHeader:
    return nexus.read_header(path, str(path), nexus.stored_frames(path).table)


def resolved(header: RunHeader, **stated: Any) -> Run:
    return RunResolver(Overrides(geometry=StatedGeometry(**stated))).resolve(header, "x")


# chains of axes


def test_a_chain_turns_and_moves_in_the_order_of_its_axes() -> None:
    """A point 10 mm along x, on an arm turned by 90 deg about z, on a stage 5 mm up y."""
    chain = [
        Axis(name="x", is_rotation=False, vector=(2.0, 0.0, 0.0), setting=10.0),
        Axis(name="turn", is_rotation=True, vector=(0.0, 0.0, 1.0), setting=90.0),
        Axis(name="stage", is_rotation=False, vector=(0.0, 1.0, 0.0), offset_mm=(0.0, 0.0, 3.0), setting=5.0),
    ]
    np.testing.assert_allclose(to_laboratory(chain)[:3, 3], [0.0, 15.0, 3.0], atol=1e-12)


@given(st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1), st.floats(-360, 360), st.floats(-360, 360))
def test_rotations_are_rotations(axis: tuple[float, float, float], one: float, other: float) -> None:
    direction = np.asarray(axis) / np.linalg.norm(axis)
    matrix = rotation(direction, one)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(matrix @ direction, direction, atol=1e-9)
    np.testing.assert_allclose(matrix @ rotation(direction, other), rotation(direction, one + other), atol=1e-9)


def test_an_axis_without_direction_is_refused_by_name() -> None:
    with pytest.raises(GeometryError, match="axis two_theta has no direction"):
        Axis(name="two_theta", is_rotation=True, vector=(0.0, 0.0, 0.0)).matrix()


# NeXus


def test_nxmx_geometry_follows_the_axes_with_units_converted(tmp_path: Path) -> None:
    write_nxmx(tmp_path / "x.nxs", frames(3))
    header = nexus_header(tmp_path / "x.nxs")
    geometry = resolved(header).geometry
    assert geometry is not None
    assert geometry.beam_px == pytest.approx((30.25, 42.5))
    assert (geometry.distance_mm, geometry.wavelength_A) == (pytest.approx(150.0), pytest.approx(0.98))
    assert geometry.pixel_mm == pytest.approx((0.075, 0.075))
    assert (geometry.fast_axis, geometry.slow_axis) == ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
    assert header.kind is RunKind.ROTATION
    assert (header.omega_start_deg, header.omega_step_deg) == (pytest.approx(10.0), pytest.approx(0.2))
    assert header.rotation_axis == pytest.approx((-1.0, 0.0, 0.0))
    assert header.pixel_mask is not None
    assert header.pixel_mask.sum() == 64


def test_nxmx_swung_detector_has_its_foot_where_the_beam_was(tmp_path: Path) -> None:
    """Closed form: swung by 25 deg about y, the foot of the normal stays at (30.25, 42.5), d tan 25 deg from the beam along fast."""
    write_nxmx(tmp_path / "x.nxs", frames(1), two_theta_deg=25.0)
    geometry = resolved(nexus_header(tmp_path / "x.nxs")).geometry
    assert geometry is not None
    assert geometry.distance_mm == pytest.approx(150.0)
    away = 150.0 * np.tan(np.deg2rad(25.0)) / 0.075
    assert geometry.beam_px == pytest.approx((30.25, 42.5 + away))
    assert geometry.resolution_A((30.25, 42.5)) == pytest.approx(0.98 / (2 * np.sin(np.deg2rad(12.5))))


def test_axes_that_contradict_the_fields_are_not_used_until_a_person_decides(tmp_path: Path) -> None:
    write_nxmx(tmp_path / "x.nxs", frames(1), beam_px=(10.0, 70.0))
    header = nexus_header(tmp_path / "x.nxs")
    run = resolved(header)
    assert run.geometry is None
    assert "contradicts itself" in str(run.geometry_problem)
    assert "beam centre 10.0, 70.0" in str(run.geometry_problem)
    mended = resolved(header, distance_mm=150.0, beam_px=(30.0, 42.0)).geometry
    assert mended is not None
    assert mended.beam_px == (30.0, 42.0)


def test_axes_that_leave_the_detector_where_nobody_put_it_yield_to_the_fields(tmp_path: Path) -> None:
    """As MX3 writes it (the fixture example_1_master.h5): z against the beam, no beam centre in the chain."""
    write_nxmx(tmp_path / "x.nxs", frames(1))
    with h5py.File(tmp_path / "x.nxs", "r+") as file:
        detector = file["entry/instrument/detector"]
        detector["transformations/det_z"].attrs["vector"] = [0.0, 0.0, -1.0]
        detector["module/module_offset"][()] = 0.0
    header = nexus_header(tmp_path / "x.nxs")
    geometry = resolved(header).geometry
    assert geometry is not None
    assert geometry.beam_px == (30.25, 42.5)
    assert geometry.distance_mm == 150.0
    assert "upstream" in header.geometry_source


def test_an_unset_chain_of_a_tilted_detector_is_refused(tmp_path: Path) -> None:
    write_nxmx(tmp_path / "x.nxs", frames(1), two_theta_deg=25.0)
    with h5py.File(tmp_path / "x.nxs", "r+") as file:
        file["entry/instrument/detector/transformations/det_z"].attrs["vector"] = [0.0, 0.0, -1.0]
    assert "tilt the detector" in str(resolved(nexus_header(tmp_path / "x.nxs")).geometry_problem)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda d: d["module/module_offset"].attrs.__setitem__("depends_on", "/entry/nothing"), "depends on /entry/nothing"),
        (lambda d: d["module/module_offset"].attrs.__setitem__("depends_on", "module_offset"), "circle"),
        (lambda d: d["transformations/two_theta"].attrs.__setitem__("units", "gradians"), "units 'gradians'"),
        (lambda d: d["transformations/two_theta"].attrs.__setitem__("transformation_type", "general"), "neither rotation nor"),
        (lambda d: d["transformations/two_theta"].attrs.__delitem__("vector"), "no vector of three numbers"),
        (lambda d: d["distance"].attrs.__setitem__("units", "furlong"), "units 'furlong'"),
    ],
)
def test_a_broken_chain_or_unit_is_named(tmp_path: Path, break_it: Any, said: str) -> None:
    write_nxmx(tmp_path / "x.nxs", frames(1))
    with h5py.File(tmp_path / "x.nxs", "r+") as file:
        break_it(file["entry/instrument/detector"])
    run = resolved(nexus_header(tmp_path / "x.nxs"))
    assert run.geometry is None
    assert said in str(run.geometry_problem)


@pytest.mark.parametrize(("off_px", "is_flat"), [(0.4, True), (30.0, False)])
def test_modules_off_the_first_ones_plane_make_no_flat_detector(tmp_path: Path, off_px: float, is_flat: bool) -> None:
    write_nxmx(tmp_path / "x.nxs", frames(1))
    with h5py.File(tmp_path / "x.nxs", "r+") as file:
        detector = file["entry/instrument/detector"]
        detector.copy("module", "module_2")
        detector["module_2/data_origin"][()] = [32, 0]
        corner = np.array([42.5, 30.25 - 32, 0.0]) * 7.5e-5
        corner[2] = off_px * 7.5e-5
        detector["module_2/module_offset"][()] = np.linalg.norm(corner)
        detector["module_2/module_offset"].attrs["vector"] = corner / np.linalg.norm(corner)
    run = resolved(nexus_header(tmp_path / "x.nxs"))
    assert (run.geometry is not None) == is_flat
    assert is_flat or "flat plane" in str(run.geometry_problem)


def eiger(path: Path, change: Any) -> RunHeader:
    """The header of a file with DECTRIS's plain fields, changed."""
    with h5py.File(path, "w") as file:
        change(write_header(file, n_images=1))
        file["entry/data/data"] = frames(1)
    return nexus_header(path)


def put(detector: h5py.Group, name: str, value: Any, units: str | None = None) -> None:
    if name in detector:
        del detector[name]
    quantity(detector, name, value, units)


@pytest.mark.parametrize(
    ("change", "wavelength_A"),
    [
        (lambda d: put(d.file["entry/instrument/beam"], "incident_wavelength", np.float32(0.0), "angstrom"), None),
        (lambda d: put(d.file["entry/instrument/beam"], "incident_wavelength", [0.09, 0.09], "nm"), 0.9),
    ],
)
def test_the_wavelength_of_the_beam(tmp_path: Path, change: Any, wavelength_A: float | None) -> None:
    assert eiger(tmp_path / "x.h5", change).stated.wavelength_A == (None if wavelength_A is None else pytest.approx(wavelength_A))


def test_the_wavelength_comes_from_the_photon_energy_where_nothing_else_says_it(tmp_path: Path) -> None:
    """12.398 keV is 1 A."""

    def change(detector: h5py.Group) -> None:
        del detector.file["entry/instrument/beam"]
        quantity(detector["detectorSpecific"], "photon_energy", np.float32(12398.42), "eV")

    assert eiger(tmp_path / "x.h5", change).stated.wavelength_A == pytest.approx(1.0, rel=1e-6)


def test_a_monochromators_energy_gives_the_wavelength(tmp_path: Path) -> None:
    def change(detector: h5py.Group) -> None:
        del detector.file["entry/instrument/beam"]
        quantity(nx(detector.parent, "mono", "NXmonochromator"), "energy", 24.79684, "keV")

    assert eiger(tmp_path / "x.h5", change).stated.wavelength_A == pytest.approx(0.5, rel=1e-6)


def test_a_beam_centre_in_lengths_is_converted_to_pixels(tmp_path: Path) -> None:
    def change(detector: h5py.Group) -> None:
        put(detector, "beam_center_x", 3.0, "mm")
        put(detector, "beam_center_y", 0.0015, "m")

    assert eiger(tmp_path / "x.h5", change).stated.beam_px == pytest.approx((20.0, 40.0))


def test_a_two_theta_without_an_axis_is_refused(tmp_path: Path) -> None:
    header = eiger(tmp_path / "x.h5", lambda d: quantity(nx(d, "goniometer", "NXtransformations"), "two_theta", [12.0], "degree"))
    assert "12 deg in two-theta" in str(resolved(header).geometry_problem)


def test_a_still_has_no_kind(tmp_path: Path) -> None:
    header = eiger(tmp_path / "x.h5", lambda d: put(d.file["entry/sample/goniometer"], "omega_increment", 0.0, "degree"))
    assert (header.kind, header.omega_start_deg, header.omega_step_deg) == (None, 20.0, 0.0)


def test_the_rotation_axis_is_turned_by_what_it_stands_on(tmp_path: Path) -> None:
    """phi about (1, 0, 0) on a chi of 90 deg about z turns about y (right-handed)."""
    write_nxmx(tmp_path / "x.nxs", frames(3))
    with h5py.File(tmp_path / "x.nxs", "r+") as file:
        axes = file["entry/sample/transformations"]
        rotation = {"transformation_type": "rotation"}
        quantity(axes, "chi", np.float64([90.0]), "deg", **rotation, vector=[0.0, 0.0, 1.0], depends_on=".")
        axes["gonio_omega"].attrs["vector"] = [1.0, 0.0, 0.0]
        axes["gonio_omega"].attrs["depends_on"] = "/entry/sample/transformations/chi"
    assert nexus_header(tmp_path / "x.nxs").rotation_axis == pytest.approx((0.0, 1.0, 0.0), abs=1e-12)
    with h5py.File(tmp_path / "x.nxs", "r+") as file:
        del file["entry/sample/transformations/gonio_omega"].attrs["vector"]
    header = nexus_header(tmp_path / "x.nxs")
    assert (header.rotation_axis, header.omega_step_deg) == (None, pytest.approx(0.2))


def test_signed_frames_of_a_photon_counter_have_no_valid_negatives(tmp_path: Path) -> None:
    write_data_file(tmp_path / "x.h5", frames(1, dtype="int32"))
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        detector = nx(nx(file["entry"], "instrument", "NXinstrument"), "detector", "NXdetector")
        quantity(detector, "description", "JUNGFRAU 4M")
    jungfrau = resolved(nexus_header(tmp_path / "x.h5"))
    assert jungfrau.valid_range(np.dtype("int32"))[0] == -(2**31) + 1
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        put(file["entry/instrument/detector"], "description", "Dectris EIGER2 4M")
    assert resolved(nexus_header(tmp_path / "x.h5")).valid_range(np.dtype("int32"))[0] == 0


# CBF and other images


def cbf_header(tmp_path: Path, **options: Any) -> RunHeader:
    path = tmp_path / "x.cbf"
    path.write_bytes(cbf_bytes(frames(1, dtype="int32")[0], **options))
    return images.read_header(path, "x.cbf")


def test_pilatus_lines(tmp_path: Path) -> None:
    header = cbf_header(tmp_path, start=12.5, step=0.2)
    assert (header.detector, header.shape_px) == ("PILATUS 300K, S/N 3-0000", SHAPE)
    assert header.stated == StatedGeometry(
        wavelength_A=0.9795, distance_mm=200.0, pixel_mm=(pytest.approx(0.172), pytest.approx(0.172)), beam_px=(31.25, 40.5)
    )
    assert (header.omega_start_deg, header.omega_step_deg, header.kind) == (12.5, 0.2, RunKind.ROTATION)
    assert (header.exposure_s, header.saturation_value, header.negative_is_no_data) == (0.05, 1e6, True)


@pytest.mark.parametrize(
    ("line", "axis"),
    [
        ("# Oscillation_axis X.CW\n", (1.0, 0.0, 0.0)),
        ("# Oscillation_axis  X, CW\n", (1.0, 0.0, 0.0)),
        ("# Oscillation_axis omega\n", None),
        ("", None),
    ],
)
def test_the_oscillation_axis_of_pilatus_lines(tmp_path: Path, line: str, axis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("file_writers.PILATUS_LINES", PILATUS_LINES + line)
    assert cbf_header(tmp_path).rotation_axis == axis


def test_a_swing_without_axis_tables_is_refused(tmp_path: Path) -> None:
    run = resolved(cbf_header(tmp_path, two_theta=20.0), distance_mm=200.0, beam_px=(31.0, 40.0))
    assert run.geometry is None  # overriding the rest does not tell the axis
    assert "20 deg in two-theta" in str(run.geometry_problem)


def test_broken_axis_tables_are_named(tmp_path: Path) -> None:
    tables = "loop_\r\n_axis.id\r\n_axis.vector[1]\r\nA\r\nloop_\r\n_array_structure_list_axis.axis_id\r\n"
    run = resolved(cbf_header(tmp_path, tables=tables))
    assert run.geometry is None
    assert "axis tables" in str(run.geometry_problem)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"\x0c\x1a\x04\xd5", b"", "no binary section"),
        (b"x-CBF_BYTE_OFFSET", b"x-CBF_PACKED", "not packed as x-CBF_BYTE_OFFSET"),
        (b"Fastest-Dimension: 80", b"Fastest-Dimension: 9999999999", "not plausible"),
        (b"Second-Dimension: 64", b"Second-Dimension: six", "states no X-Binary-Size"),
        (b"signed 32-bit integer", b"quaternion", "unknown X-Binary-Element-Type"),
    ],
)
def test_a_bad_cbf_header_is_refused_by_name(old: bytes, new: bytes, said: str) -> None:
    content = cbf_bytes(frames(1, dtype="int32")[0]).replace(old, new)
    with pytest.raises(SourceError, match=said):
        cbf.parse_header(content, "x.cbf")


@given(st.integers(0, 6000), st.integers(1, 255))
def test_no_damage_to_a_cbf_file_goes_unnoticed_in_its_pixels(at: int, change: int) -> None:
    """Whatever byte is changed: the right pixels, or a named error; never wrong pixels, since the header has their checksum."""
    pixels = frames(1, dtype="int32")[0]
    content = bytearray(cbf_bytes(pixels))
    start = content.find(b"\x0c\x1a\x04\xd5")
    content[start + at % (len(content) - start)] ^= change
    try:
        read = cbf.parse_pixels(bytes(content), "x.cbf")
    except (FrameError, SourceError):
        return
    np.testing.assert_array_equal(read, pixels)


def test_adsc_header(tmp_path: Path) -> None:
    fields = {"PIXEL_SIZE": "0.1", "DISTANCE": "150", "WAVELENGTH": "0.98", "BEAM_CENTER_X": "3", "BEAM_CENTER_Y": "4", "OSC_RANGE": "1.0"}
    fields |= {"OSC_START": "30", "TIME": "2", "IMAGE_PEDESTAL": "40", "CCD_IMAGE_SATURATION": "65535"}
    fabio.dtrekimage.DtrekImage(data=frames(1)[0], header=fields).write(str(tmp_path / "a_001.img"))
    header = images.read_header(tmp_path / "a_001.img", "a_001.img")
    assert header.stated == StatedGeometry(
        wavelength_A=0.98, distance_mm=150.0, pixel_mm=(0.1, 0.1), beam_px=(pytest.approx(30), pytest.approx(40))
    )
    assert (header.offset, header.omega_start_deg, header.omega_step_deg, header.kind) == (40.0, 30.0, 1.0, RunKind.ROTATION)
    assert not header.negative_is_no_data


def marccd(path: Path, beam: tuple[int, int], bias: int = 0) -> RunHeader:
    """A marCCD file: a TIFF whose first 4096 bytes hold its header (offsets as DIALS's FormatTIFFRayonix reads them)."""
    fabio.tifimage.TifImage(data=frames(1)[0]).write(str(path.with_suffix(".tif")))
    tif = path.with_suffix(".tif").read_bytes()
    ifd = struct.unpack_from("<I", tif, 4)[0]
    content = bytearray(4096 + len(tif))
    content[:8] = struct.pack("<2sHI", b"II", 42, 8)
    n = struct.unpack_from("<H", tif, ifd)[0]
    entries = bytearray(tif[ifd : ifd + 2 + 12 * n + 4])
    for i in range(n):  # what points into the file moves by 4096
        tag, kind, count, value = struct.unpack_from("<HHII", entries, 2 + 12 * i)
        size = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8}.get(kind, 4) * count
        if tag == 273 or size > 4:
            struct.pack_into("<I", entries, 2 + 12 * i + 8, value + 4096)
    content[8 : 8 + len(entries)] = entries
    content[4096:] = tif
    put_int = {1024 + 80: SHAPE[1], 1024 + 84: SHAPE[0], 1664: 150_000, 1668: beam[0], 1672: beam[1]}
    put_int |= {1680: 2_000, 1708: 30_000, 1760: 1_000, 1796: 73_242, 1800: 73_242, 1804: bias, 1932: 98_000}
    for offset, value in put_int.items():
        struct.pack_into("<i", content, offset, value)
    path.write_bytes(content)
    return images.read_header(path, path.name)


def test_marccd_header_has_an_offset_and_valid_negatives(tmp_path: Path) -> None:
    header = marccd(tmp_path / "a_001.mccd", (41_000, 30_500))
    assert header.stated == StatedGeometry(
        wavelength_A=pytest.approx(0.98),
        distance_mm=150.0,
        pixel_mm=(pytest.approx(0.073242), pytest.approx(0.073242)),
        beam_px=(30.5, 41.0),
    )
    assert (header.offset, header.negative_is_no_data) == (10.0, False)
    assert (header.omega_start_deg, header.omega_step_deg, header.kind, header.exposure_s) == (30.0, 1.0, RunKind.ROTATION, 2.0)
    assert marccd(tmp_path / "b_001.mccd", (41_000, 30_500), bias=12_500).offset == 12.5
    np.testing.assert_array_equal(images.read_pixels(tmp_path / "a_001.mccd"), frames(1)[0])


def test_marccd_beam_centres_in_either_unit_and_none_that_is_ambiguous(tmp_path: Path) -> None:
    in_um = marccd(tmp_path / "a.mccd", (int(41 * 73.242), int(30.5 * 73.242))).stated.beam_px
    assert in_um == pytest.approx((30.5, 41.0), abs=0.02)
    assert marccd(tmp_path / "b.mccd", (1_000, 1_000)).stated.beam_px is None


# real files


def real(fixtures_dir: Path, name: str) -> RunHeader:
    return images.read_header(fixtures_dir / "real" / name, name)


@pytest.mark.fixtures
@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_real_cbf_files_have_the_geometry_that_dxtbx_reads(fixtures_dir: Path, name: str) -> None:
    """For omega_scan.cbf dxtbx believes the axis tables; we read them alike, and refuse the contradiction (next test)."""
    golden, header = GOLDEN[name], real(fixtures_dir, name)
    geometry = replace(header.stated).resolve(tuple(golden["shape_px"]))
    np.testing.assert_allclose(geometry.resolution_A(golden["positions_px"]), golden["resolution_A"], rtol=1e-6)
    assert geometry.beam_px == pytest.approx(tuple(golden["beam_px"]), abs=1e-3)
    assert geometry.distance_mm == pytest.approx(golden["distance_mm"])
    assert geometry.wavelength_A == pytest.approx(golden["wavelength_A"])
    np.testing.assert_allclose(geometry.fast_axis, golden["fast_axis"], atol=1e-6)
    np.testing.assert_allclose(geometry.slow_axis, golden["slow_axis"], atol=1e-6)
    assert header.shape_px == tuple(golden["shape_px"])
    assert abs(float(header.omega_step_deg or 0)) == pytest.approx(golden["oscillation_deg"][1])
    assert header.rotation_axis is not None
    np.testing.assert_allclose(header.rotation_axis, golden["rotation_axis"], atol=1e-9)
    assert header.saturation_value == pytest.approx(golden["overload"])
    assert header.exposure_s == pytest.approx(golden["exposure_s"], rel=0.02)  # dxtbx takes run2's Exposure_period


@pytest.mark.fixtures
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("omega_scan.cbf", "its fields say 100.00 mm, beam centre 2000.0, 2000.0 px"),
        ("DLS_I23_P12M_thau_00001.cbf.gz", "PILATUS 12M, S/N 120-0100 is not flat"),
    ],
)
def test_real_files_whose_geometry_must_not_be_used(fixtures_dir: Path, name: str, said: str) -> None:
    run = resolved(real(fixtures_dir, name))
    assert run.geometry is None
    assert said in str(run.geometry_problem)


@pytest.mark.fixtures
def test_overriding_does_not_make_a_cylinder_flat(fixtures_dir: Path) -> None:
    header = real(fixtures_dir, "DLS_I23_P12M_thau_00001.cbf.gz")
    assert resolved(header, distance_mm=250.0, beam_px=(2535.0, 1231.0)).geometry is None
    mended = resolved(real(fixtures_dir, "omega_scan.cbf"), distance_mm=105.0, beam_px=(326.0, 244.0))
    assert mended.geometry is not None
    assert "distance_mm" in mended.geometry_source


@pytest.mark.fixtures
@pytest.mark.parametrize(
    ("name", "data_file", "shape", "beam_px", "distance_mm", "omega"),
    [
        ("dectris_eiger", "dectris_eiger_data_000001.h5", (3269, 3110), (1586.43, 1607.41), 134.255, (0.0, 0.5)),
        ("example_1", "example_1_data_000001.h5", (3262, 3108), (1635.18, 1517.65), 210.00875, (-30.0, 2.0)),
    ],
)
def test_real_masters_are_refused_without_their_data_and_read_with_it(
    fixtures_dir: Path, tmp_path: Path, name: str, data_file: str, shape: tuple[int, int], beam_px: Any, distance_mm: float, omega: Any
) -> None:
    """Expected: the numbers in the header's own fields, as h5dump shows them."""
    master = fixtures_dir / "real" / f"{name}_master.h5"
    with pytest.raises(SourceError, match=rf"{name}_master\.h5: its data file {data_file} is missing"):
        nexus.stored_frames(master)
    copy = tmp_path / master.name
    copy.symlink_to(master)  # links are looked for beside the link as well
    write_data_file(tmp_path / data_file, np.zeros((1, *shape), "uint16"))
    header = nexus_header(copy)
    geometry = resolved(header).geometry
    assert geometry is not None
    assert geometry.beam_px == pytest.approx(beam_px, abs=0.01)
    assert geometry.distance_mm == pytest.approx(distance_mm, rel=1e-5)
    assert (header.omega_start_deg, header.omega_step_deg) == omega
    assert header.kind is RunKind.ROTATION


@pytest.mark.fixtures
def test_all_real_files_at_once(fixtures_dir: Path) -> None:
    """The acceptance command: frames of every CBF and of the bare file, one line for each of the two masters."""
    paths = sorted(str(path) for path in (fixtures_dir / "real").iterdir())
    events: list[Event] = list(FileSource(paths, resolver=RunResolver(), group="file", follow=True))
    ends = [event for event in events if isinstance(event, RunEnd)]
    refused = {Path(end.run.header.source).name: end.reason for end in ends if not end.complete}
    assert set(refused) == {"dectris_eiger_master.h5", "example_1_master.h5"}
    assert all("is missing" in str(reason) for reason in refused.values())
    assert sum(isinstance(event, Frame) for event in events) == 20 + 7
    bare = [event for event in events if isinstance(event, Frame) and event.run.id.startswith("ANSTO")]
    assert len(bare) == 20
    assert bare[7].decode().shape == (1062, 1028)
    assert bare[7].run.geometry is None


def test_mini_headers_of_other_writers() -> None:
    mini = imgcif.parse_mini(
        "# Detector: X\n# Pixel_size 75e-6 m x 100e-6 m\n# Detector_distance = 214.5 mm\n# Beam_xy: (10, 20.5) pixels\n"
    )
    assert mini.pixel_mm == (pytest.approx(0.1), pytest.approx(0.075))
    assert (mini.distance_mm, mini.beam_px, mini.wavelength_A) == (214.5, (20.5, 10.0), None)
