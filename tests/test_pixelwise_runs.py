"""Whole runs of the second simulator: what damage does to a crystal there, and a run judged from its pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")  # of the train extra, as the benchmark is
from benchmarks import pixelwise_runs
from benchmarks.pixelwise_runs import FRAMES, Outcome, damaged, draw, main, table

pytestmark = pytest.mark.timeout(120)  # where loops are compiled for the first time


def test_damage_takes_the_outer_shell_and_leaves_the_inner_one() -> None:
    """B grows by 20 A^2: amplitudes squared fall by exp(-20 s^2 / 2), edges grow by 0.6 %."""
    scene, _, _ = draw(1, 0)
    before = scene.crystals[0]
    after = damaged(before, 20.0, 0, scene)
    assert np.allclose(np.array(after.structure.cell[:3]) / before.structure.cell[:3], 1.006)
    assert after.structure.cell[3:] == before.structure.cell[3:]
    hkl = np.array([[3, 1, 2], [8, 9, 7]])
    s = np.linalg.norm(hkl @ before.structure.reciprocal().T, axis=1)
    ratio = after.structure.intensities(hkl) / before.structure.intensities(hkl)
    assert ratio == pytest.approx(np.exp(-10.0 * s**2), rel=0.05)


def test_the_crystal_turns_by_one_exposure_a_frame() -> None:
    scene, _, _ = draw(1, 1)
    step = scene.exposure.rotation_deg
    assert step > 0
    one, other = (damaged(scene.crystals[0], 0.0, frame, scene).orientation for frame in (3, 7))
    turn = other @ one.T
    assert np.rad2deg(np.arccos((np.trace(turn) - 1.0) / 2.0)) == pytest.approx(4.0 * step, abs=1e-6)
    assert turn @ np.asarray(scene.exposure.axis) == pytest.approx(np.asarray(scene.exposure.axis))


def test_every_other_run_is_damaged_and_every_third_crystal_leaves() -> None:
    for index in range(6):
        scene, course, _ = draw(2, index)
        assert len(scene.crystals) == 1
        assert course.damaged == bool(index % 2)
        assert (course.exponent[-1] > 1.5) == course.damaged
        assert (course.brightness[-1] < 0.55) == (index % 3 == 2)
        assert len(course.brightness) == len(course.exponent) == FRAMES


def an_outcome(index: int, *, flagged: int | None, loss: float | None) -> Outcome:
    known: dict[str, Any] = {"network_at_end": 0.9, "delta_B_at_end": 10.0, "sigma_at_end": 2.0, "true_delta_B": 9.0, "again_spots": None}
    return Outcome(
        index=index, kind="stills", detector="d", damaged=bool(index % 2), leaving=False, flagged=flagged, loss_when_flagged=loss, **known
    )


def test_the_table_counts_flags() -> None:
    text = table([an_outcome(0, flagged=None, loss=None), an_outcome(1, flagged=30, loss=0.4), an_outcome(3, flagged=None, loss=None)])
    assert "| 1: stills, d, damaged | 30 | 40% | 0.90 | 10.0 +- 2.0 | 9.0 |  |" in text
    assert text.endswith("Flagged: 1 of 2 damaged at a median loss of 70%; 0 of 1 undamaged.")


@pytest.mark.slow
def test_a_run_is_judged_from_its_pixels_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first 16 frames of an undamaged rotation; a second call judges nothing anew."""
    monkeypatch.setattr(pixelwise_runs, "FRAMES", 16)
    asked = ["--runs", "1", "--seed", "1", "--out", str(tmp_path)]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "Flagged: 0 of 0 damaged; 0 of 1 undamaged." in said
    (kept,) = tmp_path.iterdir()
    assert json.loads(kept.read_text())["true_delta_B"] == 0.0
    written = kept.stat().st_mtime_ns
    assert main(asked) == 0
    assert capsys.readouterr().out == said
    assert kept.stat().st_mtime_ns == written
