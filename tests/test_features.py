"""Statistics of spots against closed forms, slow loops, and what they must and must not depend on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from synthetic import GEOMETRY, Floats, run_of

from triage.core import FloatArray, Run, Spots
from triage.features import FEATURE_NAMES, N_FEATURES, SPOT_FEATURES, beam_check, spot_features
from triage.lattice_features import LATTICE_FEATURES
from triage.ranks import crowded_along


def spots_at(positions: Floats, *, intensity: Floats | None = None, run: Run | None = None, on_ice: np.ndarray | None = None) -> Spots:
    n = len(positions)
    strength = np.linspace(900.0, 100.0, n) if intensity is None else intensity
    geometry = run.geometry if run is not None else None
    return Spots(
        positions_px=positions.astype(np.float32),
        intensity=strength.astype(np.float32),
        sigma=np.sqrt(strength).astype(np.float32),
        background=np.full(n, 2.0, dtype=np.float32),
        peak=(2.0 + strength / 4).astype(np.float32),
        n_pixels=np.full(n, 7, dtype=np.int32),
        inverse_d_per_A=None if geometry is None else geometry.inverse_d_per_A(positions).astype(np.float32),
        on_ice=np.zeros(n, dtype=bool) if on_ice is None else on_ice,
    )


def named(spots: Spots, run: Run) -> dict[str, float]:
    return dict(zip(SPOT_FEATURES, spot_features(spots, run).tolist(), strict=True))


KNOWN, UNKNOWN = run_of(geometry=GEOMETRY), run_of()
SCATTERED = np.random.default_rng(1).uniform(5, 507, (120, 2))


def test_every_feature_has_one_name() -> None:
    assert len(set(FEATURE_NAMES)) == N_FEATURES == len(FEATURE_NAMES)


@pytest.mark.parametrize("n", [0, 1, 2, 5, 6, 7, 8, 300, 2000])
@pytest.mark.parametrize("run", [KNOWN, UNKNOWN], ids=["geometry", "no geometry"])
def test_features_are_finite_for_any_number_of_spots(n: int, run: Run) -> None:
    found = spot_features(spots_at(np.random.default_rng(n).uniform(0, 512, (n, 2)), run=run), run)
    assert found.shape == (len(SPOT_FEATURES),)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


@pytest.mark.parametrize("positions", [np.full((50, 2), 40.0), np.stack([np.full(50, 9.0), np.arange(50.0)], axis=1)], ids=["point", "row"])
def test_spots_in_one_place_or_row_are_survived(positions: Floats) -> None:
    assert np.isfinite(spot_features(spots_at(positions, run=KNOWN), KNOWN)).all()


def test_no_spots_are_all_zeros() -> None:
    assert not spot_features(spots_at(np.zeros((0, 2))), KNOWN).any()


def test_counts_strengths_and_sizes_are_what_their_names_say() -> None:
    on_ice = np.arange(120) < 30
    spots = spots_at(SCATTERED, intensity=np.full(120, 400.0), run=KNOWN, on_ice=on_ice)
    found = named(spots, KNOWN)
    expected = {
        "log_count": math.log(121),
        "log_count_off_ice": math.log(91),
        "fraction_on_ice": 0.25,
        "log_background": math.log(2.01),
        "geometry_known": 1.0,
        **{f"log_i_over_sigma_q{q}": math.log(21) for q in (10, 50, 90, 100)},  # 400 / 20
        **{f"log_n_pixels_q{q}": math.log(7) for q in (10, 50, 90)},
        **{f"peak_fraction_q{q}": 0.25 for q in (10, 50, 90)},
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    s = sorted(float(value) for value in GEOMETRY.inverse_d_per_A(SCATTERED))
    assert found["s_q50"] == pytest.approx((s[59] + s[60]) / 2, rel=1e-5)
    assert s[5] < found["s_q5"] < s[6]
    assert s[113] < found["s_q95"] < s[114]


def test_without_geometry_everything_radial_is_zero_and_the_rest_is_unchanged() -> None:
    spots = spots_at(SCATTERED, run=KNOWN)
    known, unknown = named(spots, KNOWN), named(replace(spots, inverse_d_per_A=None), UNKNOWN)
    radial = {"geometry_known", "azimuthal_unevenness", "powder_likeness", *(f"s_q{q}" for q in (5, 25, 50, 75, 95))}
    assert {name for name in SPOT_FEATURES if known[name] != unknown[name]} - set(LATTICE_FEATURES) == radial
    assert not any(unknown[name] for name in LATTICE_FEATURES)
    assert not any(unknown[name] for name in radial)


def test_nearest_neighbours_agree_with_a_slow_loop() -> None:
    positions = SCATTERED.astype(np.float32).astype(float)
    first, second = [], []
    for i, at in enumerate(positions):
        others = sorted(math.dist(at, other) for j, other in enumerate(positions) if j != i)
        first.append(others[0])
        second.append(others[1])
    low, high = np.percentile(positions, 5, axis=0), np.percentile(positions, 95, axis=0)
    typical = math.sqrt((high - low).prod() / len(positions))
    found = named(spots_at(SCATTERED), UNKNOWN)
    for q in (5, 25, 50, 75):
        assert found[f"log_neighbour_px_q{q}"] == pytest.approx(np.percentile(np.log(np.array(first) + 0.1), q), abs=1e-4)
    for q in (5, 25, 50):
        assert found[f"log_neighbour_relative_q{q}"] == pytest.approx(np.percentile(np.log(np.array(first) / typical + 1e-3), q), abs=1e-4)
    for q in (5, 50):
        assert found[f"log_second_neighbour_relative_q{q}"] == pytest.approx(
            np.percentile(np.log(np.array(second) / typical + 1e-3), q), abs=1e-4
        )


def test_relative_distances_do_not_depend_on_the_detectors_size_or_place() -> None:
    small = named(spots_at(SCATTERED), UNKNOWN)
    large = named(spots_at(3.0 * SCATTERED + 100.0), UNKNOWN)
    for name in SPOT_FEATURES:
        if "relative" in name:
            assert large[name] == pytest.approx(small[name], abs=1e-3)
    assert large["log_neighbour_px_q50"] == pytest.approx(small["log_neighbour_px_q50"] + math.log(3.0), abs=0.05)


def test_a_lattice_repeats_itself_and_chance_does_not() -> None:
    rng = np.random.default_rng(3)
    cells = np.stack(np.meshgrid(np.arange(-6, 7), np.arange(-6, 7)), axis=-1).reshape(-1, 2).astype(float)
    lattice = 256.0 + cells @ np.array([[31.0, 7.0], [-9.0, 38.0]]) + rng.normal(0, 0.3, (169, 2))
    chance = rng.uniform(lattice.min(), lattice.max(), (169, 2))
    ordered, disordered = named(spots_at(lattice), UNKNOWN), named(spots_at(chance), UNKNOWN)
    assert ordered["pair_repeats_mean"] > disordered["pair_repeats_mean"] + 1.0
    assert ordered["pair_repeats_q90"] > disordered["pair_repeats_q90"] + 1.0


def ring(radius_px: Floats, azimuth: Floats) -> Floats:
    places: Floats = np.asarray(GEOMETRY.beam_px) + radius_px[:, None] * np.stack([np.sin(azimuth), np.cos(azimuth)], axis=-1)
    return places


def test_spots_on_rings_look_like_a_powder() -> None:
    rng = np.random.default_rng(4)
    azimuth = rng.uniform(-np.pi, np.pi, 200)
    rings = ring(rng.choice([120.0, 180.0], 200), azimuth)
    spread = ring(np.sqrt(rng.uniform(40.0**2, 240.0**2, 200)), azimuth)
    powder, crystal = (named(spots_at(positions, run=KNOWN), KNOWN)["powder_likeness"] for positions in (rings, spread))
    assert powder > crystal + 2.0


def test_unevenness_is_that_of_twelve_sectors() -> None:
    middles = (np.arange(12) + 0.5) * np.pi / 6 - np.pi
    radius = np.full(48, 150.0)
    even = named(spots_at(ring(radius, np.repeat(middles, 4)), run=KNOWN), KNOWN)
    assert even["azimuthal_unevenness"] == pytest.approx(0.0, abs=1e-6)
    one_sector = named(spots_at(ring(radius, np.full(48, middles[5])), run=KNOWN), KNOWN)
    assert one_sector["azimuthal_unevenness"] == pytest.approx(math.sqrt(11.0), rel=1e-5)  # std / mean of (48, 0, ..., 0)


def crystal_like(n: int, seed: int) -> Floats:
    return np.random.default_rng(seed).uniform(5, 507, (n, 2))


def test_spots_of_a_hot_column_are_not_counted_as_clean() -> None:
    column = np.stack([np.linspace(10.0, 500.0, 60), np.full(60, 201.4)], axis=1)
    found = named(spots_at(np.concatenate([crystal_like(40, 5), column]), run=UNKNOWN), UNKNOWN)
    assert found["share_on_lines"] == pytest.approx(0.6, abs=0.02)
    assert np.expm1(found["log_count_clean"]) == pytest.approx(40, abs=2)
    assert named(spots_at(crystal_like(40, 5), run=UNKNOWN), UNKNOWN)["share_on_lines"] == 0.0


@pytest.mark.parametrize("half_px", [0.75, 1.5])
@pytest.mark.parametrize("least", [0, 9])
def test_a_crowd_on_an_axis_is_counted_as_a_slow_loop_counts_it(half_px: float, least: int) -> None:
    rng = np.random.default_rng(3)
    places = np.concatenate([rng.integers(0, 4 * 500, 90) / 4, 201.0 + rng.integers(-8, 9, 40) / 4])  # quarters: ties at the border
    expected = len(places) * 2 * half_px / 500
    most = max(least, expected + 6 * math.sqrt(expected) + 4)
    near = [sum(one - half_px < other < one + half_px for other in places.tolist()) for one in places.tolist()]
    found = crowded_along(places, 500, half_px=half_px, least=least)
    assert found.tolist() == [n > most for n in near]
    assert found.any()


def test_spots_of_a_powder_ring_are_not_counted_as_clean() -> None:
    angle = np.random.default_rng(8).uniform(0, 2 * np.pi, 90)
    beam = np.asarray(GEOMETRY.beam_px)
    ring = beam + 150.0 * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    ring = ring[((ring > 1) & (ring < 511)).all(axis=1)]
    found = named(spots_at(np.concatenate([crystal_like(50, 6), ring]), run=KNOWN), KNOWN)
    assert found["share_in_rings"] == pytest.approx(len(ring) / (50 + len(ring)), abs=0.05)
    assert named(spots_at(crystal_like(50, 6), run=KNOWN), KNOWN)["share_in_rings"] == 0.0


def test_the_nth_strongest_clean_spot_is_told() -> None:
    strength = np.array([10000.0, 3600.0, 900.0, 400.0, 100.0, 81.0, 64.0, 36.0, 25.0, 9.0])
    found = named(spots_at(crystal_like(10, 9), intensity=strength, run=UNKNOWN), UNKNOWN)
    assert np.expm1([found[f"log_i_over_sigma_clean_{n}"] for n in (1, 4, 8, 16)]) == pytest.approx([100.0, 20.0, 6.0, 0.0], rel=1e-4)
    assert np.expm1(found["log_count_clean_5_sigma"]) == pytest.approx(9.0, rel=1e-4)
    assert found["log_rotation_deg"] == pytest.approx(math.log(0.01))


def told(positions: Floats, run: Run) -> FloatArray:
    """All that a model is given: with nothing seen but spots."""
    return np.concatenate([spot_features(spots_at(positions, run=run), run), np.zeros(N_FEATURES - len(SPOT_FEATURES), dtype=np.float32)])


def test_the_beam_is_checked_where_there_are_spots_and_geometry_enough() -> None:
    features = told(SCATTERED, KNOWN)
    found = dict(zip(FEATURE_NAMES, features.tolist(), strict=True))
    check = beam_check(features)
    assert check is not None
    assert (check.stated, check.moved) == (found["lattice_share_unmoved"], found["lattice_share_explained"])
    assert check.moved_px == pytest.approx(np.expm1(found["lattice_log_moved_px"]))
    assert beam_check(told(SCATTERED, UNKNOWN)) is None
    assert beam_check(told(SCATTERED[:20], KNOWN)) is None
