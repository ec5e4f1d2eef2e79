"""Which reflections meet the Ewald sphere during an exposure, where they land, how wide they are and how many photons they bring.

Laboratory frame of `triage.geometry`: z along the beam. A reciprocal-lattice point g diffracts when |k0 + g| = 1/lambda. Its distance from
the sphere is the excitation error; mosaic spread, domain size, bandwidth and divergence blur it (Greenhough & Helliwell, J. Appl. Cryst.
15 (1982) 338; Nave, Acta Cryst. D54 (1998) 848).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from training.simulate.crystal import Crystal
from triage.geometry import Geometry

_LEAST_SHARE = 3e-3
"""Of what an exposure can record of a reflection; fainter partials are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam:
    """The primary beam and the exposure."""

    bandwidth: float
    """Standard deviation of d(lambda)/lambda."""
    divergence_rad: float
    """Standard deviation."""
    polarisation: float = 0.99
    """Fraction in the horizontal (fast-axis) plane."""
    size_px: float = 0.5
    """Standard deviation of the beam's (or crystal's) footprint on the detector, pixels."""
    rotation_deg: float = 0.0
    """Oscillation width; zero for a still."""
    rotation_axis: tuple[float, float, float] = (1.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """One crystal in the beam."""

    crystal: Crystal
    orientation: tuple[float, ...]
    """Nine numbers, row by row: the rotation U, at the middle of the exposure."""
    mosaicity_deg: float
    """Standard deviation of the mosaic blocks' tilt."""
    domain_A: float
    """Size of a coherent block."""
    scale: float
    """Of its intensities against the frame's."""
    blocks: tuple[tuple[float, float, float], ...] = ()
    """A crystal of a few misaligned parts, whose spots are ragged, each in the same way: of each part, how far its spot lies from the
    middle of the whole one, outwards and across, in standard deviations of the whole, and its share of the photons. Empty: smooth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reflections:
    """Spots of one lattice as expected on the detector; all tensors of length n."""

    positions_px: torch.Tensor
    """(n, 2) slow, fast."""
    photons: torch.Tensor
    """Relative to the frame's scale until multiplied by it."""
    s_per_A: torch.Tensor
    radial_px: torch.Tensor
    """Standard deviation along the direction away from the beam centre."""
    tangential_px: torch.Tensor
    direction: torch.Tensor
    """(n, 2) unit vector away from the beam centre on the detector (slow, fast)."""
    blocks: tuple[tuple[float, float, float], ...] = ()
    """As in Lattice."""

    def to(self, device: torch.device) -> Reflections:
        """With its tensors on a device; itself where they are there."""
        return self if self.positions_px.device == device else self._each(lambda tensor: tensor.to(device))

    def chosen(self, which: torch.Tensor) -> Reflections:
        """Those of a mask (n,)."""
        return self._each(lambda tensor: tensor[which])

    def _each(self, of: Callable[[torch.Tensor], torch.Tensor]) -> Reflections:
        return dataclasses.replace(
            self,
            positions_px=of(self.positions_px),
            photons=of(self.photons),
            s_per_A=of(self.s_per_A),
            radial_px=of(self.radial_px),
            tangential_px=of(self.tangential_px),
            direction=of(self.direction),
        )


def reflections(lattice: Lattice, beam: Beam, geometry: Geometry, d_min_A: float, spread_px: float) -> Reflections:
    """Expected spots of one lattice on the detector, down to d_min."""
    basis = np.asarray(lattice.orientation).reshape(3, 3) @ lattice.crystal.reciprocal_basis()
    wavelength = geometry.wavelength_A
    widest = _excitation_sigma(torch.tensor([1.0 / d_min_A]), lattice, beam, wavelength).item()
    swept = np.deg2rad(beam.rotation_deg) / 2.0 / d_min_A
    hkl, g = _near_sphere(basis, wavelength, d_min_A, 3.5 * widest + swept)
    s = torch.linalg.norm(g, dim=1)
    k1 = g + torch.tensor([0.0, 0.0, 1.0 / wavelength], dtype=g.dtype)
    length = torch.linalg.norm(k1, dim=1)
    error = length - 1.0 / wavelength  # excitation error, 1/A
    sigma = _excitation_sigma(s, lattice, beam, wavelength)
    axis = torch.tensor(beam.rotation_axis, dtype=g.dtype)
    speed = (k1 / length[:, None] * torch.linalg.cross(axis.expand_as(g), g)).sum(dim=1)  # d(error)/d(phi), 1/A per rad
    fraction = recorded_fraction(error, speed, sigma, np.deg2rad(beam.rotation_deg))
    keep = fraction > _LEAST_SHARE * _most_recorded(widest, d_min_A, np.deg2rad(beam.rotation_deg))
    hkl, g, s, error, speed, sigma, fraction = (x[keep] for x in (hkl, g, s, error, speed, sigma, fraction))
    # Where within the exposure it diffracts: rotate g there, so that the spot lies where its photons went.
    angle = (-error / torch.where(speed.abs() < 1e-6, torch.full_like(speed, 1e-6), speed)).clamp(
        -np.deg2rad(beam.rotation_deg) / 2, np.deg2rad(beam.rotation_deg) / 2
    )
    k1 = g + angle[:, None] * torch.linalg.cross(axis.expand_as(g), g) + torch.tensor([0.0, 0.0, 1.0 / wavelength], dtype=g.dtype)
    positions = torch.as_tensor(geometry.positions_px(k1.numpy()), dtype=torch.float32)
    inside = ((positions > 0) & (positions < torch.tensor(geometry.shape_px))).all(dim=1)  # nan compares false
    hkl, s, k1, fraction, positions = (x[inside] for x in (hkl, s, k1, fraction, positions))
    intensity = lattice.crystal.intensities(hkl, s.to(torch.float32)) * fraction.to(torch.float32) * lattice.scale
    unit = k1 / torch.linalg.norm(k1, dim=1, keepdim=True)
    intensity = intensity * _polarisation(unit, beam.polarisation).to(torch.float32)
    radial, tangential, direction = _widths(lattice, beam, geometry, unit, positions, spread_px)
    return Reflections(
        positions_px=positions,
        photons=intensity,
        s_per_A=s.to(torch.float32),
        radial_px=radial,
        tangential_px=tangential,
        direction=direction,
        blocks=lattice.blocks,
    )


def recorded_fraction(error: torch.Tensor, speed: torch.Tensor, sigma: torch.Tensor, rotation_rad: float) -> torch.Tensor:
    """Time-integrated excitation of reflections (n,): the partiality over the Lorentz speed for a rotation, the density for a still.

    A rotation sums the Gaussian rocking curve over the angle, so that the partials of consecutive exposures sum to the full reflection;
    as the rotation vanishes this becomes the still, up to the factor `rotation_rad`.
    """
    density = torch.exp(-0.5 * (error / sigma) ** 2) / (sigma * np.sqrt(2.0 * np.pi))
    if rotation_rad == 0.0:
        return density
    half = speed.abs() * rotation_rad / 2.0
    root = sigma * np.sqrt(2.0)
    swept = 0.5 * (torch.erf((error + half) / root) - torch.erf((error - half) / root))
    return torch.where(half > 1e-3 * sigma, swept / speed.abs().clamp_min(1e-9), density * rotation_rad)


def _most_recorded(widest_per_A: float, d_min_A: float, rotation_rad: float) -> float:
    """About the most that `recorded_fraction` gives for the widest reflection: by its width, or in a wide rotation by its Lorentz speed."""
    if rotation_rad == 0.0:
        return 1.0 / widest_per_A
    return min(rotation_rad / widest_per_A, d_min_A)


def _excitation_sigma(s: torch.Tensor, lattice: Lattice, beam: Beam, wavelength_A: float) -> torch.Tensor:
    """Standard deviation of the excitation error in 1/A at s = 1/d."""
    sin_theta = (s * wavelength_A / 2.0).clamp(max=0.999)
    cos_theta = torch.sqrt(1.0 - sin_theta**2)
    size = 1.0 / (2.355 * lattice.domain_A)
    mosaic = np.deg2rad(lattice.mosaicity_deg) * s * cos_theta
    band = beam.bandwidth * s * sin_theta
    divergence = beam.divergence_rad * s * cos_theta
    return torch.sqrt(size**2 + mosaic**2 + band**2 + divergence**2)


def _near_sphere(basis: np.ndarray, wavelength_A: float, d_min_A: float, tolerance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Integer indices (n, 3) and vectors g (n, 3) with | |k0 + g| - 1/lambda | < tolerance and |g| < 1/d_min.

    For each pair of two indices the third is solved for: its line cuts the two limiting spheres. The third is the axis most nearly along
    the beam, so that lines cross the sphere steeply.
    """
    third = int(np.argmax(np.abs(basis[2]) / np.linalg.norm(basis, axis=0)))
    order = [i for i in range(3) if i != third] + [third]
    b = torch.as_tensor(basis[:, order], dtype=torch.float64)
    direct = np.linalg.inv(basis[:, order])  # rows: direct axes in A
    limits = np.ceil(np.linalg.norm(direct, axis=1) / d_min_A).astype(int)
    first = torch.arange(-limits[0], limits[0] + 1)
    second = torch.arange(-limits[1], limits[1] + 1)
    pairs = torch.cartesian_prod(first, second)
    base = pairs.to(torch.float64) @ b[:, :2].T  # (n, 3)
    k0 = torch.tensor([0.0, 0.0, 1.0 / wavelength_A], dtype=torch.float64)
    along = b[:, 2]
    # |k0 + base + l along|^2 = r^2 for r = 1/lambda +- tolerance
    a = along @ along
    half = (base + k0) @ along / a
    offset = ((base + k0) ** 2).sum(dim=1)
    outer = half**2 - (offset - (1.0 / wavelength_A + tolerance) ** 2) / a
    inner = half**2 - (offset - (1.0 / wavelength_A - tolerance) ** 2) / a
    meets = outer > 0
    pairs, base, half, outer, inner = pairs[meets], base[meets], half[meets], outer[meets].sqrt(), inner[meets].clamp_min(0).sqrt()
    found_hkl, found_g = [], []
    for low, high in ((-half - outer, -half - inner), (-half + inner, -half + outer)):
        start = torch.ceil(low - 1e-9)
        number = (torch.floor(high + 1e-9) - start + 1).clamp(0, 2 * int(limits[2]) + 1).to(torch.int64)
        which = torch.repeat_interleave(torch.arange(len(number)), number)
        within = torch.arange(len(which)) - torch.repeat_interleave(torch.cumsum(number, 0) - number, number)
        index = (start[which] + within).to(torch.int64)
        found_hkl.append(torch.cat([pairs[which], index[:, None]], dim=1))
        found_g.append(base[which] + index[:, None] * along)
    hkl, g = torch.cat(found_hkl), torch.cat(found_g)
    s = torch.linalg.norm(g, dim=1)
    keep = (s < 1.0 / d_min_A) & (s > 0.01)  # under 100 A all is behind the beam stop
    hkl, g = hkl[keep], g[keep]
    restored = torch.empty_like(hkl)
    for place, original in enumerate(order):
        restored[:, original] = hkl[:, place]
    _, unique = np.unique((restored.numpy() + 8192) @ np.array([2**28, 2**14, 1]), return_index=True)  # tangent lines come twice
    return restored[unique], g[unique]


def _polarisation(unit: torch.Tensor, fraction: float) -> torch.Tensor:
    """Polarisation factor of scattered unit vectors (n, 3) (Kahn et al., J. Appl. Cryst. 15 (1982) 330)."""
    return fraction * (1.0 - unit[:, 0] ** 2) + (1.0 - fraction) * (1.0 - unit[:, 1] ** 2)


def _widths(
    lattice: Lattice, beam: Beam, geometry: Geometry, unit: torch.Tensor, positions: torch.Tensor, spread_px: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Standard deviations (n,) in pixels away from the beam centre and across, and the direction (n, 2)."""
    pixel = float(np.mean(geometry.pixel_mm))
    cos_2theta = unit[:, 2].clamp(0.05, 1.0).to(torch.float32)
    tan_2theta = torch.sqrt(1.0 - cos_2theta**2) / cos_2theta
    tan_theta = tan_2theta / (1.0 + 1.0 / cos_2theta)
    path_px = geometry.distance_mm / pixel
    isotropic = spread_px**2 + beam.size_px**2 + (beam.divergence_rad * path_px) ** 2 + 1.0 / 12.0  # the last: the pixel itself
    streak = path_px / cos_2theta**2 * 2.0 * tan_theta * beam.bandwidth
    arc = path_px * tan_2theta * np.deg2rad(lattice.mosaicity_deg)
    size = path_px * geometry.wavelength_A / (2.355 * lattice.domain_A)
    offset = positions - torch.tensor(geometry.beam_px, dtype=torch.float32)
    direction = offset / torch.linalg.norm(offset, dim=1, keepdim=True).clamp_min(1e-3)
    radial = torch.sqrt(isotropic + streak**2 + size**2)
    # Only blocks within the (possibly narrow) rocking range diffract at once; across the beam all tilts do.
    return radial, torch.sqrt(isotropic + arc**2 + size**2), direction
