"""What the spot finder makes of a reflection. Truths: the finder itself on fresh frames, closed forms of counting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training.decay.agree import scene_of, small_plan  # noqa: E402
from training.decay.finder import I_OVER_SIGMA, WIDTHS_PX, i_over_sigma, isolated, released  # noqa: E402
from training.decay.runs import simulate  # noqa: E402
from training.simulate.render import render  # noqa: E402
from triage.spots import DispersionFinder  # noqa: E402

pytestmark = pytest.mark.torch
torch.set_num_threads(1)


@pytest.mark.parametrize(("background", "width_px", "ratio"), [(0.02, 0.7, 3.7), (0.2, 1.0, 4.6), (2.0, 0.7, 5.2), (15.0, 1.3, 6.5)])
def test_as_many_are_found_as_the_finder_finds(background: float, width_px: float, ratio: float) -> None:
    """Between the table's cells, on frames that it was not made of; of 800 spots, so that the share is known to 2 %.

    The finder's levels go by whole photons, which no interpolation between backgrounds knows: some hundredths either way.
    """
    rng = np.random.default_rng(11)
    answers = [isolated(rng, background, width_px, ratio) for _ in range(2)]
    shown = sum(each.shown for each in answers)
    share = sum(len(each.intensity) for each in answers) / shown
    n = 10 * shown
    expected, area = np.full(n, answers[0].expected), np.full(n, 4.0 * np.pi * width_px**2)
    which, intensity, sigma = released().seen(rng, expected, np.full(n, background), area)
    assert 0.1 < share < 0.99
    assert len(which) / n == pytest.approx(share, abs=0.12)
    seen = np.concatenate([each.intensity for each in answers])
    assert intensity.mean() == pytest.approx(seen.mean(), rel=0.04)
    assert intensity.std() == pytest.approx(seen.std(), rel=0.2)
    pixels = np.concatenate([each.pixels for each in answers])
    assert np.median(sigma) == pytest.approx(np.sqrt(np.median(seen) + np.median(pixels) * background), rel=0.1)


def test_bright_spots_are_all_found_and_the_faintest_never() -> None:
    rng = np.random.default_rng(2)
    expected = np.array([1e5] * 500 + [3.0] * 500)
    which, intensity, _ = released().seen(rng, expected, np.full(1000, 0.01), np.full(1000, 8.0))
    assert np.array_equal(which, np.arange(500))
    assert intensity == pytest.approx(1e5, rel=0.05)


def test_more_are_found_the_brighter_they_are() -> None:
    """But for wide ones that are so bright that their region is taken for a ring (docs/spots.md, step 6)."""
    found = released().found[:, : WIDTHS_PX.index(1.1) + 1]
    assert (np.diff(found, axis=-1) > -0.03).all()  # 800 spots a cell
    assert (found[..., I_OVER_SIGMA.index(10.0) :] > 0.9).all()
    assert (found[..., 0] < 0.1).all()


def test_i_over_sigma_of_25_photons_without_background_is_5() -> None:
    assert i_over_sigma(np.array([25.0]), np.array([0.0]), np.array([9.0])) == pytest.approx(5.0)
    assert I_OVER_SIGMA[0] < 5.0 < I_OVER_SIGMA[-1]


def test_runs_without_pixels_hold_as_many_spots_as_rendered_frames() -> None:
    """Three plans of a seed that the table has nothing to do with, four frames each."""
    with_pixels, without = 0, 0
    for index in (3, 7, 12):
        plan = small_plan(97, "train", index)
        plan = replace(plan, course=replace(plan.course, present=np.ones(plan.n_frames, dtype=bool)))
        run = simulate(plan)
        for frame in (1, 3, 5, 7):
            rendered = render(scene_of(run, frame))
            with_pixels += len(DispersionFinder().find(rendered.counts, rendered.run))
            without += int(run.starts[frame + 1] - run.starts[frame])
    assert with_pixels > 500
    assert without == pytest.approx(with_pixels, rel=0.1)
