"""Frames from a detector's ZeroMQ stream: the socket, and nothing else about messages than where to have them read."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Literal

from triage.core import Event
from triage.sources.connection import Connection, Limits, SocketKind
from triage.sources.resolve import RunResolver
from triage.sources.series import Closing, Exposure, Garbled, Item, Opening, Patience, SeriesTracker
from triage.sources.stream_headers import header_of
from triage.wire import stream1, stream2
from triage.wire.errors import WireError
from triage.wire.translate import as_stream2

log = logging.getLogger(__name__)

Protocol = Literal["stream1", "stream2"]
POLL_MS = 100
"""How soon `stop` is noticed."""


class StreamSource:
    """An endless source: runs as they come, until `stop`. Iterate it once.

    Messages that cannot be used are counted, never raised. Raises SourceError when the endpoint cannot be opened.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        protocol: Protocol,
        resolver: RunResolver,
        socket: SocketKind = "pull",
        channel: str | None = None,
        end_timeout_s: float = 30.0,
        bind: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._read = _reader(protocol, endpoint, channel)
        self._resolver = resolver
        self._kind = socket
        self._bind = bind
        self._limits = limits or Limits()
        self._patience = Patience(end_s=end_timeout_s, start_s=self._limits.start_s, frames=self._limits.waiting_frames)
        self._stopped = False

    def stop(self) -> None:
        """Ends the iteration within a poll; an open run gets its RunEnd. From any thread or signal handler."""
        self._stopped = True

    def __iter__(self) -> Iterator[Event]:
        tracker = SeriesTracker(self._resolver, self._endpoint, self._patience)
        with closing(Connection(self._endpoint, self._kind, self._limits, bind=self._bind)) as connection:
            yield from self._listen(connection, tracker)
        yield from tracker.close("stopped")

    def _listen(self, connection: Connection, tracker: SeriesTracker) -> Iterator[Event]:
        listened_s = 0.0  # the consumer's own time is not silence on the line
        while not self._stopped:
            before_s = time.monotonic()
            parts = connection.receive(POLL_MS)
            arrived_s = time.monotonic()
            listened_s += arrived_s - before_s
            items = self._items(parts) if parts is not None else self._silence(connection, arrived_s)
            for item in items:
                yield from tracker.accept(item, clock_s=listened_s, arrived_s=arrived_s)
            yield from tracker.tick(listened_s)

    def _silence(self, connection: Connection, now_s: float) -> list[Item]:
        if not connection.revive(now_s):
            return []
        return [Garbled(reason=f"a message of more than {2 * self._limits.message_bytes} bytes is refused; the connection was made anew")]

    def _items(self, parts: Sequence[bytes]) -> list[Item]:
        size = sum(map(len, parts))
        if size > self._limits.message_bytes:
            return [Garbled(reason=f"a message of {size} bytes is refused (at most {self._limits.message_bytes})")]
        try:
            return self._read(parts)
        except WireError as error:
            return [Garbled(reason=str(error))]


def _reader(protocol: Protocol, endpoint: str, channel: str | None) -> Callable[[Sequence[bytes]], list[Item]]:
    return partial(read_stream1, endpoint=endpoint) if protocol == "stream1" else partial(read_stream2, endpoint=endpoint, channel=channel)


def read_stream1(parts: Sequence[bytes], *, endpoint: str) -> list[Item]:
    """What one multipart message of stream v1 says. Raises WireError where it says nothing."""
    message = stream1.decode(parts)
    if isinstance(message, stream1.Start):
        return [_opening(as_stream2(message), message, endpoint)]
    if isinstance(message, stream1.End):
        return [Closing(series=message.series)]
    if isinstance(message, stream1.Image):
        exposure = Exposure(series=message.series, index=message.frame, array=message.array)
        if message.start is None:
            return [exposure]
        return [_opening(as_stream2(message.start), message.start, endpoint, with_frame=True), exposure]
    log.debug("%s: a %s message is not for us", endpoint, message.htype)
    return []


def read_stream2(parts: Sequence[bytes], *, endpoint: str, channel: str | None) -> list[Item]:
    """What one message of stream2 says; of several channels, `channel` or the first. Raises WireError where it says nothing."""
    if len(parts) != 1:
        raise WireError(f"a message of {len(parts)} parts is not stream2; is this stream v1 (source=dectris_stream1)?")
    message = stream2.decode(parts[0])
    if isinstance(message, stream2.Start):
        return [_opening(message, message, endpoint, channel)]
    if isinstance(message, stream2.End):
        return [Closing(series=message.series_id)]
    if isinstance(message, stream2.Image):
        array = message.data.get(channel) if channel is not None else next(iter(message.data.values()))
        if array is None:
            reason = f"image {message.image_id}: no channel {channel} among {', '.join(message.data)}; set source.channel"
            return [Garbled(reason=reason, series=message.series_id, index=message.image_id)]
        return [Exposure(series=message.series_id, index=message.image_id, array=array)]
    log.debug("%s: a %s message is not for us", endpoint, message.type)
    return []


def _opening(start: stream2.Start, message: object, endpoint: str, channel: str | None = None, *, with_frame: bool = False) -> Opening:
    if start.problems and not with_frame:
        log.warning("%s: start of series %d: %s", endpoint, start.series_id, "; ".join(start.problems))
    return Opening(
        series=start.series_id,
        header=header_of(start, endpoint, channel),
        message=message,
        bit_depth=start.bit_depth_image,
        with_frame=with_frame,
    )
