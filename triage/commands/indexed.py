"""What a run's indexing records add up to, in the words of the summary."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from triage.core import Agreement, CellShare, Flag, Indexing, IndexingStatus, RunKind, RunStarted
from triage.flags import FlagsSettings, FlagThreshold, Persistence, Raise
from triage.flags.cells import cell_words
from triage.slow_lane.jobs import LAGS


class LeadTime:
    """How much earlier `multi_lattice` was raised than indexing alone would have raised it, by the same rule on its records as they came.

    A frame in which indexing found several lattices counts as 1, another that it indexed as 0.
    """

    def __init__(self, threshold: FlagThreshold, clock: Callable[[], float] = time.monotonic) -> None:
        self._shadow = Persistence(threshold)
        self._clock = clock
        self.raised_s: float | None = None
        """When the flag was first raised, by the clock."""
        self.shown_s: float | None = None
        """When indexing would first have raised it."""

    def add(self, record: Flag | Indexing) -> None:
        """The next record, when it comes."""
        if isinstance(record, Flag):
            if record.flag == "multi_lattice" and record.state == "raised" and self.raised_s is None:
                self.raised_s = self._clock()
        elif record.indexed.status is IndexingStatus.INDEXED:
            decided = self._shadow.update(record.frame, float(len(record.indexed.solutions) > 1))
            if isinstance(decided, Raise) and self.shown_s is None:
                self.shown_s = self._clock()

    @property
    def lead_s(self) -> float | None:
        """Seconds; negative where indexing was first; None where one of the two never said so."""
        return None if self.raised_s is None or self.shown_s is None else self.shown_s - self.raised_s

    def words(self) -> str:
        """For the summary; empty where neither showed several lattices."""
        if self.lead_s is not None:
            earlier = "before" if self.lead_s >= 0 else "after"
            return f"multi_lattice was raised {abs(self.lead_s):.1f} s {earlier} indexing alone would have"
        if self.raised_s is not None:
            return "multi_lattice was raised; indexing alone would not have by the run's end"
        return "" if self.shown_s is None else "indexing alone would have raised multi_lattice; the flag was not raised"


@dataclass(slots=True)
class IndexingTally:
    """What the indexing records of one run add up to."""

    lead: LeadTime
    statuses: Counter[IndexingStatus] = field(default_factory=Counter)
    agreement: Counter[Agreement] = field(default_factory=Counter)
    lagged: int = 0
    """Frames worth indexing that were skipped because the lane lagged."""
    cells: tuple[CellShare, ...] = ()

    @classmethod
    def of(cls, started: RunStarted, clock: Callable[[], float] = time.monotonic) -> IndexingTally:
        """An empty one, with the thresholds that the run's flags have."""
        return cls(LeadTime(_threshold(started), clock))

    def add(self, record: Indexing) -> None:
        """Adds a record up."""
        self.lead.add(record)
        self.statuses[record.indexed.status] += 1
        self.lagged += record.indexed.reason == LAGS
        if record.agreement is not None:
            self.agreement[record.agreement] += 1
        self.cells = record.cells or self.cells

    @property
    def tried(self) -> int:
        """Frames that indexing was tried on."""
        return self.statuses.total() - self.statuses[IndexingStatus.SKIPPED]

    def share(self) -> str:
        """`83/90`: of the frames tried, those indexed; a dash where there are none."""
        return f"{self.statuses[IndexingStatus.INDEXED]}/{self.tried}" if self.tried else "-"

    def sentences(self) -> list[str]:
        """For below the table."""
        if not self.tried:
            return []
        indexed = f"indexed {self.statuses[IndexingStatus.INDEXED]} of {self.tried} frames"
        if self.lagged:
            indexed += f", an even sample: {self.lagged} more came faster than they were indexed"
        if failed := self.statuses[IndexingStatus.FAILED]:
            indexed += f"; {failed} failed"
        said = [indexed]
        if self.agreement:
            counts = [f"{self.agreement[kind]} {words}" for kind, words in AGREEMENT_WORDS.items()]
            said.append(f"several lattices: network and indexing {', '.join(counts)}")
        if self.cells:
            said.append("cells: " + "; ".join(f"{cell_words(cell)} in {cell.share:.0%}{_drift(cell)}" for cell in self.cells[:3]))
        if words := self.lead.words():
            said.append(words)
        return said


AGREEMENT_WORDS = {
    Agreement.AGREES: "agree",
    Agreement.NETWORK_ONLY: "by the network only",
    Agreement.CLASSICAL_ONLY: "by indexing only",
}


def _drift(cell: CellShare) -> str:
    drift = cell.drift_percent_per_1000_frames
    return "" if drift is None else f" (edges grow {drift:+.2f} % in 1000 frames)"


def _threshold(started: RunStarted) -> FlagThreshold:
    """That of `multi_lattice` in this run's configuration."""
    defaults, flags = FlagsSettings(), started.config.get("flags")
    serial = started.run.kind is RunKind.SERIAL
    found: Any = flags if isinstance(flags, Mapping) else {}
    for key in ("serial", "multi_lattice") if serial else ("multi_lattice",):
        found = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping):
        return defaults.serial.multi_lattice if serial else defaults.multi_lattice
    return FlagThreshold(**{name: found[name] for name in ("raise_at", "clear_at", "k", "n")})
