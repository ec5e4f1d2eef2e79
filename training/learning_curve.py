"""What more frames and more trees are worth: the boosted trees, which carry most of the judgement on lattices, on ever more of either.

    python -m training.learning_curve data/cpu_small                          # on ever more frames
    python -m training.learning_curve data/cpu_small --rounds 25 50 100 200   # on all of them, of ever more rounds

Each fit is of the first so many frames of the training split, all are measured on the whole validation split. Their logits are calibrated
there (a temperature a head), so that only the order and the shape of what they say are compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.boosting import fit_trees, trees_of
from training.dataset import load
from training.evaluation.reach import headline
from training.evaluation.report import measured
from training.release import Outputs
from training.settings import TreesSettings
from training.validated import SPLIT, predictions_of

MEASURES = {
    "several lattices: AUROC": "trees/multi_lattice/auroc",
    "recall at 1 %": "trees/multi_lattice/recall_at_1pc",
    "splits 0.6-2 deg: AUROC": "trees/small_split/auroc",
    "no diffraction: AUROC": "trees/non_diffraction/auroc",
    "recall at 1 % ": "trees/non_diffraction/recall_at_1pc",
    "ice: AUROC": "trees/ice_rings/auroc",
}


def steps(frames: int, least: int) -> list[int]:
    """Numbers of frames, each half of the next, down to `least`."""
    numbers = [frames]
    while numbers[0] // 2 >= least:
        numbers.insert(0, numbers[0] // 2)
    return numbers


def fits(folder: Path, least: int, rounds: Sequence[int]) -> list[tuple[int, TreesSettings]]:
    """(frames, trees) of each fit: trees as they are released on ever more frames or, where `rounds` are given, so many on all."""
    frames = len(load(folder, "train"))
    if rounds:
        return [(frames, TreesSettings(rounds=each)) for each in rounds]
    return [(each, TreesSettings()) for each in steps(frames, least)]


def curve(folder: Path, asked: Sequence[tuple[int, TreesSettings]], seed: int) -> Iterator[tuple[int, int, float, dict[str, float]]]:
    """(frames, rounds, log loss of the number of lattices, headline numbers) of each fit."""
    held = load(folder, SPLIT)
    truth = np.minimum(held.labels["n_lattices"], 3)
    for frames, trees in asked:
        arrays = load(folder, "train", frames)
        outputs = _said(trees_of(fit_trees(arrays, trees, seed)), held.features, held.labels)
        predictions = predictions_of(outputs)
        loss = -float(np.log(predictions.lattices[np.arange(len(truth)), truth].clip(1e-12)).mean())
        found = headline({"trees": measured(predictions, held.labels, np.ones(len(truth), dtype=bool))})
        yield len(arrays), trees.rounds, loss, found


def _said(forests: dict[str, Any], features: Any, labels: Any) -> Outputs:
    """The trees' logits in the network's place, those of none beside them."""
    x = torch.from_numpy(features)
    with torch.inference_mode():
        lattices, kind, ice, none = (forests[head](x) for head in ("lattices", "kind", "ice", "none"))
    truth = {
        "lattices": torch.from_numpy(np.minimum(labels["n_lattices"], 3).astype(np.int64)),
        "kind": torch.from_numpy(labels["kind"].astype(np.int64)),
        "ice": torch.from_numpy(labels["ice_rings"].astype(np.float32)),
    }
    return Outputs(lattices, kind, ice[:, 0], torch.zeros(len(x)), truth=truth, trees={"none": none})


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the curve as a Markdown table to standard output, a line as each fit is done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--least", type=int, default=1000, help="frames of the smallest fit, or up to twice as many")
    parser.add_argument("--rounds", type=int, nargs="+", default=[], help="of the trees, each a fit of all frames")
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args(arguments)
    sys.stdout.write(f"| frames | rounds | log loss | {' | '.join(MEASURES)} |\n|{'---|' * (3 + len(MEASURES))}\n")
    for frames, rounds, loss, found in curve(told.folder, fits(told.folder, told.least, told.rounds), told.seed):
        cells = [f"{found[path]:.4f}" if path in found else "too few" for path in MEASURES.values()]
        sys.stdout.write(f"| {frames} | {rounds} | {loss:.4f} | {' | '.join(cells)} |\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
