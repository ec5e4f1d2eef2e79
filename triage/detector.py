"""The detector in a box: sends runs of any source as a DECTRIS detector would, over stream v1 or stream2."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

import zmq

from triage.core import Event, Frame, FrameError, Pixels, Run, RunEnd, TriageError
from triage.sources.stream_headers import SeriesName, start_of
from triage.wire import stream1, stream2
from triage.wire.arrays import EncodedArray
from triage.wire.translate import THRESHOLD, as_stream1

log = logging.getLogger(__name__)

Message = stream1.Message | stream2.Message
Parts = list[bytes]
Fault = Callable[[Message, Parts], Iterable[Sequence[bytes]]]
"""What is sent in place of a message: nothing, the same parts, twice, others."""

POLL_S = 0.1
"""How soon `stop` is noticed."""
LINGER_S = 30.0
"""How long the last messages may take to be fetched."""
STOPPED_LINGER_S = 1.0
QUEUE = 100
"""Messages held for a slow peer; then a PUSH detector waits, and a PUB one drops."""


class DetectorError(TriageError):
    """The endpoint cannot be opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a replay sent; `unreadable` frames of the source were left out."""

    runs: int = 0
    frames: int = 0
    unreadable: int = 0


class Replay:
    """Sends the runs of a source, header, frames and end, to whoever connects to `endpoint`; made for one use.

    `rate_hz` None sends as fast as frames are fetched. `loop` iterates the source again and again, each time as new series; the source
    must allow that. `frames` limits how many are sent in all. Nothing is sent before a peer is there.
    """

    def __init__(
        self,
        events: Iterable[Event],
        *,
        protocol: Literal["stream1", "stream2"] = "stream2",
        endpoint: str = "tcp://127.0.0.1:31001",
        rate_hz: float | None = None,
        loop: bool = False,
        frames: int | None = None,
        socket: Literal["push", "pub"] = "push",
        fault: Fault | None = None,
    ) -> None:
        self._events = events
        self._box = _Box(protocol)
        self._endpoint = endpoint
        self._pace = _Pace(rate_hz)
        self._loop = loop
        self._left = frames
        self._fault: Fault = fault or (lambda _, parts: [parts])
        self._is_pub = socket == "pub"
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._stopped = False
        self.sent = Sent()

    def open(self) -> str:
        """Binds, and returns the endpoint to connect to (a port of `*` is chosen now). Raises DetectorError. `run` does it otherwise."""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB if self._is_pub else zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, QUEUE)
        try:
            self._socket.bind(self._endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise DetectorError(
                f"{self._endpoint}: {zmq.strerror(error.errno or 0)}; set replay.endpoint to a free one like tcp://127.0.0.1:31001"
            ) from None
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def stop(self) -> None:
        """Ends `run` soon; the series under way is closed as a detector closes an aborted one. From any thread or signal handler."""
        self._stopped = True

    def close(self) -> None:
        """Closes the endpoint; `run` does it itself."""
        linger_s = STOPPED_LINGER_S if self._stopped else LINGER_S
        if self._socket is not None:
            self._socket.close(linger=int(linger_s * 1000))
            self._socket = None
        if self._context is not None:
            self._context.term()
            self._context = None

    def run(self) -> Sent:
        """Sends until the source ends, `frames` are sent, or `stop`; returns what was sent once the peers have fetched it."""
        if self._socket is None:
            self.open()
        try:
            if self._is_pub:
                self._await_subscriber()
            with closing(self._passes()) as events:
                for event in events:
                    if not self._take(event):
                        break
            self._end_series()
        finally:
            self.close()
        return self.sent

    def _passes(self) -> Generator[Event, None, None]:
        while True:
            before = self.sent.frames
            yield from self._events
            if not self._loop or self.sent.frames == before:  # a source without frames would loop for ever
                return

    def _take(self, event: Event) -> bool:
        """Whether to go on."""
        if isinstance(event, Run):
            self._end_series()
        elif isinstance(event, Frame):
            self._send_frame(event)
        elif isinstance(event, RunEnd):
            self._end_series()
        return not self._stopped and self._left != 0

    def _send_frame(self, frame: Frame) -> None:
        try:
            pixels = frame.decode()
            array = EncodedArray.encode(pixels)
        except FrameError as error:
            log.warning("frame %d of %s is not sent: %s", frame.index, frame.run.id, error)
            self.sent = replace(self.sent, unreadable=self.sent.unreadable + 1)
            return
        if not self._box.is_open:
            self.sent = replace(self.sent, runs=self.sent.runs + 1)
            self._send(self._box.start(frame.run, pixels, self._left))
        self._pace.wait(lambda: self._stopped)
        if not self._stopped and self._send(self._box.image(frame.index, array)):
            self.sent = replace(self.sent, frames=self.sent.frames + 1)
            self._left = None if self._left is None else self._left - 1

    def _end_series(self) -> None:
        if self._box.is_open:
            self._send(self._box.end())

    def _send(self, message: Message) -> bool:
        """Whether it was sent: not after `stop`, unless it can be at once."""
        return all(self._send_parts(changed) for changed in self._fault(message, _parts(message)))

    def _send_parts(self, parts: Sequence[bytes]) -> bool:
        if self._socket is None:
            return False
        while self._is_pub and self._socket.poll(0, zmq.POLLIN):
            self._socket.recv()  # further subscriptions
        while not self._socket.poll(0 if self._stopped else int(POLL_S * 1000), zmq.POLLOUT):
            if self._stopped:
                return False
        self._socket.send_multipart(parts)
        return True

    def _await_subscriber(self) -> None:
        while self._socket is not None and not self._stopped:
            if self._socket.poll(int(POLL_S * 1000), zmq.POLLIN) and self._socket.recv()[:1] == b"\x01":
                return


def _parts(message: Message) -> Parts:
    if isinstance(message, stream1.Start | stream1.Image | stream1.End | stream1.Other):
        return stream1.encode(message)
    return [stream2.encode(message)]


class _Pace:
    """Lets frames go at a rate, without catching up after a pause."""

    def __init__(self, rate_hz: float | None) -> None:
        self._step_s = 0.0 if rate_hz is None else 1.0 / rate_hz
        self._due_s = 0.0

    def wait(self, is_stopped: Callable[[], bool]) -> None:
        if self._step_s == 0.0:
            return
        while (left_s := self._due_s - time.monotonic()) > 0 and not is_stopped():
            time.sleep(min(left_s, POLL_S))
        now_s = time.monotonic()
        self._due_s = (max(self._due_s, now_s - self._step_s) if self._due_s else now_s) + self._step_s


class _Box:
    """The messages of one series after another."""

    def __init__(self, protocol: Literal["stream1", "stream2"]) -> None:
        self._is_stream1 = protocol == "stream1"
        self._series = SeriesName(id=0, unique_id="")
        self.is_open = False

    def start(self, run: Run, pixels: Pixels, frames_left: int | None) -> Message:
        """Opens the next series."""
        self.is_open = True
        self._series = SeriesName(id=self._series.id + 1, unique_id=uuid.uuid4().hex)
        shape_px = (int(pixels.shape[0]), int(pixels.shape[1]))
        run = run if run.header.shape_px is not None else replace(run, header=replace(run.header, shape_px=shape_px))
        start = replace(start_of(run, self._series, THRESHOLD, 8 * pixels.itemsize), arm_date=datetime.now(UTC))
        if frames_left is not None and (start.number_of_images or 0) > frames_left:
            start = replace(start, number_of_images=frames_left)
        return as_stream1(start) if self._is_stream1 else start

    def image(self, index: int, array: EncodedArray) -> Message:
        """One frame of the open series."""
        if self._is_stream1:
            return stream1.Image(series=self._series.id, frame=index, array=array, hash="")
        return stream2.Image(series_id=self._series.id, series_unique_id=self._series.unique_id, image_id=index, data={THRESHOLD: array})

    def end(self) -> Message:
        """Closes the open series."""
        self.is_open = False
        if self._is_stream1:
            return stream1.End(series=self._series.id)
        return stream2.End(series_id=self._series.id, series_unique_id=self._series.unique_id)
