"""What limits the judgement "no diffraction": whether a lattice has 7 spots above I/sigma of 5 or 8 is a matter of noise.

    python -m training.evaluation.limit models/released/triage.onnx data/evaluation

Beside the network stand two who know more than pixels tell. One knows which of the spots found belong to a lattice, and counts them: as if
there were no false spots, no ice and no salt. The other also knows which of these are above I/sigma of 5, as the truth counts them.
Frames that the network is sure of (`SURE`) are not rendered again: there both say what it says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from training.dataset import scene_of, structures
from training.evaluation.frozen import SPLIT, FrozenSet, load_frozen, predict
from training.evaluation.measures import Floats, contrast
from training.evaluation.strata import ALL, REACH_WEAK, non_diffraction
from training.simulate.render import Rendered, render
from triage.spots import DispersionFinder

SURE = (0.003, 0.995)
"""Probabilities of no diffraction beyond which nobody asks."""
STRATA = (ALL, REACH_WEAK, "sample: none (positives; all negatives)")
_NEAR_PX = 2.5
_FAR = 1e6


@dataclass(frozen=True, slots=True)
class Known:
    """Of the lattice with most: spots found that are its reflections, and those of them that are visible by the truth."""

    true: int
    visible: int


def known_of(rendered: Rendered, positions_px: Floats) -> Known:
    """What there is to know of the spots found, at `positions_px` (n, 2), slow and fast."""
    if len(positions_px) == 0:
        return Known(0, 0)
    tree, true, visible = cKDTree(positions_px), [0], [0]
    for group, shown in zip(rendered.reflections, rendered.visible, strict=True):
        distance, nearest = tree.query(group.positions_px.numpy())
        near = distance < _NEAR_PX
        true.append(len(np.unique(nearest[near])))
        visible.append(len(np.unique(nearest[near & shown.numpy()])))
    return Known(max(true), max(visible))


def scorers(frames: FrozenSet, no_diffraction: Floats) -> dict[str, Floats]:
    """Scores (n,) of no diffraction: the network's, and those of the two who know more. Ties are broken by the network."""
    seed, finder = int(frames.recipe["seed"]), DispersionFinder()
    crystals = structures(seed, SPLIT)
    sides = np.where(no_diffraction > np.mean(SURE), _FAR, -_FAR)
    true, visible = sides + no_diffraction, sides + no_diffraction
    for k in np.flatnonzero((no_diffraction > SURE[0]) & (no_diffraction < SURE[1])):
        rendered = render(scene_of(seed, SPLIT, int(frames.index[k]), crystals))
        known = known_of(rendered, finder.find(rendered.counts, rendered.run).positions_px.astype(float))
        true[k], visible[k] = no_diffraction[k] - known.true, no_diffraction[k] - known.visible
    return {"network": no_diffraction, "knows which spots are true": true, "knows which spots are visible": visible}


def table(frames: FrozenSet, scores: dict[str, Floats]) -> str:
    """The result, Markdown; 95 % intervals in brackets."""
    lines = ["| frames | n + / - | who | AUROC | recall at 1 % false alarms |", "|---|---|---|---|---|"]
    for stratum in non_diffraction(frames.labels):
        if stratum.name not in STRATA:
            continue
        chosen = stratum.positive | stratum.negative
        for who, row in contrast({name: s[chosen] for name, s in scores.items()}, stratum.positive[chosen]).items():
            cells = [_cell(row.get("auroc")), _cell(row.get("recall_at_1pc"))]
            lines.append(f"| {stratum.name} | {row['n_positive']} / {row['n_negative']} | {who} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(value: list[float] | None) -> str:
    return "too few" if value is None else "{:.4f} ({:.4f}-{:.4f})".format(*value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the table of a model on a folder of frozen frames to standard output."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("model", type=Path, help="an ONNX file")
    parser.add_argument("folder", type=Path, help="whose test split is judged")
    told = parser.parse_args(arguments)
    frames = load_frozen(told.folder)
    network, _ = predict(told.model, frames)
    sys.stdout.write(table(frames, scorers(frames, network.non_diffraction)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
