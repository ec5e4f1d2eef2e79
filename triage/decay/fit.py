"""The fall-off of a few frames against that of the reference: ln y = ln(scale) - delta_B s^2/2 through what is detected in each shell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from triage.decay.shells import Floats, middle

_HELD = 3.0
"""Misfits beyond so many sigma count no more (Huber); below, the sums of few exponential intensities are skewed and must not be cut."""
_LARGEST_STEP = np.array([0.7, 10.0])
_SINGULAR = 1e-12
"""Share of the product of the diagonal that the determinant has where shells tell scale and B apart no more."""


@dataclass(frozen=True, slots=True)
class Shells:
    """What the fit needs of the usable shells; all (shells,)."""

    s2: Floats
    ratio: Floats
    """Detected intensity over the reference's."""
    faintness: Floats
    """Detection threshold of the reference over its mean intensity of a reflection."""
    faintness_now: Floats
    """The same with the threshold of now, which is at least as high."""
    now: Floats
    """Relative variance of the detected intensity were it undamaged; it grows as spots vanish."""
    then: Floats
    """Relative variance of the reference."""


@dataclass(frozen=True, slots=True)
class Fit:
    """One comparison."""

    delta_B: float
    """A^2"""
    sigma: float
    """Of now and reference together."""
    sigma_now: float
    """Of now alone: frames that are compared with one reference share the rest."""
    log_scale: float
    log_scale_sigma: float
    """Of now and reference together."""


def fit(shells: Shells, start: Fit | None = None) -> Fit | None:
    """Quasi-likelihood by Fisher scoring; None where next to nothing is left to fit.

    Wilson's acentric intensities of mean mu above a threshold t add up to (mu + t) exp(-t/mu) (Wilson, Acta Cryst. 2 (1949) 318). With
    x = t/mu of the reference and x' of now, the detected intensity falls by (y + x') exp(-x'/y) / ((1 + x) exp(-x)), the number of spots by
    exp(x - x'/y). `start` is an earlier fit of nearly the same frames.
    """
    x, x_now, ratio, fixed = shells.faintness, shells.faintness_now, shells.ratio, shells.then + 1e-4
    design = np.stack([np.ones_like(x), -shells.s2 / 2])
    found = np.array([math.log(max(middle(ratio), 1e-3)), 0.0] if start is None else [start.log_scale, start.delta_B])
    one_more = 1.0 + x
    for _ in range(25):
        y = np.exp(_held(found @ design, -6.0, 6.0))
        over = x_now / y
        rarer, above = over - x, y + x_now
        expected = above / one_more * np.exp(-np.minimum(rarer, 300.0))
        now = shells.now * np.exp(_held(rarer, -3.0, 20.0))
        sd = np.sqrt(now + fixed)
        misfit = _held((ratio / np.maximum(expected, 1e-12) - 1.0) / sd, -_HELD, _HELD)
        weighted = design * ((y / above + over) / sd)
        covariance = _inverse(weighted @ weighted.T)
        if covariance is None:
            return None
        step = _held(covariance @ (weighted @ misfit), -_LARGEST_STEP, _LARGEST_STEP)
        found = found + step
        if abs(step[1]) < 0.02:
            break
    else:
        return None
    excess = max(float(misfit @ misfit) / (len(x) - 2), 1.0)
    gain = covariance[1] @ (weighted / sd)  # d(delta_B)/d(relative error of a shell)
    sigma = math.sqrt(float(covariance[1, 1]) * excess)
    sigma_now = math.sqrt(float((gain * gain) @ (now + 5e-5)))
    log_scale_sigma = math.sqrt(float(covariance[0, 0]) * excess)
    values = float(found[1]), sigma, sigma_now, min(float(found[0]), 30.0), log_scale_sigma
    return Fit(*values) if all(math.isfinite(value) for value in values) else None


def _held(values: Floats, least: Floats | float, most: Floats | float) -> Floats:
    """`np.clip`, at a fraction of its cost for a dozen values."""
    held: Floats = np.minimum(np.maximum(values, least), most)
    return held


def _inverse(square: Floats) -> Floats | None:
    """Of a symmetric (2, 2); None where it is singular."""
    (a, b), (_, c) = square.tolist()
    determinant = a * c - b * b
    return np.array([[c, -b], [-b, a]]) / determinant if determinant > _SINGULAR * a * c else None
