"""Unit cells of a run: the comparison of lattices, clusters, consensus, drift."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from lattice_spots import axes_of

from triage.cells import UnitCells, reduced, voronoi_lengths
from triage.core import Cell

LYSOZYME: Cell = (78.9, 78.9, 37.1, 90.0, 90.0, 90.0)


def test_voronoi_lengths_of_an_orthorhombic_cell() -> None:
    """Closed form: edges and face diagonals, and the body's diagonal in place of none: a box has them all as Voronoi vectors."""
    a, b, c = 30.0, 40.0, 50.0
    lengths = voronoi_lengths((a, b, c, 90.0, 90.0, 90.0), "oP")
    expected = sorted([a, b, c, np.hypot(a, b), np.hypot(a, c), np.hypot(b, c), np.sqrt(a * a + b * b + c * c)])
    np.testing.assert_allclose(lengths, expected)


def test_voronoi_lengths_are_the_shortest_of_their_classes() -> None:
    """Voronoi vectors are the shortest of each class of the lattice modulo twice the lattice (Conway & Sloane, 1992)."""
    cell: Cell = (48.0, 61.0, 74.0, 81.0, 97.0, 105.0)
    axes, least = axes_of(cell), {}
    for index in itertools.product(range(-4, 5), repeat=3):
        parity = tuple(x % 2 for x in index)
        if any(parity):
            least[parity] = min(least.get(parity, np.inf), float(np.linalg.norm(np.asarray(index) @ axes)))
    np.testing.assert_allclose(voronoi_lengths(cell), sorted(least.values()))


def test_a_centred_cell_and_its_primitive_one_are_the_same_lattice() -> None:
    conventional: Cell = (96.0, 58.0, 71.0, 90.0, 110.0, 90.0)
    np.testing.assert_allclose(voronoi_lengths(conventional, "mC"), voronoi_lengths(reduced(conventional, "mC")), rtol=1e-6)
    assert np.linalg.det(axes_of(reduced(conventional, "mC"))) == pytest.approx(np.linalg.det(axes_of(conventional)) / 2)


def test_the_consensus_is_the_median_of_the_largest_cluster() -> None:
    rng, cells = np.random.default_rng(1), UnitCells()
    for frame in range(60):
        if frame % 6 == 5:
            cells.add(frame, (61.0, 84.0, 112.0, 90.0, 90.0, 90.0), "oP")
        else:
            a, c = 78.9 * (1 + 0.004 * rng.normal()), 37.1 * (1 + 0.004 * rng.normal())
            cells.add(frame, (a, a, c, 90.0, 90.0, 90.0), "tP")
    first, second = cells.clusters()
    assert (first.n, second.n) == (50, 10)
    assert first.share == pytest.approx(50 / 60)
    assert first.bravais == "tP"
    assert np.abs(np.asarray(first.cell) / LYSOZYME - 1).max() < 0.002
    consensus = cells.consensus()
    assert consensus is not None
    assert sorted(consensus[:3]) == pytest.approx(sorted(LYSOZYME[:3]), rel=0.002)


def test_no_consensus_before_three_agree() -> None:
    cells = UnitCells()
    assert cells.consensus() is None
    for frame, edge in enumerate((40.0, 50.0, 60.0, 40.1)):
        cells.add(frame, (edge, edge, edge, 90.0, 90.0, 90.0), "cP")
    assert cells.consensus() is None
    cells.add(5, (39.9, 39.9, 39.9, 90.0, 90.0, 90.0), "cP")
    assert cells.consensus() == pytest.approx((40.0, 40.0, 40.0, 90.0, 90.0, 90.0))


def test_a_lattice_near_a_border_of_reduction_is_one_cluster() -> None:
    """a and b cross: axes change places, the lattice hardly changes."""
    rng, cells = np.random.default_rng(2), UnitCells()
    for frame in range(40):
        a, b = 60.0 + 0.3 * rng.normal(), 60.2 + 0.3 * rng.normal()
        gamma = 90.0 + 0.5 * rng.normal()
        cells.add(frame, (min(a, b), max(a, b), 75.0, 90.0, 90.0, gamma))
    assert len(cells.clusters()) == 1


def test_drift_is_the_slope_of_the_cell() -> None:
    rng, cells = np.random.default_rng(3), UnitCells()
    for frame in range(200):
        grown = 1.0 + 5e-6 * frame + 2e-4 * rng.normal()  # half a per cent in 1000 frames
        cells.add(frame, tuple(x * grown for x in LYSOZYME[:3]) + LYSOZYME[3:], "tP")  # type: ignore[arg-type]
    drift = cells.clusters()[0].drift
    assert drift is not None
    assert drift.percent_per_1000_frames == pytest.approx(0.5, abs=4 * drift.sigma)
    assert 0 < drift.sigma < 0.1


def test_memory_is_bounded() -> None:
    rng, cells = np.random.default_rng(4), UnitCells()
    for frame in range(300):
        a, b, c = np.exp(rng.normal(4.2, 0.5, 3))
        cells.add(frame, (a, b, c, 90.0, 90.0, 90.0), "oP")
    assert len(cells.clusters()) <= 24
    for frame in range(1000):
        cells.add(frame, LYSOZYME, "tP")
    assert cells.clusters()[0].n >= 1000
    assert cells.clusters()[0].share == pytest.approx(1000 / 1300, abs=0.02)
