"""Flag records of one run and flag, with ids that are unique within the results."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from triage.core import Flag, Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a flag says and how urgently."""

    severity: Severity
    reason: str
    """One sentence for the person at the beamline."""
    probability: float | None = None


class Report:
    """Writes the flags of one kind: a flag keeps its id from being raised to being cleared."""

    def __init__(self, run_id: str, flag: str) -> None:
        self._run_id, self._flag = run_id, flag
        self._counter = 0

    def raised(self, first_frame: int, frame: int, words: Words) -> Flag:
        """A flag with a fresh id."""
        self._counter += 1
        return Flag(
            id=f"{self._run_id}:{self._flag}:{self._counter}",
            run_id=self._run_id,
            flag=self._flag,
            state="raised",
            first_frame=first_frame,
            frame=frame,
            severity=words.severity,
            probability=words.probability,
            reason=words.reason,
            at=datetime.now(UTC),
        )

    def cleared(self, standing: Flag, frame: int, words: Words) -> Flag:
        """The end of a standing flag, with its id and its first frame."""
        return Flag(
            id=standing.id,
            run_id=self._run_id,
            flag=self._flag,
            state="cleared",
            first_frame=standing.first_frame,
            frame=frame,
            severity=words.severity,
            probability=words.probability,
            reason=words.reason,
            at=datetime.now(UTC),
        )
