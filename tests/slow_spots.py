"""The spot finder of docs/spots.md once more, a pixel at a time and written to be read: what the compiled one is held against."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from synthetic import Floats

from triage.core import Mask

Pixel = tuple[int, int]
Noise = tuple[float, float]
Row = tuple[float, ...]
"""slow, fast, intensity, sigma, background, peak, number of pixels."""

TILE = 16
STRONG, MEMBER, REFUSED = 1, 2, 3


class SlowFinder:
    """Finds the spots of `photons` (slow, fast), nan where there is no data. `ruled` counts candidates by the rule that decided on them."""

    def __init__(self, photons: Floats) -> None:
        self.photons = photons
        self.noise = noise_of(photons)
        self.state = np.zeros(photons.shape, dtype=int)
        self.ruled: Counter[str] = Counter()

    def find(self) -> list[Row]:
        """Strongest first."""
        found = []
        for seed in list(self.candidates()):  # all are marked before the first is looked at
            if self.state[seed] not in (MEMBER, REFUSED):
                verdict = self.spot(seed)
                if isinstance(verdict, str):
                    self.ruled[verdict] += 1
                else:
                    found.append(verdict)
                    self.ruled["spot"] += 1
        return sorted(found, key=lambda row: -row[2])

    def candidates(self) -> Iterator[Pixel]:
        """Pixels that stand out of their tile, less those that are alone; marks them all as strong."""
        means = tile_means(self.photons)
        for row, column in np.ndindex(means.shape):
            own, background = means[row, column], lower_background(means, row, column)
            tile = self.photons[TILE * row : TILE * (row + 1), TILE * column : TILE * (column + 1)]
            if math.isnan(background) or np.isnan(tile).all():
                continue
            least = own - 0.125 * math.sqrt(variance(own, self.noise))  # nan where the tile itself has too few pixels: then no shortcut
            if np.nanmax(tile) <= strong_above(least, self.noise):
                continue
            for r, c in np.argwhere(tile > strong_above(background, self.noise)):
                at = (TILE * row + int(r), TILE * column + int(c))
                self.state[at] = STRONG
                if self.has_company(at, background):
                    yield at

    def has_company(self, at: Pixel, background: float) -> bool:
        """A neighbour belongs too, and the 3 x 3 pixels together stand out."""
        nine = around(self.photons, at, 1)
        return bool((nine > member_above(background, self.noise)).sum() >= 2 and significance(nine, background, self.noise) > 2.0)

    def spot(self, seed: Pixel) -> Row | str:
        """The numbers of the spot that a candidate belongs to, or why it belongs to none."""
        window = around(self.photons, seed, 6)[around(self.state, seed, 6) == 0]
        quiet = window[~np.isnan(window)]
        if len(quiet) < 20:
            return "no background"
        local, noise = float(quiet.mean()), self.noise
        if local > 50.0:
            sure = (1.0 - 2.0 * math.sqrt(2.0 / len(quiet))) * quiet.var()
            self.ruled["uneven"] += sure > variance(local, noise)
            noise = (max(noise[0], (sure - noise[1]) / local), noise[1])
        if self.photons[seed] <= strong_above(local, noise):
            return "not strong"
        members = self.grown(seed, member_above(local, noise))
        if members is None:
            return "too large"
        if len(members) < 2:
            return "one pixel"
        counts = np.array([self.photons[at] for at in members])
        if significance(counts, local, noise) < 5.5:
            return "weak"
        peak = members[int(counts.argmax())]
        if self.is_lone(counts, peak, local, noise):
            return "lone"
        if self.is_crest(peak, local, noise):
            return "crest"
        return measured(np.array(members), counts, local, len(quiet), noise)

    def grown(self, seed: Pixel, level: float) -> list[Pixel] | None:
        """The pixels above `level` connected to a seed, in the order they are met; None where the region is refused with all its pixels."""
        members, refused = [seed], False
        self.state[seed] = MEMBER
        for row, column in members:  # grows while it is walked
            for at in ((row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                if not (0 <= at[0] < self.photons.shape[0] and 0 <= at[1] < self.photons.shape[1]):
                    continue
                refused |= bool(self.state[at] == REFUSED)
                if self.state[at] in (MEMBER, REFUSED) or not self.photons[at] > level:
                    continue
                if len(members) == 500 or max(abs(at[0] - seed[0]), abs(at[1] - seed[1])) > 15:
                    refused = True
                    continue
                self.state[at] = MEMBER
                members.append(at)
        if refused:
            for at in members:
                self.state[at] = REFUSED
        return None if refused else members

    def is_lone(self, counts: Floats, peak: Pixel, local: float, noise: Noise) -> bool:
        """Whether a spot of few pixels is one pixel."""
        share = (counts.max() - local) / (counts - local).sum()
        if len(counts) >= 4 or share < 0.75:
            return False
        if share > 0.95 and (counts - local).sum() > 40:
            return True
        eight = around(self.photons, peak, 1).copy()
        eight[eight == self.photons[peak]] = np.nan  # the peak itself
        return local >= 1.0 and significance(eight, local, noise) < 2.5

    def is_crest(self, peak: Pixel, local: float, noise: Noise) -> bool:
        """Whether the near rim lies above the wide window's mean, and the middle does not stand out of the near rim."""
        slow, fast = np.indices(self.photons.shape)
        away = np.maximum(abs(slow - peak[0]), abs(fast - peak[1]))
        rim = np.sort(self.photons[(away >= 3) & (away <= 4) & ~np.isnan(self.photons)])
        if len(rim) < 20:
            return False
        level = float(rim[len(rim) // 2])
        raised = level - local > 2.0 * math.sqrt(variance(level, noise) / len(rim))
        return raised and significance(self.photons[away <= 1], level, noise) < 3.5


def noise_of(photons: Floats) -> Noise:
    """(k, r2) of variance = k mean + r2, from medians over the whole 4 x 4 blocks of some tiles."""
    step = max(1, int(math.sqrt(photons.size / (TILE * TILE * 120.0))))
    seen = []
    for row in range(0, photons.shape[0] // TILE, step):
        for column in range(0, photons.shape[1] // TILE, step):
            tile = photons[TILE * row : TILE * (row + 1), TILE * column : TILE * (column + 1)]
            blocks = tile.reshape(4, 4, 4, 4).swapaxes(1, 2).reshape(16, 16)
            whole = blocks[~np.isnan(blocks).any(axis=1)]
            if len(whole) >= 6:
                middle = len(whole) // 2
                seen.append((np.sort(whole.mean(axis=1))[middle], np.sort(whole.var(axis=1, ddof=1))[middle] / 0.956))
    if len(seen) < 10:
        return 1.0, 0.0
    seen.sort()
    dark, bright = np.array(seen[: len(seen) // 2]), np.array(seen[len(seen) // 2 :])
    excess = float(np.median(dark[:, 1] - dark[:, 0]))
    read = excess if excess > 0.5 else 0.0
    k = float(np.percentile((bright[:, 1] - read) / np.maximum(bright[:, 0], 0.05), 40))
    return (k if k > 1.5 else 1.0), read


def tile_means(photons: Floats) -> Floats:
    """(tiles slow, tiles fast); nan where fewer than 16 pixels are data."""
    means = np.full([-(-length // TILE) for length in photons.shape], np.nan)
    for row, column in np.ndindex(means.shape):
        tile = photons[TILE * row : TILE * (row + 1), TILE * column : TILE * (column + 1)]
        if (~np.isnan(tile)).sum() >= 16:
            means[row, column] = np.nanmean(tile)
    return means


def lower_background(means: Floats, row: int, column: int) -> float:
    """A tile's mean, or the lower median of the 3 x 3 tiles about it where that is lower; nan where none has a mean."""
    near = around(means, (row, column), 1)
    known = np.sort(near[~np.isnan(near)])
    return float(np.fmin(known[(len(known) - 1) // 2], means[row, column])) if len(known) else math.nan


def measured(members: npt.NDArray[np.int_], counts: Floats, local: float, n_quiet: int, noise: Noise) -> Row:
    above, n = np.maximum(counts - local, 0.0), len(counts)
    slow, fast = ((members + 0.5) * above[:, None]).sum(axis=0) / above.sum()
    sigma = math.sqrt(noise[0] * (max(counts.sum(), 1.0) + n * n * max(local, 0.0) / n_quiet) + n * noise[1])
    return slow, fast, counts.sum() - n * local, sigma, local, counts.max(), n


def around(image: npt.NDArray[np.generic], at: Pixel, reach: int) -> npt.NDArray[np.generic]:
    return image[max(0, at[0] - reach) : at[0] + reach + 1, max(0, at[1] - reach) : at[1] + reach + 1]


def variance(mean: float, noise: Noise) -> float:
    return noise[0] * np.maximum(mean, 0.0) + noise[1]


def strong_above(mean: float, noise: Noise) -> float:
    return mean + 3.0 * math.sqrt(variance(mean, noise)) + 2.0 * noise[0]


def member_above(mean: float, noise: Noise) -> float:
    return mean + 1.5 * math.sqrt(variance(mean, noise)) + 0.6 * noise[0]


def significance(photons: Floats, mean: float, noise: Noise) -> float:
    """Of a sum over `mean` in each pixel that is data: generalised Anscombe."""
    values = photons[~np.isnan(photons)]
    read = len(values) * noise[1] / noise[0] + 0.375
    seen, expected = max(values.sum(), 0.0), max(len(values) * mean, 0.0)
    return 2.0 * (math.sqrt(seen / noise[0] + read) - math.sqrt(expected / noise[0] + read))


def with_gaps(photons: npt.NDArray[np.generic], gaps: Mask) -> Floats:
    return np.where(gaps, np.nan, photons).astype(float)
