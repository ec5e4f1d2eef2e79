"""How many simulated frames DIALS indexes with the cell known: one lattice, at least 150 visible spots, drawn as training frames are.

    python -m benchmarks.indexed [--frames 20] [--seed 1]

Needs Debian's `dials` package. A frame counts when cell and orientation, modulo the rotations of the lattice, are those that were drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hdf5plugin
import numpy as np
import numpy.typing as npt

from benchmarks.timing import show
from training.simulate.diffraction import Lattice
from training.simulate.draw import draw_scene
from training.simulate.render import render
from training.simulate.scene import Scene
from training.simulate.writer import write_nxmx

PYTHON_WITH_DIALS = "/usr/bin/python3"
SCRIPT = Path(__file__).with_name("dials_index.py")
DETECTORS = ("EIGER2 500K", "EIGER2 1M", "PILATUS3 1M", "JUNGFRAU 1M")
LEAST_SPOTS = 150
NEXUS_TO_IMGCIF = np.diag([-1.0, 1.0, -1.0])
"""DIALS turns NeXus's frame (z along the beam) into imgCIF's (z towards the source), y kept."""
CELL_WITHIN, ORIENTATION_WITHIN_DEG = 0.01, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """What DIALS made of one frame, against the truth."""

    spots: int
    indexed: int = 0
    cell_error: float = np.inf
    """Largest relative error of a, b, c."""
    orientation_error_deg: float = np.inf
    error: str = ""

    @property
    def is_right(self) -> bool:
        return self.cell_error < CELL_WITHIN and self.orientation_error_deg < ORIENTATION_WITHIN_DEG


def has_dials() -> bool:
    try:
        probe = subprocess.run([PYTHON_WITH_DIALS, "-c", "import dials.command_line.index"], capture_output=True, check=False)
    except OSError:
        return False
    return probe.returncode == 0


def index_by_dials(frames: Sequence[tuple[Path, int, Lattice]]) -> list[Indexed]:
    """Frames as (NXmx file, number in it, its lattice)."""
    jobs = [
        {"path": str(path), "frame": frame, "cell": lattice.crystal.cell, "space_group": lattice.crystal.space_group}
        for path, frame, lattice in frames
    ]
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "jobs.json", Path(folder) / "found.json"
        given.write_text(json.dumps(jobs))
        environment = {**os.environ, "HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH}
        subprocess.run(
            [PYTHON_WITH_DIALS, str(SCRIPT), str(given), str(found)], cwd=folder, env=environment, capture_output=True, check=True
        )
        results = json.loads(found.read_text())
    return [_against(result, lattice) for result, (_, _, lattice) in zip(results, frames, strict=True)]


def _against(result: dict[str, Any], truth: Lattice) -> Indexed:
    if "error" in result:
        return Indexed(spots=result["spots"], error=result["error"])
    lengths = np.asarray(result["cell"][:3]) / np.asarray(truth.crystal.cell[:3])
    return Indexed(
        spots=result["spots"],
        indexed=result["indexed"],
        cell_error=float(np.abs(lengths - 1.0).max()),
        orientation_error_deg=_angle_deg(np.asarray(result["a_matrix"]).reshape(3, 3), truth),
    )


def _angle_deg(a_matrix: npt.NDArray[np.float64], truth: Lattice) -> float:
    """The rotation between DIALS' A, brought into our frame, and any of the equivalent orientations of the truth."""
    u, _, vt = np.linalg.svd(NEXUS_TO_IMGCIF @ a_matrix @ np.linalg.inv(truth.crystal.reciprocal_basis()))
    found = u @ vt  # the nearest rotation: the cells differ a little
    equivalent = np.asarray(truth.orientation).reshape(3, 3) @ truth.crystal.lattice_rotations()
    cosine = (np.einsum("nij,ij->n", equivalent, found).max() - 1.0) / 2.0
    return float(np.rad2deg(np.arccos(np.clip(cosine, -1.0, 1.0))))


def scenes(n: int, seed: int) -> list[Scene]:
    """Single lattices as they are drawn for training, those with too few spots left out."""
    rng, found = np.random.default_rng(seed), list[Scene]()
    while len(found) < n:
        scene = draw_scene(rng, detectors=DETECTORS)
        if scene.kind == "single" and (scene.visible_spots or 0) >= LEAST_SPOTS and render(scene).labels.visible_spots >= LEAST_SPOTS:
            found.append(scene)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    if not has_dials():
        print(f"indexed: skipped, {PYTHON_WITH_DIALS} has no DIALS (apt-get install --no-install-recommends dials)")
        return
    drawn = scenes(given.frames, given.seed)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{k}.h5" for k in range(len(drawn))]
        for path, scene in zip(paths, drawn, strict=True):
            write_nxmx(path, [scene])
        found = index_by_dials([(path, 0, scene.lattices[0]) for path, scene in zip(paths, drawn, strict=True)])
    columns = ("detector", "rotation", "space group", "cell", "visible", "DIALS' spots", "indexed", "cell error", "turned by")
    show("simulated frames indexed by DIALS", columns, [_row(scene, one) for scene, one in zip(drawn, found, strict=True)])
    print(f"{sum(one.is_right for one in found)} of {len(found)} with the right cell and orientation")


def _row(scene: Scene, found: Indexed) -> list[str]:
    crystal = scene.lattices[0].crystal
    told = (
        [found.error[:40], "", ""]
        if found.error
        else [str(found.indexed), f"{found.cell_error:.2%}", f"{found.orientation_error_deg:.2f} deg"]
    )
    cell = " ".join(f"{x:.0f}" for x in crystal.cell)
    return [scene.detector, f"{scene.beam.rotation_deg:g}", crystal.space_group, cell, str(scene.visible_spots), str(found.spots), *told]


if __name__ == "__main__":
    main()
