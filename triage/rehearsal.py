"""Spots of a lattice nobody measured: what an indexer is given before its first frame, so that its loops are compiled by then."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from triage.core import Cell, Indexer, Run, RunHeader, Spots
from triage.geometry import Geometry
from triage.spots import as_spots

Floats = npt.NDArray[np.float64]

CELL: Cell = (38.0, 47.0, 56.0, 90.0, 90.0, 90.0)
GEOMETRY = Geometry(wavelength_A=1.0, distance_mm=120.0, pixel_mm=(0.15, 0.15), beam_px=(512.0, 500.0), shape_px=(1024, 1024))
RUN = Run(id="rehearsal", header=RunHeader(source="rehearsal", shape_px=GEOMETRY.shape_px), kind=None, geometry=GEOMETRY)
_BEAM_ELSEWHERE = replace(RUN, geometry=replace(GEOMETRY, beam_px=(536.0, 487.0)))
_D_MIN_A = 2.2
_EXCITATION_PER_A = 0.0012  # how far from the Ewald sphere a point still diffracts
_TURNS = ((0.41, 0.23, -0.31), (-0.52, 0.37, 0.28))  # Rodrigues vectors of two lattices


def rehearse(indexer: Indexer) -> None:
    """Indexes one lattice and two, without a cell and with one, and one where the header has the beam elsewhere."""
    one = _spots(_TURNS[:1])
    indexer.index(one, RUN)
    indexer.index(one, RUN, cells=(CELL,))
    indexer.index(_spots(_TURNS), RUN)
    indexer.index(one, _BEAM_ELSEWHERE)


def _spots(turns: tuple[tuple[float, float, float], ...]) -> Spots:
    positions = np.concatenate([_positions_px(np.asarray(turn)) for turn in turns])
    n = len(positions)
    intensity = np.linspace(2_000.0, 100.0, n)
    columns = (intensity, np.sqrt(intensity), np.ones(n), intensity / 4.0, np.full(n, 6.0))
    return as_spots(np.column_stack([positions, *columns]).astype(np.float32), RUN)


def _positions_px(turn: Floats) -> Floats:
    """Where a right-angled lattice of CELL, turned so, diffracts: (n, 2)."""
    most = [int(edge / _D_MIN_A) for edge in CELL[:3]]
    h = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij"), axis=-1).reshape(-1, 3)
    g = (h / np.asarray(CELL[:3])) @ _rotation(turn).T
    s1 = g + np.array([0.0, 0.0, 1.0 / GEOMETRY.wavelength_A])
    length = np.linalg.norm(g, axis=1)
    near = np.abs(np.linalg.norm(s1, axis=1) - 1.0 / GEOMETRY.wavelength_A) < _EXCITATION_PER_A
    at = GEOMETRY.positions_px(s1[near & (length > 0) & (length < 1.0 / _D_MIN_A)])
    inside = np.isfinite(at).all(axis=1) & (at > 0).all(axis=1) & (at < GEOMETRY.shape_px).all(axis=1)
    return np.asarray(at[inside], dtype=np.float64)


def _rotation(turn: Floats) -> Floats:
    """The rotation of a Rodrigues vector, by Cayley's formula."""
    x, y, z = turn
    skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.asarray(np.linalg.solve(np.eye(3) - skew, np.eye(3) + skew))
