"""From settings to a slow lane: which engine, how many processes, which cells are known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from triage import __version__
from triage.buffer import Mode
from triage.core import Indexer
from triage.dials_engine import START_WITHIN_S, DialsError, DialsIndexer, find_dials
from triage.fusion import released
from triage.indexing import EmbeddedIndexer
from triage.refusal import ConfigError
from triage.rehearsal import rehearse
from triage.settings import IndexingSettings
from triage.slow_lane import Plan, SlowLane
from triage.witness import RunCells, Witness

_CORES_A_PROCESS = 4
"""Indexing takes what the early lane leaves; on few cores one process is all there is room for."""


def slow_lane(settings: IndexingSettings, mode: Mode, cores: int) -> SlowLane | None:
    """The slow lane, not started; None where indexing is off. Raises ConfigError where its engine is absent."""
    if settings.engine == "off":
        return None
    make, engine = _engine(settings)
    grace_s = START_WITHIN_S if settings.engine == "dials" else 0.0  # its worker is ended and started again within that
    cell = settings.known_cell
    plan = Plan(
        every=settings.every,
        complete=mode is Mode.COMPLETE and settings.every is not None,
        processes=settings.processes or max(1, cores // _CORES_A_PROCESS),
        queue=settings.queue,
        timeout_s=settings.timeout_s + grace_s,
        cells=() if cell is None else (cell,),
        together=settings.together,
    )
    return SlowLane(make, engine=engine, plan=plan)


def _engine(settings: IndexingSettings) -> tuple[Callable[[], Indexer], str]:
    if settings.engine == "embedded":
        return embedded, f"triage {__version__}"
    try:
        python, version = find_dials(settings.dials.python)
    except DialsError as error:
        raise ConfigError(f"indexing.dials.python: {error}") from error
    return partial(DialsIndexer, python, answer_within_s=settings.timeout_s), version


def embedded() -> EmbeddedIndexer:
    """The engine that comes with triage, its loops compiled: that takes longer than a frame may."""
    indexer = EmbeddedIndexer()
    rehearse(indexer)
    return indexer


def witness() -> Witness:
    """A fresh memory for a run's indexing."""
    return Witness(RunCells(), released().fused)
