"""Which frames are told from which: the strata that results are reported by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.dataset import HELD_OUT_DETECTORS
from training.evaluation.measures import LEAST_FRAMES, Bools
from triage.core import NON_DIFFRACTION_KINDS

Labels = npt.NDArray[Any]

LEAST_RATIO = 0.1
LEAST_SPLIT_DEG = 0.6
SMALL_SPLIT_DEG = 2.0
RANDOM_DEG = 8.0
WEAK_SPOTS = (8, 25)
SEPARATIONS_DEG = ((0.1, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, RANDOM_DEG))
RATIOS = ((0.0, 0.03), (0.03, 0.1), (0.1, 0.3), (0.3, 1.0))
SPOTS = (WEAK_SPOTS, (25, 80), (80, 250), (250, None))
SEPARABLE_SPOTS = ((8, 25), (25, 80), (80, 250), (250, None))
BACKGROUNDS = ((0.0, 0.1), (0.1, 1.0), (1.0, 10.0), (10.0, None))

TEXT_FIELDS = ("sample", "meant")
"""Label fields of which every value is a stratum of its own."""
WANTED = {"small molecules": "small_molecule", "translational pseudo-symmetry": "pseudo", "harmonics": "harmonic", "long cells": "long"}
"""Strata that a complete set of frames has, by a word of their name."""

HELD_OUT, SEEN = "held-out detectors", "seen detectors"
ALL = "all"
REACH_MULTI = "second lattice visible and separable, ratio >= 0.1, split >= 0.6 deg"
REACH_SPLIT = "of these, splits 0.6-2 deg"
REACH_WEAK = "against weak frames (8-25 visible spots)"


@dataclass(frozen=True, slots=True, eq=False)
class Stratum:
    """Frames to be called, and frames not to be, as masks (n,)."""

    name: str
    positive: Bools
    negative: Bools
    threshold_of_all: bool = False
    """Whether its rates at the threshold of all frames are of interest: its negatives are its own."""

    def within(self, chosen: Bools, suffix: str) -> Stratum:
        """The chosen frames of both sides."""
        return Stratum(f"{self.name}, {suffix}", self.positive & chosen, self.negative & chosen)


def multi_lattice(labels: Labels) -> list[Stratum]:
    """Several lattices against one. What only a second lattice has (separation, ratio) divides the frames with several alone."""
    positive, negative = labels["n_lattices"] >= 2, labels["n_lattices"] == 1
    separation, ratio = labels["separation_deg"], labels["intensity_ratio"]
    clear = positive & (ratio >= LEAST_RATIO) & (separation >= LEAST_SPLIT_DEG)
    two = labels["n_lattices"] == 2  # of three, the stated separation need not be the one that gives them away
    chosen = {ALL: positive, REACH_MULTI: clear, REACH_SPLIT: clear & two & (separation < SMALL_SPLIT_DEG)}
    for low, high in SEPARATIONS_DEG:
        chosen[f"separation: {low:g}-{high:g} deg"] = two & (separation >= low) & (separation < high)
    chosen["separation: 0.6-2 deg"] = two & (separation >= LEAST_SPLIT_DEG) & (separation < SMALL_SPLIT_DEG)
    chosen[f"separation: random or twin-like (> {RANDOM_DEG:g} deg)"] = two & (separation >= RANDOM_DEG)
    chosen["number: two lattices"] = two
    chosen["number: three or more"] = labels["n_lattices"] >= 3
    for low, high in RATIOS:
        chosen[f"intensity ratio: {low:g}-{high:g}"] = positive & (ratio >= low) & ((ratio < high) | (high >= 1.0))
    for bounds in SEPARABLE_SPOTS:
        chosen[f"separable spots of the second: {_range(bounds)}"] = positive & _between(labels["second_separable"], bounds)
    found = [Stratum(name, mask, negative) for name, mask in chosen.items()]
    for bounds in SPOTS:
        inside = _between(labels["visible_spots"], bounds)
        found.append(_own(f"visible spots of the first: {_range(bounds)}", inside, positive, negative))
    return [*found, *_conditions(labels, positive, negative)]


def non_diffraction(labels: Labels) -> list[Stratum]:
    """Frames without a lattice against those with one (which has at least 8 visible spots, by its definition)."""
    positive, negative = labels["n_lattices"] == 0, labels["n_lattices"] > 0
    found = [Stratum(ALL, positive, negative), Stratum(REACH_WEAK, positive, negative & _between(labels["visible_spots"], WEAK_SPOTS))]
    spots = labels["visible_spots"]
    found += [Stratum(f"against visible spots: {_range(bounds)}", positive, negative & _between(spots, bounds)) for bounds in SPOTS[1:]]
    found += [Stratum(f"kind: {kind}", labels["kind"] == number, negative) for number, kind in enumerate(NON_DIFFRACTION_KINDS)]
    return [*found, *_conditions(labels, positive, negative)]


def ice_rings(labels: Labels) -> list[Stratum]:
    """Frames with ice rings against those without."""
    positive, negative = labels["ice_rings"] == 1, labels["ice_rings"] == 0
    found = [Stratum(ALL, positive, negative)]
    for name, inside in (("with a lattice", labels["n_lattices"] > 0), ("without a lattice", labels["n_lattices"] == 0)):
        found.append(_own(f"frames {name}", inside, positive, negative))
    return [*found, *_conditions(labels, positive, negative)]


def absent(labels: Labels) -> list[str]:
    """Strata that are wanted and that these labels do not tell."""
    names = [name for name, _ in _special(labels)]
    return [wanted for wanted, word in WANTED.items() if not any(word in name for name in names)]


def held_out(labels: Labels) -> Bools:
    """(n,) whether a frame is of a detector that is in no other split."""
    return np.isin(labels["detector"], HELD_OUT_DETECTORS)


def _conditions(labels: Labels, positive: Bools, negative: Bools) -> Iterator[Stratum]:
    """Strata that divide both sides alike: the apparatus, and what kind of sample it is."""
    unseen, rotation = held_out(labels), labels["rotation_deg"] > 0
    divided = {HELD_OUT: unseen, SEEN: ~unseen, "exposure: still": ~rotation, "exposure: rotation": rotation}
    for bounds in BACKGROUNDS:
        divided[f"background: {_range(bounds)} photons/px"] = _between(labels["background"], bounds)
    for name in np.unique(labels["detector"]):
        divided[f"detector: {name}{' (held out)' if name in HELD_OUT_DETECTORS else ''}"] = labels["detector"] == name
    for name, inside in divided.items():
        yield _own(name, inside, positive, negative)
    for name, inside in _special(labels):
        if (inside & (positive | negative)).any():
            yield _one_sided(name, inside, positive, negative)


def _special(labels: Labels) -> Iterator[tuple[str, Bools]]:
    fields = labels.dtype.names or ()
    for field in TEXT_FIELDS:
        for value in np.unique(labels[field]) if field in fields else ():
            yield f"{field}: {value}", labels[field] == value


def _own(name: str, inside: Bools, positive: Bools, negative: Bools) -> Stratum:
    return Stratum(name, positive & inside, negative & inside, threshold_of_all=True)


def _one_sided(name: str, inside: Bools, positive: Bools, negative: Bools) -> Stratum:
    """As `_own`; where only one side has such frames, they stand against all of the other, and the name says so."""
    few_positive, few_negative = (int((side & inside).sum()) < LEAST_FRAMES for side in (positive, negative))
    if few_positive and not few_negative:
        return Stratum(f"{name} (negatives; all positives)", positive, negative & inside, threshold_of_all=True)
    if few_negative and not few_positive:
        return Stratum(f"{name} (positives; all negatives)", positive & inside, negative)
    return _own(name, inside, positive, negative)


def _between(values: npt.NDArray[Any], bounds: tuple[float, float | None]) -> Bools:
    low, high = bounds
    return np.asarray((values >= low) & (values < (np.inf if high is None else high)))


def _range(bounds: tuple[float, float | None]) -> str:
    low, high = bounds
    return f"{low:g} and more" if high is None else f"{low:g}-{high:g}"
