"""What more frames and more trees are worth. Truths: frames whose number of lattices one statistic tells, up to noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from tests.test_trees import arrays
from training import learning_curve
from training.dataset import Arrays
from training.learning_curve import main, steps
from training.settings import TreesSettings

pytestmark = pytest.mark.torch


def test_each_step_has_half_the_frames_of_the_next() -> None:
    assert steps(17000, 1000) == [1062, 2125, 4250, 8500, 17000]
    assert steps(900, 1000) == [900]


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"train": arrays(400), "validation": arrays(300)}
    made["validation"].labels["d_min_A"] = 2.0

    def load(folder: Path, split: str, n: int | None = None) -> Arrays:
        whole = made[split]
        return whole if n is None else arrays(n)

    monkeypatch.setattr(learning_curve, "load", load)
    monkeypatch.setattr(learning_curve, "TreesSettings", lambda rounds=4: TreesSettings(rounds=rounds))


@pytest.mark.usefixtures("frames")
def test_a_row_for_each_number_of_frames_or_of_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--least", "200"]) == 0
    rows = [line.split("|")[1:4] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(int(frames), int(rounds)) for frames, rounds, _ in rows] == [(200, 4), (400, 4)]

    assert main(["data", "--rounds", "1", "30"]) == 0
    rows = [line.split("|")[1:4] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(int(frames), int(rounds)) for frames, rounds, _ in rows] == [(400, 1), (400, 30)]
    losses = np.array([float(loss) for _, _, loss in rows])
    assert losses[1] < 0.8 * losses[0]
