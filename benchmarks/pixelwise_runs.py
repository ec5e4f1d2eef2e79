"""Decay on whole runs of the second simulator (`benchmarks.pixelwise`), judged as `triage run` does: finder, network, indexer, tracker.

    python -m benchmarks.pixelwise_runs --runs 12 --seed 1 --out runs/pixelwise_runs

Short rotations and stills of one orientation; B grows in every other run, which loses 80 % of its outer shell or more; some crystals leave
the beam. A table goes to standard output, one JSON file a run to the folder, so that a run that was cut short goes on. Some 1 to 2 CPU
minutes a run. Needs the `train` extra.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.pixelwise_background import diffuse
from benchmarks.pixelwise_crystal import Crystal, rotation
from benchmarks.pixelwise_frame import Scene, blurred, draw_scene, exposure_of, header_of, pattern_of, read_out, run_of, visible
from benchmarks.pixelwise_kernel import Floats
from training.decay.lane import followed, with_spots
from triage.classify import OnnxClassifier
from triage.core import Decay, Pixels, Run, Verdict
from triage.decay import DecayTracker
from triage.flags.settings import DECAY
from triage.spots import DispersionFinder

LOG = logging.getLogger(__name__)
RELEASED = Path(__file__).resolve().parents[1] / "models" / "released" / "triage.onnx"
FRAMES = 60
REFERENCE_FRAMES = 12
"""Whose visible spots define the outer shell (95th percentile of 1/d)."""
_SPOTS = (60, 250)
"""Visible in the first frame."""
_OUTER_LOSS = (0.85, 0.98)
"""At the end of a damaged run."""
_SCALE_PER_B, _CELL_PER_B = 0.01, 3e-4
"""-ln of the scale, and growth of the edges, with each A^2 of B (docs/decay.md)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Course:
    """One run, frame by frame; arrays (FRAMES,)."""

    damaged: bool
    leaving: bool
    exponent: Floats
    """-ln of what damage leaves of the outer shell, B and scale together."""
    brightness: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run."""

    index: int
    kind: str
    detector: str
    damaged: bool
    leaving: bool
    flagged: int | None
    loss_when_flagged: float | None
    network_at_end: float | None
    delta_B_at_end: float | None
    sigma_at_end: float | None
    true_delta_B: float
    again_spots: int | None


def draw(seed: int, index: int) -> tuple[Scene, Course, np.random.Generator]:
    """A single crystal and what happens to it; every other run is damaged, every third crystal leaves the beam."""
    rng = np.random.default_rng([seed, 7, index])
    scene = draw_scene(rng)
    while len(scene.crystals) != 1 or scene.exposure.bandwidth > 1e-3:
        scene = draw_scene(rng)
    turned = 0.0 if index % 4 >= 2 else float(rng.choice([0.1, 0.2, 0.5]))
    scene = dataclasses.replace(
        scene,
        ice=None,
        masked=True,
        wanted=int(np.exp(rng.uniform(*np.log(_SPOTS)))),
        exposure=dataclasses.replace(scene.exposure, rotation_deg=turned),
    )
    time = (np.arange(FRAMES) + 0.5) / FRAMES
    onset = float(rng.choice([0.0, rng.uniform(0.1, 0.5)]))
    total = -np.log(1.0 - rng.uniform(*_OUTER_LOSS)) if index % 2 else 0.0
    ramp = np.clip((time - rng.uniform(0.1, 0.5)) / 0.3, 0.0, 1.0)
    leaving = index % 3 == 2
    brightness = 1.0 - (rng.uniform(0.5, 0.9) * ramp if leaving else 0.0 * ramp)
    grown = total * np.clip((time - onset) / (1.0 - onset), 0.0, 1.0)
    return scene, Course(damaged=bool(index % 2), leaving=leaving, exponent=grown, brightness=np.asarray(brightness)), rng


def exposed(scene: Scene, course: Course, rng: np.random.Generator) -> tuple[Run, float, Floats, Iterator[Pixels]]:
    """The run as a listener knows it, the outer shell's d, the growth of B (FRAMES,), and the frames.

    The outer shell is that of the undamaged crystal's visible spots in the first frame.
    """
    setting = scene.setting
    received = setting.received()
    smooth = diffuse(setting, scene.diffuse, received)
    beneath = blurred(smooth, setting.camera) + setting.camera.read_noise**2
    first = pattern_of(scene.crystals[0], scene, received, np.random.default_rng(0))
    scale = exposure_of(first, beneath, scene.wanted)
    seen = first.s_per_A[visible(first, scale, beneath)]
    if not len(seen):
        raise ValueError("the crystal shows nothing in its first frame: another seed")
    outer_d = 1.0 / float(np.quantile(seen, 0.95))
    delta_B = course.exponent / (_SCALE_PER_B + 0.5 / outer_d**2)

    def frames() -> Iterator[Pixels]:
        for frame in range(FRAMES):
            crystal = damaged(scene.crystals[0], float(delta_B[frame]), frame, scene)
            pattern = pattern_of(crystal, scene, received, rng)
            bright = scale * float(course.brightness[frame]) * float(np.exp(-_SCALE_PER_B * delta_B[frame]))
            yield read_out(blurred(smooth + bright * pattern.image, setting.camera), setting.camera, rng)

    return run_of(header_of(scene, "pixelwise run")), outer_d, np.asarray(delta_B), frames()


def damaged(crystal: Crystal, delta_B: float, frame: int, scene: Scene) -> Crystal:
    """The crystal in the middle of a frame's exposure."""
    a, b, c, *angles = crystal.structure.cell
    grown = 1.0 + _CELL_PER_B * delta_B
    cell = (a * grown, b * grown, c * grown, angles[0], angles[1], angles[2])
    structure = dataclasses.replace(crystal.structure, cell=cell, b_factor_A2=crystal.structure.b_factor_A2 + delta_B)
    turn = rotation(np.deg2rad(scene.exposure.rotation_deg * frame) * np.asarray(scene.exposure.axis)[None])[0]
    return dataclasses.replace(crystal, structure=structure, orientation=turn @ crystal.orientation)


def judged(run: Run, frames: Iterator[Pixels], classifier: OnnxClassifier) -> list[Decay | None]:
    """What is said of each frame; some are indexed, which comes some frames late."""
    tracker = DecayTracker(run, pair=classifier.metadata.pair)
    return [decay for _, decay in followed(tracker, run, verdicts(run, frames, classifier))]


def verdicts(run: Run, frames: Iterator[Pixels], classifier: OnnxClassifier) -> Iterator[Verdict]:
    """What the early lane says of each frame."""
    finder = DispersionFinder()
    for frame, pixels in enumerate(frames):
        spots = finder.find(pixels, run)
        judgement = classifier.score(pixels, spots, run)
        yield Verdict(run_id=run.id, frame=frame, file=None, judgement=judgement, spots=None, shells=with_spots(spots), latency_ms=0.0)


def outcome(seed: int, index: int, classifier: OnnxClassifier) -> Outcome:
    """Run `index` of a seed, made and judged."""
    scene, course, rng = draw(seed, index)
    run, outer_d, delta_B, frames = exposed(scene, course, rng)
    said = judged(run, frames, classifier)
    flagged = next((k for k, decay in enumerate(said) if decay is not None and decay.alarm_probability >= DECAY.raise_at), None)
    loss: npt.NDArray[np.float64] = 1.0 - np.exp(-delta_B * (_SCALE_PER_B + 0.5 / outer_d**2))
    last = next((decay for decay in reversed(said) if decay is not None), None)
    return Outcome(
        index=index,
        kind="rotation" if scene.exposure.rotation_deg else "stills",
        detector=scene.setting.camera.name,
        damaged=course.damaged,
        leaving=course.leaving,
        flagged=flagged,
        loss_when_flagged=None if flagged is None else float(loss[flagged]),
        network_at_end=None if last is None else last.network_probability,
        delta_B_at_end=None if last is None else last.delta_B_A2,
        sigma_at_end=None if last is None else last.delta_B_sigma,
        true_delta_B=float(delta_B[-1] - delta_B[:REFERENCE_FRAMES].mean()),
        again_spots=None if last is None else last.again_spots,
    )


def table(found: Sequence[Outcome]) -> str:
    """A row a run, and what they come to, as Markdown."""
    lines = ["| run | flagged at | loss then | network at the end | delta_B at the end | truth | measured again |", "|---" * 7 + "|"]
    for run in found:
        name = f"{run.index}: {run.kind}, {run.detector}" + (", damaged" if run.damaged else "") + (", leaving" if run.leaving else "")
        at = "" if run.flagged is None else str(run.flagged)
        loss = "" if run.loss_when_flagged is None else f"{run.loss_when_flagged:.0%}"
        network = "" if run.network_at_end is None else f"{run.network_at_end:.2f}"
        stated = "" if run.delta_B_at_end is None else f"{run.delta_B_at_end:.1f} +- {run.sigma_at_end:.1f}"
        lines.append(f"| {name} | {at} | {loss} | {network} | {stated} | {run.true_delta_B:.1f} | {run.again_spots or ''} |")
    hurt, sound = [run for run in found if run.damaged], [run for run in found if not run.damaged]
    losses = [1.0 if run.loss_when_flagged is None else run.loss_when_flagged for run in hurt]
    counts = [sum(run.flagged is not None for run in group) for group in (hurt, sound)]
    median = f" at a median loss of {np.median(losses):.0%}" if losses else ""
    return "\n".join([*lines, "", f"Flagged: {counts[0]} of {len(hurt)} damaged{median}; {counts[1]} of {len(sound)} undamaged."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes and judges what is missing, and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pixelwise_runs", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/pixelwise_runs"), help="folder of what came of each run and model")
    parser.add_argument("--model", type=Path, default=RELEASED)
    told = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    classifier = OnnxClassifier(told.model, device="cpu")
    told.out.mkdir(parents=True, exist_ok=True)
    found = []
    for index in range(told.runs):
        path = told.out / f"run_{told.seed}_{index}_{classifier.model.sha256[:8]}.json"
        if not path.is_file():
            path.write_text(json.dumps(dataclasses.asdict(outcome(told.seed, index, classifier))))
            LOG.info("%d of %d runs", index + 1, told.runs)
        found.append(Outcome(**json.loads(path.read_text())))
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
