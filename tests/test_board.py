"""The live page's memory on plain records: what it keeps, and that a snapshot since v holds exactly what changed."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triage.core import (
    Decay,
    Flag,
    Judgement,
    Model,
    Progress,
    Record,
    Run,
    RunFinished,
    RunHeader,
    RunKind,
    RunStarted,
    Severity,
    SpotSummary,
    Verdict,
)
from triage.dashboard.board import FRAME_COLUMNS, Board
from triage.dashboard.history import FrameHistory, RateMeter, as_columns
from triage.records import to_json


def started(run_id: str = "r") -> RunStarted:
    run = Run(
        id=run_id,
        header=RunHeader(source="frames.h5", frames_expected=9),
        kind=RunKind.STILLS,
        geometry=None,
        geometry_problem="none stated",
    )
    return RunStarted(
        run=run, model=Model(name="m", version="1", sha256="0"), config={"flags": {"ice": {"raise_at": 0.8, "clear_at": 0.4}}}
    )


def judged(frame: int, run_id: str = "r", *, none: float = 0.25) -> Verdict:
    judgement = Judgement(
        lattices=(none, 1 - none, 0.0, 0.0), non_diffraction_kind=(1.0, 0.0, 0.0, 0.0), ice_rings=0.125, resolution_A=None
    )
    return Verdict(run_id=run_id, frame=frame, file=None, judgement=judgement, spots=None, latency_ms=2.5)


def failed(frame: int, run_id: str = "r") -> Verdict:
    return Verdict(run_id=run_id, frame=frame, file=None, judgement=None, spots=None, latency_ms=1.0, error="truncated")


def flag(number: int, state: str = "raised", run_id: str = "r") -> Flag:
    return Flag(
        id=f"{run_id}:ice:{number}",
        run_id=run_id,
        flag="ice",
        state=state,
        first_frame=number,
        frame=number + 3,
        severity=Severity.INFO,
        probability=0.9,
        reason="Ice.",
        at=datetime(2025, 1, 2, tzinfo=UTC),
    )


def finished(run_id: str = "r") -> RunFinished:
    return RunFinished(run_id=run_id, progress=Progress(received=3, judged=3), flags={}, indexed=0, wall_s=1.0, complete=True, reason=None)


def of_run(snapshot: dict[str, Any], run_id: str = "r") -> dict[str, Any]:
    return next((part for part in snapshot["runs"] if part["run"] == run_id), {})


def frames(snapshot: dict[str, Any], run_id: str = "r") -> list[int]:
    return list(of_run(snapshot, run_id).get("frames", {}).get("frame", []))


def test_an_empty_board_says_what_it_waits_for() -> None:
    snapshot = Board(waiting_for="frames from a socket").snapshot()
    assert snapshot["waiting_for"] == "frames from a socket"
    assert (snapshot["version"], snapshot["runs"], snapshot["kept"], snapshot["rates"], snapshot["more"]) == (0, [], [], None, False)


def test_a_frame_is_shown_by_the_names_of_the_results() -> None:
    """The columns are the results' own fields, nested names joined by `_`, as in the HDF5 file."""
    verdict = replace(
        judged(7),
        spots=SpotSummary(count=40, count_no_ice=31, resolution_A=1.75, total_intensity=5.0, mean_i_over_sigma=2.0),
        decay=Decay(
            probability=0.5, alarm_probability=0.7, delta_B_A2=3.25, delta_B_sigma=0.5, scale=1.0, scale_sigma=0.1, reference_frames=(0, 9)
        ),
    )
    board = Board()
    board.accept(started())
    board.accept(verdict)
    shown = of_run(board.snapshot())["frames"]

    def flatten(value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {name: value}
        return {leaf: item for key, part in value.items() for leaf, item in flatten(part, f"{name}_{key}" if name else key).items()}

    record = flatten(to_json(verdict), "")
    assert shown == {name: [record[name]] for name in FRAME_COLUMNS}


def test_what_is_not_known_is_null_and_the_snapshot_is_strict_json() -> None:
    board = Board()
    board.accept(started())
    board.accept(failed(0))
    board.accept(replace(judged(1), latency_ms=float("inf")))
    snapshot = json.loads(json.dumps(board.snapshot(), allow_nan=False))
    shown = of_run(snapshot)["frames"]
    assert shown["probabilities_multi_lattice"] == [None, 0]
    assert shown["latency_ms"] == [1, None]
    assert of_run(snapshot)["started"]["geometry_problem"] == "none stated"


def test_totals_count_hits_among_the_judged_and_name_the_last_failure() -> None:
    board = Board()
    board.accept(started())
    for verdict in (judged(0, none=0.1), judged(1, none=0.9), failed(2), judged(3, none=0.49)):
        board.accept(verdict)
    assert of_run(board.snapshot())["totals"] == {"judged": 3, "hits": 2, "errors": 1, "last_error": "frame 2: truncated"}


def test_nothing_new_since_the_newest_version() -> None:
    board = Board()
    board.accept(started())
    board.accept(judged(0))
    assert board.snapshot(board.version)["runs"] == []


def test_progress_is_shown_with_its_own_changes_only() -> None:
    board = Board()
    board.accept(started())
    seen = board.version
    board.progress("r", Progress(received=5, judged=3, dropped=1))
    assert of_run(board.snapshot(seen)) == {"run": "r", "progress": {"received": 5, "judged": 3, "dropped": 1, "failed": 0, "missing": 0}}


def test_records_of_an_unknown_run_are_ignored() -> None:
    board = Board()
    for record in (judged(0), flag(0), finished()):
        board.accept(record)
    board.progress("r", Progress())
    assert board.version == 0


def test_frames_flags_and_runs_kept_are_bounded() -> None:
    board = Board(keep_frames=10, keep_flags=4, keep_runs=2)
    for run_id in ("a", "b", "c"):
        board.accept(started(run_id))
    for frame in range(100):
        board.accept(judged(frame, "c"))
    for number in range(10):
        board.accept(flag(number, "raised", "c"))
        if number:  # the first stands on
            board.accept(flag(number, "cleared", "c"))
    snapshot = board.snapshot()
    assert snapshot["kept"] == ["b", "c"]
    assert frames(snapshot, "c") == list(range(90, 100))
    kept = of_run(snapshot, "c")["flags"]
    assert len(kept) == 4
    assert kept[0]["id"] == "c:ice:0"  # a standing flag outlives newer ones that were cleared
    assert kept[-1]["id"] == "c:ice:9"


def test_a_run_that_begins_anew_is_shown_from_its_beginning() -> None:
    board = Board()
    board.accept(started("a"))
    board.accept(judged(0, "a"))
    board.accept(started("b"))
    seen = board.version
    board.accept(started("a"))
    news = board.snapshot(seen)
    assert news["kept"] == ["b", "a"]
    assert [part["run"] for part in news["runs"]] == ["a"]
    assert "frames" not in of_run(board.snapshot(), "a")


def test_a_limited_snapshot_tells_where_to_go_on() -> None:
    board = Board()
    board.accept(started())
    for frame in range(25):
        board.accept(judged(frame))
    pages, since, more = [], 0, True
    while more:
        snapshot = board.snapshot(since, limit=10)
        pages.append(frames(snapshot))
        since, more = snapshot["version"], snapshot["more"]
    assert pages == [list(range(10)), list(range(10, 20)), list(range(20, 25))]
    assert since == board.version


class Copy:
    """A reader's copy of the board, put together from snapshots, as the page does it."""

    def __init__(self) -> None:
        self.version = 0
        self.runs: dict[str, dict[str, Any]] = {}

    def read(self, board: Board, limit: int | None) -> bool:
        snapshot = board.snapshot(self.version, limit)
        for part in snapshot["runs"]:
            if "started" in part:
                self.runs[part["run"]] = {"frames": [], "flags": []}
            mine = self.runs[part["run"]]
            mine["frames"] += part.get("frames", {}).get("frame", [])
            mine["flags"] += [(one["id"], one["state"]) for one in part.get("flags", [])]
            mine.update({name: part[name] for name in ("totals", "progress", "finished") if name in part})
        self.runs = {run_id: run for run_id, run in self.runs.items() if run_id in snapshot["kept"]}
        self.version = snapshot["version"]
        return bool(snapshot["more"])


RUN_IDS = st.sampled_from(["a", "b"])
STEPS = st.one_of(
    st.tuples(st.just("start"), RUN_IDS),
    st.tuples(st.just("frame"), RUN_IDS),
    st.tuples(st.just("frame"), RUN_IDS),
    st.tuples(st.just("fail"), RUN_IDS),
    st.tuples(st.just("flag"), RUN_IDS),
    st.tuples(st.just("progress"), RUN_IDS),
    st.tuples(st.just("finish"), RUN_IDS),
    st.tuples(st.just("read"), st.sampled_from([None, 1, 2, 5])),
)


def take_step(board: Board, truth: dict[str, dict[str, Any]], kind: str, run_id: str, number: int) -> None:
    """The same step on the board and in a plain dict."""
    if kind == "start":
        truth[run_id] = {"frames": [], "flags": []}
        board.accept(started(run_id))
    elif kind == "progress":
        board.progress(run_id, Progress(received=number))
    else:
        records: dict[str, Record] = {
            "frame": judged(number, run_id),
            "fail": failed(number, run_id),
            "flag": flag(number, "raised", run_id),
            "finish": finished(run_id),
        }
        board.accept(records[kind])
    if run_id not in truth:
        return
    mine = truth[run_id]
    if kind in ("frame", "fail"):
        mine["frames"].append(number)
        totals = mine.setdefault("totals", {"judged": 0, "hits": 0, "errors": 0, "last_error": None})
        changed = {"judged": totals["judged"] + 1, "hits": totals["hits"] + 1} if kind == "frame" else {}
        mine["totals"] = totals | changed
        if kind == "fail":
            mine["totals"] |= {"errors": totals["errors"] + 1, "last_error": f"frame {number}: truncated"}
    elif kind == "flag":
        mine["flags"].append((f"{run_id}:ice:{number}", "raised"))
    elif kind == "progress":
        mine["progress"] = {"received": number, "judged": 0, "dropped": 0, "failed": 0, "missing": 0}
    elif kind == "finish":
        mine["finished"] = to_json(finished(run_id))


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_a_copy_put_together_from_snapshots_is_the_board(steps: list[tuple[str, Any]]) -> None:
    """Whatever is accepted, and whenever it is read in whatever portions, nothing is lost and nothing comes twice."""
    board, truth, copy = Board(), dict[str, dict[str, Any]](), Copy()
    for number, (kind, what) in enumerate(steps):
        if kind == "read":
            copy.read(board, what)
        else:
            take_step(board, truth, kind, what, number)
    while copy.read(board, 3):
        pass
    assert copy.runs == truth
    assert copy.version == board.version


def test_readers_in_other_threads_get_every_frame_once() -> None:
    board = Board()
    board.accept(started())
    last = 3_000
    copies = [Copy(), Copy()]

    def read(copy: Copy) -> None:
        while not copy.runs or "finished" not in copy.runs["r"]:
            copy.read(board, 100)

    readers = [threading.Thread(target=read, args=(copy,)) for copy in copies]
    for reader in readers:
        reader.start()
    for frame in range(last):
        board.accept(judged(frame))
    board.accept(finished())
    for reader in readers:
        reader.join(20)
    for copy in copies:
        assert copy.runs["r"]["frames"] == list(range(last))


def test_rates_are_of_the_newest_run_and_fall_when_nothing_arrives() -> None:
    now = 100.0
    board = Board(clock=lambda: now)
    board.accept(started())
    for frame in range(201):
        board.accept(judged(frame))
        if frame % 40 == 0:
            board.progress("r", Progress(received=2 * frame, judged=frame))
        now += 0.025
    rates = board.snapshot()["rates"]
    assert rates["run"] == "r"
    assert rates["judged_per_s"] == pytest.approx(40, rel=0.06)  # one every 25 ms
    assert rates["received_per_s"] == pytest.approx(80, rel=0.06)  # two for each
    now += 10
    assert board.snapshot()["rates"] == {"run": "r", "judged_per_s": 0, "received_per_s": 0}


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_rate_is_the_count_in_the_window(gaps: list[float]) -> None:
    """Against counting every arrival of the window; steps of 0.25 s may be late by one step."""
    meter, times = RateMeter(window_s=5.0, step_s=0.25), list(np.cumsum(gaps))
    for at in times:
        meter.add(1, at)
    now = times[-1]
    length = max(0.25, min(5.0, now - times[0]))
    least = sum(now - 4.75 < at for at in times) / length
    most = sum(now - 5.25 <= at for at in times) / length
    assert least - 1e-9 <= meter.per_second(now) <= most + 1e-9


@given(st.integers(1, 30), st.integers(0, 200), st.integers(-1, 210), st.integers(0, 210))
@settings(max_examples=150, deadline=None)
def test_history_is_the_tail_of_what_was_appended(keep: int, n: int, since: int, upto: int) -> None:
    """Against a plain list."""
    history = FrameHistory(("number", "half"), keep)
    for version in range(n):
        history.append(version, (version, None if version % 3 == 0 else version / 2))
    wanted = [version for version in list(range(n))[-keep:] if since < version <= upto]
    columns = as_columns(("number", "half"), history.between(since, upto))
    assert columns == {"number": wanted, "half": [None if version % 3 == 0 else version / 2 for version in wanted]}
    assert list(history.versions_after(since)) == [version for version in list(range(n))[-keep:] if version > since]
