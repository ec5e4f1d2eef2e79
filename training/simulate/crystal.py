"""Crystals: space group, cell, and intensities with the statistics and symmetry of real ones.

No reflection list is kept. A reflection's intensity is a hash of its symmetry-unique index and the crystal's seed, mapped to Wilson's
distributions (Wilson, Acta Cryst. 2 (1949) 318), so any reflection is available at once, equivalents agree, and absences are absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import gemmi
import numpy as np
import torch

COMMON_SPACE_GROUPS = {
    "P 21 21 21": 23.0,
    "P 1 21 1": 16.0,
    "C 1 2 1": 10.0,
    "P 21 21 2": 6.0,
    "C 2 2 21": 5.0,
    "P 1": 4.0,
    "P 43 21 2": 5.0,
    "P 41 21 2": 3.5,
    "P 32 2 1": 4.0,
    "P 31 2 1": 3.5,
    "P 61 2 2": 1.7,
    "P 65 2 2": 1.3,
    "P 61": 1.2,
    "P 65": 0.8,
    "P 63": 1.0,
    "I 2 2 2": 3.0,
    "R 3": 2.5,
    "R 3 2": 1.8,
    "P 43": 0.9,
    "I 4": 0.8,
    "I 4 2 2": 1.0,
    "P 42 21 2": 0.8,
    "I 2 3": 0.5,
    "F 4 3 2": 0.4,
    "I 21 3": 0.3,
    "P 21 3": 0.3,
}
"""Rough shares (per cent) of the commonest macromolecular space groups (Wukovitz & Yeates, Nat. Struct. Biol. 2 (1995) 1062; PDB)."""
Cell = tuple[float, float, float, float, float, float]
_EXACT_OBLIQUITY_DEG = 1e-4  # a lattice that has a symmetry to less than this has it
_RARE_SHARE = 0.15  # of all 65 Sohncke groups taken together, so that each is met


@dataclass(frozen=True, slots=True, kw_only=True)
class Crystal:
    """What diffracts, apart from its orientation."""

    space_group: str
    cell: Cell
    """a, b, c in A; alpha, beta, gamma in deg."""
    seed: int
    """Of the structure factors."""
    b_factor_A2: float
    anisotropy_A2: float = 0.0
    """Added to B along c*."""
    pseudo_translation: tuple[float, float, float] | None = None
    """A translational pseudo-symmetry vector (fractional)."""
    pseudo_strength: float = 0.0
    """0: none; 1: the weak class is extinct."""
    is_salt: bool = False
    """Small cell: no protein-like fall-off."""

    def reciprocal_basis(self) -> np.ndarray:
        """(3, 3): columns a*, b*, c* in 1/A (Busing & Levy, Acta Cryst. 22 (1967) 457), so that g = B h."""
        cell = gemmi.UnitCell(*self.cell)
        return np.asarray(cell.frac.mat.tolist(), dtype=np.float64).T

    def lattice_rotations(self) -> np.ndarray:
        """(n, 3, 3): the rotations, in the frame of `reciprocal_basis`, that map the lattice (not the structure) onto itself."""
        return _lattice_rotations(self.cell, self.space_group)

    def intensities(self, hkl: torch.Tensor, s_per_A: torch.Tensor) -> torch.Tensor:
        """Mean-one Wilson intensities times the fall-off, for (N, 3) integer indices at s = 1/d (N,); zero where absent."""
        unique, centric, epsilon, absent = classify(hkl, self.space_group)
        first, second = _uniform(unique, self.seed, 1), _uniform(unique, self.seed, 2)
        exponential = -torch.log(first)
        gaussian = torch.sqrt(2.0 * exponential) * torch.cos(2.0 * np.pi * second)
        wilson = torch.where(centric, gaussian * gaussian, exponential) * epsilon
        result = wilson * self.fall_off(s_per_A) * (~absent)
        index = hkl.to(s_per_A.dtype)
        if self.anisotropy_A2:
            c_star = torch.as_tensor(self.reciprocal_basis()[:, 2], dtype=s_per_A.dtype, device=hkl.device)
            result = result * torch.exp(-0.5 * self.anisotropy_A2 * (index[:, 2] * torch.linalg.norm(c_star)) ** 2)
        if self.pseudo_translation is not None:
            phase = 2.0 * np.pi * (index @ torch.as_tensor(self.pseudo_translation, dtype=s_per_A.dtype, device=hkl.device))
            result = result * (1.0 + self.pseudo_strength * torch.cos(phase))
        return result

    def fall_off(self, s_per_A: torch.Tensor) -> torch.Tensor:
        """Mean intensity against s = 1/d: protein-like shape (bulk-solvent dip, 6 A minimum, 4.5 A bump; Popov & Bourenkov,
        Acta Cryst. D59 (2003) 1145) times exp(-B s^2 / 2).
        """
        s2 = s_per_A * s_per_A
        debye_waller = torch.exp(-0.5 * self.b_factor_A2 * s2)
        if self.is_salt:
            return debye_waller
        solvent = 1.0 - 0.9 * torch.exp(-100.0 * s2)  # k_sol, B_sol of flat bulk solvent, roughly
        bumps = 1.0 + 0.8 * _gauss(s_per_A, 0.222, 0.035) - 0.55 * _gauss(s_per_A, 0.160, 0.025) + 0.9 * _gauss(s_per_A, 0.09, 0.03)
        return solvent * bumps * torch.exp(-3.0 * s2) * debye_waller


def _gauss(x: torch.Tensor, centre: float, width: float) -> torch.Tensor:
    return torch.exp(-0.5 * ((x - centre) / width) ** 2)


@lru_cache(maxsize=256)
def _lattice_rotations(cell: Cell, space_group: str) -> np.ndarray:
    unit_cell = gemmi.UnitCell(*cell)
    operations = gemmi.find_lattice_symmetry(unit_cell, gemmi.SpaceGroup(space_group).centring_type(), _EXACT_OBLIQUITY_DEG).sym_ops
    to_cartesian = np.asarray(unit_cell.orth.mat.tolist())
    rotations = [to_cartesian @ (np.asarray(op.rot) / op.DEN) @ np.linalg.inv(to_cartesian) for op in operations]
    return np.asarray(rotations)


@lru_cache(maxsize=256)
def _operations(space_group: str) -> tuple[np.ndarray, np.ndarray]:
    """Rotation parts (n, 3, 3) that act on h as h R, and translations (n, 3), of all operations with centring."""
    operations = gemmi.SpaceGroup(space_group).operations()
    rotations, translations = [], []
    for operation in operations:
        rotations.append(np.asarray(operation.rot) // operation.DEN)
        translations.append(np.asarray(operation.tran) / operation.DEN)
    return np.asarray(rotations, dtype=np.int64), np.asarray(translations)


def classify(hkl: torch.Tensor, space_group: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Symmetry of (N, 3) integer indices: (unique key (N,) int64, Friedel mates alike; centric; epsilon; absent)."""
    rotations, translations = _operations(space_group)
    device = hkl.device
    key = torch.full((len(hkl),), -(2**62), dtype=torch.int64, device=device)
    centric = torch.zeros(len(hkl), dtype=torch.bool, device=device)
    absent = torch.zeros(len(hkl), dtype=torch.bool, device=device)
    epsilon = torch.zeros(len(hkl), dtype=torch.float32, device=device)
    own, friedel = _key(hkl), _key(-hkl)
    seen: set[bytes] = set()
    for rotation, translation in zip(rotations, translations, strict=True):
        image = _rotated(hkl, rotation)
        image_key = _key(image)
        phase = hkl.to(torch.float32) @ torch.as_tensor(translation, dtype=torch.float32, device=device)
        fixed = image_key == own
        absent |= fixed & ((phase - torch.round(phase)).abs() > 1e-3)
        if rotation.tobytes() in seen:
            continue  # a centring copy: same rotation, only its translation matters
        seen.add(rotation.tobytes())
        centric |= image_key == friedel
        epsilon += fixed
        key = torch.maximum(key, torch.maximum(image_key, _key(-image)))
    return key, centric, epsilon, absent


def _rotated(hkl: torch.Tensor, rotation: np.ndarray) -> torch.Tensor:
    """The product h R without integer matrix products (which torch lacks on CUDA)."""
    columns = []
    for j in range(3):
        column = torch.zeros_like(hkl[:, 0])
        for i in range(3):
            if rotation[i, j]:
                column = column + int(rotation[i, j]) * hkl[:, i]
        columns.append(column)
    return torch.stack(columns, dim=1)


def _key(hkl: torch.Tensor) -> torch.Tensor:
    """An integer that orders indices up to +-8191."""
    shifted = hkl + 8192
    return (shifted[:, 0] << 28) + (shifted[:, 1] << 14) + shifted[:, 2]


def _uniform(key: torch.Tensor, seed: int, stream: int) -> torch.Tensor:
    """Uniform (0, 1) numbers from a hash of integers (SplitMix64 finaliser: Steele et al., OOPSLA 2014), wrapping as int64 does."""
    start = (seed * 1_000_003 + stream * 7_919) * 0x632BE59BD9B4E019 % 2**63
    x = key + start
    x = (x ^ ((x >> 30) & (2**34 - 1))) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ ((x >> 27) & (2**37 - 1))) * (0x94D049BB133111EB - 2**64)
    x = x ^ ((x >> 31) & (2**33 - 1))
    return ((x & (2**24 - 1)).to(torch.float32) + 0.5) / 2**24


@lru_cache(maxsize=1)
def _group_table() -> tuple[tuple[str, ...], np.ndarray]:
    rare = [group.hm for group in gemmi.spacegroup_table() if group.is_sohncke() and group.is_reference_setting()]
    weights = {name: _RARE_SHARE * sum(COMMON_SPACE_GROUPS.values()) / len(rare) for name in rare}
    for name, weight in COMMON_SPACE_GROUPS.items():
        reference = gemmi.SpaceGroup(name).hm
        weights[reference] = weights.get(reference, 0.0) + weight
    total = np.asarray(list(weights.values()))
    return tuple(weights), total / total.sum()


def draw_crystal(rng: np.random.Generator) -> Crystal:
    """A macromolecular crystal: group by frequency, cell log-normal within its lattice system."""
    names, weights = _group_table()
    name = names[int(rng.choice(len(names), p=weights))]
    small = rng.random() < 0.08  # peptides, cofactors, small molecules as the sample
    lengths = rng.uniform(9.0, 32.0, size=3) if small else np.exp(rng.normal(np.log(75.0), 0.42, size=3)).clip(28.0, 420.0)
    cell = _obey(gemmi.SpaceGroup(name), lengths, rng.normal(100.0, 8.0), rng)
    pseudo: tuple[float, float, float] | None = None
    if rng.random() < 0.05:
        x, y, z = (float(half) for half in rng.choice([0.0, 0.5], size=3))
        pseudo = (x, y, z) if any((x, y, z)) else (0.0, 0.0, 0.5)
    return Crystal(
        space_group=name,
        cell=cell,
        seed=int(rng.integers(2**31)),
        b_factor_A2=float(rng.uniform(2.0, 12.0)) if small else float(np.exp(rng.uniform(np.log(6.0), np.log(75.0)))),
        anisotropy_A2=float(rng.exponential(15.0)) if rng.random() < 0.3 else 0.0,
        pseudo_translation=pseudo,
        pseudo_strength=float(rng.uniform(0.6, 0.98)) if pseudo is not None else 0.0,
    )


def draw_salt(rng: np.random.Generator) -> Crystal:
    """A salt crystal (phosphate, sulphate, chloride ...): cell edges of 4 to 14 A."""
    name = str(rng.choice(["P 1 21 1", "P 21 21 21", "P 43 21 2", "P 2 2 2", "F 4 3 2"]))
    cell = _obey(gemmi.SpaceGroup(name), rng.uniform(4.0, 14.0, size=3), rng.normal(98.0, 6.0), rng)
    return Crystal(space_group=name, cell=cell, seed=int(rng.integers(2**31)), b_factor_A2=float(rng.uniform(1.0, 4.0)), is_salt=True)


def _obey(group: gemmi.SpaceGroup, lengths: np.ndarray, beta: float, rng: np.random.Generator) -> Cell:
    """Cell that the lattice system allows."""
    a, b, c = (float(x) for x in lengths)
    beta = float(np.clip(beta, 90.0, 125.0))
    match group.crystal_system_str():
        case "triclinic":
            alpha, beta, gamma = (float(angle) for angle in rng.uniform(75.0, 105.0, size=3))
            return (a, b, c, alpha, beta, gamma)
        case "monoclinic":
            return (a, b, c, 90.0, beta, 90.0)
        case "orthorhombic":
            return (a, b, c, 90.0, 90.0, 90.0)
        case "tetragonal":
            return (a, a, c, 90.0, 90.0, 90.0)
        case "trigonal" | "hexagonal":
            if group.ext == "R":
                angle = float(rng.uniform(60.0, 110.0))
                return (a, a, a, angle, angle, angle)
            return (a, a, c, 90.0, 90.0, 120.0)
        case _:
            return (a, a, a, 90.0, 90.0, 90.0)
