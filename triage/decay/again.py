"""Reflections measured again in a rotation, once indexing says what they are called; until then frames wait, in bounded memory.

Between wedges a lattice is lost; the next one is brought onto its setting (`wedges.py`), so that reflections of all wedges are compared.

Where the header does not say about which axis the crystal turns (streams never do), it is the one of four, horizontal or vertical and
either way round, about which the frames so far get their names.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

from triage.core import Indexed, Run, RunKind, Solution
from triage.decay.frames import FrameSpots
from triage.decay.mates import Mates, Regrowth
from triage.decay.names import Names
from triage.decay.shells import Floats
from triage.decay.wedges import setting
from triage.geometry import Geometry, Vector

_MOST_WAITING = 30_000
"""Spots that wait for a lattice; past that the oldest frames are let go."""
_LEAST_FRAMES, _SHARE = 5, 0.08
"""New frames, and share of the frames so far, after which reflections are compared anew."""
_LEAST_INDEXED = 0.5
"""Share of a frame's spots that a lattice must explain."""
_AXES: tuple[Vector, ...] = ((1.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, -1.0, 0.0))
_LEAST_NAMED, _CLEARLY = 0.6, 0.2
"""Share of the spots that must get a name about the axis that is taken, and how far it must be ahead of the next."""
_MOVED_PX = 2.0
"""From where the header has the beam to where the lattice has it; what is nearer is the error of one frame."""


class Again:
    """Of one run. For stills, and without geometry or the step of the rotation, it never says anything."""

    def __init__(self, run: Run) -> None:
        self._geometry, self._axis = run.geometry, run.header.rotation_axis
        self._step_deg = run.header.omega_step_deg or 0.0
        self._able = run.kind is RunKind.ROTATION and self._geometry is not None and bool(self._step_deg)
        self._waiting: deque[FrameSpots] = deque()
        self._spots = 0
        self._names: Names | None = None
        self._mates: Mates | None = None
        self._spindle: Vector | None = None
        self._lattice: Floats | None = None  # of the last names that were believed, in the setting of the mates
        self._frames, self._due = 0, 0.0
        self._before: Regrowth | None = None  # by a lattice that was lost, and that the next could not be brought onto
        self.found: Regrowth | None = None
        """What was known when reflections were last compared."""

    @property
    def wants_lattice(self) -> bool:
        """Whether an indexed frame would help."""
        return self._able and self._names is None

    def orient(self, frame: int, indexed: Indexed) -> None:
        """A frame's strongest lattice; one that explains too little of it, or comes beside one that is believed, changes nothing."""
        if self._geometry is None or not self.wants_lattice or not indexed.solutions:
            return
        solution = indexed.solutions[0]
        if solution.fraction_indexed < _LEAST_INDEXED:
            return
        geometry = _moved(self._geometry, indexed.beam_shift_px)
        axis = self._axis or self._turned_about(solution, frame, geometry)
        if axis is not None:
            self._names, self._spindle = Names(solution, frame, axis, self._step_deg, geometry), axis
            self._go_on(self._names, axis, solution.bravais)

    def _go_on(self, names: Names, axis: Vector, bravais: str) -> None:
        """Goes on with the reflections so far where the new lattice is that of the last names, as in another wedge; or begins anew."""
        if self._mates is not None and self._lattice is not None and self._mates.bravais == bravais:
            rotation = setting(self._lattice, names.lattice, axis, self._mates.candidates, self._mates.group)
            if rotation is not None:
                names.reindex(rotation)
                return
        self._mates, self._lattice, self._before = Mates(bravais), None, self.found

    def _turned_about(self, solution: Solution, frame: int, geometry: Geometry) -> Vector | None:
        """The axis of _AXES about which most spots of the frames that wait have a name; None where that is not clear."""
        if not self._waiting:
            return None
        shares = []
        for axis in _AXES:
            names = Names(solution, frame, axis, self._step_deg, geometry)
            names.passages(list(self._waiting))
            shares.append((names.named_share, axis))
        (second, _), (best, axis) = sorted(shares)[-2:]
        return axis if best >= _LEAST_NAMED and best - second >= _CLEARLY else None

    def add(self, spots: FrameSpots) -> None:
        """Takes a diffracting frame."""
        if not self._able:
            return
        self._frames += 1
        self._waiting.append(spots)
        self._spots += len(spots.intensity)
        while self._spots > _MOST_WAITING:
            self._spots -= len(self._waiting.popleft().intensity)

    def look(self) -> Regrowth | None:
        """What is known by now; compared anew where enough has come since."""
        if self._names is None or self._mates is None or self._frames < self._due or not self._waiting:
            return self.found
        self._due = self._frames + max(_LEAST_FRAMES, _SHARE * self._frames)
        passages = self._names.passages(list(self._waiting))
        self._waiting.clear()
        self._spots = 0
        if self._names.is_lost:
            self._names = None
        else:
            self._axis, self._lattice = self._spindle, self._names.lattice
            self._mates.add(passages)
            now = self._mates.result()
            if self._before is not None and (now is None or now.z < self._before.z):
                now = self._before
            self.found = now
        return self.found


def _moved(geometry: Geometry, shift_px: tuple[float, float] | None) -> Geometry:
    if shift_px is None or math.hypot(*shift_px) < _MOVED_PX:
        return geometry
    return replace(geometry, beam_px=(geometry.beam_px[0] + shift_px[0], geometry.beam_px[1] + shift_px[1]))
