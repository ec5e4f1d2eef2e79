"""The spot finder agrees, spot by spot, with one written to be read; each of its rules decides somewhere."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from slow_spots import Row, SlowFinder
from synthetic import Floats, photons_for, run_of, with_spots

from triage.core import Mask, Pixels
from triage.spots import DispersionFinder, as_table

SHAPE = (118, 137)  # not whole tiles
SLOW, FAST = np.mgrid[: SHAPE[0], : SHAPE[1]]
NO_DATA = 65535


def gaps() -> Mask:
    """Dead pixels, a gap between modules, a corner cut off."""
    mask: Mask = np.random.default_rng(99).random(SHAPE) < 0.01
    mask[:, 60:66] = True
    mask[84:, 110:] = True
    return mask


def counted(rng: np.random.Generator, expected: Floats, level: float, spots: int = 18) -> npt.NDArray[np.int64]:
    """Poisson counts of `expected` with some spots: some touch, some lie at the edge or in the gap."""
    true = rng.uniform(2, np.array(SHAPE) - 2, (spots, 2))
    return rng.poisson(with_spots(expected, true, photons_for(9.0, level) * rng.exponential(2.0, spots)))


def agreed(pixels: Pixels, mask: Mask, *, offset: float = 0.0) -> tuple[SlowFinder, list[Row]]:
    """Asserts that both finders find the same; returns the slow one, and what it found."""
    slow = SlowFinder(np.where(mask, np.nan, pixels - offset))
    expected = slow.find()
    found = as_table(DispersionFinder().find(pixels, run_of(mask=mask, offset=offset)))
    assert len(found) == len(expected) > 6
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-3)
    return slow, expected


@pytest.mark.parametrize(("level", "seed"), [(0.05, 1), (0.5, 2), (3.0, 3), (15.0, 4), (90.0, 5), (400.0, 1)])
def test_on_a_slope_with_gaps(level: float, seed: int) -> None:
    photons = counted(np.random.default_rng(seed), level * (1 + FAST / 60), level)
    agreed(np.where(gaps(), NO_DATA, photons).astype(np.uint16), gaps())


@pytest.mark.parametrize(("width_px", "height", "rule"), [(3.0, 50.0, "too large"), (8.0, 25.0, "crest"), (6.0, 20.0, "crest")])
def test_on_a_powder_ring(width_px: float, height: float, rule: str) -> None:
    ring = 5.0 + height * np.exp(-0.5 * ((np.hypot(SLOW - 59, FAST - 60) - 40) / width_px) ** 2)
    photons = counted(np.random.default_rng(2), ring, 20.0)
    slow, _ = agreed(photons.astype(np.uint16), np.zeros(SHAPE, dtype=bool))
    assert slow.ruled[rule] > 0


@pytest.mark.parametrize("level", [1.0, 20.0])
def test_with_hot_pixels(level: float) -> None:
    photons = counted(np.random.default_rng(1), np.full(SHAPE, level), level)
    photons[8::16, 8::16] += 100
    photons[0:8:16, 3::16] += 60
    slow, _ = agreed(photons.astype(np.uint16), np.zeros(SHAPE, dtype=bool))
    assert slow.ruled["lone"] > 0


def test_with_regions_larger_than_a_spot() -> None:
    photons = counted(np.random.default_rng(1), np.full(SHAPE, 1.0), 1.0)
    photons[40:43, 20:100] += 50
    photons[80:100, 80:108] += 30
    slow, _ = agreed(photons.astype(np.uint16), np.zeros(SHAPE, dtype=bool))
    assert slow.ruled["too large"] > 2


def test_with_uneven_pixels() -> None:
    rng = np.random.default_rng(1)
    response = 1.0 + 0.08 * rng.standard_normal(SHAPE) * (FAST > 110)
    slow, _ = agreed(counted(rng, 400.0 * response, 400.0).astype(np.uint16), np.zeros(SHAPE, dtype=bool))
    assert slow.ruled["uneven"] > 0


@pytest.mark.parametrize(("gain", "read_noise"), [(1.0, 6.0), (3.0, 4.0)])
def test_with_read_noise_and_an_unstated_gain(gain: float, read_noise: float) -> None:
    rng = np.random.default_rng(1)
    values = 40.0 + gain * counted(rng, 20.0 * (0.2 + FAST / 60), 20.0) + rng.normal(0.0, read_noise, SHAPE)
    slow, _ = agreed(np.where(gaps(), np.nan, values).astype(np.float32), gaps(), offset=40.0)
    assert slow.noise[1] > 0.5 * read_noise**2
    assert (slow.noise[0] > 1.5) == (gain > 1.5)
