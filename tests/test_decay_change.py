"""The sequential test for a growing B, and what it is worth. Truth: least squares in closed form, and drawn histories."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from triage.decay.calibration import ALARMS_PER_1000, probability_of, raise_at
from triage.decay.change import MOST_BLOCKS, Change, ChangeTest


def fed(frames: np.ndarray, b: np.ndarray, sigma: float, step_deg: float = 0.0) -> list[Change | None]:
    test = ChangeTest(step_deg)
    found = []
    for frame, value in zip(frames, b, strict=True):
        test.add(float(frame), float(value), sigma)
        found.append(test.result())
    return found


def test_a_clean_ramp_has_the_significance_of_least_squares() -> None:
    """Slope over its standard deviation, for a straight line with a free level: sqrt(sum (t - mean)^2) / sigma times the slope."""
    frames, sigma, slope = np.arange(6.0), 50.0, 30.0  # so wide that the floor plays no part
    test = ChangeTest(0.0)
    for frame in frames:
        test.add(frame, slope * frame, sigma)
    test._noise = 1.0  # as stated
    last = test.result()
    assert last is not None
    assert last.z == pytest.approx(slope * math.sqrt(((frames - frames.mean()) ** 2).sum()) / sigma, rel=1e-3)
    assert last.since == 0


def test_it_needs_some_blocks() -> None:
    found = fed(np.arange(5.0), np.zeros(5), 1.0)
    assert found[:3] == [None] * 3
    assert found[3] is not None


def test_a_beginning_is_found_where_it_is() -> None:
    rng = np.random.default_rng(1)
    frames = 5.0 * np.arange(40)
    last = fed(frames, np.maximum(frames - 100, 0) * 0.2 + 0.5 * rng.normal(size=40), 0.5)[-1]
    assert last is not None
    assert last.z > 10
    assert abs(last.since - 100) <= 15


def test_a_falling_B_is_no_damage() -> None:
    last = fed(np.arange(30.0), -0.5 * np.arange(30.0), 1.0)[-1]
    assert last is not None
    assert last.z <= 0


@pytest.mark.parametrize("noise", [1.0, 1.7])
def test_noise_alone_seldom_looks_like_growth(noise: float) -> None:
    """Also where blocks scatter more widely than they say: their own scatter is looked at."""
    rng = np.random.default_rng(2)
    largest = []
    for _ in range(60):
        found = fed(np.arange(50.0), noise * rng.normal(size=50), 1.0)
        largest.append(max(each.z for each in found if each is not None))
    assert np.mean(np.array(largest) > 5.0) <= 0.05


def test_what_goes_with_twice_the_angle_is_anisotropy() -> None:
    """A tensor of +-3 A^2 turned by 180 deg: hardly more than noise; the same rise without rotation is growth."""
    frames = np.arange(0.0, 60.0)
    b = 3.0 * np.sin(2 * np.deg2rad(frames) - 0.6)
    turning = max(each.z for each in fed(frames, b, 1.0, step_deg=1.0) if each is not None)
    still = max(each.z for each in fed(frames, b, 1.0) if each is not None)
    assert turning < 3.0 < still


def test_an_error_that_goes_with_the_scale_is_no_growth() -> None:
    """A crystal leaves the beam, to a quarter; B seems to rise by 1.5 A^2 for each e-fold, as the threshold's correction may have it."""
    log_scale = -np.clip(0.05 * np.arange(60.0), 0.0, 1.4)
    test, blind = ChangeTest(0.0), ChangeTest(0.0)
    for frame, its in enumerate(log_scale):
        test.add(float(frame), -1.5 * its, 0.5, its)
        blind.add(float(frame), -1.5 * its, 0.5)
    seen, wrong = test.result(), blind.result()
    assert seen is not None
    assert wrong is not None
    assert seen.z < 2.0 < 5.0 < wrong.z


def test_its_memory_is_bounded() -> None:
    test = ChangeTest(0.1)
    for frame in range(1000):
        test.add(float(frame), 0.0, 1.0)
        assert len(test) <= MOST_BLOCKS
    last = test.result()
    assert last is not None
    assert abs(last.z) < 1e-6


def test_joining_keeps_the_evidence() -> None:
    """Of a ramp in 200 blocks: least squares on all of them, less the price of so many looks."""
    n, sigma, slope = 200, 20.0, 0.1
    frames = np.arange(float(n))
    test = ChangeTest(0.0)
    for frame in frames:
        test.add(frame, slope * frame, sigma)
    test._noise = 1.0
    last = test.result()
    assert last is not None
    full = slope * math.sqrt(((frames - frames.mean()) ** 2).sum()) / sigma
    assert last.z == pytest.approx(math.sqrt(full**2 - 4.0 * math.log(n / 10)), rel=0.03)


def test_probability_grows_with_z_and_rates_fall_with_it() -> None:
    z = np.linspace(-30, 60, 50)
    p = [probability_of(float(x)) for x in z]
    assert all(b >= a for a, b in pairwise(p))
    assert all(0.0 <= x <= 1.0 for x in p)
    rates = [rate for _, rate in ALARMS_PER_1000]
    assert rates == sorted(rates, reverse=True)


def test_a_rate_between_two_of_the_table_lies_between_their_levels() -> None:
    (z1, r1), (z2, r2) = ALARMS_PER_1000[1:3]
    assert raise_at(r1) == pytest.approx(probability_of(z1), abs=1e-4)
    assert probability_of(z1) < raise_at(math.sqrt(r1 * r2)) < probability_of(z2)
    assert raise_at(1e9) == pytest.approx(probability_of(ALARMS_PER_1000[0][0]), abs=1e-4)
