"""What is said of a frame's spots: resolution against DIALS, sharpness against the closed form, overloads against what was put in."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from synthetic import GEOMETRY, run_of, with_spots

from triage.core import Run, Spots
from triage.spot_quality import overloads, resolution_by_percentile, resolution_by_shells, sharpness
from triage.spots import DispersionFinder, summarise

GOLDEN = json.loads(Path(__file__).with_name("golden").joinpath("dials_resolution.json").read_text())
SHAPE = (128, 128)
PLACES = np.array([[30.5, 30.5], [30.5, 90.5], [90.5, 30.5], [90.5, 90.5]])


def spots_at(s: npt.ArrayLike) -> Spots:
    inverse_d = np.asarray(s, dtype=np.float32)
    ones = np.ones(len(inverse_d), dtype=np.float32)
    return Spots(
        positions_px=np.zeros((len(ones), 2), dtype=np.float32),
        intensity=9 * ones,
        sigma=ones,
        background=0 * ones,
        peak=3 * ones,
        n_pixels=np.full(len(ones), 5, dtype=np.int32),
        inverse_d_per_A=inverse_d,
        on_ice=np.zeros(len(ones), dtype=bool),
    )


def found_in(counts: npt.NDArray[np.generic], run: Run) -> Spots:
    return DispersionFinder().find(counts, run)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_shells_end_where_dials_sees_them_end(case: dict[str, object]) -> None:
    """tests/golden/make_dials_resolution.py"""
    assert resolution_by_shells(spots_at(case["s_per_A"])) == pytest.approx(case["d_min_A"], rel=1e-4)  # type: ignore[arg-type]


def test_shells_ignore_stragglers_that_the_percentile_follows() -> None:
    """Of 200 spots evenly over s^2 to 2 A and 20 strewn out to 1.25 A: the end is the outer edge of a shell, here 4 % further out."""
    spots = spots_at([*(0.5 * np.sqrt(np.linspace(0.01, 1.0, 200))), *np.linspace(0.52, 0.8, 20)])
    by_shells, by_percentile = resolution_by_shells(spots), resolution_by_percentile(spots)
    assert by_shells == pytest.approx(2.0, rel=0.05)
    assert by_percentile is not None
    assert by_percentile < 1.6


def test_ice_is_left_out_of_both_resolutions() -> None:
    s = 0.5 * np.sqrt(np.linspace(0.01, 1.0, 200))
    with_ice = spots_at([*s, *np.linspace(0.7, 0.9, 60)])
    with_ice = replace(with_ice, on_ice=np.arange(260) >= 200)
    assert resolution_by_shells(with_ice) == pytest.approx(resolution_by_shells(spots_at(s)))
    assert resolution_by_percentile(with_ice) == pytest.approx(resolution_by_percentile(spots_at(s)))


@pytest.mark.parametrize("s", [[], [0.3] * 40, np.linspace(0.1, 0.4, 10)], ids=["none", "all alike", "ten"])
def test_where_there_are_too_few_spots_shells_say_nothing(s: npt.ArrayLike) -> None:
    assert resolution_by_shells(spots_at(s)) is None


def test_without_geometry_there_is_no_resolution() -> None:
    spots = replace(spots_at(np.linspace(0.1, 0.4, 50)), inverse_d_per_A=None)
    assert (resolution_by_shells(spots), resolution_by_percentile(spots)) == (None, None)


@pytest.mark.parametrize("fwhm_px", [1.0, 1.5, 2.0, 3.0])
def test_sharpness_is_that_of_the_drawn_spots(fwhm_px: float) -> None:
    width = fwhm_px / (2.0 * math.sqrt(2.0 * math.log(2.0)))
    expected = math.erf(0.5 / (width * math.sqrt(2.0))) ** 2  # the pixel in whose middle the spot lies
    counts = np.rint(with_spots(np.full(SHAPE, 1.0), PLACES, 20_000.0, width)).astype(np.uint32)
    spots = found_in(counts, run_of())
    assert len(spots) == 4
    assert sharpness(spots) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int32", "float32"])
def test_spots_at_the_saturation_value_are_counted(dtype: str) -> None:
    counts = np.rint(with_spots(np.full(SHAPE, 1.0), PLACES, [500.0, 2_000.0, 40_000.0, 80_000.0])).clip(max=5_000)
    run = run_of(geometry=GEOMETRY, saturation_value=5_000.0)
    spots = found_in(counts.astype(dtype), run)
    assert len(spots) == 4
    assert overloads(counts.astype(dtype), spots, run) == 2
    just_below = counts.clip(max=4_999).astype(dtype)
    assert overloads(just_below, found_in(just_below, run), run) == 0


def test_an_offset_and_a_gain_are_of_the_counts_that_saturate() -> None:
    photons = np.rint(with_spots(np.full(SHAPE, 1.0), PLACES, [500.0, 2_000.0, 40_000.0, 80_000.0]))
    counts = (100.0 + 3.0 * photons).clip(max=15_000).astype(np.uint16)
    run = run_of(saturation_value=15_000.0, counts_per_photon=3.0, offset=100.0)
    assert overloads(counts, found_in(counts, run), run) == 2


@pytest.mark.parametrize("top", [65_534, 65_535])
def test_a_spot_whose_middle_has_overflown_counts(top: int) -> None:
    counts = np.rint(with_spots(np.full(SHAPE, 1.0), PLACES, [500.0, 2_000.0, 100_000.0, 150_000.0])).astype(np.uint16)
    counts[30, 30] = top  # a dead pixel in a weak spot, of which there is no mask
    counts[90, 90] = top  # as an EIGER writes what it cannot count
    for limit in (65_533.0, 83_270.0):
        run = run_of(saturation_value=limit)
        assert overloads(counts, found_in(counts, run), run) == 1
    mask = np.zeros(SHAPE, dtype=bool)
    mask[90, 90] = True
    run = run_of(saturation_value=65_533.0, mask=mask)
    assert overloads(counts, found_in(counts, run), run) == 0


def test_without_a_saturation_value_nothing_is_known_of_overloads() -> None:
    counts = np.full(SHAPE, 1, dtype=np.uint16)
    spots = found_in(counts, run_of())
    assert overloads(counts, spots, run_of()) is None
    assert overloads(counts, spots, run_of(saturation_value=1000.0)) == 0
    summary = summarise(spots)
    assert (summary.overloads, summary.sharpness, summary.resolution_shells_A) == (None, None, None)
