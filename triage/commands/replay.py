"""`triage replay`: a detector in a box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console

from triage.commands import arguments
from triage.commands.console import console
from triage.commands.interrupt import interruptible
from triage.commands.overrides import resolver
from triage.commands.run import file_source
from triage.compose import compose_settings
from triage.core import Event, FrameSource, Run, RunEnd
from triage.detector import Replay
from triage.settings import ReplayVerb

HELP = """\
triage replay FILE... [key=value ...]

Sends recorded runs as a DECTRIS detector would, from any file that triage run reads. Waits for a listener, then sends.

  triage replay scan_master.h5                                        stream2 on port 31001, 10 frames a second
  triage replay scan_master.h5 replay.rate_hz=100 replay.loop=true    again and again, until Ctrl-C
  triage replay scan_master.h5 replay.protocol=stream1 replay.endpoint=tcp://127.0.0.1:9999
  triage listen source.endpoint=tcp://localhost:31001                 in another terminal

  replay.rate_hz=null     as fast as the listener takes them
  source.geometry.*       what the sent header says instead
"""


def replay(argv: Sequence[str]) -> int:
    """The verb; gives the exit status."""
    files, overrides = arguments.split(argv)
    settings = compose_settings("replay", overrides, ReplayVerb)
    paths = arguments.files_of("replay", files, settings.source.paths)
    err = console(stderr=True)
    events = Watched(file_source(settings.source, paths, resolver(settings.source), follow=False), err)
    wanted = settings.replay
    box = Replay(events, protocol=wanted.protocol, endpoint=wanted.endpoint, rate_hz=wanted.rate_hz, loop=wanted.loop)
    err.print(f"{wanted.protocol} on {box.open()}: waiting for a listener", soft_wrap=True)
    with interruptible(box.stop):
        sent = box.run()
    err.print(f"sent {sent.frames} frames in {sent.runs} runs" + (f"; {sent.unreadable} could not be read" if sent.unreadable else ""))
    return 1 if sent.unreadable or events.problems else 0


class Watched:
    """A source whose incomplete runs are told of, once each."""

    def __init__(self, source: FrameSource, err: Console) -> None:
        self._source = source
        self._err = err
        self.problems: list[str] = []

    def __iter__(self) -> Iterator[Event]:
        for event in self._source:
            if isinstance(event, RunEnd) and not event.complete:
                self._tell(event.run, event.reason or "not complete")
            yield event

    def _tell(self, run: Run, reason: str) -> None:
        source = run.header.source
        line = reason if reason.startswith(source) else f"{source}: {reason}"
        if line not in self.problems:
            self.problems.append(line)
            self._err.print(line, soft_wrap=True, markup=False)
