"""Whole frames for `benchmarks.pixelwise`: what is drawn for each, the photons, and what of them counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.pixelwise_background import CAMERAS, Camera, Diffuse, Ice, Setting, diffuse, rings
from benchmarks.pixelwise_crystal import (
    Crystal,
    Exposure,
    draw_structure,
    random_orientation,
    rays_of,
    rotation,
    samples_of,
    separation_deg,
    window_of,
)
from benchmarks.pixelwise_kernel import Floats, Ints, candidates, expose
from triage.core import Run, RunHeader, RunKind
from triage.geometry import Geometry, StatedGeometry

LEAST_SPOTS = 8
LEAST_I_OVER_SIGMA = 5.0
"""Of a lattice that counts (contract, section 7; models/README.md)."""
_FWHM = 2.355  # standard deviations
_DISCERNIBLE = 4.0  # photons; fainter spots of a stronger lattice hide nothing
_PIXEL_VARIANCE = 1.0 / 12.0
_STRONGEST = 2e5  # photons of a spot: exposures are chosen so that detectors do not saturate
_S_MAX = 0.83  # 1/A
_LEAST_STRENGTH = 1e-4  # of the strongest reflection's |F|^2: some photons at most, and never a visible spot
_FINEST_PX = 0.5  # width of the lattice transform on the detector: finer ones look the same
KINDS = {"none": 0.18, "single": 0.42, "several": 0.40}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """Everything of a frame but its noise."""

    setting: Setting
    exposure: Exposure
    crystals: tuple[Crystal, ...]
    """Strongest first."""
    wanted: int
    """Visible spots of the first; sets the exposure time."""
    diffuse: Diffuse
    ice: Ice | None
    masked: bool
    """Whether the header has the gaps' mask."""
    meant: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pattern:
    """What one lattice puts on the detector."""

    image: Floats
    """(slow, fast) photons per unit of exposure."""
    hkl: Ints
    """(n, 3)"""
    s_per_A: Floats
    """(n,)"""
    light: Floats
    """(n,) photons per unit of exposure."""
    centres_px: Floats
    """(n, 2) centroids, slow and fast."""
    covariance_px2: Floats
    """(n, 2, 2) second moments about them."""
    within: Floats
    """(n,) share of the light, blurred, within two standard deviations: all but for a point spread's tails."""

    def area_px(self) -> Floats:
        """(n,) of the ellipses of two standard deviations, that an integration would sum over."""
        return np.asarray(4.0 * np.pi * np.sqrt(np.linalg.det(self.covariance_px2)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Made:
    """One frame."""

    counts: npt.NDArray[Any]
    """(slow, fast), as the camera writes them."""
    header: dict[str, Any]
    """What a header says of it, as JSON takes it; see `run_of`."""
    truth: dict[str, Any]
    """What is true of it, as JSON takes it."""
    spots: tuple[Floats, ...]
    """Of each lattice, strongest first, where its visible spots lie: (n, 2), slow and fast."""


def draw_scene(rng: np.random.Generator) -> Scene:
    """A scene of the benchmark's mixture."""
    meant = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    setting = _draw_setting(rng)
    exposure = _draw_exposure(rng, setting)
    level = _log_uniform(rng, 0.05, 30.0)
    ice = None
    if rng.random() < (0.35 if meant == "none" else 0.13):
        ice = Ice(
            strength=_log_uniform(rng, 0.3, 5.0),
            crystallite_A=_log_uniform(rng, 150.0, 600.0),
            texture=float(rng.choice([0.0, rng.uniform(0.1, 0.8)])),
        )
    wanted = _log_uniform(rng, 8.5, 25.0) if meant == "single" and rng.random() < 0.3 else _log_uniform(rng, 20.0, 700.0)
    return Scene(
        setting=setting,
        exposure=exposure,
        crystals=() if meant == "none" else _draw_crystals(rng, _pixel_A(setting) / _FINEST_PX, several=meant == "several"),
        wanted=int(wanted),
        diffuse=Diffuse(
            level=level,
            air=float(rng.exponential(0.7)),
            inelastic=float(rng.uniform(0.02, 0.3)),
            lopsided=float(rng.uniform(0.0, 0.2)),
        ),
        ice=ice,
        masked=bool(rng.random() < 0.7),
        meant=meant,
    )


def _draw_setting(rng: np.random.Generator) -> Setting:
    camera = CAMERAS[str(rng.choice(list(CAMERAS)))]
    wavelength = float(rng.choice([rng.normal(0.98, 0.02), rng.uniform(0.7, 1.3)]))
    half_mm = 0.5 * min(camera.shape_px) * camera.pixel_mm
    two_theta = 2.0 * np.arcsin(wavelength / (2.0 * _log_uniform(rng, 1.4, 3.2)))  # the nearest edge's middle is at 1.4 to 3.2 A
    distance = float(np.clip(half_mm / np.tan(two_theta), 60.0, 800.0))
    spread = 0.25 if rng.random() < 0.12 else 0.02
    beam = [float(n * np.clip(rng.normal(0.5, spread), 0.05, 0.95)) for n in camera.shape_px]
    stop_s = float(rng.uniform(1 / 60.0, 1 / 25.0))  # low-resolution limit of 25 to 60 A
    return Setting(
        camera=camera,
        wavelength_A=wavelength,
        distance_mm=distance,
        beam_px=(beam[0], beam[1]),
        polarisation=float(rng.uniform(0.9, 0.99)),
        stop_mm=max(distance * stop_s * wavelength, 0.8),
        arm_mm=float(rng.uniform(0.5, 1.5)) if rng.random() < 0.5 else 0.0,
    )


def _draw_exposure(rng: np.random.Generator, setting: Setting) -> Exposure:
    rotation_deg = 0.0 if rng.random() < 0.42 else float(rng.choice([0.1, 0.1, 0.2, 0.25, 0.5, 0.5]))
    return Exposure(
        wavelength_A=setting.wavelength_A,
        bandwidth=_log_uniform(rng, 6e-5, 4e-4) if rng.random() < 0.88 else _log_uniform(rng, 1e-3, 4e-3),
        divergence_rad=(_log_uniform(rng, 5e-5, 5e-4), _log_uniform(rng, 2e-5, 2e-4)),
        rotation_deg=rotation_deg,
        axis=(1.0, 0.0, 0.0) if rng.random() < 0.75 else (0.0, 1.0, 0.0),
        lit_mm=_log_uniform(rng, 0.01, 0.12),
    )


def _draw_crystals(rng: np.random.Generator, largest_A: float, *, several: bool) -> tuple[Crystal, ...]:
    structure = draw_structure(rng)
    mosaicity = _log_uniform(rng, 0.02, 0.3)
    first = Crystal(
        structure=structure,
        orientation=random_orientation(rng),
        mosaicity_deg=_uneven(rng, mosaicity),
        block_A=min(_log_uniform(rng, 700.0, 2500.0), largest_A),
        square=bool(rng.random() < 0.3),
    )
    others = []
    for _ in range(int(several) + int(several and rng.random() < 0.15)):
        size = (_log_uniform(rng, 0.3, 2.0), _log_uniform(rng, 2.0, 8.0), None)[int(rng.integers(3))]
        if size is None:
            orientation = random_orientation(rng)
        else:
            direction = rng.normal(size=3)
            orientation = rotation((np.deg2rad(size) * direction / np.linalg.norm(direction))[None])[0] @ first.orientation
        own = mosaicity * float(np.exp(rng.normal(0.0, 0.25)))
        others.append(replace(first, orientation=orientation, mosaicity_deg=_uneven(rng, own), ratio=_log_uniform(rng, 0.08, 1.0)))
    return (first, *sorted(others, key=lambda crystal: -crystal.ratio))


def _uneven(rng: np.random.Generator, mosaicity_deg: float) -> tuple[float, float, float]:
    """Mosaicities about three axes: real ones are seldom the same in all directions."""
    x, y, z = (mosaicity_deg * float(f) for f in rng.uniform(0.5, 1.0, 3))
    return x, y, z


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def pattern_of(crystal: Crystal, scene: Scene, received: Floats, rng: np.random.Generator) -> Pattern:
    """What a lattice puts on the detector, from the blocks' transforms."""
    setting = scene.setting
    s_max = min(_S_MAX, float(setting.s_per_A().max()))
    hkl = candidates(*window_of(crystal, scene.exposure, s_max))
    strength = crystal.structure.intensities(hkl)
    kept = strength > _LEAST_STRENGTH * strength.max(initial=0.0)
    hkl, strength = hkl[kept], strength[kept]
    transform = crystal.transform()
    oversample = 1 if crystal.block_A < _pixel_A(setting) else 2
    rays = rays_of(crystal, scene.exposure, rng, samples_of(crystal, scene.exposure))
    image, sums = expose(hkl, strength, rays, transform, setting.plane(), received, oversample)
    seen = sums[:, 0] > 0.0
    hkl, sums = hkl[seen], sums[seen]
    light, centres = sums[:, 0], sums[:, 1:3] / sums[:, :1]
    moments = sums[:, [3, 4, 4, 5]].reshape(-1, 2, 2) / light[:, None, None] - centres[:, :, None] * centres[:, None, :]
    values, vectors = np.linalg.eigh(moments)
    values = np.maximum(values, _PIXEL_VARIANCE) + blur_variance_px2(setting.camera)
    radius_mm = 2.0 * values.prod(axis=1) ** 0.25 * setting.camera.pixel_mm
    return Pattern(
        image=image,
        hkl=hkl,
        s_per_A=np.linalg.norm(hkl @ crystal.structure.reciprocal().T, axis=1),
        light=light,
        centres_px=centres,
        covariance_px2=np.einsum("nij,nj,nkj->nik", vectors, values, vectors),
        within=1.0 - setting.camera.blur_mm / np.hypot(setting.camera.blur_mm, radius_mm),
    )


def _pixel_A(setting: Setting) -> float:
    """Edge of a block whose lattice transform is as wide as a pixel."""
    return setting.distance_mm * setting.wavelength_A / setting.camera.pixel_mm


def blur_variance_px2(camera: Camera) -> float:
    """Of a Gaussian as wide at half its height as the point spread, which itself has none."""
    return float((2.0 * camera.blur_mm * np.sqrt(2.0 ** (2.0 / 3.0) - 1.0) / camera.pixel_mm / _FWHM) ** 2)


def blurred(image: Floats, camera: Camera) -> Floats:
    """An image behind the point spread g / (2 pi (g^2 + r^2)^(3/2)) of fibre optics, whose Fourier transform is exp(-2 pi g |f|)."""
    if not camera.blur_mm:
        return image
    slow, fast = np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None, :]
    passed = np.exp(-2.0 * np.pi * camera.blur_mm / camera.pixel_mm * np.hypot(slow, fast))
    return np.asarray(np.fft.irfft2(np.fft.rfft2(image) * passed, s=image.shape)).clip(0.0)


def make(seed: int, index: int) -> Made:
    """Frame `index` of the benchmark's `seed`: always the same."""
    rng = np.random.default_rng([seed, index])
    return expose_scene(draw_scene(rng), rng, f"pixelwise {seed}/{index}")


def expose_scene(scene: Scene, rng: np.random.Generator, name: str) -> Made:
    """The counts of a scene, and its truth."""
    setting, camera = scene.setting, scene.setting.camera
    received = setting.received()
    smooth = diffuse(setting, scene.diffuse, received)
    ice_seen = False
    if scene.ice is not None:
        ice, ice_seen = rings(setting, scene.ice, smooth, received, rng)
        smooth = smooth + ice
    patterns = [pattern_of(crystal, scene, received, rng) for crystal in scene.crystals]
    beneath = blurred(smooth, camera) + camera.read_noise**2
    scale = exposure_of(patterns[0], beneath, scene.wanted) if patterns else 0.0
    ratios = [crystal.ratio for crystal in scene.crystals]
    bragg = sum((scale * ratio * pattern.image for ratio, pattern in zip(ratios, patterns, strict=True)), np.zeros_like(smooth))
    counts = read_out(blurred(smooth + bragg, camera), camera, rng)
    scales = [scale * ratio for ratio in ratios]
    seen = [visible(pattern, one, beneath) for pattern, one in zip(patterns, scales, strict=True)]
    truth = _truth(scene, patterns, scales, seen)
    truth |= {"ice_rings": bool(ice_seen), "background": float(np.median(smooth[received > 0]))}
    spots = tuple(pattern.centres_px[shown] for pattern, shown in zip(patterns, seen, strict=True))
    return Made(counts=counts, header=header_of(scene, name), truth=truth, spots=spots)


def _at(image: Floats, centres_px: Floats) -> Floats:
    slow, fast = centres_px.astype(np.int64).T
    return np.asarray(image[slow, fast])


def exposure_of(pattern: Pattern, beneath: Floats, wanted: int) -> float:
    """Photons per unit of light that make `wanted` spots visible; fewer where the strongest would have over _STRONGEST photons."""
    noise = _at(beneath, pattern.centres_px) * pattern.area_px()
    limit = LEAST_I_OVER_SIGMA**2
    needed = 0.5 * (limit + np.sqrt(limit**2 + 4.0 * limit * noise))  # where I = 5 sqrt(I + noise)
    scales = np.sort(needed / (pattern.light * pattern.within))
    if len(scales) == 0:
        return 0.0
    return float(min(scales[min(wanted, len(scales)) - 1] * (1.0 + 1e-9), _STRONGEST / pattern.light.max()))


def visible(pattern: Pattern, scale: float, beneath: Floats) -> npt.NDArray[np.bool_]:
    """(n,) which spots have I/sigma >= 5, over the variance `beneath` (slow, fast) of a pixel."""
    photons = scale * pattern.light * pattern.within
    sigma = np.sqrt(photons + _at(beneath, pattern.centres_px) * pattern.area_px())
    return np.asarray(photons >= LEAST_I_OVER_SIGMA * sigma)


def apart(pattern: Pattern, chosen: npt.NDArray[np.bool_], stronger: list[tuple[Pattern, float]]) -> npt.NDArray[np.bool_]:
    """Of the `chosen` spots, which lie more than their own width (FWHM, by second moments) from every spot of the stronger lattices."""
    centres, inverse = pattern.centres_px[chosen], np.linalg.inv(pattern.covariance_px2[chosen])
    free = np.ones(len(centres), dtype=bool)
    for other, scale in stronger:
        away = centres[:, None] - other.centres_px[None, scale * other.light > _DISCERNIBLE]
        free &= ~(np.einsum("nmi,nij,nmj->nm", away, inverse, away) < _FWHM**2).any(axis=1)
    return free


def _truth(scene: Scene, patterns: list[Pattern], scales: list[float], seen: list[npt.NDArray[np.bool_]]) -> dict[str, Any]:
    """Lattices counted, and what each is."""
    lattices, s_seen = [], []
    for k, (crystal, pattern, shown) in enumerate(zip(scene.crystals, patterns, seen, strict=True)):
        separable = int(apart(pattern, shown, list(zip(patterns[:k], scales[:k], strict=True))).sum())
        counts = int(shown.sum()) >= LEAST_SPOTS and separable >= LEAST_SPOTS
        if counts:
            s_seen.append(pattern.s_per_A[shown])
        lattices.append(
            {
                "visible": int(shown.sum()),
                "separable": separable,
                "ratio": crystal.ratio,
                "separation_deg": separation_deg(scene.crystals[0], crystal) if k else 0.0,
                "counts": counts,
                "mosaicity_deg": max(crystal.mosaicity_deg),
            }
        )
    return {
        "n_lattices": len(s_seen),
        "lattices": lattices,
        "d_min_A": float(1.0 / np.percentile(np.concatenate(s_seen), 95)) if s_seen else None,
        "detector": scene.setting.camera.name,
        "rotation_deg": scene.exposure.rotation_deg,
        "meant": scene.meant,
        "space_group": scene.crystals[0].structure.space_group if scene.crystals else None,
        "cell": list(scene.crystals[0].structure.cell) if scene.crystals else None,
    }


def read_out(expected: Floats, camera: Camera, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Photons as the camera writes them."""
    counts = rng.poisson(expected).astype(np.float64)
    if camera.read_noise:
        counts += camera.pedestal + camera.read_noise * rng.normal(size=counts.shape)
    written = np.rint(counts).clip(0, min(np.iinfo(camera.dtype).max - 3, 2**20)).astype(camera.dtype)
    written[camera.gaps()] = camera.no_data
    return written


def header_of(scene: Scene, name: str) -> dict[str, Any]:
    setting = scene.setting
    return {
        "name": name,
        "camera": setting.camera.name,
        "wavelength_A": setting.wavelength_A,
        "distance_mm": setting.distance_mm,
        "beam_px": list(setting.beam_px),
        "rotation_deg": scene.exposure.rotation_deg,
        "masked": scene.masked,
    }


def run_of(header: dict[str, Any], camera: Camera | None = None) -> Run:
    """The run a listener makes of a frame's header, which is right. `camera`: where it is none of CAMERAS."""
    camera = camera or CAMERAS[header["camera"]]
    slow, fast = header["beam_px"]
    known: dict[str, Any] = {name: header[name] for name in ("wavelength_A", "distance_mm")}
    known |= {"pixel_mm": (camera.pixel_mm, camera.pixel_mm), "beam_px": (slow, fast)}
    mask = camera.gaps() if header["masked"] else None
    said = RunHeader(
        source=header["name"],
        detector=camera.name,
        shape_px=camera.shape_px,
        stated=StatedGeometry(**known),
        pixel_mask=mask,
        negative_is_no_data=camera.dtype == "int32",
        offset=camera.pedestal,
        omega_step_deg=header["rotation_deg"],
    )
    return Run(
        id=header["name"],
        header=said,
        kind=RunKind.ROTATION if header["rotation_deg"] else RunKind.STILLS,
        geometry=Geometry(**known, shape_px=camera.shape_px),
        geometry_source="header",
        mask=mask,
        mask_source="header",
    )
