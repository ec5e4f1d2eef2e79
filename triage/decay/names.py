"""Spots of a rotation by name: each frame's q turned back by the rotation angle, times the inverse of the lattice's basis, rounded.

A lattice comes from the slow lane, of one frame, and is refined on all spots that it names. What a reflection shows on its way through the
sphere is one passage: its brightest frame, corrected for the speed at which it goes through (Lorentz) and for polarisation, so that the
same reflection met again, or one that symmetry makes equal, can be compared (`mates.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import gemmi
import numpy as np
import numpy.typing as npt

from triage.core import Solution
from triage.decay.frames import FrameSpots
from triage.decay.shells import Floats, Ints, middle
from triage.geometry import Geometry, Vector

Bools = npt.NDArray[np.bool_]

_BASE, _HALF = 8192, 4096
"""Indices are packed into one integer, each between -_HALF and _HALF."""
_NEAR = 0.2
"""Of an index from a whole number, within which a spot has a name at first; later three times the spread of those that have one."""
_NEAREST, _SPREADS = 0.06, 3.0
_LEAST_NAMED = 0.5
"""Share of the spots of about _TRIED frames that must get a name, of a lattice that is believed."""
_TRIED = 6.0
_FORGET = 0.98
"""What a frame counts for in the refinement once another has come: cells grow with dose."""
_ROUNDS = 3
"""Of naming and refining, at first: the lattice of one frame is known to some tenths of an index."""
_SINGULAR = 1e-6
_MOST_SPOTS = 120
"""Strongest spots of a frame that get names."""
_LONGEST_DEG = 3.0
"""Of rotation, past which a reflection lies next to the axis and says nothing."""
_GONE_AFTER = 2
"""Frames without it after which a reflection is through."""
_POLARISED = 0.99
"""Of a synchrotron's beam, in the plane of the ring, along the laboratory frame's x."""


class Passages(NamedTuple):
    """Reflections that went through the sphere; all of length n."""

    hkl: Ints
    """(n, 3)"""
    frame: Floats
    """Of the brightest part."""
    log_intensity: Floats
    """Of the brightest part, for a frame that records all of it."""
    variance: Floats
    """Of its logarithm, counting alone."""
    half_s2: Floats
    sweep: Floats
    """How far the sphere moves through the reflection in a frame, over s: with the rocking curve's width, what share one frame records."""

    def take(self, which: Bools | Ints) -> Passages:
        """Some of them."""
        return Passages._make(each[which] for each in self)


def packed(hkl: Ints) -> Ints:
    """(n, 3) indices as one integer each; of the opposite sign for Friedel mates."""
    return np.asarray((hkl[:, 0] * _BASE + hkl[:, 1]) * _BASE + hkl[:, 2])


def unpacked(keys: Ints) -> Ints:
    """(n, 3) indices of `packed` ones."""
    rest, third = np.divmod(keys + _HALF, _BASE)
    first, second = np.divmod(rest + _HALF, _BASE)
    return np.stack([first, second - _HALF, third - _HALF], axis=1)


class _Seen(NamedTuple):
    """What is known of reflections in the sphere; all of length n. The brightest frame's is kept of intensity, variance and q."""

    key: Ints
    first: Ints
    last: Ints
    frame: Ints
    intensity: Floats
    variance: Floats
    q: Floats
    """(n, 3) 1/A, laboratory frame."""

    def take(self, which: Bools | Ints) -> _Seen:
        """Some of them."""
        return _Seen._make(each[which] for each in self)


class Names:
    """Names the spots of a rotation's frames, in order; many frames at once cost little more than one."""

    def __init__(self, solution: Solution, frame: int, axis: Vector, step_deg: float, geometry: Geometry) -> None:
        """`solution` is of `frame`, in the middle of its exposure."""
        x, y, z = axis
        self._cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
        self._step = math.radians(step_deg)
        self._wavelength_A = geometry.wavelength_A
        self._origin, *along = geometry.laboratory_mm([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        self._pixels = np.array(along) - self._origin  # (2, 3) mm along slow and fast
        reciprocal = np.asarray(gemmi.UnitCell(*solution.cell).frac.mat.tolist(), dtype=np.float64).T  # Busing & Levy
        now = np.asarray(solution.orientation, dtype=np.float64).reshape(3, 3) @ reciprocal
        self._inverse = np.linalg.inv(self._back(now.T, np.full(3, frame)).T)
        self._near = _NEAR
        self._gh, self._hh = np.zeros((3, 3)), np.zeros((3, 3))
        self._seen, self._named = 0.0, 0.0
        self._begun: int | None = None
        self._open: _Seen | None = None

    @property
    def is_lost(self) -> bool:
        """Whether too few of the last frames' spots have a name: it was another lattice, or the crystal slipped."""
        return self._named < _LEAST_NAMED * self._seen

    @property
    def named_share(self) -> float:
        """Of the last frames' spots, those that have a name."""
        return self._named / max(self._seen, 1e-9)

    @property
    def lattice(self) -> Floats:
        """Reciprocal vectors as columns (3, 3), turned back to the run's start."""
        return np.linalg.inv(self._inverse)

    def reindex(self, rotation: Ints) -> None:
        """From now on the names are h where they were h R of this rotation (3, 3); before any spot is named."""
        self._inverse = np.linalg.inv(rotation).T @ self._inverse

    def passages(self, frames: Sequence[FrameSpots]) -> Passages:
        """Names the spots of further frames; the reflections that are through since."""
        if self._begun is None:
            self._begun = frames[0].frame
        frame = np.repeat([each.frame for each in frames], [min(len(each.intensity), _MOST_SPOTS) for each in frames])
        positions, intensity, variance = (
            np.concatenate([getattr(each, name)[:_MOST_SPOTS] for each in frames]) for name in ("positions_px", "intensity", "variance")
        )
        q = self._scattering_vectors(positions)
        g = self._back(q, frame)
        for _ in range(_ROUNDS if self._open is None else 1):
            index = g @ self._inverse.T
            whole = np.rint(index)
            first, second, third = np.abs(index - whole).T
            off = np.maximum(np.maximum(first, second), third)
            named = np.flatnonzero(off < self._near)
            hkl, at = whole[named], frame[named]
            self._refine(g[named], hkl, off[named], at, len(frames))
        keep = math.exp(-len(frames) / _TRIED)
        self._seen, self._named = keep * self._seen + len(off), keep * self._named + float(len(named))
        now = _Seen(packed(hkl.astype(np.int64)), at, at, at, intensity[named], variance[named], q[named])
        return self._corrected(self._through(now, frames[-1].frame))

    def _scattering_vectors(self, positions_px: Floats) -> Floats:
        """As `Geometry.scattering_vectors_per_A` (n, 3), for many calls with few positions."""
        ray = positions_px @ self._pixels + self._origin
        q = ray * (1.0 / (np.sqrt((ray * ray) @ np.ones(3)) * self._wavelength_A))[:, None]
        q[:, 2] -= 1.0 / self._wavelength_A
        return np.asarray(q)

    def _back(self, q: Floats, frame: Ints) -> Floats:
        """Turns vectors (n, 3) of the laboratory frame at the middle of frames (n,) back to the run's start (Rodrigues)."""
        angle = -(frame + 0.5)[:, None] * self._step
        once = q @ self._cross.T
        return np.asarray(q + np.sin(angle) * once + (1.0 - np.cos(angle)) * (once @ self._cross.T))

    def _refine(self, g: Floats, hkl: Floats, off: Floats, frame: Ints, n_frames: int) -> None:
        """Least squares of g = A h, recent frames first; the tolerance follows the spread."""
        if not len(off):
            return
        keep = _FORGET**n_frames
        weighted = hkl.T * _FORGET ** (frame[-1] - frame)
        self._gh = keep * self._gh + (weighted @ g).T
        self._hh = keep * self._hh + weighted @ hkl
        size = math.prod(self._hh.diagonal().tolist())
        if size > 0 and float(np.linalg.det(self._hh)) > _SINGULAR * size:
            self._inverse = self._hh @ np.linalg.inv(self._gh)  # of A = gh hh^-1
        self._near = min(max(0.5 * (self._near + _SPREADS * middle(off)), _NEAREST), _NEAR)

    def _through(self, now: _Seen, frame: int) -> _Seen:
        """Joins what is in the sphere with what `now` shows; gives, and forgets, what is through."""
        both = now if self._open is None else _Seen._make(np.concatenate(pair) for pair in zip(self._open, now, strict=True))
        order = np.lexsort((both.last, both.key))
        key, first, last = both.key[order], both.first[order], both.last[order]
        begins = np.append(True, (key[1:] != key[:-1]) | (first[1:] - last[:-1] > _GONE_AFTER))[: len(key)]
        at, of = np.flatnonzero(begins), begins.cumsum() - 1
        if not len(at):
            return both
        brightest = order[np.lexsort((both.intensity[order], of))[np.append(at[1:], len(of)) - 1]]
        first, last = first[at], np.maximum.reduceat(last, at)
        gone = last < frame - _GONE_AFTER
        through, still = np.flatnonzero(gone), np.flatnonzero(~gone)
        self._open = both.take(brightest[still])._replace(first=first[still], last=last[still])
        return both.take(brightest[through])._replace(first=first[through], last=last[through])

    def _corrected(self, done: _Seen) -> Passages:
        """Without those that the run's beginning cut short, and those next to the axis."""
        turned = (done.last - done.first + 1) * abs(self._step)
        done = done.take(np.flatnonzero((done.first > (self._begun or 0)) & (turned < math.radians(_LONGEST_DEG))))
        k1 = done.q * self._wavelength_A + np.array([0.0, 0.0, 1.0])
        speed = np.maximum(np.abs((k1 * (done.q @ self._cross.T)).sum(axis=1)), 1e-9)  # of the sphere, 1/A per rad
        polarised = _POLARISED * (1.0 - k1[:, 0] ** 2) + (1.0 - _POLARISED) * (1.0 - k1[:, 1] ** 2)  # Kahn et al. (1982)
        s2 = (done.q * done.q).sum(axis=1)
        return Passages(
            hkl=unpacked(done.key),
            frame=done.frame.astype(np.float64),
            log_intensity=np.log(done.intensity * speed / polarised),
            variance=done.variance / done.intensity**2,
            half_s2=0.5 * s2,
            sweep=abs(self._step) * speed / np.sqrt(s2),
        )
