"""A tracked run with the slow lane beside it: the embedded indexer on simulated spot lists, some frames late."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from triage.core import Decay, Indexed, Judgement, Run, ShellIntensities, Spots, Verdict
from triage.decay import DecayTracker
from triage.decay.evidence import Floats
from triage.decay.fusion import Fusion
from triage.indexing import EmbeddedIndexer

MIN_SPOTS = 8
"""A frame with fewer does not diffract (contract, section 7)."""
EVERY = 10
"""Every so manieth diffracting frame is indexed, as long as the tracker wants a lattice: the fifth is the first."""
LATE = 5
"""Frames that go by until the lattice comes: 50 ms at 100 frames a second, which one frame's indexing takes."""
MOST_TRIES = 6
"""Frames that are indexed in vain before no further one is: crystals of a few atoms, or next to no spots."""


class Keeping(DecayTracker):
    """Keeps the evidence of every block, and the block's last frame."""

    def __init__(self, run: Run, fusion: Fusion | None = None) -> None:
        super().__init__(run, fusion=fusion)
        self.taken: list[Floats] = []
        self.at: list[int] = []

    def _weigh(self, features: Floats | None, frame: int) -> None:
        super()._weigh(features, frame)
        if features is not None:
            self.taken.append(features)
            self.at.append(frame)


def tracked(
    tracker: DecayTracker, run: Run, frames: Iterable[tuple[int, Spots]], *, index: bool = True
) -> Iterator[tuple[int, Decay | None]]:
    """(Frame, what is said of it) of every frame; those of fewer than MIN_SPOTS spots are judged not to diffract."""
    verdicts = (verdict_of(run.id, frame, with_spots(spots), diffracts=len(spots) >= MIN_SPOTS) for frame, spots in frames)
    return followed(tracker, run, verdicts, index=index)


def followed(tracker: DecayTracker, run: Run, verdicts: Iterable[Verdict], *, index: bool = True) -> Iterator[tuple[int, Decay | None]]:
    """(Frame, what is said of it) of every verdict, which hold spots in their shells and a judgement."""
    indexer, waiting = EmbeddedIndexer(), list[tuple[int, int, Indexed]]()
    diffracting, tries = 0, 0
    for verdict in verdicts:
        frame = verdict.frame
        if waiting and frame >= waiting[0][0]:
            _, at, indexed = waiting.pop(0)
            tracker.indexed(at, indexed)
        yield frame, tracker.update(verdict)
        spots = None if verdict.shells is None else verdict.shells.spots
        if not index or spots is None or verdict.judgement is None or not verdict.judgement.non_diffraction < 0.5:
            continue
        diffracting += 1
        if diffracting % EVERY == EVERY // 2 and tracker.wants_lattice and tries < MOST_TRIES:
            tries += 1
            waiting.append((frame + LATE, frame, indexer.index(spots, run)))


def with_spots(spots: Spots) -> ShellIntensities:
    """All that the tracker reads of the early lane's shells, without their sums."""
    return ShellIntensities(edges_per_A=(), intensity=(), variance=(), spots=spots)


def verdict_of(run_id: str, frame: int, shells: ShellIntensities | None, *, diffracts: bool) -> Verdict:
    """As a judge makes it, with a network that is sure."""
    lattices = (0.02, 0.96, 0.01, 0.01) if diffracts else (0.97, 0.02, 0.005, 0.005)
    judgement = Judgement(lattices=lattices, non_diffraction_kind=(0.25, 0.25, 0.25, 0.25), ice_rings=0.0, resolution_A=None)
    return Verdict(run_id=run_id, frame=frame, file=None, judgement=judgement, spots=None, shells=shells, latency_ms=0.0)
