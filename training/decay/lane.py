"""A tracked run with the slow lane beside it: the embedded indexer on simulated spot lists, some frames late."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from training.decay.judge import MIN_SPOTS, verdict_of, with_spots
from triage.core import Decay, Run, Solution, Spots
from triage.decay import DecayTracker
from triage.indexing import EmbeddedIndexer

EVERY = 10
"""Every so manieth diffracting frame is indexed, as long as the tracker wants a lattice: the fifth is the first."""
LATE = 5
"""Frames that go by until the lattice comes: 50 ms at 100 frames a second, which one frame's indexing takes."""
MOST_TRIES = 6
"""Frames that are indexed in vain before no further one is: crystals of a few atoms, or next to no spots."""


def tracked(tracker: DecayTracker, run: Run, frames: Iterable[tuple[int, Spots]], *, index: bool = True) -> Iterator[tuple[int, Decay | None]]:
    """(Frame, what the tracker says of it) of every frame; those of fewer than MIN_SPOTS spots are judged not to diffract."""
    indexer, waiting = EmbeddedIndexer(), list[tuple[int, int, tuple[Solution, ...]]]()
    diffracting, tries = 0, 0
    for frame, spots in frames:
        if waiting and frame >= waiting[0][0]:
            _, at, solutions = waiting.pop(0)
            tracker.indexed(at, solutions)
        diffracts = len(spots) >= MIN_SPOTS
        yield frame, tracker.update(verdict_of(run.id, frame, with_spots(spots), diffracts=diffracts))
        diffracting += diffracts
        if index and diffracts and diffracting % EVERY == EVERY // 2 and tracker.wants_lattice and tries < MOST_TRIES:
            tries += 1
            waiting.append((frame + LATE, frame, indexer.index(spots, run).solutions))
