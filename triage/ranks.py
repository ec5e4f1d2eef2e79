"""Small statistics that the features of spots and those of bins share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

NTH = (1, 4, 8, 16, 32)
"""The nth strongest, whose significance is told: a lattice that counts has eight spots."""

_SHELLS_ROUND = 8
_LINE_HALF_PX, _LINE_SIGMA = 1.5, 6.0  # a row of whole pixels with those beside it
_CROWD_SIGMA, _CROWD_LEAST = 5.0, 4.0
"""A crowded ring has so many standard deviations and so many more than its neighbourhood."""


def log_nth(strongest_first: npt.NDArray[Any]) -> list[float]:
    """log(1 + the nth) for each of NTH; 0 where there are fewer."""
    return [float(np.log1p(strongest_first[n - 1])) if len(strongest_first) >= n else 0.0 for n in NTH]


def running_median(values: npt.NDArray[np.float64], half: int) -> npt.NDArray[np.float64]:
    """Running median (n,) over 2 half + 1 values; the ends repeat."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, half, mode="edge"), 2 * half + 1)
    return np.asarray(np.median(windows, axis=1))


def crowded(shell: npt.NDArray[np.int64], shells: int) -> npt.NDArray[np.bool_]:
    """Which of (n,), in shells 0 to `shells` - 1 of 1/d, lie on a thin ring with far more of them than its neighbourhood has."""
    counts = np.bincount(shell, minlength=shells).astype(np.float64)
    three = counts + np.roll(counts, 1) + np.roll(counts, -1)
    expected = 3.0 * running_median(counts, _SHELLS_ROUND)
    return np.asarray((three > expected + _CROWD_SIGMA * np.sqrt(expected) + _CROWD_LEAST)[shell])


def crowded_lines(positions_px: npt.NDArray[np.floating], shape_px: tuple[int, int] | None) -> npt.NDArray[np.bool_]:
    """Which of (n, 2) lie in a row or column of pixels with far more of them than chance: hot lines, borders of chips and modules."""
    result = np.zeros(len(positions_px), dtype=bool)
    if len(positions_px) == 0:
        return result
    lengths = shape_px or tuple(int(x) + 1 for x in positions_px.max(axis=0))
    for axis, length in enumerate(lengths):
        result |= crowded_along(positions_px[:, axis].astype(int).clip(0, length - 1), length, half_px=_LINE_HALF_PX)
    return result


def crowded_along(places_px: npt.NDArray[np.number[Any]], length_px: int, *, half_px: float, least: float = 0.0) -> npt.NDArray[np.bool_]:
    """Which of (n,) places on an axis so long have far more of them within `half_px` than chance, and more than `least`."""
    expected = len(places_px) * 2.0 * half_px / length_px
    order = np.argsort(places_px)
    along = places_px[order]  # looked up in order, which is quicker
    near = np.searchsorted(along, along + half_px) - np.searchsorted(along, along - half_px, side="right")
    result = np.empty(len(places_px), dtype=bool)
    result[order] = near > max(least, expected + _LINE_SIGMA * np.sqrt(expected) + _CROWD_LEAST)
    return result
