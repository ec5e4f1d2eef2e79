"""New trees beside a trained network, which stays as it is: minutes, where a training takes an hour.

    python -m training.regrow runs/train/network.pt data/next runs/regrown

    python -m training.regrow runs/train/network.pt data/next runs/regrown --share-before 0.5    # the mean with the trees before
    python -m training.regrow runs/train/network.pt data/next runs/regrown --more data/hard      # more frames (training.hard)
    python -m training.regrow runs/train/network.pt data/next runs/regrown --heads none kind     # trees for these; others stay

For frames whose statistics differ from those that the trees were grown on, because the spots do or what is computed of them. The trees
carry most of the judgement on lattices (docs/decisions/0011-trees-beside-the-network.md). `triage export` then weighs network and trees on
`data/next`.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.boosting import HEADS, fit_trees, joined
from training.dataset import load, provenance
from training.recording import data_sha256, git_revision
from training.settings import TrainSettings
from training.validated import keep

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How new trees are grown, and what becomes of the old ones."""

    seed: int = 1
    share_before: float = 0.0
    """Of the network's own trees in the mean with the new ones: for frames that are like theirs, and others."""
    more: Path | None = None
    """A folder of training frames of some kinds, to learn from as well (`fit_trees`)."""
    heads: tuple[str, ...] = tuple(HEADS)
    """What new trees are for; those for others stay."""


def regrow(network: Path, folder: Path, out: Path, growth: Growth) -> dict[str, Any]:
    """Writes `network.pt` and `report.json` to `out`; returns the report, which says what the network and what the trees have seen.

    Raises ValueError where trees are to stay, or to have a share, that are not there.
    """
    saved = torch.load(network, map_location="cpu", weights_only=True)
    report = dict(saved["report"])
    settings = TrainSettings.model_validate(report["settings"])
    arrays, held = load(folder, "train"), load(folder, "validation")
    sizes = {"folder": folder, "train_frames": len(arrays), "validation_frames": len(held)}
    data = settings.data.model_copy(update=sizes)
    before = saved.get("trees") or {}
    if not before and (growth.share_before or set(growth.heads) != set(HEADS)):
        raise ValueError(f"{network}: it has no trees to share in, or to stay; leave --share-before and --heads out")
    hard = load(growth.more, "train") if growth.more is not None else None
    trees = fit_trees(arrays, settings.trees, growth.seed, more=hard, heads=growth.heads)
    if growth.share_before:
        trees = joined(before, trees, growth.share_before)
    trees = {**{head: forest for head, forest in before.items() if head not in growth.heads}, **trees}
    if growth.share_before or set(growth.heads) != set(HEADS):
        report["trees_before"] = {"share": growth.share_before, "new": list(growth.heads), "data": report["data"]}
    of_trees = {**provenance(folder), "sha256": data_sha256(data)}
    if growth.more is not None:
        of_trees["more"] = provenance(growth.more)
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
    parser.add_argument("--more", type=Path, help="folder of more training frames, of some kinds (training.hard)")
    parser.add_argument("--heads", nargs="+", choices=tuple(HEADS), default=tuple(HEADS), help="what new trees are for; others stay")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    growth = Growth(seed=given.seed, share_before=given.share_before, more=given.more, heads=tuple(given.heads))
    report = regrow(given.network, given.data, given.out, growth)
    LOG.info("%s: %s", given.out / "network.pt", json.dumps(report["measured"]["released"]["multi_lattice"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
