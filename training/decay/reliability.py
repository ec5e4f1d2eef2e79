"""Is `decay.probability` right: how often the outer shell had lost more than 15 %, by what was said, in each kind of run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from training.decay.fuse import Witnessed, of_each
from training.decay.judge import JudgedRun
from training.decay.measure import GROUPS
from triage.decay.evidence import LOSS_MEANT

Floats = npt.NDArray[np.float64]
BINS = 10
_SHOWN = 0.002
"""Share of a kind's runs that a bin has to hold to be shown."""


def of_frames(runs: Iterable[JudgedRun]) -> dict[str, dict[str, Any]]:
    """Of every frame that was judged, also of the first, of which nothing is known yet."""
    return reliability([(run.kind, run.probability, run.all_loss[run.frame.astype(np.int64)]) for run in runs])


def of_blocks(runs: Sequence[Witnessed], logits: Floats) -> dict[str, dict[str, Any]]:
    """Of every block, from its log-odds; dimmed copies left out."""
    return reliability([(run.kind, 1.0 / (1.0 + np.exp(-its)), run.loss[run.frame]) for run, its in of_each(runs, logits)])


def reliability(runs: Sequence[tuple[str, Floats, Floats]]) -> dict[str, dict[str, Any]]:
    """By group, of (kind, what is said, what is lost), each run weighing the same: mean said, share that lost more than LOSS_MEANT, and the
    expected calibration error over BINS equal bins; of each bin its share, the mean said and the share that lost.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, kinds in GROUPS.items():
        chosen = [(said, lost > LOSS_MEANT) for kind, said, lost in runs if kind in kinds and len(said)]
        if not chosen:
            continue
        said, lost = np.concatenate([each for each, _ in chosen]), np.concatenate([each for _, each in chosen])
        weight = np.concatenate([np.full(len(each), 1.0 / len(each) / len(chosen)) for each, _ in chosen])
        at = np.minimum((said * BINS).astype(np.int64), BINS - 1)
        share, stated, true = (np.bincount(at, weight * values, BINS) for values in (np.ones(len(said)), said, lost))
        there = np.maximum(share, 1e-12)
        rows[name] = {
            "runs": len(chosen),
            "said": round(float(stated.sum()), 4),
            "lost": round(float(true.sum()), 4),
            "ece": round(float(np.abs(stated - true).sum()), 4),
            "bins": np.round(np.stack([share, stated / there, true / there], axis=1), 4).tolist(),
        }
    return rows


def as_table(rows: dict[str, dict[str, Any]], title: str) -> str:
    """Markdown: what the share that lost was in each bin, in percent."""
    edges = " | ".join(f"{100 * k // BINS} to {100 * (k + 1) // BINS}" for k in range(BINS))
    lines = [f"| {title} | runs | said | lost | ECE | said, %: {edges} |", "|---" * (5 + BINS) + "|"]
    for name, row in rows.items():
        cells = " | ".join(f"{100 * true:.0f}" if share >= _SHOWN else "" for share, _, true in row["bins"])
        lines.append(f"| {name} | {row['runs']} | {row['said']:.3f} | {row['lost']:.3f} | {row['ece']:.3f} | {cells} |")
    return "\n".join(lines)
