"""Indexers that do what the first spot's intensity tells them, in processes of their own; and frames for them. No network, no pixels."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from synthetic import GEOMETRY

from triage.core import (
    Cell,
    Indexed,
    IndexingStatus,
    Judgement,
    Run,
    RunHeader,
    RunKind,
    Solution,
    Spots,
    SpotSummary,
    TriageError,
    Verdict,
)

ONE, TWO, NONE, RAISE, HANG, DIE, SLOW = (float(n) for n in range(1, 8))
CELL: Cell = (50.0, 60.0, 70.0, 90.0, 90.0, 90.0)


def solution(n_indexed: int = 30, cell: Cell = CELL) -> Solution:
    return Solution(
        cell=cell,
        bravais="oP",
        space_group=None,
        n_indexed=n_indexed,
        fraction_indexed=n_indexed / 40,
        orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )


def one(cell: Cell = CELL) -> Indexed:
    return Indexed(status=IndexingStatus.INDEXED, solutions=(solution(38, cell),), n_unindexed=2, fraction_unexplained=0.05)


def two() -> Indexed:
    return Indexed(status=IndexingStatus.INDEXED, solutions=(solution(24), solution(14)), n_unindexed=2, fraction_unexplained=0.4)


@dataclass(frozen=True)
class FakeIndexer:
    """Does as it is told."""

    slow_s: float = 0.05

    def index(self, spots: Spots, run: Run, *, cells: Sequence[Cell] = ()) -> Indexed:
        told = float(spots.intensity[0])
        if told == RAISE:
            raise ValueError("singular\nmatrix")
        if told == HANG:
            time.sleep(600)
        if told == DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        if told == SLOW:
            time.sleep(self.slow_s)
        if told == NONE:
            return Indexed(status=IndexingStatus.NOT_INDEXED, reason="no lattice explains the spots better than chance")
        return two() if told == TWO else one(cells[-1] if cells else CELL)


@dataclass(frozen=True)
class FakeTogether:
    """Says which frames it was given beside the one to be indexed, and how many spots they have."""

    def index(self, spots: Spots, run: Run, *, cells: Sequence[Cell] = (), before: Sequence[tuple[int, Spots]] = ()) -> Indexed:
        return Indexed(status=IndexingStatus.NOT_INDEXED, reason=str([(earlier, len(other)) for earlier, other in before]))


@dataclass(frozen=True)
class FakeWithBeam:
    """Has the beam 40 px from where it is stated, and says where it was told to look for it first."""

    def index(self, spots: Spots, run: Run, *, cells: Sequence[Cell] = (), beam_shift_px: tuple[float, float] | None = None) -> Indexed:
        return replace(one(), reason=str(beam_shift_px), beam_shift_px=(24.0, -32.0))


@dataclass(frozen=True)
class FakeEngineWithAName(FakeIndexer):
    engine: str = "fake 1.2"


def absent() -> FakeIndexer:
    raise TriageError("no engine here")


def broken() -> FakeIndexer:
    raise ZeroDivisionError


def indexable_run(name: str = "run", kind: RunKind = RunKind.ROTATION) -> Run:
    header = RunHeader(source="memory", shape_px=GEOMETRY.shape_px, pixel_mask=np.zeros(GEOMETRY.shape_px, dtype=bool))
    return Run(id=name, header=header, kind=kind, geometry=GEOMETRY, mask=np.zeros(GEOMETRY.shape_px, dtype=bool))


def spots_telling(told: float, n: int = 40) -> Spots:
    intensity = np.full(n, told, dtype=np.float32)
    zeros = np.zeros(n, dtype=np.float32)
    return Spots(
        positions_px=np.zeros((n, 2), dtype=np.float32),
        intensity=intensity,
        sigma=zeros + 1,
        background=zeros,
        peak=intensity,
        n_pixels=np.ones(n, dtype=np.int32),
        inverse_d_per_A=zeros + 0.3,
        on_ice=np.zeros(n, dtype=bool),
    )


def judged(run: Run, frame: int, told: float = ONE, *, p_multi: float = 0.02, p_none: float = 0.01, n: int = 40) -> Verdict:
    judgement = Judgement(
        lattices=(p_none, 1.0 - p_none - p_multi, p_multi, 0.0), non_diffraction_kind=(1.0, 0.0, 0.0, 0.0), ice_rings=0.0, resolution_A=2.0
    )
    summary = SpotSummary(count=n, count_no_ice=n, resolution_A=2.0, total_intensity=1.0, mean_i_over_sigma=1.0)
    return Verdict(run_id=run.id, frame=frame, file=None, judgement=judgement, spots=summary, latency_ms=0.0, found=spots_telling(told, n))
