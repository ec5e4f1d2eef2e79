"""New trees beside a trained network, which stays as it is: minutes, where a training takes an hour.

    python -m training.regrow runs/train/network.pt data/next runs/regrown

    python -m training.regrow runs/train/network.pt data/next runs/regrown --share-before 0.5    # the mean with the trees before

For frames whose statistics differ from those that the trees were grown on, because the spots do or what is computed of them. The trees
carry most of the judgement on lattices (docs/decisions/0011-trees-beside-the-network.md). `triage export` then weighs network and trees on
`data/next`.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from training.boosting import fit_trees, joined
from training.dataset import load, provenance
from training.recording import data_sha256, git_revision
from training.settings import TrainSettings
from training.validated import keep

LOG = logging.getLogger(__name__)


def regrow(network: Path, folder: Path, out: Path, seed: int, share_before: float = 0.0) -> dict[str, Any]:
    """Writes `network.pt` and `report.json` to `out`; returns the report, which says what the network and what the trees have seen.

    With a share, the mean with the network's own trees: for frames that are like theirs, and others.
    """
    saved = torch.load(network, map_location="cpu", weights_only=True)
    report = dict(saved["report"])
    settings = TrainSettings.model_validate(report["settings"])
    arrays, held = load(folder, "train"), load(folder, "validation")
    sizes = {"folder": folder, "train_frames": len(arrays), "validation_frames": len(held)}
    data = settings.data.model_copy(update=sizes)
    trees = fit_trees(arrays, settings.trees, seed)
    if share_before:
        if not saved.get("trees"):
            raise ValueError(f"{network}: it has no trees to share in; leave --share-before out")
        trees = joined(saved["trees"], trees, share_before)
        report["trees_before"] = {"share": share_before, "data": report["data"]}
    of_trees = {**provenance(folder), "sha256": data_sha256(data)}
    report |= {"data": of_trees, "data_of_network": report.get("data_of_network", report["data"]), "git_revision": git_revision()}
    out.mkdir(parents=True, exist_ok=True)
    return keep({**saved, "trees": trees, "report": report}, out, data)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("network", type=Path, help="a network.pt")
    parser.add_argument("data", type=Path, help="folder of training and validation frames")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share-before", type=float, default=0.0, help="of the network's own trees in the mean with the new ones")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    report = regrow(given.network, given.data, given.out, given.seed, given.share_before)
    LOG.info("%s: %s", given.out / "network.pt", json.dumps(report["measured"]["released"]["multi_lattice"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
