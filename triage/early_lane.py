"""The early lane: one frame in, one verdict out, with no memory, so that any number of threads may run it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from triage.core import (
    Classifier,
    Frame,
    FrameError,
    Judgement,
    Pixels,
    ShellIntensities,
    SpotFinder,
    Spots,
    SpotSummary,
    TriageError,
    Verdict,
)
from triage.spot_quality import overloads
from triage.spots import summarise

log = logging.getLogger(__name__)


def _no_shells(spots: Spots) -> None:
    """Where no evidence for decay is wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Decodes, finds spots and asks the network. Stateless; its parts must be safe to call from several threads."""

    finder: SpotFinder
    classifier: Classifier
    shells: Callable[[Spots], ShellIntensities | None] = _no_shells
    keep_spots: bool = False
    """Whether the verdict carries the spots, for the slow lane."""

    def judge(self, frame: Frame) -> Verdict:
        """The frame's verdict; one with `error` where it cannot be judged. Never raises. `latency_ms` is set when it is recorded."""
        try:
            pixels = frame.decode()
            _check(pixels, frame)
            spots = self.finder.find(pixels, frame.run)
            judgement = self.classifier.score(pixels, spots, frame.run)
            summary = summarise(spots, overloads=overloads(pixels, spots, frame.run))
            verdict = _verdict(frame, judgement=judgement, spots=summary, shells=self.shells(spots))
            return replace(verdict, found=spots) if self.keep_spots else verdict
        except TriageError as error:
            return _verdict(frame, error=str(error) or type(error).__name__)
        except Exception as error:  # the edge of a judge thread: a fault in one frame must not end the run
            log.exception("run %s, frame %d: judging failed", frame.run.id, frame.index)
            return _verdict(frame, error=f"internal error ({type(error).__name__}: {error}); please report it with this frame")


def failed(frame: Frame, reason: str) -> Verdict:
    """The verdict of a frame that could not be judged at all."""
    return _verdict(frame, error=reason)


def _verdict(
    frame: Frame,
    *,
    judgement: Judgement | None = None,
    spots: SpotSummary | None = None,
    shells: ShellIntensities | None = None,
    error: str | None = None,
) -> Verdict:
    return Verdict(
        run_id=frame.run.id,
        frame=frame.index,
        file=frame.file,
        judgement=judgement,
        spots=spots,
        shells=shells,
        latency_ms=0.0,
        error=None if error is None else " ".join(error.split()),
    )


def _check(pixels: Pixels, frame: Frame) -> None:
    """Raises FrameError where the decoded array is not a frame of this run's detector."""
    shape = frame.run.header.shape_px
    if pixels.ndim != 2 or (shape is not None and pixels.shape != shape):
        expected = "two dimensions" if shape is None else f"{shape[0]} x {shape[1]}"
        found = " x ".join(str(n) for n in pixels.shape)
        raise FrameError(
            f"frame {frame.index} of {frame.run.header.source} is {found} pixels, its header promised {expected} (slow x fast)"
        )
    if not (np.issubdtype(pixels.dtype, np.integer) or np.issubdtype(pixels.dtype, np.floating)):
        raise FrameError(f"frame {frame.index} of {frame.run.header.source} holds {pixels.dtype}, not counts")
