"""What a growth of z standard deviations is worth: its probability, and how often an undamaged run shows as much.

Both were measured on simulated runs of the training split by `python -m training.decay calibrate` (docs/decay.md).
"""

from __future__ import annotations

import math

import numpy as np

SLOPE, MIDDLE_Z = 1.0, 1.8
"""Of the logistic function of z that gives the probability that the outer shell has lost more than 15 %."""
ALARMS_PER_1000 = ((1.6, 2.2), (2.0, 1.5), (2.4, 1.2), (2.8, 0.7), (3.2, 0.35), (3.6, 0.17), (4.0, 0.1), (5.0, 0.026))
"""(z, alarms per 1,000 undamaged frames): what a flag raised from this z on costs. The last two go on as exp(-1.35 z) does."""


def probability_of(z: float) -> float:
    """That the crystal is being damaged, given the growth of its B in standard deviations."""
    return 1.0 / (1.0 + math.exp(-SLOPE * (min(max(z, -20.0), 40.0) - MIDDLE_Z)))


def raise_at(alarms_per_1000: float) -> float:
    """The probability from which a flag gives so many alarms per 1,000 undamaged frames; rates off the table are taken to its ends."""
    z, rate = np.array(ALARMS_PER_1000).T
    wanted = float(np.interp(-math.log(alarms_per_1000), -np.log(rate), z))
    return round(probability_of(wanted), 4)
