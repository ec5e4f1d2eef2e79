"""Faint broad spots: those of which no pixel stands out by itself, looked for in windows of several sizes about as large as they are.

The spot finder grows spots from strong pixels, and misses those of 5 px and more that have few photons. Here windows of 4 to 16 px are
held against those around them, which is nearly the matched filter of a spot of that size on a flat background (Turin, IRE Trans. Inf.
Theory 6 (1960) 311). Their places are not sharp, so they are not among a frame's spots: a model is told how many there are and how
significant, so that a frame full of them is not taken for an empty one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from triage.binning import binned_statistics, measured
from triage.core import FloatArray, Pixels, Run, Spots
from triage.ranks import NTH, crowded, crowded_lines, log_nth
from triage.spot_kernels import NO_MEAN, TILE, Counts, insert, noise_of, significance, tile_background, tile_edges

FAINT_FEATURES = (
    "faint_log_count",
    "faint_log_count_clean",
    "faint_log_count_clean_6_sigma",
    "faint_log_count_clean_7_sigma",
    "faint_log_width_px",
    *(f"faint_log_z_clean_{n}" for n in NTH),
    "any_log_count_clean_5_sigma",
    "any_log_count_clean_7_sigma",
    *(f"any_log_i_over_sigma_clean_{n}" for n in NTH),
)
"""Counts are of more than 5 sigma. *Clean*: not on a line or a ring that is crowded with them; *any*: together with the spot finder's own
clean spots."""

_CELL, _LARGE_CELL = 2, 4  # px a side of what windows are made of,
_LARGE = 6_000_000  # and of frames of more pixels than this: there is no time for more windows
_WIDTHS = (2, 3, 4, 6, 8)  # cells a side of the windows, for spots of 3 to 13 px at half their height,
_STEPS = (1, 1, 2, 2, 4)  # and from one window to the next
WIDTHS_PX = tuple(_CELL * width for width in _WIDTHS)
"""Sides of the windows; twice as much on large frames."""
_LEAST_Z, _COUNTED_Z = 4.0, 5.0
_GLANCE_Z = 3.5  # against the tile's mean alone, to be looked at
_LEAST_USABLE = 0.8  # of a window's pixels
_CLIP_SIGMA, _CLIP_PHOTONS = 4.0, 3.0  # above a tile's mean, to which pixels are cut: hot ones, zingers
_SEEN_PX, _SEEN_RADII = 2.0, 1.5  # about a spot of the finder's nothing is looked for
_AROUND = 24  # windows a background is made of: 8 near by and 16 a window further out
_LEAST_AROUND = 10
_TRIMMED = 3  # of these, on either side: neighbouring spots, gaps
_TRIMMED_VARIANCE = 0.36  # of what is left of Gaussian noise, in its variance before
_UNEVEN = 1.4  # times the counting noise, from which the scatter of the windows around is the noise
_SIDES = ((0, 2), (2, 0), (2, 2), (2, -2), (1, 2), (2, 1), (1, -2), (2, -1))  # half steps to the windows beside one
_CREST_SIGMA = 2.5  # by which a pair of opposite windows is brighter than those around: a ring, an edge or a column goes through
_SHELLS = 256
_S_TOP = 1.25  # 1/A, of the last shell
_MOST = 4096  # more than any frame that can be judged by them holds

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")
_loose = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "nnan", "ninf"})


class Cells(NamedTuple):
    """A frame as windows are made of it, (slow, fast) cells."""

    photons: Any
    """Cut to what its tile's mean makes likely, pixel by pixel."""
    usable: Any
    """Pixels; none where a spot was found."""
    tiles: Any
    """Background of each TILE x TILE pixels, photons a pixel; 0 where too few are usable."""
    side: int
    """Of a cell, px."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FaintSpots:
    """What stands out of a frame besides its spots, most significant first."""

    positions_px: FloatArray
    """(n, 2) slow, fast; good to a third of the width."""
    z: FloatArray
    """(n,) significance in Anscombe's units, above 4."""
    width_px: FloatArray
    """(n,) side of the window that it fills best."""

    def __len__(self) -> int:
        return len(self.z)

    def as_table(self) -> FloatArray:
        """(n, 4) of slow, fast, z and width."""
        return np.column_stack([self.positions_px, self.z, self.width_px]).astype(np.float32)

    @classmethod
    def none(cls) -> FaintSpots:
        """Nothing."""
        return cls.of_table(np.zeros((0, 4), dtype=np.float32))

    @classmethod
    def of_table(cls, table: FloatArray) -> FaintSpots:
        """From the rows (n, 4) of `as_table`, in any order."""
        table = table[np.argsort(-table[:, 2], kind="stable")]
        return cls(positions_px=table[:, :2], z=table[:, 2], width_px=table[:, 3])


def find_faint_spots(pixels: Pixels, spots: Spots, run: Run) -> FaintSpots:
    """What stands out of a frame (slow, fast) away from the spots that were found in it."""
    converted, mask, low, high = measured(pixels, run)
    frame = Counts(converted, mask, low, high, np.float32(run.header.offset), np.float32(1.0 / run.header.counts_per_photon))
    noise = noise_of(frame)
    number, total, _ = binned_statistics(converted, mask, low, high, tile_edges(pixels.shape[0]), tile_edges(pixels.shape[1]))
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.where(number >= TILE, (total / number - frame.offset) * frame.scale, NO_MEAN).astype(np.float32)
    tiles = _levels(np.pad(means, 1, constant_values=NO_MEAN))
    side = _CELL if pixels.size <= _LARGE else _LARGE_CELL
    photons, usable = _cells(frame, tiles, noise, side)
    cells = Cells(photons, usable, tiles, side)
    radii = (_SEEN_PX + _SEEN_RADII * np.sqrt(spots.n_pixels / np.pi)) / side
    _blot_out(cells, spots.positions_px / side - 0.5, radii)
    return FaintSpots.of_table(_best(_candidates(cells, noise), cells))


def faint_features(faint: FaintSpots, run: Run, found: npt.NDArray[np.floating]) -> FloatArray:
    """(len(FAINT_FEATURES),) finite numbers, in that order. `found`: I/sigma of the spot finder's clean spots (m,)."""
    z = faint.z.astype(np.float64)
    clean = ~crowded_lines(faint.positions_px, run.header.shape_px)
    if run.geometry is not None and len(z):
        shell = (run.geometry.inverse_d_per_A(faint.positions_px) * (_SHELLS / _S_TOP)).astype(int)
        clean &= ~crowded(shell.clip(0, _SHELLS - 1), _SHELLS)
    sure = clean & (z > _COUNTED_Z)
    both = np.sort(np.concatenate([z[clean], found]))[::-1]
    values = [np.log1p(float((z > _COUNTED_Z).sum()))]
    values += [np.log1p(float((z[clean] > least).sum())) for least in (_COUNTED_Z, 6.0, 7.0)]
    values.append(float(np.log(faint.width_px[sure]).mean()) if sure.any() else 0.0)
    values += log_nth(z[clean])
    values += [np.log1p(float((both > least).sum())) for least in (_COUNTED_Z, 7.0)]
    values += log_nth(both)
    return np.asarray(values, dtype=np.float32)


@_jit
def _levels(means):  # type: ignore[no-untyped-def]  # numba infers
    """Background of each tile (slow, fast) from the tiles' means, which have a rim of one tile; 0 where there is none."""
    result = np.empty((means.shape[0] - 2, means.shape[1] - 2), dtype=np.float32)
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            level = tile_background(means, i, j)
            result[i, j] = level if level < NO_MEAN else np.float32(0)
    return result


@_jit
def _cells(frame: Counts, tiles, noise, side):  # type: ignore[no-untyped-def]
    """Photons, cut to what a tile's mean makes likely for one pixel, and number of usable pixels of each cell, (slow, fast)."""
    pixels, n_columns = frame.pixels, frame.pixels.shape[1]
    photons = np.empty((pixels.shape[0] // side, n_columns // side), dtype=np.float32)
    usable = np.empty_like(photons)
    tops = np.empty(n_columns, dtype=np.float32)
    columns = np.empty((2, n_columns), dtype=np.float32)
    unmasked = np.zeros(n_columns, dtype=np.uint8)
    for row in range(len(photons)):
        if row * side % TILE == 0:
            for column in range(n_columns):
                mean = tiles[row * side // TILE, column // TILE]
                variance = noise[0] * max(mean, np.float32(0)) + noise[1]
                tops[column] = mean + np.float32(_CLIP_SIGMA) * np.sqrt(variance) + np.float32(_CLIP_PHOTONS) * noise[0]
        columns.fill(np.float32(0))
        for line in range(row * side, (row + 1) * side):
            flags = frame.mask[line] if frame.mask.size > 1 else unmasked
            _add(pixels[line], flags, (frame.low, frame.high), (frame.offset, frame.scale), tops, columns[0], columns[1])
        _gather(columns[0], photons[row], side)
        _gather(columns[1], usable[row], side)
    return photons, usable


@_loose
def _add(line, flags, limits, photons, tops, sums, counts):  # type: ignore[no-untyped-def]
    """Adds a row of pixels, cut to `tops`, and how many are usable."""
    (low, high), (offset, scale) = limits, photons
    for column in range(len(line)):
        good = (line[column] >= low) & (line[column] <= high) & (flags[column] == 0)
        value = min((np.float32(line[column]) - offset) * scale, tops[column])
        sums[column] += value if good else np.float32(0)
        counts[column] += np.float32(1) if good else np.float32(0)


@_loose
def _gather(columns, cells, side):  # type: ignore[no-untyped-def]
    """Sums over the columns of each cell; the two sides are written out, for vector instructions."""
    if side == _CELL:
        for cell in range(len(cells)):
            cells[cell] = columns[_CELL * cell] + columns[_CELL * cell + 1]
    else:
        for cell in range(len(cells)):
            first = _LARGE_CELL * cell
            cells[cell] = columns[first] + columns[first + 1] + columns[first + 2] + columns[first + 3]


@_jit
def _blot_out(cells: Cells, positions, radii):  # type: ignore[no-untyped-def]
    """Makes the cells about each place within its radius unusable; all in cells."""
    shape = cells.usable.shape
    for k in range(len(positions)):
        slow, fast, reach = positions[k, 0], positions[k, 1], radii[k]
        for i in range(max(0, int(np.ceil(slow - reach))), min(shape[0], int(slow + reach) + 1)):
            for j in range(max(0, int(np.ceil(fast - reach))), min(shape[1], int(fast + reach) + 1)):
                if (i - slow) ** 2 + (j - fast) ** 2 <= reach * reach:
                    cells.usable[i, j] = np.float32(0)
                    cells.photons[i, j] = np.float32(0)


@_loose
def _glance(filled, first, width, sums, totals):  # type: ignore[no-untyped-def]
    """Photons of the windows of a row (fast - width + 1,), whose first cells are in row `first`."""
    n = filled.shape[1]
    for j in range(n):
        sums[j] = filled[first, j]
    for k in range(1, width):
        for j in range(n):
            sums[j] += filled[first + k, j]
    for j in range(n - width + 1):
        totals[j] = sums[j]
    for k in range(1, width):
        for j in range(n - width + 1):
            totals[j] += sums[j + k]


@_jit
def _window(cells: Cells, i, j, width):  # type: ignore[no-untyped-def]
    """Photons and usable pixels of the window of width x width cells that begins at (i, j); none where it leaves the frame."""
    photons, usable, total, area = cells.photons, cells.usable, 0.0, 0.0
    if i >= 0 and j >= 0 and i + width <= photons.shape[0] and j + width <= photons.shape[1]:
        for k in range(i, i + width):
            for m in range(j, j + width):
                total += photons[k, m]
                area += usable[k, m]
    return total, area


@_jit
def _brightest_pair(cells: Cells, i, j, width, ordered):  # type: ignore[no-untyped-def]
    """Photons a pixel in the brightest two windows on opposite sides of that at (i, j), below zero where there are none.

    One of two stands for both where the other is off the frame or in a gap: a ring that a gap interrupts is a ring. Puts those of the
    eight nearest into `ordered`, and returns how many there were.
    """
    least, step, n, brightest = _LEAST_USABLE * (width * cells.side) ** 2, width + 1, 0, -1.0
    for direction in range(len(_SIDES)):
        k, m = _SIDES[direction][0] * step // 2, _SIDES[direction][1] * step // 2
        total, of = 0.0, 0
        for side in (-1, 1):
            there, area = _window(cells, i + side * k, j + side * m, width)
            if area >= least:
                total += there / area
                of += 1
                if direction < 4:
                    insert(ordered, n, there / area)
                    n += 1
        if of > 0:
            brightest = max(brightest, total / of)
    return brightest, n


@_jit
def _against_surroundings(cells: Cells, i, j, width, noise, ordered):  # type: ignore[no-untyped-def]
    """Significance of the window at (i, j) against up to 24 of its size around it.

    Their mean without the highest and lowest three is the background, or that of a pair on opposite sides near by where it is clearly
    brighter; the noise is that of counting, or their scatter where that is larger.
    """
    here, area = _window(cells, i, j, width)
    least = _LEAST_USABLE * (width * cells.side) ** 2
    if area < least:
        return 0.0
    pair, n = _brightest_pair(cells, i, j, width, ordered)
    if pair < 0.0 or significance(here, pair * area, area, noise) < _LEAST_Z - _CREST_SIGMA:
        return 0.0
    for k in range(-2, 3):
        for m in range(-2, 3):
            if max(abs(k), abs(m)) == 2:
                total, number = _window(cells, i + k * (width + 1), j + m * (width + 1), width)
                if number >= least:
                    insert(ordered, n, total / number)
                    n += 1
    if n < _LEAST_AROUND:
        return 0.0
    mean, square, kept = 0.0, 0.0, n - 2 * _TRIMMED
    for k in range(_TRIMMED, n - _TRIMMED):
        mean += ordered[k] / kept
        square += ordered[k] * ordered[k] / kept
    counting = (noise[0] * max(mean, 1e-3) + noise[1]) / area
    uneven = max(square - mean * mean, 0.0) / _TRIMMED_VARIANCE / counting
    stretch = uneven if uneven > _UNEVEN * _UNEVEN else 1.0
    if pair > mean + _CREST_SIGMA * np.sqrt(0.5 * counting):
        mean = pair
    return significance(here, mean * area, area, noise) / np.sqrt(stretch)


@_jit
def _candidates(cells: Cells, noise):  # type: ignore[no-untyped-def]
    """Rows (n, 4) of slow and fast of the middle, z and width, in cells, of every window that stands out."""
    n_slow, n_fast = cells.photons.shape
    in_tile = TILE // cells.side
    found = np.empty((_MOST, 4))
    ordered, sums, totals = np.empty(_AROUND), np.empty(n_fast, dtype=np.float32), np.empty(n_fast, dtype=np.float32)
    limits = np.empty((len(_WIDTHS), n_fast), dtype=np.float32)
    filled = _filled(cells)
    n = 0
    for i in range(n_slow):
        if i % in_tile == 0:
            for w in range(len(_WIDTHS)):
                _limits(cells.tiles[i // in_tile], _WIDTHS[w], cells.side, noise, limits[w])
        for w in range(len(_WIDTHS)):
            width = _WIDTHS[w]
            if i % _STEPS[w] or i + width > n_slow:
                continue
            _glance(filled, i, width, sums, totals)
            for j in range(0, n_fast - width + 1, _STEPS[w]):
                if totals[j] <= limits[w, j]:
                    continue
                z = _against_surroundings(cells, i, j, width, noise, ordered)
                if z > _LEAST_Z and n < _MOST:
                    found[n, 0], found[n, 1], found[n, 2], found[n, 3] = i + 0.5 * width, j + 0.5 * width, z, width
                    n += 1
    return found[:n]


@_jit
def _filled(cells: Cells):  # type: ignore[no-untyped-def]
    """Photons with the tile's mean in place of pixels that are not usable."""
    result = cells.photons.copy()
    full, in_tile = np.float32(cells.side * cells.side), TILE // cells.side
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            if cells.usable[i, j] < full:
                mean = cells.tiles[i // in_tile, j // in_tile]
                result[i, j] += (full - cells.usable[i, j]) * mean
    return result


@_jit
def _limits(tiles, width, side, noise, limits):  # type: ignore[no-untyped-def]
    """What a window that begins in each of a row of cells must hold to be looked at: photons, by the mean of the tile it begins in."""
    area = (width * side) ** 2
    for t in range(len(tiles)):
        expected = max(tiles[t], np.float32(0)) * area
        read = area * noise[1] / noise[0] + 0.375
        root = np.sqrt(expected / noise[0] + read) + 0.5 * _GLANCE_Z
        limit = noise[0] * (root * root - read)
        for j in range(t * TILE // side, min(len(limits), (t + 1) * TILE // side)):
            limits[j] = limit


@_jit
def _best(candidates, cells: Cells):  # type: ignore[no-untyped-def]
    """Rows (n, 4) of slow, fast, z and width (px): of candidates that overlap, the most significant."""
    shape, side = cells.photons.shape, cells.side
    taken = np.zeros(shape, dtype=np.uint8)
    rows = np.empty((len(candidates), 4), dtype=np.float32)
    n = 0
    for k in np.argsort(-candidates[:, 2]):
        slow, fast, width = candidates[k, 0], candidates[k, 1], int(candidates[k, 3])
        if taken[min(int(slow), shape[0] - 1), min(int(fast), shape[1] - 1)]:
            continue
        middle = _centroid(cells, int(slow - 0.5 * width), int(fast - 0.5 * width), width)
        rows[n, 0], rows[n, 1], rows[n, 2], rows[n, 3] = middle[0] * side, middle[1] * side, candidates[k, 2], width * side
        n += 1
        reach = width + 1
        for i in range(max(0, int(slow) - reach), min(shape[0], int(slow) + reach + 1)):
            for j in range(max(0, int(fast) - reach), min(shape[1], int(fast) + reach + 1)):
                taken[i, j] = 1
    return rows[:n].copy()


@_jit
def _centroid(cells: Cells, i, j, width):  # type: ignore[no-untyped-def]
    """Of the photons above the tile's background in a window, in cells; its middle where none are above."""
    in_tile = TILE // cells.side
    background = cells.tiles[(i + width // 2) // in_tile, (j + width // 2) // in_tile]
    weight, slow, fast = 0.0, 0.0, 0.0
    for k in range(i, i + width):
        for m in range(j, j + width):
            above = max(cells.photons[k, m] - background * cells.usable[k, m], 0.0)
            weight += above
            slow += above * (k + 0.5)
            fast += above * (m + 0.5)
    if weight == 0.0:
        return i + 0.5 * width, j + 0.5 * width
    return slow / weight, fast / weight
