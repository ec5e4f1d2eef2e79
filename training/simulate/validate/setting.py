"""What the plots have in common: a plain scene, and how a figure is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from training.simulate.crystal import Crystal
from training.simulate.diffraction import Beam, Lattice, Reflections, reflections
from training.simulate.draw import random_rotation
from training.simulate.scene import Background, Scene, Shadows

plt.switch_backend("Agg")  # no screen is needed
Floats = npt.NDArray[np.float64]
DPI = 80
COLOURS = 48
"""Of a written picture: enough for lines and grey frames, and a third of the bytes."""
ORIENTATION = tuple(float(x) for x in random_rotation(np.random.default_rng(1)).ravel())
CRYSTAL = Crystal(space_group="P 21 21 21", cell=(50.0, 60.0, 70.0, 90.0, 90.0, 90.0), seed=3, b_factor_A2=15.0)
LATTICE = Lattice(crystal=CRYSTAL, orientation=ORIENTATION, mosaicity_deg=0.1, domain_A=3000.0, scale=1.0)
BEAM = Beam(bandwidth=2e-4, divergence_rad=1e-4, size_px=0.6, rotation_deg=0.2)
FLAT = Background(level=0.1, air=0.0, water=0.0, plastic=0.0, constant=1.0, unevenness=0.0)


def plain_scene(**changes: Any) -> Scene:
    """A small detector without shadows, ice or artefacts, a flat background."""
    scene = Scene(
        seed=5,
        detector="EIGER2 500K",
        wavelength_A=1.0,
        distance_mm=90.0,
        beam_px=(250.3, 512.8),
        beam=BEAM,
        background=FLAT,
        shadows=Shadows(stop_px=4.0),
        d_min_A=1.6,
    )
    return dataclasses.replace(scene, **changes)


def expected_spots(scene: Scene, lattice: Lattice | None = None) -> Reflections:
    """What `reflections` expects of a scene's first lattice."""
    return reflections(lattice or scene.lattices[0], scene.beam, scene.geometry(), scene.d_min_A, scene.detector_model().spread_px)


def panels(n: int, *, rows: int = 1, width: float = 4.2, height: float = 3.3) -> tuple[Figure, list[Any]]:
    """A figure of `n` panels in `rows` rows, and their axes."""
    figure, axes = plt.subplots(rows, n // rows, figsize=(width * (n // rows), height * rows), constrained_layout=True)
    return figure, list(np.atleast_1d(axes).ravel())


def write(figure: Figure, path: Path) -> None:
    """As a PNG of few colours, which keeps it small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    with Image.open(path) as image:
        few = image.convert("RGB").quantize(COLOURS)
    few.save(path, optimize=True)
