"""How often an undamaged run shows so high a probability of damage: measured on simulated training runs (docs/decay.md)."""

from __future__ import annotations

import math

import numpy as np

from triage.decay.fusion import probability_of, told

ALARMS_PER_1000: tuple[tuple[float, float], ...] = tuple((float(level), float(rate)) for level, rate in told()["alarms"])
"""(logit of the probability, alarms per 1,000 undamaged frames): what a flag raised from this level on costs."""


def raise_at(alarms_per_1000: float) -> float:
    """The probability from which a flag gives so many alarms per 1,000 undamaged frames; rates off the table are taken to its ends."""
    level, rate = np.array(ALARMS_PER_1000).T
    wanted = float(np.interp(-math.log(alarms_per_1000), -np.log(rate), level))
    return round(probability_of(wanted), 4)
