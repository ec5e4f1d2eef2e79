"""Spots that show only when pixels are binned: broad ones of few photons, of which no pixel stands out by itself.

The spot finder grows spots from strong pixels. Forty photons spread over fifty pixels on a dark background have none, and are plain to see
in bins of four pixels. They are looked for in the pooled image that the network sees, in windows of two by two bins, and only their
number and significance are used: a frame full of them diffracts, however few spots were found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from triage.binning import Bytes
from triage.core import FloatArray
from triage.ranks import NTH, crowded, log_nth

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

BINNED_FEATURES = (
    "binned_log_count",
    "binned_log_count_unseen",
    "binned_log_count_clean",
    "binned_log_count_clean_7_sigma",
    "binned_log_count_new",
    "binned_log_count_new_7_sigma",
    *(f"binned_log_z_clean_{n}" for n in NTH),
    *(f"binned_log_z_new_{n}" for n in NTH),
)
"""Counts are of more than 5 sigma. *Unseen*: without a spot of the spot finder's; *clean*: not on a ring that is crowded with them;
*new*: both."""

_LEAST_Z, _COUNTED_Z, _SURE_Z = 4.0, 5.0, 7.0
_LEVELS = 256
_LEAST_BINS = 20  # of the ring about a window, for a background
_CREST = 3  # bins from a window to those beside it: a ring, an edge or a column goes on there, and a spot does not
_COMPANION = 2  # bins about the most significant window in which no other is counted

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Binned:
    """A pooled frame, (slow, fast) bins each; photons."""

    mean: Floats
    """Of the usable pixels; 0 where there are too few."""
    largest: Floats
    """Pixel of a bin."""
    number: Floats
    """Usable pixels; 0 where they are too few for the bin to be used."""
    seen: Bools
    """Where the spot finder has found a spot."""
    level: Bytes
    """1/d in 256 steps; 0 throughout where no geometry is known."""


def binned_features(binned: Binned) -> FloatArray:
    """(len(BINNED_FEATURES),) finite numbers, in that order."""
    z, at = _peaks(_significance(binned.mean, binned.largest, binned.number))
    order = np.argsort(-z, kind="stable")
    z, at = z[order], at[order]
    unseen = ~_near(binned.seen, at)
    clean = ~_crowded(binned.level[at[:, 0], at[:, 1]].astype(int))
    values = [_log_count(z), _log_count(z[unseen])]
    for chosen in (z[clean], z[clean & unseen]):
        values += [_log_count(chosen), _log_count(chosen, _SURE_Z)]
    for chosen in (z[clean], z[clean & unseen]):
        values += log_nth(chosen)
    return np.asarray(values, dtype=np.float32)


def _log_count(z: Floats, least: float = _COUNTED_Z) -> float:
    return float(np.log1p((z > least).sum()))


def _near(seen: Bools, at: npt.NDArray[np.int64]) -> Bools:
    """Whether (n,) a spot was found in the windows at (n, 2), or a bin away."""
    wide = np.pad(seen, ((1, 2), (1, 2)))
    about = [wide[at[:, 0] + i, at[:, 1] + j] for i in range(4) for j in range(4)]
    return np.asarray(np.any(about, axis=0))


def _crowded(level: npt.NDArray[np.int64]) -> Bools:
    """Which windows (n,) lie on a thin ring of 1/d with far more of them than its neighbourhood: textured ice, powders."""
    if len(level) == 0 or level.max() == 0:
        return np.zeros(len(level), dtype=bool)
    return crowded(level, _LEVELS)


@_jit
def _summed(values):  # type: ignore[no-untyped-def]  # numba infers
    """Summed-area table (slow + 1, fast + 1)."""
    table = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    for i in range(values.shape[0]):
        row = 0.0
        for j in range(values.shape[1]):
            row += values[i, j]
            table[i + 1, j + 1] = table[i, j + 1] + row
    return table


@_jit
def _box(table, i, j, before, after):  # type: ignore[no-untyped-def]
    """Sum over the bins from `before` ahead of (i, j) to `after` behind it, as far as there are any."""
    slow, fast = table.shape[0] - 1, table.shape[1] - 1
    first, last, left, right = max(i - before, 0), min(i + after, slow), max(j - before, 0), min(j + after, fast)
    return table[last, right] - table[first, right] - table[last, left] + table[first, left]


@_jit
def _around(table, i, j):  # type: ignore[no-untyped-def]
    """Sum over the 10 x 10 bins about the window at (i, j), without the 4 x 4 nearest."""
    return _box(table, i, j, 4, 6) - _box(table, i, j, 1, 3)


@_jit
def _windows(photons, number):  # type: ignore[no-untyped-def]
    """Photons and usable pixels (slow, fast) of each window of 2 x 2 bins, at its first bin; 0 where a bin is not used."""
    slow, fast = photons.shape
    total, n = np.zeros((slow, fast)), np.zeros((slow, fast))
    for i in range(slow - 1):
        for j in range(fast - 1):
            if number[i, j] > 0.0 and number[i + 1, j] > 0.0 and number[i, j + 1] > 0.0 and number[i + 1, j + 1] > 0.0:
                n[i, j] = number[i, j] + number[i + 1, j] + number[i, j + 1] + number[i + 1, j + 1]
                total[i, j] = photons[i, j] + photons[i + 1, j] + photons[i, j + 1] + photons[i + 1, j + 1]
    return total, n


@_jit
def _beside(total, number, i, j):  # type: ignore[no-untyped-def]
    """Photons a pixel in the brightest pair of windows on opposite sides of the one at (i, j); below zero where there is no pair."""
    brightest = -1.0
    for slow, fast in ((0, _CREST), (_CREST, 0), (_CREST, _CREST), (_CREST, -_CREST)):
        up, down, left, right = i - slow, i + slow, j - fast, j + fast
        if up < 0 or down >= total.shape[0] or min(left, right) < 0 or max(left, right) >= total.shape[1]:
            continue
        if number[up, left] == 0.0 or number[down, right] == 0.0:
            continue
        brightest = max(brightest, (total[up, left] + total[down, right]) / (number[up, left] + number[down, right]))
    return brightest


@_jit
def _significance(mean, largest, number):  # type: ignore[no-untyped-def]
    """Of each window of 2 x 2 bins (slow, fast; its first bin's place), in Anscombe's units; 0 where nothing stands out.

    A window's largest pixel is left out, so that a hot pixel is no spot. The background is that of the bins around, or of the windows
    beside it where a pair of them is brighter; the noise is Poisson's, or the scatter of the bins around where that is larger.
    """
    slow, fast = mean.shape
    photons = mean * number
    bins, pixels, sums = _summed((number > 0.0).astype(np.float64)), _summed(number), _summed(photons)
    means, squares = _summed(mean), _summed(mean * mean)
    total, n = _windows(photons, number)
    z = np.zeros((slow, fast))
    for i in range(slow - 1):
        for j in range(fast - 1):
            if n[i, j] == 0.0:
                continue
            top = max(max(largest[i, j], largest[i + 1, j]), max(largest[i, j + 1], largest[i + 1, j + 1]))
            signal, area, around = total[i, j] - top, n[i, j] - 1.0, _around(bins, i, j)
            if signal <= 0.0 or around < _LEAST_BINS:
                continue
            background = _around(sums, i, j) / _around(pixels, i, j)
            if signal <= background * area + 2.0 * np.sqrt(background * area):
                continue
            beside = _beside(total, n, i, j)
            if beside < 0.0:
                continue
            expected = max(background, beside) * area
            middle = _around(means, i, j) / around
            scatter = max(_around(squares, i, j) / around - middle * middle, 0.0) * area * area / 4.0
            noise = max(scatter / max(expected, 1e-6), 1.0)
            z[i, j] = 2.0 * (np.sqrt(signal + 0.375) - np.sqrt(expected + 0.375)) / np.sqrt(noise)
    return z


@_jit
def _peaks(z):  # type: ignore[no-untyped-def]
    """The windows that are more significant than all near them: z (n,) and places (n, 2)."""
    slow, fast = z.shape
    n = 0
    found, at = np.empty(z.size), np.empty((z.size, 2), dtype=np.int64)
    for i in range(slow):
        for j in range(fast):
            if z[i, j] < _LEAST_Z:
                continue
            highest = True
            for k in range(max(i - _COMPANION, 0), min(i + _COMPANION + 1, slow)):
                for m in range(max(j - _COMPANION, 0), min(j + _COMPANION + 1, fast)):
                    first = k < i or (k == i and m < j)
                    if z[k, m] > z[i, j] or (z[k, m] == z[i, j] and first):
                        highest = False
            if highest:
                found[n], at[n, 0], at[n, 1] = z[i, j], i, j
                n += 1
    return found[:n].copy(), at[:n].copy()
