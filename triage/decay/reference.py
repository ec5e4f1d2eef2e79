"""The run's own start: mean shell intensities, what is detected of them, and how they scatter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from triage.decay.fit import Fit, Shells, fit
from triage.decay.frames import FrameSpots, Sums, likeness
from triage.decay.shells import N_SHELLS, Floats
from triage.spots import DispersionFinder

_MAX_LEAN = 3.0
"""Reference frames this many times weaker or stronger than the median are left out: the crystal was coming into the beam."""
_FAINTEST_PERCENT = 10.0
"""Of a shell's spots, so many are left out: what is fainter is not always found."""
_MAX_FAINTNESS = 2.5
"""Largest threshold, in units of the reference's mean intensity, of a shell that is used: past it the correction rests on the tail."""
_MIN_REFERENCE_SPOTS = 10.0
_MIN_WINDOW_SPOTS = 3.0
_MIN_SHELLS = 3
_LAGS = 11
_STILL = 0.6
_FLAT = 0.9
"""A run is one of the same reflections when _STILL of the squared intensity is seen again after the longest lag, and _FLAT of what is seen
again in the next frame: a wide rocking curve is no still."""
_NO_TAIL = 0.1
"""Correlation after _LAGS frames that need not be continued."""
_INNER_OUTER_PERCENT = (20.0, 80.0)
"""Of 1/d of the reference's spots: what is below and beyond is spoken of as low and high resolution."""
_WINDOW_SPOTS = 150.0
"""Spots that are judged together, at least: fewer give no growth of B to better than some A^2."""
_WINDOW_FRAMES, _STILL_FRAMES = (5, 15), (2, 15)
"""Fewest and most frames that are judged together; stills need not wait for new reflections."""
_RISE = 1.05
"""Growth of a threshold up to which it is left where it was."""
_SPOT_Z = DispersionFinder().spot_z
"""Significance of a spot that is just found, in Anscombe's units (docs/spots.md, step 7)."""


@dataclass(frozen=True, slots=True, eq=False)
class Bands:
    """Three bands of shells, inner to outer, that hold about a third of the reference's spots each; arrays (3,) of a mean frame."""

    member: Floats
    """(3, shells) ones and zeros."""
    intensity: Floats
    count: Floats
    faintness: Floats
    """Detection threshold over the mean intensity of a reflection."""

    def of(self, shells: Floats) -> Floats:
        """Sums (3,) over (shells,)."""
        return np.asarray(self.member @ shells)


def recur(shared: Floats) -> bool:
    """Whether the frames hold the same reflections, from their likeness (lags,) at one frame's distance and more."""
    return len(shared) > 1 and bool(shared[-1] > max(_STILL, _FLAT * shared[0]))


class Reference:
    """Compares later frames with the run's start, where `usable` says that there are shells enough."""

    def __init__(self, start: Sequence[FrameSpots]) -> None:
        total = np.array([frame.intensity.sum() for frame in start])
        middle = float(np.median(total))
        self.kept = [frame for frame, its in zip(start, total, strict=True) if middle / _MAX_LEAN <= its <= middle * _MAX_LEAN]
        self.frames = (self.kept[0].frame, self.kept[-1].frame)
        pool = _Pool(self.kept)
        self.cut = pool.cut
        self.outer_d_A, self.outer_s2 = 1.0 / max(pool.outer_s, 1e-3), pool.outer_s2
        self.inner_d_A, self.inner_s2 = 1.0 / max(pool.inner_s, 1e-3), pool.inner_s2
        self._intensity, self._count, self._s2 = pool.intensity, pool.count, pool.s2
        self._background, self._beneath = pool.background, pool.beneath
        self._mean = np.where(pool.excess > 0, pool.excess, np.inf)
        self._faintness = np.where(pool.excess > 0, pool.cut / self._mean, np.inf)
        shared = likeness(self.kept, min(_LAGS, max(len(self.kept) - 1, 1)))
        self.same_reflections = recur(shared)
        least, most = _STILL_FRAMES if self.same_reflections else _WINDOW_FRAMES
        self.window = int(np.clip(np.ceil(_WINDOW_SPOTS / max(float(self._count.sum()), 1.0)), least, most))
        self._sampling, self._poisson = self._variances(pool, shared)
        usable = (self._count * len(self.kept) >= _MIN_REFERENCE_SPOTS) & (self._faintness <= _MAX_FAINTNESS)
        self._use = usable & (self._count * self.window >= _MIN_WINDOW_SPOTS)
        self.usable = bool(self._use.sum() >= _MIN_SHELLS)
        which = np.flatnonzero(self._use)
        self._used = which, [each[which] for each in (self._s2, self._faintness, self._sampling + self._poisson)]

    def _variances(self, pool: _Pool, shared: Floats) -> tuple[Floats, Floats]:
        """Relative variances (shells,) of one frame: of which reflections it holds, inflated by what neighbours share; of counting.

        Of n reflections, the detected intensities sum to S with variance sum(I^2) - S^2/n, and exp(-t/mu) n of them are detected.
        """
        safe = np.maximum(self._count, 1e-9)
        spread = min(pool.square.sum() / max(float((self._intensity**2 / safe).sum()), 1e-9), 4.0)  # <I^2>/<I>^2 of a detected spot
        plateau = float(shared[-1]) if self.same_reflections else 0.0
        self.inflation = 1.0 if self.same_reflections else _inflation(shared)
        sampling = (spread - np.exp(-np.minimum(self._faintness, 50.0))) / safe * (1.0 - plateau) * self.inflation
        return np.asarray(sampling), pool.variance / self._intensity**2

    def sums(self, frame: FrameSpots) -> Sums:
        """The frame's sums above the reference's threshold."""
        return frame.sums(self.cut)

    def bands(self) -> Bands:
        """Of the usable shells; there must be some."""
        count = np.where(self._use, self._count, 0.0)
        share = np.cumsum(count) / max(float(count.sum()), 1e-9)
        which = np.where(count > 0, np.minimum((share * 3 - 1e-9).astype(int), 2), -1)
        member = np.stack([which == band for band in range(3)]).astype(np.float64)
        total = member @ self._count
        faintness = member @ (np.minimum(self._faintness, 5.0) * self._count) / np.maximum(total, 1e-9)
        return Bands(member=member, intensity=member @ self._intensity, count=total, faintness=faintness)

    def compare(self, frames: Sequence[FrameSpots], sums: Sequence[Sums], start: Fit | None = None) -> Fit | None:
        """Growth of B and scale of these frames, judged together; None with too few usable shells."""
        if not self.usable or not frames:
            return None
        n = len(frames)
        cut = self._cut_now(sums)
        raised = cut is not self.cut and bool((cut > self.cut).any())
        intensity = reduce(add, [frame.sums(cut).intensity for frame in frames] if raised else [each.intensity for each in sums]) / n
        use, (s2, faintness, one_frame) = self._used
        shells = Shells(
            s2=s2,
            ratio=(intensity / self._intensity)[use],
            faintness=faintness,
            faintness_now=(cut / self._mean)[use] if raised else faintness,
            now=one_frame / n,
            then=one_frame / len(self.kept),
        )
        return fit(shells, start)

    def _cut_now(self, sums: Sequence[Sums]) -> Floats:
        """Threshold (shells,) of now: that of the reference, or higher where the background has grown."""
        number = reduce(add, [each.count for each in sums])
        level = reduce(add, [each.background for each in sums]) / np.maximum(number, 1.0)
        known = (number >= 3) & (self._background > 0)
        if not known.any():
            return self.cut
        ratio = level / np.maximum(self._background, 1e-9)
        if float(ratio[known].max()) <= _RISE:  # a threshold grows no faster than what is beneath
            return self.cut
        ratio = np.maximum(np.where(known, ratio, np.median(ratio[known])), 1.0)
        rise = _threshold(self._beneath * ratio) / _threshold(self._beneath)
        return np.asarray(self.cut * np.where(rise > _RISE, rise, 1.0))


def _inflation(shared: Floats) -> float:
    """Frames per independent one, from the correlation (lags,) of neighbours: its sum, with the tail of a Gaussian beyond the last lag.

    A Gaussian rocking curve of standard deviation w frames has the correlation exp(-k^2 / 4 w^2), which sums to 2 w sqrt(pi).
    """
    last = float(np.clip(shared[-1], 0.0, 0.95))
    tail = 0.0 if last < _NO_TAIL else float(np.sqrt(np.pi) * len(shared) / np.sqrt(-np.log(last)))
    return max(1.0 + 2.0 * float(np.maximum(shared, 0.0).sum()), tail)


class _Pool:
    """All spots of the reference frames together; arrays (shells,) are of a mean frame, above the threshold."""

    def __init__(self, frames: Sequence[FrameSpots]) -> None:
        n = len(frames)
        shell = np.concatenate([frame.shell for frame in frames])
        intensity, variance, background, s = (
            np.concatenate([getattr(frame, name) for frame in frames]) for name in ("intensity", "variance", "background", "s_per_A")
        )
        self.inner_s, self.outer_s = (_percentile(s, percent) for percent in _INNER_OUTER_PERCENT) if len(s) else (0.0, 0.0)
        self.inner_s2, self.outer_s2 = _mean(s[s <= self.inner_s] ** 2), _mean(s[s >= self.outer_s] ** 2)
        self.cut = np.zeros(N_SHELLS)
        for k in np.flatnonzero(np.bincount(shell, minlength=N_SHELLS)):
            self.cut[k] = _percentile(intensity[shell == k], _FAINTEST_PERCENT)
        above = intensity >= self.cut[shell]
        shell, intensity, variance, background, s = (each[above] for each in (shell, intensity, variance, background, s))
        number = np.bincount(shell, minlength=N_SHELLS)
        safe = np.maximum(number, 1)
        self.count = number / n
        self.intensity = np.maximum(np.bincount(shell, intensity, N_SHELLS) / n, 1e-9)
        self.square = np.bincount(shell, intensity**2, N_SHELLS) / n
        self.variance = np.bincount(shell, variance, N_SHELLS) / n
        self.background = np.bincount(shell, background, N_SHELLS) / safe  # photons a pixel
        self.beneath = np.maximum(np.bincount(shell, variance - intensity, N_SHELLS), 0.0) / safe  # photons of background under a spot
        self.s2 = np.bincount(shell, s**2, N_SHELLS) / safe
        self.excess = np.bincount(shell, intensity, N_SHELLS) / safe - self.cut  # mean intensity of a reflection, found or not


def _percentile(values: Floats, percent: float) -> float:
    """Between the two nearest of the values; `np.percentile` costs some times as much."""
    at = (len(values) - 1) * percent / 100.0
    low = min(int(at), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    some = np.partition(values, (low, high))
    return float(some[low] + (at - low) * (some[high] - some[low]))


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else 0.0


def _threshold(beneath: Floats) -> Floats:
    """Photons of a spot that is just found over `beneath` photons of background: 2 (sqrt(S + B + 3/8) - sqrt(B + 3/8)) = _SPOT_Z."""
    return np.asarray(_SPOT_Z**2 / 4.0 + _SPOT_Z * np.sqrt(beneath + 0.375))
