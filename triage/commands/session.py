"""From settings to a running pipeline: the composition root that every verb shares."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from triage.buffer import Mode
from triage.classify import OnnxClassifier
from triage.commands.console import ConsoleSink, ProgressBar, console
from triage.commands.indexing import slow_lane, witness
from triage.commands.interrupt import interruptible
from triage.commands.summary import Summary
from triage.compose import released_dir
from triage.core import Frame, FrameSource, Progress, Run, RunHeader, Sink, TriageError
from triage.dashboard.app import DashboardServer
from triage.dashboard.board import Board
from triage.decay import DecayTracker, shell_intensities
from triage.early_lane import Judge
from triage.flags import FlagsSettings, PriorShift, policies_for
from triage.fold import FoldParts
from triage.pipeline import Lane, Pipeline, ProgressListener
from triage.refusal import ConfigError
from triage.settings import DashboardSettings, ListenVerb, ModelSettings, RunVerb, SinksSettings
from triage.sinks.good_frames import GoodFramesSink
from triage.sinks.hdf5 import Hdf5Sink
from triage.sinks.jsonl import JsonLinesSink
from triage.sinks.log import LogSink
from triage.spots import DispersionFinder

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """What a verb shows at the terminal."""

    a_row_a_file: bool = False
    progress_bar: bool = False
    announce_runs: bool = False
    waiting_for: str = "the first run"


def process(source: FrameSource, settings: RunVerb | ListenVerb, show: Show) -> int:
    """Judges all that the source gives; gives the exit status."""
    classifier = load_classifier(settings.model)
    slow = slow_lane(settings.indexing, settings.mode, _cores())
    judge = Judge(finder=DispersionFinder(), classifier=classifier, shells=shell_intensities, keep_spots=slow is not None)
    flags = flags_settings(settings, classifier)
    parts = FoldParts(
        model=classifier.model,
        config=settings.model_dump(mode="json"),
        tracker=partial(DecayTracker, pair=classifier.metadata.pair),
        policies=lambda run: policies_for(run, flags),
        witness=witness,
    )
    out, err = console(stderr=settings.sinks.jsonl.path == "-"), console(stderr=True)
    summary = Summary()
    with _board(settings.dashboard, show, err.print) as board, ProgressBar(enabled=show.progress_bar) as bar:
        sinks = [*file_sinks(settings.sinks), ConsoleSink(out, err, announce_runs=show.announce_runs), summary]
        sinks += [] if board is None else [board]
        lane = Lane(mode=settings.mode, judges=settings.pipeline.judges or _cores(), buffer_frames=settings.pipeline.buffer_frames)
        pipeline = Pipeline(source, judge.judge, sinks, parts=parts, lane=lane, slow=slow, on_progress=_listener(bar, board))
        if settings.mode is Mode.LIVE:
            if slow is not None:
                slow.start()
            warm_up(judge)
        with interruptible(pipeline.stop):
            pipeline.run()
    summary.show(out, a_row_a_file=show.a_row_a_file)
    if pipeline.sink_problems:
        return 1
    return 1 if summary.went_wrong and not pipeline.stopped else 0


def load_classifier(settings: ModelSettings) -> OnnxClassifier:
    """The network that is configured, or the released one. Raises ConfigError where it does not load."""
    path = Path(settings.path) if settings.path is not None else released_dir() / "triage.onnx"
    if not path.is_file():
        raise ConfigError(f"model.path: {path}: no such file" + ("" if settings.path else "; set model=FILE to an exported network"))
    try:
        return OnnxClassifier(path, device=settings.device)
    except TriageError as error:
        raise ConfigError(f"model.path: {error}") from error


def flags_settings(settings: RunVerb | ListenVerb, classifier: OnnxClassifier) -> FlagsSettings:
    """Thresholds, and the base rates that the flags assume where those are configured."""
    flags = settings.flags.settings()
    rates = settings.model.prior.lattices
    if rates is None:
        return flags
    return replace(flags, prior=PriorShift(from_rates=classifier.metadata.base_rates, to_rates=rates))


def file_sinks(settings: SinksSettings) -> list[Sink]:
    """The sinks that are configured. Raises ConfigError where one cannot be opened."""
    makers: tuple[tuple[str | None, Callable[[str], Sink]], ...] = (
        (settings.jsonl.path, JsonLinesSink),
        (settings.hdf5.path, Hdf5Sink),
        (settings.good_frames.path, GoodFramesSink),
    )
    sinks: list[Sink] = [LogSink()] if settings.log.enabled else []
    try:
        sinks += [make(path) for path, make in makers if path is not None]
    except TriageError as error:
        for sink in sinks:
            sink.close()
        raise ConfigError(str(error)) from error
    return sinks


def warm_up(judge: Judge) -> None:
    """Compiles the hot loops for the usual pixel types before the first frame comes; live frames would be shed meanwhile."""
    shape = (64, 64)
    run = Run(id="warm-up", header=RunHeader(source="warm-up", shape_px=shape), kind=None, geometry=None)
    for dtype in (np.uint16, np.uint32):
        verdict = judge.judge(Frame(run=run, index=0, decode=partial(np.zeros, shape, dtype), arrived_s=time.monotonic()))
        if verdict.error is not None:
            log.warning("the early lane does not work: %s", verdict.error)


@contextmanager
def _board(settings: DashboardSettings, show: Show, say: Callable[[str], None]) -> Iterator[Board | None]:
    """The live page, while the pipeline runs."""
    if not settings.enabled:
        yield None
        return
    board = Board(waiting_for=show.waiting_for)
    server = DashboardServer(board, settings.host, settings.port)
    server.start()
    say(f"live page: {server.url}")
    try:
        yield board
    finally:
        server.stop()


def _listener(bar: ProgressBar, board: Board | None) -> ProgressListener:
    def tell(run: Run, progress: Progress) -> None:
        bar.update(run, progress)
        if board is not None:
            board.progress(run.id, progress)

    return tell


def _cores() -> int:
    """Cores this process may use; containers and batch systems give fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
