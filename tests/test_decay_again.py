"""Reflections measured again. Truths: gemmi's asymmetric unit, intensities drawn with a known growth of B, simulated runs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gemmi
import numpy as np
import pytest

from triage.core import Indexed, IndexingStatus, Run, RunHeader, RunKind, Solution
from triage.decay.again import Again
from triage.decay.frames import FrameSpots
from triage.decay.mates import MOST, Mates, family, rotations
from triage.decay.names import Names, Passages, packed, unpacked
from triage.geometry import Geometry

GEOMETRY = Geometry(wavelength_A=1.0, distance_mm=200.0, pixel_mm=(0.1, 0.1), beam_px=(1000.0, 1000.0), shape_px=(2000, 2000))
CELL = (60.0, 70.0, 80.0, 90.0, 90.0, 90.0)
ALL = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
POINTLIKE = {"aP": "P 1", "mP": "P 1 2 1", "oC": "P 2 2 2", "tI": "P 4 2 2", "hR": "P 6 2 2", "cF": "P 4 3 2"}


def test_indices_are_packed_and_unpacked() -> None:
    hkl = np.random.default_rng(1).integers(-2000, 2001, size=(500, 3))
    assert (unpacked(packed(hkl)) == hkl).all()
    assert (packed(-hkl) == -packed(hkl)).all()


@pytest.mark.parametrize(("bravais", "group"), POINTLIKE.items())
def test_families_are_those_of_the_lattices_symmetry(bravais: str, group: str) -> None:
    """Two reflections are of one family where gemmi brings them to the same place of the asymmetric unit."""
    space_group = gemmi.SpaceGroup(group)
    asu, operations = gemmi.ReciprocalAsu(space_group), space_group.operations()
    theirs = [tuple(asu.to_asu(h, operations)[0]) for h in ALL.tolist()]
    ours = family(ALL, rotations(bravais)).tolist()
    assert len(set(theirs)) == len(set(ours)) == len(set(zip(theirs, ours, strict=True)))


def measured(
    rng: np.random.Generator,
    group: Any,
    n: int = 3000,
    growth_A2: float = 0.0,
    fall: float = 0.0,
    noise: float = 0.1,
    frames: float = 100.0,
) -> Passages:
    """Reflections met at random; intensities of Wilson's distribution, equal under `group`; growth of B and fall of the scale even."""
    hkl = rng.integers(-8, 9, size=(n, 3))
    hkl = hkl[(hkl != 0).any(axis=1)]
    names = np.unique(family(hkl, group), return_inverse=True)[1]
    frame = rng.uniform(0.0, frames, len(hkl))
    s2 = ((hkl / np.array(CELL[:3])) ** 2).sum(axis=1)
    true = np.log(rng.exponential(1000.0, names.max() + 1))[names]
    log_intensity = true - (growth_A2 * s2 / 2.0 + fall) * frame / frames + noise * rng.normal(size=len(hkl))
    return Passages(hkl, frame, log_intensity, np.full(len(hkl), 0.01), s2 / 2.0, np.full(len(hkl), 1.0))


@pytest.mark.parametrize(("growth_A2", "fall"), [(0.0, 0.0), (0.0, 1.0), (30.0, 0.3)])
def test_the_growth_of_B_is_found_whatever_the_scale_does(growth_A2: float, fall: float) -> None:
    mates = Mates("oP")
    mates.add(measured(np.random.default_rng(2), rotations("oP"), growth_A2=growth_A2, fall=fall))
    found = mates.result()
    assert found is not None
    assert abs(found.delta_B - growth_A2 * 7.0 / 8.0) < 3.0 * found.sigma  # from the middle of the first eighth to that of the last
    assert abs(found.even - growth_A2 * 7.0 / 8.0) < 3.0 * found.even_sigma
    assert found.even_sigma < found.sigma < 5.0
    assert found.z > 5.0 if growth_A2 else found.z < 3.0


def test_a_symmetry_that_only_the_lattice_has_is_not_believed() -> None:
    """A monoclinic crystal whose angle is 90 deg: mates under the other two axes would differ by Wilson's distribution."""
    true = rotations("mP")
    mates = Mates("oP")
    mates.add(measured(np.random.default_rng(3), true))
    assert mates.result() is not None
    assert sorted(map(bytes, mates.group)) == sorted(map(bytes, true))


def test_memory_is_bounded_and_families_stay_whole() -> None:
    rng = np.random.default_rng(4)
    mates = Mates("oP")
    for start in range(6):
        some = measured(rng, rotations("oP"), n=2000)
        mates.add(some._replace(frame=some.frame + 100.0 * start))
        assert len(mates) <= MOST
    assert mates.result() is not None


def test_too_few_reflections_say_nothing() -> None:
    mates = Mates("aP")
    assert mates.result() is None
    mates.add(measured(np.random.default_rng(5), rotations("aP"), n=20))
    assert mates.result() is None


def rotating(step_deg: float = 0.2, n_frames: int = 40) -> tuple[Solution, list[FrameSpots], np.ndarray]:
    """Frames of a crystal turned about x: a reflection is in the frame in which it comes nearest to the sphere; (n, 4) frame, h, k, l."""
    rng = np.random.default_rng(6)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn = turn * np.sign(np.linalg.det(turn))
    basis = turn @ np.diag([1.0 / edge for edge in CELL[:3]])
    hkl = np.stack(np.meshgrid(*[np.arange(-15, 16)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    g = hkl @ basis.T
    frames, truth = [], []
    for frame in range(n_frames):
        angle = math.radians(step_deg) * (frame + 0.5)
        c, s = math.cos(angle), math.sin(angle)
        q = g @ np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]]).T
        k1 = q + np.array([0.0, 0.0, 1.0])
        near = np.flatnonzero((np.abs(np.linalg.norm(k1, axis=1) - 1.0) < 4e-4) & (hkl != 0).any(axis=1))
        positions = GEOMETRY.positions_px(k1[near])
        inside = ((positions > 0) & (positions < 2000)).all(axis=1)
        near, positions = near[inside], np.asarray(positions[inside], dtype=np.float64)
        n = len(near)
        ones = np.ones(n)
        frames.append(FrameSpots(frame, np.zeros(n, dtype=np.int64), 100.0 * ones, 100.0 * ones, ones, ones, positions))
        truth.append(np.column_stack([np.full(n, frame), hkl[near]]))
    solution = Solution(
        cell=CELL,
        bravais="oP",
        space_group=None,
        n_indexed=50,
        fraction_indexed=1.0,
        orientation=tuple((_about_x(step_deg * 10.5) @ turn).ravel()),
    )
    return solution, frames, np.concatenate(truth)


def _about_x(angle_deg: float) -> np.ndarray:
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def test_spots_get_their_names_from_the_lattice_of_one_frame() -> None:
    solution, frames, truth = rotating()
    names = Names(solution, 10, (1.0, 0.0, 0.0), 0.2, GEOMETRY)
    parts = [names.passages(frames[k : k + 8]) for k in range(0, 40, 8)]
    assert not names.is_lost
    assert sum(len(part.frame) for part in parts) > 100
    true = {tuple(row) for row in truth.tolist()}
    for part in parts:
        assert {tuple(row) for row in np.column_stack([part.frame.astype(int), part.hkl]).tolist()} <= true


def test_scattering_vectors_are_the_geometrys_on_a_tilted_detector_too() -> None:
    """`Names` works them out for few positions at a time, in its own way."""
    tilted = replace(GEOMETRY, slow_axis=(0.0, math.cos(0.3), math.sin(0.3)))
    rng = np.random.default_rng(8)
    positions = rng.uniform(0.0, 2000.0, (50, 2))
    solution, _, _ = rotating(n_frames=1)
    for geometry in (GEOMETRY, tilted):
        names = Names(solution, 0, (1.0, 0.0, 0.0), 0.2, geometry)
        assert names._scattering_vectors(positions) == pytest.approx(geometry.scattering_vectors_per_A(positions), abs=1e-12)


def found(solution: Solution, shift_px: tuple[float, float] | None = None) -> Indexed:
    return Indexed(status=IndexingStatus.INDEXED, solutions=(solution,), beam_shift_px=shift_px)


def test_a_lattice_that_names_nothing_is_given_up_and_another_taken() -> None:
    solution, frames, _ = rotating()
    header = RunHeader(source="s", shape_px=(2000, 2000), omega_start_deg=0.0, omega_step_deg=0.2, rotation_axis=(1.0, 0.0, 0.0))
    run = Run(id="r", header=header, kind=RunKind.ROTATION, geometry=GEOMETRY)
    again = Again(run)
    wrong = replace(solution, orientation=tuple((_about_x(33.0) @ np.asarray(solution.orientation).reshape(3, 3)).ravel()))
    for frame in frames[:10]:
        again.add(frame)
    again.orient(9, found(replace(wrong, fraction_indexed=0.3)))
    again.orient(9, Indexed(status=IndexingStatus.NOT_INDEXED, reason="no lattice"))
    assert again.wants_lattice
    again.orient(9, found(wrong))
    assert not again.wants_lattice
    again.look()
    assert again.wants_lattice
    again.orient(10, found(solution))
    for frame in frames[10:20]:
        again.add(frame)
    again.look()
    assert not again.wants_lattice


def test_stills_and_runs_without_a_step_are_left_alone() -> None:
    solution, frames, _ = rotating(n_frames=12)
    header = RunHeader(source="s", shape_px=(2000, 2000), omega_start_deg=0.0, rotation_axis=(1.0, 0.0, 0.0))
    for kind, step_deg in ((RunKind.ROTATION, None), (RunKind.STILLS, 0.2)):
        again = Again(Run(id="r", header=replace(header, omega_step_deg=step_deg), kind=kind, geometry=GEOMETRY))
        again.add(frames[0])
        again.orient(0, found(solution))
        assert not again.wants_lattice
        assert again.look() is None


@pytest.mark.parametrize(("step_deg", "clear"), [(0.2, True), (-0.2, True), (0.001, False)])
def test_an_axis_that_the_header_does_not_state_is_found(step_deg: float, clear: bool) -> None:
    """The crystal turns by 0.2 deg about x, or by -0.2 deg about -x; by a stated thousandth of it, all axes name the first frames alike."""
    solution, frames, _ = rotating()
    header = RunHeader(source="s", shape_px=(2000, 2000), omega_start_deg=0.0, omega_step_deg=step_deg)
    again = Again(Run(id="r", header=header, kind=RunKind.ROTATION, geometry=GEOMETRY))
    again.orient(10, found(solution))
    assert again.wants_lattice  # no frame has come
    for frame in frames[:20]:
        again.add(frame)
    again.orient(10, found(solution))
    assert again.wants_lattice is not clear
    again.look()
    assert again.wants_lattice is not clear


def test_a_beam_that_the_lattice_has_elsewhere_is_believed() -> None:
    """The header's beam is 12 pixels off: no name comes out right unless the lattice's own beam is taken."""
    solution, frames, _ = rotating()
    header = RunHeader(source="s", shape_px=(2000, 2000), omega_start_deg=0.0, omega_step_deg=0.2, rotation_axis=(1.0, 0.0, 0.0))
    off = replace(GEOMETRY, beam_px=(GEOMETRY.beam_px[0] - 12.0, GEOMETRY.beam_px[1]))
    lost = []
    for shift_px in (None, (12.0, 0.0)):
        again = Again(Run(id="r", header=header, kind=RunKind.ROTATION, geometry=off))
        again.orient(10, found(solution, shift_px))
        for frame in frames[:12]:
            again.add(frame)
        again.look()
        lost.append(again.wants_lattice)
    assert lost == [True, False]
