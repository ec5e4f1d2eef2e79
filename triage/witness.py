"""The classical witness of one run: outcomes of the slow lane become indexing records, joined with what the network said."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from triage.beam import BeamCentres
from triage.cells import SAME_WITHIN, CellCluster, UnitCells, voronoi_lengths
from triage.core import Agreement, Cell, CellShare, Indexed, Indexing, IndexingStatus, Judgement, Solution
from triage.slow_lane import Known, Outcome

SEVERAL_AT = 0.5
"""The network says several lattices from this probability on."""

_LEAST_TO_TELL = 10  # indexed frames, before one can be called unlike the others
_LEAST_OF_A_CLUSTER = 3
_MOST_SHARES = 4
_LEAST_SHIFT_PX = 2.0
"""Of the beam from where it is stated: less, the fit of any lattice finds by itself."""

Fuse = Callable[[float, Indexed, int], float]
"""The network's probability, what indexing said, and the number of spots off the ice rings, to the fused probability."""


class CellTracker(Protocol):
    """The unit cells of a run, clustered as they come."""

    def add(self, frame: int, solution: Solution) -> bool | None:
        """Takes a frame's first lattice; tells whether it is of another cluster than the largest, None where that cannot be told."""
        ...

    @property
    def shares(self) -> tuple[CellShare, ...]:
        """The clusters so far, largest first."""
        ...

    @property
    def consensus(self) -> Cell | None:
        """The cell worth trying first on later frames; None while there is none."""
        ...


class RunCells:
    """The unit cells of a run by `triage.cells`: how many frames have which, and whether a frame's is another than most frames have."""

    def __init__(self) -> None:
        self._cells = UnitCells()
        self._n = 0
        self._shares: tuple[CellShare, ...] | None = ()

    def add(self, frame: int, solution: Solution) -> bool | None:
        """Takes a frame's first lattice. A cell that fewer than three frames share may be a wrong lattice, so it says nothing."""
        self._n += 1
        self._shares = None
        self._cells.add(frame, solution.cell, solution.bravais)
        shared = [share for share in self.shares if share.n >= _LEAST_OF_A_CLUSTER]
        if self._n < _LEAST_TO_TELL or not shared:
            return None
        lengths = voronoi_lengths(solution.cell, solution.bravais)
        apart = [float(np.abs(voronoi_lengths(share.cell, share.bravais) / lengths - 1.0).max()) for share in shared]
        nearest = min(range(len(apart)), key=lambda k: apart[k])
        return nearest > 0 if apart[nearest] <= SAME_WITHIN else None

    @property
    def shares(self) -> tuple[CellShare, ...]:
        """The largest clusters, largest first."""
        if self._shares is None:
            self._shares = tuple(_share(cluster) for cluster in self._cells.clusters()[:_MOST_SHARES])
        return self._shares

    @property
    def consensus(self) -> Cell | None:
        """The reduced cell of the largest cluster; None before three frames agree."""
        return self._cells.consensus()


def _share(cluster: CellCluster) -> CellShare:
    drift = cluster.drift
    significant = drift is not None and abs(drift.percent_per_1000_frames) > 3.0 * drift.sigma
    return CellShare(
        cell=cluster.cell,
        bravais=cluster.bravais,
        n=cluster.n,
        share=cluster.share,
        drift_percent_per_1000_frames=drift.percent_per_1000_frames if drift is not None and significant else None,
    )


class Witness:
    """One run's classical witness."""

    def __init__(self, cells: CellTracker | None = None, fuse: Fuse | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Without `fuse`, the network's probability stands."""
        self._cells, self._fuse, self._clock = cells, fuse, clock
        self._beam = BeamCentres()
        self.n_indexed = 0

    @property
    def known(self) -> Known:
        """The run's own cell and beam centre, once frames agree on them."""
        beam = self._beam.agreed()
        return Known(
            cell=None if self._cells is None else self._cells.consensus,
            beam_shift_px=None if beam is None or math.hypot(*beam.shift_px) < _LEAST_SHIFT_PX else beam.shift_px,
        )

    def record(self, outcome: Outcome) -> Indexing:
        """The record of a frame's outcome; called once a frame."""
        indexed, is_outlier = outcome.indexed, None
        shares: tuple[CellShare, ...] = ()
        if indexed.status is IndexingStatus.INDEXED:
            self.n_indexed += 1
            if indexed.solutions:
                self._beam.add(outcome.frame, indexed.beam_shift_px, indexed.solutions[0].n_indexed)
            if self._cells is not None and indexed.solutions:
                is_outlier = self._cells.add(outcome.frame, indexed.solutions[0])
                shares = self._cells.shares
        return Indexing(
            run_id=outcome.run_id,
            frame=outcome.frame,
            engine=outcome.engine,
            indexed=indexed,
            multi_lattice=self._fused(outcome),
            agreement=agreement(outcome.judgement, indexed),
            cells=shares,
            is_outlier=is_outlier,
            latency_ms=max(0.0, 1000.0 * (self._clock() - outcome.arrived_s)),
        )

    def _fused(self, outcome: Outcome) -> float | None:
        if outcome.judgement is None:
            return None
        p = outcome.judgement.multi_lattice
        return p if self._fuse is None else self._fuse(p, outcome.indexed, outcome.n_spots)


def agreement(judgement: Judgement | None, indexed: Indexed) -> Agreement | None:
    """Whether both witnesses say the same of several lattices; None where one of them says nothing."""
    if judgement is None or indexed.status is not IndexingStatus.INDEXED:
        return None
    network, classical = judgement.multi_lattice >= SEVERAL_AT, len(indexed.solutions) > 1
    if network == classical:
        return Agreement.AGREES
    return Agreement.NETWORK_ONLY if network else Agreement.CLASSICAL_ONLY
