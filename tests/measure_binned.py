"""Prints what docs/spots.md says of spots that the finder does not see: `python tests/measure_binned.py`, a minute of one core."""

from __future__ import annotations

import itertools

import numpy as np
from synthetic import Floats, photons_for, run_of, scattered, with_spots

from triage.features import FEATURE_NAMES
from triage.preprocess import Preprocess
from triage.spots import DispersionFinder

SHAPE, SPOTS, SEEDS = (1024, 1024), 40, range(4)


def found(expected: Floats, seed: int) -> tuple[int, float, float]:
    """Spots of the finder, and windows of bins and of pixels without one of these, in a frame of so many photons expected."""
    counts = np.random.default_rng(seed).poisson(expected).astype(np.uint16)
    spots = DispersionFinder().find(counts, run_of())
    told = dict(zip(FEATURE_NAMES, np.expm1(Preprocess()(counts, spots, run_of()).features).tolist(), strict=True))
    return len(spots), told["binned_log_count_new"], told["faint_log_count"]


def show(name: str, frames: list[tuple[int, float, float]]) -> None:
    finder, bins, faint = np.mean(frames, axis=0)
    print(f"| {name} | {finder:.1f} | {bins:.1f} | {faint:.1f} |")


def main() -> None:
    print(f"{SHAPE[0]} x {SHAPE[1]} px, means of {len(SEEDS)} frames\n")
    print(f"| {SPOTS} spots | finder | new in bins | faint |\n|---|---|---|---|")
    places = scattered(np.random.default_rng(3), SPOTS, SHAPE, apart=60.0, margin=30.0)
    for i_over_sigma, width in itertools.product((5.0, 7.0), (1.0, 2.0, 3.0, 4.0)):
        for background in (0.005, 0.05, 0.5, 5.0):
            photons = photons_for(i_over_sigma, background, width)
            frames = [found(with_spots(np.full(SHAPE, background), places, photons, width), seed) for seed in SEEDS]
            show(f"I/sigma {i_over_sigma:g}, {2.355 * width:.1f} px wide, on {background:g} photons a pixel", frames)
    print("\n| no spots | finder | new in bins | faint |\n|---|---|---|---|")
    for background in (0.005, 0.05, 0.5, 5.0, 50.0):
        show(f"{background:g} photons a pixel", [found(np.full(SHAPE, background), seed) for seed in SEEDS])


if __name__ == "__main__":
    main()
