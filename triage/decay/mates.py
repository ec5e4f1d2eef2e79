"""The same reflection measured again: what symmetry mates, and reflections met twice, say of the growth of B. Bounded memory.

Of two measurements of one intensity the logarithms differ by what scale and B have done between them, and by some per cent of noise; of two
different reflections they differ by Wilson's distribution besides, which is a hundred times the variance. The crystal's symmetry is not
taken from the lattice, which may have more: each rotation of the lattice is believed once the intensities agree (Evans, Acta Cryst. D62
(2006) 72).

Each family of equivalent reflections has an intensity of its own, each stretch of the run a scale and a B: a linear model, from which
the intensities are eliminated. B is then asked whether it has grown from some stretch on (a generalised likelihood ratio, one-sided).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import gemmi
import numpy as np

from triage.decay.names import Bools, Passages, packed
from triage.decay.shells import Floats, Ints, middle

MOST = 6000
"""Measurements that are kept: when there are more, every second family is forgotten, and not taken again."""
STRETCHES = 8
_LOOKED_ANEW = 1.5
"""Growth of the number of measurements after which symmetry and rocking curve are looked at again."""
_LEAST_PAIRED = 24
"""Measurements of families met more than once, before anything is said."""
_RATES_DEG = (0.02, 0.035, 0.06, 0.1, 0.17, 0.3, 0.5)
"""Widths of the rocking curve that are tried: the one under which mates agree best is taken."""
_AGREE, _AGREE_NOISE, _LEAST_AGREEING = 0.5, 2.6, 12
"""Correlation of logarithms from which a rotation is believed; that of chance, in standard deviations; pairs, at least."""
_LEAST_NOISE = 0.05
"""Standard deviation of a logarithm beyond counting: what frames cut of a rocking curve."""
_OUTLIER = 3.0
_FLOOR_A2 = 0.3
"""Standard deviation of B of a stretch beyond what is counted."""
_BRIGHTER_A2, _FAINTER_A2 = 1.5, 1.0
"""Of B for each e-fold of scale: near the threshold only what noise has lifted is seen (training runs)."""
_PRIOR = np.diag([1e-4] * STRETCHES + [1e-6] * STRETCHES)
"""Inverse covariance of scales and B: the constants that nothing knows."""
_RAMPS = np.array([np.maximum(np.arange(1.0, STRETCHES) - start, 0.0) for start in range(STRETCHES - 2)])
"""Growth of B from each stretch on, against the first stretch (STRETCHES - 2, STRETCHES - 1)."""
_GROUPS = {"a": "P 1", "m": "P 1 2 1", "o": "P 2 2 2", "t": "P 4 2 2", "h": "P 6 2 2", "c": "P 4 3 2"}


@dataclass(frozen=True, slots=True)
class Regrowth:
    """What reflections measured again say."""

    z: float
    """Of the growth of B from the likeliest beginning on, in standard deviations."""
    delta_B: float
    """A^2, of the last stretch against the first."""
    sigma: float
    even: float
    """A^2, of the last stretch against the first if B has grown evenly all along."""
    even_sigma: float
    pairs: int
    """Measurements of reflections that were measured more than once."""


@lru_cache(maxsize=16)
def rotations(bravais: str) -> Ints:
    """(n, 3, 3) of the lattice's own symmetry, identity first; they act on indices as h R."""
    operations = gemmi.SpaceGroup(_GROUPS[bravais[0]]).operations().sym_ops
    return np.array([np.asarray(operation.rot) // operation.DEN for operation in operations], dtype=np.int64)


def family(hkl: Ints, group: Ints) -> Ints:
    """One integer (n,) for all that the group (m, 3, 3) and Friedel's law make equal."""
    return np.asarray(_images(hkl, group).max(axis=0), dtype=np.int64)


def _images(hkl: Ints, group: Ints) -> Floats:
    """(m, n) `packed` indices, without sign, of what each rotation (m, 3, 3) makes of (n, 3): packing is linear, and exact in floats."""
    packing = packed(group.reshape(-1, 3)).reshape(-1, 3).astype(np.float64)
    images = packing @ hkl.T.astype(np.float64)
    return np.abs(images, out=images)


@lru_cache(maxsize=16)
def _one_way(bravais: str) -> Ints:
    """(n, 3, 3) of `rotations` without the identity, and one of each two that undo one another: both bring the same pairs together."""
    found: list[Ints] = []
    for rotation in rotations(bravais)[1:]:
        if not any((rotation @ each == np.eye(3)).all() for each in found):
            found.append(rotation)
    return np.array(found).reshape(-1, 3, 3)


class Mates:
    """Measurements of a run so far."""

    def __init__(self, bravais: str) -> None:
        self.bravais = bravais
        self._rotations, self._one_way = rotations(bravais), _one_way(bravais)
        self.group = self._rotations[:1]
        """Rotations (n, 3, 3) that are believed."""
        self._kept = Passages(np.zeros((0, 3), dtype=np.int64), *(np.zeros(0) for _ in range(5)))
        self._family = np.zeros(0, dtype=np.int64)
        self._mask = 0
        self._looked_at = 0
        self._rate = math.radians(_RATES_DEG[2])

    def __len__(self) -> int:
        return len(self._family)

    @property
    def candidates(self) -> Ints:
        """Rotations (n, 3, 3) of the lattice, believed or not."""
        return self._rotations

    def add(self, passages: Passages) -> None:
        """Takes reflections that are through."""
        if self._mask:
            passages = passages.take(self._is_kept(passages))
        self._kept = Passages._make(np.concatenate(each) for each in zip(self._kept, passages, strict=True))
        self._family = np.concatenate([self._family, family(passages.hkl, self.group)])
        while len(self) > MOST:
            self._mask = 2 * self._mask + 1
            some = self._is_kept(self._kept)
            self._kept, self._family = self._kept.take(some), self._family[some]

    def result(self) -> Regrowth | None:
        """None while too few reflections were met again."""
        if len(self) > _LOOKED_ANEW * self._looked_at and len(self) >= _LEAST_PAIRED:
            self._looked_at = len(self)
            self.group = _agreeing(self._kept, self._one_way)
            self._family = family(self._kept.hkl, self.group)
            self._rate = _rocking(self._kept, self._family)
        again, of = _met_again(self._family)
        if len(again) < _LEAST_PAIRED:
            return None
        first, last = float(self._kept.frame.min()), float(self._kept.frame.max())
        some = self._kept.take(again)
        stretch = np.minimum(((some.frame - first) * STRETCHES / (last - first + 1.0)).astype(np.int64), STRETCHES - 1)
        y = _corrected(some, self._rate)
        y -= (np.bincount(of, y) / np.bincount(of))[of]
        return _growth(_Measured(of, stretch, y, some.variance, some.half_s2))

    def _is_kept(self, passages: Passages) -> Bools:
        """By a hash of the family under the lattice's whole symmetry, so that no family is torn apart."""
        return np.asarray(((family(passages.hkl, self._rotations) * 0x9E3779B1) >> 20) & self._mask == 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """All of length n."""

    family: Ints
    stretch: Ints
    log_intensity: Floats
    """Against the mean of its family: sums of large numbers would lose what the constants, which nothing knows, magnify."""
    variance: Floats
    half_s2: Floats


def _met_again(families: Ints) -> tuple[Ints, Ints]:
    """Which measurements (n,) are of families that have more than one, family by family, and which of these each is of, from nought."""
    order = families.argsort(kind="stable")
    ordered = families[order]
    as_before = ordered[1:] == ordered[:-1]
    begins = np.append(as_before, False)
    begins[1:] &= ~as_before
    again = np.flatnonzero(begins | np.append(False, as_before))
    return order[again], begins[again].cumsum() - 1


def _corrected(passages: Passages, rate: float | Floats) -> Floats:
    """Logarithm of the whole intensity, for a rocking curve of this standard deviation in rad: erf, to 4e-4, as a hyperbolic tangent."""
    half = passages.sweep / (2.0 * math.sqrt(2.0) * rate)
    return np.asarray(passages.log_intensity - np.log(np.tanh(half * (1.1284 + 0.1009 * half**2))))


def _rocking(passages: Passages, names: Ints) -> float:
    """The width (rad) under which mates agree best."""
    again, of = _met_again(names)
    if not len(again):
        return math.radians(_RATES_DEG[2])
    n = np.bincount(of)
    y = _corrected(passages.take(again), np.radians(_RATES_DEG)[:, None])
    apart = np.abs(y - (np.add.reduceat(y, np.append(0, n[:-1].cumsum()), axis=1) / n)[:, of]) * np.sqrt(n / (n - 1.0))[of]
    return math.radians(_RATES_DEG[int(np.argmin([middle(each) for each in apart]))])


def _agreeing(passages: Passages, candidates: Ints) -> Ints:
    """The identity, the rotations under which intensities agree, and their products."""
    identity = np.eye(3, dtype=np.int64)
    keys, of = np.unique(_images(passages.hkl, identity[None])[0], return_inverse=True)
    number = np.bincount(of)
    y = np.bincount(of, passages.log_intensity) / number
    half_s2 = np.bincount(of, passages.half_s2) / number
    hkl = np.zeros((len(keys), 3), dtype=np.int64)
    hkl[of] = passages.hkl
    y = _levelled(y, half_s2)
    images = _images(hkl, candidates)
    at = np.minimum(keys.searchsorted(images), len(keys) - 1)
    pairs = (keys[at] == images) & (images != keys)
    found = [identity]
    for rotation, pair, image in zip(candidates, pairs, at, strict=True):
        some = np.flatnonzero(pair)
        n = len(some)
        if n >= _LEAST_AGREEING and _correlation(y[some], y[image[some]]) > max(_AGREE, _AGREE_NOISE / math.sqrt(n)):
            found.append(rotation)
    return _closed(found)


def _levelled(y: Floats, half_s2: Floats) -> Floats:
    """Less a straight line in s^2."""
    y, along = y - y.sum() / len(y), half_s2 - half_s2.sum() / len(y)
    return np.asarray(y - along * (float(along @ y) / max(float(along @ along), 1e-30)))


def _correlation(one: Floats, other: Floats) -> float:
    a, b = one - one.sum() / len(one), other - other.sum() / len(other)
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size > 0 else 0.0


def _closed(found: list[Ints]) -> Ints:
    """The group that these rotations generate."""
    known = {rotation.tobytes(): rotation for rotation in found}
    new = found[1:]
    while new:
        products = np.array(new)[:, None] @ np.array(found[1:])
        new = []
        for product in products.reshape(-1, 3, 3):
            name = product.tobytes()
            if name not in known:
                known[name] = product
                new.append(product)
    return np.array(list(known.values()))


def _growth(measured: _Measured) -> Regrowth | None:
    """Robust least squares with a scale and a B for each stretch, and the test of growth."""
    of, t, y, h = measured.family, measured.stretch, measured.log_intensity, measured.half_s2
    n_families, counted = int(of[-1]) + 1, middle(measured.variance)
    weight = 1.0 / (measured.variance + 0.15**2)
    solution, _ = _solved(measured, weight)
    total = np.bincount(of, weight, n_families)
    left = y - (solution[t] - h * solution[STRETCHES + t])
    left = left - (np.bincount(of, weight * left, n_families) / total)[of]
    left = np.abs(left) / np.sqrt(np.maximum(1.0 - weight / total[of], 1e-3))
    noise = max((1.4826 * middle(left)) ** 2 - counted, _LEAST_NOISE**2)
    variance = measured.variance + noise
    bound = _OUTLIER * np.sqrt(variance)
    return _tested(*_solved(measured, bound / np.maximum(left, bound) / variance), len(y))


def _solved(measured: _Measured, weight: Floats) -> tuple[Floats, Floats]:
    """Scale and B of each stretch (2 STRETCHES,) and their covariance; each family's own intensity is eliminated."""
    of, t, y = measured.family, measured.stretch, measured.log_intensity
    n_families = int(of[-1]) + 1
    lever = np.zeros(n_families)  # what a family's logarithm goes by with B
    lever[of] = -measured.half_s2
    weighted = weight * y
    cells: Floats = np.bincount(t * n_families + of, weight, STRETCHES * n_families).astype(np.float64).reshape(STRETCHES, -1)
    rows, total = np.concatenate([cells, cells * lever]), cells.sum(axis=0)
    normal = _PRIOR - (rows / total) @ rows.T
    own = np.einsum("jsks->jks", normal.reshape(2, STRETCHES, 2, STRETCHES))  # a view: each stretch's scale and B with one another
    own += (np.array([np.ones(n_families), lever, lever * lever]) @ cells.T)[[[0, 1], [1, 2]]]
    right = np.append(np.bincount(t, weighted, STRETCHES), np.bincount(t, weighted * lever[of], STRETCHES))
    covariance = np.linalg.inv(normal)
    return covariance @ (right - rows @ (np.bincount(of, weighted, n_families) / total)), covariance


def _tested(solution: Floats, covariance: Floats, n: int) -> Regrowth | None:
    scale, b = solution[:STRETCHES] - solution[0], solution[STRETCHES:] - solution[STRETCHES]
    floor = _FLOOR_A2**2 + (_BRIGHTER_A2 * np.maximum(scale, 0.0)) ** 2 + (_FAINTER_A2 * np.minimum(scale, 0.0)) ** 2
    known = covariance[STRETCHES:, STRETCHES:] + np.diag(floor)
    spread = known[1:, 1:] - known[1:, :1] - known[:1, 1:] + known[0, 0]  # of differences from the first
    along = _RAMPS @ np.linalg.inv(spread)
    size = (along * _RAMPS).sum(axis=1)
    z = (along @ b[1:]) / np.sqrt(size)
    if not np.isfinite(z).all():
        return None
    sigma, even_sigma = math.sqrt(float(spread[-1, -1])), float(_RAMPS[0, -1] / math.sqrt(size[0]))
    return Regrowth(z=float(z.max()), delta_B=float(b[-1]), sigma=sigma, even=float(z[0]) * even_sigma, even_sigma=even_sigma, pairs=n)
