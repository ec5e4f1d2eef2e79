"""CrystFEL's description of a simulated file: where its pixels are and which are bad (crystfel_geometry(5)).

CrystFEL's laboratory frame is NeXus's: z along the beam, y up.
"""

from __future__ import annotations

import numpy as np

from training.simulate.scene import Scene
from triage.geometry import Vector


def geometry_file(scene: Scene) -> str:
    """The text of the `.geom` file of a scene's detector and beam."""
    detector, geometry = scene.detector_model(), scene.geometry()
    pixel_mm = geometry.pixel_mm[0]
    x_mm, y_mm, z_mm = (float(v) for v in geometry.laboratory_mm((0.0, 0.0)))
    beam_z_mm = float(geometry.laboratory_mm(geometry.beam_px)[2])
    lines = [
        f"; {detector.name}, simulated",
        f"wavelength = {geometry.wavelength_A:.8f} A",
        f"bandwidth = {scene.beam.bandwidth:.4e}",
        f"clen = {beam_z_mm:.8f} mm",
        f"res = {1e3 / pixel_mm:.6f}",
        "adu_per_photon = 1",
        "data = /entry/data/data",
        "dim0 = %",
        "dim1 = ss",
        "dim2 = fs",
        *_bad_pixels(scene),
        "p0/min_fs = 0",
        f"p0/max_fs = {geometry.shape_px[1] - 1}",
        "p0/min_ss = 0",
        f"p0/max_ss = {geometry.shape_px[0] - 1}",
        f"p0/fs = {_direction(geometry.fast_axis)}",
        f"p0/ss = {_direction(geometry.slow_axis)}",
        f"p0/corner_x = {x_mm / pixel_mm:.6f}",
        f"p0/corner_y = {y_mm / pixel_mm:.6f}",
        f"p0/coffset = {(z_mm - beam_z_mm) * 1e-3:.9f}",
    ]
    return "\n".join(lines) + "\n"


def _bad_pixels(scene: Scene) -> list[str]:
    """By the mask where the file has one; else by the value that marks pixels without data (nan is always bad)."""
    if scene.gaps_masked:
        return ["mask = /entry/instrument/detector/pixel_mask", "mask_good = 0x0", "mask_bad = 0xffffffff"]
    dtype = np.dtype(scene.detector_model().dtype)
    if dtype.kind == "u":
        return [f"flag_morethan = {np.iinfo(dtype).max - 2}"]
    return ["flag_lessthan = 0"] if dtype.kind == "i" else []


def _direction(vector: Vector) -> str:
    return " ".join(f"{component:+.9f}{axis}" for component, axis in zip(vector, "xyz", strict=True))
