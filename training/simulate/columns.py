"""The truth of a file's frames as columns: one array a quantity, the first axis the frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from training.simulate.diffraction import Lattice
from training.simulate.render import Labels, LatticeTruth
from training.simulate.scene import Scene

MOST_LATTICES = 4
"""Columns named `lattice_` have this many places a frame, strongest lattice first. Empty places: nan, no spots, no text."""
Column = npt.NDArray[Any]

_UNITS = {"_A": "angstrom", "_A2": "angstrom^2", "_deg": "deg"}


def units_of(name: str) -> str | None:
    """The unit that a column's name ends in, as NeXus writes it; None for numbers without one."""
    return next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), None)


def columns(scenes: Sequence[Scene], labels: Sequence[Labels]) -> dict[str, Column]:
    """Label columns by name, in the words of the label store, and what was drawn; `scene` holds every parameter as JSON."""
    return {
        "n_lattices": np.array([label.n_lattices for label in labels], dtype=np.int8),
        "diffracts": np.array([label.n_lattices > 0 for label in labels]),
        "non_diffraction_kind": _text([label.non_diffraction_kind or "" for label in labels]),
        "ice_rings": np.array([label.ice_rings for label in labels]),
        "d_min_A": np.array([np.nan if label.d_min_A is None else label.d_min_A for label in labels], dtype=np.float32),
        "visible_spots": np.array([label.visible_spots for label in labels], dtype=np.int32),
        "background": np.array([label.background for label in labels], dtype=np.float32),
        "photons": np.array([label.photons for label in labels], dtype=np.float32),
        "rotation_deg": np.array([scene.beam.rotation_deg for scene in scenes]),
        "drawn_as": _text([scene.kind for scene in scenes]),
        "lattices_drawn": np.array([len(scene.lattices) for scene in scenes], dtype=np.int8),
        **_truth_columns(labels),
        **_lattice_columns(scenes),
        "scene": _text([scene.to_json() for scene in scenes]),
    }


def _text(values: Sequence[str]) -> Column:
    return np.array(values, dtype=object)


def _truth_columns(labels: Sequence[Labels]) -> dict[str, Column]:
    """What can be seen of each lattice."""
    rows = [label.lattices for label in labels]
    whole: dict[str, Callable[[LatticeTruth], int]] = {
        "lattice_visible_spots": lambda truth: truth.visible_spots,
        "lattice_separable_spots": lambda truth: truth.separable_spots,
    }
    real: dict[str, Callable[[LatticeTruth], float]] = {
        "lattice_separation_deg": lambda truth: truth.separation_deg,
        "lattice_intensity_ratio": lambda truth: truth.intensity_ratio,
    }
    found = {name: _padded([[take(x) for x in row] for row in rows], 0).astype(np.int32) for name, take in whole.items()}
    return found | {name: _padded([[take(x) for x in row] for row in rows], np.nan) for name, take in real.items()}


def _lattice_columns(scenes: Sequence[Scene]) -> dict[str, Column]:
    """What each lattice is."""
    rows = [scene.lattices for scene in scenes]
    takes: dict[str, Callable[[Lattice], object]] = {
        "lattice_orientation": lambda lattice: lattice.orientation,
        "lattice_mosaicity_deg": lambda lattice: lattice.mosaicity_deg,
        "lattice_domain_A": lambda lattice: lattice.domain_A,
        "lattice_cell": lambda lattice: lattice.crystal.cell,
        "lattice_b_factor_A2": lambda lattice: lattice.crystal.b_factor_A2,
    }
    empty: dict[str, object] = {"lattice_orientation": (np.nan,) * 9, "lattice_cell": (np.nan,) * 6}
    found = {name: _padded([[take(x) for x in row] for row in rows], empty.get(name, np.nan)) for name, take in takes.items()}
    names = [[lattice.crystal.space_group for lattice in row] for row in rows]
    return {"lattice_space_group": _padded(names, "").astype(object), **found}


def _padded(rows: Sequence[Sequence[object]], empty: object) -> Column:
    """(frames, MOST_LATTICES, ...): each row filled up with `empty`."""
    return np.array([[*row, *[empty] * (MOST_LATTICES - len(row))] for row in rows])
