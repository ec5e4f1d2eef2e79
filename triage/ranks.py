"""Small statistics that the features of spots and those of bins share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

NTH = (1, 4, 8, 16, 32)
"""The nth strongest, whose significance is told: a lattice that counts has eight spots."""


def log_nth(strongest_first: npt.NDArray[Any]) -> list[float]:
    """log(1 + the nth) for each of NTH; 0 where there are fewer."""
    return [float(np.log1p(strongest_first[n - 1])) if len(strongest_first) >= n else 0.0 for n in NTH]


def running_median(values: npt.NDArray[np.float64], half: int) -> npt.NDArray[np.float64]:
    """Running median (n,) over 2 half + 1 values; the ends repeat."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, half, mode="edge"), 2 * half + 1)
    return np.asarray(np.median(windows, axis=1))
