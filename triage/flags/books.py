"""The flags on the run's books: frames that were never judged, and a source that cannot be trusted."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from itertools import pairwise

from triage.beam import AgreedBeam, BeamCentres
from triage.core import BeamCheck, Flag, Indexing, Progress, Run, Severity, Verdict
from triage.flags.persistence import Clear, FlagThreshold, Raise
from triage.flags.report import Report, Words
from triage.flags.watch import Watch
from triage.geometry import StatedGeometry


class CoveragePolicy:
    """`coverage`: too large a share of the frames received was dropped or failed, over the last n that were judged.

    Raised where the share is at least `raise_at` and at least k frames were lost; cleared where it is below `clear_at` over n frames
    judged since.
    """

    def __init__(self, run: Run, threshold: FlagThreshold) -> None:
        self._threshold = threshold
        self._report = Report(run.id, "coverage")
        self._books: deque[tuple[int, Progress]] = deque([(-1, Progress())], maxlen=threshold.n + 1)
        self._standing: Flag | None = None

    def update(self, verdict: Verdict, progress: Progress) -> Iterable[Flag]:
        """A flag where this frame's books decide one."""
        self._books.append((verdict.frame, progress))
        before = self._books[0][1]
        received = progress.received - before.received
        dropped, failed = progress.dropped - before.dropped, progress.failed - before.failed
        share = (dropped + failed) / received if received > 0 else 0.0
        if self._standing is None and share >= self._threshold.raise_at and dropped + failed >= self._threshold.k:
            reason = (
                f"{share:.0%} of the last {received} frames were not judged ({dropped} dropped, {failed} failed): flags may come late and "
                "miss what is short; judge on a faster machine or with more threads, or use mode=complete."
            )
            self._standing = self._report.raised(self._onset(), verdict.frame, Words(severity=Severity.WARNING, reason=reason))
            self._start_afresh()
            return [self._standing]
        if self._standing is not None and share < self._threshold.clear_at and len(self._books) == self._books.maxlen:
            reason = f"{1 - share:.0%} of the last {received} frames were judged."
            cleared = self._report.cleared(self._standing, verdict.frame, Words(severity=Severity.INFO, reason=reason))
            self._standing = None
            self._start_afresh()
            return [cleared]
        return []

    def _start_afresh(self) -> None:
        latest = self._books[-1]
        self._books.clear()
        self._books.append(latest)

    def _onset(self) -> int:
        """The frame after the last one before the first loss."""
        books = list(self._books)
        for (frame, earlier), (next_frame, later) in pairwise(books):
            if later.dropped + later.failed > earlier.dropped + earlier.failed:
                return min(frame + 1, next_frame)
        return books[-1][0]


_BEAM_GAIN, _BEAM_NEED = 0.1, 0.7
"""A stated beam centre is doubted where a lattice explains so many more of the spots, and so many in all, with another one."""


_BEAM_FRAMES, _BEAM_OFF_PX = 5, 5.0
"""Lattices of so many frames that agree, on a beam centre so far from the stated one, say where it is."""


class SourcePolicy:
    """`source`: the geometry cannot be used (said once, at the first frame), the beam centre is off, or frames cannot be judged."""

    def __init__(self, run: Run, threshold: FlagThreshold) -> None:
        report = Report(run.id, "source")
        self._run, self._report = run, report
        self._said_geometry = run.geometry is not None and run.geometry_problem is None
        self._failures = Watch(run.id, "source", threshold, Severity.WARNING, report)
        self._beam = Watch(run.id, "source", threshold, Severity.WARNING, report)
        self._beam_px = run.geometry.beam_px if run.geometry is not None else None
        self._indexed, self._said_beam = BeamCentres(), False
        self._n = threshold.n
        self._errors = 0
        self._failed = 0
        self._last_error = "the message could not be decoded"
        self._next_frame = 0

    def update(self, verdict: Verdict, progress: Progress) -> Iterable[Flag]:
        """Flags where this frame decides them."""
        flags = []
        if not self._said_geometry:
            self._said_geometry = True
            flags.append(self._report.raised(verdict.frame, verdict.frame, _geometry_words(self._run)))
        flags += self._count_failures(verdict, progress)
        flags += self._check_beam(verdict)
        self._next_frame = verdict.frame + 1
        return flags

    def witness(self, indexing: Indexing) -> Iterable[Flag]:
        """A flag, once, where the lattices of several frames agree on a beam centre that is not the stated one."""
        solutions = indexing.indexed.solutions
        if self._said_beam or self._beam_px is None or not solutions:
            return []
        self._indexed.add(indexing.frame, indexing.indexed.beam_shift_px, solutions[0].n_indexed)
        beam = self._indexed.agreed()
        if beam is None or beam.n < _BEAM_FRAMES or math.hypot(*beam.shift_px) < _BEAM_OFF_PX:
            return []
        self._said_beam = True
        words = Words(severity=Severity.WARNING, reason=_where_beam_is(self._beam_px, beam))
        return [self._report.raised(beam.first_frame, max(indexing.frame, beam.first_frame), words)]

    def _count_failures(self, verdict: Verdict, progress: Progress) -> list[Flag]:
        """Failed frames have a verdict with an error; undecodable messages are known from the books alone."""
        if verdict.error is not None:
            self._errors += 1
            self._last_error = verdict.error
        failed = max(progress.failed, self._errors)  # the books may be one frame behind
        fresh, self._failed = failed - self._failed, failed
        flags: list[Flag] = []
        for _ in range(min(fresh, self._n)):
            flags += self._failures.update(min(self._next_frame, verdict.frame), 1.0, self._why, self._why_not)
        if verdict.error is None:
            flags += self._failures.update(verdict.frame, 0.0, self._why, self._why_not)
        return flags

    def _check_beam(self, verdict: Verdict) -> list[Flag]:
        """Of frames with a lattice and spots enough, those that it explains far better with another beam centre."""
        if self._said_beam or verdict.judgement is None or (check := verdict.judgement.beam) is None or check.moved < _BEAM_NEED:
            return []
        doubted = check.moved - check.stated > _BEAM_GAIN
        return self._beam.update(verdict.frame, float(doubted), lambda found: self._why_beam(found, check), _why_not_beam)

    def _why_beam(self, found: Raise, check: BeamCheck) -> str:
        stated = "" if self._beam_px is None else f" ({self._beam_px[0]:.0f}, {self._beam_px[1]:.0f} px, slow and fast)"
        far = "tens of" if check.moved_px >= 10.0 else "some"
        return (
            f"The beam centre{stated} seems to be wrong by {far} px: with it moved one lattice explains {check.moved:.0%} of the spots, "
            f"as stated {check.stated:.0%} (the like in {found.above} of {found.of} frames); measure it and set source.geometry.beam_px."
        )

    def _why(self, found: Raise) -> str:
        return (
            f"{found.above} of the last {found.of} frames could not be decoded or judged (since frame {found.first_frame}; the last: "
            f"{self._last_error.rstrip('.')}); check the detector's stream and compression, or the file."
        )

    def _why_not(self, found: Clear) -> str:
        return f"{found.below} of the last {found.of} frames were decoded and judged again."


def _why_not_beam(found: Clear) -> str:
    return f"The stated beam centre fits the spots of {found.below} of the last {found.of} frames."


def _where_beam_is(stated_px: tuple[float, float], beam: AgreedBeam) -> str:
    slow, fast = stated_px[0] + beam.shift_px[0], stated_px[1] + beam.shift_px[1]
    return (
        f"The beam is at ({slow:.1f}, {fast:.1f}) px (slow, fast) by the lattices of {beam.n} frames, which agree to "
        f"{beam.scatter_px:.1f} px; it is stated at ({stated_px[0]:.1f}, {stated_px[1]:.1f}): "
        f"set 'source.geometry.beam_px=[{slow:.1f},{fast:.1f}]'."
    )


def _geometry_words(run: Run) -> Words:
    """A header that says nothing is known of; one that says what cannot be true is a fault to mend."""
    problem = (run.geometry_problem or "the header states none").rstrip(".")
    mend = "" if "source.geometry" in problem else "; set source.geometry.distance_mm, beam_px, wavelength_A and pixel_mm"
    silent = run.header.stated == StatedGeometry() and run.header.geometry_problem is None
    return Words(
        severity=Severity.INFO if silent else Severity.WARNING,
        reason=f"The geometry cannot be used ({problem}){mend}: until then frames are judged without resolution and decay.",
    )
