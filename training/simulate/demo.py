"""The demonstration run: one crystal, turned through 40 deg, to which everything happens that the flags are for.

Nothing in the listener knows this script; it is told the header and the pixels.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from training.simulate.crystal import Crystal
from training.simulate.diffraction import Beam, Lattice
from training.simulate.draw import rotation_about
from training.simulate.render import render
from training.simulate.scene import Background, Powder, Scene, Shadows
from training.simulate.writer import Scan, write_nxmx

N_FRAMES = 200
STEP_DEG = 0.2
SECOND_LATTICE = (50, 80)
"""First frame with a second crystal in the beam, and first without."""
CRYSTAL_GONE = (95, 115)
ICE = (120, 142)
DAMAGE_FROM = 148
DAMAGE_B_A2 = 1.0
"""Growth of B a frame, as at 1 A^2 per MGy (Kmetko et al., Acta Cryst. D62 (2006) 1030) and 1 MGy a frame."""

_LYSOZYME = Crystal(space_group="P 43 21 2", cell=(78.9, 78.9, 37.9, 90.0, 90.0, 90.0), seed=193, b_factor_A2=16.0)
_AXIS = (1.0, 0.0, 0.0)


def demo_scenes() -> list[Scene]:
    """The frames' scenes, in order."""
    photons = render(_scene(0, photons=None)).labels.photons
    return [_scene(frame, photons=photons) for frame in range(N_FRAMES)]


def write_demo(path: Path) -> None:
    """Writes the run as one NXmx file of under 10 MB (zstd: it is committed)."""
    write_nxmx(path, demo_scenes(), scan=Scan(step_deg=STEP_DEG, exposure_s=0.1), recipe="training.simulate.demo", compressor="zstd")
    path.with_suffix(".geom").unlink()


def _scene(frame: int, *, photons: float | None) -> Scene:
    damage = max(0.0, DAMAGE_B_A2 * (frame - DAMAGE_FROM))
    growth = 1.0 + 2e-4 * damage
    a, b, c, alpha, beta, gamma = _LYSOZYME.cell
    crystal = dataclasses.replace(
        _LYSOZYME,
        b_factor_A2=_LYSOZYME.b_factor_A2 + damage,
        cell=(a * growth, b * growth, c * growth, alpha, beta, gamma),
    )
    strength = _in_beam(frame) * float(np.exp(-0.008 * damage))
    lattices = [_lattice(crystal, frame, tilt_deg=0.0, mosaicity_deg=0.12 + 0.002 * damage, scale=max(strength, 1e-4))]
    second = _ramp(frame, *SECOND_LATTICE)
    if second > 0:
        lattices.append(_lattice(crystal, frame, tilt_deg=80.0, mosaicity_deg=0.15, scale=second))
    return Scene(
        seed=77_000 + frame,
        detector="EIGER2 500K",
        wavelength_A=0.9763,
        distance_mm=75.0,
        beam_px=(262.4, 518.9),
        beam=Beam(bandwidth=1.5e-4, divergence_rad=1e-4, size_px=0.6, rotation_deg=STEP_DEG, rotation_axis=_AXIS),
        lattices=tuple(lattices),
        visible_spots=320,
        photons=photons,
        d_min_A=1.4,
        background=Background(level=0.06, air=0.5, water=0.8, plastic=0.1, constant=0.1, unevenness=0.05, flat_field=0.01),
        ice=_ice() if ICE[0] <= frame < ICE[1] else None,
        shadows=Shadows(stop_px=11.0, arm_px=2.5, arm_deg=91.0),
        kind="demo",
    )


def _in_beam(frame: int) -> float:
    """How much of the crystal the beam meets: it slips out within four frames and is brought back within three."""
    first, last = CRYSTAL_GONE
    return float(max(np.clip((first + 4 - frame) / 4.0, 0.0, 1.0), np.clip((frame - last + 3) / 3.0, 0.0, 1.0)))


def _ramp(frame: int, first: int, last: int) -> float:
    """Up over six frames from `first`, down over the last three before `last`."""
    return float(np.clip(min((frame - first + 1) / 6.0, (last - frame) / 3.0), 0.0, 1.0))


def _lattice(crystal: Crystal, frame: int, *, tilt_deg: float, mosaicity_deg: float, scale: float) -> Lattice:
    start = rotation_about(np.array([0.3, -0.8, 0.52]), 63.0 + tilt_deg)
    turned = rotation_about(np.asarray(_AXIS), STEP_DEG * frame) @ start
    return Lattice(
        crystal=crystal, orientation=tuple(float(x) for x in turned.ravel()), mosaicity_deg=mosaicity_deg, domain_A=5_000.0, scale=scale
    )


def _ice() -> Powder:
    return Powder(
        rings_per_A=(1 / 3.897, 1 / 3.669, 1 / 3.441, 1 / 2.671, 1 / 2.249, 1 / 2.072, 1 / 1.918),
        strengths=(3.0, 1.7, 2.4, 0.6, 1.3, 0.9, 0.9),
        width=0.0022,
        texture=0.3,
    )
