"""What a run's blocks of frames say of damage, as numbers for the fusion: trends of B, scale, shells, spot counts and background.

Every number compares the latest blocks with the first ones, or says how a series goes from the run's start on; the noise of each series is
taken from its steps from block to block, and shrunk to a usual value while there are few.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from triage.decay.change import MOST_BLOCKS, Change
from triage.decay.fit import Fit
from triage.decay.frames import FrameSpots, Sums
from triage.decay.mates import Regrowth
from triage.decay.reference import Reference

Floats = npt.NDArray[np.float64]

SERIES = ("B", "scale", "inner", "middle", "outer", "inner_count", "middle_count", "outer_count", "edge", "background", "spots")
"""Of a block, against the reference: B times half the outer shells' s^2; logarithms of scale, of the intensity and the number of spots in
three bands of shells, of the resolution limit (s of the 95th percentile), the background and the number of all spots."""
_USUAL_STEPS = 4.0
"""Steps that the usual noise counts for."""
_RECENT = 3
"""Blocks whose mean stands for the present, and for the start."""
LEAST_BLOCKS = 3
CONTEXT = (
    "z",
    "z_start",
    "B_error",
    "stills",
    "log_blocks",
    "log_frames",
    "turned",
    "log_spots",
    "noise",
    "outer_s2",
    "faint_inner",
    "faint_outer",
)
AGAIN = ("again", "again_z", "again_now", "again_error", "again_even", "again_even_error", "again_now_over", "again_even_over")
"""Of reflections measured again (`mates.py`): are there any, the significance of the growth of B, the growth and the logarithm of its
standard deviation, each times half the outer shells' s^2, both of a growth that is even all along, and by how many standard deviations each
growth passes what the probability speaks of. All nought where there are none."""
LOSS_MEANT = 0.15
"""Of the outer shell, that a probability speaks of."""
OWN = (
    *(f"{name}_now" for name in SERIES),
    *(f"{name}_ramp" for name in SERIES),
    *(f"{name}_z" for name in SERIES),
    "scale_lowest",
    "scale_highest",
    "spots_highest",
    "B_highest",
    "scale_bend",
    "outer_bend",
    *CONTEXT,
)
FEATURES = (*OWN, *AGAIN)


class Block(NamedTuple):
    """A few frames together: middle frame, number of frames, spots in all, standard error of the first series, and the series."""

    frame: float
    frames: float
    spots: float
    error: float
    series: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Context:
    """What is the same for the whole run, or comes from the sequential test."""

    stills: bool
    step_deg: float
    outer_s2: float
    faint_inner: float
    faint_outer: float
    """Detection threshold over the mean intensity in the inner and the outer band."""
    z: float
    noise: float


class Evidence:
    """The blocks of a run so far, at most MOST_BLOCKS of them: beyond, neighbours are joined two by two."""

    def __init__(self, reference: Reference, step_deg: float) -> None:
        self._bands = reference.bands()
        self._half_s2 = reference.outer_s2 / 2.0
        self._blocks: list[Block] = []
        self._start: tuple[float, float, float] | None = None
        self._context = Context(
            stills=reference.same_reflections,
            step_deg=step_deg,
            outer_s2=reference.outer_s2,
            faint_inner=float(self._bands.faintness[0]),
            faint_outer=float(self._bands.faintness[-1]),
            z=0.0,
            noise=1.0,
        )

    def __len__(self) -> int:
        return len(self._blocks)

    def add(self, frames: Sequence[FrameSpots], sums: Sequence[Sums], fit: Fit) -> None:
        """Takes a block: its frames, their sums above the reference's threshold, and the fit to them."""
        n, bands = len(frames), self._bands
        intensity = bands.of(reduce(operator.add, [each.intensity for each in sums])) / n
        number = reduce(operator.add, [each.count for each in sums])
        background = float(reduce(operator.add, [each.background for each in sums]).sum()) / max(float(number.sum()), 1e-9)
        spots = float(sum(len(frame.intensity) for frame in frames))
        edge = _edge(np.concatenate([frame.s_per_A for frame in frames])) if spots else 0.0
        if self._start is None:
            self._start = edge, background, spots / n
        first_edge, first_background, first_spots = self._start
        series = (
            fit.delta_B * self._half_s2,
            fit.log_scale,
            *_log_ratio(intensity, bands.intensity, 0.02 * bands.intensity + 1e-9),
            *_log_ratio(bands.of(number) / n, bands.count, 1.0 / n),
            math.log(max(edge, 0.01) / max(first_edge, 0.01)),
            math.log((background + 0.01) / (first_background + 0.01)),
            math.log((spots / n + 1.0 / n) / (first_spots + 1.0 / n)),
        )
        middle = sum(frame.frame for frame in frames) / n
        self._blocks.append(Block(middle, float(n), spots, fit.sigma_now * self._half_s2, tuple(float(x) for x in series)))
        if len(self._blocks) > MOST_BLOCKS:
            pairs = zip(self._blocks[:-1:2], self._blocks[1::2], strict=True)
            self._blocks = [_joined(*pair) for pair in pairs] + self._blocks[-1:]

    def features(self, change: Change | None, again: Regrowth | None = None) -> Floats | None:
        """(FEATURES,) of the run so far; None before there are LEAST_BLOCKS blocks."""
        if len(self._blocks) < LEAST_BLOCKS:
            return None
        z, noise = (0.0, 1.0) if change is None else (change.z, change.noise)
        own = features(self._blocks, replace(self._context, z=z, noise=noise))
        return np.concatenate([own, _again(again, self._half_s2)])


def _joined(one: Block, other: Block) -> Block:
    """Two neighbours as one, by their frames."""
    total = one.frames + other.frames
    share = one.frames / total
    series = tuple(share * a + (1.0 - share) * b for a, b in zip(one.series, other.series, strict=True))
    error = math.hypot(share * one.error, (1.0 - share) * other.error)
    return Block(share * one.frame + (1.0 - share) * other.frame, total, one.spots + other.spots, error, series)


def _edge(s_per_A: Floats) -> float:
    """The 95th percentile, as the nearest of the values: `np.quantile` costs several times as much."""
    k = int(0.95 * (len(s_per_A) - 1) + 0.5)
    return float(np.partition(s_per_A, k)[k])


def _held(values: Floats) -> Floats:
    """Within what the fusion has learnt on; `np.clip` costs several times as much."""
    return np.asarray(np.minimum(np.maximum(values, -4.0), 4.0))


def _log_ratio(now: Floats, then: Floats, least: Floats | float) -> Floats:
    return _held(np.log((now + least) / (then + least)))


def features(blocks: list[Block], context: Context) -> Floats:
    """(OWN,) of the run so far; there must be at least two blocks."""
    frames, _, numbers, errors, rows = zip(*blocks, strict=True)
    frame, spots, error, series = np.array(frames), np.array(numbers), np.array(errors), np.array(rows)  # (n,) and (n, SERIES)
    n = len(blocks)
    some = min(_RECENT, max(n // 2, 1))
    start, now = series[:some].sum(axis=0) / some, series[-some:].sum(axis=0) / some
    usual = _usual_noise(spots, error)
    steps = series[1:] - series[:-1]
    noise = np.sqrt(((steps**2).sum(axis=0) / 2.0 + _USUAL_STEPS * usual**2) / (n - 1 + _USUAL_STEPS))
    time = (frame - frame[0]) / max(frame[-1] - frame[0], 1e-9)
    centred = time - time.sum() / n
    spread = float(centred @ centred)
    slope = centred @ series / max(spread, 1e-9)
    z = slope * math.sqrt(spread) / noise
    running = _running(series, some) - start
    middle = running[len(running) // 2]
    scale, outer = SERIES.index("scale"), SERIES.index("outer")
    lowest, highest = running[:, scale].min(), running.max(axis=0)
    own = [
        lowest,
        highest[scale],
        highest[SERIES.index("spots")],
        highest[0],
        middle[scale] - 0.5 * (now - start)[scale],
        middle[outer] - 0.5 * (now - start)[outer],
    ]
    around = [
        context.z,
        z[0],
        math.log(float(noise[0])),
        float(context.stills),
        math.log(n),
        math.log(float(frame[-1] - frame[0]) + 1.0),
        min(math.radians(context.step_deg) * float(frame[-1] - frame[0]), 2.0 * math.pi),
        math.log(float(spots[:some].sum()) / some + 1.0),
        context.noise,
        context.outer_s2,
        min(context.faint_inner, 5.0),
        min(context.faint_outer, 5.0),
    ]
    return np.concatenate([_held(now - start), _held(slope), _squashed(z), _held(np.array(own)), _context(around)])


def _context(around: list[float]) -> Floats:
    values = np.array(around)
    values[:2] = _squashed(values[:2])
    return values


def _again(found: Regrowth | None, half_s2: float) -> Floats:
    if found is None:
        return np.zeros(len(AGAIN))
    grown, least = (found.delta_B * half_s2, found.even * half_s2), -math.log(1.0 - LOSS_MEANT)
    now, even = (min(max(each, -4.0), 4.0) for each in grown)
    error, even_error = (min(max(sigma * half_s2, 1e-3), 1.0) for sigma in (found.sigma, found.even_sigma))
    over = math.asinh((now - least) / error), math.asinh((even - least) / even_error)
    return np.array([1.0, math.asinh(found.z), now, math.log(error), even, math.log(even_error), *over])


def _squashed(z: Floats) -> Floats:
    """Significances grow without bound; what they say grows as their logarithm."""
    return np.asarray(np.arcsinh(z))


def _usual_noise(spots: Floats, error: Floats) -> Floats:
    """Of each series in a block (SERIES,): B as its fit says, Wilson's intensities, numbers of spots, a resolution limit."""
    one = 1.0 / math.sqrt(max(_middle(spots), 1.0))
    return np.array([_middle(error), 1.5 * one, *[2.0 * one] * 3, *[1.2 * one] * 3, 0.4 * one, 0.3 * one, 0.7 * one]) + 1e-3


def _middle(values: Floats) -> float:
    """The median, of an even number the larger of the two in the middle."""
    return float(np.partition(values, len(values) // 2)[len(values) // 2])


def _running(series: Floats, some: int) -> Floats:
    """Means of `some` neighbours (n - some + 1, SERIES)."""
    total = np.cumsum(np.concatenate([np.zeros((1, series.shape[1])), series]), axis=0)
    return np.asarray((total[some:] - total[:-some]) / some)
