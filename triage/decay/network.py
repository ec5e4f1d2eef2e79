"""The network's word on damage: what it saw in the reference's frames against what it sees now, never a single frame alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from triage.decay.fusion import probability_of
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
    """Of one run: how the reference's frames appear to the network, and what the model's head says of each block since."""

    def __init__(self, head: PairHead | None) -> None:
        self._head = head
        self._reference: list[Floats] = []
        self._log_odds: float | None = None

    @property
    def probability(self) -> float | None:
        """Of damage, at the last block; None without a head, a reference or appearances."""
        return None if self._log_odds is None else probability_of(self._log_odds)

    def begin(self, frames: Sequence[Floats | None]) -> None:
        """Takes the appearance of the reference's frames, in order."""
        self._reference = [each for each in spread_over(frames, REFERENCE_FRAMES) if each is not None]

    def look(self, frames: Sequence[Floats | None]) -> None:
        """Judges a block by its frames' appearance, in order."""
        now = [each for each in spread_over(frames, NOW_FRAMES) if each is not None]
        self._log_odds = None if self._head is None or not self._reference or not now else self._head.log_odds(self._reference, now)

    def joined(self, tracker: float, *, has_evidence: bool) -> float:
        """The tracker's probability with the network's word; the tracker's alone where there is none."""
        if self._head is None or self._log_odds is None:
            return tracker
        odds = math.log(tracker / (1.0 - tracker)) if has_evidence else None
        return probability_of(self._head.with_tracker(self._log_odds, odds))
