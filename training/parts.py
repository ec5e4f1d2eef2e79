"""What the network and the trees beside it are worth, each alone and both together, on frozen frames.

    python -m training.parts runs/released/network.pt data/next data/evaluation

Each way is calibrated on the validation split of the first folder, and measured on the test split of the second.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.dataset import load
from training.evaluation import frozen
from training.evaluation.reach import headline
from training.evaluation.report import measured
from training.release import Outputs, calibrate, load_network, load_trees, run_split
from training.validated import SPLIT, predictions_of

MEASURES = {
    "several lattices: AUROC": "multi_lattice/auroc",
    "recall at 1 %": "multi_lattice/recall_at_1pc",
    "splits 0.6-2 deg: AUROC": "small_split/auroc",
    "no diffraction: AUROC": "non_diffraction/auroc",
    "recall at 1 % ": "non_diffraction/recall_at_1pc",
    "against 8-25 spots: AUROC": "weak/auroc",
    "ice: AUROC": "ice_rings/auroc",
}


def ways(outputs: Outputs) -> dict[str, Outputs]:
    """Both as they are, the network alone, and the trees alone: in the network's place, those of no lattice beside them."""
    trees = outputs.trees
    alone = replace(outputs, lattices=trees["lattices"], kind=trees["kind"], ice=trees["ice"][:, 0], trees={"none": trees["none"]})
    return {"both": outputs, "network alone": replace(outputs, trees={}), "trees alone": alone}


def worth(validation: Outputs, test: Outputs, labels: Any) -> dict[str, dict[str, float]]:
    """Of each way the estimates on the test frames, whose truth is `labels` (n,), by task and measure: `multi_lattice/auroc`."""
    everything, judged = np.ones(len(labels), dtype=bool), ways(test)
    found = {way: measured(predictions_of(judged[way], calibrate(held)), labels, everything) for way, held in ways(validation).items()}
    return {way: {name.removeprefix(f"{way}/"): value for name, value in headline({way: tasks}).items()} for way, tasks in found.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the table, Markdown, to standard output. A network without trees ends it with status 2."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("network", type=Path, help="a network.pt, trained or unfolded")
    parser.add_argument("calibration", type=Path, help="folder whose validation split calibrates")
    parser.add_argument("folder", type=Path, help="folder whose test split is judged")
    told = parser.parse_args(arguments)
    network, _ = load_network(told.network)
    trees = load_trees(told.network)
    if not {"lattices", "kind", "ice", "none"} <= set(trees):
        parser.error(f"{told.network}: it has not all trees; `python -m training.regrow` grows them")
    torch.set_num_threads(1)
    held, judged = run_split(network, told.calibration, SPLIT, trees), run_split(network, told.folder, frozen.SPLIT, trees)
    found = worth(held, judged, load(told.folder, frozen.SPLIT).labels)
    sys.stdout.write(f"| | {' | '.join(MEASURES)} |\n|{'---|' * (1 + len(MEASURES))}\n")
    for way, numbers in found.items():
        cells = [f"{numbers[path]:.4f}" if path in numbers else "too few" for path in MEASURES.values()]
        sys.stdout.write(f"| {way} | {' | '.join(cells)} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
