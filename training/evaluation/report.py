"""The numbers of one evaluation, as they are written to JSON."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from training.dataset import HELD_OUT_DETECTORS
from training.evaluation import reach, strata
from training.evaluation.against import NETWORK, Previous, reported_row
from training.evaluation.frozen import FrozenSet, Predictions
from training.evaluation.measures import Bools, Floats, Reliability, contrast, percentile_with_interval, reliability, threshold_at
from training.evaluation.strata import Labels, Stratum
from triage.classify import ModelMetadata
from triage.core import NON_DIFFRACTION_KINDS

TASKS = {"multi_lattice": strata.multi_lattice, "non_diffraction": strata.non_diffraction, "ice_rings": strata.ice_rings}
LATTICES = ("0", "1", "2", "3 or more")
Scores = dict[str, dict[str, Floats]]
"""Of each task, each scorer's scores (n,); the network first."""
_COMMON_FALSE_ALARMS = 0.01


def scores_of(network: Predictions, other: Previous | None, baselines: Scores) -> Scores:
    """Every scorer of every task."""
    found: Scores = {}
    for task in TASKS:
        found[task] = {NETWORK: _task_scores(network, task)}
        if other is not None and other.predictions is not None:
            found[task][other.name] = _task_scores(other.predictions, task)
        found[task].update({f"baseline: {name}": scores for name, scores in baselines.get(task, {}).items()})
    return found


def _task_scores(predictions: Predictions, task: str) -> Floats:
    return {"multi_lattice": predictions.multi_lattice, "non_diffraction": predictions.non_diffraction, "ice_rings": predictions.ice}[task]


def report_of(
    metadata: ModelMetadata, sha256: str, frames: FrozenSet, network: Predictions, other: Previous | None, baselines: Scores
) -> dict[str, Any]:
    """Everything that is measured; JSON-ready. Values with an interval are [value, low, high] (95 %)."""
    labels, scores = frames.labels, scores_of(network, other, baselines)
    report: dict[str, Any] = {
        "model": {"name": metadata.name, "version": metadata.version, "sha256": sha256, "provenance": metadata.provenance},
        "data": frames.identity(),
        "frames": len(labels),
        "held_out_detectors": list(HELD_OUT_DETECTORS),
        "frames_of_held_out_detectors": int(strata.held_out(labels).sum()),
        "against": {"name": other.name, "remark": other.remark} if other is not None else None,
        "strata_not_in_these_labels": strata.absent(labels),
    }
    for task, divide in TASKS.items():
        divided = divide(labels)
        at_1pc = _threshold(divided[0], scores[task][NETWORK])
        report[task] = {}
        for stratum in divided:
            rows = _rows(stratum, scores[task])
            if stratum.threshold_of_all:
                rows[NETWORK]["at_threshold_of_all"] = _rates(stratum, scores[task][NETWORK], at_1pc)
            if other is not None and other.report is not None:
                theirs = reported_row(other.report, task, stratum.name, rows[NETWORK])
                rows = {NETWORK: rows[NETWORK], **({other.name: theirs} if theirs else {}), **rows}
            report[task][stratum.name] = rows
    report["kind_confusion"] = _confusion(network.kind.argmax(axis=1), labels["kind"], NON_DIFFRACTION_KINDS)
    report["lattices_confusion"] = _confusion(network.lattices.argmax(axis=1), np.minimum(labels["n_lattices"], 3), LATTICES)
    report["resolution_relative_error"] = resolution_error(network, labels, np.ones(len(labels), dtype=bool))
    report["ece"] = {name: found.ece for name, found in reliabilities(network, labels, np.ones(len(labels), dtype=bool)).items()}
    report["reach"] = {
        name: {"frames": int(chosen.sum()), "rows": reach.judged(measured(network, labels, chosen))}
        for name, chosen in ((strata.ALL, np.ones(len(labels), dtype=bool)), (strata.HELD_OUT, strata.held_out(labels)))
        if chosen.any()
    }
    return report


def _rows(stratum: Stratum, scores: dict[str, Floats]) -> dict[str, dict[str, Any]]:
    chosen = stratum.positive | stratum.negative
    return contrast({name: values[chosen] for name, values in scores.items()}, stratum.positive[chosen])


def _threshold(everything: Stratum, scores: Floats) -> float:
    chosen = everything.positive | everything.negative
    return threshold_at(scores[chosen], everything.positive[chosen], _COMMON_FALSE_ALARMS)


def _rates(stratum: Stratum, scores: Floats, threshold: float) -> dict[str, float]:
    """Of a stratum at the threshold of 1 % false alarms over all frames: what a beamline meets, which sets one threshold."""
    rates = {}
    for name, side in (("recall", stratum.positive), ("false_alarms", stratum.negative)):
        if side.any():
            rates[name] = round(float((scores[side] > threshold).mean()), 4)
    return rates


def measured(network: Predictions, labels: Labels, chosen: Bools) -> dict[str, Any]:
    """What the targets are about, on the chosen frames."""

    def row(task: str, name: str) -> dict[str, Any]:
        [stratum] = [found for found in TASKS[task](labels) if found.name == name]
        return _rows(stratum.within(chosen, ""), {NETWORK: _task_scores(network, task)})[NETWORK]

    return {
        "multi_lattice": row("multi_lattice", strata.REACH_MULTI),
        "small_split": row("multi_lattice", strata.REACH_SPLIT),
        "non_diffraction": row("non_diffraction", strata.ALL),
        "weak": row("non_diffraction", strata.REACH_WEAK),
        "ice_rings": row("ice_rings", strata.ALL),
        "resolution": resolution_error(network, labels, chosen),
        "ece": {name: found.ece for name, found in reliabilities(network, labels, chosen).items()},
    }


def reliabilities(network: Predictions, labels: Labels, chosen: Bools) -> dict[str, Reliability]:
    """Of every probability a frame record carries, over the chosen frames (n,)."""
    lattices, none = labels["n_lattices"], labels["n_lattices"] == 0
    stated: dict[str, tuple[Floats, Bools, Bools]] = {
        "multi_lattice": (network.multi_lattice, lattices >= 2, chosen),
        "non_diffraction": (network.non_diffraction, none, chosen),
        "ice_rings": (network.ice, labels["ice_rings"] == 1, chosen),
    }
    for number, name in enumerate(LATTICES[1:], start=1):
        stated[f"lattices {name}"] = (network.lattices[:, number], np.minimum(lattices, 3) == number, chosen)
    for number, name in enumerate(NON_DIFFRACTION_KINDS):
        stated[f"kind {name}"] = (network.kind[:, number], labels["kind"] == number, chosen & none)
    return {name: reliability(p[inside], truth[inside]) for name, (p, truth, inside) in stated.items() if inside.any()}


def relative_errors(network: Predictions, labels: Labels) -> Floats:
    """(n,) relative error of the resolution limit d_min; nan where there is none."""
    return np.asarray(1.0 / network.inverse_d_per_A / labels["d_min_A"].astype(np.float64) - 1.0)


def resolution_error(network: Predictions, labels: Labels, chosen: Bools) -> dict[str, Any] | None:
    """Percentiles of the absolute relative error; None without a frame that has a limit."""
    errors = np.abs(relative_errors(network, labels)[chosen])
    known = errors[np.isfinite(errors)]
    if len(known) == 0:
        return None
    return {"frames": len(known), "median": percentile_with_interval(known, 50), "p90": percentile_with_interval(known, 90)}


def _confusion(said: Any, truth: Any, names: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Frames of each true class (rows) that were said to be each class; frames without a truth are left out."""
    return {name: {other: int(((truth == k) & (said == j)).sum()) for j, other in enumerate(names)} for k, name in enumerate(names)}


def as_json(report: dict[str, Any]) -> str:
    """JSON with short lists on one line, so that a committed report can be read and compared line by line."""
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    return re.sub(r"\[\s+([^][{}\"]*?)\s+\]", lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]", text) + "\n"
