"""How likely it is that a lattice explains so many spots by chance.

A spot that has nothing to do with a lattice of cell volume V lies within the tolerance of one of its points with a probability of at most
p = V v, where v is the tolerance's volume in reciprocal space: a cylinder along the ray, of CUT standard deviations in radius and in half
length. Of n such spots k or more do with at most the binomial tail of the mean p (for k above n p + 1 the tail of unequal p lies below it:
Hoeffding, Ann. Math. Stat. 27 (1956) 713). The number of lattices that were tried multiplies it (Bonferroni).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numba
import numpy as np

from triage.indexing.fit import DOMAIN_PER_A
from triage.indexing.kernels import CUT, inverse3, log10_tail
from triage.indexing.observed import Bools, Observed

if TYPE_CHECKING:
    from triage.indexing.search import Trial

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@_jit
def on_a_point(a, spread, per_px_A, s, use):  # type: ignore[no-untyped-def]
    """The probability that a spot in `use` (n,) lies on a point of A (3, 3) by chance: at most this, on average."""
    volume = 1.0 / abs(inverse3(a, np.empty((3, 3))))
    total, n = 0.0, 0
    for i in range(len(s)):
        if not use[i]:
            continue
        across, along = CUT * spread[0] * per_px_A[i], CUT * math.sqrt(DOMAIN_PER_A**2 + (spread[1] * s[i]) ** 2)
        total += min(volume * math.pi * across**2 * 2.0 * along, 1.0)
        n += 1
    return total / n


@_jit
def log10_chance(k, n, p):  # type: ignore[no-untyped-def]
    """log10 of the binomial tail, 0 where the bound does not hold."""
    return log10_tail(k, n, p) if k > n * p + 1 else 0.0


def probability(observed: Observed, use: Bools, trial: Trial) -> float:
    """That a spot in `use` lies on a point of `trial` by chance: at most this, on average."""
    return float(on_a_point(trial.a, trial.spread, observed.per_px_A, observed.s, use))


def chance(observed: Observed, use: Bools, trial: Trial) -> float:
    """log10 of the probability that `trial` has so many of the spots in `use` by chance."""
    n, k = int(use.sum()), trial.n
    return float(log10_chance(k, n, probability(observed, use, trial))) if k else 0.0


def chance_of_more(observed: Observed, left: Bools, larger: Trial, smaller: Trial) -> float:
    """log10 of the probability that the points which `larger` has and `smaller` lacks have so many of the spots `left` by chance."""
    n = int(left.sum())
    if n == 0:
        return 0.0
    p = max(probability(observed, left, larger) - probability(observed, left, smaller), 0.0)
    return float(log10_chance(int((larger.inside & left).sum()), n, p))
