"""How likely it is that a lattice explains so many spots by chance.

A spot that has nothing to do with a lattice of cell volume V lies within the tolerance of one of its points with a probability of at most
p = V v, where v is the tolerance's volume in reciprocal space: a cylinder along the ray, of CUT standard deviations in radius and in half
length. Of n such spots k or more do with at most the binomial tail of the mean p (for k above n p + 1 the tail of unequal p lies below it:
Hoeffding, Ann. Math. Stat. 27 (1956) 713). The number of lattices that were tried multiplies it (Bonferroni).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from triage.indexing.fit import DOMAIN_PER_A
from triage.indexing.kernels import CUT, log10_tail
from triage.indexing.observed import Bools, Observed

if TYPE_CHECKING:
    from triage.indexing.search import Trial


def probability(observed: Observed, use: Bools, trial: Trial) -> float:
    """That a spot in `use` lies on a point of `trial` by chance: at most this, on average."""
    volume = 1.0 / abs(float(np.linalg.det(trial.a)))
    across = CUT * trial.spread[0] * observed.per_px_A[use]
    along = CUT * np.sqrt(DOMAIN_PER_A**2 + (trial.spread[1] * observed.s[use]) ** 2)
    return float(np.minimum(volume * np.pi * across**2 * 2.0 * along, 1.0).mean())


def chance(observed: Observed, use: Bools, trial: Trial) -> float:
    """log10 of the probability that `trial` has so many of the spots in `use` by chance."""
    n, k = int(use.sum()), trial.n
    return tail(k, n, probability(observed, use, trial)) if k else 0.0


def chance_of_more(observed: Observed, left: Bools, larger: Trial, smaller: Trial) -> float:
    """log10 of the probability that the points which `larger` has and `smaller` lacks have so many of the spots `left` by chance."""
    n = int(left.sum())
    if n == 0:
        return 0.0
    p = max(probability(observed, left, larger) - probability(observed, left, smaller), 0.0)
    return tail(int((larger.inside & left).sum()), n, p)


def tail(k: int, n: int, p: float) -> float:
    """log10 of the binomial tail, 0 where the bound does not hold."""
    return float(log10_tail(k, n, p)) if k > n * p + 1 else 0.0
