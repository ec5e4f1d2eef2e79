"""`multi_lattice`: two or more lattices in the frames that diffract, by the network alone or with indexing's evidence."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from triage.core import Flag, Indexing, IndexingStatus, Progress, Run, Severity, Verdict
from triage.flags.persistence import Clear, FlagThreshold, Raise
from triage.flags.prior import Lattices
from triage.flags.settings import PriorShift
from triage.flags.watch import Watch, lattices_of
from triage.fusion import expit, logit


class MultiLatticePolicy:
    """`multi_lattice`: two or more lattices in the frames that diffract; the others count neither way."""

    def __init__(self, run: Run, threshold: FlagThreshold, prior: PriorShift | None = None, frames: str = "diffracting frames") -> None:
        self._watch = Watch(run.id, "multi_lattice", threshold, Severity.WARNING)
        self._prior, self._frames = prior, frames

    def update(self, verdict: Verdict, progress: Progress) -> Iterable[Flag]:  # noqa: ARG002  the seam's signature
        """A flag where this frame decides one."""
        if verdict.judgement is None:
            return []
        lattices: Lattices = lattices_of(verdict.judgement, self._prior)
        if lattices[0] >= 0.5:
            return []
        return self._watch.update(verdict.frame, lattices[2] + lattices[3], self._why, self._why_not)

    def _why(self, found: Raise) -> str:
        return (
            f"Two or more lattices in {found.above} of the last {found.of} {self._frames} (since frame {found.first_frame}, "
            f"median probability {found.probability:.2f}); re-centre or shrink the beam, or expect mixed indexing."
        )

    def _why_not(self, found: Clear) -> str:
        return (
            f"A single lattice in {found.below} of the last {found.of} {self._frames} (median probability of more {found.probability:.2f})."
        )


class FusedMultiLatticePolicy(MultiLatticePolicy):
    """The same, with a frame's fused probability in the place of the network's once it is there.

    Nothing waits for indexing: a frame counts with the network's probability until its indexing record comes, and with the fused one
    from then on, as long as it is among the frames that count (the last n since the flag was last raised or cleared). A record may
    decide the flag, at the newest frame. One that comes later than that changes nothing.
    """

    def __init__(self, run: Run, threshold: FlagThreshold, prior: PriorShift | None = None, frames: str = "diffracting frames") -> None:
        super().__init__(run, threshold, prior, frames)
        self._shifts: OrderedDict[int, float] = OrderedDict()
        self._n = threshold.n

    def update(self, verdict: Verdict, progress: Progress) -> Iterable[Flag]:
        """A flag where this frame decides one."""
        if verdict.judgement is not None:
            lattices = lattices_of(verdict.judgement, self._prior)
            self._shifts[verdict.frame] = logit(lattices[2] + lattices[3]) - logit(verdict.judgement.multi_lattice)
            while len(self._shifts) > self._n:
                self._shifts.popitem(last=False)
        return super().update(verdict, progress)

    def witness(self, indexing: Indexing) -> Iterable[Flag]:
        """A flag where this evidence decides one."""
        shift = self._shifts.get(indexing.frame)
        if shift is None or indexing.multi_lattice is None or indexing.indexed.status is not IndexingStatus.INDEXED:
            return []
        return self._watch.revise(indexing.frame, expit(logit(indexing.multi_lattice) + shift), self._why, self._why_not)
