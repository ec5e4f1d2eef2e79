"""DIALS indexes simulated frames: cell and orientation come out as they were put in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from benchmarks.indexed import has_dials, index_by_dials  # noqa: E402
from training.simulate.crystal import Crystal  # noqa: E402
from training.simulate.diffraction import Beam, Lattice  # noqa: E402
from training.simulate.draw import random_rotation  # noqa: E402
from training.simulate.render import render  # noqa: E402
from training.simulate.scene import Background, Scene, Shadows  # noqa: E402
from training.simulate.writer import write_nxmx  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]
torch.set_num_threads(1)  # on a busy machine two wait for each other

CASES = [  # space group, cell, rotation of the exposure
    ("P 43 21 2", (78.9, 78.9, 37.9, 90.0, 90.0, 90.0), 0.2),
    ("P 21 21 21", (52.0, 66.0, 81.0, 90.0, 90.0, 90.0), 0.1),
    ("P 61 2 2", (93.0, 93.0, 130.0, 90.0, 90.0, 120.0), 0.25),
    ("C 1 2 1", (105.0, 48.0, 70.0, 90.0, 101.0, 90.0), 0.0),
    ("P 43 21 2", (78.9, 78.9, 37.9, 90.0, 90.0, 90.0), 0.0),
]


def scene(number: int) -> Scene:
    space_group, cell, rotation_deg = CASES[number]
    crystal = Crystal(space_group=space_group, cell=cell, seed=number, b_factor_A2=25.0)
    orientation = tuple(float(x) for x in random_rotation(np.random.default_rng(number)).ravel())
    return Scene(
        seed=number,
        detector="EIGER2 1M",
        wavelength_A=1.0,
        distance_mm=100.0,
        beam_px=(530.2, 512.7),
        beam=Beam(bandwidth=2e-4, divergence_rad=1e-4, size_px=0.6, rotation_deg=rotation_deg),
        lattices=(Lattice(crystal=crystal, orientation=orientation, mosaicity_deg=0.12, domain_A=3000.0, scale=1.0),),
        visible_spots=200,
        d_min_A=1.5,
        background=Background(level=0.4, air=0.5, water=0.8, plastic=0.0, constant=0.2, unevenness=0.0),
        shadows=Shadows(stop_px=10.0),
    )


@pytest.mark.timeout(600)
def test_dials_indexes_frames_of_a_known_cell(tmp_path: Path) -> None:
    if not has_dials():
        pytest.skip("DIALS is absent: apt-get install --no-install-recommends dials")
    scenes = [scene(number) for number in range(len(CASES))]
    assert all(render(made).labels.visible_spots > 150 for made in scenes)
    for k, made in enumerate(scenes):
        write_nxmx(tmp_path / f"{k}.h5", [made])
    found = index_by_dials([(tmp_path / f"{k}.h5", 0, made.lattices[0]) for k, made in enumerate(scenes)])
    told = [dataclasses.asdict(one) for one in found]
    right = [one for one in found if one.cell_error < 5e-3 and one.orientation_error_deg < 0.3]
    assert len(right) >= 4, told
    assert all(one.indexed > 0.4 * one.spots for one in right), told
