"""Which spots a lattice predicts, and how strong they are by plain summation (benchmarks/spots_predicted.py), on spots made here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lattice_spots import axes_of, lattice, outliers, reflections, run_of, spots_at, turn

torch = pytest.importorskip("torch")  # for the training package, which tells lattices apart

from benchmarks.spots_predicted import chosen, i_over_sigma, lattices_of, near, nearest, predicted_by, turned  # noqa: E402
from benchmarks.spots_settings import ANY_SIZE, COMMON, DEFAULT, sorted_out  # noqa: E402
from triage.core import Cell  # noqa: E402

pytestmark = pytest.mark.torch
CELL: Cell = (46.0, 63.0, 88.0, 90.0, 90.0, 90.0)


def test_reflections_that_a_lattice_has_beside_common_ones_are_predicted_and_others_are_not() -> None:
    """The lattice from 120 of its spots, with the beam 3 px from where it is stated: of 100 further ones nearly all, of outliers few."""
    rng, run = np.random.default_rng(71), run_of()
    assert run.geometry is not None
    orientation = turn(rng)
    of_it = lattice(CELL, orientation, run, rng, n=220)
    rng.shuffle(of_it)
    slow, fast = run.geometry.beam_px
    stated = replace(run, geometry=replace(run.geometry, beam_px=(slow + 3.0, fast)))
    indexed, (found,) = lattices_of(spots_at(of_it[:120], stated, rng), stated)
    assert indexed.solutions[0].bravais == "oP"
    further, others = of_it[120:], outliers(run, rng, 400)
    further = further[~near(further, of_it[:120])]
    assert found.fresh(further).mean() > 0.85
    share = found.fresh(others).mean()
    assert share < 0.3
    assert found.by_chance(others) / len(others) == pytest.approx(share, abs=0.05)
    assert found.by_chance(further) < 0.3 * len(further)


def test_a_point_that_a_common_spot_holds_is_not_predicted_again() -> None:
    """What is found twice, or of a strong spot's tail, speaks for no reflection of its own."""
    rng, run = np.random.default_rng(72), run_of()
    assert run.geometry is not None
    orientation = turn(rng)
    direct = axes_of(CELL) @ orientation.T
    of_it = lattice(CELL, orientation, run, rng, n=150, noise_px=0.2)
    found = predicted_by(direct, run.geometry, of_it)
    assert len(found.held) > 120
    assert found.fresh(of_it).sum() <= 150 - len(found.held)
    assert found.fresh(np.zeros((0, 2))).tolist() == []


def test_the_nearest_point_is_the_reflection_itself() -> None:
    rng, run = np.random.default_rng(73), run_of()
    assert run.geometry is not None
    orientation = turn(rng)
    made = reflections(CELL, orientation, run.geometry)
    direct = axes_of(CELL) @ orientation.T
    found = nearest(direct, run.geometry, made[:, :2] + [0.0, 0.5], (1.3, 0.006))
    np.testing.assert_array_equal(found.hkl, np.rint(made[:, 2:] @ direct.T))
    np.testing.assert_allclose(found.px, 0.5, atol=0.1)  # a pixel is smaller in q where rays are slanted, by direction
    assert found.rad.max() < np.deg2rad(0.25) + 5e-4 / 0.02


def test_turning_keeps_the_distance_from_the_beam() -> None:
    beam = (100.0, 50.0)
    at = turned(np.array([[100.0, 60.0]]), beam, 90.0)
    np.testing.assert_allclose(np.hypot(*(at - beam).T), 10.0)
    np.testing.assert_allclose(at[0, 1], 50.0, atol=1e-9)


def test_spots_of_either_finder_are_summed_alike() -> None:
    """A spot of 200 photons in one pixel on a flat background of 4, beside a strong one in the ring of its background, and a masked one."""
    image, usable = np.full((60, 60), 4.0), np.ones((60, 60), dtype=bool)
    image[30, 20] += 200.0
    image[30, 27] += 5_000.0
    usable[40:, 40:] = False
    at = np.array([[30.5, 20.5], [30.5, 27.5], [50.5, 50.5]])
    found = i_over_sigma(image, usable, at, at)
    n = int((np.hypot(*np.mgrid[-3:4, -3:4]) <= 3.0).sum())
    ring = np.hypot(*np.mgrid[-9:10, -9:10])
    free = np.hypot(*(np.mgrid[-9:10, -9:10] - np.array([0, 7])[:, None, None])) > 3.0
    m = int(((ring >= 5.0) & (ring <= 9.0) & free).sum())
    assert found[0] == pytest.approx(200.0 / np.sqrt(200.0 + 4.0 * n + 4.0 * n * n / m))
    assert np.isnan(found[2])


def test_why_dials_has_no_spot_is_told_apart() -> None:
    """Five of ours, of which one is too weak: common, masked, of one pixel, unseen; and one of DIALS' alone."""
    mine = np.array([[10.0, 10.0, 9.0, 8.0], [20.0, 20.0, 9.0, 8.0], [30.0, 30.0, 9.0, 8.0], [40.0, 40.0, 9.0, 8.0], [45.0, 5.0, 9.0, 2.0]])
    default = np.array([[10.5, 10.0, 9.0, 9.0], [5.0, 45.0, 9.0, 9.0]])
    theirs = {DEFAULT: default, ANY_SIZE[0]: np.array([[30.0, 31.0, 1.0, 1.0]]), ANY_SIZE[1]: default}
    trusted = np.ones((50, 50), dtype=bool)
    trusted[18:23, 18:23] = False
    classes = sorted_out(mine, theirs, trusted)
    assert [which.sum() for _, which in classes.values()] == [1, 1, 1, 1, 1]
    assert classes[COMMON][1].tolist() == [True, False, False, False, False]
    assert next(reversed(classes.values()))[1].tolist() == [False, True]


def test_spots_are_chosen_with_all_that_is_known_of_them() -> None:
    rng, run = np.random.default_rng(74), run_of()
    spots = spots_at(outliers(run, rng, 6), run, rng)
    two = chosen(spots, np.array([True, False, False, True, False, False]))
    assert len(two) == 2
    np.testing.assert_array_equal(two.positions_px, spots.positions_px[[0, 3]])
    assert two.inverse_d_per_A is not None
    assert len(two.inverse_d_per_A) == len(two.on_ice) == len(two.n_pixels) == 2
