"""`triage listen`: the live listener."""

from __future__ import annotations

from collections.abc import Sequence

from triage.commands import arguments, session
from triage.commands.overrides import resolver
from triage.commands.run import file_source
from triage.compose import compose_settings
from triage.core import FrameSource
from triage.settings import FilesSettings, ListenVerb, StreamSettings
from triage.sources.resolve import RunResolver
from triage.sources.stream import StreamSource

HELP = """\
triage listen [key=value ...]

Judges the frames of a detector's stream as they come, and shows them on http://127.0.0.1:8080, until Ctrl-C.

  triage listen source.endpoint=tcp://detector:31001                         DECTRIS stream2
  triage listen source=dectris_stream1 source.endpoint=tcp://detector:9999   the older stream
  triage listen source.socket=sub source.endpoint=tcp://relay:31002          a copy of the stream
  triage listen source=files source.paths=[scan_master.h5]                   a file that is being written
  triage listen sinks.jsonl.path=results.jsonl dashboard=off

  mode=live       (default) bounded latency: an even sample when frames come faster than they are judged; what is skipped is counted
  mode=complete   every frame; the stream is read only as fast as its frames are judged
  source.channel=NAME                    which threshold, of several
  dashboard.host=0.0.0.0                 lets other machines see the page
  beamline=NAME                          conf/beamline/NAME.yaml

A detector's own (PUSH) port gives each message to one client only: beside a file writer, this listener would take frames away from it.
"""


def listen(argv: Sequence[str]) -> int:
    """The verb; gives the exit status."""
    settings = compose_settings("listen", arguments.overrides_only("listen", argv), ListenVerb)
    return session.process(_source(settings), settings, session.Show(announce_runs=True, waiting_for=_waiting_for(settings)))


def _source(settings: ListenVerb) -> FrameSource:
    if isinstance(settings.source, FilesSettings):
        paths = arguments.files_of("run", [], settings.source.paths)
        follow = settings.source.follow
        return file_source(settings.source, paths, resolver(settings.source, settings.run.override), follow=follow)
    return stream_source(settings.source, resolver(settings.source, settings.run.override))


def stream_source(settings: StreamSettings, runs: RunResolver) -> StreamSource:
    """The source of this stream."""
    return StreamSource(
        settings.endpoint,
        protocol="stream2" if settings.kind == "dectris_stream2" else "stream1",
        resolver=runs,
        socket=settings.socket,
        channel=settings.channel,
        end_timeout_s=settings.end_timeout_s,
    )


def _waiting_for(settings: ListenVerb) -> str:
    return "files" if isinstance(settings.source, FilesSettings) else f"the first series from {settings.source.endpoint}"
