"""Figures of the simulator's physics: what it makes (dots) on what closed forms say (lines)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import gemmi
import numpy as np
import torch
from matplotlib.axes import Axes

from training.simulate.crystal import Crystal
from training.simulate.diffraction import Lattice, Reflections
from training.simulate.draw import rotation_about
from training.simulate.render import render
from training.simulate.scene import Powder, Scene
from training.simulate.validate.setting import CRYSTAL, FLAT, LATTICE, Floats, expected_spots, panels, plain_scene, write
from triage.spots import ICE_RINGS_A, DispersionFinder

CUBE = np.array([h for h in itertools.product(range(-30, 31), repeat=3) if h > (0, 0, 0)])
"""One of each pair of Friedel mates."""
_STEP_DEG = 0.04


def positions(out: Path) -> dict[str, float]:
    """Spot positions against gemmi's cell and a closed form of the rotation; centroids in rendered frames against both."""
    beam = dataclasses.replace(plain_scene().beam, rotation_deg=1.0)
    scene = plain_scene(lattices=(LATTICE,), beam=beam, visible_spots=400)
    true = _closed_form_positions(scene)
    found = expected_spots(scene)
    made = found.positions_px.numpy().astype(np.float64)
    nearest = np.linalg.norm(true[:, None] - made[None], axis=2)
    off = nearest.min(axis=1)
    spots = DispersionFinder().find(render(scene).counts, render(scene).run)
    strong = spots.intensity / spots.sigma > 15
    delta = spots.positions_px[strong].astype(np.float64)
    to_true = delta[:, None] - true[None]
    best = np.linalg.norm(to_true, axis=2).argmin(axis=1)
    residual = to_true[np.arange(len(delta)), best]
    residual = residual[np.linalg.norm(residual, axis=1) < 2.0]
    figure, (left, right) = panels(2)
    left.hist(off * 1e3, bins=40, color="tab:blue")
    left.set(xlabel="distance from the closed form, 1/1000 px", ylabel="reflections", title=f"{len(true)} reflections of a 1 deg rotation")
    right.plot(*residual.T[::-1], ".", ms=3)
    right.set(xlabel="fast, px", ylabel="slow, px", title="centroid found less position, I/sigma > 15", xlim=(-1, 1), ylim=(-1, 1))
    right.set_aspect("equal")
    write(figure, out / "simulate_positions.png")
    return {
        "largest distance from the closed form, px": float(off.max()),
        "centroids: median distance, px": float(np.median(np.linalg.norm(residual, axis=1))),
        "centroids: mean offset slow, px": float(residual[:, 0].mean()),
        "centroids: mean offset fast, px": float(residual[:, 1].mean()),
    }


def _closed_form_positions(scene: Scene) -> Floats:
    """Pixels of the reflections that cross the Ewald sphere within a rotation about x; indices and cell by gemmi.

    Solves 2 k0 . g + |g|^2 = 0 with g turned about x: g_z(phi) = z cos(phi) + y sin(phi) = -lambda |g|^2 / 2.
    """
    lattice, wavelength, half = scene.lattices[0], scene.wavelength_A, np.deg2rad(scene.beam.rotation_deg) / 2
    cell = gemmi.UnitCell(*lattice.crystal.cell)
    group = gemmi.SpaceGroup(lattice.crystal.space_group)
    asu = gemmi.make_miller_array(cell, group, scene.d_min_A)
    images = [operation.apply_to_hkl(h) for h in asu.tolist() for operation in group.operations().sym_ops]
    box = np.unique([h for image in images for h in (image, [-x for x in image])], axis=0)
    inverse_d2 = np.array([cell.calculate_1_d2(h) for h in box.tolist()])
    reciprocal = np.array(cell.frac.mat.tolist())  # rows: a*, b*, c*
    x, y, z = np.asarray(lattice.orientation).reshape(3, 3) @ (box @ reciprocal).T
    wanted, radius = -wavelength * inverse_d2 / 2, np.hypot(y, z)
    reachable = np.abs(wanted) < radius
    x, y, z, wanted, radius = (v[reachable] for v in (x, y, z, wanted, radius))
    pixels = []
    for sign in (1.0, -1.0):
        phi = np.arctan2(y, z) + sign * np.arccos(wanted / radius)
        phi = (phi + np.pi) % (2 * np.pi) - np.pi
        inside = np.abs(phi) < half
        ahead = wanted[inside] + 1.0 / wavelength
        turned_y = y[inside] * np.cos(phi[inside]) - z[inside] * np.sin(phi[inside])
        scale = scene.distance_mm / ahead / scene.geometry().pixel_mm[0]
        pixels.append(np.column_stack([scene.beam_px[0] + turned_y * scale, scene.beam_px[1] + x[inside] * scale]))
    found = np.concatenate(pixels)
    return found[((found > 0) & (found < scene.geometry().shape_px)).all(axis=1)]


def intensities(out: Path) -> dict[str, float]:
    """Wilson's distributions, the absences of a group with screw axes, and the fall-off with B."""
    acentric, centric = _flat_intensities("P 1", CUBE), _flat_intensities("P 2 2 2", _zone(200))
    figure, (first, second, third) = panels(3)
    z = np.linspace(0.0, 4.0, 100)
    for values, colour, name, cumulative in (
        (acentric, "tab:blue", "acentric", 1 - np.exp(-z)),
        (centric, "tab:orange", "centric", np.array([math.erf(math.sqrt(x / 2)) for x in z])),
    ):
        first.plot(z[::5], [(values < limit).mean() for limit in z[::5]], "o", ms=4, color=colour, label=name)
        first.plot(z, cumulative, color=colour, lw=1)
    first.set(xlabel="z = I / <I>", ylabel="N(z)", title="Wilson: dots made, lines theory")
    first.legend()
    screw = Crystal(space_group="P 43 21 2", cell=(79.0, 79.0, 38.0, 90.0, 90.0, 90.0), seed=5, b_factor_A2=0.0, is_salt=True)
    along = np.arange(1, 25)
    for axis, colour, place in (((0, 0, 1), "tab:blue", -0.2), ((1, 0, 0), "tab:orange", 0.2)):
        made = _intensities(screw, along[:, None] * np.array(axis))
        second.bar(along + place, made, width=0.4, color=colour, label="".join("l" if a else "0" for a in axis))
    second.set(xlabel="index l", ylabel="I", title="P 43 21 2: 00l only l = 4n, l00 only l = 2n")
    second.legend()
    slopes = _wilson_slopes(third)
    write(figure, out / "simulate_intensities.png")
    return {
        "acentric <I^2>/<I>^2 (2)": float((acentric**2).mean() / acentric.mean() ** 2),
        "centric <I^2>/<I>^2 (3)": float((centric**2).mean() / centric.mean() ** 2),
        **slopes,
    }


def _intensities(crystal: Crystal, hkl: np.ndarray) -> Floats:
    return crystal.intensities(torch.as_tensor(hkl), torch.full((len(hkl),), 0.2)).numpy().astype(np.float64)


def _flat_intensities(space_group: str, hkl: np.ndarray) -> Floats:
    cell = (60.0, 70.0, 80.0, 90.0, 90.0, 90.0)
    return _intensities(Crystal(space_group=space_group, cell=cell, seed=11, b_factor_A2=0.0, is_salt=True), hkl)


def _zone(limit: int) -> np.ndarray:
    axis = np.arange(1, limit + 1)
    return np.array([(h, k, 0) for h in axis for k in axis])


def _wilson_slopes(axes: Axes) -> dict[str, float]:
    """Spots found in frames of one crystal whose B grows, against the frame before: ln ratio falls by (B - B0) s^2 / 2."""
    first = plain_scene(lattices=(LATTICE,), visible_spots=500, distance_mm=75.0)
    photons = render(first).labels.photons
    finder, found = DispersionFinder(), {}
    for added in (0.0, 15.0, 30.0, 60.0):
        crystal = dataclasses.replace(CRYSTAL, b_factor_A2=CRYSTAL.b_factor_A2 + added)
        rendered = render(
            dataclasses.replace(first, lattices=(dataclasses.replace(LATTICE, crystal=crystal),), visible_spots=None, photons=3 * photons)
        )
        found[added] = finder.find(rendered.counts, rendered.run)
    slopes, fresh = {}, found[0.0]
    for added, spots in list(found.items())[1:]:
        distance = np.linalg.norm(fresh.positions_px[:, None] - spots.positions_px[None], axis=2)
        s2_fresh = np.asarray(fresh.inverse_d_per_A, dtype=np.float64) ** 2
        bright = fresh.intensity * np.exp(-added / 2 * s2_fresh) > 100  # chosen before, or the lucky ones would flatten the slope
        a = np.flatnonzero(bright & (distance.min(axis=1) < 1.0))
        b = distance[a].argmin(axis=1)
        s2, ratio = s2_fresh[a], np.log(spots.intensity[b] / fresh.intensity[a])
        weight = np.sqrt(fresh.intensity[a] * np.exp(-added / 2 * s2))
        slope = float((weight * s2 * ratio).sum() / (weight * s2 * s2).sum())
        slopes[f"Wilson slope for {added:g} A^2 more ({-added / 2:g})"] = slope
        axes.plot(s2, ratio, ".", ms=3, label=f"B + {added:g} A$^2$")
        axes.plot([0, s2.max()], [0, -added / 2 * s2.max()], "k", lw=1)
    axes.set(xlabel="s$^2$ = 1/d$^2$, A$^{-2}$", ylabel="ln(I / I$_0$)", title="B-factor: lines exp(-B s$^2$/2)", ylim=(-12, 1))
    axes.legend()
    return slopes


def exposure(out: Path) -> dict[str, float]:
    """Partials against the rotation angle, and what a degree brings in slices of several widths."""
    figure, (left, right) = panels(2)
    angles, curves = _rocking_curves()
    for curve in curves:
        share = curve / curve.sum()
        left.plot(angles, share, lw=1)
    left.set(xlabel="rotation angle, deg", ylabel="share of the full reflection", title=f"partials in slices of {_STEP_DEG:g} deg")
    widths = [1.0, 0.5, 0.2, 0.1, 0.05, 0.02]
    lost: dict[str, float] = {}
    for mosaicity in (0.05, 0.2, 0.6):
        totals = np.array([_photons_of_a_degree(width, mosaicity) for width in widths])
        right.semilogx(widths, totals / totals[0], "o-", ms=4, label=f"mosaicity {mosaicity:g} deg")
        lost[f"photons of a degree in slices of 0.02 deg over in one, mosaicity {mosaicity:g} deg (1)"] = float(totals[-1] / totals[0])
    right.set(xlabel="width of a slice, deg", ylabel="photons of a degree, relative", title="slices sum to the whole", ylim=(0.95, 1.05))
    right.legend()
    write(figure, out / "simulate_rotation.png")
    return lost


def _turned(angle_deg: float, *, mosaicity_deg: float) -> Lattice:
    matrix = rotation_about(np.array([1.0, 0.0, 0.0]), angle_deg) @ np.asarray(LATTICE.orientation).reshape(3, 3)
    return dataclasses.replace(LATTICE, orientation=tuple(float(x) for x in matrix.ravel()), mosaicity_deg=mosaicity_deg)


def _slice(angle_deg: float, step_deg: float, *, mosaicity_deg: float) -> Reflections:
    scene = plain_scene(beam=dataclasses.replace(plain_scene().beam, rotation_deg=step_deg))
    return expected_spots(scene, _turned(angle_deg, mosaicity_deg=mosaicity_deg))


def _rocking_curves(number: int = 6, reach_deg: float = 0.8) -> tuple[Floats, list[Floats]]:
    """Photons per slice of the reflections that are brightest at the middle, told apart by s and their place."""
    angles = np.arange(-reach_deg, reach_deg, _STEP_DEG) + _STEP_DEG / 2
    slices = [_slice(float(angle), _STEP_DEG, mosaicity_deg=0.1) for angle in angles]
    middle = slices[len(slices) // 2]
    curves = []
    for k in middle.photons.topk(number).indices.tolist():
        curve = []
        for found in slices:
            same = ((found.s_per_A - middle.s_per_A[k]).abs() < 1e-6) & (
                torch.linalg.norm(found.positions_px - middle.positions_px[k], dim=1) < 20.0
            )
            curve.append(float(found.photons[same].sum()))
        curves.append(np.array(curve))
    return angles, curves


def _photons_of_a_degree(step_deg: float, mosaicity_deg: float) -> float:
    starts = np.arange(round(1.0 / step_deg)) * step_deg - 0.5
    return sum(float(_slice(float(start) + step_deg / 2, step_deg, mosaicity_deg=mosaicity_deg).photons.sum()) for start in starts)


def counting(out: Path) -> dict[str, float]:
    """Variance against mean of every pixel over many exposures of one scene, and ice rings where they belong."""
    frames = [render(plain_scene(seed=seed, lattices=(LATTICE,), photons=400.0)).counts.astype(np.float64) for seed in range(120)]
    mean, variance = np.mean(frames, axis=0).ravel(), np.var(frames, axis=0, ddof=1).ravel()
    edges = np.geomspace(0.05, mean.max(), 24)
    where, lit = np.digitize(mean, edges), mean > edges[0]
    rows = [
        (mean[where == k].mean(), variance[where == k].mean() / mean[where == k].mean(), (where == k).sum())
        for k in range(1, len(edges))
        if (where == k).sum() > 20
    ]
    figure, (left, right) = panels(2)
    centre, ratio, number = np.array(rows).T
    left.errorbar(centre, ratio, yerr=np.sqrt(2 / 119 / number), fmt="o", ms=4)
    left.axhline(1.0, color="k", lw=1)
    left.set(xscale="log", xlabel="mean, photons a pixel", ylabel="variance / mean", title="120 exposures of one scene", ylim=(0.9, 1.1))
    ice = Powder(rings_per_A=tuple(1 / d for d in ICE_RINGS_A), strengths=(4.0,) * len(ICE_RINGS_A), width=0.0015)
    scene = plain_scene(ice=ice, background=dataclasses.replace(FLAT, level=20.0), distance_mm=50.0)
    s = scene.geometry().inverse_d_per_A(np.moveaxis(np.mgrid[0:512, 0:1028], 0, -1) + 0.5)
    counts = render(scene).counts.astype(np.float64)
    grid = np.arange(0.2, 0.8, 0.0008)
    index = np.digitize(s.ravel(), grid)
    profile = np.bincount(index, counts.ravel(), len(grid) + 1) / np.maximum(np.bincount(index, minlength=len(grid) + 1), 1)
    middle = grid[:-1] + 0.0004
    right.plot(middle, profile[1:-1], lw=1)
    for d_A in ICE_RINGS_A:
        right.axvline(1 / d_A, color="k", lw=0.4)
    right.set(xlabel="s = 1/d, A$^{-1}$", ylabel="photons a pixel", title="ice rings (lines: hexagonal ice)", xlim=(0.22, 0.78))
    write(figure, out / "simulate_counting.png")
    off = []
    for d_A in ICE_RINGS_A[:7]:
        near = np.abs(middle * d_A - 1) < 0.006
        weight = (profile[1:-1][near] - profile[1:-1][near].min()).clip(0)
        off.append(abs((middle[near] * weight).sum() / weight.sum() * d_A - 1))
    return {
        "variance / mean of a pixel, averaged over the pixels (1)": float((variance[lit] / mean[lit]).mean()),
        "ice rings: largest relative error of the radius, first seven": float(max(off)),
    }
