"""The bounded buffer between a source and the judges: keeps order, and counts what it does not let through.

In `complete` mode a full buffer makes the source wait. In `live` mode it lets an even sample of the frames through, at the rate
they are judged; what is shed is never decoded, and leaves a `Lost` in its place.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

from triage.core import Frame, Lost, Run, RunEnd, Verdict

SHED_REASON = "frames came faster than they are judged"
_MAX_NOTES = 100_000  # Losses and the like that may wait; more means that the records' way out is blocked, and then the source waits
_POLL_S = 0.25


class Mode(StrEnum):
    """What happens when frames come faster than they are judged."""

    LIVE = "live"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A frame in a judge's hands, or waiting for one."""

    frame: Frame
    verdict: Future[Verdict]


Item = Run | Pending | Lost | RunEnd


class Sampler:
    """Which frames are judged when they come faster than that: an even share of them.

    The share falls linearly from all, at a half-full buffer, to none at a full one, so the buffer settles where frames are let in
    exactly as fast as they leave. It follows the buffer with a lag of an eighth of the capacity, which damps that loop critically:
    the share neither jumps nor swings, and the gaps between the frames let through differ by one frame at most once it has settled.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._half = capacity // 2
        self._lag = max(1.0, capacity / 8)
        self._share = 1.0
        self._credit = 0.0

    def admits(self, backlog: int) -> bool:
        """Whether the next frame is let through while `backlog` frames wait or are being judged."""
        target = min(1.0, max(0.0, (self._capacity - backlog) / (self._capacity - self._half)))
        self._share = 1.0 if backlog == 0 else self._share + (target - self._share) / self._lag
        self._credit = min(self._credit + self._share, 2.0)
        if backlog >= self._capacity or self._credit < 1.0 - 1e-9:
            return False
        self._credit -= 1.0
        return True


class FrameBuffer:
    """One source thread puts events, judge threads work on the frames, one consumer takes everything out in the order it came."""

    def __init__(self, judge: Callable[[Frame], Verdict], *, judges: int, capacity: int, mode: Mode) -> None:
        self._judge = judge
        self._capacity = capacity
        self._sampler = Sampler(capacity) if mode is Mode.LIVE else None
        self._pool = ThreadPoolExecutor(max_workers=judges, thread_name_prefix="judge")
        self._items: deque[Item] = deque()
        self._backlog = 0
        self._changed = threading.Condition()
        self._stopped = False
        self._finished = False

    def put(self, event: Run | Frame | Lost | RunEnd) -> bool:
        """Takes the source's next event; False where nothing more is wanted (then this event was not taken)."""
        with self._changed:
            while not self._stopped and self._is_full(event):
                self._changed.wait(_POLL_S)
            if self._stopped:
                return False
            self._items.append(self._item(event))
            self._changed.notify_all()
        return True

    def _is_full(self, event: Run | Frame | Lost | RunEnd) -> bool:
        if isinstance(event, Frame) and self._sampler is None:
            return self._backlog >= self._capacity
        return len(self._items) >= _MAX_NOTES

    def _item(self, event: Run | Frame | Lost | RunEnd) -> Item:
        if not isinstance(event, Frame):
            return event
        if self._sampler is not None and not self._sampler.admits(self._backlog):
            return Lost(run=event.run, what="dropped", reason=SHED_REASON, index=event.index)
        self._backlog += 1
        return Pending(event, self._pool.submit(self._judge, event))

    def finish(self) -> None:
        """The source has nothing more."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Wants nothing more of the source; what is inside still comes out. Takes no lock: a signal handler may call it."""
        self._stopped = True

    def take(self, timeout_s: float) -> Item | None:
        """The next item in order, or None where none came in time."""
        with self._changed:
            if not self._items:
                self._changed.wait(timeout_s)
            if not self._items:
                return None
            return self._items.popleft()

    def judged(self) -> None:
        """The consumer is done with one Pending."""
        with self._changed:
            self._backlog -= 1
            self._changed.notify_all()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be taken out."""
        with self._changed:
            return not self._items

    @property
    def exhausted(self) -> bool:
        """Whether nothing is inside and nothing more will come."""
        with self._changed:
            return not self._items and self._finished

    def close(self) -> None:
        """Ends the judge threads; frames not yet begun are given up."""
        self.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
