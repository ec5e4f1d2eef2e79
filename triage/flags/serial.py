"""Serial runs: most frames may be empty; what matters is that the hit rate has not fallen."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from triage.core import Flag, Progress, Run, Severity, Verdict
from triage.flags.persistence import Clear, Raise
from triage.flags.settings import FlagsSettings
from triage.flags.watch import Watch, lattices_of

_SMALLEST_WINDOW = 50


class HitRatePolicy:
    """`non_diffraction` of a serial run: the hit rate of the last frames fell against that of the frames before them.

    The probability is Bayes' for two binomial hypotheses: the run's own rate, or `fall_to` of it. The window is as long as it must be
    to expect `expected_hits` at the run's own rate. While the flag stands, the run's own rate is that of before.
    """

    def __init__(self, run: Run, settings: FlagsSettings) -> None:
        self._watch = Watch(run.id, "non_diffraction", settings.non_diffraction, Severity.CRITICAL)
        self._serial, self._prior = settings.serial, settings.prior
        self._window: deque[tuple[int, bool]] = deque()
        self._hits_now = 0
        self._hits_before = 0
        self._frames_before = 0

    def update(self, verdict: Verdict, progress: Progress) -> Iterable[Flag]:  # noqa: ARG002  the seam's signature
        """A flag where this frame decides one."""
        if verdict.judgement is None:
            return []
        hit = lattices_of(verdict.judgement, self._prior)[0] < 0.5
        self._window.append((verdict.frame, hit))
        self._hits_now += hit
        self._slide()
        if self._hits_before < self._serial.expected_hits:
            return []
        rate = self._rate_before()
        flags = self._watch.update(
            verdict.frame,
            self._fallen(rate),
            lambda found: self._why(found, rate),
            self._why_not,
            lambda: self._onset(rate),
        )
        if flags and not self._watch.standing:
            self._window.clear()  # the empty frames of before must not raise it again
            self._hits_now = 0
        return flags

    def _slide(self) -> None:
        """Frames older than the window become part of the run's own rate."""
        size = self._window_size()
        while len(self._window) > size:
            _, hit = self._window.popleft()
            self._hits_now -= hit
            if not self._watch.standing:
                self._hits_before += hit
                self._frames_before += 1

    def _window_size(self) -> int:
        known = self._hits_before >= self._serial.expected_hits
        hits = self._hits_before if known else self._hits_before + self._hits_now
        frames = self._frames_before if known else self._frames_before + len(self._window)
        if hits == 0:
            return self._serial.largest_window
        return min(max(math.ceil(self._serial.expected_hits * frames / hits), _SMALLEST_WINDOW), self._serial.largest_window)

    def _rate_before(self) -> float:
        """The run's own rate, less its standard error: a lucky start is no standard."""
        sure = self._hits_before - math.sqrt(self._hits_before)
        return min(max(sure / self._frames_before, 1e-6), 1 - 1e-3)

    def _steps(self, rate: float) -> tuple[float, float]:
        """By how much a hit, and a miss, change the log odds of a fallen rate."""
        fallen = self._serial.fall_to * rate
        return math.log(self._serial.fall_to), math.log((1 - fallen) / (1 - rate))

    def _fallen(self, rate: float) -> float:
        of_hit, of_miss = self._steps(rate)
        log_odds = self._hits_now * of_hit + (len(self._window) - self._hits_now) * of_miss
        log_odds += math.log(self._serial.prior / (1 - self._serial.prior))
        return 1.0 / (1.0 + math.exp(min(max(-log_odds, -500.0), 500.0)))

    def _onset(self, rate: float) -> int:
        """The frame from which on a fallen rate is likeliest (Page, Biometrika 41 (1954) 100)."""
        of_hit, of_miss = self._steps(rate)
        onset, total, largest = self._window[-1][0], 0.0, 0.0
        for frame, hit in reversed(self._window):
            total += of_hit if hit else of_miss
            if total >= largest:
                onset, largest = frame, total
        return onset

    def _why(self, found: Raise, rate: float) -> str:
        return (
            f"The hit rate fell to {self._shares()} before (since frame {self._onset(rate)}, probability {found.probability:.2f}); "
            "check the jet or the chip, the beam and the sample reservoir."
        )

    def _why_not(self, found: Clear) -> str:
        return f"The hit rate is rising again: {self._shares()} before (probability of a fall {found.probability:.2f})."

    def _shares(self) -> str:
        now, n_now, before = self._hits_now / len(self._window), len(self._window), self._hits_before / self._frames_before
        return f"{now:.1%} of the last {n_now} frames, against {before:.1%} of the {self._frames_before}"
