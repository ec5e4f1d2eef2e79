"""Classical spot finding: local background, connected strong pixels, sparse by design.

In the tradition of the dispersion test (Winter et al., DIALS, Acta Cryst. D74 (2018) 85) and peakfinder8 (Barty et al., J. Appl.
Cryst. 47 (2014) 1118). Cheap test first: a pixel is a candidate when it stands out of its tile's background. The full statistics,
in a window that leaves other strong pixels out, are computed only there. Significances are in Anscombe's variance-stabilised units
z = 2 (sqrt(x + 3/8) - sqrt(b + 3/8)) (Anscombe, Biometrika 35 (1948) 246), which hold from empty frames to bright ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from triage.binning import binned_statistics, measured
from triage.core import FloatArray, Pixels, Run, Spots, SpotSummary

SPOT_FINDER_VERSION = 1
"""Raised whenever the spots found in a frame change: a model trained on another version's spots does not load."""

ICE_RINGS_A = (3.897, 3.669, 3.441, 2.671, 2.249, 2.072, 1.948, 1.918, 1.883, 1.721, 1.524, 1.473, 1.444, 1.372, 1.367, 1.299, 1.275, 1.261, 1.224)
"""d of hexagonal ice's powder rings (Thorn et al., Acta Cryst. D73 (2017) 729)."""
ICE_HALF_WIDTH = 0.006
"""Half the width of a ring's band, as a fraction of s."""

_TILE = 16
_WINDOW = 6  # the local background comes from a (2 * 6 + 1)^2 window, wider than two spots
_MAX_SPOTS = 8192  # more than any frame that can be indexed holds; bounds the time on a frame of noise


@dataclass(frozen=True, slots=True, kw_only=True)
class DispersionFinder:
    """Finds spots of one frame; implements SpotFinder."""

    candidate_sigma: float = 3.0
    """Of a pixel above its tile, to be looked at: more than b + 3 sqrt(b) + 2 photons, so at least 3 on an empty background."""
    grow_sigma: float = 1.5
    """Of a pixel above the local background, to belong to a spot: more than b + 1.5 sqrt(b) + 0.6 photons."""
    spot_z: float = 5.5
    """Of the whole spot against the local background."""
    min_pixels: int = 2
    """One strong pixel alone is a zinger or a hot pixel."""
    max_pixels: int = 500
    """Larger connected regions are rings, shadows' edges or streaks."""

    def find(self, pixels: Pixels, run: Run) -> Spots:
        """The spots of a frame (slow, fast), strongest first."""
        converted, mask, low, high = measured(pixels, run)
        header = run.header
        table = _find(
            converted,
            mask,
            low,
            high,
            np.float32(header.offset),
            np.float32(1.0 / header.counts_per_photon),
            np.array([self.candidate_sigma, self.grow_sigma, self.spot_z, self.min_pixels, self.max_pixels], dtype=np.float32),
            _noise(converted, mask, low, high, np.float32(header.offset), np.float32(1.0 / header.counts_per_photon)),
            _tile_edges(converted.shape[0]),
            _tile_edges(converted.shape[1]),
        )
        return _spots(table, run)


def summarise(spots: Spots) -> SpotSummary:
    """The frame's numbers from its spots.

    The resolution is the 95th percentile of 1/d of the spots off the ice rings, where there are at least five.
    """
    off_ice = ~spots.on_ice
    n_off = int(off_ice.sum())
    resolution = None
    if spots.inverse_d_per_A is not None and n_off >= 5:
        resolution = float(1.0 / np.percentile(spots.inverse_d_per_A[off_ice], 95))
    return SpotSummary(
        count=len(spots),
        count_no_ice=n_off,
        resolution_A=resolution,
        total_intensity=float(spots.intensity.sum()),
        mean_i_over_sigma=float((spots.intensity / spots.sigma).mean()) if len(spots) else None,
    )


def on_ice_ring(inverse_d_per_A: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Whether each s = 1/d (any shape) lies within the band of a hexagonal ice ring."""
    s = np.asarray(inverse_d_per_A, dtype=np.float64)
    rings = 1.0 / np.asarray(ICE_RINGS_A)
    result: npt.NDArray[np.bool_] = (np.abs(s[..., None] / rings - 1.0) < ICE_HALF_WIDTH).any(axis=-1)
    return result


def _tile_edges(length: int) -> npt.NDArray[np.int32]:
    return np.append(np.arange(0, length, _TILE), length).astype(np.int32)


def _spots(table: FloatArray, run: Run) -> Spots:
    table = table[np.argsort(-table[:, 2], kind="stable")]
    positions = np.ascontiguousarray(table[:, :2])
    inverse_d, on_ice = None, np.zeros(len(table), dtype=bool)
    if run.geometry is not None:
        inverse_d = run.geometry.inverse_d_per_A(positions).astype(np.float32)
        on_ice = on_ice_ring(inverse_d)
    return Spots(
        positions_px=positions,
        intensity=table[:, 2].copy(),
        sigma=table[:, 3].copy(),
        background=table[:, 4].copy(),
        peak=table[:, 5].copy(),
        n_pixels=table[:, 6].astype(np.int32),
        inverse_d_per_A=inverse_d,
        on_ice=on_ice,
    )


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _tile_background(number, total):  # type: ignore[no-untyped-def]
    """Mean per tile, the median over its 3 x 3 neighbourhood, so that one bright spot does not hide its neighbours."""
    rows, columns = number.shape
    background = np.zeros((rows, columns), dtype=np.float32)
    near = np.empty(9, dtype=np.float32)
    for row in range(rows):
        for column in range(columns):
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
                background[row, column] = near[(n - 1) // 2]
                if number[row, column] >= 16:
                    background[row, column] = min(background[row, column], total[row, column] / number[row, column])
    return background


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _noise(pixels, mask, low, high, offset, scale):  # type: ignore[no-untyped-def]
    """How much noisier than photon counting the frame is: (k, r2) of variance = k * mean + r2, in photons; (1, 0) for a counter.

    Integrating detectors (CCD, JUNGFRAU in units of energy) have read noise and an unknown gain. The dispersion (variance over mean) is
    taken in every few tiles; a low percentile keeps spots out, also where they crowd.
    """
    n_slow, n_fast = pixels.shape
    masked = mask.size > 1
    step = max(1, int(np.sqrt(n_slow * n_fast / (_TILE * _TILE * 400.0))))
    means = np.empty(4096, dtype=np.float32)
    variances = np.empty(4096, dtype=np.float32)
    n = 0
    for tile_slow in range(0, n_slow // _TILE, step):
        for tile_fast in range(0, n_fast // _TILE, step):
            total, square, number = 0.0, 0.0, 0
            for r in range(tile_slow * _TILE, (tile_slow + 1) * _TILE):
                for c in range(tile_fast * _TILE, (tile_fast + 1) * _TILE):
                    value = pixels[r, c]
                    if value >= low and value <= high and not (masked and mask[r, c]):
                        photons = (np.float64(value) - offset) * scale
                        total += photons
                        square += photons * photons
                        number += 1
            if number > 100 and n < 4096:
                mean = total / number
                means[n] = mean
                variances[n] = (square / number - mean * mean) * number / (number - 1)
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


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _strong_above(background, sigmas, noise):  # type: ignore[no-untyped-def]
    """Photons that a pixel must exceed to be a candidate."""
    variance = noise[0] * max(background, np.float32(0)) + noise[1]
    return background + sigmas * np.sqrt(variance) + np.float32(2.0) * noise[0]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _member_above(background, sigmas, noise):  # type: ignore[no-untyped-def]
    """Photons that a pixel must exceed to belong to a spot."""
    variance = noise[0] * max(background, np.float32(0)) + noise[1]
    return background + sigmas * np.sqrt(variance) + np.float32(0.6) * noise[0]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _local_background(pixels, state, row, column, offset, scale, low, high, mask):  # type: ignore[no-untyped-def]
    """Mean of the usable, not strong pixels of the window round a candidate, in photons, and their number."""
    n_slow, n_fast = pixels.shape
    masked = mask.size > 1
    first, last = max(0, column - _WINDOW), min(n_fast, column + _WINDOW + 1)
    total, n = np.float32(0), 0
    for r in range(max(0, row - _WINDOW), min(n_slow, row + _WINDOW + 1)):
        line, marks, flags = pixels[r], state[r], mask[r if masked else 0]
        for c in range(first, last):
            value = line[c]
            usable = (marks[c] == 0) & (value >= low) & (value <= high)
            if masked:
                usable &= flags[c] == 0
            total += np.float32(value) if usable else np.float32(0)
            n += np.int32(usable)
    return ((total / n - offset) * scale if n > 0 else np.float32(0)), n


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _has_company(pixels, row, column, raw, high):  # type: ignore[no-untyped-def]
    """Whether one of the eight neighbours is above `raw` counts (and is data)."""
    n_slow, n_fast = pixels.shape
    for r in range(max(0, row - 1), min(n_slow, row + 2)):
        for c in range(max(0, column - 1), min(n_fast, column + 2)):
            value = pixels[r, c]
            if np.float32(value) > raw and value <= high and (r != row or c != column):
                return True
    return False


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _candidates(pixels, mask, low, high, offset, scale, background, largest, settings, noise, state):  # type: ignore[no-untyped-def]
    """Positions of pixels that stand out of their tile and are not alone; marks all that stand out 1 in `state`."""
    n_slow, n_fast = pixels.shape
    masked = mask.size > 1
    found = np.empty((1024, 2), dtype=np.int32)
    n = 0
    for tile_slow in range(background.shape[0]):
        for tile_fast in range(background.shape[1]):
            photons = (background[tile_slow, tile_fast] - offset) * scale
            raw = _strong_above(photons, settings[0], noise) / scale + offset
            if largest[tile_slow, tile_fast] <= raw:
                continue
            company = _member_above(photons, settings[1], noise) / scale + offset if settings[3] > 1 else np.float32(-3e38)
            first, last = tile_fast * _TILE, min(n_fast, (tile_fast + 1) * _TILE)
            for r in range(tile_slow * _TILE, min(n_slow, (tile_slow + 1) * _TILE)):
                line = pixels[r]
                for c in range(first, last):
                    if np.float32(line[c]) <= raw:
                        continue
                    if line[c] > high or line[c] < low or (masked and mask[r, c]):
                        continue
                    state[r, c] = 1
                    if not _has_company(pixels, r, c, company, high):
                        continue
                    if n == len(found):
                        larger = np.empty((2 * n, 2), dtype=np.int32)
                        larger[:n] = found
                        found = larger
                    found[n, 0], found[n, 1] = r, c
                    n += 1
    return found[:n]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _grow(pixels, mask, state, seed_row, seed_column, level, low, high, offset, scale, stack):  # type: ignore[no-untyped-def]
    """Flood fill (8-connected) above `level` photons; marks 2; members are left in `stack`, their number returned."""
    n_slow, n_fast = pixels.shape
    masked = mask.size > 1
    raw = level / scale + offset
    stack[0, 0], stack[0, 1] = seed_row, seed_column
    state[seed_row, seed_column] = 2
    n, done = 1, 0
    while done < n:
        row, column = stack[done, 0], stack[done, 1]
        done += 1
        for r in range(max(0, row - 1), min(n_slow, row + 2)):
            for c in range(max(0, column - 1), min(n_fast, column + 2)):
                value = pixels[r, c]
                if state[r, c] == 2 or value < low or value > high or np.float32(value) <= raw or (masked and mask[r, c]):
                    continue
                if n == len(stack):
                    return n + 1  # larger than any spot
                state[r, c] = 2
                stack[n, 0], stack[n, 1] = r, c
                n += 1
    return n


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _find(pixels, mask, low, high, offset, scale, settings, noise, slow_edges, fast_edges):  # type: ignore[no-untyped-def]
    """Rows of (slow, fast, intensity, sigma, background, peak, n_pixels), in photons and pixels."""
    candidate_sigma, grow_sigma, spot_z = settings[0], settings[1], settings[2]
    min_pixels, max_pixels = int(settings[3]), int(settings[4])
    number, total, largest = binned_statistics(pixels, mask, low, high, slow_edges, fast_edges)
    background = _tile_background(number, total)
    state = np.zeros(pixels.shape, dtype=np.uint8)
    candidates = _candidates(pixels, mask, low, high, offset, scale, background, largest, settings, noise, state)
    table = np.empty((_MAX_SPOTS, 7), dtype=np.float32)
    stack = np.empty((max_pixels, 2), dtype=np.int32)
    n_spots = 0
    for i in range(len(candidates)):
        row, column = candidates[i, 0], candidates[i, 1]
        if state[row, column] == 2:
            continue
        local, n_local = _local_background(pixels, state, row, column, offset, scale, low, high, mask)
        if n_local < 20:
            continue
        value = (np.float32(pixels[row, column]) - offset) * scale
        if value <= _strong_above(local, candidate_sigma, noise):
            continue
        n = _grow(pixels, mask, state, row, column, _member_above(local, grow_sigma, noise), low, high, offset, scale, stack)
        if n < min_pixels or n > max_pixels:
            continue
        summed, peak, at_slow, at_fast, weight = np.float32(0), np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for k in range(n):
            photons = (np.float32(pixels[stack[k, 0], stack[k, 1]]) - offset) * scale
            summed += photons
            peak = max(peak, photons)
            above = max(photons - local, np.float32(0))
            at_slow += above * (stack[k, 0] + np.float32(0.5))
            at_fast += above * (stack[k, 1] + np.float32(0.5))
            weight += above
        expected = max(n * local, np.float32(0))
        read = n * noise[1] / noise[0]  # generalised Anscombe: read noise adds to both, an unknown gain divides
        top = np.sqrt(max(summed, np.float32(0)) / noise[0] + read + np.float32(0.375))
        z = 2 * (top - np.sqrt(expected / noise[0] + read + np.float32(0.375)))
        # All but nothing outside the largest pixel: a zinger or a hot pixel with a neighbour lifted by chance.
        if z < spot_z or weight <= 0 or (n < 4 and peak - local > 0.95 * weight and weight > 40):
            continue
        if n_spots == _MAX_SPOTS:
            break
        table[n_spots, 0], table[n_spots, 1] = at_slow / weight, at_fast / weight
        table[n_spots, 2] = summed - n * local
        table[n_spots, 3] = np.sqrt(noise[0] * (max(summed, np.float32(1)) + n * n * max(local, np.float32(0)) / n_local) + n * noise[1])
        table[n_spots, 4], table[n_spots, 5], table[n_spots, 6] = local, peak, n
        n_spots += 1
    return table[:n_spots].copy()
