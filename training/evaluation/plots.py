"""Pictures of an evaluation, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.evaluation.against import NETWORK
from training.evaluation.baselines import BOOSTING
from training.evaluation.measures import Bools, Floats, Reliability, precision, roc

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""After Okabe & Ito: told apart by the colour-blind too."""
_GREY = "#8a929e"
_LEAST_FALSE_ALARMS = 1e-3
_DPI = 110


def png_of(figure: Figure) -> bytes:
    """The figure's file."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    return content.getvalue()


def _colour(scorer: str) -> str:
    """The same in every picture."""
    fixed = {NETWORK: COLOURS[0], f"baseline: {BOOSTING}": COLOURS[2]}
    return fixed.get(scorer, COLOURS[1] if scorer.startswith("baseline: ") else COLOURS[3])


def roc_and_precision(title: str, scorers: Mapping[str, Floats], truth: Bools) -> bytes:
    """ROC (false alarms on a logarithmic axis: alarms are rare or useless) and precision against recall."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    for name, scores in scorers.items():
        colour = _colour(name)
        curve = roc(scores, truth)
        alarms = np.maximum(np.append(0.0, curve.false_alarms[0]), _LEAST_FALSE_ALARMS)
        left.plot(alarms, np.append(0.0, curve.hits[0]), color=colour, label=f"{name} ({curve.auroc()[0]:.3f})", drawstyle="steps-post")
        right.plot(*precision(scores, truth), color=colour, label=name)
    for share in (0.01, 0.05):
        left.axvline(share, color=_GREY, linewidth=0.8, linestyle=":")
    left.set(xscale="log", xlim=(_LEAST_FALSE_ALARMS, 1), ylim=(0, 1.01), xlabel="false alarms", ylabel="recall", title="ROC")
    left.legend(title="AUROC in brackets", fontsize=8, title_fontsize=8, loc="best")
    right.axhline(float(truth.mean()), color=_GREY, linewidth=0.8, linestyle=":")
    right.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="recall", ylabel="precision", title="precision (dotted: without any skill)")
    return png_of(figure)


def strata(title: str, rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> bytes | None:
    """AUROC and recall at 1 % false alarms by stratum: the first scorer with its intervals, the others as points. None: nothing to show."""
    shown = {name: scorers for name, scorers in rows.items() if "auroc" in next(iter(scorers.values()))}
    if not shown:
        return None
    figure = Figure(figsize=(11, 1.2 + 0.24 * len(shown)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    names = list(dict.fromkeys(name for scorers in shown.values() for name in scorers))
    for axis, measure, label in zip(axes, ("auroc", "recall_at_1pc"), ("AUROC", "recall at 1 % false alarms"), strict=True):
        for name in names:
            colour = _colour(name)
            points = [(y, scorers[name][measure]) for y, scorers in enumerate(shown.values()) if measure in scorers.get(name, {})]
            heights, values = [y for y, _ in points], np.array([value for _, value in points]).reshape(-1, 3)
            if name == names[0]:
                spread = np.abs(values[:, 1:] - values[:, :1]).T
                axis.errorbar(values[:, 0], heights, xerr=spread, fmt="o", color=colour, markersize=5, capsize=2, label=name)
            else:
                axis.plot(values[:, 0], heights, "|", color=colour, markersize=9, markeredgewidth=2, label=name)
        axis.set_xlabel(label)
        axis.grid(axis="both", color="#e6e9ee")
        axis.set_axisbelow(True)
    axes[0].set_yticks(range(len(shown)), [_shortened(name) for name in shown], fontsize=8)
    axes[0].set_ylim(len(shown) - 0.4, -0.6)
    handles, labels = axes[0].get_legend_handles_labels()
    order = [labels.index(name) for name in names]
    figure.legend([handles[k] for k in order], names, fontsize=8, loc="outside upper right", ncols=len(names))
    figure.suptitle(title, x=0.02, ha="left")
    return png_of(figure)


def _shortened(name: str, most: int = 48) -> str:
    return name if len(name) <= most else f"{name[: most - 3]}..."


def reliability_diagrams(found: Mapping[str, Reliability]) -> bytes:
    """Stated against true shares, with the number of frames in each bin below."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplots(2, len(found), height_ratios=(3, 1), sharex=True, squeeze=False)
    for (upper, lower), (name, diagram) in zip(axes.T, found.items(), strict=True):
        error = np.sqrt(diagram.true * (1 - diagram.true) / diagram.frames)
        upper.plot((0, 1), (0, 1), color=_GREY, linewidth=0.8, linestyle=":")
        upper.errorbar(diagram.stated, diagram.true, yerr=error, fmt="o-", color=COLOURS[0], markersize=4, linewidth=1)
        upper.set(ylim=(-0.03, 1.03), xlim=(0, 1), title=f"{name}: ECE {diagram.ece[0]:.3f} ({diagram.ece[1]:.3f}-{diagram.ece[2]:.3f})")
        lower.bar(diagram.stated, diagram.frames, width=0.05, color=COLOURS[4])
        lower.set(yscale="log", xlabel="stated probability")
    axes[0, 0].set_ylabel("true share")
    axes[1, 0].set_ylabel("frames")
    return png_of(figure)


def confusions(tables: Mapping[str, Mapping[str, Mapping[str, int]]]) -> bytes:
    """Confusion matrices: rows the truth, numbers of frames, shade the share of the row."""
    figure = Figure(figsize=(5.2 * len(tables), 4.4), layout="constrained")
    for axis, (title, table) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
        names = list(table)
        counts = np.array([[table[true][said] for said in names] for true in names])
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), number in np.ndenumerate(counts):
            dark = share[row, column] > 0.6
            text = f"{number}\n{share[row, column]:.0%}"
            axis.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
        axis.set_xticks(range(len(names)), names)
        axis.set_yticks(range(len(names)), names)
        axis.set(title=title, xlabel="said", ylabel="true")
    return png_of(figure)


def resolution(truth_A: Floats, stated_A: Floats) -> bytes:
    """The network's resolution limit against the true one, and the relative error by resolution."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    low, high = float(min(truth_A.min(), stated_A.min())), float(max(truth_A.max(), stated_A.max()))
    left.plot((low, high), (low, high), color=_GREY, linewidth=0.8, linestyle=":")
    left.scatter(truth_A, stated_A, s=6, alpha=0.35, color=COLOURS[0], linewidths=0)
    left.set(xscale="log", yscale="log", xlabel="true d_min (Å)", ylabel="stated d_min (Å)", title="resolution limit")
    ticks = [d for d in (0.8, 1, 1.5, 2, 3, 4, 6, 8, 12, 20) if low <= d <= high]
    for axis in (left.xaxis, left.yaxis):
        axis.set_ticks(ticks, [f"{d:g}" for d in ticks])
        axis.set_ticks([], minor=True)
    _error_by_resolution(right, truth_A, 100.0 * (stated_A / truth_A - 1.0))
    return png_of(figure)


def _error_by_resolution(axis: Axes, truth_A: Floats, percent: Floats) -> None:
    edges = np.unique(np.quantile(truth_A, np.linspace(0, 1, 9)))
    bins = np.clip(np.digitize(truth_A, edges) - 1, 0, len(edges) - 2) if len(edges) > 1 else np.zeros(len(truth_A), dtype=int)
    groups = [percent[bins == k] for k in range(max(len(edges) - 1, 1))]
    labels = [f"{np.median(truth_A[bins == k]):.2g}" if (bins == k).any() else "" for k in range(len(groups))]
    axis.boxplot(groups, tick_labels=labels, showfliers=False, whis=(5, 95), medianprops={"color": COLOURS[1]})
    axis.axhline(0.0, color=_GREY, linewidth=0.8, linestyle=":")
    axis.set(xlabel="true d_min (Å), eighths of the frames", ylabel="relative error (%)", title="box: quartiles; whiskers: 5 to 95 %")
