"""Bins against slow obvious loops; what counts as a measurement, by type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import run_of

from triage.binning import binned_statistics, edges, measured
from triage.core import Mask, Pixels, Run

EMPTY = np.float32(-3e38)


def slowly(pixels: Pixels, usable: Mask, slow_edges: np.ndarray, fast_edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = (len(slow_edges) - 1, len(fast_edges) - 1)
    number, total, largest = np.zeros(shape), np.zeros(shape), np.full(shape, EMPTY)
    for i in range(shape[0]):
        for j in range(shape[1]):
            window = np.s_[slow_edges[i] : slow_edges[i + 1], fast_edges[j] : fast_edges[j + 1]]
            values = pixels[window][usable[window]].astype(float)
            number[i, j], total[i, j] = len(values), values.sum()
            largest[i, j] = values.max() if len(values) else EMPTY
    return number, total, largest


def a_frame(rng: np.random.Generator, shape: tuple[int, int], dtype: str) -> tuple[Pixels, Mask]:
    """Counts with some pixels that are no data, and what is usable of them, spelt out by type."""
    pixels = rng.integers(0, 900, shape).astype(dtype)
    no_data = rng.random(shape) < 0.1
    if dtype == "float32":
        pixels[no_data] = rng.choice([np.nan, np.inf, -np.inf], int(no_data.sum()))
    elif dtype == "int32":
        pixels[no_data] = rng.choice([-1, -2, -77], int(no_data.sum()))
    else:
        top = int(np.iinfo(dtype).max)
        pixels[no_data] = rng.choice([top, top - 1], int(no_data.sum()))
    return pixels, ~no_data


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "float32"])
@pytest.mark.parametrize("masked", [False, True])
def test_number_sum_and_maximum_agree_with_a_loop(dtype: str, masked: bool) -> None:
    rng = np.random.default_rng(3)
    pixels, usable = a_frame(rng, (37, 53), dtype)
    if dtype == "uint8":
        pixels[usable] = pixels[usable] % 200
    mask = rng.random(pixels.shape) < 0.2 if masked else None
    if mask is not None:
        usable &= ~mask
    slow_edges, fast_edges = edges(37, 6), edges(53, 9)
    converted, flags, low, high = measured(pixels, run_of(mask=mask, negative_is_no_data=dtype == "int32"))
    found = binned_statistics(converted, flags, low, high, slow_edges, fast_edges)
    for ours, expected in zip(found, slowly(pixels, usable, slow_edges, fast_edges), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_a_bin_without_usable_pixels_is_empty() -> None:
    pixels = np.full((8, 8), 65535, dtype=np.uint16)
    pixels[:4, :4] = 7
    converted, flags, low, high = measured(pixels, run_of())
    number, total, largest = binned_statistics(converted, flags, low, high, edges(8, 2), edges(8, 2))
    assert number.tolist() == [[16, 0], [0, 0]]
    assert total.tolist() == [[112, 0], [0, 0]]
    assert largest[0, 0] == 7
    assert (largest.ravel()[1:] == EMPTY).all()


@settings(deadline=None)
@given(length=st.integers(1, 5000), bins=st.integers(1, 300))
def test_edges_cut_into_parts_that_differ_by_one_pixel(length: int, bins: int) -> None:
    limits = edges(length, bins)
    assert limits[0] == 0
    assert limits[-1] == length
    assert len(limits) == bins + 1
    sizes = np.diff(limits)
    assert sizes.min() >= 0
    assert sizes.max() - sizes.min() <= 1


def usable_values(pixels: Pixels, run: Run) -> list[float]:
    converted, flags, low, high = measured(pixels, run)
    usable = (converted >= low) & (converted <= high)
    if flags.size > 1:
        usable &= flags == 0
    return [float(value) for value in converted[usable]]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", ">u2", ">u4"])
def test_the_two_largest_unsigned_values_are_no_data(dtype: str) -> None:
    top = int(np.iinfo(dtype).max)
    assert usable_values(np.array([[0, 5, top - 2, top - 1, top]], dtype=dtype), run_of()) == [0.0, 5.0, top - 2.0]


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
def test_negative_values_are_data_unless_the_detector_says_otherwise(dtype: str) -> None:
    pixels = np.array([[-2, -1, 0, 9]], dtype=dtype)
    assert usable_values(pixels, run_of()) == [-2.0, -1.0, 0.0, 9.0]
    assert usable_values(pixels, run_of(negative_is_no_data=True)) == [0.0, 9.0]
    assert usable_values(pixels, run_of(no_data_value=-2.0)) == [-1.0, 0.0, 9.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_a_number_is_no_data(dtype: str) -> None:
    pixels = np.array([[np.nan, np.inf, -np.inf, -3.5, 0.25]], dtype=dtype)
    assert usable_values(pixels, run_of()) == [-3.5, 0.25]


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the mask is \(2, 3\), the frame \(3, 2\)"):
        measured(np.zeros((3, 2), dtype=np.uint16), run_of(mask=np.zeros((2, 3), dtype=bool)))


def test_strided_views_are_measured_as_they_look() -> None:
    whole = np.arange(24, dtype=np.uint16).reshape(4, 6)
    converted, _, _, _ = measured(whole[::2, ::-1], run_of())
    assert converted.tolist() == [[5, 4, 3, 2, 1, 0], [17, 16, 15, 14, 13, 12]]


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("uint64", 2**64 - 1), ("uint64", 2**64 - 2), ("int64", 2**32 + 5), ("uint64", 2**40)],
)
def test_64_bit_values_beyond_32_bits_do_not_turn_into_other_counts(dtype: str, value: int) -> None:
    found = usable_values(np.array([[3, value]], dtype=dtype), run_of())
    is_data = value < 2**64 - 2
    assert found[0] == 3.0
    assert len(found) == 1 or (is_data and found[1] >= 2**31 - 1), "neither left out nor as large as 32 bits can say"


def test_pixels_already_right_are_not_copied() -> None:
    pixels: Any = np.zeros((4, 4), dtype=np.uint16)
    assert measured(pixels, run_of())[0] is pixels
