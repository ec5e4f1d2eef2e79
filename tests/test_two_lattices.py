"""A run whose crystal is joined by a second one, through `triage run`: what both witnesses say, read back from JSON lines and HDF5.

Truth is what was simulated: orientations and cell of every lattice on every frame.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from benchmarks.indexing_truth import is_right  # noqa: E402
from training.simulate.demo import STEP_DEG, demo_scenes  # noqa: E402
from training.simulate.scene import Scene  # noqa: E402
from training.simulate.writer import Scan, write_nxmx  # noqa: E402
from triage.__main__ import main  # noqa: E402
from triage.compose import released_dir  # noqa: E402
from triage.core import Solution  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # the indexing process compiles its loops where nobody has before
    pytest.mark.skipif(not (released_dir() / "triage.onnx").is_file(), reason="no released network; test_packaging.py says so"),
]

ALONE, TOGETHER = 3, 3
FIRST = 56
"""Of the demonstration's frames: two crystals are in the beam, as strong as one another."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What `triage run` wrote of the run, and what is true."""

    scenes: tuple[Scene, ...]
    frames: list[dict[str, Any]]
    indexings: list[dict[str, Any]]
    end: dict[str, Any]
    stored: dict[str, Any]
    """/entry/triage of the HDF5 file: name to values."""


def scenes() -> tuple[Scene, ...]:
    """Consecutive frames of a rotation on 512 x 1,028 pixels: three of one crystal, then three with a second one."""
    drawn = demo_scenes()[FIRST : FIRST + ALONE + TOGETHER]
    assert all(len(scene.lattices) == 2 for scene in drawn)
    return tuple(dataclasses.replace(scene, lattices=scene.lattices[:1]) if frame < ALONE else scene for frame, scene in enumerate(drawn))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    torch.set_num_threads(1)
    folder, made = tmp_path_factory.mktemp("two"), scenes()
    write_nxmx(folder / "scan.h5", made, scan=Scan(start_deg=10.0, step_deg=STEP_DEG, exposure_s=0.1))
    sinks = [f"sinks.jsonl.path={folder / 'results.jsonl'}", f"sinks.hdf5.path={folder}/of_{{run}}.h5"]
    assert main(["run", str(folder / "scan.h5"), "mode=complete", "indexing.every=1", "indexing.timeout_s=120", *sinks]) == 0
    told = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    (path,) = folder.glob("of_*.h5")
    with h5py.File(path) as file:
        stored = {name: node[()] for name, node in file["entry/triage"].items() if isinstance(node, h5py.Dataset)}
    return Results(
        scenes=made,
        frames=[record for record in told if record["type"] == "frame"],
        indexings=sorted((record for record in told if record["type"] == "indexing"), key=lambda record: int(record["frame"])),
        end=next(record for record in told if record["type"] == "run_end"),
        stored=stored,
    )


def number_of_lattices(frame: int) -> int:
    return 1 if frame < ALONE else 2


def solution(told: dict[str, Any]) -> Solution:
    return Solution(**{**told, "cell": tuple(told["cell"]), "orientation": tuple(told["orientation"])})


def test_every_frame_is_judged_and_indexed(results: Results) -> None:
    frames = list(range(ALONE + TOGETHER))
    assert [record["frame"] for record in results.frames] == frames
    assert [record["frame"] for record in results.indexings] == frames
    assert all(record["error"] is None for record in results.frames)
    assert all(record["status"] == "indexed" for record in results.indexings)
    assert (results.end["frames_judged"], results.end["indexed"], results.end["complete"]) == (len(frames), len(frames), True)


def test_the_network_sees_when_the_second_crystal_is_there(results: Results) -> None:
    several = [record["probabilities"]["multi_lattice"] for record in results.frames]
    assert max(several[:ALONE]) < 0.5 < min(several[ALONE:])
    assert max(record["probabilities"]["non_diffraction"] for record in results.frames) < 0.1


def test_indexing_finds_the_lattices_that_were_drawn_and_no_others(results: Results) -> None:
    for scene, record in zip(results.scenes, results.indexings, strict=True):
        found = [solution(told) for told in record["solutions"]]
        assert len(found) == len(scene.lattices)
        assert all(any(is_right(one, lattice) for one in found) for lattice in scene.lattices)
        assert {one.bravais for one in found} == {"tP"}
    unexplained = [record["fraction_unexplained"] for record in results.indexings]
    assert max(unexplained[:ALONE]) < 0.2 < 0.3 < min(unexplained[ALONE:])


def test_the_witnesses_agree_and_are_surer_together(results: Results) -> None:
    assert [record["agreement"] for record in results.indexings] == ["agrees"] * (ALONE + TOGETHER)
    fused = [record["multi_lattice"] for record in results.indexings]
    assert max(fused[:ALONE]) < 0.5 < min(fused[ALONE:])
    (cells,) = results.indexings[-1]["run_cells"]
    assert cells["bravais"] == "tP"
    np.testing.assert_allclose(cells["cell"], results.scenes[0].lattices[0].crystal.cell, rtol=0.01)


def test_hdf5_holds_what_the_json_lines_hold_of_both_witnesses(results: Results) -> None:
    stored = results.stored
    assert stored["frame"].tolist() == list(range(ALONE + TOGETHER))
    for row, (frame, indexing) in enumerate(zip(results.frames, results.indexings, strict=True)):
        assert stored["lattices"][row].tolist() == frame["lattices"]
        assert stored["probabilities_multi_lattice"][row] == frame["probabilities"]["multi_lattice"]
        for name, value in frame["spots"].items():
            assert stored[f"spots_{name}"][row] == value, name
        first = indexing["solutions"][0]
        assert stored["indexing_n_solutions"][row] == len(indexing["solutions"]) == number_of_lattices(row)
        assert stored["indexing_cell"][row].tolist() == first["cell"]
        assert stored["indexing_orientation"][row].tolist() == first["orientation"]
        assert stored["indexing_beam_shift_px"][row].tolist() == indexing["beam_shift_px"]
        for name in ("fraction_unexplained", "multi_lattice", "n_unindexed", "latency_ms"):
            assert stored[f"indexing_{name}"][row] == indexing[name], name
        assert [stored[f"indexing_{name}"][row].decode() for name in ("status", "agreement", "bravais")] == ["indexed", "agrees", "tP"]
