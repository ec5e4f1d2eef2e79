"""From settings to a slow lane: which engine, how many processes, which cells are known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module

from triage import __version__
from triage.buffer import Mode
from triage.core import Indexer
from triage.fusion import released
from triage.settings import IndexingSettings
from triage.slow_lane import Plan, SlowLane
from triage.witness import Witness

_CORES_A_PROCESS = 4
"""Indexing takes what the early lane leaves; on few cores one process is all there is room for."""


def slow_lane(settings: IndexingSettings, mode: Mode, cores: int) -> SlowLane | None:
    """The slow lane, not started; None where indexing is off. Raises ConfigError where its engine is absent."""
    if settings.engine == "off":
        return None
    make, engine = _engine(settings)
    cell = settings.known_cell
    plan = Plan(
        every=settings.every,
        complete=mode is Mode.COMPLETE and settings.every is not None,
        processes=settings.processes or max(1, cores // _CORES_A_PROCESS),
        queue=settings.queue,
        timeout_s=settings.timeout_s,
        cells=() if cell is None else (cell,),
    )
    return SlowLane(make, engine=engine, plan=plan)


def _engine(settings: IndexingSettings) -> tuple[Callable[[], Indexer], str]:
    del settings
    return partial(embedded), f"triage {__version__}"


def embedded() -> Indexer:
    """The engine that comes with triage."""
    indexer: Indexer = import_module("triage.indexing").EmbeddedIndexer()
    return indexer


def witness() -> Witness:
    """A fresh memory for a run's indexing."""
    return Witness(fuse=released().fused)
