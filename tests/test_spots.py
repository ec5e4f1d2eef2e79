"""Spots against truth: frames made from known spots, and ice's cell."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from synthetic import GEOMETRY, Floats, match, photons_for, run_of, scattered, with_spots

from triage.core import Pixels, Run, Spots
from triage.spots import ICE_HALF_WIDTH, ICE_RINGS_A, DispersionFinder, as_spots, as_table, on_ice_ring, summarise

SHAPE = (512, 512)
FINDER = DispersionFinder()


def background_of(kind: str, level: float) -> Floats:
    """Expected photons a pixel: flat, a twentyfold slope, or a broad ring on air scatter, of about `level`."""
    slow, fast = np.mgrid[: SHAPE[0], : SHAPE[1]]
    radius = np.hypot(slow - 251.3, fast - 262.7)
    if kind == "flat":
        return np.full(SHAPE, level)
    if kind == "slope":
        return np.asarray(level * (0.1 + 1.8 * fast / SHAPE[1]))
    return level * (0.3 + 0.6 * np.exp(-0.5 * ((radius - 170.0) / 25.0) ** 2) + 1.5 * np.exp(-radius / 60.0))


def at(image: Floats, positions: Floats) -> Floats:
    found: Floats = image[positions[:, 0].astype(int), positions[:, 1].astype(int)]
    return found


def same(first: Spots, second: Spots) -> bool:
    """Whether two lists of spots are equal to the last bit."""
    pairs = ((getattr(first, f.name), getattr(second, f.name)) for f in fields(Spots))
    return all((a is None and b is None) or np.array_equal(a, b) for a, b in pairs)


# Known spots, known places


@pytest.mark.parametrize("level", [0.02, 0.2, 1.0, 5.0, 20.0, 50.0])
@pytest.mark.parametrize("kind", ["flat", "slope", "ring"])
def test_known_spots_are_found_where_they_are(kind: str, level: float) -> None:
    rng = np.random.default_rng(11)
    background = background_of(kind, level)
    true = scattered(rng, 120, SHAPE)
    photons = photons_for(10.0, at(background, true))
    found = FINDER.find(rng.poisson(with_spots(background, true, photons)).astype(np.uint16), run_of())
    matched = match(found.positions_px, true)
    assert matched.recall >= 0.98
    assert matched.false <= 4  # of 262,144 pixels
    assert np.abs(matched.error_px.mean(axis=0)).max() < 0.06
    assert matched.error_px.std(axis=0).max() < 0.3
    recovered = np.median(found.intensity[matched.found] / photons[matched.true])
    assert 0.8 < recovered < 1.02  # a weak spot's tails stay below the threshold


def test_strong_spots_are_measured_to_a_tenth_of_a_pixel_and_a_few_per_cent() -> None:
    rng = np.random.default_rng(2)
    true = scattered(rng, 100, SHAPE)
    found = FINDER.find(rng.poisson(with_spots(np.full(SHAPE, 1.0), true, 4000.0)).astype(np.uint16), run_of())
    matched = match(found.positions_px, true)
    assert (matched.recall, matched.false) == (1.0, 0)
    assert np.abs(matched.error_px).max() < 0.1
    assert np.median(found.intensity[matched.found]) == pytest.approx(4000.0, rel=0.02)
    assert np.median(found.background[matched.found]) == pytest.approx(1.0, abs=0.3)  # a strong spot's tails reach into its window
    # Poisson: the scatter of the intensities is what sigma says.
    assert found.intensity.std() == pytest.approx(np.median(found.sigma), rel=0.25)


@pytest.mark.parametrize(("i_over_sigma", "low", "high"), [(3.0, 0.0, 0.25), (6.0, 0.75, 1.0), (8.0, 0.93, 1.0)])
def test_recall_rises_with_strength(i_over_sigma: float, low: float, high: float) -> None:
    rng = np.random.default_rng(4)
    true = scattered(rng, 150, SHAPE)
    image = with_spots(np.full(SHAPE, 2.0), true, photons_for(i_over_sigma, 2.0))
    matched = match(FINDER.find(rng.poisson(image).astype(np.uint16), run_of()).positions_px, true)
    assert low <= matched.recall <= high


def test_the_first_pixels_centre_is_at_one_half() -> None:
    pixels = np.zeros((40, 40), dtype=np.uint16)
    pixels[10, 20], pixels[10, 21] = 100, 100
    found = FINDER.find(pixels, run_of())
    np.testing.assert_allclose(found.positions_px, [[10.5, 21.0]])
    assert (found.intensity[0], found.peak[0], found.n_pixels[0]) == (200.0, 100.0, 2)
    assert found.sigma[0] == pytest.approx(math.sqrt(200.0))


def test_spots_come_strongest_first_and_are_finite() -> None:
    rng = np.random.default_rng(8)
    true = scattered(rng, 80, SHAPE)
    image = with_spots(np.full(SHAPE, 0.5), true, rng.uniform(100, 5000, 80))
    found = FINDER.find(rng.poisson(image).astype(np.uint16), run_of(geometry=GEOMETRY))
    assert len(found) >= 78
    assert (np.diff(found.intensity) <= 0).all()
    assert (found.sigma > 0).all()
    assert all(np.isfinite(getattr(found, f.name)).all() for f in fields(Spots))
    assert ((found.positions_px > 0) & (found.positions_px < SHAPE)).all()


def test_a_table_of_spots_makes_the_same_spots() -> None:
    rng = np.random.default_rng(8)
    image = with_spots(np.full(SHAPE, 0.5), scattered(rng, 80, SHAPE), rng.uniform(100, 5000, 80))
    found = FINDER.find(rng.poisson(image).astype(np.uint16), run_of(geometry=GEOMETRY))
    assert as_table(found).dtype == np.float32
    assert same(found, as_spots(as_table(found), run_of(geometry=GEOMETRY)))


# Types, gains, and what is no data


def test_a_frame_has_the_same_spots_in_every_type() -> None:
    rng = np.random.default_rng(5)
    image = with_spots(background_of("ring", 2.0), scattered(rng, 90, SHAPE), 150.0)
    photons = rng.poisson(image)
    gap = np.zeros(SHAPE, dtype=bool)
    gap[195:212], gap[:, 300:310] = True, True
    frames: list[tuple[Pixels, Run]] = [
        (np.where(gap, 2**16 - 1, photons).astype(np.uint16), run_of()),
        (np.where(gap, 2**32 - 2, photons).astype(np.uint32), run_of()),
        (np.where(gap, -1, photons).astype(np.int32), run_of(negative_is_no_data=True)),
        (np.where(gap, np.nan, photons).astype(np.float32), run_of()),
        (np.where(gap, 9999, photons).astype(np.uint16), run_of(mask=gap)),
        (np.where(gap, -7777.0, photons).astype(">f8"), run_of(mask=gap)),
    ]
    first = FINDER.find(*frames[0])
    assert len(first) > 60
    assert not gap[first.positions_px[:, 0].astype(int), first.positions_px[:, 1].astype(int)].any()
    assert all(same(first, FINDER.find(*frame)) for frame in frames[1:])


def test_masked_pixels_change_nothing() -> None:
    rng = np.random.default_rng(6)
    pixels = rng.poisson(with_spots(background_of("flat", 1.0), scattered(rng, 60, SHAPE), 200.0)).astype(np.uint16)
    mask = rng.random(SHAPE) < 0.03
    mask[100:140, 200:260] = True
    mask[:, -1] = True
    quiet, loud = np.where(mask, 0, pixels).astype(np.uint16), np.where(mask, 60_000, pixels).astype(np.uint16)
    run = run_of(mask=mask)
    expected = FINDER.find(quiet, run)
    assert len(expected) > 40
    assert same(expected, FINDER.find(loud, run))


def test_zeros_under_the_mask_change_nothing_on_a_bright_background() -> None:
    rng = np.random.default_rng(2)
    photons = rng.poisson(with_spots(background_of("flat", 50.0), scattered(rng, 100, SHAPE), photons_for(9.0, 50.0)))
    run = run_of(mask=rng.random(SHAPE) < 0.03)
    assert run.mask is not None
    expected = FINDER.find(np.where(run.mask, 65535, photons).astype(np.uint16), run)
    assert same(expected, FINDER.find(np.where(run.mask, 0, photons).astype(np.uint16), run))


def test_spots_beside_a_module_gap_are_found() -> None:
    rng = np.random.default_rng(7)
    fast = np.arange(20.0, 500.0, 16.0)
    beside = np.concatenate([np.stack([np.full_like(fast, edge), fast + rng.uniform(0, 1, len(fast))], axis=1) for edge in (193.5, 213.5)])
    pixels = rng.poisson(with_spots(background_of("flat", 1.0), beside, 200.0)).astype(np.uint32)
    pixels[195:212] = 2**32 - 1
    matched = match(FINDER.find(pixels, run_of()).positions_px, beside)
    assert (matched.recall, matched.false) == (1.0, 0)


@pytest.mark.parametrize(
    ("offset", "gain", "dtype"), [(0.0, 8.0, "int32"), (-37.0, 16.0, "int32"), (120.5, 7.25, "float32"), (-3.0, 0.125, "float32")]
)
def test_stated_offset_and_gain_give_the_photons_spots(offset: float, gain: float, dtype: str) -> None:
    rng = np.random.default_rng(9)
    photons = rng.poisson(with_spots(background_of("slope", 2.0), scattered(rng, 90, SHAPE), 180.0))
    expected = FINDER.find(photons.astype(np.float32), run_of())
    found = FINDER.find((offset + gain * photons).astype(dtype), run_of(offset=offset, counts_per_photon=gain))
    assert len(found) == len(expected) > 80
    np.testing.assert_allclose(found.positions_px, expected.positions_px, atol=0.01)
    np.testing.assert_allclose(found.intensity, expected.intensity, rtol=1e-3)
    np.testing.assert_allclose(found.sigma, expected.sigma, rtol=1e-3)


def test_read_noise_and_an_unstated_gain_make_few_spots_and_hide_no_strong_ones() -> None:
    rng = np.random.default_rng(10)
    true = scattered(rng, 40, SHAPE)
    run = run_of(offset=40.0)
    for gain, read in ((1.0, 6.0), (3.0, 4.0)):
        blank = 40.0 + gain * rng.poisson(20.0, SHAPE) + rng.normal(0.0, read, SHAPE)
        assert len(FINDER.find(blank.astype(np.float32), run)) <= 5
        seen = 40.0 + gain * rng.poisson(with_spots(np.full(SHAPE, 20.0), true, 1500.0)) + rng.normal(0.0, read, SHAPE)
        matched = match(FINDER.find(np.rint(seen).astype(np.uint16), run).positions_px, true)
        assert matched.recall == 1.0
        assert matched.false <= 5


# Nothing there


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 16), (17, 33), (1, 2000), (300, 200)])
def test_empty_frames_have_no_spots(shape: tuple[int, int]) -> None:
    everything = np.ones(shape, dtype=bool)
    blanks: list[tuple[Pixels, Run]] = [
        (np.zeros(shape, dtype=np.uint16), run_of()),
        (np.full(shape, 7, dtype=np.uint32), run_of()),
        (np.full(shape, 65535, dtype=np.uint16), run_of()),
        (np.full(shape, np.nan, dtype=np.float32), run_of()),
        (np.full(shape, -1, dtype=np.int32), run_of(negative_is_no_data=True)),
        (np.full(shape, 900, dtype=np.uint16), run_of(mask=everything)),
    ]
    for pixels, run in blanks:
        found = FINDER.find(pixels, run)
        assert len(found) == 0
        assert found.positions_px.shape == (0, 2)
        summary = summarise(found)
        assert (summary.count, summary.count_no_ice, summary.resolution_A, summary.mean_i_over_sigma) == (0, 0, None, None)
        assert summary.total_intensity == 0.0


@pytest.mark.parametrize(("level", "per_million"), [(0.001, 0), (0.02, 0), (0.3, 0), (1.0, 1), (5.0, 2), (20.0, 3), (50.0, 4), (400.0, 6)])
def test_noise_alone_gives_a_few_spots_in_a_million_pixels(level: float, per_million: int) -> None:
    rng = np.random.default_rng(12)
    n = sum(len(FINDER.find(rng.poisson(level, (1000, 1000)).astype(np.uint16), run_of())) for _ in range(2))
    assert n <= 2 * per_million


@pytest.mark.parametrize("seed", range(3))
def test_uneven_pixels_in_half_of_a_bright_frame_give_few_spots(seed: int) -> None:
    rng = np.random.default_rng(seed)
    response = 1.0 + 0.05 * rng.standard_normal(SHAPE) * (np.arange(SHAPE[1]) > 256)
    assert len(FINDER.find(rng.poisson(400.0 * response).astype(np.uint16), run_of())) <= 40  # of 131,072 such pixels


def grid_of(value: int, level: float, seed: int) -> Pixels:
    """A noisy frame of one pixel in 32 x 32 lifted by `value`: 256 of them."""
    pixels = np.random.default_rng(seed).poisson(level, SHAPE)
    pixels[16::32, 16::32] += value
    return pixels.astype(np.uint16)


@pytest.mark.parametrize("level", [0.02, 1.0])
def test_hot_pixels_and_zingers_are_not_spots(level: float) -> None:
    for seed in range(3):
        assert len(FINDER.find(grid_of(1000, level, seed), run_of())) <= 5
        assert len(FINDER.find(grid_of(5000, level, seed), run_of())) <= 3


@pytest.mark.parametrize("value", [100, 1000])
@pytest.mark.parametrize("level", [5.0, 20.0])
def test_few_hot_pixels_on_a_bright_background_are_spots(level: float, value: int) -> None:
    for seed in range(3):
        assert len(FINDER.find(grid_of(value, level, seed), run_of())) <= 16  # one in sixteen


@pytest.mark.parametrize(("width_px", "height", "most"), [(3.0, 50.0, 4), (12.0, 10.0, 3), (8.0, 5.0, 2), (8.0, 25.0, 8)])
def test_smooth_powder_rings_give_few_spots(width_px: float, height: float, most: int) -> None:
    rng = np.random.default_rng(13)
    ring = 5.0 + height * np.exp(-0.5 * ((distance_from_centre() - 160.0) / width_px) ** 2)
    assert len(FINDER.find(rng.poisson(ring).astype(np.uint16), run_of())) <= most


def test_a_shadows_edge_gives_few_spots() -> None:
    rng = np.random.default_rng(13)
    for bright, dark in ((10.0, 0.05), (3.0, 0.05), (30.0, 1.0)):
        shadow = np.where(distance_from_centre() < 200.0, bright, dark)
        assert len(FINDER.find(rng.poisson(shadow).astype(np.uint16), run_of())) <= 10  # along 1,257 px


def distance_from_centre() -> Floats:
    slow, fast = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.hypot(slow - 256.0, fast - 256.0)


def test_a_region_larger_than_any_spot_is_no_spot_in_pieces() -> None:
    pixels = np.random.default_rng(0).poisson(1.0, SHAPE)
    pixels[100:103, 10:500] += 50
    pixels[200:240, 200:240] += 30
    assert len(FINDER.find(pixels.astype(np.uint16), run_of())) == 0


@pytest.mark.xfail(strict=True, reason="a ring three times the background or more is one region, refused with the spots on it")
def test_strong_spots_on_a_strong_ring_are_found() -> None:
    rng = np.random.default_rng(0)
    ring = 5.0 + 25.0 * np.exp(-0.5 * ((distance_from_centre() - 160.0) / 3.0) ** 2)
    azimuth = np.arange(0.0, 2.0 * np.pi, np.pi / 25.0)
    true = 256.0 + 160.0 * np.stack([np.sin(azimuth), np.cos(azimuth)], axis=1)
    found = FINDER.find(rng.poisson(with_spots(ring, true, photons_for(60.0, 30.0))).astype(np.uint16), run_of())
    assert match(found.positions_px, true).recall > 0.5


@pytest.mark.xfail(
    strict=True, reason="growth from a shadow's edge floods its bright side and is refused: half of the spots there go with it"
)
def test_strong_spots_inside_the_edge_of_a_deep_shadow_are_found() -> None:
    rng = np.random.default_rng(0)
    azimuth = np.arange(0.0, 2.0 * np.pi, np.pi / 15.0)
    true = 256.0 + 190.0 * np.stack([np.sin(azimuth), np.cos(azimuth)], axis=1)
    shadow = np.where(distance_from_centre() < 200.0, 15.0, 1.0)
    found = FINDER.find(rng.poisson(with_spots(shadow, true, 10_000.0, width=1.2)).astype(np.uint16), run_of())
    assert match(found.positions_px, true).recall > 0.8


@pytest.mark.xfail(strict=True, reason="a region is one spot: neighbours whose tails touch are merged, or refused for their size")
def test_strong_neighbours_six_widths_apart_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    first = scattered(rng, 20, SHAPE, apart=60.0, margin=40.0)
    true = np.concatenate([first, first + np.array((0.0, 9.0))])
    found = FINDER.find(rng.poisson(with_spots(np.full(SHAPE, 20.0), true, 100_000.0, width=1.5)).astype(np.uint16), run_of())
    assert match(found.positions_px, true).recall > 0.5


def crowded(n: int, seed: int) -> float:
    """The share found of the spots above I/sigma 10, of n with exponential intensities, in cells of 21 x 21 px on 1 photon a pixel."""
    rng = np.random.default_rng(seed)
    cells = np.stack(np.meshgrid(np.arange(24), np.arange(24), indexing="ij"), axis=-1).reshape(-1, 2)
    true = 12.0 + 21.0 * cells[:n] + rng.uniform(-6, 6, (n, 2))
    photons = photons_for(30.0, 1.0) * rng.exponential(1.0, n)
    found = FINDER.find(rng.poisson(with_spots(np.full(SHAPE, 1.0), true, photons)).astype(np.uint16), run_of())
    return match(found.positions_px, true[photons > photons_for(10.0, 1.0)]).recall


@pytest.mark.parametrize("n", [300, 550])
def test_a_photon_counters_spots_are_found_also_where_they_crowd(n: int) -> None:
    assert min(crowded(n, seed) for seed in range(3)) > 0.9


# Ice and the summary


def hexagonal_ice(a: float = 4.498, c: float = 7.338) -> dict[tuple[int, int, int], float]:
    """d of ice Ih's reflections down to 1.2 A (cell near 100 K: Rottger et al., Acta Cryst. B50 (1994) 644), less absences."""
    indices = [(h, k, m) for h in range(4) for k in range(h + 1) for m in range(7) if (h, k, m) != (0, 0, 0)]
    d = {(h, k, m): (4.0 / 3.0 * (h * h + h * k + k * k) / a**2 + m * m / c**2) ** -0.5 for h, k, m in indices}
    return {hkl: value for hkl, value in d.items() if value > 1.2 and not (hkl[0] == hkl[1] and hkl[2] % 2)}


def test_ice_rings_lie_where_ices_cell_puts_them() -> None:
    allowed = np.array(sorted(hexagonal_ice().values()))
    nearest = np.abs(np.array(ICE_RINGS_A)[:, None] / allowed - 1.0).min(axis=1)
    assert nearest.max() < ICE_HALF_WIDTH / 2
    assert list(ICE_RINGS_A) == sorted(ICE_RINGS_A, reverse=True)
    for hkl in ((1, 0, 0), (0, 0, 2), (1, 0, 1), (1, 0, 2), (1, 1, 0), (1, 0, 3)):  # the six strongest
        assert on_ice_ring(1.0 / hexagonal_ice()[hkl])


def test_spots_are_tagged_when_they_lie_on_an_ice_ring() -> None:
    """Places at a given d by the definition: radius = distance tan(2 asin(lambda / 2 d))."""
    azimuth = np.deg2rad(np.arange(0, 360, 30.0) + 7.0)
    d = np.array([3.897, 3.669, 3.441, 2.671] * 3)
    wrong = np.array([4.2, 3.78, 3.555, 3.0] * 3)
    ring = [spot_at(value, angle) for value, angle in zip(d, azimuth, strict=True)]
    off = [spot_at(value, angle + 0.25) for value, angle in zip(wrong, azimuth, strict=True)]
    everything = np.array(ring + off)
    image = with_spots(np.full(SHAPE, 0.1), everything, 400.0)
    pixels = np.random.default_rng(1).poisson(image).astype(np.uint16)
    found = FINDER.find(pixels, run_of(geometry=GEOMETRY))
    matched = match(found.positions_px, everything)
    assert (matched.recall, matched.false) == (1.0, 0)
    assert found.on_ice[matched.found].tolist() == [True] * 12 + [False] * 12
    assert found.inverse_d_per_A is not None
    np.testing.assert_allclose(1.0 / found.inverse_d_per_A[matched.found], [*d, *wrong], rtol=2e-3)
    unknown = FINDER.find(pixels, run_of())
    assert unknown.inverse_d_per_A is None
    assert not unknown.on_ice.any()
    assert summarise(found).count_no_ice == 12
    assert summarise(unknown).count_no_ice == 24


def spot_at(d_A: float, azimuth: float) -> tuple[float, float]:
    two_theta = 2.0 * math.asin(GEOMETRY.wavelength_A / (2.0 * d_A))
    radius = GEOMETRY.distance_mm * math.tan(two_theta) / GEOMETRY.pixel_mm[0]
    return GEOMETRY.beam_px[0] + radius * math.sin(azimuth), GEOMETRY.beam_px[1] + radius * math.cos(azimuth)


def listed(intensity: list[float], sigma: list[float], s: list[float] | None, on_ice: list[bool]) -> Spots:
    n = len(intensity)
    numbers = {name: np.ones(n, dtype=np.float32) for name in ("background", "peak")}
    return Spots(
        positions_px=np.zeros((n, 2), dtype=np.float32),
        intensity=np.array(intensity, dtype=np.float32),
        sigma=np.array(sigma, dtype=np.float32),
        n_pixels=np.full(n, 5, dtype=np.int32),
        inverse_d_per_A=None if s is None else np.array(s, dtype=np.float32),
        on_ice=np.array(on_ice),
        **numbers,
    )


def test_the_summary_counts_sums_and_reaches_as_far_as_19_of_20_spots_off_ice() -> None:
    s = [*np.linspace(0.1, 0.5, 21), 0.9]  # the 95th percentile of the first 21 is the 20th: 0.48
    spots = listed([10.0] * 22, [2.0] * 11 + [5.0] * 11, s, [False] * 21 + [True])
    summary = summarise(spots)
    assert (summary.count, summary.count_no_ice, summary.total_intensity) == (22, 21, 220.0)
    assert summary.resolution_A == pytest.approx(1 / 0.48)
    assert summary.mean_i_over_sigma == pytest.approx(3.5)
    assert summarise(listed([1.0] * 4, [1.0] * 4, [0.2] * 4, [False] * 4)).resolution_A is None
    assert summarise(replace(spots, inverse_d_per_A=None)).resolution_A is None
