"""What the page shows of a run's indexing: counts, agreement, cells."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from triage.core import Agreement, Indexing, IndexingStatus
from triage.records import to_json
from triage.slow_lane.jobs import LAGS


@dataclass(slots=True)
class IndexingTotals:
    """Sums over a run's indexing records."""

    statuses: Counter[IndexingStatus] = field(default_factory=Counter)
    agreement: Counter[Agreement] = field(default_factory=Counter)
    lagged: int = 0
    engine: str = ""
    cells: list[dict[str, Any]] = field(default_factory=list)

    def add(self, record: Indexing) -> None:
        """Adds a record up."""
        self.statuses[record.indexed.status] += 1
        self.lagged += record.indexed.reason == LAGS
        self.engine = record.engine
        if record.agreement is not None:
            self.agreement[record.agreement] += 1
        if record.cells:
            self.cells = to_json(record)["run_cells"]

    def shown(self) -> dict[str, Any]:
        """In JSON's own types; `tried` are those that were not skipped."""
        skipped = self.statuses[IndexingStatus.SKIPPED]
        return {
            "engine": self.engine,
            "tried": self.statuses.total() - skipped,
            "indexed": self.statuses[IndexingStatus.INDEXED],
            "failed": self.statuses[IndexingStatus.FAILED],
            "skipped": skipped - self.lagged,
            "lagged": self.lagged,
            "agreement": {kind.value: self.agreement[kind] for kind in Agreement},
            "cells": self.cells,
        }
