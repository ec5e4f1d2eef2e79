"""The compiled loops of spot finding. Values are raw counts until `_photons` makes them photons.

Everything a loop needs travels in two named tuples, which numba passes as they are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from triage.binning import binned_statistics

TILE = 16
"""Side in pixels of the squares whose mean decides what is worth a look."""
_WINDOW = 6  # the local background comes from a (2 * 6 + 1)^2 window, wider than two spots
_MAX_SPOTS = 8192  # more than any frame that can be indexed holds; bounds the time on a frame of noise
_NOTHING = np.float32(-3e38)


class Counts(NamedTuple):
    """One frame as the loops see it."""

    pixels: Any
    """(slow, fast), uint16, uint32, int32 or float32."""
    mask: Any
    """(slow, fast) bytes, nonzero where unusable; (1, 1) where nothing is masked."""
    low: Any
    high: Any
    """Inclusive limits of what is data, in the pixels' type."""
    offset: np.float32
    scale: np.float32
    """photons = (counts - offset) * scale."""


class Levels(NamedTuple):
    """What makes a spot; see DispersionFinder."""

    candidate_sigma: np.float32
    grow_sigma: np.float32
    spot_z: np.float32
    min_pixels: int
    max_pixels: int


_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@_jit
def noise_of(frame: Counts):  # type: ignore[no-untyped-def]  # numba infers
    """How much noisier than photon counting the frame is: (k, r2) of variance = k * mean + r2, in photons; (1, 0) for a counter.

    Integrating detectors (CCD, JUNGFRAU in units of energy) have read noise and an unknown gain. The dispersion (variance over mean) is
    taken in every few tiles; a low percentile keeps spots out, also where they crowd.
    """
    n_slow, n_fast = frame.pixels.shape
    step = max(1, int(np.sqrt(n_slow * n_fast / (TILE * TILE * 400.0))))
    means = np.empty(4096, dtype=np.float32)
    variances = np.empty(4096, dtype=np.float32)
    n = 0
    for tile_slow in range(0, n_slow // TILE, step):
        for tile_fast in range(0, n_fast // TILE, step):
            mean, variance, number = _tile_moments(frame, tile_slow * TILE, tile_fast * TILE)
            if number > 100 and n < 4096:
                means[n], variances[n] = mean, variance
                n += 1
    result = np.array([1.0, 0.0], dtype=np.float32)
    if n < 20:
        return result
    order = np.argsort(means[:n])
    dark, bright = order[: n // 2], order[n // 2 :]
    excess = np.percentile(variances[dark] - means[dark], 10)
    if excess > 0.5:
        result[1] = excess
    above = np.maximum(means[bright], np.float32(0.05))
    k = np.percentile((variances[bright] - result[1]) / above, 10)
    if k > 1.5:
        result[0] = k
    return result


@_jit
def _tile_moments(frame: Counts, first_slow: int, first_fast: int):  # type: ignore[no-untyped-def]
    """Mean and variance of a tile's usable pixels in photons, and their number."""
    total, square, number = 0.0, 0.0, 0
    for r in range(first_slow, first_slow + TILE):
        for c in range(first_fast, first_fast + TILE):
            if _usable(frame, r, c):
                photons = (np.float64(frame.pixels[r, c]) - frame.offset) * frame.scale
                total += photons
                square += photons * photons
                number += 1
    if number < 2:
        return 0.0, 0.0, number
    mean = total / number
    return mean, (square / number - mean * mean) * number / (number - 1), number


@_jit
def _usable(frame: Counts, row: int, column: int):  # type: ignore[no-untyped-def]
    value = frame.pixels[row, column]
    return value >= frame.low and value <= frame.high and not (frame.mask.size > 1 and frame.mask[row, column])


@_jit
def _photons(frame: Counts, row: int, column: int):  # type: ignore[no-untyped-def]
    return (np.float32(frame.pixels[row, column]) - frame.offset) * frame.scale


@_jit
def _tile_background(number, total):  # type: ignore[no-untyped-def]
    """Mean per tile, or the median of its 3 x 3 neighbourhood where that is lower: one bright spot does not hide its neighbours."""
    rows, columns = number.shape
    background = np.zeros((rows, columns), dtype=np.float32)
    near = np.empty(9, dtype=np.float32)
    for row in range(rows):
        for column in range(columns):
            n, lower = 0, 0
            own = total[row, column] / number[row, column] if number[row, column] >= 16 else np.float32(3e38)
            for r in range(max(0, row - 1), min(rows, row + 2)):
                for c in range(max(0, column - 1), min(columns, column + 2)):
                    if number[r, c] >= 16:
                        n += 1
                        lower += total[r, c] / number[r, c] < own
            if n > 0 and lower <= (n - 1) // 2:  # no more than the median: nothing to sort
                background[row, column] = own
                continue
            n = 0
            for r in range(max(0, row - 1), min(rows, row + 2)):
                for c in range(max(0, column - 1), min(columns, column + 2)):
                    if number[r, c] >= 16:
                        mean = total[r, c] / number[r, c]
                        k = n
                        while k > 0 and near[k - 1] > mean:  # insertion sort of nine numbers
                            near[k] = near[k - 1]
                            k -= 1
                        near[k] = mean
                        n += 1
            if n > 0:
                background[row, column] = min(near[(n - 1) // 2], own)
    return background


@_jit
def _strong_above(background, sigmas, noise):  # type: ignore[no-untyped-def]
    """Photons that a pixel must exceed to be a candidate."""
    variance = noise[0] * max(background, np.float32(0)) + noise[1]
    return background + sigmas * np.sqrt(variance) + np.float32(2.0) * noise[0]


@_jit
def _member_above(background, sigmas, noise):  # type: ignore[no-untyped-def]
    """Photons that a pixel must exceed to belong to a spot."""
    variance = noise[0] * max(background, np.float32(0)) + noise[1]
    return background + sigmas * np.sqrt(variance) + np.float32(0.6) * noise[0]


@_jit
def _local_background(frame: Counts, state, row, column):  # type: ignore[no-untyped-def]
    """Mean of the usable, not strong pixels of the window round a candidate, in photons, and their number."""
    n_slow, n_fast = frame.pixels.shape
    masked = frame.mask.size > 1
    first, last = max(0, column - _WINDOW), min(n_fast, column + _WINDOW + 1)
    total, n = np.float32(0), 0
    for r in range(max(0, row - _WINDOW), min(n_slow, row + _WINDOW + 1)):
        line, marks, flags = frame.pixels[r], state[r], frame.mask[r if masked else 0]
        for c in range(first, last):
            value = line[c]
            usable = (marks[c] == 0) & (value >= frame.low) & (value <= frame.high)
            if masked:
                usable &= flags[c] == 0
            total += np.float32(value) if usable else np.float32(0)
            n += 1 if usable else 0
    return ((total / n - frame.offset) * frame.scale if n > 0 else np.float32(0)), n


@_jit
def _has_company(frame: Counts, row, column, raw):  # type: ignore[no-untyped-def]
    """Whether one of the eight neighbours is above `raw` counts (and is data)."""
    n_slow, n_fast = frame.pixels.shape
    for r in range(max(0, row - 1), min(n_slow, row + 2)):
        for c in range(max(0, column - 1), min(n_fast, column + 2)):
            value = frame.pixels[r, c]
            if np.float32(value) > raw and value <= frame.high and (r != row or c != column):
                return True
    return False


@_jit
def _candidates(frame: Counts, levels: Levels, noise, tiles, state):  # type: ignore[no-untyped-def]
    """Positions of pixels that stand out of their tile and are not alone; marks all that stand out 1 in `state`."""
    background, largest = tiles
    n_slow, n_fast = frame.pixels.shape
    found = np.empty((1024, 2), dtype=np.int32)
    n = 0
    for tile_slow in range(background.shape[0]):
        for tile_fast in range(background.shape[1]):
            photons = (background[tile_slow, tile_fast] - frame.offset) * frame.scale
            raw = _strong_above(photons, levels.candidate_sigma, noise) / frame.scale + frame.offset
            if largest[tile_slow, tile_fast] <= raw:
                continue
            member = _member_above(photons, levels.grow_sigma, noise) / frame.scale + frame.offset
            company = member if levels.min_pixels > 1 else _NOTHING
            first, last = tile_fast * TILE, min(n_fast, (tile_fast + 1) * TILE)
            for r in range(tile_slow * TILE, min(n_slow, (tile_slow + 1) * TILE)):
                line = frame.pixels[r]
                for c in range(first, last):
                    if np.float32(line[c]) <= raw or not _usable(frame, r, c):
                        continue
                    state[r, c] = 1
                    if not _has_company(frame, r, c, company):
                        continue
                    if n == len(found):
                        larger = np.empty((2 * n, 2), dtype=np.int32)
                        larger[:n] = found
                        found = larger
                    found[n, 0], found[n, 1] = r, c
                    n += 1
    return found[:n]


@_jit
def _grow(frame: Counts, state, seed, level, stack):  # type: ignore[no-untyped-def]
    """Flood fill (8-connected) above `level` photons; marks 2; members are left in `stack`, their number returned."""
    n_slow, n_fast = frame.pixels.shape
    raw = level / frame.scale + frame.offset
    stack[0, 0], stack[0, 1] = seed[0], seed[1]
    state[seed[0], seed[1]] = 2
    n, done = 1, 0
    while done < n:
        row, column = stack[done, 0], stack[done, 1]
        done += 1
        for r in range(max(0, row - 1), min(n_slow, row + 2)):
            for c in range(max(0, column - 1), min(n_fast, column + 2)):
                if state[r, c] == 2 or np.float32(frame.pixels[r, c]) <= raw or not _usable(frame, r, c):
                    continue
                if n == len(stack):
                    return n + 1  # larger than any spot
                state[r, c] = 2
                stack[n, 0], stack[n, 1] = r, c
                n += 1
    return n


@_jit
def _measure(frame: Counts, members, local, n_local, noise, spot_z, row):  # type: ignore[no-untyped-def]
    """Fills `row` with a spot's numbers from its member pixels; False where it is no spot after all."""
    n = len(members)
    summed, peak, at_slow, at_fast, weight = np.float32(0), np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for k in range(n):
        photons = _photons(frame, members[k, 0], members[k, 1])
        summed += photons
        peak = max(peak, photons)
        above = max(photons - local, np.float32(0))
        at_slow += above * (members[k, 0] + np.float32(0.5))
        at_fast += above * (members[k, 1] + np.float32(0.5))
        weight += above
    expected = max(n * local, np.float32(0))
    read = n * noise[1] / noise[0]  # generalised Anscombe: read noise adds to both, an unknown gain divides
    top = np.sqrt(max(summed, np.float32(0)) / noise[0] + read + np.float32(0.375))
    z = 2 * (top - np.sqrt(expected / noise[0] + read + np.float32(0.375)))
    # All but nothing outside the largest pixel: a zinger or a hot pixel with a neighbour lifted by chance.
    if z < spot_z or weight <= 0 or (n < 4 and peak - local > 0.95 * weight and weight > 40):
        return False
    row[0], row[1] = at_slow / weight, at_fast / weight
    row[2] = summed - n * local
    row[3] = np.sqrt(noise[0] * (max(summed, np.float32(1)) + n * n * max(local, np.float32(0)) / n_local) + n * noise[1])
    row[4], row[5], row[6] = local, peak, n
    return True


@_jit
def find_spots(frame: Counts, levels: Levels, noise, slow_edges, fast_edges):  # type: ignore[no-untyped-def]
    """Rows of (slow, fast, intensity, sigma, background, peak, n_pixels), in photons and pixels."""
    number, total, largest = binned_statistics(frame.pixels, frame.mask, frame.low, frame.high, slow_edges, fast_edges)
    state = np.zeros(frame.pixels.shape, dtype=np.uint8)
    candidates = _candidates(frame, levels, noise, (_tile_background(number, total), largest), state)
    table = np.empty((_MAX_SPOTS, 7), dtype=np.float32)
    stack = np.empty((levels.max_pixels, 2), dtype=np.int32)
    n_spots = 0
    for i in range(len(candidates)):
        row, column = candidates[i, 0], candidates[i, 1]
        if state[row, column] == 2:
            continue
        local, n_local = _local_background(frame, state, row, column)
        if n_local < 20 or _photons(frame, row, column) <= _strong_above(local, levels.candidate_sigma, noise):
            continue
        n = _grow(frame, state, (row, column), _member_above(local, levels.grow_sigma, noise), stack)
        if n < levels.min_pixels or n > levels.max_pixels:
            continue
        if n_spots == _MAX_SPOTS:
            break
        if _measure(frame, stack[:n], local, n_local, noise, levels.spot_z, table[n_spots]):
            n_spots += 1
    return table[:n_spots].copy()
