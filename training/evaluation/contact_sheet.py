"""The frames a network judged worst, made again from their seeds and shown."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from training.dataset import scene_of, structures
from training.evaluation.document import Picture
from training.evaluation.frozen import SPLIT, FrozenSet, Predictions
from training.evaluation.measures import Bools, Floats
from training.evaluation.plots import png_of
from training.simulate.render import Rendered, render
from training.simulate.scene import Scene
from triage.binning import binned_statistics, edges, measured
from triage.core import NON_DIFFRACTION_KINDS

LOG = logging.getLogger(__name__)

_TILE_PX = 360
_COLUMNS = 5
_FLOOR_PERCENT, _TOP_PERCENT = 2.0, 99.8
_LEAST_RANGE = 1e-6
_UNMEASURED = ListedColormap(["#3c5a78"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing:
    """One way to be wrong."""

    name: str
    said: str
    """The probability that is wrong."""
    frames: list[int]
    """Positions in the frozen set, worst first."""
    probability: Floats


def worst(network: Predictions, labels: npt.NDArray[Any], number: int) -> list[Failing]:
    """The worst frames in equal parts of four kinds of error, so that the commonest does not hide the others; no frame twice."""
    lattices = labels["n_lattices"]
    kinds: tuple[tuple[str, str, Floats, Bools, bool], ...] = (
        ("second lattice missed", "multi-lattice", network.multi_lattice, lattices >= 2, True),
        ("second lattice imagined", "multi-lattice", network.multi_lattice, lattices == 1, False),
        ("diffraction imagined", "no diffraction", network.non_diffraction, lattices == 0, True),
        ("diffraction missed", "no diffraction", network.non_diffraction, lattices > 0, False),
    )
    found, taken = [], np.zeros(len(labels), dtype=bool)
    for part, (name, said, probability, group, should_be_high) in enumerate(kinds):
        share = number // len(kinds) + (part < number % len(kinds))
        badness = (1.0 - probability if should_be_high else probability) * (group & ~taken)
        frames = [int(k) for k in np.argsort(-badness, kind="stable")[:share] if badness[k] > 0]
        taken[frames] = True
        found.append(Failing(name=name, said=said, frames=frames, probability=probability))
    return found


def listed(frames: FrozenSet, failings: Sequence[Failing]) -> list[dict[str, Any]]:
    """What the worst frames are, for the JSON report; `index` with the seed makes the frame again."""
    return [
        {
            "error": failing.name,
            "index": int(frames.index[k]),
            "detector": str(frames.labels["detector"][k]),
            "meant": str(frames.labels["meant"][k]),
            "lattices": int(frames.labels["n_lattices"][k]),
            "probability": round(float(failing.probability[k]), 4),
        }
        for failing in failings
        for k in failing.frames
    ]


class Remaker:
    """Makes frames of a frozen set again, and tells when the simulator no longer makes the same ones."""

    def __init__(self, frames: FrozenSet) -> None:
        self._frames = frames
        self._crystals = structures(int(frames.recipe["seed"]), SPLIT)

    def __call__(self, position: int) -> tuple[Scene, Rendered] | None:
        """The scene and frame at a position in the set; None when its truth is not the one on record."""
        scene = scene_of(int(self._frames.recipe["seed"]), SPLIT, int(self._frames.index[position]), self._crystals)
        label = self._frames.labels[position]
        if (scene.detector, scene.kind) != (str(label["detector"]), str(label["meant"])):
            return None
        made = render(scene)
        same = (made.labels.n_lattices, made.labels.visible_spots) == (label["n_lattices"], label["visible_spots"])
        return (scene, made) if same else None


def sheets(
    frames: FrozenSet, failings: Sequence[Failing], remake: Callable[[int], tuple[Scene, Rendered] | None]
) -> tuple[list[Picture], int]:
    """One sheet for each kind of error, and how many frames could not be made again."""
    pictures, lost = [], 0
    for failing in failings:
        made = [(k, pair) for k in failing.frames if (pair := remake(k)) is not None]
        lost += len(failing.frames) - len(made)
        LOG.info("%s: %d frames made again", failing.name, len(made))
        if made:
            tiles = [(_tile(pair[1]), _caption(frames.labels[k], failing, float(failing.probability[k]))) for k, pair in made]
            caption = f"{failing.name}, worst first. Largest count of each block of pixels, logarithmic; blue: not measured."
            pictures.append(Picture(f"worst_{failing.name.replace(' ', '_')}", caption, _sheet(failing.name, tiles)))
    return pictures, lost


def _tile(made: Rendered) -> Floats:
    """The frame's counts, bin by bin the largest, on a logarithmic scale from 0 to 1; nan where nothing was measured."""
    pixels, mask, low, high = measured(made.counts, made.run)
    longest = max(made.counts.shape)
    slow, fast = (edges(size, max(1, size * _TILE_PX // longest)) for size in made.counts.shape)
    number, _, largest = binned_statistics(pixels, mask, low, high, slow, fast)
    seen = number > 0
    if not seen.any():
        return np.full(number.shape, np.nan)
    value = np.log1p(np.where(seen, largest - made.run.header.offset, 0.0).clip(0.0)).astype(np.float64)
    floor, top = np.percentile(value[seen], (_FLOOR_PERCENT, _TOP_PERCENT))
    return np.where(seen, ((value - floor) / max(float(top - floor), _LEAST_RANGE)).clip(0.0, 1.0), np.nan)


def _caption(label: Any, failing: Failing, probability: float) -> str:
    lattices = int(label["n_lattices"])
    if lattices == 0:
        truth = NON_DIFFRACTION_KINDS[int(label["kind"])]
    elif lattices == 1:
        truth = f"1 lattice, {label['visible_spots']} spots"
    else:
        truth = (
            f"{lattices} lattices, {label['visible_spots']} spots; second {label['second_visible']}\n"
            f"({label['second_separable']} apart), {label['separation_deg']:.3g}°, ratio {label['intensity_ratio']:.2g}"
        )
    return f"{label['detector']}, meant {label['meant']}\n{truth}\np({failing.said}) = {probability:.3f}"


def _sheet(title: str, tiles: list[tuple[Floats, str]]) -> bytes:
    rows = -(-len(tiles) // _COLUMNS)
    figure = Figure(figsize=(3.3 * _COLUMNS, 0.4 + 3.9 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (tile, caption) in zip(axes, tiles, strict=False):
        axis.imshow(tile, cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest")
        axis.imshow(np.where(np.isnan(tile), 1.0, np.nan), cmap=_UNMEASURED, interpolation="nearest")
        axis.set_title(caption, fontsize=7.5)
    figure.suptitle(title)
    return png_of(figure)
