"""What a trained network is worth on the validation split: for comparing trainings, not for reporting.

The epoch was chosen, and temperatures and the trees' weights are fitted, on these very frames; the frozen set is new.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.network import Calibration, joined_by_none
from training.dataset import load
from training.evaluation.frozen import Predictions
from training.evaluation.report import measured
from training.release import Outputs, calibrate, load_network, load_trees, run_split
from training.settings import DataSettings

SPLIT = "validation"


def keep(saved: dict[str, Any], out: Path, data: DataSettings) -> dict[str, Any]:
    """Writes `network.pt` (`saved`) and `report.json` to `out`; returns the report, to which `measured` is added."""
    path, report = out / "network.pt", saved["report"]
    torch.save(saved, path)
    report["measured"] = on_validation(path, data)
    torch.save(saved, path)  # with what it is worth
    (out / "report.json").write_text(json.dumps(report, indent=1))
    return dict(report)


def on_validation(network: Path, data: DataSettings) -> dict[str, Any]:
    """Every measure of `training.evaluation.reach`, of the network alone (`network`) and, where it has some, with its trees (`released`).

    `network`: a `network.pt`. Values with an interval are [value, low, high] (95 %).
    """
    fitted, _ = load_network(network)
    outputs = run_split(fitted, data.folder, SPLIT, load_trees(network), data.validation_frames)
    labels = load(data.folder, SPLIT, data.validation_frames).labels
    everything = np.ones(len(labels), dtype=bool)
    found = {"network": measured(predictions_of(replace(outputs, trees={})), labels, everything)}
    if outputs.trees:
        found["released"] = measured(predictions_of(outputs), labels, everything)
    return found


def predictions_of(outputs: Outputs, calibration: Calibration | None = None) -> Predictions:
    """Probabilities as the exported file gives them; without a calibration, calibrated on these same frames."""
    chosen = calibration or calibrate(outputs)
    lattices, kind, ice = (_blended(outputs, chosen, head) for head in ("lattices", "kind", "ice"))
    arrays = (torch.softmax(lattices, dim=1), torch.softmax(kind, dim=1), torch.sigmoid(ice), torch.exp(outputs.log_s))
    of_lattices, of_kind, of_ice, inverse_d = (x.double().numpy() for x in arrays)
    return Predictions(lattices=of_lattices, kind=of_kind, ice=of_ice, inverse_d_per_A=inverse_d)


def _blended(outputs: Outputs, chosen: Calibration, head: str) -> Tensor:
    logits: Tensor = getattr(outputs, head) / getattr(chosen, head)
    if head in outputs.trees:
        logits = logits + getattr(chosen, f"{head}_trees") * outputs.trees[head].reshape(logits.shape)
    if head == "lattices" and "none" in outputs.trees:
        logits = joined_by_none(logits, outputs.trees["none"], chosen)
    return logits
