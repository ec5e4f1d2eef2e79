"""How many simulated frames the embedded indexer indexes: structures that no training frame shows, spots from the real spot finder.

    python -m benchmarks.indexing [--frames 300] [--seed 11] [--crystals 8] [--draw PICTURE]

A lattice is right when its reduced cell is within 2 % and its orientation within 0.5 deg, modulo the rotations of the lattice. A
lattice of the frame counts as the label store counts it (contract, section 7); every drawn frame with such a lattice is in the tables,
whatever else is on it. The consensus is that of the run itself: frames of one crystal, detector and geometry in new orientations,
without a given cell.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.indexing_truth import is_right
from benchmarks.timing import show
from training.dataset import scene_of, structures
from training.simulate.crystal import Crystal
from training.simulate.diffraction import Lattice
from training.simulate.draw import random_rotation
from training.simulate.render import LatticeTruth, render
from training.simulate.scene import Scene
from triage.cells import UnitCells
from triage.core import Cell, Indexed, Run, Spots
from triage.indexing import EmbeddedIndexer
from triage.spots import DispersionFinder

MOST_PIXELS = 5_000_000
"""Larger detectors take seconds a frame to simulate; what is indexed is the same."""
MOST_DRAWN = 6
BINS = ((8, 24), (25, 39), (40, 80), (81, 200), (201, 10_000))
TIMED = ((200, 400), (100, 500))
"""Spots of the frames whose times are shown."""
SECOND_SPOTS, SECOND_RATIO, SECOND_DEG = 25, 0.3, 2.0
SYSTEMS = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Framed:
    """One frame's spots and truth."""

    scene: Scene
    spots: Spots
    run: Run
    truths: tuple[LatticeTruth, ...]

    @property
    def counted(self) -> list[tuple[Lattice, LatticeTruth]]:
        return [pair for pair in zip(self.scene.lattices, self.truths, strict=True) if pair[1].counts]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """One frame indexed."""

    frame: Framed
    indexed: Indexed
    cpu_ms: float

    @property
    def first_is_right(self) -> bool:
        return self.has(self.frame.counted[0][0])

    @property
    def false_ones(self) -> int:
        """Solutions beyond the first that are no lattice drawn on the frame, countable or not."""
        drawn = self.frame.scene.lattices
        return sum(not any(is_right(solution, lattice) for lattice in drawn) for solution in self.indexed.solutions[1:])

    def has(self, lattice: Lattice) -> bool:
        return any(is_right(solution, lattice) for solution in self.indexed.solutions)


def framed(scene: Scene) -> Framed:
    rendered = render(scene)
    spots = DispersionFinder().find(rendered.counts, rendered.run)
    return Framed(scene=scene, spots=spots, run=rendered.run, truths=rendered.labels.lattices)


def frames(n: int, seed: int) -> Iterable[Framed]:
    """The first `n` frames of the test split with at least one lattice that counts."""
    crystals, index, found = structures(seed, "test"), 0, 0
    while found < n:
        scene = scene_of(seed, "test", index, crystals)
        index += 1
        if not scene.lattices or np.prod(scene.detector_model().shape_px) > MOST_PIXELS:
            continue
        frame = framed(scene)
        if frame.counted:
            found += 1
            yield frame


def index(frame: Framed, cells: Sequence[Cell] = ()) -> Outcome:
    started = time.thread_time()
    indexed = EmbeddedIndexer().index(frame.spots, frame.run, cells=cells)
    return Outcome(frame=frame, indexed=indexed, cpu_ms=1e3 * (time.thread_time() - started))


def run_of_one_crystal(scene: Scene, number: int, rng: np.random.Generator) -> list[Framed]:
    """Frames of the scene's crystal, detector, geometry and beam with one lattice in new orientations."""
    made: list[Framed] = []
    while len(made) < number:
        turned = dataclasses.replace(scene.lattices[0], orientation=tuple(float(x) for x in random_rotation(rng).ravel()))
        visible = int(np.exp(rng.uniform(np.log(40.0), np.log(250.0))))
        frame = framed(dataclasses.replace(scene, lattices=(turned,), seed=int(rng.integers(2**62)), visible_spots=visible))
        if frame.counted:
            made.append(frame)
    return made


def by_consensus(runs: Iterable[list[Framed]]) -> list[Outcome]:
    """Every frame of every run, indexed with the run's consensus cell as soon as there is one."""
    outcomes = []
    for frames_of_run in runs:
        cells, rest = UnitCells(), []
        for k, frame in enumerate(frames_of_run):
            known = cells.consensus()
            outcome = index(frame, () if known is None else (known,))
            for solution in outcome.indexed.solutions:
                cells.add(k, solution.cell, solution.bravais)
            rest += [outcome] if known is not None else []
        outcomes += rest
    return outcomes


def share(outcomes: Sequence[Outcome], is_good: Callable[[Outcome], bool]) -> str:
    """Good ones of all, with Wilson's 95 % interval (J. Am. Stat. Assoc. 22 (1927) 209)."""
    n = len(outcomes)
    if n == 0:
        return "-"
    k, z = sum(is_good(outcome) for outcome in outcomes), 1.96
    centre, half = (k + z * z / 2) / (n + z * z), z * np.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    return f"{k}/{n} {k / n:.0%} ({centre - half:.0%}-{centre + half:.0%})"


def within(outcomes: Iterable[Outcome], low: int, high: int) -> list[Outcome]:
    return [one for one in outcomes if low <= one.frame.counted[0][1].visible_spots <= high]


def single(outcomes: Iterable[Outcome]) -> list[Outcome]:
    return [one for one in outcomes if len(one.frame.counted) == 1]


def _of(crystal: Crystal) -> str:
    import gemmi

    return str(gemmi.SpaceGroup(crystal.space_group).crystal_system_str())


def second(outcome: Outcome) -> tuple[Lattice, LatticeTruth] | None:
    """The strongest further lattice that counts and that the aim is about."""
    further = [
        pair
        for pair in outcome.frame.counted[1:]
        if pair[1].visible_spots >= SECOND_SPOTS and pair[1].intensity_ratio >= SECOND_RATIO and pair[1].separation_deg >= SECOND_DEG
    ]
    return max(further, key=lambda pair: pair[1].intensity_ratio, default=None)


def has_second(outcome: Outcome) -> bool:
    pair = second(outcome)
    return pair is not None and outcome.has(pair[0])


def tables(unknown: list[Outcome], given: list[Outcome], consensus: list[Outcome]) -> None:
    alone = {"no cell": single(unknown), "given cell": single(given), "the run's consensus": single(consensus)}
    rows = [
        [name, *(share(within(outcomes, *limits), lambda one: one.first_is_right) for limits in (*BINS, (81, 10_000)))]
        for name, outcomes in alone.items()
    ]
    show("one lattice, by its visible spots: right", ("", *(f"{a} to {b}" for a, b in BINS), "81 and more"), rows)
    rows = []
    for system in SYSTEMS:
        chosen = [[one for one in outcomes if _of(one.frame.scene.lattices[0].crystal) == system] for outcomes in alone.values()]
        rows.append([system, *(share(within(outcomes, 40, 10_000), lambda one: one.first_is_right) for outcomes in chosen)])
    show("one lattice, 40 visible spots and more, by crystal system: right", ("", *alone), rows)
    several = [one for one in unknown if second(one) is not None]
    two, more = ([one for one in several if (len(one.frame.counted) == 2) == is_two] for is_two in (True, False))
    weak = [one for one in unknown if len(one.frame.counted) > 1 and second(one) is None]
    show(
        "several lattices, no cell",
        ("", "value"),
        [
            ["second lattice found (>= 25 spots, ratio >= 0.3, >= 2 deg)", share(several, has_second)],
            ["  of two", share(two, has_second)],
            ["  of three and more", share(more, has_second)],
            ["any two right, fainter or closer second lattices", share(weak, lambda one: sum(map(one.has, _lattices(one))) > 1)],
            ["one lattice: a false second one", share(single(unknown), lambda one: one.false_ones > 0)],
            ["one lattice, given cell: a false second one", share(single(given), lambda one: one.false_ones > 0)],
            ["several: a false one", share([*several, *weak], lambda one: one.false_ones > 0)],
            *([f"fraction_unexplained tells several from one, AUROC: {name}", _auroc(unknown, chosen)] for name, chosen in STRATA.items()),
        ],
    )
    rows = []
    for low, high in TIMED:
        for name, outcomes in (("no cell", unknown), ("given cell", given)):
            typical = [one for one in outcomes if low <= len(one.frame.spots) <= high]
            several_ones = [one for one in typical if len(one.frame.counted) > 1]
            rows.append([f"{low} to {high}", f"{name}, one lattice", *_spread([one.cpu_ms for one in single(typical)])])
            rows.append([f"{low} to {high}", f"{name}, several", *_spread([one.cpu_ms for one in several_ones])])
            each = [one.cpu_ms / max(len(one.indexed.solutions), 1) for one in several_ones]
            rows.append([f"{low} to {high}", f"{name}, several, for each lattice found", *_spread(each)])
    show("CPU ms a frame", ("spots", "", "frames", "10 %", "median", "90 %"), rows)


def _spread(times: Sequence[float]) -> list[str]:
    """How many, and the 10th, 50th and 90th percentile."""
    return [str(len(times)), *(f"{x:.0f}" for x in np.percentile(times or [np.nan], [10, 50, 90]))]


def _lattices(one: Outcome) -> list[Lattice]:
    return [lattice for lattice, _ in one.frame.counted]


def _is_near(one: Outcome) -> bool:
    return all(truth.separation_deg < SECOND_DEG for _, truth in one.frame.counted[1:])


def _is_faint(one: Outcome) -> bool:
    return not _is_near(one) and all(truth.intensity_ratio < SECOND_RATIO for _, truth in one.frame.counted[1:])


STRATA: dict[str, Callable[[Outcome], bool]] = {
    "all": lambda _one: True,
    "a second one as the aim has it": lambda one: second(one) is not None,
    f"all within {SECOND_DEG:g} deg": _is_near,
    f"all fainter than {SECOND_RATIO:g}": _is_faint,
}
"""Of frames of several lattices."""


def _auroc(outcomes: list[Outcome], chosen: Callable[[Outcome], bool]) -> str:
    """Of the chosen frames of several lattices against all of one, that index; and how many these are."""
    indexed = [one for one in outcomes if one.indexed.fraction_unexplained is not None]
    several = np.array([one.indexed.fraction_unexplained for one in indexed if len(one.frame.counted) > 1 and chosen(one)])
    alone = np.array([one.indexed.fraction_unexplained for one in indexed if len(one.frame.counted) == 1])
    if not len(several) or not len(alone):
        return "-"
    higher: npt.NDArray[np.float64] = (several[:, None] > alone) + 0.5 * (several[:, None] == alone)
    return f"{higher.mean():.2f} ({len(several)} and {len(alone)})"


def _both(n: int, seed: int) -> tuple[list[Outcome], list[Outcome]]:
    """Every frame indexed without a cell and with its own; Ctrl-C ends it early, with what there is."""
    unknown, known = list[Outcome](), list[Outcome]()
    try:
        for frame in frames(n, seed):
            cells = (frame.counted[0][0].crystal.cell,)
            if not unknown:
                index(frame), index(frame, cells)  # compiled, before anything is timed
            unknown.append(index(frame))
            known.append(index(frame, cells))
            if len(unknown) % 20 == 0:
                print(f"{len(unknown)} frames", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        unknown = unknown[: len(known)]
    return unknown, known


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--crystals", type=int, default=8, help="runs of one crystal, of 10 frames each, for the consensus")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--draw", type=Path, help="picture (PNG) of the worst frames whose first lattice is wrong, without a cell")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    unknown, known = _both(given.frames, given.seed)
    rng = np.random.default_rng([given.seed, 7])
    scenes = [one.frame.scene for one in within(single(unknown), 40, 10_000)][: given.crystals]
    tables(unknown, known, by_consensus(run_of_one_crystal(scene, 10, rng) for scene in scenes))
    if given.draw is not None:
        _draw([one for one in within(single(unknown), 40, 10_000) if not one.first_is_right], given.draw)


def _draw(failures: Sequence[Outcome], path: Path) -> None:
    """The failures with most visible spots: they should have been easiest."""
    from benchmarks.indexing_drawn import Panel, draw

    worst = sorted(failures, key=lambda one: -one.frame.counted[0][1].visible_spots)[:MOST_DRAWN]
    panels = []
    for one in worst:
        lattice, truth = one.frame.counted[0]
        title = f"{truth.visible_spots} visible of {len(one.frame.spots)} spots; {one.frame.scene.detector}, {one.frame.scene.kind}"
        title += f"; {one.indexed.reason}" if one.indexed.reason else ""
        panels.append(Panel(spots=one.frame.spots, run=one.frame.run, indexed=one.indexed, truth=lattice, title=title))
    draw(panels, path)


if __name__ == "__main__":
    main()
