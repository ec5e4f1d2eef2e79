"""What is flagged, how late, how often for nothing; baselines at the same false alarms. Intervals resample runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from training.decay.course import LOSS_THAT_COUNTS
from training.decay.judge import BASELINES, JudgedRun
from triage.flags import FlagThreshold, Persistence

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

BOOTSTRAPS = 1000
GROUPS: dict[str, tuple[str, ...]] = {
    "stills": ("stills",),
    "rotation, 60 to 79 frames": ("rotation_60",),
    "rotation, 120 to 359": ("rotation_150", "rotation_300"),
    "rotation, 600 and more": ("rotation_600", "rotation_1200"),
    "wedges": ("wedges",),
    "all": ("stills", "rotation_60", "rotation_150", "rotation_300", "rotation_600", "rotation_1200", "wedges"),
}
_INTERVAL_PERCENT = (2.5, 97.5)


def flagged_at(run: JudgedRun, threshold: FlagThreshold) -> int | None:
    """Frame at which the flag's policy decides; None: never."""
    memory = Persistence(threshold)
    for frame, probability in zip(run.frame, run.alarm_probability, strict=True):
        if memory.update(int(frame), float(probability)) is not None:
            return int(frame)
    return None


def alarms(run: JudgedRun, threshold: FlagThreshold) -> int:
    """How often the flag is raised, clearing in between."""
    memory = Persistence(threshold)
    decided = [memory.update(int(f), float(p)) is not None for f, p in zip(run.frame, run.alarm_probability, strict=True)]
    return (sum(decided) + 1) // 2


def trend_at(run: JudgedRun, baseline: int, least_fall: float) -> int | None:
    """Frame at which a baseline's fall first reaches `least_fall`; None: never."""
    over = np.flatnonzero(run.trends[baseline] >= least_fall)
    return int(over[0]) if len(over) else None


def loss_when_flagged(run: JudgedRun, frame: int | None) -> float:
    """Of the outer shell; 1 where the run was never flagged."""
    return 1.0 if frame is None else float(run.all_loss[min(frame, len(run.all_loss) - 1)])


def has_to_be_flagged(run: JudgedRun) -> bool:
    """Whether the outer shell loses LOSS_THAT_COUNTS within the run."""
    return bool(run.all_loss[-1] > LOSS_THAT_COUNTS)


def with_interval(values: Sequence[float] | Floats, statistic: Callable[[Floats], float]) -> list[float]:
    """[value, low, high] of a statistic of runs, 95 % by resampling them; empty where there are none."""
    array = np.asarray(values, dtype=np.float64)
    if len(array) == 0:
        return []
    rng = np.random.default_rng(0)
    drawn = [statistic(array[rng.integers(0, len(array), len(array))]) for _ in range(BOOTSTRAPS)]
    low, high = np.percentile(drawn, _INTERVAL_PERCENT)
    return [round(float(x), 4) for x in (statistic(array), low, high)]


def share(values: Floats) -> float:
    """Mean of zeros and ones."""
    return float(np.mean(values))


def middle(values: Floats) -> float:
    """Median."""
    return float(np.median(values))


def detection(runs: Sequence[JudgedRun], flag: Callable[[JudgedRun], int | None]) -> dict[str, dict[str, Any]]:
    """By group of runs: numbers, share of runs flagged that have to be, median loss when flagged, share flagged of the undamaged."""
    rows: dict[str, dict[str, Any]] = {}
    for name, kinds in GROUPS.items():
        chosen = [run for run in runs if run.kind in kinds]
        damaged = [(run, flag(run)) for run in chosen if has_to_be_flagged(run)]
        sound = [flag(run) is not None for run in chosen if not run.damaged]
        losses = [loss_when_flagged(run, frame) for run, frame in damaged]
        rows[name] = {
            "damaged": len(damaged),
            "flagged": with_interval([frame is not None for _, frame in damaged], share),
            "loss": with_interval(losses, middle),
            "sound": len(sound),
            "false": with_interval(sound, share),
            "bound": with_interval([bound_loss(run) for run, _ in damaged], middle),
        }
    return rows


def bound_loss(run: JudgedRun) -> float:
    """Loss of the outer shell when the information first suffices; 1 where it never does."""
    return 1.0 if np.isnan(run.bound_frame) else float(run.all_loss[int(run.bound_frame)])


def delays(runs: Sequence[JudgedRun], threshold: FlagThreshold) -> dict[str, dict[str, Any]]:
    """Dose in MGy from the onset of damage to the flag, of the damaged runs flagged after it, at 100 K and at room temperature."""
    rows: dict[str, dict[str, Any]] = {}
    for name, warm in (("100 K", False), ("room temperature", True)):
        chosen = [run for run in runs if has_to_be_flagged(run) and run.room_temperature is warm]
        frames = [(run, flagged_at(run, threshold)) for run in chosen]
        doses = [float(run.all_dose_MGy[frame]) for run, frame in frames if frame is not None]
        ends = [float(run.all_dose_MGy[-1]) for run in chosen]
        rows[name] = {"damaged": len(chosen), "dose_MGy": with_interval(doses, middle), "dose_at_end_MGy": with_interval(ends, middle)}
    return rows


def trend_threshold(runs: Sequence[JudgedRun], baseline: int, false_share: float) -> float:
    """The least fall that flags at most this share of the undamaged runs."""
    largest = [np.nanmax(run.trends[baseline], initial=0.0) for run in runs if not run.damaged]
    ordered = np.sort(np.asarray(largest, dtype=np.float64))[::-1]
    return float(np.nextafter(ordered[min(int(false_share * len(ordered)), len(ordered) - 1)], np.inf))


def baselines(train: Sequence[JudgedRun], test: Sequence[JudgedRun], false_share: float) -> dict[str, dict[str, Any]]:
    """Rows of `detection` on `test` of each trend, its threshold chosen on `train`."""
    result = {}
    for k, name in enumerate(BASELINES):
        least = trend_threshold(train, k, false_share)
        result[name] = {"threshold": least, "rows": detection(test, partial(trend_at, baseline=k, least_fall=least))}
    return result


def coverage(runs: Sequence[JudgedRun], off: Callable[[JudgedRun], Floats] | None = None) -> dict[str, list[float]]:
    """By group: share of frames whose true growth of B lies within twice the stated sigma (each run weighs by its frames).

    `off`: of another number, how many sigma the frames (n,) of a run are from the truth.
    """
    off = off or (lambda run: (run.delta_B - run.true_delta_B) / run.sigma)
    rows: dict[str, list[float]] = {}
    for name, kinds in GROUPS.items():
        inside = [np.abs(off(run)) <= 2 for run in runs if run.kind in kinds and len(run.frame)]
        if not inside:
            rows[name] = []
            continue
        pairs = np.array([(within.sum(), len(within)) for within in inside], dtype=np.float64)
        rng = np.random.default_rng(0)
        drawn = [pairs[rng.integers(0, len(pairs), len(pairs))].sum(axis=0) for _ in range(BOOTSTRAPS)]
        low, high = np.percentile([a / b for a, b in drawn], _INTERVAL_PERCENT)
        rows[name] = [round(float(x), 4) for x in (pairs[:, 0].sum() / pairs[:, 1].sum(), low, high)]
    return rows


def by_look_alike(runs: Sequence[JudgedRun], threshold: FlagThreshold) -> dict[str, dict[str, Any]]:
    """Undamaged runs flagged, and damaged ones flagged with their median loss, by what else happened in the run."""
    rows: dict[str, dict[str, Any]] = {}
    for name in sorted({run.look_alike for run in runs}):
        chosen = [run for run in runs if run.look_alike == name]
        sound = [flagged_at(run, threshold) is not None for run in chosen if not run.damaged]
        damaged = [flagged_at(run, threshold) for run in chosen if has_to_be_flagged(run)]
        losses = [loss_when_flagged(run, frame) for run, frame in zip([r for r in chosen if has_to_be_flagged(r)], damaged, strict=True)]
        rows[name] = {
            "sound": len(sound),
            "false": int(sum(sound)),
            "damaged": len(damaged),
            "flagged": sum(frame is not None for frame in damaged),
            "loss": round(float(np.median(losses)), 3) if losses else None,
        }
    return rows


def alarms_per_1000(runs: Sequence[JudgedRun], threshold: FlagThreshold) -> list[float]:
    """[rate, low, high] of alarms per 1,000 frames of undamaged runs."""
    pairs = np.array([(alarms(run, threshold), run.n_frames) for run in runs if not run.damaged], dtype=np.float64)
    rng = np.random.default_rng(0)
    drawn = [pairs[rng.integers(0, len(pairs), len(pairs))].sum(axis=0) for _ in range(BOOTSTRAPS)]
    low, high = np.percentile([1000 * a / n for a, n in drawn], _INTERVAL_PERCENT)
    return [round(float(x), 4) for x in (1000 * pairs[:, 0].sum() / pairs[:, 1].sum(), low, high)]
