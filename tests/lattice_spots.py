"""Spots of lattices by closed-form geometry, without pixels: what indexing is tested on. Nothing of `triage.indexing` is used here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from triage.core import Cell, Run, RunHeader, RunKind, Spots
from triage.geometry import Geometry
from triage.spots import as_spots

Floats = npt.NDArray[np.float64]

CENTRINGS = {
    "P": ((0.0, 0.0, 0.0),),
    "C": ((0.5, 0.5, 0.0),),
    "I": ((0.5, 0.5, 0.5),),
    "F": ((0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5)),
    "R": ((2 / 3, 1 / 3, 1 / 3), (1 / 3, 2 / 3, 2 / 3)),
}


def run_of(*, beam_px: tuple[float, float] = (1060.0, 1030.0), rotation_deg: float = 0.0) -> Run:
    """An EIGER2 4M at 180 mm and 0.98 A: 1.6 A at the edge."""
    geometry = Geometry(wavelength_A=0.98, distance_mm=180.0, pixel_mm=(0.075, 0.075), beam_px=beam_px, shape_px=(2162, 2068))
    header = RunHeader(source="test", shape_px=(2162, 2068), omega_step_deg=rotation_deg)
    return Run(id="test", header=header, kind=RunKind.STILLS, geometry=geometry)


def turn(rng: np.random.Generator) -> Floats:
    """A random rotation by QR of Gaussian numbers."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def about(axis: Sequence[float], angle_deg: float) -> Floats:
    """A rotation about an axis, by the half-angle quaternion."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis) * np.sin(np.deg2rad(angle_deg) / 2)
    w = np.cos(np.deg2rad(angle_deg) / 2)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def axes_of(cell: Cell) -> Floats:
    """(3, 3): direct axes as rows, a along x and b in the x-y plane, from the law of cosines."""
    a, b, c, *angles = cell
    alpha, beta, gamma = np.deg2rad(angles)
    cx = c * np.cos(beta)
    cy = c * (np.cos(alpha) - np.cos(beta) * np.cos(gamma)) / np.sin(gamma)
    return np.array([[a, 0, 0], [b * np.cos(gamma), b * np.sin(gamma), 0], [cx, cy, np.sqrt(c * c - cx * cx - cy * cy)]])


def reflections(
    cell: Cell, orientation: Floats, geometry: Geometry, *, centring: str = "P", d_min_A: float = 2.0, mosaic_deg: float = 0.25
) -> Floats:
    """(n, 5): slow, fast, and g in 1/A of every point within `mosaic_deg` and 1/2000 A of the Ewald sphere that lands on the detector."""
    reciprocal = orientation @ np.linalg.inv(axes_of(cell))  # columns a*, b*, c*
    limits = [int(length / d_min_A) for length in cell[:3]]
    hkl = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in limits), indexing="ij"), axis=-1).reshape(-1, 3)
    for vector in CENTRINGS[centring]:
        phase = hkl @ np.asarray(vector)
        hkl = hkl[np.abs(phase - np.rint(phase)) < 1e-6]
    g = hkl @ reciprocal.T
    s = np.linalg.norm(g, axis=1)
    k1 = g + np.array([0.0, 0.0, 1.0 / geometry.wavelength_A])
    off = np.abs(np.linalg.norm(k1, axis=1) - 1.0 / geometry.wavelength_A)
    near = (s > 0.02) & (s < 1.0 / d_min_A) & (off < np.deg2rad(mosaic_deg) * s + 5e-4)
    positions = geometry.positions_px(k1[near])
    inside = ((positions > 5) & (positions < np.asarray(geometry.shape_px) - 5)).all(axis=1)
    return np.column_stack([positions[inside], g[near][inside]])


def lattice(
    cell: Cell,
    orientation: Floats,
    run: Run,
    rng: np.random.Generator,
    *,
    n: int = 120,
    centring: str = "P",
    noise_px: float = 0.3,
    mosaic_deg: float = 0.25,
) -> Floats:
    """(n, 2) positions of n of its spots, the inner ones likelier, with centroid errors."""
    assert run.geometry is not None
    found = reflections(cell, orientation, run.geometry, centring=centring, mosaic_deg=mosaic_deg)
    weight = np.exp(-8.0 * (found[:, 2:] ** 2).sum(axis=1))
    chosen = rng.choice(len(found), size=min(n, len(found)), replace=False, p=weight / weight.sum())
    return found[chosen, :2] + noise_px * rng.normal(size=(len(chosen), 2))


def outliers(run: Run, rng: np.random.Generator, n: int) -> Floats:
    """(n, 2) positions that have nothing to do with a lattice, denser towards the beam as spots are."""
    assert run.geometry is not None
    radius, angle = 900.0 * np.sqrt(rng.uniform(0.01, 1.0, n)), rng.uniform(0, 2 * np.pi, n)
    return np.asarray(run.geometry.beam_px) + radius[:, None] * np.column_stack([np.sin(angle), np.cos(angle)])


def spots_at(positions_px: Floats, run: Run, rng: np.random.Generator) -> Spots:
    """Spots at positions (n, 2), with intensities of no meaning."""
    intensity = 50.0 + 1000.0 * rng.exponential(size=len(positions_px))
    table = np.column_stack([positions_px, intensity, np.sqrt(intensity + 40.0), np.full((len(positions_px), 3), (1.0, 100.0, 9.0))])
    return as_spots(table.astype(np.float32), run)


def misfit(
    found_cell: Cell, found_orientation: Sequence[float], cell: Cell, orientation: Floats, *, centring: str = "P"
) -> tuple[float, float]:
    """(largest principal strain, rotation in deg) between a lattice found and the true one, modulo the choice of axes; inf for another.

    Every primitive vector found must be a primitive vector of the truth and the other way round.
    """

    def primitive(axes: Floats) -> Floats:
        vectors = np.array([axes @ np.eye(3)[k] for k in range(3)])
        extra = [np.asarray(vector) @ axes for vector in CENTRINGS[centring] if any(vector)]
        vectors = np.vstack([axes, *(row[None] for row in extra)]) if extra else vectors
        best, volume = axes, abs(np.linalg.det(axes))
        for i in range(len(vectors)):
            for j in range(i):
                for k in range(j):
                    v = abs(np.linalg.det(vectors[[i, j, k]]))
                    if 1e-6 < v < volume * 0.999:
                        best, volume = vectors[[i, j, k]], v
        return best

    true = primitive(axes_of(cell) @ orientation.T)
    found = primitive(axes_of(found_cell) @ np.asarray(found_orientation).reshape(3, 3).T)
    change = np.rint(found @ np.linalg.inv(true))
    if round(abs(np.linalg.det(change))) != 1:
        return np.inf, np.inf
    u, stretch, vt = np.linalg.svd(np.linalg.inv(change @ true) @ found)
    return float(np.abs(stretch - 1).max()), float(np.rad2deg(np.arccos(np.clip((np.trace(u @ vt) - 1) / 2, -1, 1))))
