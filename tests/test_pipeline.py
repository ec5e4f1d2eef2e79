"""The loop, with fakes on both sides: order, books, failing frames, stopping, sinks that break. No sockets, files or networks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triage.buffer import FrameBuffer, Mode, Pending, Sampler
from triage.core import (
    Decay,
    Event,
    Flag,
    Frame,
    FrameError,
    Indexed,
    IndexingStatus,
    Judgement,
    Lost,
    Pixels,
    Progress,
    Record,
    Run,
    RunEnd,
    RunFinished,
    RunHeader,
    RunKind,
    RunStarted,
    Severity,
    SourceError,
    Spots,
    Verdict,
)
from triage.early_lane import Judge
from triage.fold import FoldParts, IndexSet, RunFold
from triage.pipeline import STOPPED_REASON, Lane, Pipeline
from triage.slow_lane import Outcome

JUDGEMENT = Judgement(lattices=(0.1, 0.8, 0.1, 0.0), non_diffraction_kind=(1.0, 0.0, 0.0, 0.0), ice_rings=0.0, resolution_A=2.0)
SHAPE = (4, 5)


def a_run(name: str = "run", expected: int | None = None) -> Run:
    header = RunHeader(source="memory", shape_px=SHAPE, frames_expected=expected)
    return Run(id=name, header=header, kind=RunKind.ROTATION, geometry=None)


def a_frame(run: Run, index: int, decode: Callable[[], Pixels] = lambda: np.zeros(SHAPE, np.uint16)) -> Frame:
    return Frame(run=run, index=index, decode=decode, arrived_s=time.monotonic())


def verdict_of(frame: Frame, error: str | None = None) -> Verdict:
    judgement = None if error else JUDGEMENT
    return Verdict(run_id=frame.run.id, frame=frame.index, file=None, judgement=judgement, spots=None, latency_ms=0.0, error=error)


class ListSink:
    """Keeps records; can be told to break at the nth."""

    def __init__(self, breaks_at: int | None = None, error: Exception | None = None) -> None:
        self.records: list[Record] = []
        self.closed = 0
        self._breaks_at, self._error = breaks_at, error or OSError("No space left on device")

    def accept(self, record: Record) -> None:
        if self._breaks_at is not None and len(self.records) >= self._breaks_at:
            raise self._error
        self.records.append(record)

    def close(self) -> None:
        self.closed += 1

    def of(self, kind: type[Record]) -> list[Record]:
        return [record for record in self.records if isinstance(record, kind)]


def run_all(events: Iterable[Event], judge: Callable[[Frame], Verdict] = verdict_of, **options: object) -> ListSink:
    sink = ListSink()
    Pipeline(list(events), judge, [sink], **options).run()  # type: ignore[arg-type]
    return sink


def books(record: Record) -> tuple[int, int, int, int, int]:
    assert isinstance(record, RunFinished)
    p = record.progress
    assert p.received == p.judged + p.dropped + p.failed
    return p.received, p.judged, p.dropped, p.failed, p.missing


def whole(run: Run, n: int) -> list[Event]:
    return [run, *(a_frame(run, i) for i in range(n)), RunEnd(run=run, complete=True)]


# order


def test_verdicts_come_in_frame_order_although_judges_finish_out_of_order() -> None:
    rng = np.random.default_rng(1)
    delays = rng.uniform(0, 0.004, 60)

    def judge(frame: Frame) -> Verdict:
        time.sleep(delays[frame.index])
        return verdict_of(frame)

    sink = run_all(whole(a_run(), 60), judge, lane=Lane(judges=8, buffer_frames=16))
    assert isinstance(sink.records[0], RunStarted)
    assert isinstance(sink.records[-1], RunFinished)
    assert [v.frame for v in sink.of(Verdict)] == list(range(60))  # type: ignore[union-attr]
    assert books(sink.records[-1]) == (60, 60, 0, 0, 0)


def test_runs_back_to_back_have_their_own_records() -> None:
    sink = run_all([*whole(a_run("a"), 3), *whole(a_run("b"), 2)], lane=Lane(judges=3))
    ids = [(type(r).__name__, r.run.id if isinstance(r, RunStarted) else r.run_id) for r in sink.records]
    assert ids == [
        ("RunStarted", "a"),
        *[("Verdict", "a")] * 3,
        ("RunFinished", "a"),
        ("RunStarted", "b"),
        *[("Verdict", "b")] * 2,
        ("RunFinished", "b"),
    ]


def test_latency_runs_from_the_frames_arrival_to_its_record() -> None:
    run = a_run()
    frame = Frame(run=run, index=0, decode=lambda: np.zeros(SHAPE), arrived_s=time.monotonic() - 5.0)
    sink = run_all([run, frame, RunEnd(run=run, complete=True)])
    [verdict] = sink.of(Verdict)
    assert isinstance(verdict, Verdict)
    assert 5000 <= verdict.latency_ms < 60_000


# books


def test_a_failing_frame_costs_its_verdict_and_no_other() -> None:
    run = a_run(expected=4)
    sink = run_all(whole(run, 4), lambda f: verdict_of(f, "bad checksum" if f.index == 2 else None))
    errors = [v.error for v in sink.of(Verdict)]  # type: ignore[union-attr]
    assert errors == [None, None, "bad checksum", None]
    assert books(sink.records[-1]) == (4, 3, 0, 1, 0)


def test_losses_are_booked_and_failed_frames_with_a_number_get_a_verdict() -> None:
    run = a_run(expected=6)
    events: list[Event] = [
        run,
        a_frame(run, 0),
        Lost(run=run, what="failed", reason="frame 1: truncated", index=1),
        Lost(run=run, what="failed", reason="not CBOR"),
        Lost(run=run, what="dropped", reason="repeated", index=0),
        a_frame(run, 3),
        RunEnd(run=run, complete=True),
    ]
    sink = run_all(events)
    assert [(v.frame, v.error) for v in sink.of(Verdict)] == [(0, None), (1, "frame 1: truncated"), (3, None)]  # type: ignore[union-attr]
    # six announced: 0, 1 and 3 came by number, one message cannot be told, so two are missing
    assert books(sink.records[-1]) == (5, 2, 1, 2, 2)
    [end] = sink.of(RunFinished)
    assert isinstance(end, RunFinished)
    assert (end.complete, end.reason) == (False, "2 of 6 announced frames never came")


def test_a_run_of_which_nothing_is_known_still_gets_both_its_records() -> None:
    run = Run(id="gone", header=RunHeader(source="gone.h5"), kind=None, geometry=None)
    sink = run_all([run, RunEnd(run=run, complete=False, reason="gone.h5: no such file")])
    assert isinstance(sink.records[0], RunStarted)
    end = sink.records[1]
    assert isinstance(end, RunFinished)
    assert (end.complete, end.reason, books(end)) == (False, "gone.h5: no such file", (0, 0, 0, 0, 0))


EVENTS = st.lists(st.sampled_from(["frame", "bad", "dropped", "failed", "unnumbered", "next run", "no end"]), max_size=40)


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.sampled_from(list(Mode)), st.integers(1, 4))
def test_the_books_balance_whatever_the_source_does(script: list[str], mode: Mode, judges: int) -> None:
    events: list[Event] = [run := a_run("0")]
    received = [0]
    bad: set[tuple[str, int]] = set()
    for index, what in enumerate(script):
        if what in ("next run", "no end"):
            if what == "next run":
                events.append(RunEnd(run=run, complete=True))
            events.append(run := a_run(str(len(received))))
            received.append(0)
            continue
        received[-1] += 1
        if what in ("frame", "bad"):
            events.append(a_frame(run, index))
            bad |= {(run.id, index)} if what == "bad" else set()
        else:
            lost = "failed" if what == "unnumbered" else what
            events.append(Lost(run=run, what=lost, reason=what, index=None if what == "unnumbered" else index))

    def judge(frame: Frame) -> Verdict:
        return verdict_of(frame, "bad" if (frame.run.id, frame.index) in bad else None)

    sink = run_all(events, judge, lane=Lane(mode=mode, judges=judges, buffer_frames=4))
    ends = sink.of(RunFinished)
    assert [books(end)[0] for end in ends] == received
    assert len(sink.of(RunStarted)) == len(received)
    frames: dict[str, list[int]] = {}
    for verdict in sink.of(Verdict):
        assert isinstance(verdict, Verdict)
        frames.setdefault(verdict.run_id, []).append(verdict.frame)
    assert all(seen == sorted(set(seen)) for seen in frames.values())


@given(st.lists(st.integers(0, 2**40)))
def test_index_set_counts_what_a_set_counts(indices: list[int]) -> None:
    numbers = IndexSet()
    for index in indices:
        numbers.add(index)
    assert len(numbers) == len(set(indices))


# live and complete


class Gate:
    """A judge that waits until it is opened."""

    def __init__(self) -> None:
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    def __call__(self, frame: Frame) -> Verdict:
        self._opened.wait(10)
        return verdict_of(frame)


def test_complete_mode_takes_nothing_more_from_the_source_while_the_buffer_is_full() -> None:
    gate, given_out = Gate(), []
    run = a_run()

    def source() -> Iterator[Event]:
        yield run
        for i in range(50):
            given_out.append(i)
            yield a_frame(run, i)
        yield RunEnd(run=run, complete=True)

    sink = ListSink()
    pipeline = Pipeline(source(), gate, [sink], lane=Lane(mode=Mode.COMPLETE, judges=2, buffer_frames=8))
    worker = threading.Thread(target=pipeline.run)
    worker.start()
    time.sleep(0.3)
    assert len(given_out) == 9  # eight inside, and the one that waits at the door
    gate.open()
    worker.join(10)
    assert books(sink.records[-1]) == (50, 50, 0, 0, 0)


def test_live_mode_never_waits_and_never_decodes_what_it_sheds() -> None:
    gate, decoded = Gate(), []
    run = a_run(expected=500)

    def judge(frame: Frame) -> Verdict:
        frame.decode()
        return gate(frame)

    def decode_of(i: int) -> Callable[[], Pixels]:
        def decode() -> Pixels:
            decoded.append(i)
            return np.zeros(SHAPE)

        return decode

    events = [run, *(a_frame(run, i, decode_of(i)) for i in range(500)), RunEnd(run=run, complete=True)]
    sink = ListSink()
    pipeline = Pipeline(events, judge, [sink], lane=Lane(mode=Mode.LIVE, judges=2, buffer_frames=16))
    worker = threading.Thread(target=pipeline.run)
    worker.start()
    time.sleep(0.2)
    gate.open()
    worker.join(10)
    received, judged, dropped, failed, missing = books(sink.records[-1])
    assert (received, failed, missing) == (500, 0, 0)
    assert 0 < judged <= 16
    assert dropped == 500 - judged
    assert len(decoded) == judged


def simulate_sampling(arrivals_per_service: float, n: int, capacity: int = 32) -> list[int]:
    """Frames let through when `arrivals_per_service` come in the time one is judged; deterministic, no clock."""
    sampler, backlog, served, passed = Sampler(capacity), 0, 0.0, []
    for i in range(n):
        if sampler.admits(backlog):
            passed.append(i)
            backlog += 1
        assert backlog <= capacity
        served += 1.0 / arrivals_per_service
        while served >= 1.0:
            served -= 1.0
            backlog = max(0, backlog - 1)
    return passed


@pytest.mark.parametrize("overload", [0.3, 0.95])
def test_the_sampler_lets_everything_through_while_judges_keep_up(overload: float) -> None:
    assert len(simulate_sampling(overload, 2000)) == 2000


@pytest.mark.parametrize("overload", [1.2, 1.7, 3.0, 7.5, 20.0])
def test_the_sampler_is_even_and_uses_all_that_the_judges_can_do(overload: float) -> None:
    passed = [i for i in simulate_sampling(overload, 6000) if i > 1000]
    gaps = np.diff(passed)
    assert len(passed) == pytest.approx(5000 / overload, rel=0.05)
    assert gaps.max() - gaps.min() <= max(2, 0.4 * overload)
    assert abs(gaps - overload).max() <= max(1.0, 0.35 * overload)


def test_the_sampler_recovers_when_the_rush_is_over() -> None:
    sampler = Sampler(32)
    while sampler.admits(20):
        pass
    assert all(sampler.admits(0) for _ in range(100))


def test_the_buffer_gives_back_what_it_was_given_in_order() -> None:
    run = a_run()
    buffer = FrameBuffer(verdict_of, judges=2, capacity=4, mode=Mode.COMPLETE)
    loss, end = Lost(run=run, what="dropped"), RunEnd(run=run, complete=True)
    frame = a_frame(run, 0)
    assert all(buffer.put(event) for event in (run, frame, loss, end))
    buffer.finish()
    items = [buffer.take(0.1) for _ in range(4)]
    assert items[0] is run
    assert isinstance(items[1], Pending)
    assert items[1].frame is frame
    assert items[2:] == [loss, end]
    assert buffer.exhausted
    buffer.close()
    assert not buffer.put(run)


# stopping and breaking


class EndlessSource:
    """Frames for ever, until it is told to stop."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    def __iter__(self) -> Iterator[Event]:
        yield self._run
        index = 0
        while not self._stopped:
            yield a_frame(self._run, index)
            index += 1
            time.sleep(0.002)


def test_stop_finishes_what_is_in_flight_and_closes_everything() -> None:
    sink = ListSink()
    pipeline = Pipeline(EndlessSource(a_run()), verdict_of, [sink], lane=Lane(judges=2))
    timer = threading.Timer(0.2, pipeline.stop)
    timer.start()
    pipeline.run()
    end = sink.records[-1]
    assert isinstance(end, RunFinished)
    assert (end.complete, end.reason) == (False, STOPPED_REASON)
    received, judged, *_ = books(end)
    assert received == judged == len(sink.of(Verdict)) > 0
    assert sink.closed == 1


def test_a_source_that_fails_closes_its_run_and_is_heard_of() -> None:
    run = a_run()

    def source() -> Iterator[Event]:
        yield run
        yield a_frame(run, 0)
        raise SourceError("tcp://nowhere:1: address already in use")

    sink = ListSink()
    with pytest.raises(SourceError, match="already in use"):
        Pipeline(source(), verdict_of, [sink]).run()
    end = sink.records[-1]
    assert isinstance(end, RunFinished)
    assert not end.complete
    assert "already in use" in str(end.reason)
    assert (len(sink.of(Verdict)), sink.closed) == (1, 1)


def test_a_source_that_forgets_to_end_its_run_has_it_ended() -> None:
    first, second = a_run("a"), a_run("b")
    sink = run_all([first, a_frame(first, 0), *whole(second, 1)])
    ends = sink.of(RunFinished)
    assert [(e.run_id, e.complete) for e in ends] == [("a", False), ("b", True)]  # type: ignore[union-attr]


def test_a_broken_sink_is_given_up_flagged_to_the_others_and_costs_no_record() -> None:
    broken, good = ListSink(breaks_at=2), ListSink()
    pipeline = Pipeline(whole(a_run(), 5), verdict_of, [broken, good])
    pipeline.run()
    [flag] = good.of(Flag)
    assert isinstance(flag, Flag)
    assert (flag.flag, flag.state, flag.severity) == ("sink", "raised", Severity.CRITICAL)
    assert "No space left" in flag.reason
    assert len(good.of(Verdict)) == 5
    end = good.records[-1]
    assert isinstance(end, RunFinished)
    assert end.flags == {"sink": 1}
    assert (broken.closed, good.closed) == (1, 1)
    assert len(pipeline.sink_problems) == 1


def test_the_pipeline_stops_when_the_reader_of_the_results_has_gone() -> None:
    pipe = ListSink(breaks_at=3, error=BrokenPipeError())
    pipeline = Pipeline(EndlessSource(a_run()), verdict_of, [pipe])
    pipeline.run()
    assert pipeline.stopped
    assert pipeline.sink_problems == ()


# the fold's parts


class EveryThird:
    """A policy that raises on every third verdict, and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, Progress, Decay | None]] = []

    def update(self, verdict: Verdict, progress: Progress) -> Sequence[Flag]:
        self.seen.append((verdict.frame, progress, verdict.decay))
        if len(self.seen) % 3:
            return ()
        at = datetime.now(UTC)
        return [
            Flag(
                id=str(verdict.frame),
                run_id=verdict.run_id,
                flag="ice",
                state="raised",
                first_frame=0,
                frame=verdict.frame,
                severity=Severity.INFO,
                probability=1.0,
                reason="third",
                at=at,
            )
        ]


class CountingTracker:
    def __init__(self) -> None:
        self.frames: list[int] = []
        self.indexings: list[tuple[int, Indexed]] = []

    def update(self, verdict: Verdict) -> Decay | None:
        self.frames.append(verdict.frame)
        return Decay(
            probability=0.5, alarm_probability=0.5, delta_B_A2=1.0, delta_B_sigma=1.0, scale=1.0, scale_sigma=0.1, reference_frames=(0, 1)
        )

    def indexed(self, frame: int, indexed: Indexed) -> None:
        self.indexings.append((frame, indexed))


def test_policies_and_tracker_see_every_verdict_in_order_and_are_fresh_for_each_run() -> None:
    policies: list[EveryThird] = []
    trackers: list[CountingTracker] = []

    def make_policy(_run: Run) -> list[EveryThird]:
        policies.append(EveryThird())
        return [policies[-1]]

    def make_tracker(_run: Run) -> CountingTracker:
        trackers.append(CountingTracker())
        return trackers[-1]

    parts = FoldParts(config={"a": 1}, policies=make_policy, tracker=make_tracker)
    judge = lambda f: verdict_of(f, "bad" if f.index == 1 else None)  # noqa: E731
    sink = run_all([*whole(a_run("a"), 4), *whole(a_run("b"), 3)], judge, parts=parts)
    assert [frame for frame, *_ in policies[0].seen] == [0, 1, 2, 3]
    assert [p.received for _, p, _ in policies[0].seen] == [1, 2, 3, 4]
    assert [d is None for *_, d in policies[0].seen] == [False, True, False, False]
    assert [t.frames for t in trackers] == [[0, 2, 3], [0, 2]]
    names = [type(r).__name__ for r in sink.records]
    assert names[names.index("Flag") - 1] == "Verdict"
    ends = sink.of(RunFinished)
    assert [e.flags for e in ends] == [{"ice": 1}, {"ice": 1}]  # type: ignore[union-attr]


def test_the_tracker_is_told_what_indexing_found() -> None:
    tracker = CountingTracker()
    fold = RunFold(a_run("a"), FoldParts(tracker=lambda _run: tracker))
    indexed = Indexed(status=IndexingStatus.NOT_INDEXED, reason="no lattice")
    told = Outcome(run_id="a", frame=3, engine="fake", indexed=indexed, judgement=None, n_spots=0, arrived_s=0.0)
    assert len(list(fold.indexed(told))) == 1
    assert tracker.indexings == [(3, indexed)]


def test_progress_is_told_at_the_start_and_at_the_end_of_a_run() -> None:
    told: list[tuple[str, int]] = []
    run_all(whole(a_run("a"), 3), on_progress=lambda run, progress: told.append((run.id, progress.received)))
    assert told[-1] == ("a", 3)


# the judge


class NoSpots:
    def find(self, pixels: Pixels, run: Run) -> Spots:
        none = np.zeros(0, np.float32)
        return Spots(
            positions_px=np.zeros((0, 2), np.float32),
            intensity=none,
            sigma=none,
            background=none,
            peak=none,
            n_pixels=np.zeros(0, np.int32),
            inverse_d_per_A=None,
            on_ice=np.zeros(0, bool),
        )


class FixedClassifier:
    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def score(self, pixels: Pixels, spots: Spots, run: Run) -> Judgement:
        if self._error is not None:
            raise self._error
        return JUDGEMENT


def test_a_judge_joins_spots_and_network() -> None:
    verdict = Judge(finder=NoSpots(), classifier=FixedClassifier()).judge(a_frame(a_run(), 7))
    assert (verdict.frame, verdict.judgement, verdict.error) == (7, JUDGEMENT, None)
    assert verdict.spots is not None
    assert verdict.spots.count == 0


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((5, 4)), np.zeros(20), np.zeros((1, 4, 5)), np.zeros(SHAPE, complex), np.zeros(SHAPE, bool)],
    ids=["transposed", "flat", "stack", "complex", "bool"],
)
def test_an_array_that_is_not_a_frame_of_the_detector_is_refused(pixels: Pixels) -> None:
    verdict = Judge(finder=NoSpots(), classifier=FixedClassifier()).judge(a_frame(a_run(), 3, lambda: pixels))
    assert verdict.judgement is None
    assert verdict.spots is None
    assert "frame 3 of memory" in str(verdict.error)


def test_a_frame_that_cannot_be_decoded_has_a_one_line_error() -> None:
    def decode() -> Pixels:
        raise FrameError("frame 3:\ntruncated")

    verdict = Judge(finder=NoSpots(), classifier=FixedClassifier()).judge(a_frame(a_run(), 3, decode))
    assert verdict.error == "frame 3: truncated"


@pytest.mark.allow_errors_in_log
def test_a_fault_in_a_judge_costs_one_verdict(caplog: pytest.LogCaptureFixture) -> None:
    judge = Judge(finder=NoSpots(), classifier=FixedClassifier(ZeroDivisionError("by zero")))
    sink = run_all(whole(a_run(), 2), judge.judge)
    assert [v.error is not None for v in sink.of(Verdict)] == [True, True]  # type: ignore[union-attr]
    assert books(sink.records[-1]) == (2, 0, 0, 2, 0)
    assert "ZeroDivisionError" in caplog.text
