"""Whether a lattice found is a lattice drawn."""

from __future__ import annotations

import gemmi
import numpy as np
import numpy.typing as npt

from training.simulate.diffraction import Lattice
from triage.core import Solution

CELL_WITHIN, ORIENTATION_WITHIN_DEG = 0.02, 0.5
Floats = npt.NDArray[np.float64]


def direct_axes(orientation: npt.ArrayLike, cell: tuple[float, ...], centring: str) -> Floats:
    """(3, 3): primitive direct vectors, rows, in A, of a conventional cell in an orientation."""
    unit_cell = gemmi.UnitCell(*cell)
    rotation = np.asarray(orientation).reshape(3, 3)
    primitive = np.asarray(unit_cell.primitive_orth_matrix(centring).tolist())  # columns: primitive vectors
    return np.asarray((rotation @ primitive).T)


def misfit(found: Floats, drawn: Floats) -> tuple[float, float]:
    """(largest principal strain, rotation in deg) that take one lattice into another, each its primitive direct axes (3, 3; rows).

    Infinite where they are not the same lattice: a change of axes is of whole numbers and keeps the volume.
    """
    change = np.rint(found @ np.linalg.inv(drawn))
    if round(abs(float(np.linalg.det(change)))) != 1:
        return np.inf, np.inf
    u, stretches, vt = np.linalg.svd(np.linalg.inv(change @ drawn) @ found)
    cosine = (float(np.trace(u @ vt)) * np.sign(np.linalg.det(u @ vt)) - 1.0) / 2.0
    return float(np.abs(stretches - 1.0).max()), float(np.rad2deg(np.arccos(np.clip(cosine, -1.0, 1.0))))


def is_right(solution: Solution, truth: Lattice) -> bool:
    """Within 2 % in the reduced cell and 0.5 deg in orientation, modulo the rotations of the lattice."""
    group = gemmi.SpaceGroup(truth.crystal.space_group)
    centring = "P" if group.ext == "R" else group.centring_type()
    drawn = direct_axes(truth.orientation, truth.crystal.cell, centring)
    strain, turned_deg = misfit(direct_axes(solution.orientation, solution.cell, solution.bravais[1]), drawn)
    return strain < CELL_WITHIN and turned_deg < ORIENTATION_WITHIN_DEG
