"""What may be known of spots beyond pixels. Truths: reflections of a rendered scene, and scores whose order is known."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.frozen_set import labels  # noqa: E402
from tests.test_simulate_render import diffracting  # noqa: E402
from training.evaluation.frozen import FrozenSet  # noqa: E402
from training.evaluation.limit import Known, known_of, scorers, table  # noqa: E402
from training.simulate.render import Rendered, render  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    return render(diffracting(visible=30))


def test_true_spots_are_told_from_false_ones_and_visible_from_faint(rendered: Rendered) -> None:
    [group], [visible] = rendered.reflections, rendered.visible
    assert int(visible.sum()) == rendered.labels.visible_spots
    bright, faint = group.positions_px[visible].numpy(), group.positions_px[~visible].numpy()
    alone = [p for p in faint if np.linalg.norm(bright - p, axis=1).min() > 10.0][:5]
    false = np.array([[3.0, 3.0], [3.0, 900.0]])
    assert np.linalg.norm(group.positions_px.numpy()[:, None] - false, axis=2).min() > 10.0
    found = np.concatenate([bright[:12] + 0.5, alone, false])
    assert known_of(rendered, found) == Known(true=12 + len(alone), visible=12)
    assert known_of(rendered, np.zeros((0, 2))) == Known(true=0, visible=0)


def test_frames_that_nobody_doubts_are_not_asked_about_and_the_table_has_all_three() -> None:
    """No frame is in doubt, so that no scene of the set, which has none, is made again."""
    truth = labels(160)
    sure = np.where(truth["n_lattices"] == 0, 0.999, 0.001) + 1e-4 * np.linspace(0.0, 1.0, 160)
    frames = FrozenSet(folder=None, arrays=_Arrays(truth), recipe={"seed": 3}, index=np.arange(160))  # type: ignore[arg-type]
    scores = scorers(frames, sure)
    assert all(np.array_equal(np.argsort(s), np.argsort(sure)) for s in scores.values())
    rows = [line for line in table(frames, scores).splitlines() if line.startswith("| all")]
    assert len(rows) == 3
    assert all("1.0000 (1.0000-1.0000)" in row for row in rows)


class _Arrays:
    def __init__(self, truth: np.ndarray) -> None:
        self.labels = truth
