"""Parameters to counts and labels."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from training.simulate.background import Device, rate, received_of, resolution_map, transmission
from training.simulate.detectors import gap_mask
from training.simulate.diffraction import Lattice, Reflections, reflections
from training.simulate.scene import Distortion, Powder, Scene
from triage.core import Run, RunHeader, RunKind
from triage.geometry import Geometry, StatedGeometry
from triage.refusal import ConfigError

VISIBLE_I_OVER_SIGMA = 5.0
MIN_SPOTS = 8
"""A lattice counts when this many of its spots are visible, and as many stand apart from every stronger lattice's (contract, section 7)."""
_FWHM = 2.355
_MAX_HALF_WINDOW = 24
_LEAST_PHOTONS = 0.4  # weaker ones are lost in any background, and there are thousands
_MOST_SPOTS = 4000
_LEAST_WIDTH_PX = 0.3  # a pixel's own
_MOST_OVER_VISIBLE = 1500.0
"""Photons of strong spots over those that make one visible: I/sigma of 200 where counting them is all the noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatticeTruth:
    """What can be seen of one lattice."""

    visible_spots: int
    separable_spots: int
    intensity_ratio: float
    """Summed photons of its visible spots' range over the strongest lattice's, by construction of the scene."""
    separation_deg: float
    """Smallest rotation that brings the strongest lattice onto this one; of another cell, the rotation between the two matrices U."""

    @property
    def counts(self) -> bool:
        """Whether it counts as a lattice of the label."""
        return self.visible_spots >= MIN_SPOTS and self.separable_spots >= MIN_SPOTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The truth of one frame, in the terms of the label store."""

    n_lattices: int
    non_diffraction_kind: str | None
    """Of a frame without a lattice; else None."""
    ice_rings: bool
    d_min_A: float | None
    """95th percentile of 1/d of the visible sample spots; None where there are fewer than 8."""
    lattices: tuple[LatticeTruth, ...]
    visible_spots: int
    """Of the strongest lattice."""
    background: float
    """Median expected photons a pixel."""
    photons: float
    """The scale used, per unit of relative intensity."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rendered:
    """One simulated frame."""

    counts: npt.NDArray[np.generic]
    """(slow, fast), in the detector's type."""
    labels: Labels
    run: Run
    reflections: tuple[Reflections, ...]
    """Of every sample lattice, in photons, strongest lattice first."""
    visible: tuple[torch.Tensor, ...]
    """(n,) bools beside each: which reflections have I/sigma >= 5."""


def device_of(wanted: str, key: str) -> str:
    """`cpu` or `cuda`, for `auto` what there is. Raises ConfigError, naming the key, where `cuda` is wanted and torch sees no GPU."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{key}: cuda is asked for and torch sees no GPU; set {key}=cpu, or install torch with CUDA")
    return wanted


def render(scene: Scene, *, index_in_run: int = 0, device: Device = "cpu") -> Rendered:
    """The frame of a scene: pixels on `device`, the few thousand reflections on the CPU.

    The same scene gives the same frame on the same device, and the same but for the noise on another.
    """
    generator = torch.Generator(device).manual_seed(scene.seed + 7_919 * index_in_run)
    detector, geometry = scene.detector_model(), scene.geometry()
    shade = transmission(scene, device) * ~torch.as_tensor(gap_mask(scene.detector), device=device)
    received = received_of(geometry, scene.beam.polarisation, device)
    smooth = rate(scene, resolution_map(geometry, device), shade, generator, received)
    expected = smooth.expected
    background = float(expected[::4, ::4][shade[::4, ::4] > 0].median())
    noise2 = expected + detector.read_noise**2  # of one pixel without spots
    groups, photons = _sample_spots(scene, geometry, noise2, shade)
    others = _other_spots(scene, geometry, noise2, shade, photons, generator)
    for group in others.values():
        _paint(expected, group)
    under = {name: _at(expected, group.positions_px) for name, group in others.items()}
    seen = {"ice": smooth.ice_seen, "salt": smooth.powder_seen}
    for name in ("ice", "salt"):
        seen[name] |= name in others and int(_visible(others[name], under[name], shade).sum()) >= 2
    truths = [_visible(group, _at(expected, group.positions_px) + detector.read_noise**2, shade) for group in groups]
    for group in groups:
        _paint(expected, group)
    labels = _labels(scene, groups, truths, seen, background=background, photons=photons)
    counts = torch.poisson(expected, generator=generator)
    counts = _spoil(counts, scene, generator)
    written = _as_written(counts, scene, generator)
    return Rendered(counts=written, labels=labels, run=run_of(scene), reflections=tuple(groups), visible=tuple(truths))


def run_of(scene: Scene, run_id: str = "simulated") -> Run:
    """The Run a listener would make of this scene's header."""
    detector, geometry = scene.detector_model(), scene.stated_geometry()
    mask = np.array(gap_mask(scene.detector)) if scene.gaps_masked else None
    header = RunHeader(
        source=run_id,
        detector=detector.name,
        shape_px=detector.shape_px,
        stated=StatedGeometry(
            wavelength_A=geometry.wavelength_A,
            distance_mm=geometry.distance_mm,
            pixel_mm=geometry.pixel_mm,
            beam_px=geometry.beam_px,
            fast_axis=geometry.fast_axis,
            slow_axis=geometry.slow_axis,
        ),
        pixel_mask=mask,
        negative_is_no_data=detector.negative_is_no_data,
        offset=detector.offset,
        omega_step_deg=scene.beam.rotation_deg,
    )
    kind = RunKind.ROTATION if scene.beam.rotation_deg else RunKind.STILLS
    return Run(id=run_id, header=header, kind=kind, geometry=geometry, geometry_source="simulation", mask=mask, mask_source="simulation")


def _sample_spots(scene: Scene, geometry: Geometry, noise2: torch.Tensor, shade: torch.Tensor) -> tuple[list[Reflections], float]:
    """Spots of every sample lattice in photons, and the photons per unit of relative intensity."""
    spread = scene.detector_model().spread_px
    found = [_distorted(reflections(lattice, scene.beam, geometry, scene.d_min_A, spread), scene) for lattice in scene.lattices]
    if not found:
        return [], 0.0
    photons = scene.photons
    if photons is None:
        photons = _photon_scale(found[0], noise2, shade, scene.visible_spots or 0)
    return [_scaled(group, photons * _at(shade, group.positions_px)) for group in found], photons


def _other_spots(
    scene: Scene, geometry: Geometry, noise2: torch.Tensor, shade: torch.Tensor, photons: float, generator: torch.Generator
) -> dict[str, Reflections]:
    """Spots that are not of the sample at its wavelength, by what makes them: `harmonic`, `salt`, `ice`."""
    spread, groups = scene.detector_model().spread_px, {}
    if scene.harmonic and scene.lattices:
        half = Geometry(
            wavelength_A=geometry.wavelength_A / 2,
            distance_mm=geometry.distance_mm,
            pixel_mm=geometry.pixel_mm,
            beam_px=geometry.beam_px,
            shape_px=geometry.shape_px,
            fast_axis=geometry.fast_axis,
            slow_axis=geometry.slow_axis,
        )
        group = _distorted(reflections(scene.lattices[0], scene.beam, half, scene.d_min_A, spread), scene)
        groups["harmonic"] = _scaled(group, photons * scene.harmonic * _at(shade, group.positions_px))
    if scene.salt is not None:
        group = _distorted(reflections(scene.salt, scene.beam, geometry, 0.7, spread), scene)
        scale = _photon_scale(group, noise2, shade, scene.salt_spots)
        groups["salt"] = _scaled(group, scale * _at(shade, group.positions_px))
    for name, powder in (("ice", scene.ice), ("salt_powder", scene.powder)):
        if powder is not None and powder.n_spots:
            groups[name] = _powder_spots(powder, geometry, shade, generator)
    return groups


def _distorted(group: Reflections, scene: Scene) -> Reflections:
    """With spots where the real detector has them; those that leave it are dropped."""
    if scene.distortion == Distortion():
        return group
    positions = scene.distortion.moved(group.positions_px.double().numpy(), scene.detector_model())
    inside = ((positions > 0) & (positions < np.asarray(scene.detector_model().shape_px))).all(axis=1)
    moved = dataclasses.replace(group, positions_px=torch.as_tensor(positions, dtype=torch.float32))
    return moved.chosen(torch.from_numpy(inside))


def _scaled(group: Reflections, factor: torch.Tensor | float) -> Reflections:
    photons = group.photons * factor
    keep = photons > _LEAST_PHOTONS
    if int(keep.sum()) > _MOST_SPOTS:
        keep = photons >= photons.topk(_MOST_SPOTS).values[-1]
    return dataclasses.replace(group, photons=photons).chosen(keep)


def _at(image: torch.Tensor, positions_px: torch.Tensor) -> torch.Tensor:
    """Values (n,) of an image at positions (n, 2), where the positions are: on the CPU."""
    index = positions_px.to(image.device).to(torch.int64)
    return image[index[:, 0].clamp(0, image.shape[0] - 1), index[:, 1].clamp(0, image.shape[1] - 1)].to(positions_px.device)


def _area_px(group: Reflections) -> torch.Tensor:
    """Area of the 2-sigma ellipse, pixels: what integration would sum over."""
    return 4.0 * np.pi * group.radial_px * group.tangential_px


def _photon_scale(group: Reflections, noise2: torch.Tensor, shade: torch.Tensor, wanted: int) -> float:
    """Photons per relative intensity that make `wanted` spots visible, or fewer: not more than nearly all there are, and no more than
    leaves the strong ones (98th percentile of the visible) at _MOST_OVER_VISIBLE times what makes a spot visible, as exposures are chosen.
    """
    light = _at(shade, group.positions_px)
    relative = group.photons * light
    variance = _at(noise2, group.positions_px) * _area_px(group)
    needed = 0.5 * (VISIBLE_I_OVER_SIGMA**2 + torch.sqrt(VISIBLE_I_OVER_SIGMA**4 + 4.0 * VISIBLE_I_OVER_SIGMA**2 * variance))
    scale = (needed / relative)[relative > 0].sort().values
    if len(scale) == 0:
        return 1.0
    number = min(max(wanted, 1), max(int(0.85 * len(scale)), 1))
    strong = scale[int(0.02 * number)]
    return float(torch.minimum(scale[number - 1], _MOST_OVER_VISIBLE * strong))


def _powder_spots(powder: Powder, geometry: Geometry, shade: torch.Tensor, generator: torch.Generator) -> Reflections:
    """Crystallites on the rings, sharper than the rings themselves."""
    n, device = powder.n_spots, generator.device

    def uniform() -> torch.Tensor:
        return torch.rand(n, generator=generator, device=device).cpu()

    weights = torch.tensor(powder.strengths, device=device).clamp_min(1e-6)
    ring = torch.multinomial(weights, n, replacement=True, generator=generator).cpu()
    s = torch.tensor(powder.rings_per_A, device="cpu")[ring] * (
        1.0 + powder.width * torch.randn(n, generator=generator, device=device).cpu()
    )
    two_theta = 2.0 * torch.arcsin((s * geometry.wavelength_A / 2.0).clamp(max=0.9))
    azimuth = 2.0 * np.pi * uniform()
    rays = torch.stack([torch.sin(two_theta) * torch.cos(azimuth), torch.sin(two_theta) * torch.sin(azimuth), torch.cos(two_theta)], dim=1)
    positions = torch.as_tensor(geometry.positions_px(rays.numpy()), dtype=torch.float32)
    photons = -torch.log(uniform().clamp_min(1e-6)) * powder.spot_photons
    wide = 0.6 + 1.2 * uniform()
    offset = positions - torch.tensor(geometry.beam_px, dtype=torch.float32)
    direction = offset / torch.linalg.norm(offset, dim=1, keepdim=True).clamp_min(1e-3)
    inside = ((positions > 0) & (positions < torch.tensor(geometry.shape_px))).all(dim=1)
    group = Reflections(
        positions_px=positions[inside],
        photons=photons[inside],
        s_per_A=s[inside],
        radial_px=wide[inside],
        tangential_px=(wide * (1.0 + 3.0 * uniform()))[inside],
        direction=direction[inside],
    )
    return _scaled(group, _at(shade, group.positions_px))


def _paint(image: torch.Tensor, group: Reflections) -> None:
    """Adds each spot as a Gaussian, sub-pixel true, in a window of at least 3.1 standard deviations."""
    group = group.to(image.device)
    if group.blocks:
        for part in _parts(group):
            _paint(image, part)
        return
    widest = torch.maximum(group.radial_px, group.tangential_px)
    half = (2 * torch.ceil(1.55 * widest)).clamp(max=_MAX_HALF_WINDOW).to(torch.int64)  # even numbers only: fewer groups
    for limit in sorted(set(half.tolist())):
        _paint_window(image, group, half == limit, int(limit))


def _parts(group: Reflections) -> list[Reflections]:
    """The spots of each block of a ragged crystal: narrower than the whole by what lies between the blocks."""
    weights = np.array([weight for _, _, weight in group.blocks])
    found = []
    narrow = [float(np.sqrt(max(1.0 - weights @ np.array([block[k] ** 2 for block in group.blocks]), 0.1))) for k in (0, 1)]
    outwards, across = group.direction, torch.stack([-group.direction[:, 1], group.direction[:, 0]], dim=1)
    for u, v, weight in group.blocks:
        shift = u * group.radial_px[:, None] * outwards + v * group.tangential_px[:, None] * across
        found.append(
            dataclasses.replace(
                group,
                positions_px=group.positions_px + shift,
                photons=group.photons * weight,
                radial_px=(group.radial_px * narrow[0]).clamp_min(_LEAST_WIDTH_PX),
                tangential_px=(group.tangential_px * narrow[1]).clamp_min(_LEAST_WIDTH_PX),
                blocks=(),
            )
        )
    return found


def _paint_window(image: torch.Tensor, group: Reflections, chosen: torch.Tensor, half: int) -> None:
    positions, direction = group.positions_px[chosen], group.direction[chosen]
    step = torch.arange(-half, half + 1, device=image.device)
    corner = positions.to(torch.int64)
    slow = corner[:, 0, None] + step  # (n, w)
    fast = corner[:, 1, None] + step
    d_slow = slow + 0.5 - positions[:, 0, None]
    d_fast = fast + 0.5 - positions[:, 1, None]
    # (u / radial)^2 + (v / tangential)^2 of axes turned into `direction`, as a quadratic form of slow and fast: a quarter of the passes.
    radial, tangential = group.radial_px[chosen] ** -2, group.tangential_px[chosen] ** -2
    along, across = direction[:, 0], direction[:, 1]
    of_slow = (-0.5 * (radial * along**2 + tangential * across**2))[:, None] * d_slow**2
    of_fast = (-0.5 * (radial * across**2 + tangential * along**2))[:, None] * d_fast**2
    of_both = ((tangential - radial) * along * across)[:, None] * d_slow
    value = torch.baddbmm(of_slow[:, :, None] + of_fast[:, None, :], of_both[:, :, None], d_fast[:, None, :]).exp_()  # (n, w, w)
    value *= (group.photons[chosen] / value.sum(dim=(1, 2)).clamp_min(1e-6))[:, None, None]
    value *= ((slow >= 0) & (slow < image.shape[0]))[:, :, None]
    value *= ((fast >= 0) & (fast < image.shape[1]))[:, None, :]
    index = (slow.clamp(0, image.shape[0] - 1) * image.shape[1])[:, :, None] + fast.clamp(0, image.shape[1] - 1)[:, None, :]
    image.view(-1).index_add_(0, index.view(-1), value.view(-1))


def _visible(group: Reflections, under: torch.Tensor, shade: torch.Tensor) -> torch.Tensor:
    """Which spots have I/sigma >= 5 over the photons per pixel that lie `under` them."""
    sigma = torch.sqrt(group.photons + under.clamp_min(0.0) * _area_px(group))
    return (group.photons >= VISIBLE_I_OVER_SIGMA * sigma) & (_at(shade, group.positions_px) > 0.05)


def _labels(
    scene: Scene, groups: list[Reflections], visible: list[torch.Tensor], seen: dict[str, bool], *, background: float, photons: float
) -> Labels:
    truths: list[LatticeTruth] = []
    seen_s: list[torch.Tensor] = []
    for k, (lattice, group, shown) in enumerate(zip(scene.lattices, groups, visible, strict=True)):
        truth = LatticeTruth(
            visible_spots=int(shown.sum()),
            separable_spots=int(_apart(group, shown, groups[:k]).sum()),
            intensity_ratio=lattice.scale,
            separation_deg=_separation_deg(scene.lattices[0], lattice),
        )
        truths.append(truth)
        if truth.counts:
            seen_s.append(group.s_per_A[shown])
    resolution = torch.cat(seen_s) if seen_s else torch.zeros(0)
    return Labels(
        n_lattices=len(seen_s),
        non_diffraction_kind=None if seen_s else _non_diffraction_kind(scene, seen),
        ice_rings=seen["ice"],
        d_min_A=float(1.0 / torch.quantile(resolution, 0.95)) if len(resolution) >= MIN_SPOTS else None,
        lattices=tuple(truths),
        visible_spots=truths[0].visible_spots if truths else 0,
        background=background,
        photons=photons,
    )


def _apart(group: Reflections, shown: torch.Tensor, stronger: list[Reflections]) -> torch.Tensor:
    """Which of the `shown` spots lie more than one FWHM, along their own axes, from every discernible spot of the stronger lattices."""
    positions, direction = group.positions_px[shown], group.direction[shown]
    radial, tangential = group.radial_px[shown, None], group.tangential_px[shown, None]
    apart = torch.ones(len(positions), dtype=torch.bool)
    for other in stronger:
        delta = positions[:, None] - other.positions_px[None, other.photons > 4.0]  # (n, m, 2)
        u = (delta[..., 0] * direction[:, :1] + delta[..., 1] * direction[:, 1:]) / radial
        v = (delta[..., 1] * direction[:, :1] - delta[..., 0] * direction[:, 1:]) / tangential
        apart &= ~((u * u + v * v) < _FWHM**2).any(dim=1)
    return apart


def _separation_deg(first: Lattice, second: Lattice) -> float:
    """Modulo the rotations of the lattice when both have one cell and space group, which leave every spot in its place."""
    a, b = (np.asarray(lattice.orientation).reshape(3, 3) for lattice in (first, second))
    same = (first.crystal.cell, first.crystal.space_group) == (second.crystal.cell, second.crystal.space_group)
    equivalent = a @ first.crystal.lattice_rotations() if same else a[None]
    cosine = (np.einsum("nij,ij->n", equivalent, b).max() - 1.0) / 2.0
    return float(np.rad2deg(np.arccos(np.clip(cosine, -1.0, 1.0))))


def _non_diffraction_kind(scene: Scene, seen: dict[str, bool]) -> str:
    for kind in ("salt", "ice"):
        if seen[kind]:
            return kind
    artefacts = scene.artefacts
    marked = artefacts.zingers + artefacts.hot_pixels >= 3 or artefacts.hot_lines or artefacts.dead_module or artefacts.jet_streak >= 0.5
    return "artefact" if marked else "blank"


def _spoil(counts: torch.Tensor, scene: Scene, generator: torch.Generator) -> torch.Tensor:
    """Zingers, hot pixels and lines, a dead module."""
    artefacts, (n_slow, n_fast) = scene.artefacts, counts.shape

    def integer(limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=generator, device=generator.device))

    def uniform() -> float:
        return float(torch.rand(1, generator=generator, device=generator.device))

    def normal() -> float:
        return float(torch.randn(1, generator=generator, device=generator.device))

    for _ in range(artefacts.zingers):  # a cosmic ray: a short track of one to eight pixels
        slow, fast = integer(n_slow - 10), integer(n_fast - 10)
        angle, length = uniform() * 2 * np.pi, 1 + integer(8)
        charge = 20.0 * math.exp(1.5 * normal())
        for step in range(length):
            at = (int(slow + abs(step * np.sin(angle))), int(fast + abs(step * np.cos(angle))))
            counts[at] += charge * (0.5 + uniform())
    for _ in range(artefacts.hot_pixels):
        counts[integer(n_slow), integer(n_fast)] += math.exp(4.0 + 2.0 * normal())
    for _ in range(artefacts.hot_lines):
        extra = torch.poisson(
            torch.full((max(counts.shape),), 3.0 * scene.background.level + 2.0, device=counts.device), generator=generator
        )
        if integer(2):
            counts[integer(n_slow), :] += extra[:n_fast]
        else:
            counts[:, integer(n_fast)] += extra[:n_slow]
    if artefacts.dead_module:
        module = scene.detector_model().module_px
        slow = integer(max(1, n_slow // module[0])) * (module[0] + scene.detector_model().gap_px[0])
        fast = integer(max(1, n_fast // module[1])) * (module[1] + scene.detector_model().gap_px[1])
        counts[slow : slow + module[0] // 2, fast : fast + module[1] // 2] = 0.0
    return counts


def _as_written(counts: torch.Tensor, scene: Scene, generator: torch.Generator) -> npt.NDArray[np.generic]:
    """Counts in the detector's type with its no-data values in the gaps."""
    detector, gaps = scene.detector_model(), gap_mask(scene.detector)
    if detector.read_noise:
        counts = counts + detector.offset + detector.read_noise * torch.randn(counts.shape, generator=generator, device=counts.device)
    values = counts.cpu().numpy()
    match detector.dtype:
        case "float32":
            values = values.astype(np.float32)
            values[gaps] = np.nan
            return values
        case "int32":
            written = values.clip(0, 2**20).astype(np.int32)
            written[gaps] = -1
            return written
        case dtype:
            top = np.iinfo(dtype).max
            written = np.rint(values).astype(np.int64).clip(0, top - 3).astype(dtype)
            written[gaps] = top
            return written
