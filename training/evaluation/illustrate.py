"""Which pictures go with which part of a report."""

from __future__ import annotations

from typing import Any

import numpy as np

from training.evaluation import plots, strata
from training.evaluation.document import Picture
from training.evaluation.frozen import FrozenSet, Predictions
from training.evaluation.report import TASKS, Scores, reliabilities
from training.evaluation.tables import TITLES

_DIAGRAMS = ("multi_lattice", "non_diffraction", "ice_rings")
_CURVES = {
    "multi_lattice": (strata.REACH_MULTI, strata.REACH_SPLIT),
    "non_diffraction": (strata.ALL, strata.REACH_WEAK),
    "ice_rings": (strata.ALL,),
}


def pictures_of(report: dict[str, Any], frames: FrozenSet, network: Predictions, scores: Scores) -> dict[str, list[Picture]]:
    """Curves and strata of every task, calibration, confusion, resolution."""
    labels = frames.labels
    found: dict[str, list[Picture]] = {}
    for task, title in TITLES.items():
        found[task] = _curves(task, labels, scores)
        drawn = plots.strata(f"{title}, by stratum", report[task])
        if drawn is not None:
            found[task].append(Picture(f"{task}_strata", f"{title}, by stratum; bars: 95 % intervals.", drawn))
    diagrams = reliabilities(network, labels, np.ones(len(labels), dtype=bool))
    caption = "True share against stated probability; bars: one standard error."
    found["reliability"] = [Picture("reliability", caption, plots.reliability_diagrams({k: diagrams[k] for k in _DIAGRAMS}))]
    tables = {"kind, of frames without a lattice": report["kind_confusion"], "lattices": report["lattices_confusion"]}
    found["confusion"] = [Picture("confusion", "Frames of each true class by the likeliest class.", plots.confusions(tables))]
    known = np.isfinite(labels["d_min_A"])
    if known.any():
        drawn = plots.resolution(labels["d_min_A"][known].astype(np.float64), 1.0 / network.inverse_d_per_A[known])
        found["resolution"] = [Picture("resolution", "Resolution limit of frames with a lattice.", drawn)]
    return found


def _curves(task: str, labels: strata.Labels, scores: Scores) -> list[Picture]:
    divided = {stratum.name: stratum for stratum in TASKS[task](labels)}
    found = []
    for number, name in enumerate(_CURVES[task]):
        stratum = divided[name]
        chosen = stratum.positive | stratum.negative
        if stratum.positive.any() and stratum.negative.any():
            chosen_scores = {scorer: values[chosen] for scorer, values in scores[task].items()}
            drawn = plots.roc_and_precision(f"{TITLES[task]}: {name}", chosen_scores, stratum.positive[chosen])
            caption = f"{TITLES[task]}, {name}: {int(stratum.positive.sum())} frames against {int(stratum.negative.sum())}."
            found.append(Picture(f"{task}_curves_{number}", caption, drawn))
    return found
