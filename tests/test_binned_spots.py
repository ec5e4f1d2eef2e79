"""Spots that show only in bins: held against a slow loop, seen where they are, and not where rings, edges and hot pixels are."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from synthetic import GEOMETRY, Floats, run_of, scattered, with_spots

from triage import binned_spots
from triage.binned_spots import BINNED_FEATURES, Binned, binned_features
from triage.core import Run
from triage.features import SPOT_FEATURES
from triage.preprocess import Preprocess
from triage.spots import DispersionFinder

SHAPE = (512, 512)
KNOWN, UNKNOWN = run_of(geometry=GEOMETRY), run_of()
SLOW, FAST = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
RADIUS = np.hypot(SLOW - GEOMETRY.beam_px[0], FAST - GEOMETRY.beam_px[1])


def told(counts: np.ndarray, run: Run = UNKNOWN) -> dict[str, float]:
    """The binned features of a frame, counts as they are and no logarithms."""
    spots = DispersionFinder().find(counts, run)
    features = Preprocess()(counts, spots, run).features[len(SPOT_FEATURES) : len(SPOT_FEATURES) + len(BINNED_FEATURES)]
    return dict(zip(BINNED_FEATURES, np.expm1(features.astype(float)).tolist(), strict=True))


def drawn(expected: Floats, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).poisson(expected).astype(np.uint16)


@pytest.mark.parametrize(("background", "photons"), [(0.005, 40.0), (0.02, 45.0), (0.2, 90.0), (1.0, 180.0)])
def test_broad_spots_of_few_photons_are_seen_where_the_finder_sees_hardly_any(background: float, photons: float) -> None:
    places = scattered(np.random.default_rng(3), 30, SHAPE, apart=40.0, margin=30.0)
    counts = drawn(with_spots(np.full(SHAPE, background), places, photons, width=3.5), 1)
    assert len(DispersionFinder().find(counts, UNKNOWN)) < 8
    found = told(counts)
    assert 22 <= found["binned_log_count_new"] <= 32
    assert found["binned_log_z_new_16"] > 5.0


@pytest.mark.parametrize("background", [0.002, 0.05, 1.0, 20.0, 400.0])
def test_noise_is_none(background: float) -> None:
    counts = [told(drawn(np.full(SHAPE, background), seed))["binned_log_count"] for seed in range(5)]
    assert np.mean(counts) <= 0.4


def test_what_the_finder_has_seen_is_not_new() -> None:
    places = scattered(np.random.default_rng(5), 40, SHAPE, apart=30.0, margin=30.0)
    found = told(drawn(with_spots(np.full(SHAPE, 0.5), places, 400.0, width=1.2), 2))
    assert found["binned_log_count"] >= 38
    assert found["binned_log_count_unseen"] == pytest.approx(0.0, abs=1e-6)


def _ring(width: float) -> Floats:
    return 2.0 + 6.0 * np.exp(-0.5 * ((RADIUS - 130.0) / width) ** 2)


@pytest.mark.parametrize(
    "expected",
    [
        pytest.param(_ring(2.5), id="thin ring"),
        pytest.param(_ring(9.0), id="broad ring"),
        pytest.param(np.where(RADIUS < 150.0, 1.0, 6.0), id="edge of a shadow"),
        pytest.param(np.where(np.abs(FAST - 300.0) < 1.0, 40.0, 1.0), id="hot columns"),
        pytest.param(np.where(SLOW < 256, 3.0, 5.0), id="modules of different response"),
        pytest.param(30.0 * np.exp(-RADIUS / 60.0) + 0.1, id="steep slope"),
    ],
)
def test_smooth_structure_is_none(expected: Floats) -> None:
    found = [told(drawn(expected, seed)) for seed in range(4)]
    assert np.mean([one["binned_log_count"] for one in found]) <= 4.0
    assert np.mean([one["binned_log_count_new_7_sigma"] for one in found]) <= 0.3


def test_hot_pixels_are_none() -> None:
    counts = drawn(np.full(SHAPE, 0.05), 4)
    places = np.random.default_rng(6).integers(0, 512, (60, 2))
    counts[tuple(places.T)] = 3000
    assert told(counts)["binned_log_count"] < 1.5


def test_textured_ice_is_counted_and_not_clean() -> None:
    angles = np.random.default_rng(8).uniform(0, 2 * math.pi, 40)
    places = np.array(GEOMETRY.beam_px) + 170.0 * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    counts = drawn(with_spots(np.full(SHAPE, 0.05), places, 60.0, width=3.0), 9)
    known, unknown = told(counts, KNOWN), told(counts, UNKNOWN)
    assert known["binned_log_count"] == unknown["binned_log_count"] == unknown["binned_log_count_clean"] > 15
    assert known["binned_log_count_clean"] <= 2


def test_masked_and_half_masked_bins_are_left_out() -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:, 200:230] = True
    expected = with_spots(np.full(SHAPE, 0.02), scattered(np.random.default_rng(3), 12, SHAPE, apart=60.0, margin=40.0), 60.0, width=3.5)
    masked = np.where(mask, 60000, drawn(expected, 1)).astype(np.uint16)
    found = told(masked, run_of(mask=mask))
    assert 5 <= found["binned_log_count"] <= 13
    assert told(np.full(SHAPE, 65535, dtype=np.uint16))["binned_log_count"] == 0.0


def _slow_significance(mean: Floats, largest: Floats, number: Floats, i: int, j: int) -> float:
    """Of one window, read from the module's own words."""
    bins = [(k, m) for k in (i, i + 1) for m in (j, j + 1)]
    if any(number[at] == 0 for at in bins):
        return 0.0
    inside = {(k, m) for k in range(mean.shape[0]) for m in range(mean.shape[1])}
    around = [
        (k, m)
        for k in range(i - 4, i + 6)
        for m in range(j - 4, j + 6)
        if (k, m) in inside and not (i - 1 <= k < i + 3 and j - 1 <= m < j + 3)
    ]
    used = [at for at in around if number[at] > 0]
    if len(used) < 20:
        return 0.0
    signal, area = sum(mean[at] * number[at] for at in bins) - max(largest[at] for at in bins), sum(number[at] for at in bins) - 1

    def density(places: list[tuple[int, int]]) -> float:
        return float(sum(mean[at] * number[at] for at in places) / sum(number[at] for at in places))

    pairs = []
    for d, e in ((0, 3), (3, 0), (3, 3), (3, -3)):
        both = [(k + s * d, m + s * e) for s in (1, -1) for k, m in bins]
        if all(at in inside and number[at] > 0 for at in both):
            pairs.append(density(both))
    background = density(used)
    if not pairs or signal <= background * area + 2.0 * math.sqrt(background * area):
        return 0.0
    expected = max(background, *pairs) * area
    scatter = float(np.var([mean[at] for at in used])) * area**2 / 4 if len(used) else 0.0
    return 2.0 * (math.sqrt(signal + 0.375) - math.sqrt(expected + 0.375)) / math.sqrt(max(scatter / max(expected, 1e-6), 1.0))


@pytest.mark.parametrize("seed", range(3))
def test_every_window_has_the_significance_of_a_slow_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    number = np.where(rng.random((26, 31)) < 0.06, 0.0, rng.uniform(9.0, 16.0, (26, 31)))
    mean = np.where(number > 0, rng.gamma(0.7, 0.6, number.shape), 0.0)
    largest = mean * rng.uniform(1.0, 4.0, number.shape)
    found = binned_spots._significance(mean, largest, number)
    expected = [[_slow_significance(mean, largest, number, i, j) for j in range(30)] for i in range(25)]
    assert np.allclose(found[:25, :30], expected, rtol=1e-7, atol=1e-7)
    assert (found > 2.0).any()


def test_a_frame_turned_tells_the_same() -> None:
    places = scattered(np.random.default_rng(3), 30, SHAPE, apart=40.0, margin=30.0)
    counts = drawn(with_spots(np.full(SHAPE, 0.02), places, 45.0, width=3.5), 1)
    straight, turned = told(counts), told(np.ascontiguousarray(np.rot90(counts)))
    assert straight == pytest.approx(turned, rel=1e-5)


def test_names_and_numbers_agree_and_an_empty_frame_is_all_zeros() -> None:
    nothing = Binned(
        mean=np.zeros((8, 8)),
        largest=np.zeros((8, 8)),
        number=np.full((8, 8), 16.0),
        seen=np.zeros((8, 8), dtype=bool),
        level=np.zeros((8, 8), dtype=np.uint8),
    )
    assert binned_features(nothing).shape == (len(BINNED_FEATURES),)
    assert not binned_features(nothing).any()
    assert not binned_features(replace(nothing, number=np.zeros((8, 8)))).any()
