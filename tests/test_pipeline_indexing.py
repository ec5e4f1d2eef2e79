"""The loop with a slow lane: order of records, ends of runs, stopping; indexers are fakes in processes of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
from fake_indexers import DIE, HANG, NONE, ONE, RAISE, SLOW, FakeIndexer, FakeWithBeam, indexable_run, judged, spots_telling
from test_pipeline import ListSink

from triage.buffer import Mode
from triage.core import Event, Frame, Indexer, Indexing, Judgement, Pixels, Run, RunEnd, RunFinished, RunStarted, Spots, Verdict
from triage.early_lane import Judge
from triage.pipeline import NOT_INDEXED_IN_TIME, STOPPED_REASON, Lane, Pipeline
from triage.slow_lane import Plan, SlowLane


def a_frame(run: Run, index: int) -> Frame:
    return Frame(run=run, index=index, decode=lambda: np.zeros((4, 5), np.uint16), arrived_s=time.monotonic())


def whole(run: Run, n: int) -> list[Event]:
    return [run, *(a_frame(run, k) for k in range(n)), RunEnd(run=run, complete=True)]


def telling(orders: Sequence[float]) -> Callable[[Frame], Verdict]:
    return lambda frame: judged(frame.run, frame.index, orders[frame.index])


def all_of(plan: Plan, indexer: Callable[[], Indexer] = FakeIndexer) -> SlowLane:
    return SlowLane(indexer, engine="fake", plan=plan)


EVERYTHING = Plan(every=1, complete=True)


def ends(sink: ListSink) -> list[RunFinished]:
    return [r for r in sink.records if isinstance(r, RunFinished)]


def indexings(sink: ListSink) -> dict[int, str]:
    return {r.frame: r.indexed.status.value for r in sink.records if isinstance(r, Indexing)}


def test_everything_is_indexed_before_its_runs_end_whatever_becomes_of_the_processes() -> None:
    orders, sink = [ONE, DIE, RAISE, NONE, ONE], ListSink()
    a, b = indexable_run("a"), indexable_run("b")
    Pipeline([*whole(a, 5), *whole(b, 2)], telling(orders), [sink], slow=all_of(EVERYTHING)).run()
    kinds = [(type(r).__name__, r.run.id if isinstance(r, RunStarted) else r.run_id) for r in sink.records]
    assert sorted(kinds[: kinds.index(("RunFinished", "a"))]) == sorted(
        [("RunStarted", "a"), *[("Verdict", "a")] * 5, *[("Indexing", "a")] * 5]
    )
    assert kinds[-1] == ("RunFinished", "b")
    assert [end.indexed for end in ends(sink)] == [2, 1]
    seen: set[tuple[str, int]] = set()
    for record in sink.records:
        if isinstance(record, Verdict):
            assert record.found is None
            seen.add((record.run_id, record.frame))
        if isinstance(record, Indexing):
            assert (record.run_id, record.frame) in seen
            assert record.latency_ms > 0
    assert sink.closed == 1


def test_a_runs_own_beam_is_tried_first_on_its_later_frames_and_not_on_the_next_runs() -> None:
    sink = ListSink()
    a, b = indexable_run("a"), indexable_run("b")
    Pipeline([*whole(a, 40), *whole(b, 2)], telling([ONE] * 40), [sink], slow=all_of(EVERYTHING, FakeWithBeam)).run()
    told = {(r.run_id, r.frame): r.indexed.reason for r in sink.records if isinstance(r, Indexing)}
    assert [told["a", frame] for frame in range(3)] == ["None"] * 3
    assert told["a", 39] == "(24.0, -32.0)"
    assert [told["b", frame] for frame in range(2)] == ["None"] * 2


def test_a_slow_indexer_never_delays_the_early_lane() -> None:
    at_s = [0.0]
    lane = all_of(Plan(queue=4), partial(FakeIndexer, slow_s=0.3))
    lane.start()
    time.sleep(2.0)

    class Timed(ListSink):
        def accept(self, record: object) -> None:
            if isinstance(record, Verdict):
                at_s[0] = time.monotonic()
            super().accept(record)  # type: ignore[arg-type]

    sink = Timed()
    began_s = time.monotonic()
    Pipeline(whole(indexable_run(), 200), telling([SLOW] * 200), [sink], slow=lane, lane=Lane(judges=2)).run()
    assert at_s[0] - began_s < 3.0  # 200 frames at 0.3 s would take a minute
    found = indexings(sink)
    assert sorted(found) == list(range(200))
    assert list(found.values()).count("skipped") >= 150
    assert ends(sink)[0].indexed == list(found.values()).count("indexed") >= 2


def test_a_live_runs_end_waits_for_indexing_no_longer_than_it_may() -> None:
    sink, lane = ListSink(), all_of(Plan(timeout_s=600))
    began_s = time.monotonic()
    live = Lane(mode=Mode.LIVE, indexing_patience_s=0.5)
    Pipeline(whole(indexable_run(), 3), telling([HANG] * 3), [sink], slow=lane, lane=live).run()
    assert time.monotonic() - began_s < 20.0
    assert {r.indexed.reason for r in sink.records if isinstance(r, Indexing)} == {NOT_INDEXED_IN_TIME}
    assert isinstance(sink.records[-1], RunFinished)
    assert sink.records[-1].complete


def test_a_live_runs_end_does_not_wait_while_the_next_run_does() -> None:
    sink, lane = ListSink(), all_of(Plan(timeout_s=600))
    live = Lane(mode=Mode.LIVE, indexing_patience_s=60.0)
    events = [*whole(indexable_run("a"), 2), *whole(indexable_run("b"), 0)]
    began_s = time.monotonic()
    Pipeline(events, telling([HANG] * 2), [sink], slow=lane, lane=live).run()
    assert time.monotonic() - began_s < 30.0
    assert [end.run_id for end in ends(sink)] == ["a", "b"]


def test_stop_gives_up_what_is_not_indexed_and_ends_cleanly() -> None:
    sink = ListSink()
    pipeline = Pipeline(whole(indexable_run(), 4), telling([HANG] * 4), [sink], slow=all_of(Plan(every=1, complete=True, timeout_s=600)))
    threading.Timer(1.0, pipeline.stop).start()
    began_s = time.monotonic()
    pipeline.run()
    assert time.monotonic() - began_s < 30.0
    assert {r.indexed.reason for r in sink.records if isinstance(r, Indexing)} == {STOPPED_REASON}
    assert isinstance(sink.records[-1], RunFinished)
    assert sink.closed == 1


def test_where_everything_is_indexed_memory_is_bounded_and_the_early_lane_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triage.slow_lane.lane.MOST_BYTES", 6_000)
    sink, most = ListSink(), [0]
    lane = all_of(EVERYTHING)
    real = lane.offer

    def offer(run: Run, verdict: Verdict, arrived_s: float) -> None:
        real(run, verdict, arrived_s)
        most[0] = max(most[0], len(lane._queue))

    monkeypatch.setattr(lane, "offer", offer)
    Pipeline(whole(indexable_run(), 60), telling([ONE] * 60), [sink], slow=lane).run()
    assert indexings(sink) == dict.fromkeys(range(60), "indexed")
    assert most[0] <= 4


def test_frames_that_failed_early_are_skipped_and_say_why() -> None:
    def judge(frame: Frame) -> Verdict:
        return Verdict(run_id=frame.run.id, frame=frame.index, file=None, judgement=None, spots=None, latency_ms=0.0, error="truncated")

    sink = ListSink()
    Pipeline(whole(indexable_run(), 2), judge, [sink], slow=all_of(EVERYTHING)).run()
    [first, _] = [r for r in sink.records if isinstance(r, Indexing)]
    assert (first.indexed.status, first.indexed.reason, first.multi_lattice) == ("skipped", "the frame could not be judged", None)


class OneSpotFinder:
    def find(self, pixels: Pixels, run: Run) -> Spots:
        return spots_telling(ONE)


class FakeClassifier:
    def score(self, pixels: Pixels, spots: Spots, run: Run) -> Judgement:
        verdict = judged(run, 0)
        assert verdict.judgement is not None
        return verdict.judgement


@pytest.mark.parametrize("keep", [True, False])
def test_a_judge_keeps_the_spots_only_where_they_are_wanted(keep: bool) -> None:
    run = Run(id="r", header=indexable_run().header, kind=None, geometry=None)
    frame = Frame(run=run, index=0, decode=lambda: np.zeros(run.header.shape_px or (1, 1), np.uint16), arrived_s=0.0)
    verdict = Judge(finder=OneSpotFinder(), classifier=FakeClassifier(), keep_spots=keep).judge(frame)
    assert verdict.error is None
    assert (verdict.found is not None) == keep
