"""Wedges brought onto one another. Truths: lattices drawn in known settings, a simulated run of three wedges."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gemmi
import numpy as np
import pytest

from triage.core import Indexed, IndexingStatus, Run, RunHeader, RunKind, Solution
from triage.decay import again as again_module
from triage.decay.again import Again
from triage.decay.frames import FrameSpots
from triage.decay.mates import family, rotations
from triage.decay.wedges import setting
from triage.geometry import Geometry

X = (1.0, 0.0, 0.0)
CELLS = {
    "aP": (40.0, 50.0, 60.0, 80.0, 75.0, 70.0),
    "mP": (40.0, 50.0, 60.0, 90.0, 105.0, 90.0),
    "oP": (40.0, 50.0, 60.0, 90.0, 90.0, 90.0),
    "tI": (50.0, 50.0, 80.0, 90.0, 90.0, 90.0),
    "hP": (60.0, 60.0, 90.0, 90.0, 90.0, 120.0),
    "cP": (80.0, 80.0, 80.0, 90.0, 90.0, 90.0),
}
HKL = np.random.default_rng(1).integers(-20, 21, size=(50, 3))


def basis(cell: tuple[float, ...]) -> np.ndarray:
    """Reciprocal vectors as columns."""
    return np.asarray(gemmi.UnitCell(*cell).frac.mat.tolist(), dtype=np.float64).T


def drawn(seed: int) -> np.ndarray:
    """A rotation."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return np.asarray(turn * np.sign(np.linalg.det(turn)))


def about_x(angle_deg: float) -> np.ndarray:
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def in_setting(lattice: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """The same lattice, in which what was h is h R."""
    return np.asarray(lattice @ np.linalg.inv(rotation).T)


@pytest.mark.parametrize("bravais", CELLS)
@pytest.mark.parametrize("angle_deg", [0.0, 180.0, 77.0])
def test_the_setting_is_found_at_whatever_angle_the_wedge_begins(bravais: str, angle_deg: float) -> None:
    """Same angle, inverse beam, another: with the errors that one frame leaves, a quarter of a degree and half a per cent."""
    candidates = rotations(bravais)
    tilted = np.eye(3) + 0.004 * np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]])
    for seed, rotation in enumerate(candidates):
        before = drawn(seed) @ basis(CELLS[bravais])
        now = in_setting(1.005 * tilted @ about_x(angle_deg) @ before, rotation)
        found = setting(before, now, X, candidates, candidates[:1])
        assert found is not None
        assert (found == rotation).all()
        assert np.allclose(now @ (HKL @ found).T, 1.005 * tilted @ about_x(angle_deg) @ before @ HKL.T)  # h is h R now


def test_two_settings_will_do_only_where_symmetry_makes_them_equal() -> None:
    """The fourfold axis along the spindle: where the wedge begins and how it was indexed look alike."""
    candidates = rotations("tI")
    along = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]) @ basis(CELLS["tI"])  # c* along x
    now = about_x(30.0) @ along
    assert setting(along, now, X, candidates, candidates[:1]) is None
    assert setting(along, now, X, candidates, rotations("mP")) is None  # twofold about b alone
    found = setting(along, now, X, candidates, candidates)
    assert found is not None
    assert set(family(HKL @ found, candidates)) == set(family(HKL, candidates))


def test_another_crystal_is_not_brought_onto_the_first() -> None:
    candidates = rotations("oP")
    before = drawn(3) @ basis(CELLS["oP"])
    slipped = drawn(4) @ before
    longer = about_x(40.0) @ drawn(3) @ basis((40.0, 50.0, 63.0, 90.0, 90.0, 90.0))
    for now in (slipped, longer):
        assert setting(before, now, X, candidates, candidates) is None


GEOMETRY = Geometry(wavelength_A=1.0, distance_mm=200.0, pixel_mm=(0.1, 0.1), beam_px=(1000.0, 1000.0), shape_px=(2000, 2000))
STEP_DEG, EACH = 0.2, 30
NEAR_SPHERE = 4e-4


def wedge(lattice: np.ndarray, first_frame: int, start_deg: float) -> list[FrameSpots]:
    """Frames of points near the sphere; `lattice` at angle nought."""
    hkl = np.stack(np.meshgrid(*[np.arange(-20, 21)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    hkl = hkl[(hkl != 0).any(axis=1)]
    frames = []
    for k in range(EACH):
        k1 = hkl @ (about_x(start_deg + STEP_DEG * (k + 0.5)) @ lattice).T + np.array([0.0, 0.0, 1.0])
        near = np.abs(np.linalg.norm(k1, axis=1) - 1.0) < NEAR_SPHERE
        positions = np.asarray(GEOMETRY.positions_px(k1[near]), dtype=np.float64)
        positions = positions[((positions > 0) & (positions < 2000)).all(axis=1)]
        ones = np.ones(len(positions))
        frames.append(FrameSpots(first_frame + k, np.zeros(len(ones), dtype=np.int64), 100.0 * ones, ones, ones, ones, positions))
    return frames


def indexed(orientation: np.ndarray, bravais: str = "oP") -> Indexed:
    solution = Solution(
        cell=CELLS["oP"], bravais=bravais, space_group=None, n_indexed=50, fraction_indexed=1.0, orientation=tuple(orientation.ravel())
    )
    return Indexed(status=IndexingStatus.INDEXED, solutions=(solution,))


def two_wedges(second_deg: float, slipped: np.ndarray, bravais: str = "oP", axis: Any = X) -> int:
    """Measurements of reflections met again, after two wedges of which the second is indexed in another setting."""
    header = RunHeader(source="s", shape_px=(2000, 2000), omega_start_deg=0.0, omega_step_deg=STEP_DEG, rotation_axis=axis)
    again = Again(Run(id="r", header=header, kind=RunKind.ROTATION, geometry=GEOMETRY))
    turn, other = drawn(6), np.diag([-1.0, -1.0, 1.0])  # twofold about c, of this cell in Cartesian axes as well
    for first, start_deg, slip, own, name in ((0, 0.0, np.eye(3), np.eye(3), "oP"), (EACH, second_deg, slipped, other, bravais)):
        now = slip @ turn
        frames = wedge(now @ basis(CELLS["oP"]), first, start_deg)
        for k, frame in enumerate(frames):
            again.add(frame)
            if again.wants_lattice and k >= 10:
                again.orient(frame.frame, indexed(about_x(start_deg + STEP_DEG * (k + 0.5)) @ now @ own, name))
            again.look()
    return 0 if again.found is None else again.found.pairs


@pytest.mark.parametrize("axis", [X, None])
@pytest.mark.parametrize("second_deg", [0.0, 180.0])
def test_wedges_of_the_same_and_of_the_inverse_angle_are_compared(second_deg: float, axis: Any) -> None:
    """Intensities that are all alike let no symmetry be believed: what pairs are there are reflections met in both wedges, or Friedel's."""
    assert two_wedges(second_deg, np.eye(3), axis=axis) > 200
    assert two_wedges(second_deg, np.eye(3), "oC", axis) < 130  # as another lattice: little is met twice in one wedge


def test_a_crystal_that_slipped_begins_anew() -> None:
    assert two_wedges(0.0, drawn(8)) < 100


def test_simulated_wedges_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triclinic: what is met again was met in the other wedge, which comes back to the same angle."""
    pytest.importorskip("torch")
    from training.decay.lane import verdict_of, with_spots
    from training.decay.runs import draw_plan, simulate
    from training.simulate.draw import rotation_about
    from triage.decay import DecayTracker

    run = simulate(draw_plan(71, "train", 351))
    plan = run.plan
    axis = np.asarray(plan.beam.rotation_axis)

    def lattice(frame: int) -> Indexed:
        turn = rotation_about(axis, float(plan.angle_deg[frame]) + 0.5 * plan.beam.rotation_deg)
        orientation = turn @ np.asarray(plan.lattice.orientation).reshape(3, 3)
        found = indexed(orientation, "aP")
        return replace(found, solutions=(replace(found.solutions[0], cell=plan.lattice.crystal.cell),))

    def last() -> Any:
        tracker = DecayTracker(plan.run())
        said = []
        for frame, spots in run.frames():
            said.append(tracker.update(verdict_of("r", frame, with_spots(spots), diffracts=True)))
            if tracker.wants_lattice and frame % 10 == 5:
                tracker.indexed(frame, lattice(frame))
        return said[-1]

    compared = last()
    monkeypatch.setattr(again_module, "setting", lambda *_: None)
    anew = last()
    assert compared.again_spots > 1000
    assert compared.again_spots > 10 * (anew.again_spots or 0)
    assert abs(compared.again_delta_B_A2) < 3.0 * compared.again_delta_B_sigma  # the crystal is not damaged
