"""The slow lane with fake indexers in processes of their own: nothing that happens to one costs more than its frame."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fake_indexers import (
    DIE,
    HANG,
    NONE,
    ONE,
    RAISE,
    SLOW,
    TWO,
    FakeEngineWithAName,
    FakeIndexer,
    FakeTogether,
    FakeWithBeam,
    absent,
    broken,
    indexable_run,
    judged,
    spots_telling,
)

from triage.core import Indexed, Judgement, Run, RunKind, Verdict
from triage.slow_lane import Job, Known, Outcome, Plan, SlowLane, unfit
from triage.slow_lane.jobs import LAGS, JobQueue, Recent
from triage.slow_lane.lane import MOST_BYTES

REPOSITORY = Path(__file__).resolve().parents[1]
RUN = indexable_run()


@pytest.fixture
def lane() -> Iterator[Any]:
    """Makes lanes, and closes them."""
    made: list[SlowLane] = []

    def make(indexer: Any = FakeIndexer, **plan: Any) -> SlowLane:
        made.append(SlowLane(indexer, engine="fake", plan=Plan(**plan)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def drained(lane: SlowLane, within_s: float = 60.0) -> list[Outcome]:
    found: list[Outcome] = []
    deadline_s = time.monotonic() + within_s
    while lane.is_busy:
        assert time.monotonic() < deadline_s, "the lane does not finish"
        found += lane.take(0.1)
    return found


def told(outcomes: list[Outcome]) -> dict[int, tuple[str, str | None]]:
    return {o.frame: (o.indexed.status.value, o.indexed.reason) for o in outcomes}


def offer(lane: SlowLane, verdicts: list[Verdict], run: Run = RUN) -> None:
    for verdict in verdicts:
        lane.offer(run, verdict, time.monotonic())


# which frames


def test_frames_that_are_not_worth_it_are_skipped_and_say_why() -> None:
    unknown = Run(id="r", header=RUN.header, kind=None, geometry=None)
    failed = Verdict(run_id="r", frame=0, file=None, judgement=None, spots=None, latency_ms=0.0, error="truncated")
    assert unfit(RUN, judged(RUN, 0)) is None
    assert unfit(RUN, failed) == "the frame could not be judged"
    assert unfit(RUN, judged(RUN, 0, p_none=0.93, p_multi=0.0)) == "it does not diffract (probability 0.93)"
    assert unfit(RUN, judged(RUN, 0, n=9)) == "9 spots off the ice rings; at least 10 are needed"
    assert unfit(unknown, judged(unknown, 0)) == "the geometry is not known"


def test_nothing_is_started_for_frames_that_are_not_worth_it(lane: Any) -> None:
    slow = lane()
    offer(slow, [judged(RUN, 0, n=3)])
    assert told(slow.take()) == {0: ("skipped", "3 spots off the ice rings; at least 10 are needed")}
    assert not slow._threads


def test_every_nth_frame_has_an_outcome_and_no_other(lane: Any) -> None:
    slow = lane(every=3, complete=True)
    offer(slow, [judged(RUN, frame, n=40 if frame % 2 else 5) for frame in range(10)])
    assert {frame: status for frame, (status, _) in told(drained(slow)).items()} == {0: "skipped", 3: "indexed", 6: "skipped", 9: "indexed"}


# frames together


def turning(axis: tuple[float, float, float] | None = (1.0, 0.0, 0.0), kind: RunKind = RunKind.ROTATION) -> Run:
    run = indexable_run(kind=kind)
    return replace(run, header=replace(run.header, rotation_axis=axis, omega_step_deg=0.2))


def test_frames_of_a_rotation_go_with_those_before_them(lane: Any) -> None:
    run, slow = turning(), lane(FakeTogether, every=2, complete=True, together=3)
    offer(slow, [judged(run, frame, n=20 + frame) for frame in (0, 1, 2, 4, 5, 6)], run)
    assert told(drained(slow)) == {  # frame 3 was not judged
        0: ("not_indexed", "[]"),
        2: ("not_indexed", "[(1, 21), (2, 20)]"),
        4: ("not_indexed", "[(2, 22)]"),
        6: ("not_indexed", "[(1, 25), (2, 24)]"),
    }


def test_frames_of_few_spots_are_worth_it_together(lane: Any) -> None:
    run, slow = turning(), lane(FakeTogether, every=1, complete=True, together=2)
    offer(slow, [judged(run, frame, n=6) for frame in range(2)], run)
    assert told(drained(slow)) == {
        0: ("skipped", "6 spots off the ice rings; at least 10 are needed"),
        1: ("not_indexed", "[(1, 6)]"),
    }
    assert unfit(run, judged(run, 1, p_none=0.8, p_multi=0.0), n_before=6) is None
    assert unfit(run, judged(run, 1, p_none=0.8, p_multi=0.0)) == "it does not diffract (probability 0.80)"
    assert unfit(run, judged(run, 1, p_none=0.95, p_multi=0.0), n_before=6) == "it does not diffract (probability 0.95)"
    assert unfit(run, judged(run, 1, n=3), n_before=6) == "3 spots off the ice rings and 6 of the frames before; at least 10 are needed"


@pytest.mark.parametrize(("run", "said"), [(turning(axis=None), True), (turning(kind=RunKind.STILLS), False)], ids=["no axis", "stills"])
def test_where_frames_cannot_go_together_they_go_alone(run: Run, said: bool, caplog: pytest.LogCaptureFixture) -> None:
    recent = Recent(3)
    with caplog.at_level(logging.INFO):
        assert [recent.before(run, judged(run, frame)) for frame in range(3)] == [()] * 3
    assert caplog.text.count("its header states no rotation axis") == said


def test_frames_of_another_run_do_not_go_together() -> None:
    recent = Recent(3)
    assert recent.before(turning(), judged(RUN, 0)) == ()
    assert recent.before(turning(), judged(RUN, 1)) == ()


# what the processes do


def test_outcomes_tell_what_the_indexer_said(lane: Any) -> None:
    slow = lane(complete=True, every=1)
    offer(slow, [judged(RUN, 0, ONE), judged(RUN, 1, TWO), judged(RUN, 2, NONE), judged(RUN, 3, RAISE)])
    found = {o.frame: o for o in drained(slow)}
    assert [found[k].indexed.status for k in range(4)] == ["indexed", "indexed", "not_indexed", "failed"]
    assert [len(found[k].indexed.solutions) for k in range(4)] == [1, 2, 0, 0]
    assert found[3].indexed.reason == "ValueError: singular matrix"
    assert {o.engine for o in found.values()} == {"fake"}
    assert found[0].n_spots == 40
    assert isinstance(found[0].judgement, Judgement)


def test_an_engine_may_name_itself(lane: Any) -> None:
    slow = lane(FakeEngineWithAName, complete=True, every=1)
    offer(slow, [judged(RUN, 0)])
    assert [o.engine for o in drained(slow)] == ["fake 1.2"]


def test_a_process_that_dies_costs_its_frame_and_is_replaced(lane: Any, caplog: pytest.LogCaptureFixture) -> None:
    slow = lane(complete=True, every=1)
    offer(slow, [judged(RUN, 0), judged(RUN, 1, DIE), judged(RUN, 2), judged(RUN, 3, DIE), judged(RUN, 4)])
    found = told(drained(slow))
    assert {k: status for k, (status, _) in found.items()} == {0: "indexed", 1: "failed", 2: "indexed", 3: "failed", 4: "indexed"}
    assert found[1][1] == "the indexing process died (signal SIGKILL)"
    assert "frame 1: the indexing process died" in caplog.text


def test_a_process_killed_from_outside_while_idle_costs_nothing(lane: Any) -> None:
    slow = lane(complete=True, every=1)
    offer(slow, [judged(RUN, 0)])
    drained(slow)
    [child] = [p for p in _children() if "indexing" in p.name]
    child.kill()
    child.join(5)
    offer(slow, [judged(RUN, 1)])
    assert told(drained(slow)) == {1: ("indexed", None)}


def _children() -> Any:
    import multiprocessing

    return multiprocessing.active_children()


def test_a_frame_that_takes_too_long_fails_and_the_next_does_not(lane: Any) -> None:
    slow = lane(complete=True, every=1, timeout_s=0.5)
    offer(slow, [judged(RUN, 0, HANG), judged(RUN, 1)])
    found = told(drained(slow))
    assert found[0] == ("failed", "no answer within 0.5 s; the indexing process was ended")
    assert found[1] == ("indexed", None)


@pytest.mark.parametrize(("make", "said"), [(absent, "no engine here"), (broken, "the indexing process died (exit status 1)")])
def test_an_engine_that_does_not_start_fails_every_frame_with_one_warning(
    make: Any, said: str, lane: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    slow = lane(make, complete=True, every=1)
    offer(slow, [judged(RUN, frame) for frame in range(3)])
    assert told(drained(slow)) == dict.fromkeys(range(3), ("failed", f"the indexer does not start: {said}"))
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warnings] == [f"frames are not indexed: {said}"]


def test_masks_do_not_travel(lane: Any) -> None:
    slow = lane(complete=True, every=1)
    offer(slow, [judged(RUN, 0)])
    light = slow._lightened[1]
    assert light.mask is None
    assert light.header.pixel_mask is None
    assert light.geometry == RUN.geometry
    assert RUN.mask is not None


def test_known_cells_and_the_runs_own_are_handed_over(lane: Any) -> None:
    given, own = (10.0, 20.0, 30.0, 90.0, 90.0, 90.0), (11.0, 21.0, 31.0, 90.0, 90.0, 90.0)
    slow = lane(complete=True, every=1, cells=(given,))
    offer(slow, [judged(RUN, 0)])
    assert [o.indexed.solutions[0].cell for o in drained(slow)] == [given]
    slow.know(RUN.id, Known(cell=own))
    offer(slow, [judged(RUN, 1)])
    assert [o.indexed.solutions[0].cell for o in drained(slow)] == [own]
    other = indexable_run("other")
    offer(slow, [judged(other, 0)], other)
    assert [o.indexed.solutions[0].cell for o in drained(slow)] == [given]


def test_where_the_runs_frames_have_the_beam_is_handed_over(lane: Any) -> None:
    slow = lane(FakeWithBeam, complete=True, every=1)
    offer(slow, [judged(RUN, 0)])
    assert [o.indexed.reason for o in drained(slow)] == ["None"]
    slow.know(RUN.id, Known(beam_shift_px=(24.0, -32.0)))
    offer(slow, [judged(RUN, 1)])
    assert [o.indexed.reason for o in drained(slow)] == ["(24.0, -32.0)"]
    other = indexable_run("other")
    offer(slow, [judged(other, 0)], other)
    assert [o.indexed.reason for o in drained(slow)] == ["None"]


# when it lags


def test_offering_never_waits_and_what_does_not_fit_is_skipped(lane: Any) -> None:
    slow = lane(partial(FakeIndexer, slow_s=0.02), queue=8)
    began_s = time.monotonic()
    offer(slow, [judged(RUN, frame, SLOW) for frame in range(500)])
    assert time.monotonic() - began_s < 1.0
    found = drained(slow)
    assert sorted(o.frame for o in found) == list(range(500))
    counts = Counter(o.indexed.status.value for o in found)
    assert counts["indexed"] >= 4
    assert {o.indexed.reason for o in found if o.indexed.status == "skipped"} == {LAGS}


def job(frame: int, p_multi: float) -> Job:
    judgement = judged(RUN, frame, p_multi=p_multi).judgement
    assert judgement is not None
    return Job(run=RUN, frame=frame, spots=spots_telling(ONE), judgement=judgement, arrived_s=0.0)


def test_what_the_network_doubts_goes_first_but_starves_no_other() -> None:
    queue = JobQueue(16)
    for frame, p_multi in enumerate([0.01, 0.02, 0.3, 0.45, 0.03, 0.6]):
        assert queue.add(job(frame, p_multi)) is None
    assert [queue.pop().frame for _ in range(6)] == [3, 0, 5, 1, 2, 4]  # type: ignore[union-attr]
    assert queue.pop() is None
    assert queue.n_bytes == 0


def test_of_too_many_doubted_frames_the_least_doubted_goes() -> None:
    queue = JobQueue(4)
    shed = [queue.add(job(frame, p)) for frame, p in enumerate([0.2, 0.5, 0.4])]
    assert [None if s is None else s.frame for s in shed] == [None, None, 0]


def test_of_sure_frames_an_even_sample_waits() -> None:
    queue, taken = JobQueue(16), []
    for frame in range(400):
        queue.add(job(frame, 0.01))
        if frame % 10 == 9:
            taken.append(queue.pop().frame)  # type: ignore[union-attr]
    gaps = [b - a for a, b in pairwise(taken[10:])]
    assert min(gaps) >= 8
    assert max(gaps) <= 12


def test_without_a_bound_everything_waits_in_order() -> None:
    queue = JobQueue(None)
    assert all(queue.add(job(frame, 0.5 if frame % 3 else 0.01)) is None for frame in range(300))
    assert [queue.pop().frame for _ in range(300)] == list(range(300))  # type: ignore[union-attr]


def test_the_lane_is_full_only_where_everything_is_indexed_and_memory_runs_out(lane: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_BYTES < 1e9
    monkeypatch.setattr("triage.slow_lane.lane.MOST_BYTES", 3_000)
    slow = lane(complete=True, every=1)
    slow.start = lambda: None  # nobody works it off
    offer(slow, [judged(RUN, 0)])
    assert not slow.is_full
    offer(slow, [judged(RUN, 1)])
    assert slow.is_full
    assert not lane(queue=2).is_full


# the end


def test_what_is_given_up_is_skipped_and_its_late_answer_is_not_heard(lane: Any) -> None:
    slow = lane(partial(FakeIndexer, slow_s=0.5), complete=True, every=1)
    offer(slow, [judged(RUN, frame, SLOW) for frame in range(3)])
    deadline_s = time.monotonic() + 60
    while not slow._in_hand and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert told(slow.abandon("stopped")) == dict.fromkeys(range(3), ("skipped", "stopped"))
    assert not slow.is_busy
    offer(slow, [judged(RUN, 7)])
    assert told(drained(slow)) == {7: ("indexed", None)}


def test_closing_does_not_wait_for_a_frame_that_hangs(lane: Any) -> None:
    slow = lane(complete=True, every=1, timeout_s=600.0)
    offer(slow, [judged(RUN, 0, HANG)])
    deadline_s = time.monotonic() + 60
    while not slow._in_hand and time.monotonic() < deadline_s:
        time.sleep(0.01)
    began_s = time.monotonic()
    slow.close()
    assert time.monotonic() - began_s < 3.0
    assert not [p for p in _children() if p.name == "indexing"]
    slow.close()


PARENT = """
import os, sys, time
sys.path[:0] = [{repository!r}, {tests!r}]
from fake_indexers import FakeIndexer, HANG, ONE, indexable_run, judged
from triage.slow_lane import Plan, SlowLane
if __name__ == "__main__":
    run = indexable_run()
    lane = SlowLane(FakeIndexer, engine="fake", plan=Plan(every=1, complete=True))
    lane.offer(run, judged(run, 0, ONE), 0.0)
    while not lane.take(0.1):
        pass
    import multiprocessing
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(600)
"""


def test_an_indexing_process_survives_ctrl_c_and_does_not_survive_its_parent() -> None:
    program = PARENT.format(repository=str(REPOSITORY), tests=str(REPOSITORY / "tests"))
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        child = int(parent.stdout.readline())
        os.kill(child, signal.SIGINT)
        time.sleep(0.2)
        os.kill(child, 0)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    deadline_s = time.monotonic() + 10
    while _exists(child):
        assert time.monotonic() < deadline_s, "the indexing process outlives its parent"
        time.sleep(0.05)


def _exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_indexed_is_what_comes_back(lane: Any) -> None:
    slow = lane(complete=True, every=1)
    offer(slow, [judged(RUN, 0, TWO)])
    [found] = drained(slow)
    assert isinstance(found.indexed, Indexed)
    assert [s.n_indexed for s in found.indexed.solutions] == [24, 14]
