"""Ctrl-C, and the service manager's SIGTERM: the first asks for a clean end, the second ends at once."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_SIGNAL_S = 0.5  # a terminal, make and timeout may all pass on the same key press


@contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` on the first signal; raises KeyboardInterrupt on the second. Does nothing off the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked_s: float | None = None

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked_s
        if asked_s is not None:
            if time.monotonic() - asked_s > _SAME_SIGNAL_S:
                raise KeyboardInterrupt
            return
        asked_s = time.monotonic()
        sys.stderr.write("\nstopping: what is in flight is finished (again to stop at once)\n")
        stop()

    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
