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
from training.thinning import Counts, Exposure, Superposition, ThinningError, difference, superposed
from triage.core import Frame, FrameError, Run, RunKind, SourceError, Spots
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
SHINES_SIGMA = 3.0
"""Photons above background by which the stronger lattice's frame is not empty at a spot of the weaker one."""
_AROUND_PX = 12
_CORE_PX = 1.5
_CLIP_FROM = 0.9  # share of the pixels around whose mean tells what is bright: the others may belong to spots
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
    groups = [(crystals, blanks) for crystals, blanks in _experiments(labels, library) if len(crystals) + len(blanks) > 1 and crystals]
    sizes = np.array([len(crystals) for crystals, _ in groups])
    pairs: list[Pair] = []
    for _ in range(n * _ATTEMPTS if groups else 0):
        if len(pairs) == n:
            break
        crystals, blanks = groups[rng.choice(len(groups), p=sizes / sizes.sum())]
        partners = blanks if blanks and rng.random() < BLANK_SHARE else crystals
        first, second = crystals[rng.integers(len(crystals))], partners[rng.integers(len(partners))]
        ratio = float(np.exp(rng.uniform(*np.log(RATIOS))))
        shares = (1.0 / (1.0 + ratio), ratio / (1.0 + ratio))
        if first is not second and _are_of_different_orientation(first, second, library):
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
    spot of the stronger one: there, the stronger one's frame must show nothing, also before it was thinned. A lattice's spots are those
    of the sum that its own thinned frame shows, too. Spots on ice rings are left out.
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
        apart = visible[order[1]] & ~_shines(frame.whole[order[0]], frame.run, seen, width)
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


def _experiments(labels: Sequence[Label], library: FrameLibrary) -> list[tuple[list[Label], list[Label]]]:
    """One-lattice and blank frames by the experiment they are of; frames that cannot be read are left out."""
    groups: list[tuple[Run, list[Label], list[Label]]] = []
    for label in labels:
        if label.n_lattices != 1 and label.non_diffraction_kind != "blank":
            continue
        try:
            run = library.frame(label).run
        except (SourceError, FrameError):
            continue  # said once, where its own inputs are made
        group = next((group for group in groups if difference(group[0], run) is None), None)
        if group is None:
            groups.append(group := (run, [], []))
        (group[1] if label.n_lattices == 1 else group[2]).append(label)
    return [(crystals, blanks) for _, crystals, blanks in groups]


def _are_of_different_orientation(first: Label, second: Label, library: FrameLibrary) -> bool:
    """Whether two frames of one experiment show different orientations, or one of them shows none."""
    if second.n_lattices != 1 or run_key(first.source) != run_key(second.source) or first.origin == "simulated":
        return True
    one, other = library.frame(first), library.frame(second)
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


def _shines(counts: Counts, run: Run, positions: npt.NDArray[np.float32], within: float) -> npt.NDArray[np.bool_]:
    """Where a frame has more than its background: its photons within that many pixels of each position (n, 2), against those around.

    Not a spot finder's word, which turns on a pixel more or less; photons suffice.
    """
    known = np.ones(counts.shape, dtype=bool) if run.mask is None else ~run.mask
    found = np.zeros(len(positions), dtype=bool)
    rows, columns = (np.arange(n) + 0.5 for n in counts.shape)
    for k, (slow, fast) in enumerate(positions):
        window = tuple(slice(max(0, int(at) - _AROUND_PX), int(at) + _AROUND_PX + 1) for at in (slow, fast))
        distance = np.hypot(rows[window[0], None] - slow, columns[None, window[1]] - fast)
        usable = known[window]
        around = counts[window][usable & (distance > 2.0 * within)]
        if len(around) == 0:
            continue
        background = _clipped_mean(around)
        for reach in (_CORE_PX, within):  # a sharp spot drowns in the wider disc's noise, a broad one in the narrow disc's
            inside = counts[window][usable & (distance <= reach)]
            excess = float(inside.sum()) - len(inside) * background
            found[k] |= excess > SHINES_SIGMA * np.sqrt(max(len(inside) * background, 1.0))
    return found


def _clipped_mean(counts: Counts) -> float:
    """Mean of the counts without those that stand out by more than three standard deviations and two photons."""
    low = float(counts[counts <= np.quantile(counts, _CLIP_FROM)].mean())
    return float(counts[counts <= low + 3.0 * np.sqrt(low) + 2.0].mean())


def _near(positions: npt.NDArray[np.float32], others: npt.NDArray[np.float32], within: float) -> npt.NDArray[np.bool_]:
    """Which positions (n, 2) have one of the others (m, 2) within that many pixels."""
    if len(positions) == 0 or len(others) == 0:
        return np.zeros(len(positions), dtype=np.bool_)
    return np.asarray(cKDTree(others).query(positions)[0] <= within)
