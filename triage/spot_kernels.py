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
_NEAR = 4  # and is held against the rim of a (2 * 4 + 1)^2 window, which follows the crest of a smooth ring
_CREST_Z = np.float32(3.5)  # significance of the 3 x 3 pixels about the peak of a spot where the background is curved
_REACH = 15  # a region that goes further than this from its first pixel is a ring, an edge or a streak
_STRONG, _MEMBER, _REFUSED = 1, 2, 3  # what `state` says of a pixel
_COMPANY_Z = np.float32(2.0)  # significance of the 3 x 3 pixels about a candidate
_LONE_Z = np.float32(2.5)  # significance of the 8 pixels about the peak of a spot of few pixels on a background of some photons
_NO_MEAN = np.float32(3e38)
_BRIGHT = np.float32(50.0)  # photons a pixel from which uneven response outweighs counting, and the local variance counts
_MAX_SPOTS = 8192  # more than any frame that can be indexed holds; bounds the time on a frame of noise


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
    taken in every few tiles, and in each as the median over its blocks of 4 x 4 pixels, which keeps spots out also where they crowd.
    """
    n_slow, n_fast = frame.pixels.shape
    step = max(1, int(np.sqrt(n_slow * n_fast / (TILE * TILE * 120.0))))
    means = np.empty(4096, dtype=np.float32)
    variances = np.empty(4096, dtype=np.float32)
    n = 0
    for tile_slow in range(0, n_slow // TILE, step):
        for tile_fast in range(0, n_fast // TILE, step):
            mean, variance, number = _tile_moments(frame, tile_slow * TILE, tile_fast * TILE)
            if number >= 6 and n < 4096:
                means[n], variances[n] = mean, variance
                n += 1
    result = np.array([1.0, 0.0], dtype=np.float32)
    if n < 10:
        return result
    order = np.argsort(means[:n])
    dark, bright = order[: n // 2], order[n // 2 :]
    excess = np.percentile(variances[dark] - means[dark], 50)
    if excess > 0.5:
        result[1] = excess
    above = np.maximum(means[bright], np.float32(0.05))
    k = np.percentile((variances[bright] - result[1]) / above, 40)
    if k > 1.5:
        result[0] = k
    return result


@_jit
def _tile_moments(frame: Counts, first_slow: int, first_fast: int):  # type: ignore[no-untyped-def]
    """Medians over a tile's wholly usable 4 x 4 blocks of their means and variances in photons, and the number of such blocks."""
    means = np.empty(16, dtype=np.float32)
    variances = np.empty(16, dtype=np.float32)
    number = 0
    for block in range(16):
        total, square, usable = 0.0, 0.0, True
        for r in range(first_slow + block // 4 * 4, first_slow + block // 4 * 4 + 4):
            for c in range(first_fast + block % 4 * 4, first_fast + block % 4 * 4 + 4):
                usable &= _usable(frame, r, c)
                photons = (np.float64(frame.pixels[r, c]) - frame.offset) * frame.scale
                total += photons
                square += photons * photons
        if usable:
            _insert(means, number, total / 16.0)
            _insert(variances, number, (square / 16.0 - (total / 16.0) ** 2) * (16.0 / 15.0))
            number += 1
    if number == 0:
        return np.float32(0), np.float32(0), number
    # The median of chi-squared with 15 degrees of freedom is 0.956 of its mean.
    return means[number // 2], variances[number // 2] / np.float32(0.956), number


@_jit
def _insert(ordered, n, value):  # type: ignore[no-untyped-def]
    """Puts `value` in its place among the first n, which are in order."""
    k = n
    while k > 0 and ordered[k - 1] > value:
        ordered[k] = ordered[k - 1]
        k -= 1
    ordered[k] = value


@_jit
def _usable(frame: Counts, row: int, column: int):  # type: ignore[no-untyped-def]
    value = frame.pixels[row, column]
    return value >= frame.low and value <= frame.high and not (frame.mask.size > 1 and frame.mask[row, column])


@_jit
def _photons(frame: Counts, row: int, column: int):  # type: ignore[no-untyped-def]
    return (np.float32(frame.pixels[row, column]) - frame.offset) * frame.scale


@_jit
def _tile_background(means, row, column, near):  # type: ignore[no-untyped-def]
    """A tile's mean, or the median of its 3 x 3 neighbourhood where that is lower: one bright spot does not hide its neighbours.

    `means` has a rim of one tile; tiles without enough data are _NO_MEAN, and so is the result where there is no other.
    """
    n = 0
    for r in range(row, row + 3):
        for c in range(column, column + 3):
            if means[r, c] < _NO_MEAN:
                _insert(near, n, means[r, c])
                n += 1
    return min(near[(n - 1) // 2], means[row + 1, column + 1]) if n > 0 else _NO_MEAN


@_jit
def _tile_means(number, total):  # type: ignore[no-untyped-def]
    """Mean per tile in raw counts with a rim of _NO_MEAN, which also stands where fewer than 16 pixels are usable."""
    rows, columns = number.shape
    means = np.full((rows + 2, columns + 2), _NO_MEAN)
    for row in range(rows):
        for column in range(columns):
            if number[row, column] >= 16:
                means[row + 1, column + 1] = total[row, column] / number[row, column]
    return means


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
    """Mean and variance of the usable, not strong pixels of the window round a candidate, in photons, and their number."""
    n_slow, n_fast = frame.pixels.shape
    masked = frame.mask.size > 1
    first, last = max(0, column - _WINDOW), min(n_fast, column + _WINDOW + 1)
    total, square, n = np.float32(0), np.float32(0), 0
    centre = np.float32(frame.pixels[row, column])  # squares about a number of the same size keep their digits
    for r in range(max(0, row - _WINDOW), min(n_slow, row + _WINDOW + 1)):
        line, marks, flags = frame.pixels[r], state[r], frame.mask[r if masked else 0]
        for c in range(first, last):
            value = line[c]
            usable = (marks[c] == 0) & (value >= frame.low) & (value <= frame.high)
            if masked:
                usable &= flags[c] == 0
            difference = np.float32(value) - centre if usable else np.float32(0)
            total += difference
            square += difference * difference
            n += 1 if usable else 0
    if n == 0:
        return np.float32(0), np.float32(0), n
    mean = total / n
    return (centre + mean - frame.offset) * frame.scale, (square / n - mean * mean) * frame.scale * frame.scale, n


@_jit
def _has_company(frame: Counts, row, column, member, background, noise):  # type: ignore[no-untyped-def]
    """Whether one of the eight neighbours is above `member` counts (and is data), and the nine together stand out of `background`."""
    n_slow, n_fast = frame.pixels.shape
    members, total, n = 0, np.float32(0), 0
    for r in range(max(0, row - 1), min(n_slow, row + 2)):
        for c in range(max(0, column - 1), min(n_fast, column + 2)):
            value = frame.pixels[r, c]
            usable = (value >= frame.low) & (value <= frame.high) & ((frame.mask.size == 1) or (frame.mask[r, c] == 0))
            total += np.float32(value) if usable else np.float32(0)
            n += usable
            members += usable & (np.float32(value) > member)
    if members < 2:
        return False
    return _significance((total - n * frame.offset) * frame.scale, n * background, n, noise) > _COMPANY_Z


@_jit
def _significance(total, expected, n, noise):  # type: ignore[no-untyped-def]
    """Of `total` photons on n pixels over what is expected: generalised Anscombe (read noise adds to both, an unknown gain divides)."""
    read = n * noise[1] / noise[0] + np.float32(0.375)
    top = np.sqrt(max(total, np.float32(0)) / noise[0] + read)
    return 2 * (top - np.sqrt(max(expected, np.float32(0)) / noise[0] + read))


@_jit
def _candidates(frame: Counts, levels: Levels, noise, tiles, state):  # type: ignore[no-untyped-def]
    """Positions of pixels that stand out of their tile and are not alone; marks all that stand out in `state`."""
    means, largest = tiles
    n_slow, n_fast = frame.pixels.shape
    found = np.empty((1024, 2), dtype=np.int32)
    near = np.empty(9, dtype=np.float32)
    n = 0
    for tile_slow in range(largest.shape[0]):
        for tile_fast in range(largest.shape[1]):
            own = (means[tile_slow + 1, tile_fast + 1] - frame.offset) * frame.scale
            if own < _NO_MEAN:  # most tiles end here: their largest pixel does not stand out of the least their mean could be
                least = own - np.float32(0.125) * np.sqrt(noise[0] * max(own, np.float32(0)) + noise[1])
                raw = _strong_above(least, levels.candidate_sigma, noise) / frame.scale + frame.offset
                if largest[tile_slow, tile_fast] <= raw:
                    continue
            background = _tile_background(means, tile_slow, tile_fast, near)
            if background >= _NO_MEAN:
                continue
            photons = (background - frame.offset) * frame.scale
            raw = _strong_above(photons, levels.candidate_sigma, noise) / frame.scale + frame.offset
            if largest[tile_slow, tile_fast] <= raw:
                continue
            member = _member_above(photons, levels.grow_sigma, noise) / frame.scale + frame.offset
            first, last = tile_fast * TILE, min(n_fast, (tile_fast + 1) * TILE)
            for r in range(tile_slow * TILE, min(n_slow, (tile_slow + 1) * TILE)):
                if not _any_above(frame.pixels[r, first:last], raw):
                    continue
                for c in range(first, last):
                    if np.float32(frame.pixels[r, c]) <= raw or not _usable(frame, r, c):
                        continue
                    state[r, c] = _STRONG
                    if levels.min_pixels > 1 and not _has_company(frame, r, c, member, photons, noise):
                        continue
                    if n == len(found):
                        larger = np.empty((2 * n, 2), dtype=np.int32)
                        larger[:n] = found
                        found = larger
                    found[n, 0], found[n, 1] = r, c
                    n += 1
    return found[:n]


@_jit
def _any_above(line, raw):  # type: ignore[no-untyped-def]
    """Whether a pixel of a few is above; without a branch, so that it is one vector comparison."""
    above = np.int32(0)
    for k in range(len(line)):
        above += np.int32(np.float32(line[k]) > raw)
    return above != 0


@_jit
def _grow(frame: Counts, state, seed, level, stack):  # type: ignore[no-untyped-def]
    """Flood fill (8-connected) above `level` photons; members are left in `stack`, their number returned.

    0 where the region is larger than the stack, goes further than _REACH, or touches one that did: all its pixels are then refused,
    so that no part of it passes later.
    """
    n_slow, n_fast = frame.pixels.shape
    raw = level / frame.scale + frame.offset
    stack[0, 0], stack[0, 1] = seed[0], seed[1]
    state[seed[0], seed[1]] = _MEMBER
    n, done, refused = 1, 0, False
    while done < n:
        row, column = stack[done, 0], stack[done, 1]
        done += 1
        for r in range(max(0, row - 1), min(n_slow, row + 2)):
            for c in range(max(0, column - 1), min(n_fast, column + 2)):
                if state[r, c] == _REFUSED:
                    refused = True
                if state[r, c] >= _MEMBER or np.float32(frame.pixels[r, c]) <= raw or not _usable(frame, r, c):
                    continue
                if n == len(stack) or abs(r - seed[0]) > _REACH or abs(c - seed[1]) > _REACH:
                    refused = True
                    continue
                state[r, c] = _MEMBER
                stack[n, 0], stack[n, 1] = r, c
                n += 1
    if refused:
        for k in range(n):
            state[stack[k, 0], stack[k, 1]] = _REFUSED
        return 0
    return n


@_jit
def _measure(frame: Counts, members, local, n_local, noise, row):  # type: ignore[no-untyped-def]
    """Fills `row` with a spot's numbers from its member pixels; returns its significance and the index of its largest pixel."""
    n = len(members)
    summed, at_slow, at_fast, weight = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    peak, largest = np.float32(-3e38), 0
    for k in range(n):
        photons = _photons(frame, members[k, 0], members[k, 1])
        summed += photons
        if photons > peak:
            peak, largest = photons, k
        above = max(photons - local, np.float32(0))
        at_slow += above * (members[k, 0] + np.float32(0.5))
        at_fast += above * (members[k, 1] + np.float32(0.5))
        weight += above
    if weight <= 0:
        return np.float32(0), largest
    row[0], row[1] = at_slow / weight, at_fast / weight
    row[2] = summed - n * local
    row[3] = np.sqrt(noise[0] * (max(summed, np.float32(1)) + n * n * max(local, np.float32(0)) / n_local) + n * noise[1])
    row[4], row[5], row[6] = local, peak, n
    return _significance(summed, n * local, n, noise), largest


@_jit
def _is_lone(frame: Counts, row, at, noise):  # type: ignore[no-untyped-def]
    """Whether a spot of few pixels is one pixel (a zinger, a hot pixel) with a neighbour lifted by chance."""
    local, above = row[4], row[5] - row[4]
    if row[6] >= 4 or above < np.float32(0.75) * row[2]:
        return False
    if above > np.float32(0.95) * row[2] and row[2] > 40:
        return True
    if local < 1:
        return False
    n_slow, n_fast = frame.pixels.shape
    total, n = np.float32(0), 0
    for r in range(max(0, at[0] - 1), min(n_slow, at[0] + 2)):
        for c in range(max(0, at[1] - 1), min(n_fast, at[1] + 2)):
            if _usable(frame, r, c) and (r != at[0] or c != at[1]):
                total += _photons(frame, r, c)
                n += 1
    return _significance(total, n * local, n, noise) < _LONE_Z


@_jit
def _on_a_crest(frame: Counts, at, local, noise):  # type: ignore[no-untyped-def]
    """Whether a spot is a chance cluster on a crest: the background near by is above that of the wide window, the middle not above it."""
    n_slow, n_fast = frame.pixels.shape
    near = np.empty((2 * _NEAR + 1) ** 2, dtype=np.float32)
    n, total, n_middle = 0, np.float32(0), 0
    for r in range(max(0, at[0] - _NEAR), min(n_slow, at[0] + _NEAR + 1)):
        for c in range(max(0, at[1] - _NEAR), min(n_fast, at[1] + _NEAR + 1)):
            away = max(abs(r - at[0]), abs(c - at[1]))
            if away == 2 or not _usable(frame, r, c):
                continue
            photons = _photons(frame, r, c)
            if away < 2:
                total += photons
                n_middle += 1
            else:
                _insert(near, n, photons)
                n += 1
    if n < 20:
        return False
    level = near[n // 2]  # the median: a neighbouring spot is no crest
    crest = level - local > 2 * np.sqrt((noise[0] * max(level, np.float32(0)) + noise[1]) / n)
    return crest and _significance(total, n_middle * level, n_middle, noise) < _CREST_Z


@_jit
def find_spots(frame: Counts, levels: Levels, noise, slow_edges, fast_edges):  # type: ignore[no-untyped-def]
    """Rows of (slow, fast, intensity, sigma, background, peak, n_pixels), in photons and pixels."""
    number, total, largest = binned_statistics(frame.pixels, frame.mask, frame.low, frame.high, slow_edges, fast_edges)
    state = np.zeros(frame.pixels.shape, dtype=np.uint8)
    candidates = _candidates(frame, levels, noise, (_tile_means(number, total), largest), state)
    table = np.empty((_MAX_SPOTS, 7), dtype=np.float32)
    stack = np.empty((levels.max_pixels, 2), dtype=np.int32)
    here = noise.copy()
    n_spots = 0
    for i in range(len(candidates)):
        row, column = candidates[i, 0], candidates[i, 1]
        if state[row, column] >= _MEMBER:
            continue
        local, variance, n_local = _local_background(frame, state, row, column)
        if n_local < 20:
            continue
        here[0] = noise[0]
        if local > _BRIGHT:
            sure = 1 - 2 * np.sqrt(np.float32(2) / n_local)  # two standard errors of a variance below what it seems
            here[0] = max(noise[0], (sure * variance - noise[1]) / local)
        if _photons(frame, row, column) <= _strong_above(local, levels.candidate_sigma, here):
            continue
        n = _grow(frame, state, (row, column), _member_above(local, levels.grow_sigma, here), stack)
        if n < levels.min_pixels:
            continue
        if n_spots == _MAX_SPOTS:
            break
        found = table[n_spots]
        z, top = _measure(frame, stack[:n], local, n_local, here, found)
        if z < levels.spot_z or _is_lone(frame, found, stack[top], here):
            continue
        if _on_a_crest(frame, stack[top], local, here):
            continue
        n_spots += 1
    return table[:n_spots].copy()
