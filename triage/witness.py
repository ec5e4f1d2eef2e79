"""The classical witness of one run: outcomes of the slow lane become indexing records, joined with what the network said."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from triage.core import Agreement, Cell, CellCluster, Indexed, Indexing, IndexingStatus, Judgement, Solution
from triage.slow_lane import Outcome

SEVERAL_AT = 0.5
"""The network says several lattices from this probability on."""

Fuse = Callable[[float, Indexed, int], float]
"""The network's probability, what indexing said, and the number of spots off the ice rings, to the fused probability."""


class CellTracker(Protocol):
    """The unit cells of a run, clustered as they come."""

    def add(self, frame: int, solution: Solution) -> bool | None:
        """Takes a frame's first lattice; tells whether it lies outside the run's largest cluster, None while that cannot be told."""
        ...

    @property
    def clusters(self) -> tuple[CellCluster, ...]:
        """The clusters so far, largest first."""
        ...

    @property
    def consensus(self) -> Cell | None:
        """The cell worth trying first on later frames; None while there is none."""
        ...


class Witness:
    """One run's classical witness."""

    def __init__(self, cells: CellTracker | None = None, fuse: Fuse | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Without `fuse`, the network's probability stands."""
        self._cells, self._fuse, self._clock = cells, fuse, clock
        self.n_indexed = 0

    @property
    def consensus(self) -> Cell | None:
        """The run's own cell, once it is known."""
        return None if self._cells is None else self._cells.consensus

    def record(self, outcome: Outcome) -> Indexing:
        """The record of a frame's outcome; called once a frame."""
        indexed, is_outlier = outcome.indexed, None
        clusters: tuple[CellCluster, ...] = ()
        if indexed.status is IndexingStatus.INDEXED:
            self.n_indexed += 1
            if self._cells is not None and indexed.solutions:
                is_outlier = self._cells.add(outcome.frame, indexed.solutions[0])
                clusters = self._cells.clusters
        return Indexing(
            run_id=outcome.run_id,
            frame=outcome.frame,
            engine=outcome.engine,
            indexed=indexed,
            multi_lattice=self._fused(outcome),
            agreement=agreement(outcome.judgement, indexed),
            cells=clusters,
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
