"""Faint broad spots: found where they are, held against a slow loop, and not found in noise, rings, edges, lines and hot pixels."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import GEOMETRY, Floats, match, photons_for, run_of, scattered, with_spots

from triage import faint_spots
from triage.core import Run
from triage.faint_spots import FAINT_FEATURES, FaintSpots, faint_features, find_faint_spots
from triage.features import FEATURE_NAMES, SPOT_FEATURES
from triage.preprocess import Preprocess
from triage.spots import DispersionFinder

SHAPE = (512, 512)
KNOWN, UNKNOWN = run_of(geometry=GEOMETRY), run_of()
SLOW, FAST = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
RADIUS = np.hypot(SLOW - GEOMETRY.beam_px[0], FAST - GEOMETRY.beam_px[1])


def drawn(expected: Floats, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).poisson(expected).astype(np.uint16)


def found(counts: np.ndarray, run: Run = UNKNOWN, least: float = 5.0) -> FaintSpots:
    faint = find_faint_spots(counts, DispersionFinder().find(counts, run), run)
    return FaintSpots.of_table(faint.as_table()[faint.z > least])


def told(faint: FaintSpots, run: Run = UNKNOWN, found: tuple[float, ...] = ()) -> dict[str, float]:
    """The features, counts as they are and no logarithms."""
    values = np.expm1(faint_features(faint, run, np.array(found)).astype(float))
    return dict(zip(FAINT_FEATURES, values.tolist(), strict=True))


@pytest.mark.parametrize("background", [0.005, 0.5, 5.0])
@pytest.mark.parametrize("width", [2.5, 3.5, 4.5])
def test_broad_spots_of_few_photons_are_found_where_the_finder_finds_hardly_any(background: float, width: float) -> None:
    places = scattered(np.random.default_rng(3), 30, SHAPE, apart=50.0, margin=30.0)
    counts = drawn(with_spots(np.full(SHAPE, background), places, photons_for(7.0, background, width), width), 1)
    by_the_finder = match(DispersionFinder().find(counts, UNKNOWN).positions_px, places, within=2.5 * width)
    faint = match(found(counts).positions_px, places, within=2.5 * width)
    assert len(by_the_finder.true) < 15
    assert len(set(by_the_finder.true) | set(faint.true)) >= 22
    assert faint.false <= 1
    assert np.median(np.hypot(*faint.error_px.T)) < 0.6 * width


def test_the_window_that_a_spot_fills_best_says_how_wide_it_is() -> None:
    places = scattered(np.random.default_rng(4), 20, SHAPE, apart=60.0, margin=40.0)
    widths = []
    for width in (2.0, 3.0, 4.5):
        counts = drawn(with_spots(np.full(SHAPE, 1.0), places, photons_for(8.0, 1.0, width), width), 2)
        widths.append(np.mean(found(counts).width_px))
    assert widths[0] + 1.0 < widths[1] < widths[2] - 1.0


@pytest.mark.parametrize("background", [0.002, 0.05, 1.0, 20.0, 400.0])
def test_noise_is_none(background: float) -> None:
    assert sum(len(found(drawn(np.full(SHAPE, background), seed))) for seed in range(5)) <= 2


def test_the_noise_of_an_integrating_detector_is_none() -> None:
    rng = np.random.default_rng(6)
    counts = (rng.poisson(20.0, SHAPE) * 3.0 + rng.normal(10.0, 6.0, SHAPE)).round().astype(np.int32)
    assert len(found(counts, run_of(offset=10.0))) <= 1


def test_what_the_finder_has_found_is_not_found_again() -> None:
    places = scattered(np.random.default_rng(5), 40, SHAPE, apart=30.0, margin=30.0)
    counts = drawn(with_spots(np.full(SHAPE, 0.5), places, 400.0, width=1.2), 2)
    assert len(DispersionFinder().find(counts, UNKNOWN)) == 40
    assert len(found(counts)) == 0


def _ring(width: float) -> Floats:
    return 2.0 + 6.0 * np.exp(-0.5 * ((RADIUS - 130.0) / width) ** 2)


def _with_a_gap(expected: Floats) -> Floats:
    expected = expected.copy()
    expected[240:270] = 0.0
    return expected


@pytest.mark.parametrize(
    "expected",
    [
        pytest.param(_ring(2.5), id="thin ring"),
        pytest.param(_ring(9.0), id="broad ring"),
        pytest.param(_with_a_gap(_ring(4.0)), id="ring across a gap"),
        pytest.param(np.where(RADIUS < 150.0, 1.0, 6.0), id="edge of a shadow"),
        pytest.param(np.where(np.abs(FAST - 300.0) < 1.0, 40.0, 1.0), id="hot columns"),
        pytest.param(np.where(SLOW < 256, 3.0, 5.0), id="modules of different response"),
        pytest.param(30.0 * np.exp(-RADIUS / 60.0) + 0.1, id="steep slope"),
    ],
)
def test_smooth_structure_is_none(expected: Floats) -> None:
    mask = expected == 0.0
    run = run_of(geometry=GEOMETRY, mask=mask if mask.any() else None)
    clean = [told(found(drawn(expected, seed), run), run)["faint_log_count_clean"] for seed in range(4)]
    assert np.mean(clean) <= 1.5


def test_hot_pixels_and_zingers_are_none() -> None:
    rng = np.random.default_rng(7)
    counts = drawn(np.full(SHAPE, 0.05), 4)
    counts[tuple(rng.integers(0, 512, (2, 60)))] = 30_000
    counts[tuple(rng.integers(0, 512, (2, 60)))] = 12
    assert len(found(counts)) == 0


def test_masked_pixels_and_those_without_data_are_no_background() -> None:
    places = scattered(np.random.default_rng(8), 20, SHAPE, apart=60.0, margin=40.0)
    counts = drawn(with_spots(np.full(SHAPE, 2.0), places, photons_for(9.0, 2.0, 3.0), 3.0), 3)
    whole = match(found(counts).positions_px, places, within=5.0).recall
    lines = np.zeros(SHAPE, dtype=bool)
    lines[::32] = True
    counts[::64] = 65535
    counts[32::64] = 900
    holed = match(found(counts, run_of(mask=lines)).positions_px, places, within=5.0)
    assert whole >= 0.9
    assert holed.recall >= whole - 0.3
    assert holed.false == 0


def test_large_frames_are_looked_at_in_larger_windows() -> None:
    shape = (2600, 2600)
    places = scattered(np.random.default_rng(9), 20, shape, apart=100.0, margin=60.0)
    counts = drawn(with_spots(np.full(shape, 0.5), places, photons_for(8.0, 0.5, 4.0), 4.0), 3)
    faint = found(counts)
    assert match(faint.positions_px, places, within=8.0).recall >= 0.7
    assert set(np.unique(faint.width_px)) <= {8.0, 12.0, 16.0, 24.0, 32.0}


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (17, 15), (40, 40), (512, 20)])
def test_frames_smaller_than_what_is_looked_for(shape: tuple[int, int]) -> None:
    assert len(found(np.full(shape, 3, dtype=np.uint16))) == 0
    assert len(found(np.full(shape, 65535, dtype=np.uint16))) == 0


def _slow_significance(photons: Floats, usable: Floats, i: int, j: int, width: int) -> float:
    """`_against_surroundings` for photon counting, written to be read."""
    least = 0.8 * (2 * width) ** 2

    def rate(k: int, m: int) -> float | None:
        if k < 0 or m < 0 or k + width > len(photons) or m + width > len(photons[0]):
            return None
        area = usable[k : k + width, m : m + width].sum()
        return float(photons[k : k + width, m : m + width].sum() / area) if area >= least else None

    here, area, step = rate(i, j), usable[i : i + width, j : j + width].sum(), width + 1
    if here is None:
        return 0.0
    pairs = []
    for k, m in ((0, step), (step, 0), (step, step), (step, -step), *((k * step // 2, m * step // 2) for k, m in faint_spots._SIDES[4:])):
        sides = [x for x in (rate(i - k, j - m), rate(i + k, j + m)) if x is not None]
        if sides:
            pairs.append(np.mean(sides))
    around = [rate(i + k * step, j + m * step) for k in range(-2, 3) for m in range(-2, 3) if (k, m) != (0, 0)]
    rates = sorted(x for x in around if x is not None)
    if not pairs or len(rates) < 10:
        return 0.0
    kept = np.array(rates[3:-3])
    mean, counting = kept.mean(), max(kept.mean(), 1e-3) / area
    uneven = kept.var() / 0.36 / counting
    stretch = uneven if uneven > 1.4**2 else 1.0

    def z(background: float) -> float:
        return float(2.0 * (np.sqrt(here * area + 0.375) - np.sqrt(background * area + 0.375)))

    if z(max(pairs)) < 4.0 - 2.5:
        return 0.0
    return z(max(pairs) if max(pairs) > mean + 2.5 * np.sqrt(0.5 * counting) else mean) / float(np.sqrt(stretch))


def test_significance_is_that_of_a_slow_loop() -> None:
    rng = np.random.default_rng(10)
    photons = rng.poisson(2.0 + 20.0 * (rng.random((48, 40)) < 0.03), (48, 40)).astype(np.float32)
    usable = np.full(photons.shape, 4.0, dtype=np.float32)
    usable[:, 20:22] = usable[5, 5] = 0.0
    photons[usable == 0.0] = 0.0
    cells = faint_spots.Cells(photons, usable, np.full((6, 5), 0.5, dtype=np.float32), 2)
    noise, ordered = np.array([1.0, 0.0], dtype=np.float32), np.empty(24)
    compared = 0
    for width in (2, 3, 6):
        for i in range(0, 48 - width, 3):
            for j in range(0, 40 - width, 2):
                slow = _slow_significance(photons.astype(float), usable.astype(float), i, j, width)
                assert faint_spots._against_surroundings(cells, i, j, width, noise, ordered) == pytest.approx(slow, abs=1e-4)
                compared += slow > 0.0
    assert compared > 30


def test_features_of_a_known_list() -> None:
    table = np.array([[100.0, 100.0, 8.0, 6.0], [200.0, 150.0, 6.5, 12.0], [300.0, 320.0, 5.5, 6.0], [400.0, 10.0, 4.5, 16.0]])
    values = told(FaintSpots.of_table(table[::-1].astype(np.float32)), found=(20.0, 6.0, 3.0))
    counts = [values[f"faint_log_count{name}"] for name in ("", "_clean", "_clean_6_sigma", "_clean_7_sigma")]
    assert counts == pytest.approx([3, 3, 2, 1], rel=1e-5)
    assert values["faint_log_width_px"] + 1.0 == pytest.approx((6.0 * 12.0 * 6.0) ** (1 / 3), rel=1e-5)
    assert [values[f"faint_log_z_clean_{n}"] for n in (1, 4, 8)] == pytest.approx([8.0, 4.5, 0.0], rel=1e-5)
    assert values["any_log_count_clean_5_sigma"] == pytest.approx(5.0, rel=1e-5)
    assert values["any_log_i_over_sigma_clean_4"] == pytest.approx(6.0, rel=1e-5)


def test_what_crowds_on_a_line_or_a_ring_is_not_clean() -> None:
    rng = np.random.default_rng(11)
    line = np.column_stack([np.full(30, 77.0), np.arange(30) * 16.0 + 8.0])
    angle = rng.uniform(0, 2 * np.pi, 40)
    ring = np.asarray(GEOMETRY.beam_px) + 180.0 * np.column_stack([np.sin(angle), np.cos(angle)])
    few = rng.uniform(20, 490, (6, 2))
    places = np.concatenate([line, ring, few])
    faint = FaintSpots.of_table(np.column_stack([places, np.full(len(places), 6.0), np.full(len(places), 8.0)]).astype(np.float32))
    assert told(faint, run_of(geometry=GEOMETRY, shape_px=SHAPE))["faint_log_count_clean"] <= 10
    assert told(faint, run_of(shape_px=SHAPE))["faint_log_count_clean"] == pytest.approx(46, abs=4)


def test_they_are_the_last_of_the_features_and_older_models_do_not_pay_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = drawn(np.full(SHAPE, 0.5), 1)
    spots = DispersionFinder().find(counts, UNKNOWN)
    assert FEATURE_NAMES[-len(FAINT_FEATURES) :] == FAINT_FEATURES
    new = Preprocess()(counts, spots, UNKNOWN)

    def never(*_: object) -> FaintSpots:
        raise AssertionError("looked for")

    monkeypatch.setattr("triage.preprocess.find_faint_spots", never)
    old = Preprocess(n_features=len(FEATURE_NAMES) - len(FAINT_FEATURES))(counts, spots, UNKNOWN)
    assert np.array_equal(old.features, new.features[: -len(FAINT_FEATURES)])
    assert len(old.faint) == 0
    assert len(SPOT_FEATURES) < len(old.features)
