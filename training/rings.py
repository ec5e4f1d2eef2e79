"""A short leg of training for ice alone, after the others.

    python -m training.rings runs/train/network.pt data/cpu_small runs/rings

Rings are learnt slowly beside the other looks; alone they take a minute, because a frame's radial profile is all there is to see. The look
that only ice has (`Network.rings`) and its answer, which also hears the spots' statistics, are fitted; what the rest of the network said of
ice is switched off. All other answers stay as they are.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.network import Network
from training.dataset import load
from training.release import load_network

LOG = logging.getLogger(__name__)
_BATCH = 256
_ICE = 8
"""The place of ice among the logits."""


def seen_of_ice(network: Network, folder: Path, split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Of a split's frames: radial profiles (n, 2, 256), statistics as the network has them (n, 64), whether there are ice rings (n,)."""
    arrays = load(folder, split)
    with torch.inference_mode():
        parts = [
            network.rings.profile(torch.from_numpy(np.array(images[k : k + 50])))
            for images in arrays.images
            for k in range(0, len(images), 50)
        ]
        statistics = network.features(torch.from_numpy(arrays.features))
    return torch.cat(parts).clone(), statistics.clone(), torch.from_numpy(arrays.labels["ice_rings"].astype(np.float32))


def fit(network: Network, folder: Path, *, steps: int = 1500, learning_rate: float = 3e-3, seed: int = 1) -> float:
    """Fits the look at rings in place; returns the loss on the validation split."""
    torch.manual_seed(seed)
    network.eval()
    profile, statistics, truth = seen_of_ice(network, folder, "train")
    held_profile, held_statistics, held_truth = seen_of_ice(network, folder, "validation")
    loss_of = nn.functional.binary_cross_entropy_with_logits

    def said(rings: Tensor, spots: Tensor) -> Tensor:
        out: Tensor = network.ice(torch.cat([network.rings.body(rings), spots], dim=1))[:, 0]
        return out

    parameters = [*network.rings.parameters(), *network.ice.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps)
    network.rings.train()
    for step in range(steps):
        chosen = torch.randint(len(truth), (_BATCH,))
        loss = loss_of(said(profile[chosen], statistics[chosen]), truth[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 250 == 0:
            LOG.info("step %d: loss %.4f", step, float(loss.detach()))
    network.eval()
    with torch.no_grad():
        for rest in (network.heads, network.shortcut):
            rest.weight[_ICE], rest.bias[_ICE] = 0.0, 0.0
        return float(loss_of(said(held_profile, held_statistics), held_truth))


def main() -> None:
    """Reads a network.pt, fits, writes another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    network, report = load_network(given.network)
    held = fit(network, given.data)
    LOG.info("validation loss of ice: %.4f", held)
    report["rings"] = {"after": str(given.network), "validation_loss": held}
    given.out.mkdir(parents=True, exist_ok=True)
    torch.save({"weights": network.state_dict(), "report": report}, given.out / "network.pt")
    (given.out / "report.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
