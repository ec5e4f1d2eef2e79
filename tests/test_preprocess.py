"""The network's input against a slow obvious loop, and what must never change it."""

from __future__ import annotations

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import GEOMETRY, run_of, scattered, with_spots

from triage.core import Mask, Pixels, Run, Spots
from triage.features import N_FEATURES, SPOT_FEATURES
from triage.preprocess import N_CHANNELS, Inputs, Preprocess
from triage.spots import DispersionFinder

SMALL = Preprocess(size=24, n_crops=5, crop_px=8)


def listed(positions: list[tuple[float, float]], intensity: list[float], sigma: list[float], background: float = 1.0) -> Spots:
    n = len(positions)
    return Spots(
        positions_px=np.array(positions, dtype=np.float32).reshape(n, 2),
        intensity=np.array(intensity, dtype=np.float32),
        sigma=np.array(sigma, dtype=np.float32),
        background=np.full(n, background, dtype=np.float32),
        peak=np.array([value / 3 for value in intensity], dtype=np.float32),
        n_pixels=np.full(n, 6, dtype=np.int32),
        inverse_d_per_A=None,
        on_ice=np.zeros(n, dtype=bool),
    )


NO_SPOTS = listed([], [], [])


def equal(first: Inputs, second: Inputs) -> bool:
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in ("image", "crops", "features"))


# The same, slowly


def byte(unit: float) -> int:
    return round(255.0 * min(max(unit, 0.0), 1.0))


def significance(photons: float, background: float) -> float:
    z = 2.0 * (math.sqrt(photons + 0.375) - math.sqrt(background + 0.375))
    return math.log1p(max(z, 0.0)) / math.log1p(400.0)


def slow_image(pre: Preprocess, photons: np.ndarray, usable: Mask, spots: Spots, run: Run) -> np.ndarray:
    """Bin by bin; limits in exact integers: bin i of n begins at pixel ceil(i length / n)."""
    canvas = np.zeros((N_CHANNELS, pre.size, pre.size), dtype=np.uint8)
    bins = [max(1, round(length * pre.size / max(photons.shape))) for length in photons.shape]
    limits = [[-(-i * length // n) for i in range(n + 1)] for length, n in zip(photons.shape, bins, strict=True)]
    corner = [(pre.size - n) // 2 for n in bins]
    for i in range(bins[0]):
        for j in range(bins[1]):
            (top, bottom), (left, right) = limits[0][i : i + 2], limits[1][j : j + 2]
            at = (corner[0] + i, corner[1] + j)
            values = photons[top:bottom, left:right][usable[top:bottom, left:right]]
            mean = max(values.mean(), 0.0) if len(values) else 0.0
            largest = max(values.max(), 0.0) if len(values) else 0.0
            canvas[0][at] = byte(math.log1p(20.0 * mean) / math.log1p(20.0 * 5e4))
            canvas[1][at] = byte(significance(largest, mean))
            inside = [
                math.log1p(spots.intensity[k] / spots.sigma[k]) / math.log1p(400.0)
                for k, (slow, fast) in enumerate(spots.positions_px)
                if top <= slow < bottom and left <= fast < right
            ]
            canvas[2][at] = byte(max(inside, default=0.0))
            if run.geometry is not None:
                canvas[3][at] = byte(inverse_d((top + bottom) / 2, (left + right) / 2) / 1.25)
            canvas[4][at] = byte(len(values) / max((bottom - top) * (right - left), 1))
    return canvas


def inverse_d(slow: float, fast: float) -> float:
    """s = 2 sin(theta) / lambda on a detector perpendicular to the beam."""
    offset = np.array([slow, fast]) - GEOMETRY.beam_px
    two_theta = math.atan(math.hypot(*offset) * GEOMETRY.pixel_mm[0] / GEOMETRY.distance_mm)
    return 2.0 * math.sin(two_theta / 2.0) / GEOMETRY.wavelength_A


def slow_crops(pre: Preprocess, photons: np.ndarray, usable: Mask, spots: Spots) -> np.ndarray:
    crops = np.zeros((pre.n_crops, pre.crop_px, pre.crop_px), dtype=np.uint8)
    half = pre.crop_px // 2
    shown: list[np.ndarray] = []
    for k, place in enumerate(spots.positions_px):
        if len(shown) == pre.n_crops or any(np.abs(place - other).max() < half for other in shown):
            continue
        for i in range(pre.crop_px):
            for j in range(pre.crop_px):
                r, c = math.floor(place[0]) - half + i, math.floor(place[1]) - half + j
                if 0 <= r < photons.shape[0] and 0 <= c < photons.shape[1] and usable[r, c]:
                    crops[len(shown), i, j] = byte(significance(max(photons[r, c], 0.0), max(spots.background[k], 0.0)))
        shown.append(place)
    return crops


def a_frame(shape: tuple[int, int], seed: int) -> tuple[Pixels, Mask, Mask, Spots]:
    """uint16 counts with no-data values, a mask, what is usable, and spots: some near each other, some at the edge."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(0.1, np.array(shape) - 0.1, (9, 2))
    positions[1] = np.clip(positions[0] + 2.0, 0.1, np.array(shape) - 0.1)
    intensity = np.sort(rng.uniform(30, 3000, 9))[::-1]
    image = with_spots(np.full(shape, 1.5), positions, intensity)
    pixels, mask = rng.poisson(image).astype(np.uint16), rng.random(shape) < 0.05
    mask[: shape[0] // 4, : shape[1] // 5] = True
    no_data = rng.random(shape) < 0.03
    pixels[no_data] = 65535
    places = [(float(slow), float(fast)) for slow, fast in positions]
    return pixels, mask, ~mask & ~no_data, listed(places, list(intensity), list(np.sqrt(intensity + 15)))


@pytest.mark.parametrize("shape", [(60, 60), (37, 90), (101, 43), (24, 24), (25, 48), (17, 9), (5, 24), (1, 1), (1, 40)])
@pytest.mark.parametrize("known", [True, False])
def test_the_input_agrees_with_a_slow_loop(shape: tuple[int, int], known: bool) -> None:
    pixels, mask, usable, spots = a_frame(shape, seed=sum(shape))
    run = run_of(mask=mask, geometry=replace(GEOMETRY, beam_px=GEOMETRY.beam_px, shape_px=shape) if known else None)
    found = SMALL(pixels, spots, run)
    for ours, slow in (
        (found.image, slow_image(SMALL, pixels.astype(float), usable, spots, run)),
        (found.crops, slow_crops(SMALL, pixels.astype(float), usable, spots)),
    ):
        assert ours.dtype == np.uint8
        assert ours.shape == slow.shape
        difference = np.abs(ours.astype(int) - slow)
        assert difference.max() <= 1  # float32 against float64 at a half
        assert (difference > 0).mean() < 0.002


# What it is made of


def test_the_whole_frame_is_centred_and_its_longer_side_fills_the_canvas() -> None:
    inputs = Preprocess()(np.ones((1062, 1028), dtype=np.uint16), NO_SPOTS, run_of())
    assert inputs.image.shape == (N_CHANNELS, 256, 256)
    assert inputs.crops.shape == (24, 32, 32)
    rows, columns = np.flatnonzero(inputs.image[4].any(axis=1)), np.flatnonzero(inputs.image[4].any(axis=0))
    assert (rows[0], rows[-1]) == (0, 255)
    assert (columns[0], columns[-1]) == (4, 251)  # 1028 / 1062 of 256 is 248
    assert (inputs.image[4][:, 4:252] == 255).all()
    assert not inputs.crops.any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (100, 60), (256, 256), (700, 3), (4, 513)])
def test_frames_of_any_shape_make_an_input(shape: tuple[int, int]) -> None:
    inputs = Preprocess()(np.full(shape, 40, dtype=np.int32), NO_SPOTS, run_of())
    filled = inputs.image[4] > 0
    assert filled.any()
    assert len(set(inputs.image[0][filled].tolist())) == 1
    assert not inputs.image[1].any()  # nothing stands out


def test_extreme_counts_stay_within_the_byte() -> None:
    pixels = np.array([[np.nan, np.inf, -np.inf, 1e36], [-5e9, 0.0, 1e9, 5e4]], dtype=np.float32)
    spots = listed([(1.5, 2.5), (0.5, 3.5)], [1e9, 1e30], [1.0, 1e-3])
    inputs = Preprocess(size=4, n_crops=2, crop_px=4)(pixels, spots, run_of())
    assert inputs.image[0][1:3].max() == 255
    assert inputs.image[1][1:3].max() == 0  # one pixel a bin stands out of nothing
    assert inputs.image[2].max() == 255
    assert inputs.image[4][1].tolist() == [0, 0, 0, 255]
    assert np.isfinite(inputs.features).all()


def test_without_geometry_there_is_no_resolution_map() -> None:
    pixels, mask, _, spots = a_frame((60, 60), 1)
    known, unknown = (SMALL(pixels, spots, run_of(mask=mask, geometry=g)) for g in (GEOMETRY, None))
    assert known.image[3].max() > 0
    assert not unknown.image[3].any()
    assert np.array_equal(known.image[[0, 1, 2, 4]], unknown.image[[0, 1, 2, 4]])


# What must not change it


def test_a_masked_pixel_cannot_change_the_input() -> None:
    pixels, mask, _, spots = a_frame((90, 70), 2)
    run = run_of(mask=mask, geometry=GEOMETRY)
    first = SMALL(pixels, spots, run)
    for value in (0, 1, 60_000, 65_535):
        assert equal(first, SMALL(np.where(mask, value, pixels).astype(np.uint16), spots, run))


def test_a_frame_makes_the_same_input_in_every_type() -> None:
    pixels, mask, usable, spots = a_frame((90, 70), 3)
    first = SMALL(pixels, spots, run_of(mask=mask))
    wide = pixels.astype(np.int64)
    assert equal(first, SMALL(np.where(usable, wide, 2**32 - 1).astype(np.uint32), spots, run_of(mask=mask)))
    assert equal(first, SMALL(np.where(usable, wide, -2).astype(np.int32), spots, run_of(mask=mask, negative_is_no_data=True)))
    assert equal(first, SMALL(np.where(usable, wide, np.nan).astype(np.float32), spots, run_of()))
    assert equal(first, SMALL(np.asfortranarray(pixels), spots, run_of(mask=mask)))


def test_offset_and_gain_are_taken_out() -> None:
    pixels, mask, _, spots = a_frame((90, 70), 4)
    mask |= pixels == 65535
    first = SMALL(pixels, spots, run_of(mask=mask))
    second = SMALL((12.5 * pixels - 30.0).astype(np.float32), spots, run_of(mask=mask, offset=-30.0, counts_per_photon=12.5))
    assert np.abs(first.image.astype(int) - second.image).max() <= 1
    assert np.abs(first.crops.astype(int) - second.crops).max() <= 1


def test_a_transposed_frame_makes_a_transposed_input() -> None:
    pixels, mask, _, spots = a_frame((90, 70), 5)
    turned = replace(spots, positions_px=spots.positions_px[:, ::-1].copy())
    first, second = SMALL(pixels, spots, run_of(mask=mask)), SMALL(pixels.T, turned, run_of(mask=mask.T))
    assert np.array_equal(first.image, second.image.transpose(0, 2, 1))
    assert np.array_equal(first.crops, second.crops.transpose(0, 2, 1))


def test_four_threads_make_what_one_makes() -> None:
    rng = np.random.default_rng(6)
    runs = run_of(geometry=GEOMETRY)
    frames = [rng.poisson(with_spots(np.full((256, 256), 1.0), scattered(rng, 20, (256, 256)), 200.0)).astype(np.uint16) for _ in range(8)]

    def made(pixels: Pixels) -> Inputs:
        return SMALL(pixels, DispersionFinder().find(pixels, runs), runs)

    with ThreadPoolExecutor(4) as pool:
        assert all(equal(a, b) for a, b in zip(pool.map(made, frames), map(made, frames), strict=True))


def deterministic_frame() -> tuple[Pixels, Spots]:
    """By integer arithmetic, so that no random generator's or library's next version changes it."""
    slow, fast = np.mgrid[:300, :420]
    pixels = ((slow * slow * 31 + fast * 17 + slow * fast * 7) % 23).astype(np.uint16)
    pixels[(slow % 37 < 2) & (fast % 41 < 3)] = 500
    pixels[140:150] = 65535
    places = [(37.0 * i + 1.0, 41.0 * j + 1.5) for i in range(1, 8) for j in range(1, 10)]
    intensity = [3000.0 - 40.0 * k for k in range(len(places))]
    return pixels, listed(places, intensity, [math.sqrt(value) for value in intensity], background=11.0)


def test_the_input_of_a_given_frame_never_changes_within_a_version() -> None:
    """A difference here means that released models see what they were not trained on: raise PREPROCESS_VERSION."""
    pixels, spots = deterministic_frame()
    inputs = Preprocess()(pixels, spots, run_of(geometry=GEOMETRY))
    assert hashlib.sha256(inputs.image.tobytes()).hexdigest()[:16] == "ba41bf6f93a4aaee"
    assert hashlib.sha256(inputs.crops.tobytes()).hexdigest()[:16] == "866c9aea93e5d086"


# It travels


@settings(deadline=None)
@given(size=st.integers(1, 4096), n_crops=st.integers(0, 500), crop_px=st.integers(2, 256))
def test_json_round_trip(size: int, n_crops: int, crop_px: int) -> None:
    value = Preprocess(size=size, n_crops=n_crops, crop_px=crop_px)
    assert Preprocess.from_json(value.to_json()) == value


def test_a_model_that_knows_fewer_features_is_given_the_leading_ones() -> None:
    counts = np.random.default_rng(4).poisson(2.0, (300, 200)).astype(np.uint16)
    spots = DispersionFinder().find(counts, run_of())
    older = Preprocess.from_json(Preprocess(n_features=len(SPOT_FEATURES)).to_json())
    now, then = Preprocess()(counts, spots, run_of()), older(counts, spots, run_of())
    assert np.array_equal(then.features, now.features[: len(SPOT_FEATURES)])
    assert np.array_equal(then.image, now.image)
    for n in (len(SPOT_FEATURES) - 1, N_FEATURES + 1):
        with pytest.raises(ValueError, match=rf"wants preprocessing n_features {n}, this code makes {len(SPOT_FEATURES)} to {N_FEATURES}$"):
            Preprocess.from_json(Preprocess(n_features=n).to_json())


@pytest.mark.parametrize("name", ["version", "spot_finder_version"])
def test_another_version_is_refused_by_name(name: str) -> None:
    written = json.loads(Preprocess().to_json())
    written[name] += 1
    with pytest.raises(ValueError, match=rf"wants preprocessing {name} {written[name]}, this code makes {written[name] - 1}$"):
        Preprocess.from_json(json.dumps(written))


@pytest.mark.parametrize("text", ["", "[1]", '{"size": 256, "colour": "blue"}', "null"])
def test_what_is_not_preprocessing_is_refused(text: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        Preprocess.from_json(text)
