"""The inner loops of indexing against the same written out slowly, on spots of lattices made by closed-form geometry."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from lattice_spots import about, axes_of, lattice, outliers, run_of, spots_at, turn

from triage.core import Cell
from triage.indexing.centre import View
from triage.indexing.kernels import assign, step
from triage.indexing.known_cell import _worthiest
from triage.indexing.matrices import apart_rad, inverse, nearest_rotation
from triage.indexing.model import TURNS
from triage.indexing.observed import Floats, Observed
from triage.indexing.search import ALL_NINE, Held, screened, settle, some_of
from triage.indexing.vectors import mark_planes, offset_of, refine_vector

CELL: Cell = (52.0, 67.0, 81.0, 90.0, 104.0, 90.0)
STRAINS = np.array([np.diag([1.0, 1.0, 0.0]), [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
SHIFT_SIGMA_PX = 2.0


def observed_of(seed: int, n: int = 200) -> tuple[Observed, Floats]:
    """The spots of a lattice and 20 others, and its A."""
    rng, run = np.random.default_rng(seed), run_of(rotation_deg=0.2)
    orientation = turn(rng)
    positions = np.vstack([lattice(CELL, orientation, run, rng, n=n), outliers(run, rng, 20)])
    return View.of(spots_at(positions, run, rng), run).observed, orientation @ np.linalg.inv(axes_of(CELL))


def slow_step(a: Floats, shift: Floats, held: Held, observed: Observed, spin: Floats, hkl: Floats, sigmas: tuple[Floats, Floats]) -> Floats:
    """What `step` solves, spot by spot: x of A, then of the shift."""
    m = len(held.ways)
    normal = np.diag([*held.per_sigma2, *[1.0 / SHIFT_SIGMA_PX**2] * 2])
    right = -np.array([*(held.per_sigma2 * held.taken), *(shift / SHIFT_SIGMA_PX**2)])
    for q, ray, per_px, h, across, along in zip(*observed.measured, hkl, *sigmas, strict=True):
        g = a @ h
        off, speed = g - q + per_px @ shift, np.cross(spin, g)
        part = 0.0 if not spin.any() else float(np.clip(-(off @ ray) / (speed @ ray), -1.0, 1.0))
        misfit = off + part * (speed - (speed @ ray) * ray)
        weight = np.eye(3) / across**2 + (1.0 / along**2 - 1.0 / across**2) * np.outer(ray, ray)
        d = off @ ray
        worth = (misfit @ misfit - d * d) / across**2 + d * d / along**2
        weight /= (1.0 + worth / 6.0) ** 2
        columns = np.column_stack([*(way @ g for way in held.ways), per_px])
        normal += columns.T @ weight @ columns
        right -= columns.T @ weight @ misfit
    normal[np.arange(m), np.arange(m)] += 1e-12
    return np.asarray(np.linalg.solve(normal, right))


@pytest.mark.parametrize("spin", [(0.0, 0.0, 0.0), (0.002, 0.0, 0.0)])
@pytest.mark.parametrize("ways", [ALL_NINE, TURNS, np.concatenate([TURNS, STRAINS])], ids=["nine", "turns", "strains"])
def test_a_round_of_least_squares_is_the_one_written_out(ways: Floats, spin: tuple[float, float, float]) -> None:
    observed, right = observed_of(81)
    a = about((1.0, 2.0, 3.0), 0.2) @ right * 1.002
    axis, shift = np.array(spin), np.array([0.4, -0.3])
    near = settle(observed, observed.usable, a, rounds=0)
    sigmas = 1.3 * observed.per_px_A, np.hypot(3e-4, 0.006 * observed.s)
    held = Held(ways, np.full(len(ways), 1e-3), np.full(len(ways), 2e-3))
    chosen = replace(observed, measured=type(observed.measured)(*(part[near.inside] for part in observed.measured)))
    x = slow_step(a, shift, held, chosen, axis, near.hkl[near.inside], (sigmas[0][near.inside], sigmas[1][near.inside]))
    stepped, moved, taken = a.copy(), shift.copy(), held.taken.copy()
    assert step(stepped, moved, held._replace(taken=taken), observed.measured, axis, near.hkl, near.inside, *sigmas)
    assert near.inside.sum() > 100
    np.testing.assert_allclose(stepped, a + np.einsum("k,kij->ij", x[:-2], ways) @ a, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(moved, shift + x[-2:], rtol=1e-6)
    np.testing.assert_allclose(taken, held.taken + x[:-2], rtol=1e-6, atol=1e-12)


def test_the_common_phase_is_that_of_the_sum_of_waves() -> None:
    rng = np.random.default_rng(82)
    q, t = rng.normal(0.0, 0.1, (3, 50)), np.array([31.0, -47.0, 12.0])
    exact = np.angle(np.exp(2j * np.pi * (t @ q[:, :40])).sum()) / (2 * np.pi)
    assert offset_of(t, q, 40) == pytest.approx(exact, abs=2e-4)


def test_a_vector_is_refined_on_the_spots_asked_for() -> None:
    """A lattice's vector, a little off, ends where least squares of the nearest whole numbers has it; other spots are not asked."""
    rng = np.random.default_rng(83)
    true = np.array([40.0, 25.0, -10.0])
    h = rng.integers(-6, 7, 60)
    q = np.outer(true, h) / (true @ true) + (np.eye(3) - np.outer(true, true) / (true @ true)) @ rng.normal(0.0, 0.05, (3, 60))
    everything = np.concatenate([q, rng.normal(0.0, 0.1, (3, 60))], axis=1)
    t = true + np.array([0.3, -0.2, 0.2])
    shift = refine_vector(t, everything, 60, 0.25, 3)
    assert shift == pytest.approx(0.0, abs=1e-3)
    np.testing.assert_allclose(t, true, atol=0.02)  # a small ridge pulls at it
    on = np.zeros(60, dtype=bool)
    number, spread = mark_planes(t, shift, q, on)
    assert number == on.sum() == 60
    assert spread == pytest.approx(h.std(), rel=1e-3)


def test_the_most_promising_lattices_are_those_that_all_spots_prefer() -> None:
    """Of 24, a few of them the right one within a little, the best eight on some of the spots hold the best one on all."""
    observed, right = observed_of(84, n=400)
    rng = np.random.default_rng(85)
    wrong = [turn(rng) @ right for _ in range(20)]
    near = [about((1.0, 0.0, 2.0), angle) @ right for angle in (0.1, 0.2, 0.3, 0.4)]
    lattices = [*wrong[:10], *near, *wrong[10:]]
    kept = screened(observed, observed.usable, lattices, 8)
    assert len(kept) == 8
    assert all(any(np.array_equal(one, other) for other in kept) for one in near)
    assert settle(observed, observed.usable, kept[0]).n > 300


def test_few_spots_or_lattices_are_not_worth_a_screen() -> None:
    observed, right = observed_of(86, n=120)
    lattices = [about((0.0, 0.0, 1.0), float(k)) @ right for k in range(24)]
    assert len(screened(observed, observed.usable, lattices, 8)) == 24
    assert len(screened(observed, observed.usable, lattices[:5], 8)) == 5


def test_spots_to_screen_with_go_as_far_out_as_all_do() -> None:
    use = np.zeros(1000, dtype=bool)
    use[100:900] = True
    some = some_of(use)
    assert 80 <= len(some) <= 100
    assert use[some].all()
    assert some[0] == 100
    assert some[-1] > 880


@pytest.mark.parametrize("turned_deg", [0.0, 1.0, 30.0], ids=["the lattice", "nearly", "another"])
def test_the_nearest_point_is_the_nearest_of_the_27_about_it(turned_deg: float) -> None:
    """Neighbours are looked at only where they can be nearer: of the lattice's own spots seldom, of another's nearly always."""
    observed, right = observed_of(87)
    a = about((3.0, 1.0, 2.0), turned_deg) @ right
    q, ray, _ = observed.measured
    across, along = 1.3 * observed.per_px_A, np.hypot(3e-4, 0.006 * observed.s)
    hkl, away = np.zeros((len(q), 3)), np.zeros((len(q), 2))
    assign(a, q, ray, np.zeros(3), across, along, np.ones(len(q), dtype=bool), hkl, away)
    around = np.array(list(product((-1, 0, 1), repeat=3)))
    points = np.rint(q @ np.linalg.inv(a).T)[:, None] + around
    off = points @ a.T - q[:, None]
    parallel = (off * ray[:, None]).sum(axis=2)
    perpendicular = np.sqrt((off**2).sum(axis=2) - parallel**2)
    best = np.argmin((perpendicular / across[:, None]) ** 2 + (parallel / along[:, None]) ** 2, axis=1)
    of_each = np.arange(len(q)), best
    np.testing.assert_array_equal(hkl, points[of_each])
    np.testing.assert_allclose(away, np.column_stack([perpendicular[of_each], parallel[of_each]]), atol=1e-9)


def test_an_inverse_is_numpy_s_and_there_may_be_none() -> None:
    matrix = np.random.default_rng(88).normal(size=(3, 3))
    np.testing.assert_allclose(inverse(matrix.T), np.linalg.inv(matrix.T), rtol=1e-12)
    np.testing.assert_allclose(inverse(np.array([[2, 0, 0], [1, 1, 0], [0, 0, 4]])) @ [2, 1, 4], [1.0, 0.0, 1.0], atol=1e-15)
    with pytest.raises(np.linalg.LinAlgError):
        inverse(np.ones((3, 3)))


@pytest.mark.parametrize("seed", range(4))
def test_the_nearest_rotation_is_kabsch_s(seed: int) -> None:
    """Of matrices near a rotation and far from any; half of these are of the other hand."""
    rng = np.random.default_rng(seed)
    for matrix in (turn(rng) @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), rng.normal(size=(3, 3)), -rng.normal(size=(3, 3))):
        u, _, vt = np.linalg.svd(matrix)
        kabsch = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
        np.testing.assert_allclose(nearest_rotation(matrix), kabsch, atol=1e-9)


def test_the_angle_between_lattices_is_that_whatever_their_axes() -> None:
    _, a = observed_of(89)
    change = np.array([[1.0, 1.0, 0.0], [0.0, -1.0, 0.0], [0.0, 2.0, -1.0]])  # determinant 1: other axes of the same lattice
    turned = about((1.0, -1.0, 0.5), 0.7) @ a @ change
    assert apart_rad(turned, a) == pytest.approx(np.deg2rad(0.7), rel=1e-6)
    assert apart_rad(a, a) == pytest.approx(0.0, abs=1e-6)
    assert apart_rad(a, 2.0 * a) == np.inf
    assert apart_rad(a @ np.diag([2.0, 1.0, 1.0]), a) == np.inf


def test_the_worthiest_orientations_are_those_of_all_three_vectors_summed() -> None:
    """Of 8,000 turns, of which the right one is asked for every vector: it and its worth are those of the sums over spots."""
    observed, a = observed_of(90)
    rng = np.random.default_rng(91)
    direct = np.linalg.inv(a)
    turned = np.stack([direct @ turn(rng).T for _ in range(7_999)] + [direct]).astype(np.float32)
    q = np.ascontiguousarray(observed.measured.q[:64].T.astype(np.float32))
    kept, worth = _worthiest(q, turned, np.zeros(len(turned), dtype=np.float32), (2, 1, 0))
    coherence = np.abs(np.exp(2j * np.pi * (turned.astype(np.float64) @ q)).mean(axis=2)).sum(axis=1)  # (8000,)
    assert len(kept) == len(worth) == 2_000
    assert np.array_equal(kept[np.argmax(worth)], turned[-1])
    assert worth.max() == pytest.approx(coherence[-1], abs=2e-3)
    assert coherence.argmax() == 7_999
