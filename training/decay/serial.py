"""Serial runs: every frame another crystal, so that there is no decay. What tracker and policy make of them, declared as such or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from training.dataset import SPLITS
from training.decay.course import Course, draw_damage
from training.decay.lane import MIN_SPOTS, tracked, verdict_of
from training.decay.runs import Plan, draw_plan, simulate
from training.simulate.draw import random_rotation
from triage.core import Progress, Run, RunKind, Spots
from triage.decay import DecayTracker
from triage.flags import FlagsSettings, policies_for

FRAMES = 100
_HIT_RATES = (0.2, 1.0)
_CRYSTAL_SPREAD = 0.5
"""Of the logarithm of the number of spots, from crystal to crystal."""


@dataclass(frozen=True, slots=True)
class SerialResult:
    """Of some runs judged as one kind."""

    frames: int
    judged: int
    """Frames of which some decay was said."""
    flagged: int
    """Runs in which `decay` was raised."""


def judge_serial(seed: int, number: int) -> dict[str, SerialResult]:
    """The same `number` runs of the test split as what they are, and as one crystal by mistake, by kind."""
    runs = [(draw_plan(seed, "test", index), tuple(crystals(seed, index))) for index in range(number)]
    results = {}
    for kind in (RunKind.SERIAL, RunKind.STILLS, RunKind.ROTATION):
        said = [_judged(declared(plan, kind), spots) for plan, spots in runs]
        results[kind.value] = SerialResult(
            frames=sum(len(spots) for _, spots in runs), judged=sum(n for n, _ in said), flagged=sum(flagged for _, flagged in said)
        )
    return results


def as_sentence(results: Mapping[str, SerialResult]) -> str:
    """For the report."""
    own = results[RunKind.SERIAL.value]
    number = own.frames // FRAMES
    null = "null in all" if own.judged == 0 else f"null in {own.frames - own.judged} of"
    flagged = "none" if own.flagged == 0 else str(own.flagged)
    wrong = ", ".join(f"{results[kind].flagged} of {number} as {kind}" for kind in ("stills", "rotation"))
    return (
        f"{number} serial runs: decay {null} {own.frames} frames, {flagged} flagged. Declared as another kind by mistake, flagged: {wrong}."
    )


def crystals(seed: int, index: int) -> Iterator[Spots]:
    """FRAMES frames of one experiment, each an undamaged crystal of another orientation and strength, or nothing."""
    rng = np.random.default_rng([seed, SPLITS["test"][0], 12, index])
    plan, hits = draw_plan(seed, "test", index), float(rng.uniform(*_HIT_RATES))
    nothing = _spots(_still(plan, 0, np.eye(3), 1.0, hit=False))
    for frame in range(FRAMES):
        strength, hit = float(np.exp(_CRYSTAL_SPREAD * rng.normal())), bool(rng.random() < hits)
        yield _spots(_still(plan, index * FRAMES + frame, random_rotation(rng), strength, hit=True)) if hit else nothing


def _spots(plan: Plan) -> Spots:
    """Of the one frame of a plan."""
    return next(iter(simulate(plan).frames()))[1]


def _still(plan: Plan, index: int, orientation: npt.NDArray[np.float64], strength: float, *, hit: bool) -> Plan:
    one = np.ones(1)
    return replace(
        plan,
        index=index,
        kind="stills",
        angle_deg=0.0 * one,
        wedges=((0, 1),),
        beam=replace(plan.beam, rotation_deg=0.0),
        lattice=replace(plan.lattice, orientation=tuple(float(x) for x in orientation.ravel())),
        visible_spots=plan.visible_spots * strength,
        damage=draw_damage(np.random.default_rng(0), damaged=False),
        course=Course(look_alike="none", brightness=one * hit, background=one, ice=0.0 * one, second=0.0 * one, present=one > 0),
    )


def declared(plan: Plan, kind: RunKind) -> Run:
    """As a listener is told; the header has no angles."""
    run = plan.run()
    header = replace(run.header, omega_start_deg=None, omega_step_deg=None, rotation_axis=None)
    return replace(run, kind=kind, header=header)


def _judged(run: Run, spots: tuple[Spots, ...]) -> tuple[int, bool]:
    """Number of frames of which some decay was said, and whether the flag was raised, by the runtime's tracker and policies."""
    policies, judged, flagged = policies_for(run, FlagsSettings()), 0, False
    for frame, decay in tracked(DecayTracker(run), run, enumerate(spots)):
        judged += decay is not None
        verdict = replace(verdict_of(run.id, frame, None, diffracts=len(spots[frame]) >= MIN_SPOTS), decay=decay)
        books = Progress(received=frame + 1, judged=frame + 1)
        flagged |= any(flag.flag == "decay" for policy in policies for flag in policy.update(verdict, books))
    return judged, flagged
