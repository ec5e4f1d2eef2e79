"""Statistics of the usable pixels in rectangular bins: the one pass over a frame that spots and network input share in form."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from triage.core import Pixels, Run

Bytes = npt.NDArray[np.uint8]


def measured(pixels: Pixels, run: Run) -> tuple[Pixels, Bytes, Any, Any]:
    """Pixels in a type the kernels are compiled for, the mask as bytes, and the inclusive limits of what is data.

    Returns (pixels (slow, fast) of uint16, uint32, int32 or float32; mask (slow, fast), or (1, 1) where nothing is masked; low; high).
    """
    low, high = run.valid_range(pixels.dtype)
    kind, size = pixels.dtype.kind, pixels.dtype.itemsize
    if kind in "ub":
        target: Any = np.uint16 if size <= 2 else np.uint32
    elif kind == "i":
        target = np.int32
    else:
        target = np.float32
    if kind in "iu" and size == 8:  # nothing that counts photons needs 64 bits: what does not fit is no data
        top = np.iinfo(target).max - 2
        low, high = max(low, 0.0 if kind == "u" else float(np.iinfo(target).min)), min(high, float(top))
        pixels = np.where((pixels >= low) & (pixels <= top), pixels, np.iinfo(target).max)
    converted = np.ascontiguousarray(pixels, dtype=target)
    if target is np.float32 and not np.isfinite(converted).all():
        converted = np.where(np.isfinite(converted), converted, np.float32(-3.2e38))  # below every limit: no data
    if np.issubdtype(target, np.integer):
        limits = np.iinfo(target)
        low, high = max(low, float(limits.min)), min(high, float(limits.max))
    return converted, _as_bytes(run.mask, pixels.shape), target(low), target(high)


def _as_bytes(mask: npt.NDArray[np.bool_] | None, shape: tuple[int, ...]) -> Bytes:
    if mask is None:
        return np.zeros((1, 1), dtype=np.uint8)
    if mask.shape != shape:
        raise ValueError(f"the mask is {mask.shape}, the frame {shape}")
    return np.ascontiguousarray(mask).view(np.uint8)


def edges(length: int, bins: int) -> npt.NDArray[np.int32]:
    """Limits (bins + 1) that cut `length` pixels into `bins` parts of equal size, give or take one pixel."""
    return np.ceil(np.arange(bins + 1) * (length / bins) - 1e-9).astype(np.int32)


_jit = numba.njit(nogil=True, cache=True, error_model="numpy")
_loose = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "nnan", "ninf"})


@_jit
def binned_statistics(pixels, mask, low, high, slow_edges, fast_edges):  # type: ignore[no-untyped-def]  # numba infers
    """Per bin: number, sum and maximum (-3e38 where empty) of the usable pixels, raw counts, each (slow bins, fast bins) float32."""
    bins_slow, bins_fast = len(slow_edges) - 1, len(fast_edges) - 1
    number = np.zeros((bins_slow, bins_fast), dtype=np.float32)
    total = np.zeros((bins_slow, bins_fast), dtype=np.float32)
    largest = np.full((bins_slow, bins_fast), -np.float32(3e38), dtype=np.float32)
    tops = np.empty(pixels.shape[1], dtype=np.float32)
    for k in range(bins_slow):
        rows = (slow_edges[k], slow_edges[k + 1])
        one_row_of_bins(pixels, mask, (low, high), rows, fast_edges, (number[k], total[k], largest[k]), tops)
    return number, total, largest


@_jit
def one_row_of_bins(pixels, mask, limits, rows, fast_edges, bins, tops):  # type: ignore[no-untyped-def]
    """The statistics of the pixels in `rows` (first, behind the last): fills the bins' (number, total, largest) and the columns' maxima.

    On entry the bins are (0, 0, -3e38); columns without a usable pixel have a maximum of -3e38, or of 0 where pixels are of 16 bits.
    Works on whole rows, column by column, so that the compiler can use vector instructions; bins are gathered at their last row.
    """
    if pixels.itemsize == 2:
        _row_of_16_bits(pixels, mask, limits, rows, fast_edges, bins, tops)
    else:
        _row_of_any_type(pixels, mask, limits, rows, fast_edges, bins, tops)


@_loose
def _row_of_any_type(pixels, mask, limits, rows, fast_edges, bins, tops):  # type: ignore[no-untyped-def]
    low, high = limits
    number, total, largest = bins
    n_fast = pixels.shape[1]
    counts = np.zeros(n_fast, dtype=np.int32)
    sums = np.zeros(n_fast, dtype=np.float32)
    tops.fill(-np.float32(3e38))
    for row in range(rows[0], rows[1]):
        line = pixels[row]
        if mask.size > 1:
            flags = mask[row]
            for column in range(n_fast):
                usable = (line[column] >= low) & (line[column] <= high) & (flags[column] == 0)
                value = np.float32(line[column])
                counts[column] += np.int32(usable)
                sums[column] += value if usable else np.float32(0)
                tops[column] = max(tops[column], value if usable else np.float32(-3e38))
        else:
            for column in range(n_fast):
                usable = (line[column] >= low) & (line[column] <= high)
                value = np.float32(line[column])
                counts[column] += np.int32(usable)
                sums[column] += value if usable else np.float32(0)
                tops[column] = max(tops[column], value if usable else np.float32(-3e38))
    for k in range(len(number)):
        for column in range(fast_edges[k], fast_edges[k + 1]):
            number[k] += counts[column]
            total[k] += sums[column]
            largest[k] = max(largest[k], tops[column])


@_jit
def _row_of_16_bits(pixels, mask, limits, rows, fast_edges, bins, tops):  # type: ignore[no-untyped-def]
    """In integers of 16 bits: two to three times as fast, and the same to the last bit, since sums to 2^24 are exact either way."""
    number, total, largest = bins
    columns = np.zeros((3, pixels.shape[1]), dtype=np.uint16)
    counts, sums, highest = columns[0], columns[1], columns[2]
    _add_rows(pixels, mask, limits, rows, columns)
    for column in range(len(tops)):
        tops[column] = highest[column]
    for k in range(len(number)):
        n, summed, top = np.int32(0), np.int32(0), np.uint16(0)
        for column in range(fast_edges[k], fast_edges[k + 1]):
            n += np.int32(counts[column])
            summed += np.int32(sums[column])
            top = max(top, highest[column])
        if n > 0:
            number[k], total[k], largest[k] = n, summed, top
        if np.int64(top) * (rows[1] - rows[0]) > 65535:  # a column's sum may not have fitted 16 bits
            total[k] = _total(pixels, mask, limits, rows, (fast_edges[k], fast_edges[k + 1]))


@_jit
def _add_rows(pixels, mask, limits, rows, columns):  # type: ignore[no-untyped-def]
    """Adds rows of uint16 to every column's number, sum (modulo 65536) and maximum (3, fast) of usable pixels, four rows at a time."""
    low, high = limits
    masked = mask.size > 1
    unmasked = np.zeros(pixels.shape[1], dtype=np.uint8)
    counts, sums, tops = columns[0], columns[1], columns[2]
    nothing = np.uint16(0)
    row = rows[0]
    while row + 4 <= rows[1]:
        a, b, c, d = pixels[row], pixels[row + 1], pixels[row + 2], pixels[row + 3]
        e = mask[row] if masked else unmasked
        f = mask[row + 1] if masked else unmasked
        g = mask[row + 2] if masked else unmasked
        h = mask[row + 3] if masked else unmasked
        for k in range(pixels.shape[1]):
            in_a = (a[k] >= low) & (a[k] <= high) & (e[k] == 0)
            in_b = (b[k] >= low) & (b[k] <= high) & (f[k] == 0)
            in_c = (c[k] >= low) & (c[k] <= high) & (g[k] == 0)
            in_d = (d[k] >= low) & (d[k] <= high) & (h[k] == 0)
            of_a, of_b = np.uint16(a[k]) if in_a else nothing, np.uint16(b[k]) if in_b else nothing
            of_c, of_d = np.uint16(c[k]) if in_c else nothing, np.uint16(d[k]) if in_d else nothing
            counts[k] = np.uint16(counts[k] + np.uint16(in_a) + np.uint16(in_b) + np.uint16(in_c) + np.uint16(in_d))
            sums[k] = np.uint16(sums[k] + of_a + of_b + of_c + of_d)
            tops[k] = max(tops[k], max(max(of_a, of_b), max(of_c, of_d)))
        row += 4
    while row < rows[1]:
        a, e = pixels[row], mask[row] if masked else unmasked
        for k in range(pixels.shape[1]):
            in_a = (a[k] >= low) & (a[k] <= high) & (e[k] == 0)
            of_a = np.uint16(a[k]) if in_a else nothing
            counts[k] = np.uint16(counts[k] + np.uint16(in_a))
            sums[k] = np.uint16(sums[k] + of_a)
            tops[k] = max(tops[k], of_a)
        row += 1


@_jit
def _total(pixels, mask, limits, rows, columns):  # type: ignore[no-untyped-def]
    """Sum of the usable pixels of one bin: exact to 2^24, and beyond it rounded column by column."""
    total = np.float32(0)
    for column in range(columns[0], columns[1]):
        summed = np.int64(0)
        for row in range(rows[0], rows[1]):
            value = pixels[row, column]
            usable = (value >= limits[0]) & (value <= limits[1]) & ((mask.size == 1) or (mask[row, column] == 0))
            summed += np.int64(value) if usable else np.int64(0)
        total += np.float32(summed)
    return total
