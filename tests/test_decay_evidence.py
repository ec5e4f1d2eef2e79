"""Evidence of a run's blocks and its fusion. Truths: straight lines, closed forms of small networks, drawn series."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from triage.decay.evidence import AGAIN, CONTEXT, FEATURES, OWN, SERIES, Block, Context, features
from triage.decay.fusion import Fusion, Layers, released

CONTEXT_OF_STILLS = Context(stills=True, step_deg=0.0, outer_s2=0.2, faint_inner=0.2, faint_outer=0.8, z=1.5, noise=0.7)


def blocks_of(series: np.ndarray[Any, Any], spots: float = 400.0, error: float = 0.02) -> list[Block]:
    return [Block(5.0 * i + 2.0, 5.0, spots, error, tuple(row)) for i, row in enumerate(series)]


def named(values: np.ndarray[Any, Any]) -> dict[str, float]:
    assert values.shape == (len(OWN),)
    return dict(zip(OWN, values.tolist(), strict=True))


def test_a_run_where_nothing_happens_has_no_trend() -> None:
    found = named(features(blocks_of(np.zeros((10, len(SERIES)))), CONTEXT_OF_STILLS))
    assert all(found[name] == 0 for name in OWN if name not in CONTEXT)
    assert found["stills"] == 1.0
    assert found["log_blocks"] == pytest.approx(math.log(10))


def test_a_straight_line_has_its_slope_over_the_run_and_a_significance() -> None:
    series = np.zeros((20, len(SERIES)))
    series[:, SERIES.index("outer")] = -np.linspace(0.0, 0.8, 20)
    found = named(features(blocks_of(series), CONTEXT_OF_STILLS))
    assert found["outer_ramp"] == pytest.approx(-0.8)
    assert found["outer_now"] == pytest.approx(-0.8 * 17 / 19)  # means of three blocks at either end
    assert found["outer_z"] < -math.asinh(4.0)
    assert found["inner_ramp"] == found["inner_z"] == 0.0


def test_a_dip_is_remembered_and_is_no_trend() -> None:
    series = np.zeros((21, len(SERIES)))
    series[8:13, SERIES.index("scale")] = -1.0
    found = named(features(blocks_of(series), CONTEXT_OF_STILLS))
    assert found["scale_lowest"] == pytest.approx(-1.0)
    assert found["scale_bend"] == pytest.approx(-1.0)
    assert abs(found["scale_ramp"]) < 0.05


def test_significance_of_noise_is_that_of_a_unit_normal_or_less() -> None:
    """Series whose scatter is as usual for so many spots: slopes over their standard deviation."""
    rng = np.random.default_rng(1)
    z = []
    for _ in range(100):
        series = 0.1 * rng.normal(size=(30, len(SERIES)))
        z.append(named(features(blocks_of(series), CONTEXT_OF_STILLS))["middle_z"])
    assert 0.6 < np.std(np.sinh(z)) < 1.2


def test_the_numbers_stay_finite_and_bounded() -> None:
    series = 1e6 * np.random.default_rng(2).normal(size=(5, len(SERIES)))
    values = features(blocks_of(series, spots=0.0, error=0.0), CONTEXT_OF_STILLS)
    assert np.isfinite(values).all()


def test_the_fusion_is_the_mean_of_its_networks() -> None:
    """Two networks of one hidden unit each, in closed form, and what is added past them."""
    n = len(FEATURES)
    inner, straight = np.zeros((2, n, 1)), np.zeros((2, n))
    inner[0, 0, 0], inner[1, 1, 0], straight[0, 0], straight[1, 1] = 1.0, 2.0, 0.25, -0.5
    layers = Layers(inner, np.zeros((2, 1)), np.ones((2, 1)), np.array([0.5, -0.1]), straight)
    mean, spread, row = np.zeros(n), np.ones(n), np.zeros(n)
    mean[0], spread[0], row[0], row[1] = 1.0, 2.0, 3.0, 0.4
    fusion = Fusion(mean, spread, layers, slope=2.0, offset=0.3)
    logit = 0.5 * (math.tanh(1.0) + 0.25 * 1.0 + 0.5 + math.tanh(2.0 * 0.4) - 0.5 * 0.4 - 0.1)
    assert fusion.probability(row) == pytest.approx(1.0 / (1.0 + math.exp(-(2.0 * logit + 0.3))))


def nothing() -> Layers:
    """Networks that say even odds of everything."""
    n = len(FEATURES)
    return Layers(np.zeros((1, n, 1)), np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(1), np.zeros((1, n)))


def test_growth_beyond_doubt_adds_to_the_log_odds() -> None:
    """Nothing up to z = 4, 0.6 for each unit more; z comes as its inverse hyperbolic sine. The calibrated one takes its share."""
    n = len(FEATURES)
    fusion, third = (Fusion(np.zeros(n), np.ones(n), nothing(), calibration=(0.0, share)) for share in (1.0, 1.0 / 3.0))
    row = np.zeros(n)
    for z, logit in ((3.9, 0.0), (6.0, 1.2), (9.0, 3.0)):
        row[FEATURES.index("z")] = math.asinh(z)
        assert fusion.probability(row) == pytest.approx(1.0 / (1.0 + math.exp(-logit)))
        assert third.says(row).alarm == fusion.says(row).alarm == fusion.probability(row)
        assert third.probability(row) == pytest.approx(1.0 / (1.0 + math.exp(-logit / 3.0)))


def test_alarms_are_evened_and_the_probability_is_calibrated_apart_from_them() -> None:
    """Stills, and rotations e times as long as 60 frames: each is moved by its own numbers alone."""
    n = len(FEATURES)
    fusion = Fusion(np.zeros(n), np.ones(n), nothing(), calibration=(-0.7, 1.0), even=(1.1, 0.9))
    stills, rotation = np.zeros(n), np.zeros(n)
    stills[FEATURES.index("stills")], rotation[FEATURES.index("log_frames")] = 1.0, math.log(60.0) + 1.0
    odds = [math.log(p / (1.0 - p)) for row in (stills, rotation) for p in fusion.says(row)]
    assert odds == pytest.approx([-0.7, 1.1, 0.0, -0.9])


def test_the_released_fusion_tells_a_plain_case() -> None:
    """Stills whose outer shells fade while the inner ones stay, against stills where all stays, or all fades alike."""
    time = np.linspace(0.0, 1.0, 20)
    faded, dimmed = np.zeros((20, len(SERIES))), np.zeros((20, len(SERIES)))
    for name, fall in {
        "B": -1.0,
        "scale": 0.1,
        "inner": 0.25,
        "middle": 0.6,
        "outer": 1.0,
        "outer_count": 0.9,
        "middle_count": 0.4,
        "edge": 0.12,
    }.items():
        faded[:, SERIES.index(name)] = -fall * time
    fusion = released()
    far, none = (
        fusion.probability(np.append(features(blocks_of(series), Context(True, 0.0, 0.2, 0.2, 0.8, z, 0.7)), np.zeros(len(AGAIN))))
        for series, z in ((faded, 15.0), (dimmed, 0.0))
    )
    assert none < 0.3 < 0.9 < far
