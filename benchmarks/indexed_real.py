"""The lattices that the embedded indexer finds on real files' frames, and beside them DIALS'.

python -m benchmarks.indexed_real FILE... [--frames 3] [--beam SLOW FAST] [--dials] [--draw FOLDER]

With --dials the same spots are given to DIALS (Debian's `dials` and `python3-zmq`), as stills, without a cell, as `indexing=dials` does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.indexing_truth import direct_axes, misfit
from benchmarks.timing import show
from triage.core import Frame, Indexed, Indexer, Solution
from triage.dials_engine import DialsIndexer, find_dials
from triage.geometry import StatedGeometry
from triage.indexing import EmbeddedIndexer
from triage.sources.files import FileSource
from triage.sources.resolve import Overrides, RunResolver
from triage.spots import DispersionFinder

COLUMNS = ("file", "frame", "spots", "off ice", "by", "lattice", "cell", "indexed", "unexplained", "beam moved, px", "s", "from the first")
MOST_DIALS_S = 1_800.0


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=2, help="of each file, from the first")
    parser.add_argument("--beam", type=float, nargs=2, metavar=("SLOW", "FAST"), help="where the beam is, px, whatever the header says")
    parser.add_argument("--dials", action="store_true", help="index by DIALS too")
    parser.add_argument("--draw", type=Path, help="folder for pictures, predicted against found")
    given = parser.parse_args(arguments)
    stated = StatedGeometry(beam_px=(given.beam[0], given.beam[1])) if given.beam else StatedGeometry()
    source = FileSource(given.files, resolver=RunResolver(Overrides(geometry=stated)), group="file")
    engines: dict[str, Indexer] = {"triage": EmbeddedIndexer()}
    dials = DialsIndexer(find_dials()[0], answer_within_s=MOST_DIALS_S) if given.dials else None
    if dials is not None:
        engines[dials.engine] = dials
    try:
        frames = (event for event in source if isinstance(event, Frame) and event.index < given.frames)
        rows = [row for frame in frames for row in _rows(frame, engines, given.draw)]
    finally:
        if dials is not None:
            dials.close()
    show("lattices of real frames", COLUMNS, rows)


def _rows(frame: Frame, engines: dict[str, Indexer], folder: Path | None) -> list[list[str]]:
    rows: list[list[str]] = []
    name, spots = Path(frame.run.header.source).name, DispersionFinder().find(frame.decode(), frame.run)
    EmbeddedIndexer().index(spots, frame.run)  # compiled, and the caches warm
    first: Solution | None = None
    for engine, indexer in engines.items():
        started = time.perf_counter()
        indexed = indexer.index(spots, frame.run)
        spent = f"{time.perf_counter() - started:.2f}"
        start = [name, str(frame.index), str(len(spots)), str(int((~spots.on_ice).sum())), engine]
        rows += [[*start, *told, spent, _apart(first, one)] for told, one in _told(indexed)]
        first = first or next(iter(indexed.solutions), None)
        if folder is not None:
            from benchmarks.indexing_drawn import Panel, draw

            picture = f"{name.split('.')[0]}_{frame.index:04d}_{engine.split()[0]}.png"
            draw([Panel(spots=spots, run=frame.run, indexed=indexed)], folder / picture)
    return rows


def _told(indexed: Indexed) -> list[tuple[list[str], Solution | None]]:
    """Lattice, cell, spots indexed, share unexplained and the beam's move of each solution, in words; why there is none."""
    if not indexed.solutions:
        return [([(indexed.reason or "")[:60], "", "", "", ""], None)]
    moved = "" if indexed.beam_shift_px is None else "{:.1f}, {:.1f}".format(*indexed.beam_shift_px)
    rows = []
    for one in indexed.solutions:
        cell = " ".join(f"{x:.1f}" for x in one.cell)
        rows.append(([one.bravais, cell, str(one.n_indexed), f"{indexed.fraction_unexplained:.0%}", moved], one))
    return rows


def _apart(first: Solution | None, other: Solution | None) -> str:
    """Strain and rotation between a frame's first lattice and another one."""
    if first is None or other is None:
        return ""
    strain, turned_deg = misfit(*(direct_axes(one.orientation, one.cell, one.bravais[1]) for one in (other, first)))
    return f"{strain:.1%}, {turned_deg:.2f} deg" if turned_deg < 360.0 else "another lattice"


if __name__ == "__main__":
    main()
