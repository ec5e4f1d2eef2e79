"""What the spot finder makes of a reflection: whether it is found, of which intensity and size. Measured, not assumed.

The finder asks for a peak and for a significance over the pixels that it grew together (docs/spots.md), so that what it just finds lies at
an I/sigma of 3 where spots are sharp and the background is low, and at 7 where they are wide. `measure` shows the runtime's own finder
isolated Gaussian spots on flat backgrounds and keeps how many it finds and what it says of them; `Finder` draws from that table. Of long
and round spots of one area as many are found, to some per cent. Neighbours that the finder joins are not in it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from triage.core import Run, RunHeader, RunKind
from triage.spots import SPOT_FINDER_VERSION, DispersionFinder

Floats = npt.NDArray[np.float64]

BACKGROUNDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Photons a pixel."""
WIDTHS_PX = (0.45, 0.6, 0.8, 1.1, 1.5, 2.1, 3.0)
"""Geometric means of a spot's two standard deviations; the area of its 2-sigma ellipse is 4 pi times the square."""
I_OVER_SIGMA = (2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0, 10.0, 13.0, 20.0, 40.0, 100.0, 200.0)
"""Expected photons over the root of what the 2-sigma ellipse holds, background and all. Under the first nothing is found."""
QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
"""Of what found spots have of their expected intensity."""
SHAPE_PX, PITCH_PX = 800, 40
"""Of the frames of isolated spots: further apart than any window of the finder reaches."""
_LONGEST = 3.0
"""Ratio of the two standard deviations, drawn up to here: mosaicity makes arcs."""
_REACH_PX = 16
_NEAR_PX = 3.0
_FEWEST = 12
"""Found spots that quantiles are taken of; where fewer are found, what the next brighter cell says of the just found is repeated."""
_PIXELS_AROUND = 120.0
"""Pixels of the 13 x 13 window that the finder takes a background from (docs/spots.md), less the spot's own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finder:
    """The finder's answers to isolated spots, over (BACKGROUNDS, WIDTHS_PX, I_OVER_SIGMA)."""

    found: Floats
    """(b, w, i) share of spots that are found."""
    pixels: Floats
    """(b, w, i) that a found spot consists of, in the mean."""
    recovered: Floats
    """(b, w, i, QUANTILES) of a found spot's intensity over the expected photons."""

    def seen(
        self, rng: np.random.Generator, expected: Floats, background: Floats, area_px: Floats
    ) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
        """Which (m,) of n spots are found, with their intensities (m,) and sigmas (m,) in photons.

        `expected` photons (n,) over `background` photons a pixel (n,); `area_px` (n,) is that of the 2-sigma ellipse.
        """
        ratio = i_over_sigma(expected, background, area_px)
        possible = np.flatnonzero(ratio > I_OVER_SIGMA[0])
        at = _corners(ratio[possible], background[possible], area_px[possible])
        chance = _interpolated(self.found.ravel(), at)
        drawn = rng.random(len(possible))
        hit = drawn < chance
        at = [(cell[hit], weight[hit]) for cell, weight in at]
        which = possible[hit]
        share = _between(_interpolated(self.recovered.reshape(-1, len(QUANTILES)), at), drawn[hit] / chance[hit])
        pixels = _interpolated(self.pixels.ravel(), at)
        intensity = share * expected[which]
        beneath = pixels * background[which] * (1.0 + pixels / _PIXELS_AROUND)
        return which, intensity, np.sqrt(intensity + beneath)


def i_over_sigma(expected: Floats, background: Floats, area_px: Floats) -> Floats:
    """Of spots (n,), were they summed over their 2-sigma ellipse: the contract's measure of what is visible."""
    return np.asarray(expected / np.sqrt(np.maximum(expected + background * area_px, 1e-12)))


def _corners(ratio: Floats, background: Floats, area_px: Floats) -> list[tuple[npt.NDArray[np.int64], Floats]]:
    """Flat index (n,) and weight (n,) of each of the eight cells about every spot; what lies off the table is taken to its edge."""
    axes = (
        (np.log(np.maximum(background, 1e-9)), np.log(BACKGROUNDS)),
        (0.5 * np.log(area_px / (4.0 * np.pi)), np.log(WIDTHS_PX)),
        (np.log(ratio), np.log(I_OVER_SIGMA)),
    )
    places = [np.interp(values, axis, np.arange(len(axis), dtype=np.float64)) for values, axis in axes]
    lower = [np.minimum(place.astype(np.int64), len(axis) - 2) for place, (_, axis) in zip(places, axes, strict=True)]
    rest = [place - low for place, low in zip(places, lower, strict=True)]
    corners = []
    for step in product((0, 1), repeat=3):
        cell = ((lower[0] + step[0]) * len(WIDTHS_PX) + lower[1] + step[1]) * len(I_OVER_SIGMA) + lower[2] + step[2]
        weight = np.prod([part if up else 1.0 - part for part, up in zip(rest, step, strict=True)], axis=0)
        corners.append((cell, weight))
    return corners


def _interpolated(table: Floats, corners: list[tuple[npt.NDArray[np.int64], Floats]]) -> Floats:
    """(n,) or (n, k) of a table (cells,) or (cells, k)."""
    return np.asarray(sum(table[cell] * (weight if table.ndim == 1 else weight[:, None]) for cell, weight in corners))


def _between(quantiles: Floats, at: Floats) -> Floats:
    """Values (n,) at `at` (n,) of 0 to 1 between quantiles (n, QUANTILES); the outermost steps go on to 0 and 1."""
    k = np.clip(np.searchsorted(QUANTILES, at) - 1, 0, len(QUANTILES) - 2)
    levels, row = np.asarray(QUANTILES), np.arange(len(at))
    part = (at - levels[k]) / (levels[k + 1] - levels[k])
    return np.asarray(quantiles[row, k] * (1.0 - part) + quantiles[row, k + 1] * part)


def measure(seed: int, frames: int = 2) -> dict[str, Any]:
    """The table as `released` reads it: 400 spots in each of `frames` frames for every cell; some minutes."""
    rng = np.random.default_rng(seed)
    shape = (len(BACKGROUNDS), len(WIDTHS_PX), len(I_OVER_SIGMA))
    found, pixels, recovered = np.zeros(shape), np.zeros(shape), np.zeros((*shape, len(QUANTILES)))
    for b, w in product(range(shape[0]), range(shape[1])):
        for i in reversed(range(shape[2])):
            answers = [isolated(rng, BACKGROUNDS[b], WIDTHS_PX[w], I_OVER_SIGMA[i]) for _ in range(frames)]
            expected = answers[0].expected
            intensity, n = (np.concatenate([getattr(each, name) for each in answers]) for name in ("intensity", "pixels"))
            found[b, w, i] = len(intensity) / sum(each.shown for each in answers)
            if len(intensity) >= _FEWEST:
                pixels[b, w, i], recovered[b, w, i] = n.mean(), np.quantile(intensity, QUANTILES) / expected
            else:
                brighter = _expected(I_OVER_SIGMA[i + 1], BACKGROUNDS[b], WIDTHS_PX[w])
                pixels[b, w, i], recovered[b, w, i] = pixels[b, w, i + 1], recovered[b, w, i + 1] * brighter / expected
    table = Finder(found=found, pixels=pixels, recovered=recovered)
    made = {"spot_finder_version": SPOT_FINDER_VERSION, "seed": seed, "frames": frames}
    return {**made, **{name: np.round(values, 3).tolist() for name, values in asdict(table).items()}}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """The finder's to one frame of isolated spots of one kind."""

    expected: float
    """Photons of each spot."""
    shown: int
    intensity: Floats
    """Of each spot that was found, as are the pixels."""
    pixels: Floats


def isolated(rng: np.random.Generator, background: float, width_px: float, ratio: float) -> Answers:
    """Shows the finder a frame of isolated Gaussian spots, long and round, on `background` photons a pixel, `ratio` the I/sigma of each."""
    expected = _expected(ratio, background, width_px)
    grid = np.arange(PITCH_PX // 2, SHAPE_PX, PITCH_PX)
    centres = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2) + rng.uniform(-3.0, 3.0, (len(grid) ** 2, 2))
    n = len(centres)
    longer = np.sqrt(np.exp(rng.uniform(0.0, np.log(_LONGEST), n)))
    angle = rng.uniform(0.0, np.pi, n)
    image = np.full((SHAPE_PX, SHAPE_PX), background)
    step = np.arange(-_REACH_PX, _REACH_PX + 1)
    for centre, stretch, turn in zip(centres, longer, angle, strict=True):
        slow, fast = (int(x) + step for x in centre)
        d_slow, d_fast = (slow + 0.5 - centre[0])[:, None], (fast + 0.5 - centre[1])[None, :]
        along, across = d_slow * np.cos(turn) + d_fast * np.sin(turn), d_fast * np.cos(turn) - d_slow * np.sin(turn)
        spot = np.exp(-0.5 * ((along * stretch) ** 2 + (across / stretch) ** 2) / width_px**2)
        image[slow[0] : slow[-1] + 1, fast[0] : fast[-1] + 1] += expected * spot / spot.sum()
    header = RunHeader(source="isolated spots", detector="any", shape_px=(SHAPE_PX, SHAPE_PX))
    run = Run(id="isolated", header=header, kind=RunKind.STILLS, geometry=None, geometry_source="none")
    spots = DispersionFinder().find(rng.poisson(image).astype(np.uint32), run)
    if len(spots) == 0:
        return Answers(expected=expected, shown=n, intensity=np.zeros(0), pixels=np.zeros(0))
    apart = np.abs(spots.positions_px[:, None].astype(np.float64) - centres[None]).max(axis=-1)  # (found, shown)
    its = apart.argmin(axis=0)[apart.min(axis=0) < max(_NEAR_PX, 2.0 * width_px)]
    return Answers(
        expected=expected, shown=n, intensity=spots.intensity[its].astype(np.float64), pixels=spots.n_pixels[its].astype(np.float64)
    )


def _expected(ratio: float, background: float, width_px: float) -> float:
    """Photons of a spot of this I/sigma."""
    beneath = background * 4.0 * np.pi * width_px**2
    return float(0.5 * (ratio**2 + np.sqrt(ratio**4 + 4.0 * ratio**2 * beneath)))


@lru_cache(maxsize=1)
def released() -> Finder:
    """The table beside this file, made by `python -m training.decay finder`.

    Raises ValueError where it is of another spot finder or of other cells.
    """
    told = json.loads(Path(__file__).with_name("finder.json").read_text())
    if told["spot_finder_version"] != SPOT_FINDER_VERSION:
        raise ValueError("training/decay/finder.json is of another spot finder: make it anew with `python -m training.decay finder`")
    table = Finder(**{name: np.asarray(told[name]) for name in ("found", "pixels", "recovered")})
    if table.recovered.shape != (len(BACKGROUNDS), len(WIDTHS_PX), len(I_OVER_SIGMA), len(QUANTILES)):
        raise ValueError("training/decay/finder.json is of other cells: make it anew with `python -m training.decay finder`")
    return table
