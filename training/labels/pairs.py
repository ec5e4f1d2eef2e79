"""Labelled one-lattice frames of one experiment, thinned and added up: two-lattice frames that nobody needs to label.

1 + 1 = 2 where the weaker lattice can still be seen, by the rule of the simulator's labels (contract, section 7), judged on the spots
that are found. 1 + 0 = 1: the same treatment with a blank frame dims a lattice, so that nothing but the lattices tells the two apart.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from training.labels.frames import FrameLibrary, run_key
from training.labels.inputs import InputCache, identity
from training.labels.label import Label
from training.simulate.render import MIN_SPOTS, VISIBLE_I_OVER_SIGMA
from training.thinning import Exposure, Superposition, ThinningError, difference, superposed
from triage.core import Frame, FrameError, RunKind, SourceError, Spots
from triage.preprocess import Inputs
from triage.spots import DispersionFinder

LOG = logging.getLogger(__name__)

UNSURE_SPOTS = 4
"""Between this many and MIN_SPOTS spots of a lattice are no safe ground for saying that it does not count: the finder misses some."""
LEAST_TURN_DEG = 5.0
"""Frames of one rotation run that lie closer show nearly the same spots."""
RATIOS = (0.03, 1.0)
"""Of the shares of the two exposures, drawn log-uniformly: as the simulator's intensity ratios."""
BLANK_SHARE = 0.35
"""Of the pairs, those with a blank frame, where there are any."""
_ATTEMPTS = 6
_LEAST_WIDTH_PX = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two labelled frames, and how they are put together."""

    first: Label
    second: Label
    shares: tuple[float, float]
    seed: int


def draw_pairs(labels: Sequence[Label], n: int, library: FrameLibrary, seed: int) -> list[Pair]:
    """At most `n` pairs of one-lattice frames, or of one and a blank one, of one experiment and different orientation.

    Fewer where suitable partners are rare: each draw is tried a few times.
    """
    rng = np.random.default_rng(seed)
    crystals = [label for label in labels if label.n_lattices == 1]
    blanks = [label for label in labels if label.non_diffraction_kind == "blank"]
    pairs: list[Pair] = []
    for _ in range(n * _ATTEMPTS if len(crystals) + len(blanks) > 1 and crystals else 0):
        if len(pairs) == n:
            break
        partners = blanks if blanks and rng.random() < BLANK_SHARE else crystals
        first, second = crystals[rng.integers(len(crystals))], partners[rng.integers(len(partners))]
        ratio = float(np.exp(rng.uniform(*np.log(RATIOS))))
        shares = (1.0 / (1.0 + ratio), ratio / (1.0 + ratio))
        if first is not second and _can_be_paired(first, second, library):
            pairs.append(Pair(first=first, second=second, shares=shares, seed=int(rng.integers(2**32))))
    return pairs


def pair_inputs(pairs: Sequence[Pair], library: FrameLibrary, cache: InputCache) -> list[tuple[Label, Path]]:
    """A label and the file of the inputs of each pair whose lattices can be counted; the others are left out."""
    found = []
    for pair in pairs:
        made_from = _made_from(pair, library)
        for n_lattices in (1, 2):  # what was counted is part of the file's name: a file that is there need not be made again
            if (path := cache.path({**made_from, "n_lattices": n_lattices})).exists():
                found.append((_label(pair, n_lattices), path))
                break
        else:
            made = _make(pair, library, cache)
            if made is not None:
                n_lattices, inputs = made
                kept = cache.made({**made_from, "n_lattices": n_lattices}, lambda inputs=inputs: inputs)  # type: ignore[misc]
                found += [] if kept is None else [(_label(pair, n_lattices), kept)]
    return found


def lattices_seen(frame: Superposition, second_is_crystal: bool) -> int | None:
    """How many lattices count in a superposition of one-lattice frames (or of one and a blank one); None where that is not sure.

    A lattice counts when at least 8 of its spots have I/sigma >= 5 in the sum, and as many lie more than a spot's width from every
    spot of the stronger one. Its spots are those of the sum that its own thinned frame shows, too; the stronger one's are looked for
    in its frame before thinning, where fewer are missed. Spots on ice rings are left out.
    """
    finder = DispersionFinder()
    found = finder.find(frame.counts, frame.run)
    seen = found.positions_px[(found.intensity >= VISIBLE_I_OVER_SIGMA * found.sigma) & ~found.on_ice]
    width = _width_px(found)
    own = [_off_ice(finder.find(part, frame.run)) for part in (frame.parts if second_is_crystal else frame.parts[:1])]
    visible = [_near(seen, spots, width) for spots in own]
    order = sorted(range(len(own)), key=lambda k: -int(visible[k].sum()))
    counts = [int(visible[order[0]].sum())]
    if len(order) == 2:
        apart = visible[order[1]] & ~_near(seen, _off_ice(finder.find(frame.whole[order[0]], frame.run)), width)
        counts.append(min(int(visible[order[1]].sum()), int(apart.sum())))
    if any(UNSURE_SPOTS <= n < MIN_SPOTS for n in counts) or counts[0] < MIN_SPOTS:
        return None
    return sum(n >= MIN_SPOTS for n in counts)


def _make(pair: Pair, library: FrameLibrary, cache: InputCache) -> tuple[int, Inputs] | None:
    """The number of lattices and the inputs; None where the frames cannot be put together, or the lattices not be counted."""
    try:
        exposures = [_exposure(library.frame(label)) for label in (pair.first, pair.second)]
        frame = superposed(exposures[0], exposures[1], shares=pair.shares, rng=np.random.default_rng(pair.seed))
    except (ThinningError, SourceError, FrameError) as error:
        LOG.warning("pair left out: %s", error)
        return None
    n_lattices = lattices_seen(frame, second_is_crystal=pair.second.n_lattices == 1)
    if n_lattices is None:
        return None
    spots = DispersionFinder().find(frame.counts, frame.run)
    return n_lattices, cache.preprocess(frame.counts, spots, frame.run)


def _exposure(frame: Frame) -> Exposure:
    return Exposure(pixels=frame.decode(), run=frame.run)


def _can_be_paired(first: Label, second: Label, library: FrameLibrary) -> bool:
    """Whether two frames are of one experiment and of different orientation."""
    try:
        one, other = library.frame(first), library.frame(second)
    except (SourceError, FrameError):
        return False  # said once, where its own inputs are made
    if difference(one.run, other.run) is not None:
        return False
    if second.n_lattices != 1 or run_key(first.source) != run_key(second.source) or first.origin == "simulated":
        return True
    return one.run.kind is RunKind.SERIAL or _are_turned(one, other)


def _are_turned(one: Frame, other: Frame) -> bool:
    """Whether two frames of one rotation run show different orientations; not where the header tells no angles."""
    angles = [_omega_deg(frame) for frame in (one, other)]
    if angles[0] is None or angles[1] is None:
        return False
    apart = abs(angles[0] - angles[1]) % 360.0
    return min(apart, 360.0 - apart) >= LEAST_TURN_DEG


def _omega_deg(frame: Frame) -> float | None:
    start, step = frame.run.header.omega_start_deg, frame.run.header.omega_step_deg
    return None if start is None or step is None else start + step * frame.index


def _made_from(pair: Pair, library: FrameLibrary) -> dict[str, Any]:
    frames = [identity(library.path(label), label.frame) for label in (pair.first, pair.second)]
    return {"frames": frames, "shares": pair.shares, "seed": pair.seed}


def _label(pair: Pair, n_lattices: int) -> Label:
    """Of the ice, what both say alike: a ring that one frame has may be dimmed away. The resolution is not known."""
    ice = pair.first.ice_rings if pair.first.ice_rings == pair.second.ice_rings else None
    return Label(
        source=pair.first.source,
        frame=pair.first.frame,
        n_lattices=n_lattices,
        ice_rings=ice,
        labeller="binomial thinning",
        origin=pair.first.origin,
    )


def _off_ice(spots: Spots) -> npt.NDArray[np.float32]:
    return spots.positions_px[~spots.on_ice]


def _width_px(spots: Spots) -> float:
    """A spot's width: the median diameter of the discs that the connected strong pixels would fill."""
    return max(_LEAST_WIDTH_PX, float(np.median(2.0 * np.sqrt(spots.n_pixels / np.pi)))) if len(spots) else _LEAST_WIDTH_PX


def _near(positions: npt.NDArray[np.float32], others: npt.NDArray[np.float32], within: float) -> npt.NDArray[np.bool_]:
    """Which positions (n, 2) have one of the others (m, 2) within that many pixels."""
    if len(positions) == 0 or len(others) == 0:
        return np.zeros(len(positions), dtype=np.bool_)
    return np.asarray(cKDTree(others).query(positions)[0] <= within)
