"""Runs without pixels. Truths: `reflections` frame by frame, closed forms of fall-off and sums."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from scipy.spatial import cKDTree  # noqa: E402

from training.decay.course import Damage, draw_course, draw_damage  # noqa: E402
from training.decay.judge import judge_run  # noqa: E402
from training.decay.runs import Plan, draw_plan, simulate  # noqa: E402
from training.decay.sweep import Sweep, still_partials, swept_partials  # noqa: E402
from training.simulate.crystal import Crystal  # noqa: E402
from training.simulate.diffraction import Beam, Lattice, reflections  # noqa: E402
from training.simulate.draw import random_rotation, rotation_about  # noqa: E402
from triage.geometry import Geometry  # noqa: E402

pytestmark = pytest.mark.torch
torch.set_num_threads(1)

GEOMETRY = Geometry(wavelength_A=1.0, distance_mm=100.0, pixel_mm=(0.172, 0.172), beam_px=(240.0, 250.0), shape_px=(500, 500))
CRYSTAL = Crystal(space_group="P 21 21 21", cell=(50.0, 60.0, 70.0, 90.0, 90.0, 90.0), seed=3, b_factor_A2=15.0)
BEAM = Beam(bandwidth=1e-4, divergence_rad=1e-4, rotation_deg=0.2)
START = random_rotation(np.random.default_rng(1))
LATTICE = Lattice(crystal=CRYSTAL, orientation=tuple(START.ravel()), mosaicity_deg=0.1, domain_A=3000.0, scale=1.0)
NO_DAMAGE = Damage(
    exponent=0.0,
    onset=0.0,
    room_temperature=False,
    scale_per_B=0.01,
    B_per_MGy=1.0,
    cell_growth_per_B=3e-4,
    broadening_per_B=0.01,
)


def a_plan(index: int = 1, **damage: float) -> Plan:
    """Stills of the training split, on one detector, without look-alikes."""
    plan = next(plan for k in range(100) if (plan := draw_plan(4, "train", 100 * index + k)).kind == "stills")
    course = replace(
        plan.course, brightness=np.ones(40), background=np.ones(40), ice=np.zeros(40), second=np.zeros(40), present=np.ones(40, bool)
    )
    return replace(plan, angle_deg=np.zeros(40), wedges=((0, 40),), course=course, damage=replace(NO_DAMAGE, **damage))


def test_a_sweep_is_the_same_as_frame_by_frame() -> None:
    sweep = swept_partials(LATTICE, BEAM, GEOMETRY, 2.0, Sweep(first_frame=0, n_frames=20))
    for frame in (0, 3, 11, 19):  # the first and the last hold what is centred before and after the sweep
        middle = rotation_about(np.array(BEAM.rotation_axis), 0.2 * (frame + 0.5)) @ START
        one = reflections(replace(LATTICE, orientation=tuple(middle.ravel())), BEAM, GEOMETRY, 2.0, 0.3)
        rows = sweep.take(sweep.frame == frame)
        strong = one.photons.numpy() > np.quantile(one.photons.numpy(), 0.6)
        apart, nearest = cKDTree(rows.positions_px).query(one.positions_px.numpy()[strong])
        same = apart < 1.5
        assert same.mean() > 0.9  # the rest lies next to the axis, where the sweep leaves reflections out
        ratio = rows.recorded()[nearest[same]] / one.photons.numpy()[strong][same]
        assert np.median(ratio) == pytest.approx(1.0, abs=0.01)
        assert np.mean(np.abs(ratio - 1) < 0.1) > 0.8


def test_partials_of_a_reflection_add_up_to_the_whole() -> None:
    sweep = swept_partials(LATTICE, BEAM, GEOMETRY, 2.5, Sweep(first_frame=0, n_frames=60))
    inside = (sweep.frame > 20) & (sweep.frame < 40)
    whole, which = np.unique(sweep.full, return_inverse=True)
    total = np.bincount(which, sweep.recorded())
    complete = np.isin(whole, sweep.full[inside]) & (np.bincount(which) < 20)
    assert np.median(total[complete] / whole[complete]) == pytest.approx(math.erf(2.5 / math.sqrt(2)), abs=0.02)


def test_stills_repeat_their_reflections() -> None:
    parts = still_partials(LATTICE, BEAM, GEOMETRY, 2.5, np.array([4, 9]))
    first, second = (parts.take(parts.frame == frame) for frame in (4, 9))
    assert len(first) == len(second) > 10
    assert np.array_equal(first.full, second.full)


def test_the_loss_of_the_outer_shell_is_what_was_asked_for() -> None:
    """-ln(remaining) = exponent at the run's end: B / (2 d^2) + scale_per_B B."""
    damage = replace(NO_DAMAGE, exponent=1.5)
    growth = damage.growths(10_000, 2.5)
    remaining = math.exp(-growth[-1] / (2 * 2.5**2)) * math.exp(-damage.scale_per_B * growth[-1])
    assert -math.log(remaining) == pytest.approx(1.5, rel=1e-3)
    late = replace(damage, onset=0.5).growths(100, 2.5)
    assert late[:49].max() == 0.0 < late[60]


def test_damaged_spots_fall_off_as_their_B_says() -> None:
    """Same reflections at the start and the end of stills with neither cell growth nor broadening: ln ratio against s^2."""
    plan = a_plan(exponent=1.0, cell_growth_per_B=0.0, broadening_per_B=0.0)
    run = simulate(replace(plan, visible_spots=300.0))
    first, last = (run.rows[run.starts[frame] : run.starts[frame + 1]] for frame in (0, 39))
    bright = first[first[:, 2] > 9 * first[:, 3]]
    apart, nearest = cKDTree(last[:, :2]).query(bright[:, :2])
    same = apart < 1.5
    s2 = bright[same, 5].astype(float) ** 2
    ratio = last[nearest[same], 2] / bright[same, 2]
    expected = run.scale[39] / run.scale[0] * np.exp(-(run.delta_B_A2[39] - run.delta_B_A2[0]) * s2 / 2)
    assert len(s2) > 5
    assert np.median(ratio / expected) == pytest.approx(1.0, abs=0.1)


def test_the_same_seed_makes_the_same_run() -> None:
    one, other = simulate(draw_plan(4, "train", 7)), simulate(draw_plan(4, "train", 7))
    assert np.array_equal(one.rows, other.rows)
    assert one.plan.course.look_alike == other.plan.course.look_alike
    assert draw_plan(4, "test", 7).lattice.crystal != one.plan.lattice.crystal


def test_courses_stay_within_reason() -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        course = draw_course(rng, 80, np.arange(80.0))
        assert course.brightness.min() > 0
        assert course.background.min() >= 1.0
        assert course.present.sum() > 20
        damage = draw_damage(rng, damaged=True)
        assert damage.exponent > 0


def test_a_judged_run_has_its_truth_against_the_same_reference() -> None:
    judged = judge_run(simulate(replace(a_plan(exponent=2.5), visible_spots=200.0)))
    assert judged.kind == "stills"
    assert judged.all_loss[-1] == pytest.approx(1 - math.exp(-2.5), abs=0.03)
    assert np.all(np.diff(judged.true_delta_B) > 0)
    assert judged.probability[-1] > 0.9
