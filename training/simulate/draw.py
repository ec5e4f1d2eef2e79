"""Draws scenes: what a beamline's frames are like, with the rare and the confusing drawn often enough to be learnt.

The shares below are the base rates the network is calibrated at; they travel with the model.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from training.simulate.crystal import Crystal, draw_crystal, draw_salt
from training.simulate.detectors import DETECTORS
from training.simulate.diffraction import Beam, Lattice
from training.simulate.scene import Artefacts, Background, Distortion, HeaderError, Powder, Scene, Shadows
from triage.geometry import FAST_AXIS, SLOW_AXIS, Vector
from triage.spots import ICE_RINGS_A

KINDS = {
    "single": 0.30,
    "weak": 0.07,
    "split": 0.13,
    "random_pair": 0.10,
    "many": 0.06,
    "blank": 0.13,
    "ice_only": 0.07,
    "salt_only": 0.07,
    "artefact": 0.07,
}
"""Shares of what is meant by a frame; the label is what can be seen of it."""

SMALL_MOLECULE_A = 40.0
"""Longest cell edge of what counts as a small molecule."""
_LEVELS = ((0.001, 0.02), (0.02, 50.0), (50.0, 600.0))
"""Ranges of the background's level, photons a pixel; shares in `_draw_background`."""

_ICE_STRENGTHS = (1.0, 0.55, 0.75, 0.18, 0.4, 0.3, 0.12, 0.3, 0.12, 0.05, 0.1, 0.06, 0.05, 0.08, 0.05, 0.04, 0.03, 0.03, 0.03)
"""Relative peak heights of hexagonal ice rings, in the order of ICE_RINGS_A (after Dowell & Rinfret, Nature 188 (1960) 1144)."""


def draw_scene(rng: np.random.Generator, *, crystals: tuple[Crystal, ...] = (), detectors: tuple[str, ...] | None = None) -> Scene:
    """One frame. `crystals` (a split's structures) are drawn from where given; `detectors` likewise, by their usual shares."""
    kind = str(rng.choice(list(KINDS), p=np.asarray(list(KINDS.values())) / sum(KINDS.values())))
    main = _pick(rng, crystals)
    small = max(main.cell[:3]) < SMALL_MOLECULE_A
    scene = dataclasses.replace(_experiment(rng, detectors, small=small), kind=kind)
    scene = dataclasses.replace(scene, d_min_A=float(rng.uniform(0.65, 1.1) if small else rng.uniform(1.1, 1.6)))
    if kind in ("single", "weak", "split", "random_pair", "many"):
        scene = _diffracting(rng, scene, main, crystals)
        scene = dataclasses.replace(
            scene,
            ice=draw_ice(rng, scene.background.level) if rng.random() < 0.2 else None,
            artefacts=_some_artefacts(rng) if rng.random() < 0.25 else _hardly_any(rng),
            harmonic=float(np.exp(rng.uniform(np.log(3e-3), np.log(0.1)))) if rng.random() < 0.04 else 0.0,
        )
        if rng.random() < 0.06:
            scene = dataclasses.replace(scene, salt=_lattice(rng, draw_salt(rng), 1.0), salt_spots=int(rng.integers(1, 12)))
        return scene
    return _not_diffracting(rng, scene, main)


def _pick(rng: np.random.Generator, crystals: tuple[Crystal, ...]) -> Crystal:
    return crystals[int(rng.integers(len(crystals)))] if crystals else draw_crystal(rng)


def _diffracting(rng: np.random.Generator, scene: Scene, main: Crystal, crystals: tuple[Crystal, ...]) -> Scene:
    first = _lattice(rng, main, 1.0)
    visible = _log_uniform(rng, 8.0, 26.0) if scene.kind == "weak" else _log_uniform(rng, 14.0, 900.0)
    others: list[Lattice] = []
    number = {"split": 1, "random_pair": 1, "many": int(rng.choice([2, 3], p=[0.75, 0.25]))}.get(scene.kind, 0)
    for _ in range(number):
        ratio = _log_uniform(rng, 0.03, 1.0) if rng.random() < 0.6 else float(rng.uniform(0.25, 1.0))
        crystal = _pick(rng, crystals) if rng.random() < 0.06 else dataclasses.replace(main)
        split = scene.kind == "split" or (scene.kind == "many" and rng.random() < 0.5)
        orientation = _related(rng, np.asarray(first.orientation).reshape(3, 3), crystal) if split else random_rotation(rng)
        mosaicity = first.mosaicity_deg * float(np.exp(rng.normal(0.0, 0.25)))
        others.append(
            dataclasses.replace(
                first, crystal=crystal, orientation=_flat(orientation), mosaicity_deg=mosaicity, scale=ratio, blocks=_draw_blocks(rng)
            )
        )
    if number:
        visible = max(visible, 20.0)
    ordered = (first, *sorted(others, key=lambda lattice: -lattice.scale))
    return dataclasses.replace(scene, lattices=ordered, visible_spots=int(visible))


def _not_diffracting(rng: np.random.Generator, scene: Scene, main: Crystal) -> Scene:
    level = scene.background.level
    changes: dict[str, Any] = {}
    if scene.kind == "blank":
        changes = {"artefacts": _hardly_any(rng)}
        if rng.random() < 0.25:  # a crystal too weak to be seen is no diffraction either
            changes |= {"lattices": (_lattice(rng, main, 1.0),), "visible_spots": int(rng.integers(1, 7))}
        if rng.random() < 0.15:
            changes["artefacts"] = Artefacts(shutter_closed=True, zingers=int(rng.integers(0, 6)))
    elif scene.kind == "ice_only":
        changes = {"ice": draw_ice(rng, level)}
    elif scene.kind == "salt_only":
        if rng.random() < 0.7:
            changes = {"salt": _lattice(rng, draw_salt(rng), 1.0), "salt_spots": int(_log_uniform(rng, 2.0, 60.0))}
        if rng.random() < 0.4 or not changes:
            changes["powder"] = _draw_salt_powder(rng, level)
    else:
        changes = {"artefacts": _some_artefacts(rng, strong=True)}
    if scene.kind != "ice_only" and rng.random() < 0.08:
        changes["ice"] = draw_ice(rng, level)
    return dataclasses.replace(scene, **changes)


def _experiment(rng: np.random.Generator, detectors: tuple[str, ...] | None, *, small: bool) -> Scene:
    """Detector, geometry, beam, background and shadows of a frame without a sample."""
    names = detectors or tuple(DETECTORS)
    weights = np.asarray([DETECTORS[name][1] for name in names])
    name = str(rng.choice(names, p=weights / weights.sum()))
    detector = DETECTORS[name][0]
    size_mm = np.asarray(detector.shape_px) * detector.pixel_mm
    wavelength = float(rng.normal(0.98, 0.03)) if rng.random() < 0.65 else float(np.exp(rng.uniform(np.log(0.55), np.log(2.1))))
    if small and rng.random() < 0.6:
        wavelength = _log_uniform(rng, 0.48, 0.8)
    # The distance puts the shorter edge's middle at a resolution of 1.2 to 4 A, as people set it; chemists go nearer.
    edge_A = _log_uniform(rng, 0.75, 1.6) if small else _log_uniform(rng, 1.25, 3.6)
    two_theta = 2.0 * np.arcsin(min(wavelength / (2.0 * edge_A), 0.55))
    distance = float(np.clip(0.5 * size_mm.min() * (1.0 if size_mm.min() > 60 else 1.6) / np.tan(two_theta), 45.0, 1500.0))
    off_centre = rng.random() < 0.15
    spread = 0.3 if off_centre else 0.03
    beam_px = tuple(float(n * np.clip(rng.normal(0.5, spread), 0.02, 0.98)) for n in detector.shape_px)
    fast, slow = _swing(rng) if rng.random() < 0.05 else (FAST_AXIS, SLOW_AXIS)
    return Scene(
        seed=int(rng.integers(2**62)),
        detector=name,
        wavelength_A=wavelength,
        distance_mm=distance,
        beam_px=(beam_px[0], beam_px[1]),
        fast_axis=fast,
        slow_axis=slow,
        beam=_draw_beam(rng, distance, detector.pixel_mm),
        background=_draw_background(rng),
        shadows=_draw_shadows(rng, detector.shape_px),
        gaps_masked=bool(rng.random() < 0.7),
    )


def _swing(rng: np.random.Generator) -> tuple[Vector, Vector]:
    """Axes of a detector swung up or sideways by up to 25 deg."""
    angle = np.deg2rad(rng.uniform(-25.0, 25.0))
    if rng.random() < 0.5:
        return FAST_AXIS, (0.0, float(np.cos(angle)), float(np.sin(angle)))
    return (float(np.cos(angle)), 0.0, float(np.sin(angle))), SLOW_AXIS


def _draw_beam(rng: np.random.Generator, distance_mm: float, pixel_mm: float) -> Beam:
    draw = rng.random()
    rotation = 0.0
    if draw > 0.35:
        rotation = float(rng.choice([0.02, 0.05, 0.1, 0.1, 0.2, 0.25, 0.5]))
        if rng.random() < 0.15:  # as frames were taken before detectors were fast, and still are for a first look
            rotation = float(rng.choice([0.5, 1.0, 1.0, 1.5]))
    bandwidth = _log_uniform(rng, 5e-5, 5e-4)
    if rng.random() < 0.2:  # multilayer or SASE
        bandwidth = _log_uniform(rng, 1e-3, 5e-3)
    divergence = _log_uniform(rng, 2e-5, 3e-4)
    footprint = _log_uniform(rng, 0.005, 0.12) / 2.355 / pixel_mm  # a beam or crystal of 5 to 120 micrometres
    if rng.random() < 0.1:
        footprint = float(rng.uniform(0.5, 1.5))  # out of focus
    axis = (1.0, 0.0, 0.0) if rng.random() < 0.8 else (0.0, 1.0, 0.0)
    return Beam(
        bandwidth=bandwidth,
        divergence_rad=min(divergence, 1.5 * pixel_mm / distance_mm),
        size_px=footprint,
        rotation_deg=rotation,
        rotation_axis=axis,
    )


def _draw_background(rng: np.random.Generator) -> Background:
    low, high = _LEVELS[int(rng.choice(len(_LEVELS), p=[0.06, 0.87, 0.07]))]
    return Background(
        level=_log_uniform(rng, low, high),
        air=float(rng.exponential(0.6)),
        water=float(rng.uniform(0.2, 1.0)),
        plastic=float(rng.exponential(0.4)) if rng.random() < 0.35 else 0.0,
        constant=float(rng.uniform(0.02, 0.4)) if rng.random() < 0.88 else float(rng.uniform(0.5, 4.0)),  # the latter: fluorescence
        unevenness=float(rng.uniform(0.0, 0.15)) if rng.random() < 0.85 else float(rng.uniform(0.15, 0.35)),
        flat_field=_log_uniform(rng, 0.002, 0.05),
        water_per_A=float(rng.uniform(0.245, 0.315)),
        plastic_per_A=float(rng.normal(0.207, 0.006)),
        ripple=float(rng.uniform(0.0, 0.06)) if rng.random() < 0.4 else 0.0,
        chip_borders=float(rng.normal(0.0, 0.06)) if rng.random() < 0.5 else 0.0,
    )


def _draw_shadows(rng: np.random.Generator, shape_px: tuple[int, int]) -> Shadows:
    short = min(shape_px)
    return Shadows(
        stop_px=short * _log_uniform(rng, 0.006, 0.04),
        arm_px=short * float(rng.uniform(0.002, 0.008)) if rng.random() < 0.6 else 0.0,
        arm_deg=float(rng.choice([0.0, 90.0, 180.0, 270.0]) + rng.normal(0.0, 4.0)),
        collimator_px=short * float(rng.uniform(0.45, 0.8)) if rng.random() < 0.06 else 0.0,
    )


def _lattice(rng: np.random.Generator, crystal: Crystal, scale: float) -> Lattice:
    mosaicity = _log_uniform(rng, 0.008, 0.12) if rng.random() < 0.8 else _log_uniform(rng, 0.12, 0.7)
    return Lattice(
        crystal=crystal,
        orientation=_flat(random_rotation(rng)),
        mosaicity_deg=mosaicity,
        domain_A=_log_uniform(rng, 1_000.0, 40_000.0) if rng.random() < 0.9 else _log_uniform(rng, 300.0, 1_000.0),
        scale=scale,
        blocks=_draw_blocks(rng),
    )


def _draw_blocks(rng: np.random.Generator) -> tuple[tuple[float, float, float], ...]:
    """Of every third crystal: two to four parts, a third to one spot width apart."""
    if rng.random() > 0.35:
        return ()
    n = int(rng.integers(2, 5))
    weights = rng.dirichlet(np.full(n, 2.0))
    centres = rng.normal(0.0, rng.uniform(0.3, 0.8), size=(n, 2))
    centres -= weights @ centres
    return tuple((float(u), float(v), float(w)) for (u, v), w in zip(centres, weights, strict=True))


def draw_header_error(rng: np.random.Generator) -> HeaderError:
    """A beam centre off by some tenths of a pixel to some pixels, a distance by some tenths of a per cent; every fourth header is right.

    In one of twelve the beam centre is an old or a wrong one, 5 to 80 px off.
    """
    if rng.random() < 0.25:
        return HeaderError()
    slow, fast = rng.normal(0.0, _log_uniform(rng, 0.2, 3.0), size=2)
    if rng.random() < 1 / 9:
        angle, away = rng.uniform(0.0, 2.0 * np.pi), _log_uniform(rng, 5.0, 80.0)
        slow, fast = away * np.sin(angle), away * np.cos(angle)
    distance = float(rng.normal(0.0, 0.001 if rng.random() < 0.8 else 0.006))
    return HeaderError(beam_px=(float(slow), float(fast)), distance=distance, wavelength=float(rng.normal(0.0, 3e-4)))


def draw_distortion(rng: np.random.Generator) -> Distortion:
    """Modules out of place by 0.03 to 0.5 px, panels tilted and bent by as much as 1 px at their edges."""
    modules, smooth = _log_uniform(rng, 0.03, 0.5), _log_uniform(rng, 0.03, 1.0)
    return Distortion(modules_px=modules, smooth_px=smooth, seed=int(rng.integers(2**31)))


def draw_ice(rng: np.random.Generator, level: float) -> Powder:
    """Hexagonal (or, with only the cubic lines, cubic) ice: smooth, textured or spotty, from a trace to glaring."""
    cubic = rng.random() < 0.25
    keep = [i for i, d in enumerate(ICE_RINGS_A) if not cubic or d in (3.669, 2.249, 1.918)]
    strength = _log_uniform(rng, 0.25, 8.0)
    habit = rng.choice(3, p=[0.45, 0.3, 0.25])
    spots = int(_log_uniform(rng, 6.0, 250.0)) if habit == 2 else 0
    jitter = np.exp(rng.normal(0.0, 0.4, size=len(keep)))
    return Powder(
        rings_per_A=tuple(1.0 / ICE_RINGS_A[i] for i in keep),
        strengths=tuple(float(strength * _ICE_STRENGTHS[i] * j) for i, j in zip(keep, jitter, strict=True)),
        width=_log_uniform(rng, 0.0012, 0.005),
        texture=float(rng.uniform(0.3, 1.6)) if habit else 0.0,
        n_spots=spots,
        spot_photons=(8.0 + 5.0 * np.sqrt(8.0 * level)) * _log_uniform(rng, 1.0, 30.0) if spots else 0.0,
    )


def _draw_salt_powder(rng: np.random.Generator, level: float) -> Powder:
    rings = np.sort(rng.uniform(0.12, 0.7, size=int(rng.integers(3, 14))))
    spots = int(_log_uniform(rng, 5.0, 200.0)) if rng.random() < 0.5 else 0
    return Powder(
        rings_per_A=tuple(float(s) for s in rings),
        strengths=tuple(float(x) for x in _log_uniform(rng, 0.3, 6.0) * rng.exponential(0.6, size=len(rings))),
        width=_log_uniform(rng, 0.001, 0.003),
        texture=float(rng.uniform(0.0, 1.8)),
        n_spots=spots,
        spot_photons=(8.0 + 5.0 * np.sqrt(8.0 * level)) * _log_uniform(rng, 1.0, 30.0) if spots else 0.0,
    )


def _hardly_any(rng: np.random.Generator) -> Artefacts:
    """A hot pixel or two that no mask knows of; fewer than what makes a frame one of artefacts."""
    return Artefacts(hot_pixels=min(int(rng.poisson(1.0)), 2) if rng.random() < 0.5 else 0)


def _some_artefacts(rng: np.random.Generator, *, strong: bool = False) -> Artefacts:
    many = 3.0 if strong else 1.0
    return Artefacts(
        zingers=int(rng.poisson(4.0 * many)) if rng.random() < 0.7 else 0,
        hot_pixels=int(rng.poisson(5.0 * many)) if rng.random() < 0.6 else 0,
        hot_lines=int(rng.integers(1, 3)) if rng.random() < (0.35 if strong else 0.08) else 0,
        dead_module=bool(rng.random() < 0.08),
        jet_streak=_log_uniform(rng, 0.5, 20.0) if rng.random() < (0.4 if strong else 0.15) else 0.0,
    )


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """A uniformly distributed rotation, (3, 3) (Shoemake, Graphics Gems III (1992) 124)."""
    w, x, y, z = (q := rng.normal(size=4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotation_about(axis: np.ndarray, angle_deg: float) -> np.ndarray:
    """Rotation (3, 3) about a vector (3,) by an angle (Rodrigues)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(angle_deg)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _related(rng: np.random.Generator, orientation: np.ndarray, crystal: Crystal) -> np.ndarray:
    """A small split (0.1 to 8 deg, log-uniform) or, now and then, a twin-like rotation about a cell axis."""
    if rng.random() < 0.15:
        axis = orientation @ crystal.reciprocal_basis()[:, int(rng.integers(3))]
        turned = rotation_about(axis, float(rng.choice([60.0, 90.0, 180.0]))) @ orientation
        return rotation_about(rng.normal(size=3), _log_uniform(rng, 0.2, 3.0)) @ turned
    return rotation_about(rng.normal(size=3), _log_uniform(rng, 0.1, 8.0)) @ orientation


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _flat(matrix: np.ndarray) -> tuple[float, ...]:
    return tuple(float(x) for x in matrix.ravel())
