"""The unit cells of a run, clustered as they come: are the crystals isomorphous, and does the cell drift.

Two lattices are compared by the lengths of their seven Voronoi vectors, sorted (Andrews, Bernstein & Sauter, Acta Cryst. A75 (2019) 115
and 593): they do not jump where a reduced cell's axes change places, and they need no choice of setting. Memory is bounded: a cluster
keeps its last cells, and there are at most so many clusters.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import gemmi
import numpy as np
import numpy.typing as npt

from triage.core import Cell

Floats = npt.NDArray[np.float64]

SAME_WITHIN = 0.03
"""Largest relative difference of sorted Voronoi lengths within a cluster: cells of stills scatter by 1 to 2 %."""
_KEPT = 400
"""Last cells of a cluster."""
_MOST_CLUSTERS = 24
_LEAST_FOR_CONSENSUS = 3
_LEAST_FOR_DRIFT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CellDrift:
    """How a cluster's cell changes with the frame number."""

    percent_per_1000_frames: float
    """Of the cube root of the volume."""
    sigma: float
    """Standard error of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellCluster:
    """Cells of a run that are one cell."""

    cell: Cell
    """Median conventional cell of the commonest Bravais type."""
    bravais: str
    reduced: Cell
    """Its Niggli cell."""
    n: int
    """How many lattices had it."""
    share: float
    """Of all lattices of the run."""
    drift: CellDrift | None
    """None where there are too few."""


@dataclass(frozen=True, slots=True)
class _Seen:
    frame: int
    cell: Cell
    bravais: str
    lengths: Floats


@dataclass(slots=True)
class _Members:
    n: int = 0
    last: deque[_Seen] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def median(self) -> Floats:
        return np.median([seen.lengths for seen in self.last], axis=0)


class UnitCells:
    """The cells of one run, fed in any order."""

    def __init__(self, same_within: float = SAME_WITHIN) -> None:
        self._same_within = same_within
        self._clusters: list[_Members] = []
        self._total = 0

    def add(self, frame: int, cell: Cell, bravais: str = "aP") -> None:
        """One lattice of a frame: its conventional cell and Bravais type."""
        self._total += 1
        seen = _Seen(frame, cell, bravais, voronoi_lengths(cell, bravais))
        nearest, distance = None, np.inf
        for members in self._clusters:
            apart = float(np.abs(members.median() / seen.lengths - 1.0).max())
            if apart < distance:
                nearest, distance = members, apart
        if nearest is None or distance > self._same_within:
            nearest = _Members()
            self._clusters.append(nearest)
        nearest.n += 1
        nearest.last.append(seen)
        self._clusters.sort(key=lambda members: -members.n)
        if len(self._clusters) > _MOST_CLUSTERS:  # the new one stays, of the older ones the smallest goes
            self._clusters.remove(min((m for m in self._clusters if m is not nearest), key=lambda m: m.n))

    def clusters(self) -> tuple[CellCluster, ...]:
        """Largest first."""
        return tuple(_cluster(members, self._total) for members in self._clusters)

    def consensus(self) -> Cell | None:
        """The reduced cell of the largest cluster, to be given to an indexer; None before three lattices agree."""
        if not self._clusters or self._clusters[0].n < _LEAST_FOR_CONSENSUS:
            return None
        return _cluster(self._clusters[0], self._total).reduced


def voronoi_lengths(cell: Cell, bravais: str = "aP") -> Floats:
    """Lengths (7,) in A, shortest first, of the vectors to the faces of a lattice's Voronoi cell (conventional cell, Pearson letters)."""
    selling = gemmi.GruberVector(gemmi.UnitCell(*cell), bravais[1]).selling()
    selling.reduce()
    bc, ac, ab, ad, bd, cd = selling.parameters
    squares = [-(ab + ac + ad), -(ab + bc + bd), -(ac + bc + cd), -(ad + bd + cd)]
    squares += [squares[0] + squares[1] + 2 * ab, squares[1] + squares[2] + 2 * bc, squares[0] + squares[2] + 2 * ac]
    return np.sqrt(np.sort(squares))


def reduced(cell: Cell, bravais: str = "aP") -> Cell:
    """The Niggli cell of a lattice by its conventional cell and Pearson letters."""
    gruber = gemmi.GruberVector(gemmi.UnitCell(*cell), bravais[1])
    gruber.niggli_reduce()
    a, b, c, alpha, beta, gamma = (float(x) for x in gruber.cell_parameters())
    return (a, b, c, alpha, beta, gamma)


def _cluster(members: _Members, total: int) -> CellCluster:
    bravais = Counter(seen.bravais for seen in members.last).most_common(1)[0][0]
    cell = _median(seen.cell for seen in members.last if seen.bravais == bravais)
    return CellCluster(
        cell=cell,
        bravais=bravais,
        reduced=reduced(cell, bravais),
        n=members.n,
        share=members.n / total,
        drift=_drift(members.last),
    )


def _median(cells: Iterable[Cell]) -> Cell:
    """Median of each parameter over the cells in the setting of most of them."""
    table = np.array(list(cells))  # (n, 6)
    middle = np.median(table, axis=0)
    alike = np.abs(table / middle - 1.0).max(axis=1) < 2.0 * SAME_WITHIN
    a, b, c, alpha, beta, gamma = (float(x) for x in np.median(table[alike] if alike.any() else table[-1:], axis=0))
    return (a, b, c, alpha, beta, gamma)


def _drift(seen: Iterable[_Seen]) -> CellDrift | None:
    """Least squares of the mean Voronoi length, which scales with the cell, on the frame number."""
    pairs = [(one.frame, float(one.lengths.mean())) for one in seen]
    if len(pairs) < _LEAST_FOR_DRIFT:
        return None
    frames, sizes = np.array(pairs, dtype=np.float64).T
    x, y = frames - frames.mean(), 100.0 * (sizes / np.median(sizes) - 1.0)
    spread = float(x @ x)
    if spread == 0.0:
        return None
    slope = float(x @ y) / spread
    left = y - y.mean() - slope * x
    return CellDrift(percent_per_1000_frames=1000.0 * slope, sigma=1000.0 * float(np.sqrt(left @ left / (len(x) - 2) / spread)))
