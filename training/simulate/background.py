"""Smooth scattering: air, water, plastic, powder rings, and the shadows across it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from training.simulate.detectors import DETECTORS, chip_borders
from training.simulate.scene import Background, Powder, Scene
from triage.geometry import Geometry

_STEP = 8  # the resolution map is computed on every eighth pixel and interpolated: errors under 0.05 px outside the beam stop
_BINS = 4096
_S_TOP = 1.6  # 1/A
_RIPPLE_NODES = 48  # across the detector
Device = torch.device | str
"""Where pixels are computed; what depends on chance follows its generator's."""


def resolution_map(geometry: Geometry, device: Device = "cpu") -> torch.Tensor:
    """Inverse resolution s = 1/d at every pixel's centre, (slow, fast), in 1/A."""
    return _on_every_pixel(geometry.inverse_d_per_A, geometry.shape_px, device)


def _on_every_pixel(of: Callable[[np.ndarray], np.ndarray], shape_px: tuple[int, int], device: Device) -> torch.Tensor:
    """A smooth function of positions (..., 2) at every pixel's centre, (slow, fast)."""
    slow = np.arange(0, shape_px[0] + _STEP, _STEP, dtype=float)
    fast = np.arange(0, shape_px[1] + _STEP, _STEP, dtype=float)
    coarse = of(np.stack(np.meshgrid(slow, fast, indexing="ij"), axis=-1) + 0.5)
    fine = _interpolated(
        torch.as_tensor(coarse, dtype=torch.float32, device=device), ((len(slow) - 1) * _STEP + 1, (len(fast) - 1) * _STEP + 1)
    )
    return fine[: shape_px[0], : shape_px[1]].contiguous()


def _interpolated(coarse: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    return torch.nn.functional.interpolate(coarse[None, None], size=shape, mode="bilinear", align_corners=True)[0, 0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Smooth:
    """Expected photons without spots, and how well its powder rings can be seen."""

    expected: torch.Tensor
    """(slow, fast) photons, shadows included."""
    ice_seen: bool
    powder_seen: bool


RING_CONTRAST = 0.12
"""A ring counts as present when it stands out of what lies beneath by this much, and by ten standard deviations of the counts."""


def rate(scene: Scene, s_map: torch.Tensor, shade: torch.Tensor, generator: torch.Generator, received: torch.Tensor) -> Smooth:
    """Expected background photons at every pixel. `shade` is what the shadows let through, 0 to 1; `received` as `received_of` gives it."""
    s = torch.linspace(0.0, _S_TOP, _BINS, device=s_map.device)
    index = (s_map * (_BINS / _S_TOP)).to(torch.int64).clamp_(max=_BINS - 1)
    expected = _smooth(scene.background, s)[index] * received
    if scene.background.unevenness:
        expected *= torch.exp(scene.background.unevenness * _texture(s_map.shape, 5, generator))
    if scene.background.ripple:
        expected *= torch.exp(scene.background.ripple * _texture(s_map.shape, _RIPPLE_NODES, generator))
    if scene.background.chip_borders:
        slow, fast = (torch.as_tensor(line, device=s_map.device) for line in chip_borders(scene.detector))
        expected *= 1.0 + scene.background.chip_borders * torch.maximum(slow[:, None], fast[None, :])
    if scene.artefacts.jet_streak:
        expected += scene.artefacts.jet_streak * scene.background.level * _streak(scene, generator)
    expected *= shade
    if scene.background.flat_field:
        expected *= 1.0 + scene.background.flat_field * _flat_field(scene.detector, s_map.device)
    closed = 1e-4 if scene.artefacts.shutter_closed else 1.0
    seen = []
    for powder in (scene.ice, scene.powder):
        if powder is None:
            seen.append(False)
            continue
        profile = _rings(powder, scene.background.level, s)
        rings = profile[index] * _broken(powder, s_map.shape, generator) * shade
        seen.append(_stands_out(rings * closed, expected * closed, (profile > 0.3 * profile.max())[index]))
        expected += rings
    return Smooth(expected=(expected * closed).clamp_(min=0.0), ice_seen=seen[0], powder_seen=seen[1])


def _stands_out(rings: torch.Tensor, beneath: torch.Tensor, where: torch.Tensor) -> bool:
    ring, under = float(rings[where].sum()), float(beneath[where].sum())
    return ring > RING_CONTRAST * under and ring > 10.0 * (ring + under) ** 0.5


@lru_cache(maxsize=32)
def _flat_field(detector: str, device: torch.device) -> torch.Tensor:
    """Each pixel's response, mean zero and unit variance: a property of the detector, the same in every frame and on every device."""
    generator = torch.Generator("cpu").manual_seed(sum(detector.encode()))
    return torch.randn(DETECTORS[detector][0].shape_px, generator=generator, device="cpu").to(device)


def _smooth(background: Background, s: torch.Tensor) -> torch.Tensor:
    """Radial profile: air falls with s; water has its ring near 3.3 A and a shoulder beyond; plastic (loops, oil) near 4.8 A."""
    air = torch.exp(-s / 0.1)
    ring, shoulder = background.water_per_A, 1.54 * background.water_per_A
    water = torch.exp(-0.5 * ((s - ring) / 0.06) ** 2) + 0.35 * torch.exp(-0.5 * ((s - shoulder) / 0.08) ** 2) + 0.12
    plastic = torch.exp(-0.5 * ((s - background.plastic_per_A) / 0.018) ** 2) + 0.3 * torch.exp(-0.5 * ((s - 0.12) / 0.02) ** 2)
    profile = background.air * air + background.water * water + background.plastic * plastic + background.constant
    return background.level * profile / profile[s > 0.05].max()


def received_of(geometry: Geometry, polarisation: float, device: Device = "cpu") -> torch.Tensor:
    """What a pixel receives of isotropic scattering, over what one in the middle does (slow, fast): its solid angle, (D / r)^3 for a flat
    detector at distance D, and the polarisation factor (Kahn et al., J. Appl. Cryst. 15 (1982) 330).
    """

    def of(positions_px: np.ndarray) -> np.ndarray:
        mm = geometry.laboratory_mm(positions_px)
        r = np.linalg.norm(mm, axis=-1)
        x, y = mm[..., 0] / r, mm[..., 1] / r
        polarised = polarisation * (1.0 - x**2) + (1.0 - polarisation) * (1.0 - y**2)
        return np.asarray((geometry.distance_mm / r) ** 3 * polarised)

    return _on_every_pixel(of, geometry.shape_px, device)


def _rings(powder: Powder, level: float, s: torch.Tensor) -> torch.Tensor:
    total = torch.zeros_like(s)
    for centre, strength in zip(powder.rings_per_A, powder.strengths, strict=True):
        total += strength * torch.exp(-0.5 * ((s / centre - 1.0) / powder.width) ** 2)
    return total * level


def _broken(powder: Powder, shape: torch.Size, generator: torch.Generator) -> torch.Tensor | float:
    """Texture along the rings, mean one."""
    if not powder.texture:
        return 1.0
    field = torch.exp(powder.texture * _texture(shape, 28, generator))
    return field / field.mean()


def _texture(shape: torch.Size, nodes: int, generator: torch.Generator) -> torch.Tensor:
    """Smooth Gaussian noise of unit variance at the nodes."""
    return _interpolated(torch.randn(nodes, nodes, generator=generator, device=generator.device), (shape[0], shape[1]))


def _streak(scene: Scene, generator: torch.Generator) -> torch.Tensor:
    """A liquid jet's streak through the beam centre, peak one."""
    slow, fast = _offsets(scene, generator.device)

    def uniform() -> float:
        return float(torch.rand(1, generator=generator, device=generator.device))

    angle = uniform() * 0.3 + (np.pi / 2 if uniform() < 0.5 else 0.0)
    across = slow * np.cos(angle) - fast * np.sin(angle)
    along = slow * np.sin(angle) + fast * np.cos(angle)
    short = min(s_max for s_max in (slow.shape[0], fast.shape[1]))
    width = short * (0.003 + 0.01 * uniform())
    return torch.exp(-0.5 * (across / width) ** 2 - along.abs() / (0.25 * short))


def _offsets(scene: Scene, device: Device) -> tuple[torch.Tensor, torch.Tensor]:
    shape = scene.detector_model().shape_px
    slow = torch.arange(shape[0], dtype=torch.float32, device=device)[:, None] + 0.5 - scene.beam_px[0]
    fast = torch.arange(shape[1], dtype=torch.float32, device=device)[None, :] + 0.5 - scene.beam_px[1]
    return slow, fast


def transmission(scene: Scene, device: Device = "cpu") -> torch.Tensor:
    """What the shadows leave, 0 to 1, (slow, fast): beam stop, its arm, the collimator."""
    slow, fast = _offsets(scene, device)
    radius2 = slow**2 + fast**2
    shadows = scene.shadows
    # The stop's edge is soft over a few pixels (penumbra).
    left = torch.sigmoid((radius2 - shadows.stop_px**2) / (2.0 * max(shadows.stop_px, 1.0) * 1.5))
    if shadows.arm_px:
        angle = np.deg2rad(shadows.arm_deg)
        along = slow * np.sin(angle) + fast * np.cos(angle)
        across = slow * np.cos(angle) - fast * np.sin(angle)
        left = torch.where((across.abs() < shadows.arm_px) & (along > 0), left * 0.12, left)
    if shadows.collimator_px:
        left = left * torch.where(radius2 > shadows.collimator_px**2, 0.05, 1.0)
    return left
