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


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "nnan", "ninf"})
def binned_statistics(pixels, mask, low, high, slow_edges, fast_edges):  # type: ignore[no-untyped-def]  # numba infers
    """Per bin: number, sum and maximum (-3e38 where empty) of the usable pixels, raw counts, each (slow bins, fast bins) float32.

    Works on whole rows, column by column, so that the compiler can use vector instructions; bins are gathered at their last row.
    """
    bins_slow, bins_fast = len(slow_edges) - 1, len(fast_edges) - 1
    n_fast = pixels.shape[1]
    number = np.zeros((bins_slow, bins_fast), dtype=np.float32)
    total = np.zeros((bins_slow, bins_fast), dtype=np.float32)
    largest = np.full((bins_slow, bins_fast), -np.float32(3e38), dtype=np.float32)
    counts = np.empty(n_fast, dtype=np.int32)
    sums = np.empty(n_fast, dtype=np.float32)
    tops = np.empty(n_fast, dtype=np.float32)
    masked = mask.size > 1
    for bin_slow in range(bins_slow):
        counts[:], sums[:], tops[:] = 0, 0, -np.float32(3e38)
        for row in range(slow_edges[bin_slow], slow_edges[bin_slow + 1]):
            line = pixels[row]
            if masked:
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
        for bin_fast in range(bins_fast):
            for column in range(fast_edges[bin_fast], fast_edges[bin_fast + 1]):
                number[bin_slow, bin_fast] += counts[column]
                total[bin_slow, bin_fast] += sums[column]
                largest[bin_slow, bin_fast] = max(largest[bin_slow, bin_fast], tops[column])
    return number, total, largest
