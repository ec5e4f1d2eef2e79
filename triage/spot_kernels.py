"""The compiled loops of spot finding. Values are raw counts until offset and scale make them photons.

Everything a loop needs travels in two named tuples, which numba passes as they are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from triage.binning import one_row_of_bins

TILE = 16
"""Side in pixels of the squares whose mean decides what is worth a look."""
_WINDOW = 6  # the local background comes from a (2 * 6 + 1)^2 window, wider than two spots
_NEAR = 4  # and is held against the rim of a (2 * 4 + 1)^2 window, which follows the crest of a smooth ring
_CREST_Z = np.float32(3.5)  # significance of the 3 x 3 pixels about the peak of a spot where the background is curved
_REACH = 15  # a region that goes further than this from its first pixel is a ring, an edge or a streak
_KEPT = 4 * TILE  # rows of `state`, which are used over and over: a spot's window and growth reach one row of tiles up and down
_STRONG, _MEMBER, _REFUSED = 1, 2, 3  # what `state` says of a pixel
_COMPANY_Z = np.float32(2.0)  # significance of the 3 x 3 pixels about a candidate
_LONE_Z = np.float32(2.5)  # significance of the 8 pixels about the peak of a spot of few pixels on a background of some photons
NO_MEAN = np.float32(3e38)
"""Of tiles with too few usable pixels."""
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
# For what is asked of every pixel: to pass arrays in a call, and to count references to them, takes longer than the work.
_inline = numba.njit(nogil=True, cache=True, error_model="numpy", forceinline=True)


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
    pixels, mask, limits = frame.pixels, frame.mask, (frame.low, frame.high)
    for block in range(16):
        total, square, usable = 0.0, 0.0, True
        for r in range(first_slow + block // 4 * 4, first_slow + block // 4 * 4 + 4):
            for c in range(first_fast + block % 4 * 4, first_fast + block % 4 * 4 + 4):
                usable &= _usable(pixels, mask, limits, r, c)
                photons = (np.float64(pixels[r, c]) - frame.offset) * frame.scale
                total += photons
                square += photons * photons
        if usable:
            insert(means, number, total / 16.0)
            insert(variances, number, (square / 16.0 - (total / 16.0) ** 2) * (16.0 / 15.0))
            number += 1
    if number == 0:
        return np.float32(0), np.float32(0), number
    # The median of chi-squared with 15 degrees of freedom is 0.956 of its mean.
    return means[number // 2], variances[number // 2] / np.float32(0.956), number


@_jit
def insert(ordered, n, value):  # type: ignore[no-untyped-def]
    """Puts `value` in its place among the first n, which are in order."""
    k = n
    while k > 0 and ordered[k - 1] > value:
        ordered[k] = ordered[k - 1]
        k -= 1
    ordered[k] = value


@_inline
def _usable(pixels, mask, limits, row, column):  # type: ignore[no-untyped-def]
    value = pixels[row, column]
    usable = (value >= limits[0]) & (value <= limits[1])
    if mask.size > 1:
        usable &= mask[row, column] == 0
    return usable


@_inline
def tile_background(means, row, column):  # type: ignore[no-untyped-def]
    """A tile's mean, or the median of its 3 x 3 neighbourhood where that is lower: one bright spot does not hide its neighbours.

    `means` has a rim of one tile; tiles without enough data are NO_MEAN, and so is the result where there is no other.
    """
    own = means[row + 1, column + 1]
    n, lower = 0, 0
    for r in range(row, row + 3):
        for c in range(column, column + 3):
            n += 1 if means[r, c] < NO_MEAN else 0
            lower += 1 if means[r, c] < own else 0
    if n == 0:
        return NO_MEAN
    if lower <= (n - 1) // 2 and own < NO_MEAN:
        return own
    for r in range(row, row + 3):  # the mean that as many others are below as makes it the lower median
        for c in range(column, column + 3):
            below, level = 0, 0
            for rr in range(row, row + 3):
                for cc in range(column, column + 3):
                    below += 1 if means[rr, cc] < means[r, c] else 0
                    level += 1 if means[rr, cc] == means[r, c] else 0
            if below <= (n - 1) // 2 < below + level:
                return means[r, c]
    return own


@_jit
def _measure_tiles(frame: Counts, tile_slow, edges, means, bins, tops):  # type: ignore[no-untyped-def]
    """Fills one row of tiles' means in raw counts, NO_MEAN where fewer than 16 pixels are usable, their maxima, and the columns'."""
    number, total, largest = bins
    number.fill(np.float32(0))
    total.fill(np.float32(0))
    largest.fill(-NO_MEAN)
    rows = (tile_slow * TILE, min(frame.pixels.shape[0], (tile_slow + 1) * TILE))
    one_row_of_bins(frame.pixels, frame.mask, (frame.low, frame.high), rows, edges, (number, total, largest), tops)
    for t in range(len(number)):
        means[t + 1] = total[t] / number[t] if number[t] >= 16 else NO_MEAN


@_inline
def _strong_above(background, sigmas, noise):  # type: ignore[no-untyped-def]
    """Photons that a pixel must exceed to be a candidate."""
    variance = noise[0] * max(background, np.float32(0)) + noise[1]
    return background + sigmas * np.sqrt(variance) + np.float32(2.0) * noise[0]


@_inline
def _member_above(background, sigmas, noise):  # type: ignore[no-untyped-def]
    """Photons that a pixel must exceed to belong to a spot."""
    variance = noise[0] * max(background, np.float32(0)) + noise[1]
    return background + sigmas * np.sqrt(variance) + np.float32(0.6) * noise[0]


@_jit
def _local_background(frame: Counts, state, row, column):  # type: ignore[no-untyped-def]
    """Mean and variance of the usable, not strong pixels of the window round a candidate, in photons, and their number."""
    pixels, mask, masked = frame.pixels, frame.mask, frame.mask.size > 1
    n_slow, n_fast = pixels.shape
    first, last = max(0, column - _WINDOW), min(n_fast, column + _WINDOW + 1)
    total, square, n = np.float32(0), np.float32(0), 0
    centre = np.float32(pixels[row, column])  # squares about a number of the same size keep their digits
    for r in range(max(0, row - _WINDOW), min(n_slow, row + _WINDOW + 1)):
        for c in range(first, last):
            value = pixels[r, c]
            usable = (state[r % _KEPT, c] == 0) & (value >= frame.low) & (value <= frame.high)
            if masked:
                usable &= mask[r, c] == 0
            difference = np.float32(value) - centre if usable else np.float32(0)
            total += difference
            square += difference * difference
            n += 1 if usable else 0
    if n == 0:
        return np.float32(0), np.float32(0), n
    mean = total / n
    return (centre + mean - frame.offset) * frame.scale, (square / n - mean * mean) * frame.scale * frame.scale, n


@_inline
def _has_company(pixels, mask, limits, at, rules):  # type: ignore[no-untyped-def]
    """Whether one of the eight neighbours is above `member` counts (and is data), and the nine together stand out of the background."""
    _, member, background, noise, offset, scale, _ = rules
    members, total, n = 0, np.float32(0), 0
    for r in range(max(0, at[0] - 1), min(pixels.shape[0], at[0] + 2)):
        for c in range(max(0, at[1] - 1), min(pixels.shape[1], at[1] + 2)):
            value = pixels[r, c]
            usable = _usable(pixels, mask, limits, r, c)
            total += np.float32(value) if usable else np.float32(0)
            n += usable
            members += usable & (np.float32(value) > member)
    if members < 2:
        return False
    return significance((total - n * offset) * scale, n * background, n, noise) > _COMPANY_Z


@_inline
def significance(total, expected, n, noise):  # type: ignore[no-untyped-def]
    """Of `total` photons on n pixels over what is expected: generalised Anscombe (read noise adds to both, an unknown gain divides)."""
    read = n * noise[1] / noise[0] + np.float32(0.375)
    top = np.sqrt(max(total, np.float32(0)) / noise[0] + read)
    return 2 * (top - np.sqrt(max(expected, np.float32(0)) / noise[0] + read))


@_jit
def _least_limits(frame: Counts, levels: Levels, noise, means, limits):  # type: ignore[no-untyped-def]
    """Raw counts that the largest pixel of each tile of a row must exceed for a second look: its background may yet turn out to be lower.

    No limit where a tile has no mean of its own.
    """
    offset, scale, sigmas, k, read = frame.offset, frame.scale, levels.candidate_sigma, noise[0], noise[1]
    for t in range(len(limits)):
        own = (means[t + 1] - offset) * scale
        least = own - np.float32(0.125) * np.sqrt(k * max(own, np.float32(0)) + read)
        above = least + sigmas * np.sqrt(k * max(least, np.float32(0)) + read) + np.float32(2.0) * k
        limits[t] = above / scale + offset if own < NO_MEAN else -np.float32(np.inf)


@_jit
def _search_tiles(frame: Counts, levels: Levels, noise, tile_slow, tiles, state, found):  # type: ignore[no-untyped-def]
    """Positions of the pixels of one row of tiles that stand out of their tile and are not alone; marks all that stand out.

    In the order of tiles, and of rows in each; the positions are in `found`, or a larger array in its place, their number beside it.
    `tiles`: the means of all tiles, and of this row the maxima, what they must exceed, and the maxima of the columns of pixels.
    """
    means, largest, limits, tops = tiles
    pixels, mask, data = frame.pixels, frame.mask, (frame.low, frame.high)
    n = 0
    for tile_fast in range(len(limits)):
        if largest[tile_fast] <= limits[tile_fast]:
            continue
        background = tile_background(means, tile_slow, tile_fast)
        photons = (background - frame.offset) * frame.scale
        raw = _strong_above(photons, levels.candidate_sigma, noise) / frame.scale + frame.offset
        if background >= NO_MEAN or largest[tile_fast] <= raw:
            continue
        member = _member_above(photons, levels.grow_sigma, noise) / frame.scale + frame.offset
        rules = (raw, member, photons, noise, frame.offset, frame.scale, levels.min_pixels > 1)
        if n + TILE * TILE > len(found):
            larger = np.empty((2 * len(found), 2), dtype=np.int32)
            for k in range(n):
                larger[k, 0], larger[k, 1] = found[k, 0], found[k, 1]
            found = larger
        first = n
        for column in range(tile_fast * TILE, min(len(tops), (tile_fast + 1) * TILE)):
            if tops[column] > raw:
                n = _search_column(pixels, mask, data, (tile_slow * TILE, column), rules, state, found, (first, n))
    return found, n


@_inline
def _search_column(pixels, mask, limits, start, rules, state, found, numbers):  # type: ignore[no-untyped-def]
    """Adds the candidates among the pixels of a tile's column that begins at `start`; keeps the tile's in the order of rows."""
    first, n = numbers
    column = start[1]
    for row in range(start[0], min(pixels.shape[0], start[0] + TILE)):
        if np.float32(pixels[row, column]) <= rules[0] or not _usable(pixels, mask, limits, row, column):
            continue
        state[row % _KEPT, column] = _STRONG
        if rules[6] and not _has_company(pixels, mask, limits, (row, column), rules):
            continue
        k = n
        while k > first and found[k - 1, 0] > row:
            found[k, 0], found[k, 1] = found[k - 1, 0], found[k - 1, 1]
            k -= 1
        found[k, 0], found[k, 1] = row, column
        n += 1
    return n


@_jit
def _grow(frame: Counts, state, seed, level, stack):  # type: ignore[no-untyped-def]
    """Flood fill (8-connected) above `level` photons; members are left in `stack`, their number returned.

    0 where the region is larger than the stack, goes further than _REACH, or touches one that did: all its pixels are then refused,
    so that no part of it passes later.
    """
    pixels, mask, limits = frame.pixels, frame.mask, (frame.low, frame.high)
    n_slow, n_fast = pixels.shape
    raw = level / frame.scale + frame.offset
    stack[0, 0], stack[0, 1] = seed[0], seed[1]
    state[seed[0] % _KEPT, seed[1]] = _MEMBER
    n, done, refused = 1, 0, False
    while done < n:
        row, column = stack[done, 0], stack[done, 1]
        done += 1
        for r in range(max(0, row - 1), min(n_slow, row + 2)):
            for c in range(max(0, column - 1), min(n_fast, column + 2)):
                if state[r % _KEPT, c] == _REFUSED:
                    refused = True
                if state[r % _KEPT, c] >= _MEMBER or np.float32(pixels[r, c]) <= raw or not _usable(pixels, mask, limits, r, c):
                    continue
                if n == len(stack) or abs(r - seed[0]) > _REACH or abs(c - seed[1]) > _REACH:
                    refused = True
                    continue
                state[r % _KEPT, c] = _MEMBER
                stack[n, 0], stack[n, 1] = r, c
                n += 1
    if refused:
        for k in range(n):
            state[stack[k, 0] % _KEPT, stack[k, 1]] = _REFUSED
        return 0
    return n


@_jit
def _measure(frame: Counts, members, local, n_local, noise, row):  # type: ignore[no-untyped-def]
    """Fills `row` with a spot's numbers from its member pixels; returns its significance and the index of its largest pixel."""
    n, pixels = len(members), frame.pixels
    summed, at_slow, at_fast, weight = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    peak, largest = np.float32(-3e38), 0
    for k in range(n):
        photons = (np.float32(pixels[members[k, 0], members[k, 1]]) - frame.offset) * frame.scale
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
    return significance(summed, n * local, n, noise), largest


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
    pixels, mask, limits = frame.pixels, frame.mask, (frame.low, frame.high)
    total, n = np.float32(0), 0
    for r in range(max(0, at[0] - 1), min(pixels.shape[0], at[0] + 2)):
        for c in range(max(0, at[1] - 1), min(pixels.shape[1], at[1] + 2)):
            if _usable(pixels, mask, limits, r, c) and (r != at[0] or c != at[1]):
                total += (np.float32(pixels[r, c]) - frame.offset) * frame.scale
                n += 1
    return significance(total, n * local, n, noise) < _LONE_Z


@_jit
def _on_a_crest(frame: Counts, at, local, noise):  # type: ignore[no-untyped-def]
    """Whether a spot is a chance cluster on a crest: the background near by is above that of the wide window, the middle not above it."""
    pixels, mask, limits = frame.pixels, frame.mask, (frame.low, frame.high)
    n_slow, n_fast = pixels.shape
    near = np.empty((2 * _NEAR + 1) ** 2, dtype=np.float32)
    n, total, n_middle = 0, np.float32(0), 0
    for r in range(max(0, at[0] - _NEAR), min(n_slow, at[0] + _NEAR + 1)):
        for c in range(max(0, at[1] - _NEAR), min(n_fast, at[1] + _NEAR + 1)):
            away = max(abs(r - at[0]), abs(c - at[1]))
            if away == 2 or not _usable(pixels, mask, limits, r, c):
                continue
            photons = (np.float32(pixels[r, c]) - frame.offset) * frame.scale
            if away < 2:
                total += photons
                n_middle += 1
            else:
                insert(near, n, photons)
                n += 1
    if n < 20:
        return False
    level = near[n // 2]  # the median: a neighbouring spot is no crest
    crest = level - local > 2 * np.sqrt((noise[0] * max(level, np.float32(0)) + noise[1]) / n)
    return crest and significance(total, n_middle * level, n_middle, noise) < _CREST_Z


@_jit
def tile_edges(length):  # type: ignore[no-untyped-def]
    """Limits of the tiles along a side of `length` pixels; the last may be smaller."""
    edges = np.empty((length + TILE - 1) // TILE + 1, dtype=np.int32)
    for k in range(len(edges)):
        edges[k] = min(length, k * TILE)
    return edges


@_jit
def _spots_of(frame: Counts, levels: Levels, noise, candidates, state, stack, table, n_spots):  # type: ignore[no-untyped-def]
    """Adds to the table the spots that candidates belong to; returns how many it then holds."""
    here = noise.copy()
    for i in range(len(candidates)):
        row, column = candidates[i, 0], candidates[i, 1]
        if state[row % _KEPT, column] >= _MEMBER:
            continue
        local, variance, n_local = _local_background(frame, state, row, column)
        if n_local < 20:
            continue
        here[0] = noise[0]
        if local > _BRIGHT:
            sure = 1 - 2 * np.sqrt(np.float32(2) / n_local)  # two standard errors of a variance below what it seems
            here[0] = max(noise[0], (sure * variance - noise[1]) / local)
        if (np.float32(frame.pixels[row, column]) - frame.offset) * frame.scale <= _strong_above(local, levels.candidate_sigma, here):
            continue
        n = _grow(frame, state, (row, column), _member_above(local, levels.grow_sigma, here), stack)
        if n < levels.min_pixels:
            continue
        if n_spots == len(table):
            break
        found = table[n_spots]
        z, top = _measure(frame, stack[:n], local, n_local, here, found)
        if z < levels.spot_z or _is_lone(frame, found, stack[top], here):
            continue
        if _on_a_crest(frame, stack[top], local, here):
            continue
        n_spots += 1
    return n_spots


@_jit
def find_spots(frame: Counts, levels: Levels, noise):  # type: ignore[no-untyped-def]
    """Rows of (slow, fast, intensity, sigma, background, peak, n_pixels), in photons and pixels.

    Goes down the frame by rows of tiles. A row is searched when the next is measured, and its spots are made when the next is searched:
    all that a spot's window and growth may reach is known by then, and its pixels are still in the cache.
    """
    n_slow, n_fast = frame.pixels.shape
    rows, columns = (n_slow + TILE - 1) // TILE, (n_fast + TILE - 1) // TILE
    means = np.full((rows + 2, columns + 2), NO_MEAN)  # with a rim of one tile
    bins = np.empty((2, 3, columns), dtype=np.float32)  # of the row of tiles that is measured and the one before: number, sum, maximum
    tops = np.empty((2, n_fast), dtype=np.float32)
    limits = np.empty(columns, dtype=np.float32)
    edges = tile_edges(n_fast)
    state = np.empty((_KEPT, n_fast), dtype=np.uint8)
    table = np.empty((_MAX_SPOTS, 7), dtype=np.float32)
    stack = np.empty((levels.max_pixels, 2), dtype=np.int32)
    waiting, spare, n_waiting, n_spots = np.empty((1024, 2), dtype=np.int32), np.empty((1024, 2), dtype=np.int32), 0, 0
    for row in range(rows + 2):
        if row < rows:
            this = bins[row % 2]
            _measure_tiles(frame, row, edges, means[row + 1], (this[0], this[1], this[2]), tops[row % 2])
        n = 0
        if 0 < row <= rows:
            last, first = (row - 1) % 2, (row - 1) * TILE % _KEPT
            _least_limits(frame, levels, noise, means[row], limits)
            state[first : first + TILE].fill(np.uint8(0))
            spare, n = _search_tiles(frame, levels, noise, row - 1, (means, bins[last, 2], limits, tops[last]), state, spare)
        n_spots = _spots_of(frame, levels, noise, waiting[:n_waiting], state, stack, table, n_spots)
        waiting, spare, n_waiting = spare, waiting, n
    return table[:n_spots].copy()
