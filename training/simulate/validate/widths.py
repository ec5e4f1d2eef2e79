"""The width of spots in rendered frames, against closed forms of the mosaic arc and the bandwidth's streak."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from training.simulate.crystal import Crystal
from training.simulate.diffraction import Reflections
from training.simulate.draw import rotation_about
from training.simulate.render import render
from training.simulate.validate.setting import FLAT, LATTICE, Floats, expected_spots, panels, plain_scene, write

_WIDE = plain_scene(distance_mm=60.0, wavelength_A=1.0, background=dataclasses.replace(FLAT, level=1e-4))
_TINY = Crystal(space_group="P 1", cell=(14.0, 15.0, 16.0, 85.0, 95.0, 100.0), seed=2, b_factor_A2=2.0, is_salt=True)
_HALF = 18  # pixels of the window that moments are taken in


def spot_sizes(out: Path) -> dict[str, float]:
    """Second moments of spots in rendered frames, against the arc of mosaic blocks and the streak of a bandwidth."""
    figure, (left, right) = panels(2)
    errors: dict[str, float] = {}
    for axes, name, values, unit in (
        (left, "mosaicity_deg", (0.05, 0.1, 0.2, 0.3, 0.45), "deg"),
        (right, "bandwidth", (5e-4, 1e-3, 2e-3, 3.5e-3, 5e-3), ""),
    ):
        worst = 0.0
        for d_A, colour in ((4.0, "tab:green"), (2.5, "tab:orange"), (1.8, "tab:blue")):
            measured = [_width_px(name, value, d_A) for value in values]
            closed = [_closed_form_px(name, value, d_A) for value in values]
            axes.plot(values, measured, "o", color=colour, label=f"{d_A:g} A")
            axes.plot(values, closed, color=colour, lw=1)
            worst = max(worst, *(abs(m / c - 1) for m, c in zip(measured, closed, strict=True)))
        errors[f"spot width against {name}: worst relative error"] = worst
        axes.set(xlabel=f"{name.removesuffix('_deg')} (standard deviation) {unit}", ylabel="standard deviation, px", ylim=(0, None))
        axes.legend(title="at d =")
    left.set_title("across: mosaic arc (lines: closed form)")
    right.set_title("outwards: bandwidth streak")
    write(figure, out / "simulate_widths.png")
    return errors


def _width_px(name: str, value: float, d_A: float) -> float:
    """Median over spots near 1/d of the standard deviation across (mosaicity) or outwards (bandwidth), in frames of a small cell."""
    lattice = dataclasses.replace(LATTICE, crystal=_TINY, mosaicity_deg=0.02, domain_A=2e4)
    beam = dataclasses.replace(_WIDE.beam, rotation_deg=1.0, bandwidth=1e-5)
    if name == "bandwidth":
        beam = dataclasses.replace(beam, bandwidth=value)
    else:
        lattice = dataclasses.replace(lattice, mosaicity_deg=value)
    widths: list[float] = []
    for turn in range(12):
        turned = rotation_about(np.array([0.2, 1.0, 0.1]), 31.0 * turn) @ np.asarray(LATTICE.orientation).reshape(3, 3)
        lattice = dataclasses.replace(lattice, orientation=tuple(float(x) for x in turned.ravel()))
        scene = dataclasses.replace(_WIDE, beam=beam, lattices=(lattice,), photons=3e4)
        counts, found = render(scene).counts.astype(np.float64), expected_spots(scene)
        for k in torch.nonzero((found.s_per_A - 1 / d_A).abs() < 0.05 / d_A)[:, 0].tolist():
            moment = _moment_px(counts, found, k, outwards=name == "bandwidth")
            if moment is not None:
                widths.append(moment * (d_A * float(found.s_per_A[k])) ** -1)  # scaled to d in first order
    return float(np.median(widths))


def _moment_px(counts: Floats, found: Reflections, k: int, *, outwards: bool) -> float | None:
    """Standard deviation of one lonely spot; None for others."""
    place = found.positions_px[k].numpy().astype(np.float64)
    near = torch.linalg.norm(found.positions_px - found.positions_px[k], dim=1) < 2.2 * _HALF
    at = np.round(place - 0.5).astype(int)
    if int(near.sum()) > 1 or (at < _HALF).any() or (at + _HALF >= counts.shape).any():
        return None
    window = counts[at[0] - _HALF : at[0] + _HALF + 1, at[1] - _HALF : at[1] + _HALF + 1]
    if window.sum() < 2000:
        return None
    slow, fast = (np.arange(-_HALF, _HALF + 1) + at[i] + 0.5 - place[i] for i in (0, 1))
    direction = found.direction[k].numpy()
    along = direction if outwards else np.array([-direction[1], direction[0]])
    u = slow[:, None] * along[0] + fast[None, :] * along[1]
    return float(np.sqrt((window * u * u).sum() / window.sum()))


def _closed_form_px(name: str, value: float, d_A: float) -> float:
    """sigma^2 = point spread + footprint + pixel + divergence + (arc or streak)."""
    detector, beam = _WIDE.detector_model(), _WIDE.beam
    path = _WIDE.distance_mm / detector.pixel_mm
    theta = np.arcsin(_WIDE.wavelength_A / (2 * d_A))
    if name == "bandwidth":
        own = value * path * 2 * np.tan(theta) / np.cos(2 * theta) ** 2
        other = 1e-5
    else:
        own, other = path * np.tan(2 * theta) * np.deg2rad(value), 0.0
    constant = detector.spread_px**2 + beam.size_px**2 + (beam.divergence_rad * path) ** 2 + 1 / 12
    return float(np.sqrt(constant + own**2 + other**2))
