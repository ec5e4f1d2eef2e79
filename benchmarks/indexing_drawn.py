"""Predicted against found spots of frames, to be looked at."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from benchmarks.indexing_truth import direct_axes
from training.simulate.diffraction import Lattice
from triage.core import Indexed, Run, Spots
from triage.geometry import Geometry

_WITHIN_DEG = 0.3  # of the Ewald sphere, for a point to be drawn


def predicted(axes: npt.NDArray[np.float64], geometry: Geometry, d_min_A: float) -> npt.NDArray[np.float64]:
    """(n, 2) positions of the points of a lattice (direct axes as rows, A) near the Ewald sphere."""
    reciprocal = np.linalg.inv(axes)
    limits = np.minimum(np.ceil(np.linalg.norm(axes, axis=1) / d_min_A).astype(int), 120)
    hkl = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in limits), indexing="ij"), axis=-1).reshape(-1, 3)
    g = hkl @ reciprocal.T
    s = np.linalg.norm(g, axis=1)
    k1 = g + np.array([0.0, 0.0, 1.0 / geometry.wavelength_A])
    off = np.abs(np.linalg.norm(k1, axis=1) - 1.0 / geometry.wavelength_A)
    near = (s > 0.01) & (s < 1.0 / d_min_A) & (off < np.deg2rad(_WITHIN_DEG) * s + 3e-4)
    return np.asarray(geometry.positions_px(k1[near]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panel:
    """One frame to be drawn."""

    spots: Spots
    run: Run
    indexed: Indexed
    truth: Lattice | None = None
    """The lattice that was drawn, where it is known."""
    title: str = ""


def draw(panels: Sequence[Panel], path: Path) -> None:
    """A sheet of frames that have a geometry, two in a row: found spots, points of each solution, and of the truth where there is one."""
    drawn = [panel for panel in panels if panel.run.geometry is not None and panel.spots.inverse_d_per_A is not None]
    if not drawn:
        return
    columns = min(len(drawn), 2)
    rows = -(-len(drawn) // columns)
    side = 11.0 if columns == 1 else 7.0
    figure, axes = plt.subplots(rows, columns, figsize=(side * columns, side * rows), dpi=110 if columns == 1 else 80, squeeze=False)
    for place, panel in itertools.zip_longest(axes.ravel(), drawn):
        if panel is None:
            place.set_axis_off()
        else:
            _draw(place, panel)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


def _draw(axes: Axes, panel: Panel) -> None:
    """Found spots in grey (blue on ice rings), points of each solution as rings, of the truth as crosses."""
    geometry, spots, indexed, truth = panel.run.geometry, panel.spots, panel.indexed, panel.truth
    if geometry is None or spots.inverse_d_per_A is None:
        raise ValueError("a frame without a geometry cannot be drawn")
    d_min = 1.0 / float(np.percentile(spots.inverse_d_per_A, 98))
    colours = np.where(spots.on_ice, "tab:blue", "0.35")
    axes.scatter(spots.positions_px[:, 1], spots.positions_px[:, 0], s=12, c=colours)
    for k, solution in enumerate(indexed.solutions):
        at = predicted(direct_axes(solution.orientation, solution.cell, solution.bravais[1]), geometry, d_min)
        cell = " ".join(f"{x:.1f}" for x in solution.cell)
        label = f"{solution.bravais} {cell}, {solution.n_indexed} spots"
        axes.scatter(at[:, 1], at[:, 0], s=60 + 25 * k, facecolors="none", edgecolors=f"C{k + 1}", linewidths=0.7, label=label)
    if truth is not None:
        centring = truth.crystal.space_group[0].replace("H", "R")
        at = predicted(direct_axes(truth.orientation, truth.crystal.cell, centring), geometry, d_min)
        cell = " ".join(f"{x:.1f}" for x in truth.crystal.cell)
        axes.scatter(at[:, 1], at[:, 0], s=30, marker="+", c="black", linewidths=0.5, label=f"drawn: {truth.crystal.space_group} {cell}")
    axes.set(xlim=(0, geometry.shape_px[1]), ylim=(geometry.shape_px[0], 0), xlabel="fast, px", ylabel="slow, px", aspect="equal")
    axes.set_title(panel.title, fontsize=10)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", fontsize=8)
