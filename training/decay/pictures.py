"""Example runs with their truth, as PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.decay.judge import BASELINES, JudgedRun
from training.decay.measure import GROUPS, flagged_at, has_to_be_flagged, loss_when_flagged, trend_at, trend_threshold
from training.evaluation.plots import COLOURS, png_of
from triage.flags import FlagThreshold

_SHOWN = (
    ("stills", True),
    ("rotation_60", True),
    ("rotation_150", True),
    ("rotation_600", True),
    ("rotation_300", False),
    ("wedges", False),
)


def examples(runs: Sequence[JudgedRun], threshold: FlagThreshold) -> bytes:
    """Four damaged and two undamaged runs: each the one whose result is the median of its kind, so that nothing is picked by eye."""
    figure = Figure(figsize=(13, 6.4), layout="constrained")
    axes = figure.subplots(2, 3)
    for axis, (kind, damaged) in zip(axes.ravel(), _SHOWN, strict=True):
        run = _typical(runs, kind, threshold, damaged=damaged)
        if run is not None:
            _draw(axis, run, flagged_at(run, threshold))
    _legend(figure)
    return png_of(figure)


def _legend(figure: Figure) -> None:
    """In the first axis that shows anything: of few runs, none may be of its kind."""
    shown = [axis for axis in figure.axes if axis.get_legend_handles_labels()[0]]
    for axis in shown[:1]:
        axis.legend(fontsize=8, loc="upper left")


def losses(train: Sequence[JudgedRun], test: Sequence[JudgedRun], threshold: FlagThreshold) -> bytes:
    """Share of the damaged runs flagged before the outer shell has lost so much, beside the trends at 5 % false alarms, by kind of run."""
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    names = ["stills", "rotation, 60 to 79 frames", "rotation, 600 and more", "all"]
    for axis, name in zip(figure.subplots(1, len(names), sharey=True), names, strict=True):
        chosen = [run for run in test if run.kind in GROUPS[name] and has_to_be_flagged(run)]
        _rising(axis, [loss_when_flagged(run, flagged_at(run, threshold)) for run in chosen], COLOURS[0], "this one")
        for k, baseline in enumerate(BASELINES):
            least = trend_threshold(train, k, 0.05)
            _rising(axis, [loss_when_flagged(run, trend_at(run, k, least)) for run in chosen], COLOURS[k + 1], baseline)
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="outer shell lost when flagged", title=f"{name} ({len(chosen)})")
    figure.axes[0].set(ylabel="share of damaged runs flagged")
    _legend(figure)
    return png_of(figure)


def _rising(axis: Axes, lost: Sequence[float], colour: str, label: str) -> None:
    """Those never flagged count as 1, and are left out at the right edge."""
    known = np.sort([loss for loss in lost if loss < 1.0])
    steps = np.arange(1, len(known) + 1) / max(len(lost), 1)
    x, y = np.concatenate([[0.0], known, [1.0]]), np.concatenate([[0.0], steps, steps[-1:] if len(steps) else [0.0]])
    axis.step(x, y, where="post", color=colour, label=label)


def _typical(runs: Sequence[JudgedRun], kind: str, threshold: FlagThreshold, *, damaged: bool) -> JudgedRun | None:
    """The run in the middle by loss when flagged, or, of undamaged look-alikes, by the largest alarm probability."""
    if damaged:
        chosen = [run for run in runs if run.kind == kind and has_to_be_flagged(run) and len(run.frame)]
        keys = [loss_when_flagged(run, flagged_at(run, threshold)) for run in chosen]
    else:
        chosen = [run for run in runs if run.kind == kind and not run.damaged and run.look_alike != "none" and len(run.frame)]
        keys = [float(run.alarm_probability.max()) for run in chosen]
    return chosen[int(np.argsort(keys)[len(keys) // 2])] if chosen else None


def _draw(axis: Axes, run: JudgedRun, flagged: int | None) -> None:
    axis.fill_between(run.frame, run.delta_B - 2 * run.sigma, run.delta_B + 2 * run.sigma, color=COLOURS[4], alpha=0.35, linewidth=0)
    axis.plot(run.frame, run.delta_B, color=COLOURS[0], linewidth=1, label="stated delta_B, 2 sigma")
    axis.plot(run.frame, run.true_delta_B, color="black", linewidth=1.5, label="truth")
    right = axis.twinx()
    right.plot(run.frame, run.probability, color=COLOURS[1], linewidth=1)
    right.plot(np.arange(len(run.all_loss)), run.all_loss, color=COLOURS[2], linewidth=1, linestyle="--")
    right.set(ylim=(-0.02, 1.02))
    axis.plot([], [], color=COLOURS[1], label="probability (right)")
    axis.plot([], [], color=COLOURS[2], linestyle="--", label="outer-shell loss (right)")
    said = "not flagged" if flagged is None else f"flagged at {flagged}, {run.all_loss[flagged]:.0%} lost"
    if flagged is not None:
        axis.axvline(flagged, color=COLOURS[1], linestyle=":")
    low, high = np.percentile(np.concatenate([run.delta_B, run.true_delta_B]), (1, 99))
    axis.set(ylim=(low - 5, high + 5), xlabel="frame", ylabel="delta_B (A^2)")
    axis.set_title(f"{run.kind.replace('_', ' ')}, {run.look_alike.replace('_', ' ')}, d {run.outer_d_A:.1f} A: {said}", fontsize=9)
