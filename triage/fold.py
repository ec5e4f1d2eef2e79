"""What is remembered of one run: its books, its decay reference and its flag policies. Pure; verdicts come in frame order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from triage.core import (
    Decay,
    Flag,
    FlagPolicy,
    Indexed,
    IndexingPolicy,
    Lost,
    Model,
    Progress,
    Record,
    Run,
    RunFinished,
    RunStarted,
    Verdict,
)
from triage.slow_lane import Known, Outcome
from triage.witness import Witness

_BLOCK = 65_536


class Tracker(Protocol):
    """Compares a frame with the run's own reference frames; None where that is meaningless."""

    def update(self, verdict: Verdict) -> Decay | None:
        """The decay of this frame; called for every judged frame, in order."""
        ...

    def indexed(self, frame: int, indexed: Indexed) -> None:
        """What indexing found in one of the frames; it may come much later than the frame."""
        ...


class IndexSet:
    """Which frame numbers have been seen; bits in blocks, so that millions of frames or a wild number cost little."""

    def __init__(self) -> None:
        self._blocks: dict[int, bytearray] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, index: int) -> None:
        """Adds a frame number; one seen before changes nothing."""
        block = self._blocks.setdefault(index // _BLOCK, bytearray(_BLOCK // 8))
        byte, bit = divmod(index % _BLOCK, 8)
        if not block[byte] >> bit & 1:
            block[byte] |= 1 << bit
            self._size += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldParts:
    """What every run's fold is made of; the factories give fresh, empty memories."""

    model: Model | None = None
    config: dict[str, Any] = field(default_factory=dict)
    tracker: Callable[[Run], Tracker | None] = lambda _run: None
    policies: Callable[[Run], Sequence[FlagPolicy]] = lambda _run: ()
    witness: Callable[[], Witness] = Witness


class RunFold:
    """One run from its first record to its last."""

    def __init__(self, run: Run, parts: FoldParts) -> None:
        self.run = run
        self.last_frame = 0
        self.first_failure: str | None = None
        self._parts = parts
        self._tracker = parts.tracker(run)
        self._policies = list(parts.policies(run))
        self._witness = parts.witness()
        self._progress = Progress()
        self._announced_seen = IndexSet()
        self._unnumbered = 0  # received, but nobody can say which frame it was
        self._flags: Counter[str] = Counter()

    @property
    def progress(self) -> Progress:
        """The books so far."""
        return self._progress

    def start(self) -> RunStarted:
        """The run's first record."""
        return RunStarted(run=self.run, model=self._parts.model, config=self._parts.config)

    def judged(self, verdict: Verdict, latency_ms: float) -> Iterator[Record]:
        """The verdict as it is recorded, without its spots, then the flags it raises or clears."""
        failed = verdict.error is not None
        self._count("failed" if failed else "judged", 1, verdict.frame)
        self.last_frame = verdict.frame
        decay = self._tracker.update(verdict) if self._tracker is not None and not failed else None
        recorded = replace(verdict, decay=decay, latency_ms=latency_ms, found=None)
        if failed and self.first_failure is None:
            self.first_failure = verdict.error
        yield recorded
        for policy in self._policies:
            for flag in policy.update(recorded, self._progress):
                yield self.note(flag)

    @property
    def known(self) -> Known:
        """The run's own cell and beam centre, once indexing has shown them."""
        return self._witness.known

    def indexed(self, outcome: Outcome) -> Iterator[Record]:
        """The indexing record of a frame, then the flags it raises or clears."""
        if self._tracker is not None:
            self._tracker.indexed(outcome.frame, outcome.indexed)
        record = self._witness.record(outcome)
        yield record
        for policy in self._policies:
            if isinstance(policy, IndexingPolicy):
                for flag in policy.witness(record):
                    yield self.note(flag)

    def lost(self, loss: Lost) -> Iterator[Record]:
        """Books a loss; a frame that failed before it could be judged gets its verdict, where its number is known."""
        if loss.what == "failed" and loss.index is not None and loss.count == 1:
            verdict = Verdict(
                run_id=self.run.id,
                frame=loss.index,
                file=None,
                judgement=None,
                spots=None,
                latency_ms=0.0,
                error=loss.reason or "undecodable",
            )
            yield from self.judged(verdict, 0.0)
            return
        if loss.what == "failed" and self.first_failure is None:
            self.first_failure = loss.reason or None
        self._count(loss.what, loss.count, loss.index)

    def note(self, flag: Flag) -> Flag:
        """Counts a raised flag, and gives it back."""
        if flag.state == "raised":
            self._flags[flag.flag] += 1
        return flag

    def finish(self, *, complete: bool, reason: str | None) -> RunFinished:
        """The run's last record. A run of which announced frames never came is not complete."""
        expected = self.run.header.frames_expected
        missing = max(0, expected - len(self._announced_seen) - self._unnumbered) if expected is not None else 0
        self._progress = replace(self._progress, missing=missing)
        if complete and missing:
            complete, reason = False, f"{missing} of {expected} announced frames never came"
        return RunFinished(
            run_id=self.run.id,
            progress=self._progress,
            flags=dict(self._flags),
            indexed=self._witness.n_indexed,
            wall_s=max(0.0, (datetime.now(UTC) - self.run.started_at).total_seconds()),
            complete=complete,
            reason=reason,
        )

    def _count(self, what: str, count: int, index: int | None) -> None:
        before = self._progress
        expected = self.run.header.frames_expected
        if index is None:
            self._unnumbered += count
        elif expected is not None and 0 <= index < expected:
            self._announced_seen.add(index)
        self._progress = replace(
            before,
            received=before.received + count,
            judged=before.judged + (count if what == "judged" else 0),
            dropped=before.dropped + (count if what == "dropped" else 0),
            failed=before.failed + (count if what == "failed" else 0),
        )
