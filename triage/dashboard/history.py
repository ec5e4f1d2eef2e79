"""Bounded memory of a run's frames, and how fast things arrive. Pure: no clock, no lock, no I/O of its own."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Versions = npt.NDArray[np.int64]


class FrameHistory:
    """The newest rows of a table of numbers, each with the version at which it was added.

    Memory grows by doubling up to `keep` rows and a quarter more, then the oldest rows go.
    """

    def __init__(self, columns: Sequence[str], keep: int) -> None:
        self._columns = tuple(columns)
        self._keep = keep
        self._most = keep + max(1, keep // 4)
        self._rows = np.empty((min(256, self._most), len(self._columns)))
        self._versions: Versions = np.empty(len(self._rows), dtype=np.int64)
        self._used = 0

    def append(self, version: int, row: Sequence[float | None]) -> None:
        """Adds a row; versions must ascend, None is a value not known."""
        if self._used == len(self._rows):
            self._make_room()
        self._rows[self._used] = [math.nan if value is None else value for value in row]
        self._versions[self._used] = version
        self._used += 1

    def versions_after(self, since: int) -> Versions:
        """Versions of the kept rows added after `since`, ascending."""
        return self._versions[self._start(since) : self._used]

    def between(self, since: int, upto: int) -> npt.NDArray[np.float64]:
        """A copy of the kept rows (n, columns) with since < version <= upto, oldest first; nan where not known."""
        stop = int(np.searchsorted(self._versions[: self._used], upto, side="right"))
        return self._rows[self._start(since) : stop].copy()

    def _start(self, since: int) -> int:
        oldest_kept = max(0, self._used - self._keep)
        return max(oldest_kept, int(np.searchsorted(self._versions[: self._used], since, side="right")))

    def _make_room(self) -> None:
        if self._used < self._most:
            grow = min(len(self._rows), self._most - len(self._rows))
            self._rows = np.concatenate([self._rows, np.empty((grow, len(self._columns)))])
            self._versions = np.concatenate([self._versions, np.empty(grow, dtype=np.int64)])
            return
        oldest = self._used - self._keep + 1
        self._rows[: self._keep - 1] = self._rows[oldest : self._used].copy()
        self._versions[: self._keep - 1] = self._versions[oldest : self._used].copy()
        self._used = self._keep - 1


def as_columns(names: Sequence[str], rows: npt.NDArray[np.float64]) -> dict[str, list[Any]]:
    """Rows (n, columns) as JSON's own lists by name, with None for nan, and no more digits than a screen can show."""
    return {name: [_shown(value) for value in rows[:, k].tolist()] for k, name in enumerate(names)}


def _shown(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    if value.is_integer():
        return int(value)
    return round(value, 5) if abs(value) < 1000 else round(value, 1)


class RateMeter:
    """How many a second, over the last few seconds; the caller tells the time."""

    def __init__(self, window_s: float = 5.0, step_s: float = 0.25) -> None:
        self._window_s = window_s
        self._step_s = step_s
        self._steps: deque[tuple[float, int]] = deque()
        self._first_s: float | None = None

    def add(self, count: int, now_s: float) -> None:
        """Notes `count` arrivals at `now_s`."""
        if self._first_s is None:
            self._first_s = now_s
        if self._steps and now_s - self._steps[-1][0] < self._step_s:
            began_s, before = self._steps[-1]
            self._steps[-1] = (began_s, before + count)
            return
        self._steps.append((now_s, count))
        self._forget(now_s)

    def per_second(self, now_s: float) -> float:
        """The mean rate over the window, or since the first arrival where that is later; 0 before any."""
        if self._first_s is None:
            return 0.0
        recent = sum(count for began_s, count in self._steps if began_s > now_s - self._window_s)
        return recent / max(self._step_s, min(self._window_s, now_s - self._first_s))

    def _forget(self, now_s: float) -> None:
        while self._steps and self._steps[0][0] <= now_s - self._window_s:
            self._steps.popleft()
