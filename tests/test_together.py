"""A weak crystal's rotation through `triage run`: frames that say too little alone are indexed together with those before them.

Truth is what was simulated: orientation and cell on every frame.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

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

FRAMES = 12
WEAKER = 0.0015
"""Of the demonstration's photons: 10 to 15 spots a frame are found."""


@pytest.fixture(scope="module")
def scenes() -> tuple[Scene, ...]:
    torch.set_num_threads(1)
    drawn = demo_scenes()[:FRAMES]
    return tuple(dataclasses.replace(one, photons=WEAKER * (one.photons or 0.0), visible_spots=None) for one in drawn)


@pytest.fixture(scope="module")
def scan(scenes: tuple[Scene, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weak") / "scan.h5"
    write_nxmx(path, scenes, scan=Scan(start_deg=10.0, step_deg=STEP_DEG, exposure_s=0.1))
    return path


def indexed(scan: Path, together: int) -> list[dict[str, Any]]:
    """The indexing records of the run, in frame order."""
    results = scan.with_name(f"{together}.jsonl")
    overrides = [f"indexing.together={together}", "indexing.every=1", "indexing.timeout_s=120", f"sinks.jsonl.path={results}"]
    assert main(["run", str(scan), "mode=complete", *overrides]) == 0
    told = [json.loads(line) for line in results.read_text().splitlines()]
    return sorted((record for record in told if record["type"] == "indexing"), key=lambda record: int(record["frame"]))


def right(scenes: tuple[Scene, ...], records: list[dict[str, Any]]) -> list[int]:
    """The frames whose first solution is the lattice that was drawn on them."""
    found = []
    for record in records:
        first = next(iter(record["solutions"]), None)
        told = None if first is None else Solution(**{**first, "cell": tuple(first["cell"]), "orientation": tuple(first["orientation"])})
        if told is not None and is_right(told, scenes[record["frame"]].lattices[0]):
            found.append(record["frame"])
    return found


def test_a_weak_rotation_is_indexed_together_and_hardly_alone(scenes: tuple[Scene, ...], scan: Path) -> None:
    alone, together = indexed(scan, 1), indexed(scan, 5)
    assert [record["frame"] for record in together] == list(range(FRAMES))
    of_alone, of_together = right(scenes, alone), right(scenes, together)
    assert set(range(4, FRAMES)) <= set(of_together)
    assert len(of_alone) <= len(of_together) - 4
    assert all(len(record["solutions"]) <= 1 for record in together)
    for record in together:
        if record["solutions"]:
            own = record["solutions"][0]["n_indexed"] + record["n_unindexed"]
            assert own < 40
