"""Frame by frame: reference, window, fit, change."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from triage.core import Decay, Indexed, Run, RunKind, Verdict
from triage.decay.again import Again
from triage.decay.change import SCALE_ERROR_A2, Change, ChangeTest
from triage.decay.evidence import Evidence, Floats
from triage.decay.fit import Fit
from triage.decay.frames import FrameSpots, Sums, frame_spots, likeness
from triage.decay.fusion import UNSEEN, Fusion, Said, released
from triage.decay.mates import Regrowth
from triage.decay.network import NetworkWitness
from triage.decay.reference import Reference, recur
from triage.pair import PairHead

_FITS_A_WINDOW = 2
"""A window is fitted anew so often while its frames are replaced: more often, it would say the same again."""
_LEAST_FRAMES_A_FIT = 3
"""Nor is it fitted anew before so many frames have come: the fit is the dearest part of a frame."""
_STILL_ERROR = 0.15
"""Relative error of delta_B in stills, where a sample of one and the same reflections stands for Wilson's distribution (training runs)."""
_LOG_SCALE_ERROR, _LOG_SCALE_SHARE = 0.05, 0.2
"""Error of the scale's logarithm beyond what is counted: at least, and for each e-fold that the correction of the threshold bridges
(80 training runs of seed 72: with both 93 % are within two standard deviations, without 87 %)."""
_BEGUN_Z = 2.0
"""Growth in standard deviations from which a beginning is named."""
_YOUNG_FRAMES = 100
"""Frames from the reference's first on in which a rotation is looked at twice as often, by blocks that begin half a block later (0022)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecaySettings:
    """How decay is judged; frames are diffracting ones."""

    reference: int = 12
    """Frames at the run's start that later ones are compared with, at least."""
    reference_spots: int = 300
    """Spots that they hold together, at least: until there are so many, or `reference_most` frames, the reference grows."""
    reference_most: int = 24
    still_reference: int = 5
    """Frames that are enough in stills whose reflections recur, where they hold `reference_spots`: damage does not wait."""


class DecayTracker:
    """Judges the decay of one run, frame by frame in order, against its first diffracting frames.

    The memory is bounded: the reference frames, a short window, and at most MOST_BLOCKS past blocks of some numbers.
    """

    def __init__(self, run: Run, settings: DecaySettings | None = None, fusion: Fusion | None = None, pair: PairHead | None = None) -> None:
        """`pair`: what the model file gives to compare frames by their appearances; without it the network has no word."""
        self._settings = settings or DecaySettings()
        self._judges = run.geometry is not None and run.kind not in (RunKind.SERIAL, RunKind.GRID)
        self._start: list[FrameSpots] = []
        self._reference: Reference | None = None
        self._window: deque[_Kept | None] = deque()
        self._series: list[_Blocks] = []
        self._taken = 0
        self._step_deg = abs(run.header.omega_step_deg or 0.0)
        self._may_recur = run.kind is RunKind.STILLS and not self._step_deg
        self._again = Again(run)
        self._network = NetworkWitness(pair)
        self._fusion = fusion or released()
        self._said: Said | None = None
        self._change: Change | None = None
        self._fit: Fit | None = None
        self._until_fit = 0

    def update(self, verdict: Verdict) -> Decay | None:
        """The decay at this frame; None where it is meaningless, before the reference is complete, or without enough spots."""
        if not self._judges or verdict.judgement is None or verdict.shells is None or verdict.shells.spots is None:
            return None
        if not verdict.judgement.non_diffraction < 0.5:
            self._keep(None)
            return None
        frame = frame_spots(verdict.frame, verdict.shells.spots, verdict.judgement.appearance)
        self._again.add(frame)
        if self._reference is None:
            self._start.append(frame)
            if self._complete():
                self._begin(Reference(self._start))
                self._start = []
            return None if self._reference is None else self._judged(self._reference)
        kept = _Kept(frame, self._reference.sums(frame))
        self._keep(kept)
        self._extend(self._reference, kept)
        return self._judged(self._reference)

    @property
    def reference(self) -> Reference | None:
        """The run's own start, once it is complete."""
        return self._reference

    @property
    def wants_lattice(self) -> bool:
        """Whether an indexed frame would help."""
        return self._again.wants_lattice

    def indexed(self, frame: int, indexed: Indexed) -> None:
        """What indexing found in a frame, whenever it comes: with it, reflections measured again are known."""
        self._again.orient(frame, indexed)

    def _complete(self) -> bool:
        n, wanted = len(self._start), self._settings
        if n >= wanted.reference_most:
            return True
        if sum(len(frame.intensity) for frame in self._start) < wanted.reference_spots:
            return False
        return n >= wanted.reference or (self._may_recur and n >= wanted.still_reference and recur(likeness(self._start, n - 1)))

    def _begin(self, reference: Reference) -> None:
        """The reference's own frames are the test's first blocks: damage that began in them goes on from there."""
        self._reference = reference
        self._network.begin([frame.appearance for frame in reference.kept])
        begin = (0,) if reference.same_reflections else (0, reference.window // 2)
        self._series = [_Blocks(reference, self._step_deg, skip) for skip in begin]
        self._window.clear()
        for frame in reference.kept:
            kept = _Kept(frame, reference.sums(frame))
            self._keep(kept)
            self._extend(reference, kept)

    def _keep(self, kept: _Kept | None) -> None:
        self._window.append(kept)
        size = self._reference.window if self._reference is not None else 1
        while len(self._window) > size:
            self._window.popleft()

    def _extend(self, reference: Reference, kept: _Kept) -> None:
        """Adds the frame to the blocks; each block that is full goes into its test."""
        self._taken += 1
        if self._taken > _YOUNG_FRAMES:
            del self._series[1:]
        for blocks in self._series:
            if not blocks.extend(kept, self._fit):
                continue
            if blocks.fit is not None:
                self._change = blocks.change
                self._network.look(blocks.appearances)
                self._weigh(blocks.features(self._again.look()), kept.frame.frame)
                if len(self._window) == reference.window and None not in self._window:
                    self._fit, self._until_fit = blocks.fit, max(reference.window // _FITS_A_WINDOW, _LEAST_FRAMES_A_FIT)

    def _weigh(self, features: Floats | None, frame: int) -> None:  # noqa: ARG002 - for those who keep what was weighed
        """Says anew how likely damage is, at this frame."""
        if features is not None:
            self._said = self._fusion.says(features)

    def _judged(self, reference: Reference) -> Decay | None:
        frames = [kept for kept in self._window if kept is not None]
        if 2 * len(frames) <= reference.window:
            return None
        self._until_fit -= 1
        if self._until_fit <= 0:
            self._fit = _compare(reference, frames, self._fit)
            self._until_fit = max(reference.window // _FITS_A_WINDOW, _LEAST_FRAMES_A_FIT)
        return None if self._fit is None else self._decay(self._fit, reference)

    def _decay(self, fit: Fit, reference: Reference) -> Decay:
        change, again = self._change, self._again.found
        said = self._said or Said(UNSEEN, UNSEEN)
        z, noise = (0.0, 1.0) if change is None else (change.z, change.noise)
        relative = _STILL_ERROR if reference.same_reflections else 0.0
        outer_d, inner_d = reference.outer_d_A, reference.inner_d_A
        return Decay(
            probability=self._network.joined(said.probability, has_evidence=self._said is not None),
            alarm_probability=said.alarm,
            delta_B_A2=fit.delta_B,
            delta_B_sigma=math.hypot(fit.sigma * math.sqrt(noise), SCALE_ERROR_A2 * fit.log_scale, relative * fit.delta_B),
            scale=math.exp(fit.log_scale),
            scale_sigma=math.exp(fit.log_scale) * _log_scale_error(fit, noise),
            reference_frames=reference.frames,
            since_frame=change.since if change is not None and z > _BEGUN_Z else None,
            outer_d_A=outer_d,
            outer_loss=_loss(fit, reference.outer_s2),
            inner_d_A=inner_d,
            inner_loss=_loss(fit, reference.inner_s2),
            again_delta_B_A2=None if again is None else again.delta_B,
            again_delta_B_sigma=None if again is None else again.sigma,
            again_spots=None if again is None else again.pairs,
            network_probability=self._network.probability,
        )


class _Blocks:
    """A run cut into blocks of the reference's window of frames, from its first frame on or from a later one, with tests of its own."""

    def __init__(self, reference: Reference, step_deg: float, skip: int) -> None:
        """`skip` frames are left out at the start."""
        self._reference, self._skip = reference, skip
        self._test = ChangeTest(step_deg)
        self._evidence = Evidence(reference, step_deg) if reference.usable else None
        self._block: list[_Kept] = []
        self.fit: Fit | None = None
        """Of the last full block; None where it could not be compared."""
        self.change: Change | None = None
        self.appearances: list[Floats | None] = []
        """Of the last full block's frames."""

    def __len__(self) -> int:
        return len(self._block)

    def extend(self, kept: _Kept, start: Fit | None) -> bool:
        """Takes a frame; whether a block is full with it. A fit begins from `start`."""
        if self._skip:
            self._skip -= 1
            return False
        self._block.append(kept)
        if len(self._block) < self._reference.window:
            return False
        self.fit = fit = _compare(self._reference, self._block, start)
        if fit is not None and self._evidence is not None:
            frames, sums = [each.frame for each in self._block], [each.sums for each in self._block]
            self._test.add(sum(frame.frame for frame in frames) / len(frames), fit.delta_B, fit.sigma_now, fit.log_scale)
            self._evidence.add(frames, sums, fit)
            self.change = self._test.result()
        self.appearances = [each.frame.appearance for each in self._block]
        self._block = []
        return True

    def features(self, again: Regrowth | None) -> Floats | None:
        """What the fusion is asked about the blocks so far; None while there are too few."""
        return None if self._evidence is None else self._evidence.features(self.change, again)


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """A frame of the window or block."""

    frame: FrameSpots
    sums: Sums


def _compare(reference: Reference, kept: Sequence[_Kept], start: Fit | None) -> Fit | None:
    return reference.compare([each.frame for each in kept], [each.sums for each in kept], start)


def _log_scale_error(fit: Fit, noise: float) -> float:
    """Standard deviation of the scale's logarithm; `noise`: variance of the blocks over the stated one."""
    return math.hypot(fit.log_scale_sigma * math.sqrt(noise), _LOG_SCALE_ERROR, _LOG_SCALE_SHARE * fit.log_scale)


def _loss(fit: Fit, s2: float) -> float:
    """Share of the intensity lost at s^2, as fitted."""
    return 1.0 - math.exp(min(fit.log_scale - fit.delta_B * s2 / 2.0, 5.0))
