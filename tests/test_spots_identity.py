"""The spots of version 2 to the last bit: digests recorded before the finder was made faster, on frames made of whole numbers alone."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pytest
from synthetic import run_of

from triage.core import Mask
from triage.spots import SPOT_FINDER_VERSION, DispersionFinder, as_table

SHAPE = (277, 310)  # not whole tiles
STAMP = np.array([[0, 1, 2, 1, 0], [1, 4, 7, 3, 1], [2, 8, 14, 6, 1], [1, 4, 6, 3, 0], [0, 1, 1, 0, 0]])


def drawn(seed: int, trials: int, of_256: int, faintest: int) -> npt.NDArray[np.int64]:
    """Binomial counts with 60 stamped spots; from raw bits, which no version of NumPy draws otherwise."""
    bits = np.random.PCG64(seed)
    raw = bits.random_raw(SHAPE[0] * SHAPE[1] * trials // 8 + 1).view(np.uint8)[: SHAPE[0] * SHAPE[1] * trials]
    counts = (raw.reshape(*SHAPE, trials) < of_256).sum(axis=-1)
    for k in range(60):
        slow, fast = int(bits.random_raw() % (SHAPE[0] - 5)), int(bits.random_raw() % (SHAPE[1] - 5))
        counts[slow : slow + 5, fast : fast + 5] += STAMP * (faintest + k * k // 8) // 8
    return counts


def gaps() -> Mask:
    mask: Mask = np.zeros(SHAPE, dtype=bool)
    mask[:, 100:112], mask[190:200], mask[7::31, 5::29] = True, True, True
    return mask


def digest(seed: int, trials: int, of_256: int, faintest: int, factor: int, dtype: str) -> str:
    mask = gaps()
    counts = np.where(mask, 60000, factor * drawn(seed, trials, of_256, faintest))
    table = as_table(DispersionFinder().find(counts.astype(dtype), run_of(mask=mask)))
    assert len(table) > 20
    return hashlib.sha256(table.astype("<f4").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
@pytest.mark.parametrize(
    ("of_256", "trials", "faintest", "factor", "expected"),
    [
        (2, 8, 4, 1, "fa264fd9ba339d0b"),
        (16, 16, 8, 1, "c8a17a3891242ecf"),
        (100, 56, 30, 1, "c0f04a429f1668ea"),
        (100, 56, 30, 40, "afbd5b86c310bc7a"),
    ],
    ids=["0.06", "1", "22", "22 at a gain of 40"],
)
def test_spots_are_those_that_were_recorded(of_256: int, trials: int, faintest: int, factor: int, dtype: str, expected: str) -> None:
    assert SPOT_FINDER_VERSION == 2
    assert digest(7 + trials, trials, of_256, faintest, factor, dtype) == expected


@pytest.mark.parametrize(
    ("dtype", "expected"), [("uint16", "42a194417f71863d"), ("int32", "5b55976a8922509d"), ("float32", "5b55976a8922509d")]
)
def test_spots_on_counts_beyond_16_bits_are_those_that_were_recorded(dtype: str, expected: str) -> None:
    """At a gain of 300; what does not fit uint16 begins again at zero."""
    assert digest(63, 56, 100, 60, 300, dtype) == expected
