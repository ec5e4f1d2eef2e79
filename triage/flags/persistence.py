"""Persistence and hysteresis: k of the last n frames above one threshold raise, below a lower one they clear."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

from triage.core import TriageError


class ThresholdError(TriageError):
    """A flag's thresholds contradict each other."""


@dataclass(frozen=True, slots=True)
class FlagThreshold:
    """When a flag is raised, and when it is cleared. Raises ThresholdError where the numbers contradict each other."""

    raise_at: float
    """Raised when the probability was at least this in k of the last n frames."""
    clear_at: float
    """Cleared when it was below this in k of the last n frames since it was raised."""
    k: int
    n: int

    def __post_init__(self) -> None:
        if not 0.0 <= self.clear_at <= self.raise_at <= 1.0:
            raise ThresholdError(f"clear_at = {self.clear_at:g} and raise_at = {self.raise_at:g}: set 0 <= clear_at <= raise_at <= 1")
        if not 1 <= self.k <= self.n:
            raise ThresholdError(f"k = {self.k} and n = {self.n}: set 1 <= k <= n")

    @property
    def k_to_clear(self) -> int:
        """k, or as many as leave fewer than k of n: else a flag could be raised and cleared by the same mixture of frames."""
        return max(self.k, self.n - self.k + 1)


@dataclass(frozen=True, slots=True)
class Raise:
    """The trouble has become sure."""

    first_frame: int
    """Where it seems to begin: the start of the stretch in which frames above `raise_at` most outnumber those below `clear_at`."""
    above: int
    """Frames above `raise_at` among the last `of`."""
    of: int
    probability: float
    """Median over the frames from the first one on."""


@dataclass(frozen=True, slots=True)
class Clear:
    """The trouble is over."""

    below: int
    """Frames below `clear_at` among the last `of`."""
    of: int
    probability: float
    """Median over those last frames."""


class Persistence:
    """One flag's memory: the last n frames since the flag was last raised or cleared, and whether it is standing.

    A decision rests on frames after the one before, so that it takes k of them, and no frame counts for both.
    """

    def __init__(self, threshold: FlagThreshold) -> None:
        self._threshold = threshold
        self._frames: deque[tuple[int, float]] = deque(maxlen=threshold.n)
        self.standing = False

    def update(self, frame: int, probability: float) -> Raise | Clear | None:
        """What this frame's probability decides, if anything."""
        self._frames.append((frame, probability))
        return self._decide()

    def revise(self, frame: int, probability: float) -> Raise | Clear | None:
        """What it decides that a frame's probability is another than was thought; nothing where it no longer counts."""
        for i, (remembered, _) in enumerate(self._frames):
            if remembered == frame:
                self._frames[i] = (frame, probability)
                return self._decide()
        return None

    @property
    def latest(self) -> int | None:
        """The newest frame of those that count now."""
        return self._frames[-1][0] if self._frames else None

    def _decide(self) -> Raise | Clear | None:
        decision = self._clear() if self.standing else self._raise()
        if decision is not None:
            self.standing = not self.standing
            self._frames.clear()
        return decision

    def _raise(self) -> Raise | None:
        above = sum(p >= self._threshold.raise_at for _, p in self._frames)
        if above < self._threshold.k:
            return None
        onset = self._onset()
        frames = list(self._frames)
        return Raise(first_frame=frames[onset][0], above=above, of=len(frames), probability=median(p for _, p in frames[onset:]))

    def _clear(self) -> Clear | None:
        below = sum(p < self._threshold.clear_at for _, p in self._frames)
        if below < self._threshold.k_to_clear:
            return None
        return Clear(below=below, of=len(self._frames), probability=median(p for _, p in self._frames))

    def _onset(self) -> int:
        """Where the sum of +1 (above `raise_at`) and -1 (below `clear_at`) from there to the end is largest; ties go to the earliest.

        Page's change-point estimate (Biometrika 41 (1954) 100) on signs: one stray frame long before does not move it.
        """
        onset = total = largest = 0
        for i in range(len(self._frames) - 1, -1, -1):
            probability = self._frames[i][1]
            above = probability >= self._threshold.raise_at
            total += 1 if above else -1 if probability < self._threshold.clear_at else 0
            if above and total >= largest:
                onset, largest = i, total
        return onset
