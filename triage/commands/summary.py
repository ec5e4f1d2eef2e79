"""The tables at the end: what was judged, and what it is."""

from __future__ import annotations

import statistics
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from rich import box
from rich.console import Console
from rich.table import Table

from triage.commands.indexed import IndexingTally
from triage.core import NON_DIFFRACTION_KINDS, Flag, Indexing, Judgement, Record, Run, RunFinished, RunStarted, Verdict

LATTICE_WORDS = ("no lattice", "1 lattice", "2 lattices", "3 or more lattices")
_KEEP_RUNS = 500  # a listener may run for months
_MOST_SENTENCES = 50  # runs
_NOTHING = "-"


@dataclass(slots=True)
class RunTally:
    """What the verdicts and the indexing records of one run add up to."""

    run: Run
    indexing: IndexingTally
    judged: int = 0
    lattices: list[float] = field(default_factory=lambda: [0.0] * 4)
    """Sums of the probabilities."""
    most_probable: Counter[int] = field(default_factory=Counter)
    """How many frames have how many lattices, by the most probable number."""
    kinds: list[float] = field(default_factory=lambda: [0.0] * 4)
    ice_rings: float = 0.0
    spots: array[float] = field(default_factory=lambda: array("f"))
    resolution_A: array[float] = field(default_factory=lambda: array("f"))
    first_error: str | None = None
    end: RunFinished | None = None

    def add(self, verdict: Verdict) -> None:
        """Adds a verdict; failed ones leave their reason only."""
        if verdict.judgement is None:
            self.first_error = self.first_error or verdict.error
            return
        judgement = verdict.judgement
        self.judged += 1
        self.lattices = [a + b for a, b in zip(self.lattices, judgement.lattices, strict=True)]
        self.kinds = [a + b for a, b in zip(self.kinds, judgement.non_diffraction_kind, strict=True)]
        self.ice_rings += judgement.ice_rings
        self.most_probable[max(range(4), key=lambda n: judgement.lattices[n])] += 1
        if judgement.resolution_A is not None:
            self.resolution_A.append(judgement.resolution_A)
        if verdict.spots is not None:
            self.spots.append(verdict.spots.count)

    def mean(self) -> Judgement | None:
        """The mean judgement; None where no frame was judged."""
        if not self.judged:
            return None
        a, b, c, d = (p / self.judged for p in self.lattices)
        e, f, g, h = (p / self.judged for p in self.kinds)
        resolution = statistics.median(self.resolution_A) if self.resolution_A else None
        return Judgement(
            lattices=(a, b, c, d), non_diffraction_kind=(e, f, g, h), ice_rings=self.ice_rings / self.judged, resolution_A=resolution
        )


class Summary:
    """A sink that remembers what the summary needs."""

    def __init__(self) -> None:
        self._tallies: dict[str, RunTally] = {}

    @property
    def tallies(self) -> tuple[RunTally, ...]:
        """The runs, in order."""
        return tuple(self._tallies.values())

    @property
    def went_wrong(self) -> bool:
        """Whether a run is not complete or a frame failed."""
        ends = [tally.end for tally in self.tallies if tally.end is not None]
        return any(not end.complete or end.progress.failed for end in ends)

    def accept(self, record: Record) -> None:
        """Adds a record up."""
        if isinstance(record, RunStarted):
            self._tallies[record.run.id] = RunTally(record.run, IndexingTally.of(record))
            if len(self._tallies) > _KEEP_RUNS:
                del self._tallies[next(iter(self._tallies))]
        elif isinstance(record, Verdict):
            if tally := self._tallies.get(record.run_id):
                tally.add(record)
        elif isinstance(record, Indexing):
            if tally := self._tallies.get(record.run_id):
                tally.indexing.add(record)
        elif isinstance(record, Flag):
            if tally := self._tallies.get(record.run_id):
                tally.indexing.lead.add(record)
        elif isinstance(record, RunFinished) and (tally := self._tallies.get(record.run_id)):
            tally.end = record

    def close(self) -> None:
        """Nothing to release."""

    def show(self, out: Console, *, a_row_a_file: bool) -> None:
        """Prints the table."""
        if not self._tallies:
            out.print("no runs, no frames")
            return
        out.print(files_table(self.tallies) if a_row_a_file else runs_table(self.tallies))
        for tally in self.tallies[-_MOST_SENTENCES:]:
            if sentences := tally.indexing.sentences():
                out.print(f"{tally.run.id}: {'; '.join(sentences)}", soft_wrap=True)


def runs_table(tallies: tuple[RunTally, ...]) -> Table:
    """A row a run: its books, its lattices, its flags."""
    names = (
        "run",
        "frames",
        "judged",
        "dropped",
        "failed",
        "missing",
        "lattices 0/1/2/3+",
        "diffracting",
        "spots",
        "resolution",
        "indexed",
        "flags",
        "note",
    )
    table = _table(names, text_columns={"run", "flags", "note"})
    for tally in tallies:
        end = tally.end
        books = [_NOTHING] * 5
        if end is not None:
            p = end.progress
            books = [str(n) for n in (p.received, p.judged, p.dropped, p.failed, p.missing)]
        shares = " / ".join(f"{tally.most_probable[n]}" for n in range(4)) if tally.judged else _NOTHING
        diffracting = f"{100 * (1 - tally.most_probable[0] / tally.judged):.0f} %" if tally.judged else _NOTHING
        flags = ", ".join(f"{name} x{n}" if n > 1 else name for name, n in sorted(end.flags.items())) if end is not None else ""
        table.add_row(
            tally.run.id,
            *books,
            shares,
            diffracting,
            _median_spots(tally),
            _median_resolution(tally),
            tally.indexing.share(),
            flags or _NOTHING,
            _note(tally),
        )
    return table


def files_table(tallies: tuple[RunTally, ...]) -> Table:
    """A row a file: what it is, in words, and how sure that is."""
    names = ("file", "frames", "kind", "verdict", "p multi", "p non-diffraction", "spots", "resolution", "p ice", "indexed", "note")
    table = _table(names, text_columns={"file", "kind", "verdict", "note"})
    shown = short_names([tally.run.header.source for tally in tallies])
    for tally in tallies:
        mean = tally.mean()
        received = tally.end.progress.received if tally.end is not None else tally.judged
        kind = tally.run.kind.value if tally.run.kind is not None else _NOTHING
        words = [_NOTHING] * 3
        ice = _NOTHING
        if mean is not None:
            words = [_words(mean), f"{mean.multi_lattice:.2f}", _non_diffraction(mean)]
            ice = f"{mean.ice_rings:.2f}"
        found = (_median_spots(tally), _median_resolution(tally), ice, tally.indexing.share())
        table.add_row(shown[tally.run.header.source], str(received), kind, *words, *found, _note(tally))
    return table


def _table(names: tuple[str, ...], text_columns: set[str]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in names:
        folds = name in ("note", "flags", "file", "run")
        table.add_column(name, justify="left" if name in text_columns else "right", no_wrap=not folds, overflow="fold")
    return table


def _words(judgement: Judgement) -> str:
    """The most probable number of lattices and how probable it is: `1 lattice 0.97`."""
    n = max(range(4), key=lambda k: judgement.lattices[k])
    return f"{LATTICE_WORDS[n]} {judgement.lattices[n]:.2f}"


def _non_diffraction(judgement: Judgement) -> str:
    shown = f"{judgement.non_diffraction:.2f}"
    if judgement.non_diffraction < 0.5:
        return shown
    kind = max(range(4), key=lambda k: judgement.non_diffraction_kind[k])
    return f"{shown} {NON_DIFFRACTION_KINDS[kind]}"


def short_names(sources: Sequence[str]) -> dict[str, str]:
    """Each path without its folder, where no other path ends alike."""
    ends = Counter(PurePath(source).name for source in set(sources))
    return {source: name if ends[name := PurePath(source).name] == 1 else source for source in sources}


def _median_spots(tally: RunTally) -> str:
    return f"{statistics.median(tally.spots):.0f}" if tally.spots else _NOTHING


def _median_resolution(tally: RunTally) -> str:
    return f"{statistics.median(tally.resolution_A):.1f} A" if tally.resolution_A else _NOTHING


def _note(tally: RunTally) -> str:
    """What is wrong with the run, most important first."""
    notes = []
    if tally.end is not None and not tally.end.complete and tally.end.reason:
        notes.append(tally.end.reason.removeprefix(f"{tally.run.header.source}: "))
    if tally.first_error and tally.first_error not in notes:
        notes.append(tally.first_error)
    if tally.judged and tally.run.geometry is None and tally.run.geometry_problem:
        notes.append(f"no geometry: {tally.run.geometry_problem.partition('; set ')[0]}")
    return "; ".join(notes)
