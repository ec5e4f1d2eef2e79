"""What frames of a rotation gain from being indexed with those before them: weak crystals that no training frame shows.

    python -m benchmarks.indexing_together [--runs 40] [--seed 41]

Each run is a crystal of the test split on the detector, at the geometry and with the header's errors of one of its frames, turned by 0.1 to
0.5 deg a frame; the first frame has 8 to 25 visible spots. Of ten frames the last five are held against what was drawn (right as in
`benchmarks.indexing`), indexed alone, with two and with four frames before them, as `indexing.together` does.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from benchmarks.indexing import MOST_PIXELS, Framed, Outcome, framed, share
from benchmarks.timing import show
from training.dataset import scene_of, structures
from training.simulate.draw import random_rotation, rotation_about
from training.simulate.render import render
from training.simulate.scene import Artefacts, Scene
from triage.core import RunKind
from triage.indexing import EmbeddedIndexer

FRAMES, JUDGED = 10, 5
TOGETHER = (1, 3, 5)
SPOTS = ((0, 9), (10, 14), (15, 24), (25, 10_000))
"""Of the frame's own, found."""


def rotations(n: int, seed: int) -> Iterator[list[Framed]]:
    """Runs of one crystal each."""
    crystals, index, found, rng = structures(seed, "test"), 0, 0, np.random.default_rng([seed, 8])
    while found < n:
        scene = scene_of(seed, "test", index, crystals)
        index += 1
        if scene.lattices and np.prod(scene.detector_model().shape_px) <= MOST_PIXELS:
            found += 1
            yield _rotation(scene, rng)


def _rotation(scene: Scene, rng: np.random.Generator) -> list[Framed]:
    step_deg, start = float(np.exp(rng.uniform(np.log(0.1), np.log(0.5)))), random_rotation(rng)
    alone = dataclasses.replace(
        scene,
        beam=dataclasses.replace(scene.beam, rotation_deg=step_deg),
        salt=None,
        ice=None,
        powder=None,
        artefacts=Artefacts(),
        visible_spots=int(np.exp(rng.uniform(np.log(8.0), np.log(25.0)))),
        photons=None,
    )
    photons: float | None = None
    made = []
    for frame in range(FRAMES):
        turned = rotation_about(np.asarray(scene.beam.rotation_axis), step_deg * frame) @ start
        lattice = dataclasses.replace(scene.lattices[0], orientation=tuple(float(x) for x in turned.ravel()))
        drawn = dataclasses.replace(alone, lattices=(lattice,), seed=int(rng.integers(2**62)), photons=photons)
        if photons is None:
            photons = render(drawn).labels.photons
        seen = framed(dataclasses.replace(drawn, photons=photons))
        header = dataclasses.replace(seen.run.header, rotation_axis=scene.beam.rotation_axis, omega_step_deg=step_deg)
        made.append(dataclasses.replace(seen, run=dataclasses.replace(seen.run, header=header, kind=RunKind.ROTATION)))
    return made


def index(frames: Sequence[Framed], frame: int, together: int, *, known: bool) -> Outcome:
    """One frame, with those before it."""
    own = frames[frame]
    before = [(earlier, frames[frame - earlier].spots) for earlier in range(1, min(together, frame + 1))]
    cells = (own.scene.lattices[0].crystal.cell,) if known else ()
    return Outcome(frame=own, indexed=EmbeddedIndexer().index(own.spots, own.run, cells=cells, before=before), cpu_ms=float("nan"))


def is_right_one(outcome: Outcome) -> bool:
    """Whether the lattice that was drawn is among the solutions."""
    return outcome.has(outcome.frame.scene.lattices[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=41)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    outcomes: dict[tuple[bool, int], list[Outcome]] = {(known, together): [] for known in (False, True) for together in TOGETHER}
    for number, frames in enumerate(rotations(given.runs, given.seed)):
        for (known, together), done in outcomes.items():
            done += [index(frames, frame, together, known=known) for frame in range(FRAMES - JUDGED, FRAMES)]
        if number % 5 == 4:
            print(f"{number + 1} runs", file=sys.stderr, flush=True)
    rows = []
    for (known, together), done in outcomes.items():
        by_spots = [[one for one in done if low <= len(one.frame.spots) <= high] for low, high in SPOTS]
        rows.append(
            [
                "given cell" if known else "no cell",
                str(together),
                *(share(ones, is_right_one) for ones in (*by_spots, done)),
                share(done, lambda one: one.false_ones > 0),
            ]
        )
    show(
        "the drawn lattice found, by the spots found in the frame itself",
        ("", "together", *(f"{low} to {high}" for low, high in SPOTS), "all", "a false second one"),
        rows,
    )


if __name__ == "__main__":
    main()
