"""The flags on what the frames show, and which of them a run of each kind has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from triage.core import NON_DIFFRACTION_KINDS, Decay, Flag, FlagPolicy, Judgement, Progress, Run, RunKind, Severity, Verdict
from triage.flags.books import CoveragePolicy, SourcePolicy
from triage.flags.cells import CellOutlierPolicy
from triage.flags.lattices import FusedMultiLatticePolicy, MultiLatticePolicy
from triage.flags.persistence import Clear, FlagThreshold, Raise
from triage.flags.serial import HitRatePolicy
from triage.flags.settings import Evidence, FlagsSettings, PriorShift
from triage.flags.watch import Watch, lattices_of


def policies_for(run: Run, settings: FlagsSettings) -> list[FlagPolicy]:
    """Fresh policies for one run, as its kind demands.

    A grid has none on diffraction: most of it misses the crystal, and its map is what is looked at. A serial run's
    `non_diffraction` is a fallen hit rate, its `multi_lattice` the share among hits, and it has no `decay`.
    """
    several = FusedMultiLatticePolicy if settings.evidence is Evidence.FUSED else MultiLatticePolicy
    policies: list[FlagPolicy] = [SourcePolicy(run, settings.source), CoveragePolicy(run, settings.coverage), IcePolicy(run, settings.ice)]
    match run.kind:
        case RunKind.GRID:
            return policies
        case RunKind.SERIAL:
            hits = several(run, settings.serial.multi_lattice, settings.prior, frames="hits")
            return [*policies, CellOutlierPolicy(run, settings.cell_outlier), hits, HitRatePolicy(run, settings)]
        case _:
            return [
                *policies,
                CellOutlierPolicy(run, settings.cell_outlier),
                several(run, settings.multi_lattice, settings.prior),
                NonDiffractionPolicy(run, settings.non_diffraction, settings.prior),
                DecayPolicy(run, settings.decay),
            ]


_NOTHING_BUT = {
    "blank": "nothing is seen: the crystal has left the beam, or the beam or shutter is off",
    "ice": "only ice is seen: the sample has left the beam, or has melted away",
    "salt": "only salt is seen: re-centre on the sample, or take another",
    "artefact": "only artefacts are seen: check the detector and what stands in the beam",
}


class NonDiffractionPolicy:
    """`non_diffraction`: no sample lattice is visible, in a run on one crystal."""

    def __init__(self, run: Run, threshold: FlagThreshold, prior: PriorShift | None = None) -> None:
        self._watch = Watch(run.id, "non_diffraction", threshold, Severity.CRITICAL)
        self._prior = prior

    def update(self, verdict: Verdict, progress: Progress) -> Iterable[Flag]:  # noqa: ARG002
        """A flag where this frame decides one."""
        judgement = verdict.judgement
        if judgement is None:
            return []
        return self._watch.update(
            verdict.frame, lattices_of(judgement, self._prior)[0], lambda found: self._why(found, judgement), self._why_not
        )

    def _why(self, found: Raise, judgement: Judgement) -> str:
        share, kind = max(zip(judgement.non_diffraction_kind, NON_DIFFRACTION_KINDS, strict=True))
        what = _NOTHING_BUT[kind] if share >= 0.5 else "re-centre the crystal, or check beam and shutter"
        return (
            f"No diffraction in {found.above} of the last {found.of} frames (since frame {found.first_frame}, "
            f"median probability {found.probability:.2f}); {what}."
        )

    def _why_not(self, found: Clear) -> str:
        return f"Diffraction again in {found.below} of the last {found.of} frames (median probability of none {found.probability:.2f})."


class IcePolicy:
    """`ice`: ice rings, with or without the sample's diffraction."""

    def __init__(self, run: Run, threshold: FlagThreshold) -> None:
        self._watch = Watch(run.id, "ice", threshold, Severity.WARNING)

    def update(self, verdict: Verdict, progress: Progress) -> Iterable[Flag]:  # noqa: ARG002
        """A flag where this frame decides one."""
        if verdict.judgement is None:
            return []
        return self._watch.update(verdict.frame, verdict.judgement.ice_rings, self._why, self._why_not)

    def _why(self, found: Raise) -> str:
        return (
            f"Ice rings in {found.above} of the last {found.of} frames (since frame {found.first_frame}, "
            f"median probability {found.probability:.2f}); check the cryostream, wash the sample, or leave the rings out when processing."
        )

    def _why_not(self, found: Clear) -> str:
        return f"No ice rings in {found.below} of the last {found.of} frames (median probability {found.probability:.2f})."


class DecayPolicy:
    """`decay`: B has grown since the run's own reference frames; frames without a decay judgement count neither way.

    The probability that is watched is the one for alarms; the flag states the calibrated one, at the frame that decides.
    """

    def __init__(self, run: Run, threshold: FlagThreshold) -> None:
        self._watch = Watch(run.id, "decay", threshold, Severity.CRITICAL)

    def update(self, verdict: Verdict, progress: Progress) -> Iterable[Flag]:  # noqa: ARG002
        """A flag where this frame decides one."""
        decay = verdict.decay
        if decay is None:
            return []
        since = decay.since_frame
        onset = None if since is None else lambda: min(since, verdict.frame)
        flags = self._watch.update(
            verdict.frame, decay.alarm_probability, lambda found: self._why(found, decay), lambda found: self._why_not(found, decay), onset
        )
        return [replace(flag, probability=decay.probability) for flag in flags]

    def _why(self, found: Raise, decay: Decay) -> str:
        first, last = decay.reference_frames
        return (
            f"Radiation damage: {_seen(decay, found.first_frame)}B has grown by "
            f"{decay.delta_B_A2:.1f} +- {decay.delta_B_sigma:.1f} A^2 and the scale is {decay.scale:.2f} of that of frames {first}-{last}; "
            "attenuate, move to a fresh part of the crystal, or stop here."
        )

    def _why_not(self, found: Clear, decay: Decay) -> str:
        return f"No growth of B in {found.below} of the last {found.of} frames (probability {decay.probability:.2f})."


def _seen(decay: Decay, first_frame: int) -> str:
    """What the spots show, in words; empty where only B is known."""
    if decay.outer_d_A is None or decay.outer_loss is None or decay.inner_d_A is None or decay.inner_loss is None:
        return ""
    since = first_frame if decay.since_frame is None else decay.since_frame
    return (
        f"spots beyond {decay.outer_d_A:.1f} A have {_lost(decay.outer_loss)} since frame {since} "
        f"while those below {decay.inner_d_A:.1f} A {_lost(decay.inner_loss)}; "
    )


def _lost(loss: float) -> str:
    return f"lost {100 * loss:.0f} %" if loss >= 0 else f"gained {-100 * loss:.0f} %"
