"""Do runs without pixels agree with rendered ones? The same plans, both ways: shell intensities, spot counts, the tracker's word."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from training.decay.course import draw_course
from training.decay.lane import MIN_SPOTS, tracked
from training.decay.runs import Plan, SimulatedRun, draw_plan, simulate
from training.simulate.diffraction import Lattice
from training.simulate.draw import rotation_about
from training.simulate.render import render
from training.simulate.scene import Scene, Shadows
from triage.core import Decay, Spots
from triage.decay import DecayTracker, shell_intensities
from triage.decay.shells import N_SHELLS
from triage.spots import DispersionFinder

LOG = logging.getLogger(__name__)
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
DETECTOR = "EIGER2 500K"
FRAMES = 24
_LEAST_SHELLS = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Both:
    """One plan both ways; the first index is 0 without pixels, 1 with."""

    kind: str
    look_alike: str
    intensity: Floats
    """(2, shells), summed over the run's frames."""
    count: Floats
    """(2, shells)"""
    delta_B: Floats
    """(2,) at the last frame; nan where none."""
    sigma: Floats
    probability: Floats
    true_delta_B: float


def small_plan(seed: int, split: str, index: int) -> Plan:
    """A short run on a small detector; stills or a narrow rotation."""
    rng = np.random.default_rng([seed, 23, index])
    plan = draw_plan(seed, split, index, detectors=(DETECTOR,))
    step = plan.beam.rotation_deg if plan.kind != "stills" else 0.0
    angle = np.asarray(step * np.arange(FRAMES), dtype=np.float64)
    background = replace(plan.background, level=min(plan.background.level, 3.0), unevenness=0.0)
    course = draw_course(rng, FRAMES, angle)
    return replace(plan, angle_deg=angle, wedges=((0, FRAMES),), course=course, background=background)


def rendered_frames(run: SimulatedRun) -> Iterator[tuple[int, Spots]]:
    """What the finder finds in the same run's frames, rendered."""
    finder = DispersionFinder()
    for frame in np.flatnonzero(run.plan.course.present):
        rendered = render(scene_of(run, int(frame)))
        yield int(frame), finder.find(rendered.counts, rendered.run)


def both_ways(seed: int, split: str, index: int) -> Both:
    """One plan, simulated without and with pixels, and tracked."""
    plan = small_plan(seed, split, index)
    run = simulate(plan)
    ways = list(run.frames()), list(rendered_frames(run))
    said = [[decay for _, decay in tracked(DecayTracker(plan.run()), plan.run(), way) if decay is not None] for way in ways]
    sums = [_summed(spots for _, spots in way) for way in ways]
    last = [each[-1] if each else None for each in said]
    LOG.info("run %d: %s", index, plan.kind)
    reference = last[0].reference_frames if last[0] is not None else (0, 0)
    return Both(
        kind=plan.kind,
        look_alike=plan.course.look_alike,
        intensity=np.array([each[0] for each in sums]),
        count=np.array([each[1] for each in sums]),
        delta_B=_of(last, "delta_B_A2"),
        sigma=_of(last, "delta_B_sigma"),
        probability=_of(last, "probability"),
        true_delta_B=float(run.delta_B_A2[-1] - run.delta_B_A2[reference[0] : reference[1] + 1].mean()),
    )


def _summed(frames: Iterable[Spots]) -> Floats:
    """Intensity and number of spots (2, shells) of all frames."""
    total = np.zeros((2, N_SHELLS))
    for spots in frames:
        shells = shell_intensities(spots)
        total += 0.0 if shells is None else np.array([shells.intensity, shells.count])
    return total


def agreement(runs: Sequence[Both]) -> str:
    """How far the two go apart, as Markdown: medians over runs (quartiles), of shells with MIN_SPOTS spots or more on either side."""
    count, intensity, spread, delta, chance = [], [], [], [], []
    for run in runs:
        enough = run.count.min(axis=0) >= MIN_SPOTS
        if not enough.any():
            continue
        count.append(float(run.count[1].sum() / run.count[0].sum()))
        ratio = run.intensity[1, enough] / run.intensity[0, enough]
        intensity.append(float(np.median(ratio)))
        if enough.sum() >= _LEAST_SHELLS:
            spread.append(float(np.std(np.log(ratio))))
        if np.isfinite(run.delta_B).all():
            delta.append(float((run.delta_B[1] - run.delta_B[0]) / np.hypot(*run.sigma)))
            chance.append(float(abs(run.probability[1] - run.probability[0])))
    rows = {
        "spots found, pixels over without": count,
        "intensity of a shell, pixels over without": intensity,
        "scatter of its logarithm from shell to shell": spread,
        "delta_B at the end, difference over its sigma": delta,
        "probability at the end, absolute difference": chance,
    }
    lines = [f"| {len(runs)} runs both ways | runs | median | quartiles |", "|---|---|---|---|"]
    for name, values in rows.items():
        low, middle, high = np.percentile(values, (25, 50, 75)) if values else (np.nan,) * 3
        lines.append(f"| {name} | {len(values)} | {middle:.2f} | {low:.2f} to {high:.2f} |")
    return "\n".join(lines)


def _of(decays: list[Decay | None], name: str) -> Floats:
    return np.array([np.nan if decay is None else getattr(decay, name) for decay in decays])


def scene_of(run: SimulatedRun, frame: int) -> Scene:
    """The frame as the renderer wants it."""
    plan, course = run.plan, run.plan.course
    delta_B = float(run.delta_B_A2[frame])
    bright = float(course.brightness[frame] * run.scale[frame])
    lattices = [_turned(plan, plan.lattice, frame, delta_B, 1.0)]
    if course.second[frame] > 0:
        lattices.append(_turned(plan, plan.second, frame, delta_B, float(course.second[frame])))
    level = plan.background.level * float(course.background[frame])
    ice = None
    if course.ice[frame] > 0:
        strongest = max(plan.ice.strengths)
        strengths = tuple(x / strongest * float(course.ice[frame] / course.background[frame]) for x in plan.ice.strengths)
        ice = replace(plan.ice, strengths=strengths, texture=0.0)
    return Scene(
        seed=1_000 * plan.index + frame,
        detector=plan.detector,
        wavelength_A=plan.geometry.wavelength_A,
        distance_mm=plan.geometry.distance_mm,
        beam_px=plan.geometry.beam_px,
        beam=plan.beam,
        lattices=tuple(lattices),
        photons=run.photons * bright,
        d_min_A=plan.d_min_A,
        background=replace(plan.background, level=level),
        ice=ice,
        shadows=Shadows(stop_px=3.0),
    )


def _turned(plan: Plan, lattice: Lattice, frame: int, delta_B: float, scale: float) -> Lattice:
    """The damaged lattice in the middle of the frame's exposure."""
    grown = 1.0 + plan.damage.cell_growth_per_B * delta_B
    a, b, c, alpha, beta, gamma = lattice.crystal.cell
    crystal = replace(
        lattice.crystal, b_factor_A2=lattice.crystal.b_factor_A2 + delta_B, cell=(a * grown, b * grown, c * grown, alpha, beta, gamma)
    )
    turn = rotation_about(np.asarray(plan.beam.rotation_axis), float(plan.angle_deg[frame]) + plan.beam.rotation_deg / 2)
    orientation = turn @ np.asarray(lattice.orientation).reshape(3, 3)
    return replace(
        lattice,
        crystal=crystal,
        orientation=tuple(float(x) for x in orientation.ravel()),
        mosaicity_deg=lattice.mosaicity_deg * (1.0 + plan.damage.broadening_per_B * delta_B),
        scale=scale,
    )
