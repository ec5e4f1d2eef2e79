"""Example runs with their truth, as PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.decay.judge import JudgedRun
from training.decay.measure import flagged_at, has_to_be_flagged, loss_when_flagged
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
    axes[0, 0].legend(fontsize=8, loc="upper left")
    return png_of(figure)


def _typical(runs: Sequence[JudgedRun], kind: str, threshold: FlagThreshold, *, damaged: bool) -> JudgedRun | None:
    """The run in the middle by loss when flagged, or, of undamaged look-alikes, by the largest probability."""
    if damaged:
        chosen = [run for run in runs if run.kind == kind and has_to_be_flagged(run) and len(run.frame)]
        keys = [loss_when_flagged(run, flagged_at(run, threshold)) for run in chosen]
    else:
        chosen = [run for run in runs if run.kind == kind and not run.damaged and run.look_alike != "none" and len(run.frame)]
        keys = [float(run.probability.max()) for run in chosen]
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
