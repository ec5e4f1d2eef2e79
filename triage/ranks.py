"""Small statistics that the features of spots and those of bins share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

NTH = (1, 4, 8, 16, 32)
"""The nth strongest, whose significance is told: a lattice that counts has eight spots."""

_SHELLS_ROUND = 8
_LINE_PX, _LINE_SIGMA = 3, 6.0
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
        rows = positions_px[:, axis].astype(int).clip(0, length - 1)
        counts = np.bincount(rows, minlength=length).astype(np.float64)
        near = np.convolve(counts, np.ones(_LINE_PX), mode="same")
        expected = len(positions_px) * _LINE_PX / length
        result |= near[rows] > expected + _LINE_SIGMA * np.sqrt(expected) + _CROWD_LEAST
    return result
