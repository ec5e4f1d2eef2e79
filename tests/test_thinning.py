"""Binomial thinning. Truths: moments of the binomial and Poisson distributions, frames made of known spots, real frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import GEOMETRY, photons_for, run_of, scattered, with_spots

from training.thinning import Exposure, ThinningError, difference, photons, superposed, thinned
from triage.core import Mask, Run, RunHeader
from triage.geometry import Geometry
from triage.sources.files import FileSource
from triage.sources.resolve import RunResolver
from triage.spots import DispersionFinder

SHAPE = GEOMETRY.shape_px
N = SHAPE[0] * SHAPE[1]


def exposure(pixels: Any, *, mask: Mask | None = None, geometry: Geometry | None = GEOMETRY, **header: Any) -> Exposure:
    pixels = np.asarray(pixels)
    return Exposure(pixels=pixels, run=run_of(geometry=geometry, mask=mask, shape_px=pixels.shape, **header))


def poisson(rng: np.random.Generator, mean: float | np.ndarray) -> np.ndarray:
    return rng.poisson(mean, SHAPE).astype(np.int32)


@pytest.mark.parametrize("share", [0.03, 0.5, 0.9])
def test_photons_are_kept_one_by_one(share: float) -> None:
    """Mean n p and variance n p (1 - p) of the binomial distribution; nothing of nothing."""
    kept = thinned(np.full(SHAPE, 40, dtype=np.int64), share, np.random.default_rng(1))
    variance = 40 * share * (1 - share)
    assert kept.mean() == pytest.approx(40 * share, abs=5 * np.sqrt(variance / N))
    assert kept.var() == pytest.approx(variance, rel=5 * np.sqrt(2.0 / N) + 0.01)
    assert not thinned(np.zeros(SHAPE, dtype=np.int64), share, np.random.default_rng(1)).any()


@pytest.mark.parametrize(("one_mean", "other_mean"), [(3.0, 0.2), (30.0, 30.0)])
def test_the_sum_of_thinned_poisson_frames_is_poisson(one_mean: float, other_mean: float) -> None:
    """Mean and variance are both p a + (1 - p) b, pixels are independent, and the third cumulant is the mean, too."""
    rng = np.random.default_rng(2)
    found = superposed(exposure(poisson(rng, one_mean)), exposure(poisson(rng, other_mean)), shares=(0.7, 0.3), rng=rng)
    mean = 0.7 * one_mean + 0.3 * other_mean
    counts = found.counts.astype(float)
    assert counts.mean() == pytest.approx(mean, abs=5 * np.sqrt(mean / N))
    # The variance of a sample variance: (mean + 2 mean^2) / N for Poisson counts.
    assert counts.var() == pytest.approx(mean, abs=5 * np.sqrt((mean + 2 * mean**2) / N))
    deviation = counts - mean
    # Of the third central moment: (mu6 - mu3^2) / N, with mu6 = 15 m^3 + 25 m^2 + m.
    assert (deviation**3).mean() == pytest.approx(mean, abs=5 * np.sqrt((15 * mean**3 + 24 * mean**2 + mean) / N))
    assert (deviation[:, 1:] * deviation[:, :-1]).mean() == pytest.approx(0.0, abs=5 * mean / np.sqrt(N))


def test_what_is_kept_does_not_tell_what_was_thrown_away() -> None:
    rng = np.random.default_rng(3)
    counts = rng.poisson(20.0, SHAPE)
    kept = thinned(counts, 0.4, rng).astype(float)
    covariance = ((kept - 8.0) * (counts - kept - 12.0)).mean()
    assert covariance == pytest.approx(0.0, abs=5 * np.sqrt(8.0 * 12.0 / N))


def test_whole_shares_are_the_plain_sum_and_the_same_seed_the_same_frame() -> None:
    rng = np.random.default_rng(4)
    one, other = exposure(poisson(rng, 3.0)), exposure(poisson(rng, 2.0))
    assert np.array_equal(superposed(one, other, shares=(1.0, 1.0), rng=rng).counts, one.pixels + other.pixels)
    first, again = (superposed(one, other, shares=(0.5, 0.5), rng=np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first.counts, again.counts)
    assert np.array_equal(first.counts, sum(first.parts))
    with pytest.raises(ValueError, match="p > 1"):
        superposed(one, other, shares=(1.5, 0.5), rng=rng)


def test_what_either_frame_does_not_know_is_no_data() -> None:
    """Pilatus -1 and -2, masked pixels, saturated ones, and negative counts that no header explains."""
    one, other = np.full(SHAPE, 50, dtype=np.int32), np.full(SHAPE, 60, dtype=np.int32)
    mask = np.zeros(SHAPE, dtype=bool)
    one[0, 0], one[0, 1], one[0, 2], mask[0, 3], other[0, 4], other[0, 5] = -1, -2, 1000, True, 2000, -7
    found = superposed(
        exposure(one, mask=mask, negative_is_no_data=True, saturation_value=1000.0),
        exposure(other, saturation_value=2000.0),
        shares=(0.5, 0.5),
        rng=np.random.default_rng(1),
    )
    assert found.run.mask is not None
    assert [tuple(at) for at in np.argwhere(found.run.mask)] == [(0, k) for k in range(6)]
    assert not found.counts[found.run.mask].any()
    assert found.counts[~found.run.mask].min() > 0
    assert found.run.valid_range(found.counts.dtype)[1] > found.counts.max()


def test_no_data_values_of_unsigned_frames_are_no_photons() -> None:
    pixels = np.array([[7, 65533, 65534, 65535]], dtype=np.uint16)
    counts, known = photons(exposure(pixels, geometry=None))
    assert counts.tolist() == [[7, 65533, 0, 0]]
    assert known.tolist() == [[True, True, False, False]]


def test_float_frames_of_whole_photons_are_photons() -> None:
    pixels = np.array([[0.0, 3.0, np.nan, -1.0]], dtype=np.float32)
    counts, known = photons(exposure(pixels, geometry=None))
    assert counts.tolist() == [[0, 3, 0, 0]]
    assert known.tolist() == [[True, True, False, False]]


@pytest.mark.parametrize(
    ("pixels", "header"),
    [
        (np.ones(SHAPE, dtype=np.int32), {"counts_per_photon": 2.5}),
        (np.ones(SHAPE, dtype=np.int32), {"offset": 10.0}),
        (np.full(SHAPE, 0.5, dtype=np.float32), {}),
    ],
)
def test_frames_that_do_not_count_photons_are_refused(pixels: np.ndarray, header: dict[str, float]) -> None:
    good = exposure(np.ones(SHAPE, dtype=np.int32))
    with pytest.raises(ThinningError, match=r"synthetic: not photons .*; only frames of photon-counting detectors can be thinned"):
        superposed(good, exposure(pixels, **header), shares=(0.5, 0.5), rng=np.random.default_rng(1))


def geometry(**changes: Any) -> Geometry:
    values = {name: getattr(GEOMETRY, name) for name in ("wavelength_A", "distance_mm", "pixel_mm", "beam_px", "shape_px")}
    return Geometry(**(values | changes))


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (geometry(wavelength_A=1.03), "different wavelength_A"),
        (geometry(distance_mm=42.0), "different distance_mm"),
        (geometry(beam_px=(251.0, 270.0)), "different beam_px"),
        (geometry(pixel_mm=(0.172, 0.172)), "different pixel_mm"),
        (geometry(slow_axis=(0.0, 0.995, 0.0998)), "the detector stands at different angles"),
        (None, "the geometry of one is unknown"),
    ],
)
def test_frames_of_another_experiment_are_refused(other: Geometry | None, problem: str) -> None:
    one = run_of(geometry=GEOMETRY, shape_px=SHAPE)
    assert difference(one, one) is None
    assert (difference(one, run_of(geometry=other, shape_px=SHAPE)) or "").startswith(problem)


def test_without_geometry_shape_and_detector_must_agree() -> None:
    def bare(shape: tuple[int, int], detector: str) -> Run:
        return Run(id="r", header=RunHeader(source="r", shape_px=shape, detector=detector), kind=None, geometry=None)

    assert difference(bare((4, 4), "A"), bare((4, 4), "A")) is None
    assert difference(bare((4, 4), "A"), bare((4, 4), "B")) == "different detectors, and no geometry"
    assert difference(bare((4, 4), "A"), bare((4, 5), "A")) == "different shapes ((4, 4), (4, 5))"


# how many lattices a superposition shows


@pytest.fixture
def pairs() -> Any:
    """The module; the rule's numbers are the simulator's, which needs torch."""
    return pytest.importorskip("training.labels.pairs")


def crystal(rng: np.random.Generator, positions: np.ndarray, *, i_over_sigma: float = 40.0) -> Exposure:
    expected = with_spots(np.full(SHAPE, 1.0), positions, photons_for(i_over_sigma, 1.0))
    return exposure(rng.poisson(expected).astype(np.int32))


@pytest.mark.torch
@pytest.mark.parametrize(("n_second", "expected"), [(30, 2), (9, 2), (6, None), (2, 1), (0, 1)])
def test_a_second_lattice_counts_from_eight_separable_spots(pairs: Any, n_second: int, expected: int | None) -> None:
    rng = np.random.default_rng(5)
    positions = scattered(rng, 80, SHAPE)
    one, other = crystal(rng, positions[:50]), crystal(rng, positions[50 : 50 + n_second])
    found = superposed(one, other, shares=(0.5, 0.5), rng=rng)
    assert pairs.lattices_seen(found, second_is_crystal=n_second > 0) == expected


@pytest.mark.torch
def test_the_same_spots_twice_are_one_lattice_and_too_few_of_them_none(pairs: Any) -> None:
    rng = np.random.default_rng(6)
    positions = scattered(rng, 60, SHAPE)
    twins = superposed(crystal(rng, positions), crystal(rng, positions), shares=(0.7, 0.3), rng=rng)
    assert pairs.lattices_seen(twins, second_is_crystal=True) == 1
    weak = superposed(crystal(rng, positions[:5]), crystal(rng, positions[:0]), shares=(0.5, 0.5), rng=rng)
    assert pairs.lattices_seen(weak, second_is_crystal=False) is None


@pytest.mark.torch
def test_a_lattice_that_is_dimmed_away_does_not_count(pairs: Any) -> None:
    rng = np.random.default_rng(7)
    positions = scattered(rng, 80, SHAPE)
    one, other = crystal(rng, positions[:50]), crystal(rng, positions[50:], i_over_sigma=8.0)
    bright, dim = (superposed(one, other, shares=shares, rng=rng) for shares in ((0.3, 0.7), (0.97, 0.03)))
    assert (pairs.lattices_seen(bright, second_is_crystal=True), pairs.lattices_seen(dim, second_is_crystal=True)) == (2, 1)


# real frames


def real(folder: Path, name: str) -> Exposure:
    _, frame, _ = FileSource([str(folder / "real" / name)], resolver=RunResolver())
    return Exposure(pixels=frame.decode(), run=frame.run)  # type: ignore[union-attr]


@pytest.mark.torch
@pytest.mark.fixtures
@pytest.mark.parametrize("ratio", [1.0, 0.1])
def test_two_real_lattices_are_seen_in_their_sum(pairs: Any, fixtures_dir: Path, ratio: float) -> None:
    """Two orientations of one small-cell crystal, strong spots; each frame is one lattice."""
    one, other = (real(fixtures_dir, f"ximg{number}_00001.cbf") for number in (2700, 2701))
    found = superposed(one, other, shares=(1 / (1 + ratio), ratio / (1 + ratio)), rng=np.random.default_rng(1))
    finder = DispersionFinder()
    assert len(finder.find(found.counts, found.run)) > len(finder.find(found.parts[0], found.run)) + 50
    assert pairs.lattices_seen(found, second_is_crystal=True) == 2
    assert found.run.mask is not None
    assert np.array_equal(found.run.mask, (one.pixels < 0) | (other.pixels < 0))
    for twin in (one, other):
        twins = superposed(twin, twin, shares=(0.6, 0.4), rng=np.random.default_rng(1))
        assert pairs.lattices_seen(twins, second_is_crystal=True) == 1


@pytest.mark.fixtures
def test_real_frames_of_different_experiments_are_refused(fixtures_dir: Path) -> None:
    one, other = (real(fixtures_dir, name) for name in ("run2_1_00148.cbf.bz2", "DLS_I03_smargon_0001.cbf.gz"))
    with pytest.raises(ThinningError, match="different wavelength_A"):
        superposed(one, other, shares=(0.5, 0.5), rng=np.random.default_rng(1))
