"""What the fusion is worth on the runs that it learnt from, by networks that did not learn from the run: tables for docs/decay.md."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training.decay.fuse import OutOfFold, Witnessed, of_each
from training.decay.measure import GROUPS
from training.decay.reliability import as_table, of_blocks

Floats = npt.NDArray[np.float64]
_SHARE = 0.05


def out_of_fold(runs: Sequence[Witnessed], found: OutOfFold) -> str:
    """By kind, with and without indexing: at one level that 5 % of the undamaged runs exceed, and at 5 % in each kind; look-alikes; whether
    the probability is calibrated, and the alarm's beside it.
    """
    parts = []
    for name, logits in (("with indexing", found.named), ("without indexing", found.unnamed)):
        pairs = of_each(runs, logits)
        level = level_of([pair for pair in pairs if not pair[0].damaged], _SHARE)
        lines = [
            f"| {name}; level {1.0 / (1.0 + np.exp(-level)):.3f} "
            "| damaged | flagged | median loss | undamaged | flagged | at 5 % in each kind: median loss |",
            "|---|---|---|---|---|---|---|",
        ]
        for group, kinds in GROUPS.items():
            chosen = [pair for pair in pairs if pair[0].kind in kinds]
            damaged, sound = [pair for pair in chosen if pair[0].has_to_be_flagged], [pair for pair in chosen if not pair[0].damaged]
            losses, false = [_loss(*pair, level) for pair in damaged], [_loss(*pair, level) is not None for pair in sound]
            own = [_loss(*pair, level_of(sound, _SHARE)) for pair in damaged]
            lines.append(
                f"| {group} | {len(damaged)} | {np.mean([each is not None for each in losses]):.0%} | {_median(losses):.0%} "
                f"| {len(sound)} | {np.mean(false):.1%} | {_median(own):.0%} |"
            )
        parts += ["\n".join(lines), _look_alikes(runs, logits, level)]
    for name, logits in (
        ("probability, with indexing", found.said),
        ("probability, without indexing", found.said_unnamed),
        ("alarm probability, with indexing", found.named),
    ):
        parts.append(as_table(of_blocks(runs, logits), f"calibration of blocks: {name}"))
    return "\n\n".join(parts)


def level_of(pairs: Sequence[tuple[Witnessed, Floats]], share: float) -> float:
    """The log-odds that at most this share of these runs ever exceed."""
    highest = sorted((float(values.max(initial=-30.0)) for _, values in pairs), reverse=True)
    return float(np.nextafter(highest[int(share * len(highest))], np.inf)) if highest else np.inf


def _loss(run: Witnessed, logits: Floats, level: float) -> float | None:
    """Of the outer shell when the flag comes; None: never."""
    over = np.flatnonzero(logits >= level)
    return float(run.loss[run.frame[over[0]]]) if len(over) else None


def _median(losses: Sequence[float | None]) -> float:
    return float(np.median([1.0 if loss is None else loss for loss in losses])) if losses else float("nan")


def _look_alikes(runs: Sequence[Witnessed], logits: Floats, level: float) -> str:
    """Undamaged runs flagged, by what else happened; a dimmed copy follows its run."""
    own = {id(run) for run, _ in of_each(runs, logits)}
    counts: dict[str, list[int]] = {}
    for run, values in of_each(runs, logits, copies=True):
        if run.damaged:
            continue
        name = run.look_alike.replace("_", " ") + ("" if id(run) in own else " (copies)")
        count = counts.setdefault(name, [0, 0])
        count[0] += bool((values >= level).any())
        count[1] += 1
    return "Undamaged flagged: " + ", ".join(f"{name} {a} of {b}" for name, (a, b) in sorted(counts.items())) + "."
