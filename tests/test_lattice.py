"""A lattice is found in the spots of one, and what it leaves over is counted: against lattices made here."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from synthetic import Floats

from triage.core import Spots
from triage.geometry import Geometry
from triage.lattice import HALF, TRANSFORMED, lattice_of, peaks_of, residuals, same_indices, small_rotation, transform
from triage.lattice_features import LATTICE_FEATURES, MIN_SPOTS, lattice_features
from triage.lattice_grow import _sum_up

GEOMETRY = Geometry(wavelength_A=1.0, distance_mm=180.0, pixel_mm=(0.075, 0.075), beam_px=(600.0, 600.0), shape_px=(1200, 1200))
CELL = np.diag([62.0, 74.0, 91.0])  # direct axes in A, as rows


def rotation(axis: Floats, degrees: float) -> Floats:
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def random_rotation(seed: int) -> Floats:
    matrix, upper = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    matrix = matrix * np.sign(np.diag(upper))
    return np.asarray(matrix * np.sign(np.linalg.det(matrix)))


def diffracted(
    turn: Floats, *, most: int, seed: int = 0, d_min_A: float = 2.2, thickness_per_A: float = 1.2e-3, geometry: Geometry = GEOMETRY
) -> Floats:
    """Positions (n, 2) in px where lattice points near the Ewald sphere diffract, `most` of them at random."""
    grid = np.stack(np.meshgrid(*[np.arange(-45, 46)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    g = grid @ np.linalg.inv(CELL).T @ turn.T
    ray = g + np.array([0.0, 0.0, 1.0])
    s = np.linalg.norm(g, axis=1)
    near = (np.abs(np.linalg.norm(ray, axis=1) - 1.0) < thickness_per_A) & (s > 0.03) & (s < 1.0 / d_min_A)
    positions = geometry.positions_px(ray[near])
    positions = positions[((positions > 0) & (positions < 1200)).all(axis=1)]
    rng = np.random.default_rng(seed)
    return np.asarray(rng.permutation(positions)[:most] + rng.normal(0.0, 0.15, (min(most, len(positions)), 2)))


def spots_at(positions: Floats, strength: float | Floats = 400.0) -> Spots:
    n = len(positions)
    intensity = np.broadcast_to(np.asarray(strength, dtype=np.float32), (n,)).copy()
    return Spots(
        positions_px=positions.astype(np.float32),
        intensity=intensity,
        sigma=np.sqrt(intensity),
        background=np.ones(n, dtype=np.float32),
        peak=intensity / 3,
        n_pixels=np.full(n, 6, dtype=np.int32),
        inverse_d_per_A=GEOMETRY.inverse_d_per_A(positions).astype(np.float32),
        on_ice=np.zeros(n, dtype=bool),
    )


def named(spots: Spots, geometry: Geometry = GEOMETRY) -> dict[str, float]:
    return dict(zip(LATTICE_FEATURES, lattice_features(spots, geometry), strict=True))


@pytest.mark.parametrize("n", [1, 30, 31, 32])
def test_the_transform_is_the_sum_over_spots(n: int) -> None:
    """Spots are summed four at a time and rows eight: some of either are left over."""
    q = np.random.default_rng(0).normal(0.0, 0.1, (n, 3)).astype(np.float32)
    power = np.empty((5, 41, 81), dtype=np.float32)
    transform(q, np.float32(0.25), np.float32(4.0), power)
    for k, i, j in ((0, 0, 0), (3, 17, 60), (2, 8, 40), (4, 40, 3), (1, 39, 80)):
        t = np.array([0.25 * i, 0.25 * (j - 40), 4.0 * (k - 2)]) / 0.25
        assert power[k, i, j] == pytest.approx(abs(np.exp(2j * np.pi * (q @ t)).sum()) ** 2, rel=1e-3, abs=0.05)


def test_peaks_are_local_maxima_highest_first_and_not_at_the_origin() -> None:
    q = np.random.default_rng(1).integers(-6, 7, (40, 3)) * np.array([0.02, 0.025, 0.001])
    power = np.empty((9, HALF + 1, 2 * HALF + 1), dtype=np.float32)
    transform(q.astype(np.float32), np.float32(0.2), np.float32(8.0), power)
    found = peaks_of(power, np.float32(8.0), 40, 20)
    assert (np.diff(found[:, 3]) <= 0).all()
    assert found[0, 3] == pytest.approx(1.0, abs=0.02)
    assert (np.linalg.norm(found[:, :3], axis=1) > 1.5).all()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [40, 120])
def test_the_spots_of_one_crystal_are_explained_and_its_cell_found(seed: int, n: int) -> None:
    found = named(spots_at(diffracted(random_rotation(seed), most=n, seed=seed)))
    assert found["lattice_share_explained"] > 0.93
    assert found["lattice_log_across_px"] < np.log(0.6)
    ratio = np.exp(found["lattice_log_volume"]) / np.linalg.det(CELL)
    assert ratio == pytest.approx(round(ratio), rel=0.05)  # the cell, or a whole multiple of it


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.0, -2.0)], ids=["true beam centre", "beam centre off by 3 px"])
def test_an_error_of_the_beam_centre_is_allowed_for(shift: tuple[float, float]) -> None:
    found = named(spots_at(diffracted(random_rotation(3), most=120) + np.asarray(shift)))
    assert found["lattice_share_explained"] > 0.9


def test_a_second_crystals_spots_are_left_over_and_found_to_be_a_lattice() -> None:
    both = np.concatenate([diffracted(random_rotation(1), most=100), diffracted(random_rotation(2), most=50, seed=1)])
    found = named(spots_at(both))
    assert found["lattice_share_explained"] == pytest.approx(100 / 150, abs=0.08)
    assert found["second_share_agreed"] > 0.8
    assert found["second_coherence"] > 0.8


def test_a_weak_second_lattice_shows_by_count_more_than_by_intensity() -> None:
    both = np.concatenate([diffracted(random_rotation(1), most=120), diffracted(random_rotation(2), most=40, seed=1)])
    found = named(spots_at(both, np.r_[np.full(120, 2000.0), np.full(40, 150.0)]))
    assert found["lattice_share_of_intensity"] > 0.97
    assert found["lattice_share_explained"] < 0.85


@pytest.mark.parametrize("degrees", [0.6, 1.5])
def test_a_split_crystal_is_a_small_rotation_of_the_first(degrees: float) -> None:
    first, axis = random_rotation(4), np.array([0.3, 0.2, 1.0])
    both = np.concatenate([diffracted(first, most=150), diffracted(rotation(axis, degrees) @ first, most=70, seed=1)])
    found = named(spots_at(both, np.r_[np.full(150, 2000.0), np.full(70, 500.0)]))
    assert found["split_share"] > 0.4
    assert np.exp(found["split_log_deg"]) == pytest.approx(degrees, rel=0.35)


def test_spots_that_share_indices_are_counted() -> None:
    indices = np.array([[1, 2, 3], [1, 2, 3], [0, 0, 4], [0, 0, 4], [5, 5, 5]])
    positions = np.array([[10.0, 10.0], [10.0, 14.0], [50.0, 50.0], [50.5, 50.0], [80.0, 80.0]])
    assert same_indices(indices, positions, 2.5) == 2  # the second pair is one spot found twice
    assert named(spots_at(diffracted(random_rotation(4), most=150)))["lattice_share_double"] < 0.03


def test_scattered_spots_are_no_lattice() -> None:
    shares = [named(spots_at(np.random.default_rng(seed).uniform(50, 1150, (150, 2))))["lattice_share_explained"] for seed in range(4)]
    assert max(shares) < 0.5


def test_residuals_are_the_distance_to_the_lattice_point_along_and_across_the_ray() -> None:
    basis = CELL.astype(float)
    ray = np.array([0.1, 0.2, 0.9])
    ray /= np.linalg.norm(ray)
    across = np.cross(ray, [0.0, 1.0, 0.0])
    across /= np.linalg.norm(across)
    point = np.array([3.0, -2.0, 1.0]) @ np.linalg.inv(CELL)
    away, indices = residuals((point + 0.0004 * ray + 0.0003 * across)[None], ray[None], basis, np.linalg.inv(basis), np.zeros(3))
    assert indices[0].tolist() == [3, -2, 1]
    assert away[0, 1:] == pytest.approx([0.0003, 0.0004], rel=1e-6)


def test_few_spots_are_nothing_to_go_by() -> None:
    assert not any(lattice_features(spots_at(diffracted(random_rotation(0), most=MIN_SPOTS - 1)), GEOMETRY))
    assert small_rotation(np.zeros((3, 3)), np.zeros((3, 3)), (np.eye(3), np.eye(3), np.zeros(3)), 0.001, 1) == (0, 0.0)


def test_the_same_spots_give_the_same_numbers() -> None:
    spots = spots_at(diffracted(random_rotation(5), most=200))
    assert lattice_features(spots, GEOMETRY) == lattice_features(spots, GEOMETRY)


def test_too_few_peaks_make_no_basis() -> None:
    q = np.column_stack([np.arange(1, 21) * 0.01, np.zeros(20), np.zeros(20)])  # a row: one direction only
    power = np.empty((5, HALF + 1, 2 * HALF + 1), dtype=np.float32)
    basis, _, agreed, _, _ = lattice_of(q, TRANSFORMED, np.float32(0.2), np.float32(8.0), power)
    assert agreed == 0
    assert not basis.any()


@pytest.mark.parametrize(("seed", "off_px"), [(31, (10.0, 45.0)), (32, (-50.0, 20.0)), (33, (0.0, 60.0))])
def test_a_wrong_beam_centre_is_found_out_of_the_outer_spots(seed: int, off_px: tuple[float, float]) -> None:
    near = dataclasses.replace(GEOMETRY, distance_mm=90.0)
    spots = spots_at(diffracted(random_rotation(seed), most=250, d_min_A=1.6, geometry=near))
    header = dataclasses.replace(near, beam_px=(near.beam_px[0] + off_px[0], near.beam_px[1] + off_px[1]))
    found = named(spots, header)
    assert found["lattice_share_unmoved"] < 0.8
    assert found["lattice_share_explained"] > 0.93
    assert np.expm1(found["lattice_log_moved_px"]) == pytest.approx(np.hypot(*off_px), rel=0.5)


@pytest.mark.parametrize("seed", [41, 42, 43])
def test_a_free_beam_centre_explains_no_second_lattice(seed: int) -> None:
    both = np.concatenate([diffracted(random_rotation(seed), most=120), diffracted(random_rotation(seed + 500), most=90, seed=7)])
    found = named(spots_at(both))
    assert found["lattice_share_explained"] < 0.75
    assert found["lattice_share_explained"] < found["lattice_share_unmoved"] + 0.1


def test_weak_reflections_between_strong_ones_are_of_a_larger_cell() -> None:
    """A body-centred cell but for every other reflection being faint: the strong ones alone make a smaller cell."""
    turn = random_rotation(55)
    positions, hkl = diffracted_indices(turn)
    odd = hkl.sum(axis=1) % 2 == 1
    rng = np.random.default_rng(2)
    strong, faint = rng.permutation(np.flatnonzero(~odd))[:280], rng.permutation(np.flatnonzero(odd))[:60]
    chosen = np.concatenate([strong, faint])
    found = named(spots_at(positions[chosen], np.where(odd[chosen], 40.0, 4000.0)))
    assert found["lattice_share_between"] > 0.8
    assert found["lattice_share_explained"] > 0.95
    assert found["lattice_log_volume"] == pytest.approx(np.log(np.linalg.det(CELL) / 2), abs=0.05)


def diffracted_indices(turn: Floats) -> tuple[Floats, np.ndarray]:
    """Positions (n, 2) in px and indices (n, 3) of a thicker shell of lattice points."""
    grid = np.stack(np.meshgrid(*[np.arange(-45, 46)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    g = grid @ np.linalg.inv(CELL).T @ turn.T
    ray = g + np.array([0.0, 0.0, 1.0])
    s = np.linalg.norm(g, axis=1)
    near = (np.abs(np.linalg.norm(ray, axis=1) - 1.0) < 4e-3) & (s > 0.03) & (s < 0.6)
    positions = GEOMETRY.positions_px(ray[near])
    inside = ((positions > 0) & (positions < 1200)).all(axis=1)
    return np.asarray(positions[inside]), grid[near][inside]


@pytest.mark.parametrize("unknowns", [12, 14])
def test_a_growing_lattice_s_equations_are_those_written_out_row_by_row(unknowns: int) -> None:
    """Three rows a spot, with the beam centre free and without."""
    rng, limit = np.random.default_rng(7), 0.3
    q, moves = rng.normal(0.0, 0.1, (120, 3)), rng.normal(0.0, 1e-3, (120, 3, 2))
    basis, shifts, moved = CELL + rng.normal(0.0, 2.0, (3, 3)), rng.normal(0.0, 0.1, 3), np.array([2.0, -3.0])
    rows, values = [], []
    for here, move in zip(q + moves @ moved, moves, strict=True):
        index = basis @ here - shifts
        off = index - np.rint(index)
        if np.abs(off).max() > limit:
            continue
        for k in range(3):
            row = np.zeros(14)
            row[3 * k : 3 * k + 3], row[9 + k], row[12:] = here, -1.0, basis[k] @ move
            rows.append(row[:unknowns])
            values.append(-off[k])
    normal, right = np.empty((unknowns, unknowns)), np.empty(unknowns)
    assert 3 * _sum_up(q, moves, (basis, shifts, moved), limit, (normal, right)) == len(rows) > 40
    np.testing.assert_allclose(normal, np.transpose(rows) @ np.array(rows), atol=1e-12)
    np.testing.assert_allclose(right, np.transpose(rows) @ np.array(values), atol=1e-12)
