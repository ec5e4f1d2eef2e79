"""Wedges of one crystal: the lattice indexed after a jump of the rotation angle, brought onto the setting of the one before.

Each indexing may choose another of the lattice's equivalent settings. At what angle a wedge begins nobody says (the header has one start
and one step), but between wedges a crystal has turned about the spindle alone: that tells the settings apart.
"""

from __future__ import annotations

import math

import numpy as np

from triage.decay.shells import Floats, Ints
from triage.geometry import Vector

_TILTED_DEG = 1.0
"""What a turn may move the spindle by: four times the most of 136 jumps between simulated wedges (0.24 deg; the median is 0.02). The next
setting was 11 deg away or more in 98 of 100. Of turns drawn at random one in 13,000 moves it by less."""
_STRETCHED = 0.025
"""By how much lengths may differ from one lattice to the other; in those 136 it was 1.1 % at most."""


def setting(before: Floats, now: Floats, axis: Vector, candidates: Ints, believed: Ints) -> Ints | None:
    """The one of the `candidates` (m, 3, 3) that brings the lattice of now onto the setting of before.

    Lattices are bases (3, 3) of reciprocal vectors as columns, turned back to the run's start. What is called h before is h R now. Several
    will do where they differ by a rotation of the group `believed` (n, 3, 3), under which intensities are equal; None where none does, or
    several that differ otherwise.
    """
    turns = now @ candidates.transpose(0, 2, 1) @ np.linalg.inv(before)  # (m, 3, 3), rotations where the cells are alike
    left, stretch, right = np.linalg.svd(turns)
    moved = left @ (right @ np.asarray(axis))[..., None]
    along = moved[..., 0] @ np.asarray(axis)
    fits = (np.abs(stretch - 1.0).max(axis=1) < _STRETCHED) & (along > math.cos(math.radians(_TILTED_DEG)))
    found = candidates[fits]
    if not len(found):
        return None
    back = np.rint(np.linalg.inv(found[0])).astype(np.int64)
    known = {rotation.tobytes() for rotation in believed}
    return found[0] if all((other @ back).tobytes() in known for other in found) else None
