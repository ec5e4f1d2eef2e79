"""A simulated run as the listener's tracker sees it, with the trends that people watch, and the least that could be seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from training.decay.lane import MIN_SPOTS, Keeping, tracked
from training.decay.runs import REFERENCE_FRAMES, SimulatedRun
from triage.core import Spots
from triage.decay.evidence import FEATURES
from triage.decay.fusion import UNSEEN, Fusion
from triage.decay.shells import N_SHELLS, shell_of
from triage.spots import summarise

Floats = npt.NDArray[np.float64]

BASELINES = ("total intensity", "spot count", "resolution limit")
_TREND_FRAMES = 7
"""Median over so many frames: a trend that people watch is smooth."""
_BOUND_Z = 3.0
"""Standard deviations at which the bound counts a growth as seen."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JudgedRun:
    """What is kept of a run; arrays have one entry a frame with a decay judgement, or as said."""

    index: int
    kind: str
    look_alike: str
    detector: str
    n_frames: int
    """That arrived."""
    exponent: float
    """0: undamaged."""
    onset: float
    room_temperature: bool
    anisotropy_A2: float
    outer_d_A: float
    frame: Floats
    probability: Floats
    delta_B: Floats
    """As stated by the tracker, as are the next two."""
    sigma: Floats
    scale: Floats
    """As stated by the tracker."""
    true_delta_B: Floats
    """Against the same reference frames."""
    true_scale: Floats
    """Damage and brightness, against the same reference frames."""
    outer_loss: Floats
    """As stated by the tracker; nan where it is not."""
    all_loss: Floats
    """True loss of the outer shell against the undamaged crystal, of every frame planned."""
    all_dose_MGy: Floats
    """Since the damage set in, of every frame planned."""
    trends: Floats
    """(BASELINES, frames planned): smoothed fall against the first frames, 0 to 1; nan where nothing was seen yet."""
    bound_frame: float
    """Frame at which the information first suffices for _BOUND_Z; nan: never."""
    block: Floats
    """(blocks,) the last frame of each block of frames that the fusion was asked about."""
    features: npt.NDArray[np.float32]
    """(blocks, FEATURES), so that another fusion needs no run judged again."""
    alarm_probability: Floats
    """The one that the flag watches."""
    scale_sigma: Floats
    """As stated by the tracker. New fields come last: files hold values by their place."""

    @property
    def damaged(self) -> bool:
        """Whether there is any damage."""
        return self.exponent > 0


def judge_run(run: SimulatedRun, *, track: bool = True, index: bool = True) -> JudgedRun:
    """Tracks a run as the listener does, with the slow lane beside it where `index` says so.

    Without `track` only the trends are looked at, and no frame is judged.
    """
    plan, plan_run = run.plan, run.plan.run()
    seen = np.full((len(BASELINES), plan.n_frames), np.nan)
    information = _Information(run)
    for frame, spots in run.frames():
        summary = summarise(spots)
        seen[:, frame] = (summary.total_intensity, summary.count, 1.0 / summary.resolution_A if summary.resolution_A else 0.0)
        if track:
            information.add(frame, spots)
    tracker = Keeping(plan_run)
    said = tracked(tracker, plan_run, run.frames(), index=index) if track else ()
    found = [(frame, decay) for frame, decay in said if decay is not None]
    frames = np.array([frame for frame, _ in found], dtype=np.int64)
    first, last = found[0][1].reference_frames if found else (0, 0)
    brightness = run.scale * plan.course.brightness
    reference = slice(first, last + 1)
    return JudgedRun(
        index=plan.index,
        kind=plan.kind,
        look_alike=plan.course.look_alike,
        detector=plan.detector,
        n_frames=int(plan.course.present.sum()),
        exponent=plan.damage.exponent,
        onset=plan.damage.onset,
        room_temperature=plan.damage.room_temperature,
        anisotropy_A2=plan.lattice.crystal.anisotropy_A2,
        outer_d_A=run.outer_d_A,
        frame=frames.astype(np.float64),
        probability=np.array([decay.probability for _, decay in found]),
        delta_B=np.array([decay.delta_B_A2 for _, decay in found]),
        sigma=np.array([decay.delta_B_sigma for _, decay in found]),
        scale=np.array([decay.scale for _, decay in found]),
        true_delta_B=run.delta_B_A2[frames] - run.delta_B_A2[reference].mean(),
        true_scale=brightness[frames] / brightness[reference].mean(),
        outer_loss=np.array([np.nan if decay.outer_loss is None else decay.outer_loss for _, decay in found]),
        all_loss=run.loss,
        all_dose_MGy=run.dose_MGy,
        trends=_falls(seen),
        bound_frame=information.bound(),
        block=np.array(tracker.at, dtype=np.float64),
        features=np.array(tracker.taken, dtype=np.float32).reshape(-1, len(FEATURES)),
        alarm_probability=np.array([decay.alarm_probability for _, decay in found]),
        scale_sigma=np.array([decay.scale_sigma for _, decay in found]),
    )


def judged_by(run: JudgedRun, fusion: Fusion) -> JudgedRun:
    """The run with the probabilities that another fusion gives."""
    each = np.array([(UNSEEN, UNSEEN), *(fusion.says(row) for row in run.features.astype(np.float64))])
    probability, alarm = each[np.searchsorted(run.block, run.frame, side="right")].T
    return replace(run, probability=probability, alarm_probability=alarm)


def _falls(seen: Floats) -> Floats:
    """1 - running median over that of the first frames, of each row; frames that never came are left out."""
    result = np.full_like(seen, np.nan)
    there = np.flatnonzero(np.isfinite(seen[0]))
    if len(there) <= REFERENCE_FRAMES + _TREND_FRAMES:
        return result
    for row, values in enumerate(seen[:, there]):
        start = max(float(np.median(values[:REFERENCE_FRAMES])), 1e-9)
        windows = np.lib.stride_tricks.sliding_window_view(values, _TREND_FRAMES)
        running = np.median(windows, axis=1)[REFERENCE_FRAMES:]
        result[row, there[REFERENCE_FRAMES + _TREND_FRAMES - 1 :]] = 1.0 - running / start
    return result


class _Information:
    """Fisher information on the growth of B in each frame, for an observer who knows when it begins and how it goes.

    Of a new reflection of exponential intensity with mean mu, found above t = x mu, the information on ln mu is
    exp(-x) (1 + x^2) + x^2 exp(-2x) / (1 - exp(-x)), and exp(-x) of them are found; a reflection seen in k frames counts once.
    Of the same reflection again it is (I/sigma)^2. The scale of each frame is free.
    """

    def __init__(self, run: SimulatedRun) -> None:
        self._spread = np.zeros(run.plan.n_frames)
        self._same = run.plan.kind == "stills"
        self._delta_B = run.delta_B_A2
        self._share = 1.0 / run.frames_per_reflection
        start = run.rows[: run.starts[min(REFERENCE_FRAMES, run.plan.n_frames)]]
        self._of_one = _information_of_one(shell_of(start[:, 5]), start[:, 2].astype(np.float64))

    def add(self, frame: int, spots: Spots) -> None:
        """Takes a frame's spots."""
        if spots.inverse_d_per_A is None or len(spots) < 2:
            return
        half_s2 = 0.5 * spots.inverse_d_per_A.astype(np.float64) ** 2
        counting = (spots.sigma.astype(np.float64) / spots.intensity) ** 2
        if self._same:
            weight = 1.0 / counting
        else:
            weight = self._share / (1.0 / self._of_one[np.clip(shell_of(spots.inverse_d_per_A), 0, N_SHELLS - 1)] + counting)
        mean = float((weight * half_s2).sum() / weight.sum())
        self._spread[frame] = float((weight * (half_s2 - mean) ** 2).sum())

    def bound(self) -> float:
        """First frame at which sqrt(information) times the growth reaches _BOUND_Z, the crystal's own B being unknown; nan: never."""
        total = np.maximum(np.cumsum(self._spread), 1e-12)
        mean = np.cumsum(self._spread * self._delta_B) / total
        z2 = np.cumsum(self._spread * self._delta_B**2) - total * mean**2
        enough = np.flatnonzero(z2 >= _BOUND_Z**2)
        return float(enough[0]) if len(enough) else float("nan")


def _information_of_one(shell: npt.NDArray[np.int64], intensity: Floats) -> Floats:
    """On ln mu, of each found spot of a shell (shells,); the threshold is the faintest tenth's, the mean that of the excess over it."""
    result = np.ones(N_SHELLS)
    for k in range(N_SHELLS):
        its = intensity[shell == k]
        if len(its) < MIN_SPOTS:
            continue
        threshold = float(np.percentile(its, 10))
        x = min(threshold / max(float(its[its >= threshold].mean()) - threshold, 1e-9), 3.0)
        result[k] = 1.0 + x * x + x * x * np.exp(-x) / max(1.0 - np.exp(-x), 1e-9)
    return result
