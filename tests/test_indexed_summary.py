"""The summary's words on indexing: counts, agreement, cells, and the lead time with a clock that the test holds."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

from fake_indexers import CELL, indexable_run, one, two
from rich.console import Console

from triage.commands.indexed import IndexingTally, LeadTime
from triage.commands.summary import Summary
from triage.core import Agreement, CellShare, Flag, Indexed, Indexing, IndexingStatus, RunKind, RunStarted, Severity
from triage.flags import FlagThreshold
from triage.slow_lane.jobs import LAGS

RUN = indexable_run()
STARTED = RunStarted(run=RUN, model=None, config={"flags": {"multi_lattice": {"raise_at": 0.6, "clear_at": 0.4, "k": 3, "n": 4}}})


def a_record(frame: int, indexed: Indexed, **changes: object) -> Indexing:
    record = Indexing(run_id="run", frame=frame, engine="fake 1", indexed=indexed, multi_lattice=0.1, latency_ms=5.0)
    return replace(record, **changes)  # type: ignore[arg-type]


def raised(flag: str = "multi_lattice", state: str = "raised") -> Flag:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    return Flag(
        id="1", run_id="run", flag=flag, state=state, first_frame=1, frame=7, severity=Severity.WARNING, probability=0.9, reason="r", at=at
    )


def lead_of(*story: tuple[float, Flag | Indexing]) -> LeadTime:
    now = [0.0]
    lead = LeadTime(FlagThreshold(raise_at=0.6, clear_at=0.4, k=3, n=4), lambda: now[0])
    for now[0], record in story:
        lead.add(record)
    return lead


def test_the_lead_time_is_until_indexing_alone_would_have_raised_the_flag() -> None:
    lead = lead_of(
        (1.0, a_record(1, two())),
        (2.0, raised("ice")),
        (3.0, raised()),
        (4.0, a_record(2, Indexed(status=IndexingStatus.SKIPPED))),
        (5.0, a_record(3, two())),
        (6.0, a_record(4, one())),
        (7.5, a_record(5, two())),
        (9.0, raised()),
    )
    assert lead.lead_s == 4.5
    assert lead.words() == "multi_lattice was raised 4.5 s before indexing alone would have"


def test_indexing_may_be_first_or_alone_or_silent() -> None:
    shown = [(float(k), a_record(k, two())) for k in range(3)]
    assert lead_of(*shown, (4.0, raised())).words() == "multi_lattice was raised 2.0 s after indexing alone would have"
    assert lead_of(*shown).words() == "indexing alone would have raised multi_lattice; the flag was not raised"
    assert lead_of(shown[0], (4.0, raised())).words().startswith("multi_lattice was raised; indexing alone would not have")
    assert lead_of(shown[0], (4.0, raised(state="cleared"))).words() == ""


def test_the_rule_is_the_runs_own() -> None:
    assert IndexingTally.of(STARTED).lead._shadow._threshold == FlagThreshold(raise_at=0.6, clear_at=0.4, k=3, n=4)
    assert IndexingTally.of(replace(STARTED, config={})).lead._shadow._threshold.k == 7
    assert IndexingTally.of(RunStarted(run=replace(RUN, kind=RunKind.SERIAL), model=None, config={})).lead._shadow._threshold.k == 30


def test_the_summary_says_what_the_two_say_together() -> None:
    summary, text = Summary(), io.StringIO()
    cells = (CellShare(cell=CELL, bravais="oP", n=3, share=0.75, drift_percent_per_1000_frames=1.25),)
    summary.accept(STARTED)
    for record in (
        a_record(0, one(), agreement=Agreement.AGREES),
        a_record(1, two(), agreement=Agreement.CLASSICAL_ONLY, cells=cells),
        a_record(2, Indexed(status=IndexingStatus.NOT_INDEXED, reason="no")),
        a_record(3, Indexed(status=IndexingStatus.FAILED, reason="died")),
        a_record(4, Indexed(status=IndexingStatus.SKIPPED, reason=LAGS)),
        a_record(5, Indexed(status=IndexingStatus.SKIPPED, reason="it does not diffract (probability 0.93)")),
    ):
        summary.accept(record)
    summary.show(Console(file=text, width=250), a_row_a_file=False)
    table, _, said = text.getvalue().rpartition("\nrun: ")
    assert "2/4" in table
    assert said.strip() == (
        "indexed 2 of 4 frames, an even sample: 1 more came faster than they were indexed; 1 failed; "
        "several lattices: network and indexing 1 agree, 0 by the network only, 1 by indexing only; "
        "cells: oP 50.0 60.0 70.0 A 90 90 90 deg in 75% (edges grow +1.25 % in 1000 frames)"
    )


def test_a_run_that_was_not_indexed_has_a_dash_and_no_sentence() -> None:
    summary, text = Summary(), io.StringIO()
    summary.accept(STARTED)
    summary.show(Console(file=text, width=250), a_row_a_file=True)
    assert "run: " not in text.getvalue()
