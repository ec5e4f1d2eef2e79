"""Cameras for `benchmarks.pixelwise`, what their pixels receive, and scattering that is not the sample crystal's: water, air, ice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import gemmi
import numpy as np
import numpy.typing as npt

from benchmarks.pixelwise_kernel import Floats, Plane

_SILICON_PER_MM = 4.2
"""Linear attenuation of silicon at 1 A, 1/mm; with the cube of the wavelength within 5 % from 0.8 to 1.3 A (NIST, mass attenuation)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A flat detector of modules on a grid."""

    name: str
    modules: tuple[int, int]
    module_px: tuple[int, int]
    gap_px: tuple[int, int]
    pixel_mm: float
    dtype: str
    silicon_mm: float = 0.0
    """Thickness of the sensor; 0: a phosphor, without parallax."""
    blur_mm: float = 0.0
    """Of a fibre-coupled CCD's point spread (Holton, Nielsen & Frankel, J. Synchrotron Rad. 19 (2012) 1006)."""
    pedestal: float = 0.0
    read_noise: float = 0.0

    @property
    def shape_px(self) -> tuple[int, int]:
        """Slow and fast."""
        slow, fast = (n * size + (n - 1) * gap for n, size, gap in zip(self.modules, self.module_px, self.gap_px, strict=True))
        return slow, fast

    @property
    def no_data(self) -> int:
        """What is written in the gaps."""
        return -1 if self.dtype == "int32" else int(np.iinfo(self.dtype).max)

    def gaps(self) -> npt.NDArray[np.bool_]:
        """(slow, fast) True between modules."""
        slow, fast = (
            np.arange(length) % (module + gap) >= module
            for length, module, gap in zip(self.shape_px, self.module_px, self.gap_px, strict=True)
        )
        return np.asarray(slow[:, None] | fast[None, :])


def _pilatus(name: str, modules: tuple[int, int]) -> Camera:
    gap_px, module_px = (17, 7), (195, 487)
    return Camera(name=name, modules=modules, module_px=module_px, gap_px=gap_px, pixel_mm=0.172, dtype="int32", silicon_mm=0.45)


CAMERAS = {
    camera.name: camera
    for camera in (
        Camera(
            name="EIGER 1M",
            modules=(2, 1),
            module_px=(514, 1030),
            gap_px=(37, 10),
            pixel_mm=0.075,
            dtype="uint32",
            silicon_mm=0.45,
        ),
        _pilatus("PILATUS 300K", (3, 1)),
        _pilatus("PILATUS 1M", (5, 2)),
        Camera(
            name="CCD 165 mm",
            modules=(1, 1),
            module_px=(1024, 1024),
            gap_px=(0, 0),
            pixel_mm=0.158,
            dtype="uint16",
            blur_mm=0.045,
            pedestal=10.0,
            read_noise=2.0,
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where the camera stands, and what stands before it."""

    camera: Camera
    wavelength_A: float
    distance_mm: float
    beam_px: tuple[float, float]
    polarisation: float
    """Of the incident beam, along fast (Kahn et al., J. Appl. Cryst. 15 (1982) 330)."""
    stop_mm: float
    """Radius of the beam stop's shadow."""
    arm_mm: float
    """Width of its arm's shadow, upwards; 0 for none."""

    def plane(self) -> Plane:
        """As the kernel takes it."""
        per_mm = _SILICON_PER_MM * self.wavelength_A**3 if self.camera.silicon_mm else 0.0
        return Plane(self.distance_mm, self.camera.pixel_mm, *self.beam_px, per_mm, self.camera.silicon_mm)

    def offsets_mm(self) -> tuple[Floats, Floats]:
        """Slow (n, 1) and fast (1, m) of pixels' centres from the beam."""
        slow, fast = ((np.arange(n) + 0.5 - at) * self.camera.pixel_mm for n, at in zip(self.camera.shape_px, self.beam_px, strict=True))
        return np.asarray(slow[:, None]), np.asarray(fast[None, :])

    def s_per_A(self) -> Floats:
        """1/d of every pixel."""
        slow, fast = self.offsets_mm()
        return np.asarray(2.0 / self.wavelength_A * np.sin(0.5 * np.arctan2(np.hypot(slow, fast), self.distance_mm)))

    def received(self) -> Floats:
        """What every pixel counts of light scattered evenly: solid angle (in units of the nearest pixel's), polarisation, absorption in
        the sensor, shadows and gaps.
        """
        slow, fast = self.offsets_mm()
        from_beam = np.hypot(slow, fast)
        cosine = self.distance_mm / np.hypot(from_beam, self.distance_mm)
        cos2 = cosine * cosine
        sideways = np.divide(fast**2 - slow**2, from_beam**2, out=np.zeros_like(from_beam), where=from_beam > 0)
        polarised = 0.5 * (1.0 + cos2 - self.polarisation * sideways * (1.0 - cos2))
        plane = self.plane()
        absorbed = 1.0 - np.exp(-plane.per_mm * plane.thickness_mm / cosine) if plane.per_mm else 1.0
        shadow = (from_beam < self.stop_mm) | ((np.abs(fast) < 0.5 * self.arm_mm) & (slow < 0.0))
        return np.asarray(cosine**3 * polarised * absorbed * ~(shadow | self.camera.gaps()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ice:
    """Powder rings of hexagonal ice."""

    strength: float
    """Of the strongest ring's peak over what lies beneath."""
    crystallite_A: float
    texture: float
    """Relative standard deviation of the intensity along a ring: few crystallites make it uneven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diffuse:
    """Scattering of everything but the crystal and ice."""

    level: float
    """Median photons a pixel."""
    air: float
    """Of its scattering near the beam to the water ring's top."""
    inelastic: float
    """Compton scattering and fluorescence, to the same."""
    lopsided: float
    """Relative change across the detector, of absorption in the sample and its mount."""


def diffuse(setting: Setting, parts: Diffuse, received: Floats) -> Floats:
    """(slow, fast) photons of water, air and inelastic scattering."""
    grid = np.linspace(0.0, 2.0, 2001)  # 1/A
    water, air = _water(grid), _nitrogen(grid)
    curve = water / water.max() + parts.air * air / air[0] + parts.inelastic * (1.0 - 0.6 * np.exp(-4.0 * grid**2))
    slow, fast = setting.offsets_mm()
    tilted = 1.0 + parts.lopsided * (slow + fast) / (np.abs(slow).max() + np.abs(fast).max())
    image = np.interp(setting.s_per_A(), grid, curve) * tilted * received
    return np.asarray(image * (parts.level / np.median(image[received > 0])))


def _form_factor(element: str, s_per_A: Floats) -> Floats:
    """Scattering factor of an atom (International Tables C, 6.1.1), electrons."""
    it92 = gemmi.Element(element).it92
    return np.asarray([it92.calculate_sf((0.5 * x) ** 2) for x in s_per_A])


def _water(s_per_A: Floats) -> Floats:
    """Liquid water at room temperature: the molecule's own scattering times a structure function.

    Its shape after Hura et al., J. Chem. Phys. 113 (2000) 9140: little at low angle (the compressibility's limit), the first peak at 2.0
    and the second at 3.0 radians/A.
    """
    q = 2.0 * np.pi * s_per_A
    structure = 1.0 - 0.94 * np.exp(-((q / 1.45) ** 4)) + 0.35 * np.exp(-0.5 * ((q - 2.0) / 0.28) ** 2)
    return np.asarray(_form_factor("O", s_per_A) ** 2 * (structure + 0.18 * np.exp(-0.5 * ((q - 3.0) / 0.35) ** 2)))


def _nitrogen(s_per_A: Floats) -> Floats:
    """Air, taken for nitrogen: Debye's formula for two atoms 1.10 A apart."""
    return np.asarray(2.0 * _form_factor("N", s_per_A) ** 2 * (1.0 + np.sinc(2.0 * s_per_A * 1.10)))


ICE_CELL = (4.497, 4.497, 7.322, 90.0, 90.0, 120.0)
"""Hexagonal ice at 100 K (Roettger et al., Acta Cryst. B50 (1994) 644)."""
_ICE_OXYGEN = ((1 / 3, 2 / 3, 0.0629), (2 / 3, 1 / 3, 0.5629), (2 / 3, 1 / 3, -0.0629), (1 / 3, 2 / 3, 0.4371))
"""Sites 4f of P 63/m m c."""
_ICE_B_A2 = 2.0
_ICE_LEAST_D_A = 1.2
_ARCS = 360
"""Parts of a ring, each of its own crystallites."""
_TEXTURED = 6  # rings that are uneven: further out they overlap
_RING_CORE = 0.3
_RING_CONTRAST = 0.12
"""Rings show when they stand out of what lies beneath by this much (and ten standard deviations), as the project counts its own."""


@cache
def ice_lines() -> tuple[Floats, Floats]:
    """s = 1/d of ice's powder rings, ascending, and the sums of |F|^2 over the reflections that make each."""
    most = np.arange(-8, 9)
    hkl = np.stack(np.meshgrid(most, most, most, indexing="ij"), axis=-1).reshape(-1, 3)
    s = np.linalg.norm(hkl @ np.asarray(gemmi.UnitCell(*ICE_CELL).frac.mat.tolist()), axis=1)
    hkl, s = hkl[(s > 0) & (s < 1.0 / _ICE_LEAST_D_A)], s[(s > 0) & (s < 1.0 / _ICE_LEAST_D_A)]
    factor = np.abs(np.exp(2j * np.pi * hkl @ np.asarray(_ICE_OXYGEN).T).sum(axis=1)) ** 2
    strength = factor * _form_factor("O", s) ** 2 * np.exp(-_ICE_B_A2 * s**2 / 2.0)
    lines, place = np.unique(np.round(s, 5), return_inverse=True)
    total = np.bincount(place, weights=strength)
    kept = total > 1e-4 * total.max()
    return lines[kept], total[kept]


def rings(setting: Setting, ice: Ice, beneath: Floats, received: Floats, rng: np.random.Generator) -> tuple[Floats, bool]:
    """(slow, fast) photons of ice over the photons `beneath`, and whether they show.

    They do where the rings' light, where it is at least _RING_CORE of its largest, is over _RING_CONTRAST of what lies beneath, and
    significant.
    """
    s, lines, strength = setting.s_per_A(), *ice_lines()
    strength = strength / lines**2  # a ring's light is spread over its circumference, and reflections cross the sphere at its slope
    width = 0.9 / ice.crystallite_A / 2.355  # Scherrer
    grid = np.arange(0.0, 1.0, 0.1 * width)
    profile = (strength * np.exp(-0.5 * ((grid[:, None] - lines) / width) ** 2)).sum(axis=1)
    even = np.interp(s, grid, profile / profile.max())
    image = even * received
    slow, fast = setting.offsets_mm()
    angle = (np.arctan2(slow, fast) + np.pi) / (2.0 * np.pi)  # of a turn
    if ice.texture:
        uneven = rng.gamma(ice.texture**-2.0, ice.texture**2.0, (len(lines), _ARCS))
        for line, arcs in zip(lines[:_TEXTURED], uneven[:_TEXTURED], strict=True):
            near = np.abs(s - line) < 3.0 * width
            image[near] *= arcs[(angle[near] * _ARCS).astype(np.int64) % _ARCS]
    strongest = (np.abs(s - lines[np.argmax(strength)]) < 1.2 * width) & (received > 0)
    if not strongest.any():
        return np.zeros_like(image), False
    image *= ice.strength * beneath[strongest].mean() / received[strongest].mean()
    core = (even > _RING_CORE) & (received > 0)
    light, under = float(image[core].sum()), float(beneath[core].sum())
    return image, light > _RING_CONTRAST * under and light > 10.0 * np.sqrt(light + under)
