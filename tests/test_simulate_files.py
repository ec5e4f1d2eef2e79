"""Files of simulated frames. Truths: the scenes they were made from, read back by triage's reader, by DIALS, by CrystFEL's rules."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from training.simulate import experiment  # noqa: E402
from training.simulate.draw import draw_scene  # noqa: E402
from training.simulate.experiment import FilePlan, draw_scenes_of_one_experiment, plan, write_file, write_files  # noqa: E402
from training.simulate.render import render, run_of  # noqa: E402
from training.simulate.scene import Scene  # noqa: E402
from training.simulate.writer import SHARED, Scan, SimulationError, write_nxmx  # noqa: E402
from triage.__main__ import main  # noqa: E402
from triage.core import Frame, Run, RunEnd, RunKind  # noqa: E402
from triage.preprocess import Inputs, Preprocess  # noqa: E402
from triage.sources.files import FileSource  # noqa: E402
from triage.sources.hdf5 import open_file  # noqa: E402
from triage.sources.resolve import RunResolver  # noqa: E402
from triage.spots import DispersionFinder  # noqa: E402

pytestmark = pytest.mark.torch
torch.set_num_threads(1)  # on a busy machine two wait for each other

DETECTORS = ("EIGER2 500K", "PILATUS 300K", "EIGER 1M", "JUNGFRAU 1M", "RAYONIX MX225")
SMALL = ("EIGER2 500K", "PILATUS 300K")
DIALS_PYTHON = "/usr/bin/python3"


rendered = functools.lru_cache(maxsize=None)(render)


def scenes_of(detector: str, n: int = 2, seed: int = 7) -> tuple[Scene, ...]:
    return draw_scenes_of_one_experiment(np.random.default_rng(seed), n, detectors=(detector,))


def swung(scenes: tuple[Scene, ...]) -> tuple[Scene, ...]:
    """The same frames on a detector that is swung up by 20 deg."""
    angle = np.deg2rad(20.0)
    return tuple(
        dataclasses.replace(s, fast_axis=(1.0, 0.0, 0.0), slow_axis=(0.0, float(np.cos(angle)), float(np.sin(angle)))) for s in scenes
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, tuple[Scene, ...]]]:
    """A file a detector, and one of a swung detector."""
    folder = tmp_path_factory.mktemp("files")
    files = {name: (folder / f"{name.replace(' ', '_')}.h5", scenes_of(name, 2 if name in SMALL else 1)) for name in DETECTORS}
    files["swung"] = (folder / "swung.h5", swung(scenes_of("EIGER2 500K")))
    for path, scenes in files.values():
        write_nxmx(path, scenes)
    return files


def read(path: Path) -> tuple[Run, list[Frame]]:
    events = list(FileSource([str(path)], resolver=RunResolver()))
    assert isinstance(events[0], Run)
    assert isinstance(events[-1], RunEnd)
    assert events[-1].complete, events[-1].reason
    return events[0], [event for event in events if isinstance(event, Frame)]


@pytest.mark.parametrize("name", [*DETECTORS, "swung"])
def test_triage_reads_the_frames_and_geometry_that_were_simulated(name: str, written: dict[str, tuple[Path, tuple[Scene, ...]]]) -> None:
    path, scenes = written[name]
    run, frames = read(path)
    geometry, expected = run.geometry, scenes[0].geometry()
    assert geometry is not None, run.geometry_problem
    assert (geometry.wavelength_A, geometry.distance_mm) == pytest.approx((expected.wavelength_A, expected.distance_mm))
    for quantity in ("beam_px", "pixel_mm", "fast_axis", "slow_axis"):
        assert getattr(geometry, quantity) == pytest.approx(getattr(expected, quantity), abs=1e-9)
    assert (run.mask is not None) == scenes[0].gaps_masked
    for frame, scene in zip(frames, scenes, strict=True):
        made = rendered(scene)
        assert np.array_equal(frame.decode(), made.counts, equal_nan=made.counts.dtype.kind == "f")
        assert run.header.detector == made.run.header.detector
        assert run.valid_range(made.counts.dtype)[0] <= 0 or made.counts.dtype.kind != "u"


@pytest.mark.parametrize(
    "name",
    list(DETECTORS),
)
def test_the_networks_input_from_a_file_is_that_of_training_bit_for_bit(
    name: str, written: dict[str, tuple[Path, tuple[Scene, ...]]]
) -> None:
    path, scenes = written[name]
    run, frames = read(path)
    for frame, scene in zip(frames, scenes, strict=True):
        made, pixels = rendered(scene), frame.decode()
        served, trained = inputs(pixels, run), inputs(made.counts, made.run)
        for field in dataclasses.fields(Inputs):
            assert np.array_equal(getattr(served, field.name), getattr(trained, field.name)), field.name


def inputs(pixels: Any, run: Run) -> Inputs:
    return Preprocess()(pixels, DispersionFinder().find(pixels, run), run)


def test_labels_say_what_was_drawn_and_what_can_be_seen(written: dict[str, tuple[Path, tuple[Scene, ...]]]) -> None:
    for path, scenes in written.values():
        made = [rendered(scene).labels for scene in scenes]
        with open_file(path) as file:  # as the reader has it open, too
            labels = file["entry/labels"]
            assert [Scene.from_json(text) for text in labels["scene"].asstr()] == list(scenes)
            assert labels["n_lattices"][()].tolist() == [label.n_lattices for label in made]
            assert labels["non_diffraction_kind"].asstr()[()].tolist() == [label.non_diffraction_kind or "" for label in made]
            assert labels["ice_rings"][()].tolist() == [label.ice_rings for label in made]
            d_min = [np.nan if label.d_min_A is None else label.d_min_A for label in made]
            assert labels["d_min_A"][()] == pytest.approx(np.array(d_min), nan_ok=True)
            for k, (scene, label) in enumerate(zip(scenes, made, strict=True)):
                n = len(scene.lattices)
                assert labels["lattices_drawn"][k] == n
                assert labels["lattice_visible_spots"][k].tolist() == [t.visible_spots for t in label.lattices] + [0] * (4 - n)
                assert labels["lattice_separable_spots"][k].tolist() == [t.separable_spots for t in label.lattices] + [0] * (4 - n)
                assert labels["lattice_intensity_ratio"][k][:n].tolist() == [lattice.scale for lattice in scene.lattices]
                assert np.isnan(labels["lattice_separation_deg"][k][n:]).all()
                assert labels["lattice_orientation"][k][:n].tolist() == [list(lattice.orientation) for lattice in scene.lattices]
                assert labels["lattice_cell"].shape[1:] == (4, 6)
            assert labels["d_min_A"].attrs["units"] == "angstrom"


def test_frames_are_stored_one_bitshuffle_lz4_chunk_each(written: dict[str, tuple[Path, tuple[Scene, ...]]]) -> None:
    with open_file(written["PILATUS 300K"][0]) as file:
        data = file["entry/data/data"]
        assert data.chunks == (1, *data.shape[1:])
        code, _, options, _ = data.id.get_create_plist().get_filter(0)
        assert (code, options[4]) == (hdf5plugin.BSHUF_ID, 2)  # registered filter 32008, LZ4
        assert file["entry/definition"].asstr()[()] == "NXmx"
        assert (file.attrs["default"], file["entry"].attrs["default"], file["entry/data"].attrs["signal"]) == (
            "entry",
            "data",
            "data",
        )  # H5Web


@pytest.mark.parametrize("name", ["PILATUS 300K", "swung"])
def test_every_depends_on_leads_to_an_axis_with_what_nexus_wants(name: str, written: dict[str, tuple[Path, tuple[Scene, ...]]]) -> None:
    with open_file(written[name][0]) as file:
        starts = [file["entry/instrument/detector/depends_on"].asstr()[()], file["entry/sample/depends_on"].asstr()[()]]
        starts += [f"/entry/instrument/detector/module/{axis}_pixel_direction" for axis in ("fast", "slow")]
        for start in starts:
            while start != ".":
                axis = file[start]
                assert axis.attrs["transformation_type"] in ("translation", "rotation")
                assert np.linalg.norm(axis.attrs["vector"]) == pytest.approx(1.0)
                assert {"units", "offset", "offset_units"} <= set(axis.attrs)
                start = axis.attrs["depends_on"]


def test_an_oscillation_of_each_frame_is_in_the_header_and_no_sweep_is_claimed(tmp_path: Path) -> None:
    beam = dataclasses.replace(scenes_of("EIGER2 500K")[0].beam, rotation_deg=0.25)
    scenes = tuple(dataclasses.replace(scene, beam=beam) for scene in scenes_of("EIGER2 500K", 3))
    write_nxmx(tmp_path / "separate.h5", scenes)
    write_nxmx(tmp_path / "sweep.h5", scenes, scan=Scan(start_deg=10.0, step_deg=0.25, exposure_s=0.1))
    with h5py.File(tmp_path / "separate.h5") as file:
        axes = file["entry/sample/transformations"]
        assert (axes["omega_end"][()] - axes["omega"][()]).tolist() == [0.25] * 3
    assert read(tmp_path / "separate.h5")[0].kind is RunKind.STILLS
    sweep = read(tmp_path / "sweep.h5")[0]
    assert sweep.kind is RunKind.ROTATION
    assert (sweep.header.omega_start_deg, sweep.header.omega_step_deg, sweep.header.exposure_s) == pytest.approx((10.0, 0.25, 0.1))


DXTBX_PROGRAM = """
import json, sys
import dxtbx
found = []
for path in sys.argv[1:]:
    image = dxtbx.load(path)
    panel, beam = image.get_detector()[0], image.get_beam()
    mask = image.get_static_mask()
    found.append({
        "format": type(image).__name__, "frames": image.get_num_images(), "wavelength": beam.get_wavelength(),
        "distance": panel.get_distance(), "beam_fast_slow": panel.get_beam_centre_px(beam.get_s0()), "size": panel.get_image_size(),
        "pixel": panel.get_pixel_size(), "corner": panel.get_resolution_at_pixel(beam.get_s0(), (3, 5)),
        "masked": None if mask is None else mask[0].count(False),
    })
print(json.dumps(found))
"""


def test_dials_reads_the_same_geometry(written: dict[str, tuple[Path, tuple[Scene, ...]]]) -> None:
    paths = [str(path) for path, _ in written.values()]
    probe = (
        subprocess.run([DIALS_PYTHON, "-c", "import dxtbx.nexus"], capture_output=True, check=False) if shutil.which(DIALS_PYTHON) else None
    )
    if probe is None or probe.returncode:
        pytest.skip("dxtbx is absent: apt-get install --no-install-recommends dials")
    result = subprocess.run([DIALS_PYTHON, "-c", DXTBX_PROGRAM, *paths], capture_output=True, text=True, check=True, timeout=110)
    for found, (_, scenes) in zip(json.loads(result.stdout.splitlines()[-1]), written.values(), strict=True):
        geometry = scenes[0].geometry()
        assert (found["format"], found["frames"]) == ("FormatNXmx", len(scenes))
        assert (found["wavelength"], found["distance"]) == pytest.approx((geometry.wavelength_A, geometry.distance_mm))
        assert found["beam_fast_slow"] == pytest.approx(geometry.beam_px[::-1], abs=1e-4)
        assert (found["size"], found["pixel"]) == (list(geometry.shape_px[::-1]), pytest.approx(geometry.pixel_mm[::-1]))
        assert found["corner"] == pytest.approx(float(geometry.resolution_A((5.0, 3.0))), rel=1e-4)
        assert (found["masked"] is not None) == scenes[0].gaps_masked


@pytest.mark.parametrize("name", ["PILATUS 300K", "swung"])
def test_crystfels_geometry_puts_pixels_where_they_are(name: str, written: dict[str, tuple[Path, tuple[Scene, ...]]]) -> None:
    """A pixel lies at corner + fs * fast + ss * slow, in pixels, z from clen + coffset (crystfel_geometry(5))."""
    path, scenes = written[name]
    lines = [line.split("=", 1) for line in path.with_suffix(".geom").read_text().splitlines() if "=" in line]
    value = {key.strip(): text.strip() for key, text in lines}
    corner = np.array([float(value["p0/corner_x"]), float(value["p0/corner_y"]), float(value["p0/coffset"]) * float(value["res"])])
    corner[2] += float(value["clen"].removesuffix(" mm")) * 1e-3 * float(value["res"])
    axes = {key: np.array([float(x) for x in re.findall(r"([-+][\d.]+)[xyz]", value[f"p0/{key}"])]) for key in ("fs", "ss")}
    geometry = scenes[0].geometry()
    for slow, fast in ((0.0, 0.0), (100.5, 300.25), (400.0, 20.0)):
        millimetres = (corner + fast * axes["fs"] + slow * axes["ss"]) / float(value["res"]) * 1e3
        assert millimetres == pytest.approx(geometry.laboratory_mm((slow, fast)), abs=1e-4)
    assert float(value["wavelength"].removesuffix(" A")) == pytest.approx(geometry.wavelength_A)
    assert (value["data"], value["dim0"], value["dim1"], value["dim2"]) == ("/entry/data/data", "%", "ss", "fs")


def test_frames_of_one_experiment_share_the_header_and_differ_in_the_rest() -> None:
    scenes = draw_scenes_of_one_experiment(np.random.default_rng(3), 20)
    for name in (*SHARED, "shadows"):
        assert len({str(getattr(scene, name)) for scene in scenes}) == 1
    assert len({scene.seed for scene in scenes}) == len({scene.background for scene in scenes}) == 20
    assert len({scene.kind for scene in scenes}) > 3
    assert draw_scenes_of_one_experiment(np.random.default_rng(3), 5) == scenes[:5]


def test_scenes_of_different_experiments_are_refused(tmp_path: Path) -> None:
    scenes = scenes_of("EIGER2 500K")[:1] + scenes_of("PILATUS 300K")[:1]
    with pytest.raises(ValueError, match=r"must share detector, .*distance_mm"):
        write_nxmx(tmp_path / "mixed.h5", scenes)
    assert list(tmp_path.iterdir()) == []


def test_frames_are_shared_out_over_files() -> None:
    files = plan(Path("x"), n=25, seed=3, frames_per_file=10)
    assert [(file.path.name, file.frames) for file in files] == [
        ("simulated_3_00000.h5", 10),
        ("simulated_3_00001.h5", 10),
        ("simulated_3_00002.h5", 5),
    ]


def raw(item: h5py.Dataset) -> Any:
    """Something that is equal when the values are, nan too."""
    values = np.asarray(item[()])
    return values.tolist() if values.dtype.kind == "O" else values.tobytes()


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: raw(item)}) if isinstance(item, h5py.Dataset) else None)
    return found


def small(folder: Path, **changes: Any) -> FilePlan:
    return FilePlan(**{"folder": folder, "seed": 1, "number": 0, "frames": 2, "detectors": ("EIGER2 500K",), **changes})


def test_a_file_is_a_function_of_its_seed(tmp_path: Path) -> None:
    files = [small(tmp_path / "a"), small(tmp_path / "b"), small(tmp_path / "c", seed=2)]
    for file in files:
        assert write_file(file) == 2
    first, again, other = (content(file.path) for file in files)
    assert first == again
    assert first["entry/data/data"] != other["entry/data/data"]


def test_complete_files_are_kept_and_missing_ones_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = plan(tmp_path, n=3, seed=1, frames_per_file=1, detectors=("EIGER2 500K",))
    done: list[int] = []
    assert write_files(files, 1, done.append) == 3
    assert sum(done) == 3
    files[1].path.unlink()
    files[1].path.with_name(f"{files[1].path.name}.part").write_bytes(b"interrupted")
    kept = files[0].path.stat().st_mtime_ns
    made: list[Path] = []
    monkeypatch.setattr(experiment, "write_nxmx", lambda path, *args, **kwargs: (made.append(path), write_nxmx(path, *args, **kwargs)))
    done.clear()
    assert write_files(files, 1, done.append) == 1
    assert (made, sum(done), files[0].path.stat().st_mtime_ns) == ([files[1].path], 3, kept)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"simulated_1_0000{k}.{ending}" for k in range(3) for ending in ("h5", "geom")
    )


def test_files_made_in_another_way_are_neither_taken_nor_overwritten(tmp_path: Path) -> None:
    write_file(small(tmp_path))
    assert small(tmp_path).is_done()
    assert not small(tmp_path, frames=3).is_done()  # the same experiment, to be made longer
    with pytest.raises(SimulationError, match=r"simulated_1_00000.h5: made with other detectors; set simulate.out"):
        write_files([small(tmp_path, detectors=("PILATUS 300K",))], 1, lambda _: None)
    small(tmp_path).path.write_bytes(b"not HDF5")
    with pytest.raises(SimulationError, match="not a file of simulated frames"):
        small(tmp_path).is_done()


def test_a_failure_while_simulating_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_file(small(tmp_path), on_frame=fail)
    assert list(tmp_path.glob("*.h5*")) == []


def test_the_verb_simulates_and_triage_opens_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["simulate", f"simulate.out={tmp_path / 'made'}", "simulate.n=3", "simulate.frames_per_file=2", "simulate.processes=1"]
    arguments += ['simulate.detectors=["EIGER2 500K","PILATUS 300K"]']
    assert main(arguments) == 0
    assert "3 frames in 2 files" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "2 were there already" in capsys.readouterr().out
    files = sorted((tmp_path / "made").glob("*.h5"))
    assert [len(read(path)[1]) for path in files] == [2, 1]


@pytest.mark.slow
def test_processes_make_what_one_makes(tmp_path: Path) -> None:
    for processes, folder in ((1, tmp_path / "one"), (2, tmp_path / "two")):
        assert write_files(plan(folder, n=2, seed=4, frames_per_file=1, detectors=("EIGER2 500K",)), processes, lambda _: None) == 2
    for path in sorted((tmp_path / "one").glob("*.h5")):
        assert content(path) == content(tmp_path / "two" / path.name)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("simulate.n=0", "simulate.n: 0 is out of range, must be >= 1"),
        ("simulate.n=1.5", "simulate.n: 1.5 is not accepted, must be a whole number"),
        ("simulate.seed=-1", "simulate.seed: -1 is out of range, must be >= 0"),
        ("simulate.processes=0", "simulate.processes: 0 is out of range, must be >= 1"),
        ('simulate.detectors=["EIGER2 5M"]', "simulate.detectors: 'EIGER2 5M' is not one of EIGER2 500K, EIGER 1M"),
        ("simulate.number=5", "simulate.number: no such key"),
        ("simulate.out=/proc/none", "/proc/none/simulated_1_00000.h5: cannot be written"),
    ],
)
def test_what_is_wrong_is_refused_by_name(override: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["simulate", "simulate.n=1", 'simulate.detectors=["EIGER2 500K"]', override])
    assert status == (1 if "/proc" in override else 2)
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"triage simulate: {line}")
    assert "\n" not in said


def test_help_shows_examples_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--help"]) == 0
    assert "triage simulate simulate.out=" in capsys.readouterr().out


def test_a_single_scene_of_any_detector_can_be_drawn_again_from_its_label(tmp_path: Path) -> None:
    scene = draw_scene(np.random.default_rng(12), detectors=("EIGER2 500K",))
    write_nxmx(tmp_path / "one.h5", [scene])
    with h5py.File(tmp_path / "one.h5") as file:
        again = render(Scene.from_json(file["entry/labels/scene"].asstr()[0]))
        assert np.array_equal(file["entry/data/data"][0], again.counts)
    assert run_of(scene).geometry == scene.geometry()
