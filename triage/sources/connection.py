"""A receiving ZeroMQ socket that bounds what it takes, and comes back after refusing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import zmq
from zmq.utils.monitor import parse_monitor_message

from triage.core import SourceError

SocketKind = Literal["pull", "sub"]
REVIVAL_S = 0.5
"""How long after a connection broke ZeroMQ has said that it tries again, if it does."""
_BROKEN = zmq.EVENT_DISCONNECTED
_TRYING = zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_CONNECT_DELAYED | zmq.EVENT_CONNECTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is taken from a stranger on the other end."""

    message_bytes: int = 1 << 30
    """A larger message is refused and counted; one of more than twice that is not even received."""
    queue: int = 200
    """Messages ZeroMQ holds for us; beyond, a PUSH detector waits and a PUB one drops."""
    waiting_frames: int = 16
    start_s: float = 2.0
    """How many frames wait for a late start, and how long."""


class Connection:
    """One endpoint. Raises SourceError when it cannot be opened; `close` it.

    ZeroMQ gives a connection up for good when its peer sends a message beyond MAXMSGSIZE; `revive` notices and connects anew.
    """

    def __init__(self, endpoint: str, kind: SocketKind, limits: Limits, *, bind: bool = False) -> None:
        self._endpoint = endpoint
        self._bind = bind
        self._broken_s: float | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PULL if kind == "pull" else zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, limits.queue)
        self._socket.setsockopt(zmq.MAXMSGSIZE, 2 * limits.message_bytes)
        if kind == "sub":
            self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._monitor = self._socket.get_monitor_socket(_BROKEN | _TRYING)
        try:
            (self._socket.bind if bind else self._socket.connect)(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise SourceError(f"{endpoint}: {zmq.strerror(error.errno or 0)}; set source.endpoint to one like tcp://host:31001") from None

    def receive(self, timeout_ms: int) -> list[bytes] | None:
        """The parts of the next message, or None when none came in time."""
        return self._socket.recv_multipart() if self._socket.poll(timeout_ms) else None

    def revive(self, now_s: float) -> bool:
        """Whether the connection had been given up for a message that is too large, and is made anew. To be called when nothing comes."""
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())["event"]
            self._broken_s = now_s if event == _BROKEN else None
        if self._bind or self._broken_s is None or now_s - self._broken_s < REVIVAL_S:
            return False
        self._broken_s = None
        self._socket.connect(self._endpoint)
        return True

    def close(self) -> None:
        """Closes the socket; nothing lingers."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close()
        self._context.term()
