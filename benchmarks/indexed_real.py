"""The lattices that the embedded indexer finds on real files' frames.

python -m benchmarks.indexed_real FILE... [--frames 3] [--draw FOLDER]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.timing import show
from triage.core import Frame
from triage.indexing import EmbeddedIndexer
from triage.sources.files import FileSource
from triage.sources.resolve import RunResolver
from triage.spots import DispersionFinder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=2, help="of each file, from the first")
    parser.add_argument("--draw", type=Path, help="folder for pictures, predicted against found")
    given = parser.parse_args(arguments)
    rows = [row for path in given.files for row in _rows(path, given.frames, given.draw)]
    show("lattices of real frames", ("file", "frame", "spots", "off ice", "lattice", "cell", "indexed", "unexplained", "CPU ms"), rows)


def _rows(path: Path, most: int, folder: Path | None) -> list[list[str]]:
    rows: list[list[str]] = []
    for event in FileSource([path], resolver=RunResolver(), group="file"):
        if not isinstance(event, Frame):
            continue
        if event.index >= most:
            break
        spots = DispersionFinder().find(event.decode(), event.run)
        EmbeddedIndexer().index(spots, event.run)  # compiled, and the caches warm
        started = time.thread_time()
        indexed = EmbeddedIndexer().index(spots, event.run)
        spent = f"{1e3 * (time.thread_time() - started):.0f}"
        start = [path.name, str(event.index), str(len(spots)), str(int((~spots.on_ice).sum()))]
        if not indexed.solutions:
            rows.append([*start, (indexed.reason or "")[:60], "", "", "", spent])
        for solution in indexed.solutions:
            cell = " ".join(f"{x:.1f}" for x in solution.cell)
            rows.append([*start, solution.bravais, cell, str(solution.n_indexed), f"{indexed.fraction_unexplained:.0%}", spent])
        if folder is not None:
            from benchmarks.indexing_drawn import Panel, draw

            draw([Panel(spots=spots, run=event.run, indexed=indexed)], folder / f"{path.name.split('.')[0]}_{event.index:04d}.png")
    return rows


if __name__ == "__main__":
    main()
