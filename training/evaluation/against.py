"""A previous release to stand beside: on the same frames where it can judge them, else by its own report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from typing import Any

from training.evaluation.frozen import FrozenSet, ModelUnfit, Predictions, predict
from triage.refusal import ConfigError

REPORT_NAME = "evaluation.json"
"""A released model's own report, beside it."""
NETWORK = "network"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Previous:
    """What is known of another model."""

    name: str
    predictions: Predictions | None
    """On the very frames; None where it cannot judge them."""
    report: dict[str, Any] | None
    """Its own, on other frames; None where it judged these."""
    remark: str
    """What the comparison rests on, for the reader."""


def previous(path: Path, frames: FrozenSet) -> Previous:
    """The model at `path` (.onnx, or its report .json). Raises ConfigError where neither it nor a report beside it can be used."""
    if path.suffix == ".json":
        return _reported(path, f"The numbers of {path.name}", frames)
    try:
        predictions, metadata = predict(path, frames)
    except ModelUnfit as error:
        beside = path.with_name(REPORT_NAME)
        if not path.is_file() or not beside.is_file():
            raise
        return _reported(
            beside, f"This version cannot run it on these frames ({str(error).partition(': ')[2]}): its own report's numbers", frames
        )
    name = f"{metadata.name} {metadata.version}"
    return Previous(name=name, predictions=predictions, report=None, remark="Judged on the same frames; differences are paired.")


def _reported(path: Path, begin: str, frames: FrozenSet) -> Previous:
    try:
        report = json.loads(path.read_text())
        name = f"{report['model']['name']} {report['model']['version']}"
        theirs, ours = report["data"], frames.identity()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: no report of `triage evaluate` ({error!r})") from None
    if theirs["sha256"] == ours["sha256"]:
        rest = "on the same scenes; differences are not paired."
    else:
        rest = (
            f"on another data set: {theirs['frames']} frames of seed {theirs['seed']}, prepared by {_short(theirs)} "
            f"(here {ours['frames']}, seed {ours['seed']}, {_short(ours)}). Part of a difference may be the frames'; they are not paired."
        )
    return Previous(name=name, predictions=None, report=report, remark=f"{begin}, {rest}")


def _short(recipe: dict[str, Any]) -> str:
    made = recipe["preprocess"]
    return f"preprocessing {made['version']}, spot finder {made['spot_finder_version']}"


def reported_row(report: dict[str, Any], task: str, stratum: str, network: dict[str, Any]) -> dict[str, Any] | None:
    """A report's row of one stratum, with the unpaired difference in AUROC from `network`'s; None where it has no such stratum."""
    row = report.get(task, {}).get(stratum, {}).get(NETWORK)
    if row is None:
        return None
    found = {key: value for key, value in row.items() if not key.startswith("at_threshold")}
    if "auroc" in row and "auroc" in network:
        found["first_minus_this"] = unpaired(network["auroc"], row["auroc"])
    return found


def unpaired(first: list[float], second: list[float]) -> list[float]:
    """Difference of two independent [value, low, high], its half-widths added in quadrature."""
    (a, a_low, a_high), (b, b_low, b_high) = first, second
    return [round(x, 4) for x in (a - b, a - b - hypot(a - a_low, b_high - b), a - b + hypot(a_high - a, b - b_low))]
