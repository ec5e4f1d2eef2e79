"""What networks are worth on the frames of `benchmarks.pixelwise`: a table, and pictures of the frames judged worst."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.evaluation.measures import Bools, Floats, contrast, percentile_with_interval, reliability, with_interval
from triage.core import Judgement

LEAST_RATIO = 0.1
SPLITS_DEG = (2.0, 8.0)
WEAK_SPOTS = (8, 25)
WORST = 10
_TILE_PX = 420
_COLOURS = ("#0072b2", "#d55e00", "#009e73")
_BOOTSTRAPS = 500


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Said:
    """Truth and judgements of the same frames, in one order."""

    truths: Sequence[dict[str, Any]]
    judgements: dict[str, list[Judgement]]
    """By the name of the network."""

    def of(self, value: str) -> dict[str, Floats]:
        """(n,) one number of every judgement: `multi_lattice`, `non_diffraction` or `ice_rings`."""
        return {name: np.asarray([getattr(one, value) for one in found]) for name, found in self.judgements.items()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Facts:
    """Of every frame; all arrays (n,)."""

    lattices: npt.NDArray[np.int64]
    crystals: npt.NDArray[np.int64]
    """In the beam, whether they count or not."""
    visible: npt.NDArray[np.int64]
    """Spots of the strongest lattice."""
    ratio: Floats
    """Of the strongest further lattice that counts, as `separation_deg`; nan where none does."""
    separation_deg: Floats
    ice: Bools
    rotation: Bools
    detector: npt.NDArray[np.str_]
    d_min_A: Floats


def facts_of(truths: Sequence[dict[str, Any]]) -> Facts:
    """The truths as arrays."""
    second = [next((one for one in truth["lattices"][1:] if one["counts"]), None) for truth in truths]
    return Facts(
        lattices=np.asarray([truth["n_lattices"] for truth in truths]),
        crystals=np.asarray([len(truth["lattices"]) for truth in truths]),
        visible=np.asarray([truth["lattices"][0]["visible"] if truth["lattices"] else 0 for truth in truths]),
        ratio=np.asarray([np.nan if one is None else one["ratio"] for one in second]),
        separation_deg=np.asarray([np.nan if one is None else one["separation_deg"] for one in second]),
        ice=np.asarray([truth["ice_rings"] for truth in truths]),
        rotation=np.asarray([truth["rotation_deg"] > 0 for truth in truths]),
        detector=np.asarray([truth["detector"] for truth in truths]),
        d_min_A=np.asarray([np.nan if truth["d_min_A"] is None else truth["d_min_A"] for truth in truths]),
    )


def contrasts(facts: Facts) -> Iterator[tuple[str, str, Bools, Bools]]:
    """What is told from what: a name, the judgement asked, frames to be called, frames not to be."""
    one, several = facts.lattices == 1, (facts.lattices >= 2) & (facts.ratio >= LEAST_RATIO)
    multi = "multi_lattice"
    yield f"several lattices (ratio >= {LEAST_RATIO:g}) against one", multi, several, one
    yield "the same, against truly single crystals", multi, several, one & (facts.crystals == 1)
    small, large = SPLITS_DEG
    yield f"separation under {small:g} deg", multi, several & (facts.separation_deg < small), one
    middle = (facts.separation_deg >= small) & (facts.separation_deg < large)
    yield f"separation of {small:g} to {large:g} deg", multi, several & middle, one
    yield f"separation over {large:g} deg", multi, several & (facts.separation_deg >= large), one
    parts = {"stills": ~facts.rotation, "rotations": facts.rotation}
    parts |= {name: facts.detector == name for name in sorted(set(facts.detector))}
    for name, inside in parts.items():
        yield f"several lattices: {name}", multi, several & inside, one & inside
    none, some = facts.lattices == 0, facts.lattices > 0
    low, high = WEAK_SPOTS
    yield f"no lattice against >= {low} visible spots", "non_diffraction", none, some
    weak = some & (facts.visible >= low) & (facts.visible < high)
    yield f"no lattice against {low} to {high} visible spots", "non_diffraction", none, weak
    yield "ice rings", "ice_rings", facts.ice, ~facts.ice


def report(said: Said) -> str:
    """The tables, Markdown; 95 % bootstrap intervals over frames in brackets."""
    facts, names = facts_of(said.truths), list(said.judgements)
    columns = ["", "n + / -", f"{names[0]}: AUROC", "recall at 1 %"]
    columns += [cell for name in names[1:] for cell in (f"{name}: AUROC", "recall at 1 %", "first less this")]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for title, asked, positive, negative in contrasts(facts):
        chosen = positive | negative
        rows = contrast({name: scores[chosen] for name, scores in said.of(asked).items()}, positive[chosen])
        first = rows[names[0]]
        cells = [title, f"{first['n_positive']} / {first['n_negative']}", *_cells(first)]
        for name in names[1:]:
            cells += [*_cells(rows[name]), _interval(rows[name].get("first_minus_this"), signed=True)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_further(said, facts)]) + "\n"


def _cells(row: dict[str, Any]) -> tuple[str, str]:
    return _interval(row.get("auroc")), _interval(row.get("recall_at_1pc"))


def _interval(value: list[float] | None, *, signed: bool = False) -> str:
    if value is None:
        return "too few"
    return "{:+.3f} ({:+.3f} to {:+.3f})".format(*value) if signed else "{:.3f} ({:.3f}-{:.3f})".format(*value)


def _further(said: Said, facts: Facts) -> list[str]:
    """Calibration and the resolution limit."""
    multi, none, names = said.of("multi_lattice"), said.of("non_diffraction"), list(said.judgements)
    diffracts, single = facts.lattices > 0, facts.lattices == 1
    several, alone = facts.lattices[diffracts] >= 2, single & (facts.crystals == 1)
    share, everything = f"true share {several.mean():.3f}", np.ones(len(single), dtype=bool)
    rows = [
        ("mean p of several, one lattice", single, [_mean(multi[name][single]) for name in names]),
        ("the same, truly single crystals", alone, [_mean(multi[name][alone]) for name in names]),
        (f"the same, where there is a lattice ({share})", diffracts, [_mean(multi[name][diffracts]) for name in names]),
        ("ECE of several, the same frames", diffracts, [reliability(multi[name][diffracts], several).ece for name in names]),
        ("ECE of no lattice", everything, [reliability(none[name], ~diffracts).ece for name in names]),
    ]
    off = {name: _resolution_errors(said.judgements[name], facts) for name in names}
    for title, percent in (("median", 50.0), ("90th percentile", 90.0)):
        errors = [percentile_with_interval(off[name], percent) for name in names]
        rows.append((f"resolution limit, relative error: {title}", diffracts, errors))
    lines = [f"| | frames | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    return [*lines, *(f"| {title} | {inside.sum()} | {' | '.join(map(_interval, values))} |" for title, inside, values in rows)]


def _resolution_errors(judgements: Sequence[Judgement], facts: Facts) -> Floats:
    """Relative, of the frames with a limit that are not said to be empty."""
    stated = np.asarray([np.nan if one.resolution_A is None else one.resolution_A for one in judgements])
    off = np.abs(stated / facts.d_min_A - 1.0)
    return np.asarray(off[np.isfinite(off)])


def _mean(values: Floats) -> list[float]:
    drawn = values[np.random.default_rng(0).integers(0, len(values), (_BOOTSTRAPS, len(values)))]
    return with_interval(np.append(values.mean(), drawn.mean(axis=1)))


def worst(said: Said, name: str) -> dict[str, list[tuple[int, float]]]:
    """Of each sort of error the ten worst frames of one network, worst first, with the probability that is wrong."""
    facts = facts_of(said.truths)
    multi, none, ice = (said.of(asked)[name] for asked in ("multi_lattice", "non_diffraction", "ice_rings"))
    sorts: dict[str, tuple[Floats, Bools, bool]] = {
        "second lattice missed": (multi, (facts.lattices >= 2) & (facts.ratio >= LEAST_RATIO), True),
        "second lattice imagined": (multi, facts.lattices == 1, False),
        "diffraction missed": (none, facts.lattices > 0, False),
        "diffraction imagined": (none, facts.lattices == 0, True),
        "ice missed": (ice, facts.ice, True),
        "ice imagined": (ice, ~facts.ice, False),
    }
    found = {}
    for sort, (probability, group, should_be_high) in sorts.items():
        order = np.argsort(np.where(group, probability if should_be_high else -probability, np.inf), kind="stable")
        found[sort] = [(int(k), float(probability[k])) for k in order[: min(WORST, int(group.sum()))]]
    return found


def sheets(paths: Sequence[Path], said: Said, name: str) -> Iterator[tuple[str, bytes]]:
    """One PNG for each sort of error: the largest count of each block of pixels, visible spots of further lattices ringed."""
    for sort, frames in worst(said, name).items():
        figure = Figure(figsize=(26, 11), layout="constrained")
        for axes, (k, probability) in zip(figure.subplots(2, -(-WORST // 2)).ravel(), frames, strict=False):
            _draw(axes, paths[k])
            axes.set_title(f"{paths[k].stem}: p = {probability:.3f}\n{_caption(said.truths[k])}", fontsize=8)
        figure.suptitle(f"{name}: {sort}")
        content = BytesIO()
        figure.savefig(content, format="png", dpi=70)
        yield sort, content.getvalue()


def _draw(axes: Axes, path: Path) -> None:
    with np.load(path) as kept:
        counts = kept["counts"].astype(np.float64)
        spots = [kept[f"spots_{k}"] for k in range(3) if f"spots_{k}" in kept]
        counts[kept["counts"] == (-1 if kept["counts"].dtype == np.int32 else np.iinfo(kept["counts"].dtype).max)] = np.nan
    side = max(1, max(counts.shape) // _TILE_PX)
    slow, fast = (n // side for n in counts.shape)
    blocks = counts[: slow * side, : fast * side].reshape(slow, side, fast, side)
    tile = np.fmax.reduce(np.fmax.reduce(blocks, axis=3), axis=1)
    low, high = np.nanpercentile(tile, (5.0, 99.5))
    axes.imshow(tile, vmin=low, vmax=max(high, low + 3.0), cmap="gray_r", interpolation="nearest", extent=(0, fast * side, slow * side, 0))
    for k, centres in enumerate(spots):
        axes.scatter(centres[:, 1], centres[:, 0], s=25, facecolors="none", edgecolors=_COLOURS[k], linewidths=0.5)
    axes.set_axis_off()


def _caption(truth: dict[str, Any]) -> str:
    crystals = "; ".join(
        f"{one['visible']} ({one['separable']} apart) x{one['ratio']:.2f} {one['separation_deg']:.2f} deg" for one in truth["lattices"]
    )
    exposure = f"{truth['rotation_deg']:g} deg" if truth["rotation_deg"] else "still"
    ice = ", ice" if truth["ice_rings"] else ""
    return f"{truth['detector']}, {exposure}{ice}, {truth['background']:.2g} photons/px, {truth['n_lattices']} lattices\n{crystals}"
