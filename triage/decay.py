"""Radiation damage, from spot intensities against the run's own start.

Damage takes the high-angle spots first: I(s, D) = I(s, 0) exp(-B s^2 / 2) with s = 1/d and B growing by about 1 A^2 per MGy (Wilson,
Nature 150 (1942) 152, for the form of the fall-off; Atakisi et al., Acta Cryst. D75 (2019) 1114, for its growth with dose). A crystal
that leaves the beam loses all resolutions alike: that is a scale, not a B.

Spot lists are thresholded, and so a mere loss of scale removes the weak outer spots first and looks like a B. It is undone with
Wilson's acentric distribution, exp(-I/mu)/mu: of intensities of mean mu, those above a threshold t add up to (mu + t) exp(-t/mu).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from triage.core import Decay, Run, RunKind, ShellIntensities, Spots, Verdict

Floats = npt.NDArray[np.float64]

SHELL_EDGES_PER_A = tuple(round(0.05 + 0.03 * i, 2) for i in range(26))
"""From 20 A to 1.25 A, equally wide in s: 7 shells for a crystal that diffracts to 4 A, 15 for 2 A."""
_MID_S2: Floats = np.array([(a * a + b * b) / 2 for a, b in pairwise(SHELL_EDGES_PER_A)])

_MAX_FAINTNESS = 1.5
"""Largest threshold, in units of the reference's mean intensity, of a shell that is used: past it the correction rests on the tail."""
_MIN_SPOTS = 20.0
"""Spots of a shell expected in a window of undamaged frames."""
_MIN_SHELLS = 4
_MAX_LEAN = 3.0
"""Reference frames this many times weaker or stronger than the median are left out: the crystal was coming into the beam."""


def shell_intensities(spots: Spots) -> ShellIntensities | None:
    """The spots off the ice rings, summed in SHELL_EDGES_PER_A; None without geometry."""
    if spots.inverse_d_per_A is None:
        return None
    n_shells = len(SHELL_EDGES_PER_A) - 1
    shell = np.searchsorted(SHELL_EDGES_PER_A, spots.inverse_d_per_A, side="right") - 1
    used = ~spots.on_ice & (shell >= 0) & (shell < n_shells) & np.isfinite(spots.intensity) & np.isfinite(spots.sigma)
    shell, intensity = shell[used], spots.intensity[used].astype(np.float64)
    faintest = np.full(n_shells, np.inf)
    np.minimum.at(faintest, shell, intensity)
    return ShellIntensities(
        edges_per_A=SHELL_EDGES_PER_A,
        intensity=tuple(np.bincount(shell, intensity, n_shells).tolist()),
        variance=tuple(np.bincount(shell, spots.sigma[used].astype(np.float64) ** 2, n_shells).tolist()),
        count=tuple(np.bincount(shell, minlength=n_shells).tolist()),
        faintest=tuple(np.where(np.isfinite(faintest), faintest, 0.0).tolist()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecaySettings:
    """How decay is judged; frames are diffracting ones."""

    reference: int = 12
    """Frames at the run's start that later ones are compared with."""
    window: int = 7
    """Last frames that are judged together."""
    min_B_A2: float = 3.0
    """Growth of B that matters: some 3 MGy at 100 K."""
    expected_B_A2: float = 8.0
    """Spread of the growths met in practice; weak data are drawn to none, so that they never alarm."""


class DecayTracker:
    """Judges the decay of one run, frame by frame in order, against its first diffracting frames.

    The memory is bounded: the reference frames and a short window.
    """

    def __init__(self, run: Run, settings: DecaySettings | None = None) -> None:
        self._settings = settings or DecaySettings()
        self._judges = run.geometry is not None and run.kind not in (RunKind.SERIAL, RunKind.GRID)
        self._start: list[tuple[int, Floats]] = []
        self._reference: _Reference | None = None
        self._window: deque[Floats | None] = deque(maxlen=self._settings.window)

    def update(self, verdict: Verdict) -> Decay | None:
        """The decay at this frame; None where it is meaningless, before the reference is complete, or without enough spots."""
        if not self._judges or verdict.judgement is None or verdict.shells is None:
            return None
        if not verdict.judgement.non_diffraction < 0.5:
            self._window.append(None)
            return None
        table = _table(verdict.shells)
        if self._reference is None:
            self._start.append((verdict.frame, table))
            if len(self._start) >= self._settings.reference:
                self._reference = _Reference(self._start)
                self._start = []
            return None
        self._window.append(table)
        frames = [kept for kept in self._window if kept is not None]
        if 2 * len(frames) <= self._settings.window:
            return None
        fit = self._reference.compare(np.array(frames), self._settings.window)
        return None if fit is None else self._decay(fit, self._reference.frames)

    def _decay(self, fit: _Fit, frames: tuple[int, int]) -> Decay:
        """Posterior of a normal prior around no growth (width `expected_B_A2`) and the measured growth."""
        prior, measured = self._settings.expected_B_A2**2, fit.sigma**2
        weight = prior / (prior + measured)
        mean, sd = weight * fit.delta_B, math.sqrt(weight * measured)
        return Decay(
            probability=0.5 * math.erfc((self._settings.min_B_A2 - mean) / (sd * math.sqrt(2.0))),
            delta_B_A2=fit.delta_B,
            delta_B_sigma=fit.sigma,
            scale=fit.scale,
            reference_frames=frames,
        )


@dataclass(frozen=True, slots=True)
class _Fit:
    delta_B: float
    sigma: float
    scale: float


class _Reference:
    """Mean shell intensities of the run's start, how they scatter from frame to frame, and how faint a spot was still found."""

    def __init__(self, start: list[tuple[int, Floats]]) -> None:
        total = np.array([table[0].sum() for _, table in start])
        middle = float(np.median(total))
        kept = [frame for frame, its in zip(start, total, strict=True) if middle / _MAX_LEAN <= its <= middle * _MAX_LEAN]
        self.frames = (kept[0][0], kept[-1][0])
        tables = np.array([table for _, table in kept])  # (frames, 4, shells)
        self._n = len(tables)
        self._intensity, variance, self._count = tables[:, :3].mean(axis=0)
        safe_intensity = np.maximum(self._intensity, 1e-9)
        self._threshold = _detection_threshold(tables)
        mean_above = safe_intensity / np.maximum(self._count, 1e-9) - self._threshold
        self._faintness = np.divide(self._threshold, mean_above, out=np.full_like(mean_above, np.inf), where=mean_above > 0)
        self._poisson = variance / safe_intensity**2  # relative, of one frame
        self._rotation, self._memory = _scatter(tables[:, 0] / safe_intensity, self._count, self._poisson)

    def compare(self, frames: Floats, window: int) -> _Fit | None:
        """Growth of B and scale of `frames` (n, 4, shells) against this reference; None with too few usable shells."""
        usable = (self._count * window >= _MIN_SPOTS) & (self._faintness <= _MAX_FAINTNESS)
        if usable.sum() < _MIN_SHELLS:
            return None
        one_frame = self._rotation * self._memory + self._poisson
        shells = _Shells(
            s2=_MID_S2[usable],
            ratio=(frames[:, 0].mean(axis=0) / np.maximum(self._intensity, 1e-9))[usable],
            faintness=self._faintness[usable],
            now=one_frame[usable] / len(frames),
            then=one_frame[usable] / self._n,
        )
        return _fit(shells)


@dataclass(frozen=True, slots=True)
class _Shells:
    """What the fit needs of the usable shells; all (shells,)."""

    s2: Floats
    ratio: Floats
    """Detected intensity over the reference's."""
    faintness: Floats
    """Detection threshold over the reference's mean intensity of a reflection."""
    now: Floats
    """Relative variance of the detected intensity were it undamaged; it grows as spots vanish."""
    then: Floats
    """Relative variance of the reference."""


def _fit(shells: _Shells) -> _Fit | None:
    """Quasi-likelihood fit of ln y = ln(scale) - delta_B s^2/2 through what is detected of the true ratio y in each shell.

    With x = t/mu of the reference: the detected intensity falls by (y + x) exp(-x/y) / ((1 + x) exp(-x)), the number of spots by
    exp(x - x/y). Fisher scoring; misfitting shells are held at 1.5 sigma (Huber), and the error grows with the misfit that is left.
    """
    x = shells.faintness
    design = np.stack([np.ones_like(x), -shells.s2 / 2], axis=1)
    found = np.array([math.log(max(float(np.median(shells.ratio)), 1e-3)), 0.0])
    largest_step = np.array([0.7, 10.0])
    for _ in range(25):
        y = np.exp(np.clip(design @ found, -6.0, 6.0))
        expected = (y + x) / (1 + x) * np.exp(x - x / y)
        slope = y / (y + x) + x / y
        sd = np.sqrt(shells.now * np.exp(np.minimum(x / y - x, 20.0)) + shells.then + 1e-4)
        misfit = np.clip((shells.ratio / expected - 1) / sd, -1e3, 1e3)
        weighted = design * (slope / sd)[:, None]
        try:
            covariance = np.linalg.inv(weighted.T @ weighted)
        except np.linalg.LinAlgError:
            return None
        step = np.clip(covariance @ (weighted.T @ np.clip(misfit, -1.5, 1.5)), -largest_step, largest_step)
        found = found + step
        if abs(step[1]) < 0.01:
            break
    else:
        return None  # next to nothing is left to fit
    excess = float((np.clip(misfit, -3.0, 3.0) ** 2).sum()) / (len(x) - 2)
    sigma = math.sqrt(float(covariance[1, 1]) * max(excess, 1.0))
    fit = _Fit(delta_B=float(found[1]), sigma=sigma, scale=math.exp(min(float(found[0]), 30.0)))
    return fit if all(math.isfinite(value) for value in (fit.delta_B, fit.sigma, fit.scale)) else None


def _table(shells: ShellIntensities) -> Floats:
    """Rows intensity, variance, count, faintest; (4, shells)."""
    nothing = (0,) * len(shells.intensity)
    return np.array([shells.intensity, shells.variance, shells.count or nothing, shells.faintest or nothing], dtype=np.float64)


def _detection_threshold(tables: Floats) -> Floats:
    """Faintest intensity (shells,) that is still found, from the reference tables (frames, 4, shells).

    Of N shifted-exponential intensities the smallest lies mu/N above the shift: (N min - mean) / (N - 1) is unbiased
    (Epstein and Sobel, Ann. Math. Stat. 25 (1954) 373).
    """
    intensity, _, count, faintest = np.moveaxis(tables, 1, 0)
    several = count >= 2
    mean = intensity / np.maximum(count, 1)
    unbiased = np.where(several, (count * faintest - mean) / np.maximum(count - 1, 1), 0.0)
    weight = np.where(several, count, 0.0)
    result: Floats = np.maximum((weight * unbiased).sum(axis=0) / np.maximum(weight.sum(axis=0), 1.0), 0.0)
    return result


def _scatter(ratio: Floats, count: Floats, poisson: Floats) -> tuple[Floats, float]:
    """Relative variance (shells,) from frame to frame beyond Poisson, and by how much neighbouring frames' likeness inflates it.

    `ratio` (frames, shells) is each frame's intensity over the mean. Each frame's scale is taken out first, as the fit does. The
    inflation (1 + r) / (1 - r) is that of a first-order autoregression with correlation r.
    """
    scale = (ratio * count).sum(axis=1, keepdims=True) / max(float(count.sum()), 1e-9)
    residual = ratio / np.maximum(scale, 1e-9) - 1.0
    n_frames = len(ratio)
    own = (residual**2).sum(axis=0) / max(n_frames - 1, 1)
    both = (residual[1:] * residual[:-1]).sum(axis=0) / max(n_frames - 1, 1)
    weight = np.where(own > 0, count / np.maximum(own, 1e-9), 0.0)
    correlation = float((weight * both).sum()) / max(float((weight * own).sum()), 1e-9) + 1.0 / n_frames  # taking the mean out costs 1/n
    correlation = min(max(correlation, 0.0), 0.8)
    rotation = np.maximum(own - poisson, 0.01 * own)
    of_one_spot = float((rotation * count**2).sum()) / max(float(count.sum()), 1e-9)  # sums of N reflections vary as 1/N
    rotation = (rotation + of_one_spot / np.maximum(count, 1e-9)) / 2  # a dozen frames alone give each shell's variance to 40 %
    return rotation, (1 + correlation) / (1 - correlation)
