"""The network's word on damage: what it saw in the reference's frames against what it sees now, never a single frame alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from triage.pair import Floats, PairHead

T = TypeVar("T")

REFERENCE_FRAMES = 4
"""Of the run's reference, spread over it, whose appearances stand for it."""
NOW_FRAMES = 3
"""Of a block, spread over it."""


def spread_over(frames: Sequence[T], number: int) -> list[T]:
    """At most `number` of the frames, evenly spread, the first and the last among them."""
    if len(frames) <= number:
        return list(frames)
    return [frames[round(k * (len(frames) - 1) / (number - 1))] for k in range(number)]


class NetworkWitness:
    """Of one run: the reference's appearances, and what the model's head says of each block since."""

    def __init__(self, head: PairHead | None) -> None:
        self._head = head
        self._reference: list[Floats] = []
        self.probability: float | None = None
        """Of damage, at the last block; None without a head, a reference or appearances."""

    def begin(self, frames: Sequence[Floats | None]) -> None:
        """Takes the appearances of the reference's frames, in order."""
        self._reference = [each for each in spread_over(frames, REFERENCE_FRAMES) if each is not None]

    def look(self, frames: Sequence[Floats | None]) -> None:
        """Judges a block by its frames' appearances, in order."""
        now = [each for each in spread_over(frames, NOW_FRAMES) if each is not None]
        if self._head is None or not self._reference or not now:
            self.probability = None
            return
        odds = self._head.log_odds(self._reference, now)
        self.probability = 1.0 / (1.0 + math.exp(-min(max(odds, -30.0), 30.0)))
