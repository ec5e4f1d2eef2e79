"""Frames per second of the early lane on one core: decompress (bslz4, uint16), find spots, preprocess, ask the network."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial

import numpy as np

from benchmarks.frames import BACKGROUNDS, DETECTORS, Detector, frame, run_of
from benchmarks.timing import beyond, repeats_from, show, timed
from triage.classify import ModelError, OnnxClassifier
from triage.compose import released_dir
from triage.core import Frame, Pixels
from triage.decay import shell_intensities
from triage.early_lane import Judge
from triage.spots import DispersionFinder
from triage.wire.compression import compress, decompress

COLUMNS = ("frame", "photons/px", "spots", "decompress", "find spots", "preprocess", "network", "whole frame", "CPU", "frames/s")


def main(arguments: Sequence[str] | None = None) -> None:
    repeats = repeats_from(arguments, __doc__)
    try:
        network = OnnxClassifier(released_dir() / "triage.onnx", "cpu")
    except ModelError as error:
        sys.exit(str(error))
    rows = [_row(network, detector, background, repeats) for detector in DETECTORS for background in BACKGROUNDS]
    show("early lane, one core, one frame at a time (ms)", COLUMNS, rows, notes=(f"model {network.model.name} {network.model.version}",))


def _row(network: OnnxClassifier, detector: Detector, background: float, repeats: int) -> list[str]:
    """Parts one by one, then the whole as a judge thread runs it. The network's share is what `score` takes beyond preprocessing."""
    run, finder = run_of(detector), DispersionFinder()
    pixels = frame(detector, background, seed=1)
    payload = compress("bslz4", pixels)
    spots = finder.find(pixels, run)

    def decode() -> Pixels:
        return decompress("bslz4", payload, pixels.nbytes, 2).view(np.uint16).reshape(pixels.shape)

    judge = Judge(finder=finder, classifier=network, shells=shell_intensities)
    whole = timed(lambda: judge.judge(Frame(run=run, index=0, decode=decode, arrived_s=time.monotonic())), repeats)
    parts = (
        timed(decode, repeats).cpu_ms,
        timed(partial(finder.find, pixels, run), repeats).cpu_ms,
        timed(partial(network.metadata.preprocess, pixels, spots, run), repeats).cpu_ms,
        beyond(partial(network.score, pixels, spots, run), partial(network.metadata.preprocess, pixels, spots, run), repeats),
    )
    return [
        f"{detector.name} {pixels.shape[0]} x {pixels.shape[1]}",
        f"{background:g}",
        str(len(spots)),
        *(f"{ms:.2f}" for ms in parts),
        f"{whole.wall_ms:.1f}",
        f"{whole.cpu_ms:.1f}",
        f"{1e3 / whole.wall_ms:.0f} ({1e3 / whole.cpu_ms:.0f} by CPU)",
    ]


if __name__ == "__main__":
    main()
