"""What is drawn of headers and crystals, against the shares and limits that are stated."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
from training.dataset import scene_of, structures
from training.simulate.draw import SMALL_MOLECULE_A, draw_header_error, draw_scene
from training.simulate.scene import HeaderError

pytestmark = pytest.mark.torch


def test_every_fourth_header_is_right_one_in_twelve_is_badly_wrong_and_the_others_a_little() -> None:
    rng = np.random.default_rng(1)
    errors = [draw_header_error(rng) for _ in range(2000)]
    right = np.mean([error == HeaderError() for error in errors])
    assert right == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 2000))
    off = np.array([error.beam_px for error in errors if error != HeaderError()])
    away = np.hypot(*off.T)
    assert 0.3 < np.median(away) < 2.0
    assert away.max() <= 80.0
    assert np.mean(away > 20.0) == pytest.approx(np.log(80 / 20) / np.log(80 / 5) / 9, abs=0.025)
    distance = np.array([error.distance for error in errors])
    assert np.percentile(np.abs(distance), 95) < 0.015


def test_training_sees_wrong_headers_and_simulated_files_do_not() -> None:
    crystals = structures(3, "validation")
    scenes = [scene_of(3, "validation", index, crystals) for index in range(40)]
    assert 20 <= sum(scene.header_error != HeaderError() for scene in scenes) <= 38
    rng = np.random.default_rng(2)
    assert all(draw_scene(rng).header_error == HeaderError() for _ in range(20))


def test_one_rotation_exposure_in_eight_is_of_a_degree_or_so() -> None:
    rng = np.random.default_rng(6)
    turned = np.array([draw_scene(rng).beam.rotation_deg for _ in range(800)])
    turned = turned[turned > 0]
    assert np.mean(turned > 0.5) == pytest.approx(0.15 * 0.75, abs=0.05)
    assert turned.max() <= 1.5


def test_small_cells_go_to_high_resolution_and_blocks_lie_about_their_middle() -> None:
    rng = np.random.default_rng(4)
    lattices = 0
    for _ in range(400):
        scene = draw_scene(rng)
        if not scene.lattices:
            continue
        small = max(scene.lattices[0].crystal.cell[:3]) < SMALL_MOLECULE_A
        assert (0.65 <= scene.d_min_A <= 1.1) if small else (1.1 <= scene.d_min_A <= 1.6)
        for lattice in scene.lattices:
            if lattice.blocks:
                lattices += 1
                parts = np.array(lattice.blocks)
                assert parts[:, 2].sum() == pytest.approx(1.0)
                assert parts[:, 2] @ parts[:, :2] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert lattices > 30
