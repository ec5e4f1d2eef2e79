"""`triage demo`: a detector in a box, the listener and the live page, in one process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from triage.commands import arguments, session
from triage.commands.overrides import resolver
from triage.compose import compose_settings, released_dir
from triage.core import Event, RunEnd, TriageError
from triage.detector import Replay
from triage.refusal import ConfigError
from triage.settings import DemoSettings, DemoVerb
from triage.sources.files import FileSource
from triage.sources.resolve import RunResolver
from triage.sources.stream import StreamSource

log = logging.getLogger(__name__)

HELP = """\
triage demo [key=value ...]

Starts a simulated detector that speaks DECTRIS stream2, the listener with the released network, and the live page on
http://127.0.0.1:8080; prints red flags as they are raised, until Ctrl-C. The run begins well; then a trouble of each kind comes.

  triage demo
  triage demo demo.frames=200 dashboard=off sinks.jsonl.path=demo.jsonl     200 frames, then the summary
  triage demo demo.rate_hz=50 dashboard.port=8081
  triage demo demo.file=scan_master.h5                                      your own run
  triage demo demo.rate_hz=500 mode=live                                    faster than frames are judged: an even sample
"""


def demo(argv: Sequence[str]) -> int:
    """The verb; gives the exit status."""
    settings = compose_settings("demo", arguments.overrides_only("demo", argv), DemoVerb)
    source = DemoSource(settings)
    with source.playing():
        return session.process(source, settings, session.Show(waiting_for="the demo run", announce_runs=settings.demo.frames is None))


def demo_file(settings: DemoSettings) -> Path:
    """The file that is played. Raises ConfigError where it is absent."""
    path = Path(settings.file) if settings.file is not None else released_dir() / "demo.h5"
    if not path.is_file():
        raise ConfigError(f"demo.file: {path}: no such file")
    return path


class DemoSource:
    """Listens to a detector in a box of its own, until that has sent all its frames."""

    def __init__(self, settings: DemoVerb) -> None:
        demo = settings.demo
        self._wanted = demo.frames
        file = FileSource([str(demo_file(demo))], resolver=RunResolver())
        self._box = Replay(file, endpoint="tcp://127.0.0.1:*", rate_hz=demo.rate_hz, loop=True, frames=demo.frames)
        endpoint = self._box.open()
        self._stream = StreamSource(endpoint, protocol="stream2", resolver=resolver(settings.source, settings.run.override))
        self._player = threading.Thread(target=self._play, name="detector", daemon=True)

    @contextmanager
    def playing(self) -> Iterator[None]:
        """The detector sends while this is open."""
        self._player.start()
        try:
            yield
        finally:
            self._box.stop()
            self._player.join(timeout=5.0)

    def stop(self) -> None:
        """Ends both; from any thread or signal handler."""
        self._box.stop()
        self._stream.stop()

    def __iter__(self) -> Iterator[Event]:
        ended = 0
        for event in self._stream:
            yield event
            ended += isinstance(event, RunEnd)
            if isinstance(event, RunEnd) and self._wanted is not None:
                sent = self._box.sent  # counts a run before its start is sent, a frame before the run's end is
                if sent.frames >= self._wanted and ended >= sent.runs:
                    return

    def _play(self) -> None:
        try:
            sent = self._box.run()
        except TriageError:
            log.exception("the detector in a box failed")
            self._stream.stop()
            return
        if self._wanted is None or sent.frames < self._wanted:
            self._stream.stop()
