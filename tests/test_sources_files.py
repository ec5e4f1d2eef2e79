"""FileSource over small files of every layout, healthy, damaged, missing and growing."""

from __future__ import annotations

import bz2
import gzip
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fabio.edfimage
import fabio.tifimage
import h5py
import hdf5plugin
import numpy as np
import pytest
from file_writers import SHAPE, frames, write_cbf_series, write_data_file, write_header, write_master, write_nxmx

from triage.core import Event, Frame, FrameError, Pixels, Run, RunEnd, RunKind
from triage.geometry import StatedGeometry
from triage.sources.files import FileSource
from triage.sources.naming import run_name, template
from triage.sources.resolve import Overrides, RunResolver


@dataclass
class Told:
    """One run as a source told it."""

    run: Run
    frames: list[Frame] = field(default_factory=list)
    end: RunEnd | None = None

    @property
    def firsts(self) -> list[int | str]:
        """The first pixel of every frame, or `error`."""
        return [_first(frame) for frame in self.frames]


def _first(frame: Frame) -> int | str:
    try:
        return int(frame.decode()[0, 0])
    except FrameError:
        return "error"


def told(events: Iterable[Event]) -> list[Told]:
    """Runs with what belongs to them; checks that runs do not interleave and that every run ends once."""
    runs: list[Told] = []
    for event in events:
        if isinstance(event, Run):
            assert not runs or runs[-1].end is not None
            runs.append(Told(event))
            continue
        assert event.run is runs[-1].run
        assert runs[-1].end is None
        if isinstance(event, Frame):
            runs[-1].frames.append(event)
        elif isinstance(event, RunEnd):
            runs[-1].end = event
    assert all(run.end is not None for run in runs)
    return runs


def read(*paths: str | Path, **options: Any) -> list[Told]:
    resolver = RunResolver(options.pop("overrides", None))
    return told(FileSource(paths, resolver=resolver, **options))


def end_of(run: Told) -> RunEnd:
    assert run.end is not None
    return run.end


# masters, bare files, virtual datasets


def test_a_master_with_two_data_files_is_one_run_in_order(tmp_path: Path) -> None:
    pixels = frames(7)
    mask = np.zeros(SHAPE, dtype=np.uint32)
    mask[3, 5] = 8
    write_data_file(tmp_path / "x_data_000001.h5", pixels[:4], first_image=1)
    write_data_file(tmp_path / "x_data_000002.h5", pixels[4:], first_image=5)
    write_master(tmp_path / "x_master.h5", ["x_data_000001.h5", "x_data_000002.h5"], n_images=7, mask=mask)
    (run,) = read(tmp_path / "x_master.h5")
    assert [frame.index for frame in run.frames] == list(range(7))
    np.testing.assert_array_equal([frame.decode() for frame in run.frames], pixels)
    assert end_of(run).complete
    assert {frame.file for frame in run.frames} == {str(tmp_path / "x_master.h5")}
    header, geometry = run.run.header, run.run.geometry
    assert (run.run.id, run.run.kind, header.frames_expected) == ("x", RunKind.ROTATION, 7)
    assert (header.omega_start_deg, header.omega_step_deg) == (20.0, 0.25)
    assert header.exposure_s == pytest.approx(0.01)
    assert header.saturation_value == 50000
    assert geometry is not None
    assert geometry.beam_px == (30.25, 42.5)
    assert (geometry.distance_mm, geometry.wavelength_A) == (pytest.approx(150.0), pytest.approx(0.98))
    assert geometry.pixel_mm == pytest.approx((0.075, 0.075))
    assert run.run.mask is not None
    assert np.argwhere(run.run.mask).tolist() == [[3, 5]]
    assert "pixel_mask" in run.run.mask_source


def test_a_missing_data_file_is_named_and_the_frames_of_the_other_keep_their_numbers(tmp_path: Path) -> None:
    write_data_file(tmp_path / "x_data_000002.h5", frames(3, start=4), first_image=5)
    write_master(tmp_path / "x_master.h5", ["x_data_000001.h5", "x_data_000002.h5"], n_images=7)
    (run,) = read(tmp_path / "x_master.h5")
    assert [frame.index for frame in run.frames] == [4, 5, 6]
    assert run.firsts == [4, 5, 6]
    assert not end_of(run).complete
    assert "x_data_000001.h5 is missing" in str(end_of(run).reason)
    assert run.run.header.frames_expected == 7


def test_a_master_without_any_of_its_data_costs_that_file_only(tmp_path: Path) -> None:
    write_master(tmp_path / "lost_master.h5", ["lost_data_000001.h5"], n_images=1)
    write_data_file(tmp_path / "bare.h5", frames(2))
    lost, bare = read(tmp_path / "lost_master.h5", tmp_path / "bare.h5")
    assert (lost.run.id, lost.run.kind, lost.frames) == ("lost", None, [])
    assert end_of(lost).reason == f"{tmp_path}/lost_master.h5: its data file lost_data_000001.h5 is missing; put it beside this file"
    assert end_of(bare).complete


def test_fewer_frames_than_announced_is_not_complete(tmp_path: Path) -> None:
    write_data_file(tmp_path / "x_data_000001.h5", frames(3))
    write_master(tmp_path / "x_master.h5", ["x_data_000001.h5"], n_images=10)
    (run,) = read(tmp_path / "x_master.h5")
    assert (len(run.frames), run.run.header.frames_expected, end_of(run).complete) == (3, 10, False)
    assert "3 of 10 announced frames" in str(end_of(run).reason)


def test_a_bare_data_file_has_frames_and_says_that_its_geometry_is_unknown(tmp_path: Path) -> None:
    write_data_file(tmp_path / "bare.h5", frames(5))
    (run,) = read(tmp_path / "bare.h5")
    assert run.firsts == [0, 1, 2, 3, 4]
    assert run.run.geometry is None
    assert "source.geometry.wavelength_A" in str(run.run.geometry_problem)
    assert (run.run.header.frames_expected, run.run.header.kind) == (5, None)


def test_overrides_give_a_bare_file_its_geometry(tmp_path: Path) -> None:
    write_data_file(tmp_path / "bare.h5", frames(1))
    stated = StatedGeometry(wavelength_A=1.0, distance_mm=100.0, pixel_mm=(0.075, 0.075), beam_px=(32.0, 40.0))
    (run,) = read(tmp_path / "bare.h5", overrides=Overrides(geometry=stated, kind=RunKind.SERIAL))
    assert run.run.geometry is not None
    assert run.run.geometry.beam_px == (32.0, 40.0)
    assert run.run.kind is RunKind.SERIAL


def test_a_virtual_dataset_is_read_in_its_order_from_the_files_behind_it(tmp_path: Path) -> None:
    """Two writers that take every other frame, as Odin's do: the data files' own order is wrong, the virtual dataset's is right."""
    pixels = frames(6)
    layout = h5py.VirtualLayout((6, *SHAPE), "uint16")
    for i in range(2):
        write_data_file(tmp_path / f"part_{i}.h5", pixels[i::2])
        layout[i::2] = h5py.VirtualSource(f"part_{i}.h5", "entry/data/data", (3, *SHAPE))
    with h5py.File(tmp_path / "x.nxs", "w", libver="latest") as file:
        write_header(file, n_images=6)
        data = file.create_group("entry/data")
        data.create_virtual_dataset("data", layout)
        for i in range(2):
            data[f"data_{i + 1:06d}"] = h5py.ExternalLink(f"part_{i}.h5", "/entry/data/data")
    (run,) = read(tmp_path / "x.nxs")
    assert run.firsts == [0, 1, 2, 3, 4, 5]
    assert end_of(run).complete


def test_a_virtual_dataset_of_modules_is_read_whole(tmp_path: Path) -> None:
    pixels = frames(3, shape=(64, 40))
    layout = h5py.VirtualLayout((3, 64, 80), "uint16")
    for i in range(2):
        write_data_file(tmp_path / f"module_{i}.h5", pixels + i)
        layout[:, :, 40 * i : 40 * i + 40] = h5py.VirtualSource(f"module_{i}.h5", "entry/data/data", (3, 64, 40))
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        file.create_virtual_dataset("entry/data/data", layout)
    (run,) = read(tmp_path / "x.h5")
    np.testing.assert_array_equal(run.frames[2].decode(), np.hstack([pixels[2], pixels[2] + 1]))


def test_a_virtual_dataset_with_a_missing_file_is_not_read_as_zeros(tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((3, *SHAPE), "uint16")
    layout[:] = h5py.VirtualSource("gone.h5", "entry/data/data", (3, *SHAPE))
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        file.create_virtual_dataset("entry/data/data", layout)
    (run,) = read(tmp_path / "x.h5")
    assert not run.frames
    assert "gone.h5 is missing" in str(end_of(run).reason)


def test_a_preallocated_dataset_that_was_never_filled_ends_early(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("entry/data/data", (9, *SHAPE), "uint16", chunks=(1, *SHAPE), **hdf5plugin.Bitshuffle(cname="lz4"))
        data[:4] = frames(4)
        data[6] = 3  # 4 and 5 were lost on the way
    (run,) = read(tmp_path / "x.h5")
    assert run.firsts == [0, 1, 2, 3, "error", "error", 3]
    assert "7 of 9 announced frames" in str(end_of(run).reason)
    with pytest.raises(FrameError, match="frame 4: the file has no data for this frame"):
        run.frames[4].decode()


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (1, *SHAPE)},
        {"chunks": (1, *SHAPE), "compression": "gzip"},
        {"chunks": (2, *SHAPE), **hdf5plugin.Bitshuffle(cname="lz4")},
        {"chunks": (1, 32, 40), **hdf5plugin.Bitshuffle(cname="lz4")},
        {"chunks": (1, *SHAPE), **hdf5plugin.Bitshuffle(cname="zstd")},
        {"chunks": (1, *SHAPE), **hdf5plugin.LZ4()},
        {"chunks": (1, *SHAPE), "shuffle": True, **hdf5plugin.Bitshuffle(cname="lz4")},
    ],
    ids=["plain", "gzip", "two frames a chunk", "tiles", "bitshuffle-zstd", "lz4", "two filters"],
)
@pytest.mark.parametrize("dtype", ["uint16", ">u4", "int32", "float32"])
def test_every_filter_and_type_gives_the_frames_that_were_written(tmp_path: Path, options: dict[str, Any], dtype: str) -> None:
    pixels = frames(3, dtype=dtype)
    write_data_file(tmp_path / "x.h5", pixels, **options)
    (run,) = read(tmp_path / "x.h5")
    np.testing.assert_array_equal([frame.decode() for frame in run.frames], pixels)
    assert run.frames[0].decode().dtype == np.dtype(dtype).newbyteorder("=")


def test_bslz4_chunks_are_not_read_by_hdf5_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data_file(tmp_path / "x.h5", frames(2))
    (run,) = read(tmp_path / "x.h5")
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda *_: pytest.fail("h5py's own read in the hot path"))
    assert run.firsts == [0, 1]


def test_frames_are_decoded_from_several_threads_after_the_iteration_is_over(tmp_path: Path) -> None:
    pixels = frames(40)
    links = [f"x_data_{i:06d}.h5" for i in range(1, 21)]  # more files than are kept open
    for i, link in enumerate(links):
        write_data_file(tmp_path / link, pixels[2 * i : 2 * i + 2])
    write_master(tmp_path / "x_master.h5", links, n_images=40)
    (run,) = read(tmp_path / "x_master.h5")
    with ThreadPoolExecutor(4) as pool:
        decoded: list[Pixels] = list(pool.map(lambda frame: frame.decode(), run.frames * 3))
    np.testing.assert_array_equal(decoded, np.concatenate([pixels] * 3))


def test_a_damaged_chunk_costs_one_frame(tmp_path: Path) -> None:
    write_data_file(tmp_path / "x.h5", frames(3))
    with h5py.File(tmp_path / "x.h5") as file:
        chunk = file["entry/data/data"].id.get_chunk_info_by_coord((1, 0, 0))
        offset, size = chunk.byte_offset, chunk.size
    content = bytearray((tmp_path / "x.h5").read_bytes())
    content[offset + 12 : offset + size] = b"\xff" * (size - 12)
    (tmp_path / "x.h5").write_bytes(content)
    (run,) = read(tmp_path / "x.h5")
    assert run.firsts == [0, "error", 2]
    assert end_of(run).complete


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b""), "not an HDF5 file"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\nbut no more"), "not an HDF5 file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: h5py.File(path, "w").close(), "it has no frames"),
        (lambda path: write_data_file(path, np.zeros((2, 3, 4, 5), "uint16"), chunks=True), "must be assembled"),
        (lambda path: write_data_file(path, np.array([[b"a"]])[:, :, None], chunks=True), "not pixels"),
    ],
    ids=["absent", "empty", "cut", "folder", "no data", "four dimensions", "text"],
)
def test_a_bad_hdf5_file_costs_that_file_in_one_line(tmp_path: Path, make: Any, said: str) -> None:
    make(tmp_path / "bad.h5")
    write_data_file(tmp_path / "good.h5", frames(1))
    for follow in (False, True):
        bad, good = read(tmp_path / "bad.h5", tmp_path / "good.h5", follow=follow, follow_timeout_s=0.0)
        assert (bad.run.kind, bad.run.header.source, bad.frames) == (None, str(tmp_path / "bad.h5"), [])
        reason = str(end_of(bad).reason)
        assert said in reason
        assert "bad.h5" in reason
        assert "\n" not in reason
        assert end_of(good).complete


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["entry/data/data"] = h5py.ExternalLink("x.h5", "/entry/data/data")
    (run,) = read(tmp_path / "x.h5")
    assert "circle" in str(end_of(run).reason)


def test_a_mask_of_another_shape_is_not_used_and_a_configured_one_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_data_file(tmp_path / "x_data_000001.h5", frames(1))
    write_master(tmp_path / "x_master.h5", ["x_data_000001.h5"], mask=np.ones((5, 5), np.uint8))
    (run,) = read(tmp_path / "x_master.h5")
    assert run.run.mask is None
    assert "does not fit" in run.run.mask_source
    assert "not used" in caplog.text
    (run,) = read(tmp_path / "x_master.h5", overrides=Overrides(mask=np.ones((5, 5), np.bool_), mask_source="m.npy"))
    assert "source.mask" in str(end_of(run).reason)


# images


def test_images_of_one_series_form_one_run_in_natural_order(tmp_path: Path) -> None:
    paths = write_cbf_series(tmp_path, [10, 2, 1, 11, 9])
    (run,) = read(*paths)
    assert run.firsts == [1, 2, 9, 10, 11]
    assert [frame.index for frame in run.frames] == [0, 1, 2, 3, 4]
    assert [Path(str(frame.file)).name for frame in run.frames] == [f"frame_{n}.cbf" for n in (1, 2, 9, 10, 11)]
    assert (run.run.id, run.run.kind, run.run.header.frames_expected) == ("frame", RunKind.ROTATION, 5)
    assert run.run.geometry is not None
    assert (run.run.geometry.distance_mm, run.run.geometry.beam_px) == (pytest.approx(200.0), (31.25, 40.5))
    assert run.run.valid_range(np.dtype(np.int32))[0] == 0


def test_each_image_is_its_own_run_where_asked(tmp_path: Path) -> None:
    runs = read(*write_cbf_series(tmp_path, [2, 1]), group="file")
    assert [(run.run.id, run.firsts) for run in runs] == [("frame_2", [2]), ("frame_1", [1])]


def test_series_are_told_apart_by_folder_template_and_geometry(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one = write_cbf_series(tmp_path, [1, 2])
    two = write_cbf_series(tmp_path, [3, 4], distance=0.4)
    three = write_cbf_series(tmp_path, [1], name="grid_{}.cbf", step=0.0)
    four = write_cbf_series(tmp_path / "other", [1])
    runs = read(*(one[:1] + three + four + two + one[1:]))
    assert [(run.run.id, run.firsts) for run in runs] == [("frame", [1, 2]), ("frame-2", [3, 4]), ("grid", [1]), ("frame-3", [1])]
    assert runs[1].run.geometry is not None
    assert runs[1].run.geometry.distance_mm == pytest.approx(400.0)
    assert runs[2].run.header.kind is None


def test_a_geometry_that_changes_and_comes_back_within_a_series_costs_those_frames(tmp_path: Path) -> None:
    paths = write_cbf_series(tmp_path, [1, 2, 4, 5]) + write_cbf_series(tmp_path, [3], distance=0.5)
    (run,) = read(*paths)
    assert run.firsts == [1, 2, "error", 4, 5]
    with pytest.raises(FrameError, match=r"frame_3\.cbf: its header states another geometry"):
        run.frames[2].decode()


def test_a_damaged_file_in_a_series_costs_one_frame_and_a_missing_one_itself(tmp_path: Path) -> None:
    paths = write_cbf_series(tmp_path, [1, 2, 3, 4, 5])
    cut, garbled = Path(paths[1]), Path(paths[3])
    cut.write_bytes(cut.read_bytes()[:600])
    content = bytearray(garbled.read_bytes())
    content[content.find(b"\x0c\x1a\x04\xd5") + 300] ^= 0xFF
    garbled.write_bytes(content)
    absent = str(tmp_path / "frame_6.cbf")
    runs = {run.run.id: run for run in read(*paths, absent)}
    assert runs["frame"].firsts == [1, "error", 3, "error", 5]
    assert end_of(runs["frame"]).complete
    assert end_of(runs["frame_6"]).reason == f"{absent}: no such file"
    with pytest.raises(FrameError, match=r"frame_4\.cbf: damaged: .*checksum"):
        runs["frame"].frames[3].decode()


def test_a_frame_of_another_shape_costs_that_frame(tmp_path: Path) -> None:
    for i in (1, 2, 3):
        shape = SHAPE if i != 2 else (10, 10)
        fabio.edfimage.EdfImage(data=frames(1, start=i, dtype="int32", shape=shape)[0]).write(str(tmp_path / f"x_{i}.edf"))
    (run,) = read(*(tmp_path / f"x_{i}.edf" for i in (1, 2, 3)))
    assert run.firsts == [1, "error", 3]


def test_compressed_cbf_files_are_read(tmp_path: Path) -> None:
    (plain,) = write_cbf_series(tmp_path, [7])
    content = Path(plain).read_bytes()
    (tmp_path / "z_1.cbf.gz").write_bytes(gzip.compress(content))
    (tmp_path / "b_1.cbf.bz2").write_bytes(bz2.compress(content))
    (tmp_path / "cut_1.cbf.gz").write_bytes(gzip.compress(content)[:900])
    packed, zipped, cut = read(tmp_path / "b_1.cbf.bz2", tmp_path / "z_1.cbf.gz", tmp_path / "cut_1.cbf.gz")
    assert (packed.firsts, zipped.firsts) == ([7], [7])
    assert not cut.frames
    assert "cut_1.cbf.gz: cannot be read" in str(end_of(cut).reason)


def test_other_formats_are_read_and_damaged_ones_named(tmp_path: Path) -> None:
    pixels = frames(1, start=9)[0]
    fabio.tifimage.TifImage(data=pixels).write(str(tmp_path / "a.tif"))
    fabio.edfimage.EdfImage(data=pixels.astype("float32")).write(str(tmp_path / "a.edf"))
    (tmp_path / "cut.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:700])
    (tmp_path / "notes.txt").write_text("no image")
    tif, edf, cut, notes = read(*(tmp_path / name for name in ("a.tif", "a.edf", "cut.tif", "notes.txt")))
    assert (tif.firsts, edf.firsts) == ([9], [9])
    assert tif.run.geometry is None
    assert "source.geometry" in str(tif.run.geometry_problem)
    assert not cut.frames
    assert end_of(cut).reason == f"{tmp_path}/cut.tif: cut short or damaged"
    assert "notes.txt: not an image that fabio reads" in str(end_of(notes).reason)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/run2_1_00148.cbf.bz2", ("a/run2_1_#.cbf.bz2", 148)),
        ("a/run2_1_00148.cbf", ("a/run2_1_#.cbf", 148)),
        ("ximg2700_00001.cbf", ("ximg2700_#.cbf", 1)),
        ("xtal.0012", ("xtal.#", 12)),
        ("lyso_001.mar2300", ("lyso_#.mar2300", 1)),
        ("frame12b.tif", ("frame#b.tif", 12)),
        ("omega_scan.cbf", ("omega_scan.cbf", None)),
        ("0007.cbf.gz", ("#.cbf.gz", 7)),
    ],
)
def test_templates_of_file_names(path: str, expected: tuple[str, int | None]) -> None:
    assert template(Path(path)) == expected


def test_run_names() -> None:
    assert run_name("a/run2_1_00148.cbf.bz2", is_series=True) == "run2_1"
    assert run_name("a/run2_1_00148.cbf.bz2", is_series=False) == "run2_1_00148"
    assert run_name("thau_2_master.h5", is_series=False) == "thau_2"
    assert run_name("night/0007.cbf", is_series=True) == "night"
    assert run_name("omega_scan.cbf", is_series=True) == "omega_scan"


# stopping and following


def test_stop_ends_the_open_run_and_begins_no_other(tmp_path: Path) -> None:
    write_data_file(tmp_path / "x.h5", frames(9))
    source = FileSource([tmp_path / "x.h5", tmp_path / "y.h5"], resolver=RunResolver())
    events = []
    for event in source:
        events.append(event)
        if isinstance(event, Frame) and event.index == 3:
            source.stop()
    (run,) = told(events)
    assert (len(run.frames), end_of(run).complete, end_of(run).reason) == (4, False, "stopped")


def test_stop_wakes_a_source_that_waits_for_a_file_to_grow(tmp_path: Path) -> None:
    write_data_file(tmp_path / "x_data_000001.h5", frames(2))
    write_master(tmp_path / "x_master.h5", ["x_data_000001.h5"], n_images=5)
    source = FileSource([tmp_path / "x_master.h5"], resolver=RunResolver(), follow=True, follow_timeout_s=60.0)
    timer = threading.Timer(0.3, source.stop)
    timer.start()
    (run,) = told(source)
    timer.join()
    assert (run.firsts, end_of(run).reason) == ([0, 1], "stopped")


def test_a_file_that_nobody_writes_any_more_is_not_waited_for(tmp_path: Path) -> None:
    write_data_file(tmp_path / "x.h5", frames(2), chunks=(1, *SHAPE), maxshape=(None, *SHAPE))
    an_hour_ago = time.time() - 3600
    os.utime(tmp_path / "x.h5", (an_hour_ago, an_hour_ago))
    began = time.monotonic()
    (run,) = read(tmp_path / "x.h5", follow=True, follow_timeout_s=60.0)
    assert time.monotonic() - began < 10
    assert run.firsts == [0, 1]
    assert end_of(run).complete


def test_data_files_that_appear_one_after_another_are_followed(tmp_path: Path) -> None:
    pixels = frames(6)
    write_master(tmp_path / "x_master.h5", [f"x_data_{i:06d}.h5" for i in (1, 2, 3)], n_images=6)

    def write() -> None:
        for i in range(3):
            time.sleep(0.15)
            write_data_file(tmp_path / "part", pixels[2 * i : 2 * i + 2], first_image=2 * i + 1)
            (tmp_path / "part").rename(tmp_path / f"x_data_{i + 1:06d}.h5")

    writer = threading.Thread(target=write)
    writer.start()
    (run,) = read(tmp_path / "x_master.h5", follow=True, follow_timeout_s=20.0)
    writer.join()
    assert [frame.index for frame in run.frames] == [0, 1, 2, 3, 4, 5]
    assert run.firsts == [0, 1, 2, 3, 4, 5]
    assert end_of(run).complete


def test_following_gives_up_on_a_data_file_that_never_comes(tmp_path: Path) -> None:
    write_data_file(tmp_path / "x_data_000001.h5", frames(2), first_image=1)
    write_data_file(tmp_path / "x_data_000003.h5", frames(2, start=4), first_image=5)
    write_master(tmp_path / "x_master.h5", [f"x_data_{i:06d}.h5" for i in (1, 2, 3)], n_images=6)
    (run,) = read(tmp_path / "x_master.h5", follow=True, follow_timeout_s=0.3)
    assert [frame.index for frame in run.frames] == [0, 1, 4, 5]
    assert run.firsts == [0, 1, 4, 5]
    assert "x_data_000002.h5 is missing" in str(end_of(run).reason)


SWMR_WRITER = """
import sys, time
import h5py, hdf5plugin, numpy as np
path, n, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
with h5py.File(path, "w", libver="latest") as file:
    data = file.create_dataset("entry/data/data", (0, 64, 80), "uint16", maxshape=(None, 64, 80), chunks=(1, 64, 80),
                               **hdf5plugin.Bitshuffle(cname="lz4"))
    file.swmr_mode = True
    print("ready", flush=True)
    for i in range(n):
        frame = np.full((64, 80), i, "uint16")
        data.resize(i + 1, axis=0)
        data[i] = frame
        data.flush()
        time.sleep(pause)
"""


def _swmr_writer(path: Path, n: int, pause_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SWMR_WRITER, str(path), str(n), str(pause_s)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    return writer


def test_a_dataset_that_grows_under_swmr_is_followed_to_its_end(tmp_path: Path) -> None:
    with _swmr_writer(tmp_path / "live.h5", 30, 0.03) as writer:
        source = FileSource([tmp_path / "live.h5"], resolver=RunResolver(), follow=True, follow_timeout_s=1.0)
        events, firsts, during = [], [], 0
        for event in source:
            events.append(event)
            if isinstance(event, Frame):
                firsts.append(int(event.decode()[-1, -1]))  # decoded while it grows: readers and the look-out share the file
                during += writer.poll() is None
    (run,) = told(events)
    assert firsts == list(range(30))
    assert during > 5
    assert end_of(run).complete


def test_a_growing_data_file_behind_a_master_ends_with_the_announced_frames(tmp_path: Path) -> None:
    write_master(tmp_path / "x_master.h5", ["live.h5"], n_images=12)
    with _swmr_writer(tmp_path / "live.h5", 12, 0.02):
        began = time.monotonic()
        (run,) = read(tmp_path / "x_master.h5", follow=True, follow_timeout_s=50.0)
    assert time.monotonic() - began < 20
    assert [int(frame.decode()[0, 0]) for frame in run.frames] == list(range(12))
    assert end_of(run).complete


def test_a_writer_that_dies_ends_the_run_as_not_complete(tmp_path: Path) -> None:
    write_master(tmp_path / "x_master.h5", ["live.h5"], n_images=1000)
    with _swmr_writer(tmp_path / "live.h5", 1000, 0.05) as writer:
        timer = threading.Timer(0.5, writer.kill)
        timer.start()
        (run,) = read(tmp_path / "x_master.h5", follow=True, follow_timeout_s=1.0)
        timer.join()
    n = len(run.frames)
    assert 0 < n < 1000
    assert [int(frame.decode()[0, 0]) for frame in run.frames] == list(range(n))
    assert f"{n} of 1000 announced frames" in str(end_of(run).reason)


def test_following_a_complete_file_tells_the_same_as_reading_it(tmp_path: Path) -> None:
    write_nxmx(tmp_path / "x.nxs", frames(4))
    (read_once,) = read(tmp_path / "x.nxs")
    (followed,) = read(tmp_path / "x.nxs", follow=True, follow_timeout_s=30.0)
    assert followed.firsts == read_once.firsts == [0, 1, 2, 3]
    assert followed.run.geometry == read_once.run.geometry
    assert (followed.run.header.frames_expected, end_of(followed).complete) == (4, True)
