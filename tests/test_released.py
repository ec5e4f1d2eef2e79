"""What is released, at work: the demo raises its flags, and real frames are judged sensibly. Truth: what a person sees on them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from triage.__main__ import main
from triage.compose import released_dir

ONE_LATTICE = ("DLS_I03_smargon_0001.cbf.gz", "dlsnxs2cbf_therm_0001.cbf.gz", "ximg2700_00001.cbf", "ximg2701_00001.cbf")
"""By a person's reading and by indexing. `run2`, whose beam centre is wrong, the network is unsure of (models/README.md)."""
pytestmark = pytest.mark.skipif(not (released_dir() / "triage.onnx").is_file(), reason="no released network; test_packaging.py says so")

DIFFRACTS = {
    "DLS_I03_smargon_0001.cbf.gz": True,
    "run2_1_00148.cbf.bz2": True,
    "ximg2700_00001.cbf": True,
    "ximg2701_00001.cbf": True,
    "dlsnxs2cbf_therm_0001.cbf.gz": True,
    "omega_scan.cbf": False,
    "ANSTOtest_303_data_000001.h5": False,
}
DANGLING = {"dectris_eiger_master.h5", "example_1_master.h5"}


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_two_hundred_frames_of_the_demo_raise_each_trouble_once(tmp_path: Path) -> None:
    out = tmp_path / "demo.jsonl"
    assert main(["demo", "demo.frames=200", "demo.rate_hz=200", "dashboard=off", f"sinks.jsonl.path={out}"]) == 0
    found = records(out)
    raised = Counter(r["flag"] for r in found if r["type"] == "flag" and r["state"] == "raised")
    assert {flag: raised[flag] for flag in ("multi_lattice", "non_diffraction", "decay")} == {
        "multi_lattice": 1,
        "non_diffraction": 1,
        "decay": 1,
    }
    ends = [r for r in found if r["type"] == "run_end"]
    assert sum(end["frames_judged"] for end in ends) == 200
    assert all(end["complete"] and end["frames_dropped"] == end["frames_failed"] == end["frames_missing"] == 0 for end in ends)


@pytest.fixture(scope="module")
def judged(fixtures_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and records of `triage run` over every real file."""
    out = tmp_path_factory.mktemp("real") / "real.jsonl"
    files = sorted(str(path) for path in (fixtures_dir / "real").iterdir())
    status = main(["run", *files, "source.group=file", f"sinks.jsonl.path={out}"])
    return status, records(out)


@pytest.mark.fixtures
@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFRACTS)
def test_real_frames_are_judged_as_a_person_would(name: str, judged: tuple[int, list[dict[str, Any]]]) -> None:
    frames = [r for r in judged[1] if r["type"] == "frame" and Path(r["file"]).name == name]
    assert frames
    assert all(r["error"] is None for r in frames)
    assert [r["probabilities"]["non_diffraction"] < 0.5 for r in frames] == [DIFFRACTS[name]] * len(frames)


@pytest.mark.fixtures
@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_LATTICE)
def test_no_second_lattice_is_seen_in_real_frames_of_one(name: str, judged: tuple[int, list[dict[str, Any]]]) -> None:
    [frame] = [r for r in judged[1] if r["type"] == "frame" and Path(r["file"]).name == name]
    assert frame["probabilities"]["multi_lattice"] < 0.5


@pytest.mark.fixtures
@pytest.mark.slow
def test_masters_without_their_data_cost_themselves_only(judged: tuple[int, list[dict[str, Any]]]) -> None:
    status, found = judged
    sources = {r["run"]: Path(r["source"]).name for r in found if r["type"] == "run"}
    ends = {sources[r["run"]]: r for r in found if r["type"] == "run_end"}
    assert status == 1
    assert {name for name, end in ends.items() if not end["complete"]} == DANGLING
    assert all("missing" in ends[name]["reason"] for name in DANGLING)
