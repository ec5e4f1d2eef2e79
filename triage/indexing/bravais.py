"""From a primitive lattice to its Bravais type and conventional cell.

The rotations that map a reduced cell onto itself within an obliquity are gemmi's (after Le Page, J. Appl. Cryst. 15 (1982) 255); their
number is the crystal system's, their axes are the conventional cell's (International Tables A, 2.1). Axes are chosen as is usual: P, I and
F orthorhombic a <= b <= c, C-centred a <= b, monoclinic b unique and beta not acute with C centring, rhombohedral in the obverse
hexagonal setting.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import gemmi
import numpy as np
import numpy.typing as npt

from triage.core import Cell
from triage.indexing.observed import Floats

Integers = npt.NDArray[np.int64]

SYSTEMS = {1: "a", 2: "m", 4: "o", 6: "h", 8: "t", 12: "h", 24: "c"}
"""Letter of the crystal family by the number of rotations of the lattice."""
_LEAST_SKEW = 1e-4  # of three vectors: their volume over the product of their lengths
_CENTRED = {1: "P", 2: "I", 3: "R", 4: "F"}  # by the conventional cell's volume over the primitive one's
_SMALL = np.array(list(itertools.product(range(-2, 3), repeat=3)), dtype=np.int64)  # vectors of a reduced basis: axes are among them
_SHORTEST_ACROSS = 10  # vectors perpendicular to a two-fold, of which the axes are chosen
_HALVES: dict[tuple[int, ...], str] = {(1, 1, 0): "C", (0, 1, 1): "A", (1, 0, 1): "B", (1, 1, 1): "I"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setting:
    """How a primitive lattice is described with a certain symmetry."""

    bravais: str
    """Pearson letters."""
    change: Integers
    """(3, 3): rows are the conventional axes in terms of the primitive ones."""
    cell: Cell
    """Conventional, as the symmetry demands it."""
    stated: Cell | None = None
    """The same of a known cell, which refinement is held to."""

    @property
    def reciprocal(self) -> Floats:
        """B (3, 3) of the conventional cell."""
        return busing_levy(self.cell)

    def held_to(self, direct: Floats) -> Setting:
        """The same, of a lattice that is known to have the primitive axes `direct` (3, 3; rows, A), or nearly."""
        return replace(self, stated=tidy(cell_of(self.change @ direct), self.bravais))

    def strains(self) -> Floats:
        """(m, 3, 3): the symmetric strains that the symmetry allows, in the frame of B; not to be written to."""
        return _strains(self.bravais[0])


@functools.cache
def _strains(family: str) -> Floats:
    """As `Setting.strains`, by the letter of the crystal family."""
    x, y, z = (np.diag(row) for row in np.eye(3))
    off = [_symmetric(i, j) for i, j in ((0, 2), (0, 1), (1, 2))]
    match family:
        case "a":
            ways = np.array([x, y, z, *off])
        case "m":
            ways = np.array([x, y, z, off[0]])
        case "o":
            ways = np.array([x, y, z])
        case "c":
            ways = np.array([x + y + z])
        case _:
            ways = np.array([x + y, z])
    ways.setflags(write=False)
    return ways


def busing_levy(cell: Cell) -> Floats:
    """B (3, 3), columns a*, b*, c* in 1/A, a along x (Busing & Levy, Acta Cryst. 22 (1967) 457; with a and a* as gemmi has them)."""
    return np.asarray(gemmi.UnitCell(*cell).frac.mat.tolist(), dtype=np.float64).T


def cell_of(direct: Floats) -> Cell:
    """Lengths and angles of three vectors (3, 3), rows, in A."""
    x, y, z = direct.tolist()
    a, b, c = math.hypot(*x), math.hypot(*y), math.hypot(*z)
    alpha, beta, gamma = (
        math.degrees(math.acos(min(max((u[0] * v[0] + u[1] * v[1] + u[2] * v[2]) / (m * n), -1.0), 1.0)))
        for u, v, m, n in ((y, z, b, c), (x, z, a, c), (x, y, a, b))
    )
    return (a, b, c, alpha, beta, gamma)


def is_flat(direct: Floats) -> bool:
    """Whether three vectors (3, 3; rows) lie in a plane, or nearly so: they span no cell."""
    return bool(abs(np.linalg.det(direct)) < _LEAST_SKEW * np.prod(np.linalg.norm(direct, axis=1)))


def niggli(direct: Floats) -> Integers:
    """(3, 3): rows are the axes of the Niggli cell in terms of those of `direct` (3, 3; rows); right-handed."""
    gruber = gemmi.GruberVector(gemmi.UnitCell(*cell_of(direct)), "P", True)
    gruber.niggli_reduce()
    change = np.asarray(gruber.change_of_basis.rot, dtype=np.int64).T // gemmi.Op.DEN
    if np.linalg.det(change @ direct) < 0:
        change = -change
    return change


def settings(direct: Floats, max_obliquity_deg: float) -> Iterator[Setting]:
    """Descriptions of a primitive lattice (3, 3; rows, A), the most symmetrical first; the last one is triclinic."""
    to_reduced = niggli(direct)
    reduced = to_reduced @ direct
    metric = reduced @ reduced.T
    for rotations in _groups(gemmi.UnitCell(*cell_of(reduced)), max_obliquity_deg):
        symmetric = np.mean([w.T @ metric @ w for w in rotations], axis=0)
        bravais, change = _conventional(rotations, symmetric)
        if np.linalg.det(change) < 0:
            change = -change
        exact = np.linalg.cholesky(symmetric)  # rows: axes of the same metric
        yield Setting(bravais=bravais, change=change @ to_reduced, cell=tidy(cell_of(change @ exact), bravais))


def _groups(cell: gemmi.UnitCell, max_obliquity_deg: float) -> list[list[Integers]]:
    """Groups of rotations (3, 3) of coordinates that the two-folds of a reduced cell, one or two at a time, make; the largest first."""
    twofolds = [
        (obliquity, np.asarray(op.rot, dtype=np.int64) // op.DEN) for op, obliquity in gemmi.find_lattice_2fold_ops(cell, max_obliquity_deg)
    ]
    twofolds.sort(key=lambda pair: pair[0])
    groups: dict[frozenset[bytes], list[Integers]] = {}
    for chosen in [(), *((w,) for _, w in twofolds), *itertools.combinations((w for _, w in twofolds), 2), tuple(w for _, w in twofolds)]:
        rotations = _closed(chosen)
        if len(rotations) in SYSTEMS:
            groups.setdefault(frozenset(w.tobytes() for w in rotations), rotations)
    return sorted(groups.values(), key=len, reverse=True)


def _closed(generators: tuple[Integers, ...]) -> list[Integers]:
    """All products of rotations; none where they are too many to be a lattice's."""
    found = {np.eye(3, dtype=np.int64).tobytes(): np.eye(3, dtype=np.int64)}
    fresh = list(found.values())
    while fresh and len(found) <= max(SYSTEMS):
        products = [generator @ w for w in fresh for generator in generators]
        fresh = []
        for product in products:
            if product.tobytes() not in found:
                found[product.tobytes()] = product
                fresh.append(product)
    return [] if fresh else list(found.values())


def _order(rotation: Integers) -> int:
    return {-1: 2, 0: 3, 1: 4, 2: 6, 3: 1}[int(np.trace(rotation))]


def _sum_of_powers(rotation: Integers) -> Integers:
    """Projects onto the axis, times the order."""
    total, power = np.zeros((3, 3), dtype=np.int64), np.eye(3, dtype=np.int64)
    for _ in range(_order(rotation)):
        power = power @ rotation
        total += power
    return total


def _axis(rotation: Integers) -> Integers:
    """The shortest lattice vector along a rotation's axis."""
    columns = _sum_of_powers(rotation).T
    longest = columns[np.argmax(np.abs(columns).sum(axis=1))]
    return longest // np.gcd.reduce(longest)


def _across(rotation: Integers, metric: Floats) -> Integers:
    """Lattice vectors (n, 3) perpendicular to a rotation's axis, shortest first."""
    inside = _SMALL[((_SMALL @ _sum_of_powers(rotation).T) == 0).all(axis=1) & _SMALL.any(axis=1)]
    lengths = np.einsum("ni,ij,nj->n", inside, metric, inside)
    return inside[np.argsort(lengths, kind="stable")]


def _conventional(rotations: list[Integers], metric: Floats) -> tuple[str, Integers]:
    """Bravais type and the conventional axes (3, 3; rows) of the lattice with these rotations and this (symmetrical) metric."""
    by_order: dict[int, list[Integers]] = {}
    for rotation in rotations:
        by_order.setdefault(_order(rotation), []).append(rotation)
    match len(rotations):
        case 1:
            return "aP", np.eye(3, dtype=np.int64)
        case 2:
            return _monoclinic(by_order[2][0], metric)
        case 4:
            return _orthorhombic([_axis(rotation) for rotation in by_order[2]], metric)
        case 24:
            axes = np.unique([_positive(_axis(rotation)) for rotation in by_order[4]], axis=0)
            return "c" + _centred(axes), axes
        case number:
            main = by_order[{6: 3, 8: 4, 12: 6}[number]][0]
            third = main if number != 12 else main @ main
            a = _across(main, metric)[0]
            axes = np.array([a, third @ a, _axis(main)])
            if np.linalg.det(axes) < 0:
                axes[2] = -axes[2]
            return SYSTEMS[number] + _centred(axes), _obverse(axes) if number == 6 else axes


def _positive(axis: Integers) -> Integers:
    """Of a vector and its opposite always the same one."""
    first = axis[np.flatnonzero(axis)[0]]
    return axis if first > 0 else -axis


def _centred(axes: Integers) -> str:
    return _CENTRED[round(abs(float(np.linalg.det(axes))))]


def _halves(axes: Integers) -> str:
    """Which faces or body of a doubly primitive cell (3, 3; rows) is centred."""
    fractional = np.linalg.inv(axes)  # rows: primitive vectors in terms of the axes
    doubled = np.rint(2.0 * fractional).astype(np.int64) % 2
    return _HALVES[tuple(int(x) for x in next(row for row in doubled if row.any()))]


def _monoclinic(rotation: Integers, metric: Floats) -> tuple[str, Integers]:
    b, inside = _axis(rotation), _across(rotation, metric)
    inside = inside[:_SHORTEST_ACROSS]
    lengths = np.einsum("ni,ij,nj->n", inside, metric, inside)
    i, j = np.tril_indices(len(inside), -1)
    volumes = np.abs(np.cross(inside[j], inside[i]) @ b)  # of j, b and i over that of the primitive cell
    pairs = np.lexsort((j, i, lengths[i] + lengths[j]))
    volume = volumes[volumes > 0].min()
    for k in pairs[volumes[pairs] == volume]:
        for a, c in ((inside[j[k]], inside[i[k]]), (inside[i[k]], inside[j[k]])):
            axes = np.array([a, b, c if a @ metric @ c <= 0 else -c])
            if volume == 1:
                return "mP", axes
            if _halves(axes) == "C":
                return "mC", axes
    return "aP", np.eye(3, dtype=np.int64)


def _orthorhombic(found: list[Integers], metric: Floats) -> tuple[str, Integers]:
    axes = np.array(sorted(found, key=lambda axis: float(axis @ metric @ axis)))
    if round(abs(float(np.linalg.det(axes)))) == 2 and (face := _halves(axes)) != "I":
        order = {"C": [0, 1, 2], "B": [0, 2, 1], "A": [1, 2, 0]}[face]
        return "oC", axes[order]
    return "o" + _centred(axes), axes


def _obverse(axes: Integers) -> Integers:
    """Hexagonal axes of a rhombohedral lattice, turned by 60 deg where they are reverse: (2/3, 1/3, 1/3) must be a lattice vector."""
    vector = np.array([2.0, 1.0, 1.0]) / 3.0 @ axes
    if np.abs(vector - np.rint(vector)).max() < 1e-6:
        return axes
    return np.array([-axes[0], -axes[1], axes[2]])


def tidy(cell: Cell, bravais: str) -> Cell:
    """The cell with its symmetry exact to the last digit."""
    a, b, c, _, beta, _ = cell
    match bravais[0]:
        case "a":
            return cell
        case "m":
            return (a, b, c, 90.0, beta, 90.0)
        case "o":
            return (a, b, c, 90.0, 90.0, 90.0)
        case "t":
            return (0.5 * (a + b), 0.5 * (a + b), c, 90.0, 90.0, 90.0)
        case "h":
            return (0.5 * (a + b), 0.5 * (a + b), c, 90.0, 90.0, 120.0)
        case _:
            mean = (a + b + c) / 3.0
            return (mean, mean, mean, 90.0, 90.0, 90.0)


def _symmetric(i: int, j: int) -> Floats:
    matrix = np.zeros((3, 3))
    matrix[i, j] = matrix[j, i] = 1.0
    return matrix
