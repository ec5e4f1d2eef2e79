"""Calibrate a trained network on the held-out split and write the ONNX file."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from models.export import export
from models.network import Calibrated, Calibration, Network, NetworkSize
from training.dataset import FrameDataset, load
from training.simulate.draw import KINDS
from triage.classify import ModelMetadata
from triage.preprocess import Preprocess

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """Logits of a whole split, and its truth."""

    lattices: Tensor
    kind: Tensor
    ice: Tensor
    log_s: Tensor
    truth: dict[str, Tensor]


def load_network(path: Path) -> tuple[Network, dict[str, Any]]:
    """The network and report of a `network.pt` that `triage train` wrote."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    chosen = saved["report"]["settings"]["network"]
    size = NetworkSize(
        trunk=tuple(chosen["trunk"]),
        crop=tuple(chosen["crop"]),
        hidden=chosen["hidden"],
        n_features=Preprocess().n_features,
        dropout=chosen["dropout"],
        use_crops=chosen["use_crops"],
        use_features=chosen["use_features"],
        use_resolution_map=chosen["use_resolution_map"],
        use_spectrum=chosen["use_spectrum"],
        use_radial=chosen["use_radial"],
    )
    network = Network(size)
    network.load_state_dict(saved["weights"])
    return network.eval(), saved["report"]


def run_split(network: Network, folder: Path, split: str) -> Outputs:
    """Logits of every frame of a split."""
    parts, truths = [], []
    names = ("lattices", "kind", "ice", "s_max")
    with torch.inference_mode():
        for batch in DataLoader(FrameDataset(load(folder, split), augment=False), batch_size=64):
            logits = network(batch["image"], batch["crops"], batch["features"])
            parts.append((logits.lattices, logits.kind, logits.ice, logits.log_s))
            truths.append({name: batch[name] for name in names})
    lattices, kind, ice, log_s = (torch.cat(column) for column in zip(*parts, strict=True))
    return Outputs(lattices, kind, ice, log_s, truth={name: torch.cat([t[name] for t in truths]) for name in names})


def calibrate(outputs: Outputs) -> Calibration:
    """Temperatures that make the held-out split likeliest (Guo et al., ICML 2017)."""
    kinds = outputs.truth["kind"]
    cross_entropy = torch.nn.functional.cross_entropy
    return Calibration(
        lattices=_temperature(lambda t: cross_entropy(outputs.lattices / t, outputs.truth["lattices"])),
        kind=_temperature(lambda t: cross_entropy(outputs.kind[kinds >= 0] / t, kinds[kinds >= 0])) if (kinds >= 0).any() else 1.0,
        ice=_temperature(lambda t: torch.nn.functional.binary_cross_entropy_with_logits(outputs.ice / t, outputs.truth["ice"])),
    )


def _temperature(loss: Any) -> float:
    grid = np.exp(np.linspace(np.log(0.4), np.log(4.0), 120))
    return float(grid[int(np.argmin([float(loss(float(t))) for t in grid]))])


def release(network_path: Path, folder: Path, path: Path, version: str) -> ModelMetadata:
    """Writes the ONNX file of a trained network, calibrated on the validation split."""
    network, report = load_network(network_path)
    outputs = run_split(network, folder, "validation")
    calibration = calibrate(outputs)
    rates = torch.bincount(outputs.truth["lattices"], minlength=4).double()
    base = (rates / rates.sum()).tolist()
    metadata = ModelMetadata(
        name=report["settings"]["name"],
        version=version,
        preprocess=Preprocess(),
        base_rates=(base[0], base[1], base[2], base[3]),
        provenance={
            "calibration": asdict(calibration),
            "drawn_shares": KINDS,
            "git_revision": report["git_revision"],
            "data": report["data"],
            "seed": report["settings"]["seed"],
            "data_seed": report["settings"]["data"]["seed"],
            "training_minutes": report["training_minutes"],
            "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    difference = export(Calibrated(network, calibration), metadata, path)
    LOG.info("%s: calibration %s, ONNX differs from torch by %.1e", path, calibration, difference)
    return metadata
