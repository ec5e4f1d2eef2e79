"""Persistence joined with a report: what every policy on probabilities is made of."""

from __future__ import annotations

from collections.abc import Callable

from triage.core import Flag, Judgement, Severity
from triage.flags.persistence import Clear, FlagThreshold, Persistence, Raise
from triage.flags.prior import Lattices, at_prior
from triage.flags.report import Report, Words
from triage.flags.settings import PriorShift


class Watch:
    """Raises and clears one flag of one run on its probability, frame by frame."""

    def __init__(self, run_id: str, flag: str, threshold: FlagThreshold, severity: Severity, report: Report | None = None) -> None:
        self._persistence = Persistence(threshold)
        self._report = report or Report(run_id, flag)
        self._severity = severity
        self._standing: Flag | None = None

    @property
    def standing(self) -> bool:
        """Whether the flag is raised and not cleared."""
        return self._standing is not None

    def update(
        self,
        frame: int,
        probability: float,
        why: Callable[[Raise], str],
        why_not: Callable[[Clear], str],
        onset: Callable[[], int] | None = None,
    ) -> list[Flag]:
        """No flag, or one; the sentences are made only when one is needed. `onset` knows better where the trouble begins."""
        return self._decided(self._persistence.update(frame, probability), frame, why, why_not, onset)

    def revise(self, frame: int, probability: float, why: Callable[[Raise], str], why_not: Callable[[Clear], str]) -> list[Flag]:
        """What it decides, at the newest frame, that an earlier frame's probability is another than was thought."""
        latest = self._persistence.latest
        return [] if latest is None else self._decided(self._persistence.revise(frame, probability), latest, why, why_not)

    def _decided(
        self,
        decision: Raise | Clear | None,
        frame: int,
        why: Callable[[Raise], str],
        why_not: Callable[[Clear], str],
        onset: Callable[[], int] | None = None,
    ) -> list[Flag]:
        match decision:
            case Raise():
                words = Words(severity=self._severity, reason=why(decision), probability=decision.probability)
                first_frame = decision.first_frame if onset is None else onset()
                self._standing = self._report.raised(first_frame, frame, words)
                return [self._standing]
            case Clear() if self._standing is not None:
                words = Words(severity=Severity.INFO, reason=why_not(decision), probability=decision.probability)
                cleared = self._report.cleared(self._standing, frame, words)
                self._standing = None
                return [cleared]
            case _:
                return []


def lattices_of(judgement: Judgement, prior: PriorShift | None) -> Lattices:
    """The judgement's lattice probabilities, at the beamline's base rates where they are given."""
    return judgement.lattices if prior is None else at_prior(judgement.lattices, prior.from_rates, prior.to_rates)
