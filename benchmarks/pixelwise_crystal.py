"""Crystals for `benchmarks.pixelwise`: cells, amplitudes of Wilson's statistics, and the samples of mosaic blocks, rays and instants."""

from __future__ import annotations

from dataclasses import dataclass

import gemmi
import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from benchmarks.pixelwise_kernel import GAUSSIAN_REACH, SQUARE_REACH, Floats, Ints, Rays, Transform, Window

Cell = tuple[float, float, float, float, float, float]

SPACE_GROUPS = (
    "P 1",
    "P 1 2 1",
    "P 1 21 1",
    "C 1 2 1",
    "P 21 21 2",
    "P 21 21 21",
    "C 2 2 21",
    "I 2 2 2",
    "F 2 2 2",
    "P 41 21 2",
    "P 43 21 2",
    "I 4 2 2",
    "P 31 2 1",
    "P 61 2 2",
    "P 63",
    "R 3 :H",
    "P 2 3",
    "I 2 3",
    "F 4 3 2",
)
EDGES_A = (30.0, 200.0)
_PROTEIN = {"C": 0.63, "N": 0.17, "O": 0.19, "S": 0.01}
"""Shares of a protein's atoms beside hydrogen."""
_SOLVENT = (0.75, 200.0)  # contrast and B in A^2 of flat bulk solvent (Moews & Kretsinger, J. Mol. Biol. 91 (1975) 201)
_QUANTILE = 0.002  # normal deviates are cut at 2.9 standard deviations
_ACTIVE, _SAMPLES = 25, (150, 1500)
"""Samples in which a reflection is to diffract, and how many there may be in all."""
_TYPICAL_S = 0.4  # 1/A, for the number of samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What is in the unit cell: nothing but intensities of the right statistics and symmetry."""

    space_group: str
    cell: Cell
    b_factor_A2: float
    seed: int

    def reciprocal(self) -> Floats:
        """(3, 3), 1/A: columns a*, b*, c* in gemmi's Cartesian frame (a along x, b in the plane of x and y)."""
        return np.asarray(gemmi.UnitCell(*self.cell).frac.mat.tolist()).T

    def intensities(self, hkl: Ints) -> Floats:
        """|F|^2 (n,), relative, of `hkl` (n, 3): Wilson's distributions (Acta Cryst. 2 (1949) 318) about the mean of random atoms.

        Equivalents and Friedel mates are the same number; absent reflections are zero.
        """
        group = gemmi.SpaceGroup(self.space_group).operations()
        index = np.ascontiguousarray(hkl, dtype=np.int32)
        unit = _uniform(_asymmetric_key(hkl, group), self.seed)
        acentric, centric = -np.log(unit), ndtri(0.5 + 0.5 * unit) ** 2
        wilson = np.where(group.centric_flag_array(index), centric, acentric) * group.epsilon_factor_array(index)
        s = np.linalg.norm(hkl @ self.reciprocal().T, axis=1)
        return np.asarray(wilson * ~group.systematic_absences(index) * self._mean(s))

    def _mean(self, s_per_A: Floats) -> Floats:
        """Sum of squared scattering factors over protein's atoms, less the solvent's contrast, times the Debye-Waller factor."""
        stol2 = (0.5 * s_per_A) ** 2
        squares = sum(
            share * np.asarray([gemmi.Element(name).it92.calculate_sf(x) for x in stol2]) ** 2 for name, share in _PROTEIN.items()
        )
        contrast, b_solvent = _SOLVENT
        return np.asarray(squares * (1.0 - contrast * np.exp(-b_solvent * stol2)) ** 2 * np.exp(-2.0 * self.b_factor_A2 * stol2))

    def symmetry_rotations(self) -> Floats:
        """(n, 3, 3): rotations, in the frame of `reciprocal`, that bring the lattice onto itself."""
        cell = gemmi.UnitCell(*self.cell)
        centring = gemmi.SpaceGroup(self.space_group).centring_type()
        orth = np.asarray(cell.orth.mat.tolist())
        turns = [np.asarray(op.rot) / op.DEN for op in gemmi.find_lattice_symmetry(cell, centring, 1e-3).sym_ops]
        return np.asarray([orth @ turn @ np.linalg.inv(orth) for turn in turns])


def _asymmetric_key(hkl: Ints, group: gemmi.GroupOps) -> Ints:
    """(n,) the same integer for all that symmetry and Friedel's law make equal."""
    best = np.full(len(hkl), -1, dtype=np.int64)
    for op in group.sym_ops:
        turned = hkl @ (np.asarray(op.rot, dtype=np.int64) // op.DEN)
        for image in (turned, -turned):
            best = np.maximum(best, ((image[:, 0] + 1024) * 2048 + image[:, 1] + 1024) * 2048 + image[:, 2] + 1024)
    return best


def _uniform(key: Ints, seed: int) -> Floats:
    """(n,) numbers in (0, 1), for a key and seed always the same: bits of their hash (the finaliser of Appleby's MurmurHash3)."""
    x = key.astype(np.uint64) ^ np.uint64(np.random.default_rng(seed).integers(2**63))
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x ^= x >> np.uint64(33)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(33)
    return np.asarray(((x >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53)


def draw_structure(rng: np.random.Generator) -> Structure:
    """A structure of one of SPACE_GROUPS, edges log-normal about 70 A within EDGES_A."""
    name = SPACE_GROUPS[int(rng.integers(len(SPACE_GROUPS)))]
    a, b, c = (float(x) for x in np.exp(rng.normal(np.log(70.0), 0.45, 3)).clip(*EDGES_A))
    match gemmi.SpaceGroup(name).crystal_system_str():
        case "triclinic":
            alpha, beta, gamma = (float(x) for x in rng.uniform(78.0, 102.0, 3))
            cell = (a, b, c, alpha, beta, gamma)
        case "monoclinic":
            cell = (a, b, c, 90.0, float(rng.uniform(91.0, 118.0)), 90.0)
        case "orthorhombic":
            cell = (a, b, c, 90.0, 90.0, 90.0)
        case "tetragonal":
            cell = (a, a, c, 90.0, 90.0, 90.0)
        case "trigonal" | "hexagonal":
            cell = (a, a, c, 90.0, 90.0, 120.0)
        case _:
            cell = (a, a, a, 90.0, 90.0, 90.0)
    return Structure(space_group=name, cell=cell, b_factor_A2=float(rng.uniform(8.0, 60.0)), seed=int(rng.integers(2**31)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """The beam, and how the crystal turns in it."""

    wavelength_A: float
    bandwidth: float
    """Standard deviation of the wavelength, relative."""
    divergence_rad: tuple[float, float]
    """Standard deviations, horizontal and vertical."""
    rotation_deg: float
    """During the frame, about `axis`; 0: a still."""
    axis: tuple[float, float, float]
    lit_mm: float
    """Edge of the cube of crystal that is lit."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Crystal:
    """One lattice."""

    structure: Structure
    orientation: Floats
    """(3, 3), in the middle of the exposure."""
    mosaicity_deg: tuple[float, float, float]
    """Standard deviations of the blocks' turns about the laboratory's axes."""
    block_A: float
    """Edge of a mosaic block."""
    square: bool = False
    """Blocks are parallelepipeds, else their transform is Gaussian."""
    ratio: float = 1.0
    """Of its diffracting volume to that of the strongest lattice."""

    def transform(self) -> Transform:
        """The lattice transform of its blocks."""
        n_cells = np.maximum(np.rint(self.block_A / np.asarray(self.structure.cell[:3])), 3.0)
        cells = n_cells[:, None] * np.linalg.inv(self.structure.reciprocal())
        reach = SQUARE_REACH if self.square else GAUSSIAN_REACH
        return Transform(n_cells, self.square, float(reach / np.linalg.svd(cells, compute_uv=False).min()))


def rotation(vectors: Floats) -> Floats:
    """(n, 3, 3) rotations of rotation vectors (n, 3), rad (Rodrigues)."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None]
    x, y, z = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)).T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross)


def _stratified(rng: np.random.Generator, n: int, dimensions: int) -> Floats:
    """(dimensions, n) points, evenly spread along each dimension (McKay, Beckman & Conover, Technometrics 21 (1979) 239)."""
    return np.asarray([(rng.permutation(n) + rng.random(n)) / n for _ in range(dimensions)])


def samples_of(crystal: Crystal, exposure: Exposure) -> int:
    """Samples, so that a reflection diffracts in about _ACTIVE of them."""
    width = 1.0 / crystal.block_A
    mosaic = _TYPICAL_S * np.deg2rad(2.355 * max(crystal.mosaicity_deg))
    swept = _TYPICAL_S * np.deg2rad(exposure.rotation_deg)
    other = _TYPICAL_S * 2.355 * (max(exposure.divergence_rad) + 0.5 * _TYPICAL_S * exposure.wavelength_A * exposure.bandwidth)
    across = 1.0 + (mosaic + other) / width
    wanted = _ACTIVE * np.hypot(1.0, np.hypot(mosaic + other, swept) / width) * across
    return int(np.clip(wanted, *_SAMPLES))


def rays_of(crystal: Crystal, exposure: Exposure, rng: np.random.Generator, n: int) -> Rays:
    """`n` samples of a crystal in an exposure."""
    uniform = _stratified(rng, n, 13)
    normal = ndtri(uniform[1:7].clip(_QUANTILE, 1.0 - _QUANTILE))
    turned = rotation((uniform[0] - 0.5)[:, None] * np.deg2rad(exposure.rotation_deg) * np.asarray(exposure.axis))
    blocks = rotation((np.deg2rad(crystal.mosaicity_deg)[:, None] * normal[:3]).T)
    to_q = turned @ blocks @ (crystal.orientation @ crystal.structure.reciprocal())
    direction = np.stack([exposure.divergence_rad[0] * normal[3], exposure.divergence_rad[1] * normal[4], np.ones(n)], axis=1)
    return Rays(
        to_q=np.ascontiguousarray(to_q),
        to_cells=np.ascontiguousarray(crystal.transform().n_cells[:, None] * np.linalg.inv(to_q)),
        direction=np.ascontiguousarray(direction / np.linalg.norm(direction, axis=1, keepdims=True)),
        inverse_wavelength=1.0 / (exposure.wavelength_A * (1.0 + exposure.bandwidth * normal[5])),
        origin_mm=np.ascontiguousarray((uniform[7:10].T - 0.5) * exposure.lit_mm),
        depth=np.ascontiguousarray(uniform[10]),
        point=np.ascontiguousarray(uniform[11:13].T),
    )


def window_of(crystal: Crystal, exposure: Exposure, s_max_per_A: float) -> tuple[Ints, Window]:
    """Largest indices (3,), and what tells which reflections may diffract."""
    ends = rotation(np.outer(np.deg2rad(exposure.rotation_deg) * np.array([-0.5, 0.0, 0.5]), exposure.axis))
    to_q = ends @ (crystal.orientation @ crystal.structure.reciprocal())
    most = float(ndtri(1.0 - _QUANTILE))
    mosaic, divergence = (float(np.linalg.norm(x)) for x in (np.deg2rad(crystal.mosaicity_deg), exposure.divergence_rad))
    spread = most * (mosaic + divergence + 0.5 * s_max_per_A * exposure.wavelength_A * exposure.bandwidth)
    limits = np.ceil(np.asarray(crystal.structure.cell[:3]) * s_max_per_A).astype(np.int64)
    tolerance = crystal.transform().cut_per_A
    return limits, Window(np.ascontiguousarray(to_q), 1.0 / exposure.wavelength_A, s_max_per_A, tolerance, spread)


def separation_deg(first: Crystal, second: Crystal) -> float:
    """Smallest rotation that brings the first lattice onto the second, modulo the lattice's symmetry; both of one structure."""
    turns = first.orientation @ first.structure.symmetry_rotations()
    cosine = (np.einsum("nij,ij->n", turns, second.orientation).max() - 1.0) / 2.0
    return float(np.rad2deg(np.arccos(np.clip(cosine, -1.0, 1.0))))


def random_orientation(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """(3, 3), uniform: the orthogonal factor of a matrix of normal deviates (Mezzadri, Notices AMS 54 (2007) 592), made proper."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return np.asarray(q if np.linalg.det(q) > 0 else -q)
