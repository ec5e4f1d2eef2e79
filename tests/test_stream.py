"""A detector in a box and a listener, over ZeroMQ on localhost."""

import socket as sockets
import threading
import time
from collections import Counter
from contextlib import contextmanager

import cbor2
import hostile
import numpy as np
import pytest

from triage.core import Frame, FrameError, Lost, Run, RunEnd, RunHeader, RunKind, SourceError
from triage.detector import Replay
from triage.geometry import Geometry
from triage.sources.resolve import RunResolver
from triage.sources.series import SeriesTracker
from triage.sources.stream import Limits, StreamSource, read_stream1
from triage.wire import stream1, stream2
from triage.wire.arrays import EncodedArray

PROTOCOLS = ("stream1", "stream2")
LOCAL = "tcp://127.0.0.1:*"
RNG = np.random.default_rng(5)
FRAMES = RNG.poisson(2.0, (6, 40, 50)).astype("u2")


class RecordedRuns:
    """A source of `n_runs` runs of FRAMES; the frames `unreadable` raise."""

    def __init__(self, n_runs=1, n_frames=6, unreadable=(), **header):
        self.n_runs, self.n_frames, self.unreadable, self.header = n_runs, n_frames, unreadable, header

    def __iter__(self):
        geometry = Geometry(wavelength_A=1.0, distance_mm=100.0, pixel_mm=(0.1, 0.1), beam_px=(20.0, 25.0), shape_px=(40, 50))
        for number in range(self.n_runs):
            header = RunHeader(source="a.h5", shape_px=(40, 50), frames_expected=self.n_frames, **self.header)
            mask = np.zeros((40, 50), bool)
            mask[3, 4] = True
            run = Run(id=f"a-{number}", header=header, kind=RunKind.ROTATION, geometry=geometry, mask=mask, mask_source="file")
            yield run
            for index in range(self.n_frames):
                yield Frame(run=run, index=index, decode=lambda i=index: self.pixels(i), arrived_s=0.0)
            yield RunEnd(run=run, complete=True)

    def pixels(self, index):
        if index in self.unreadable:
            raise FrameError("corrupt chunk")
        return FRAMES[index % len(FRAMES)] + np.uint16(index)


@contextmanager
def running(replay):
    """The endpoint of a replay that runs in a thread of its own, stopped and joined at the end."""
    endpoint = replay.open()
    thread = threading.Thread(target=replay.run)
    thread.start()
    try:
        yield endpoint
    finally:
        replay.stop()
        thread.join(10)
        assert not thread.is_alive()


def listen(endpoint, *, runs, protocol="stream2", **options):
    """The events until `runs` runs have ended, and those that stopping brings; fails rather than wait for ever."""
    source = StreamSource(endpoint, protocol=protocol, resolver=RunResolver(), **options)
    watchdog = threading.Timer(15.0, source.stop)
    watchdog.start()
    events = []
    try:
        for event in source:
            events.append(event)
            if sum(isinstance(e, RunEnd) for e in events) == runs:
                source.stop()
    finally:
        watchdog.cancel()
        watchdog.join()
    return events


def replayed(source, *, runs, protocol="stream2", fault=None, **options):
    replay = Replay(source, protocol=protocol, endpoint=LOCAL, fault=fault)
    with running(replay) as endpoint:
        return listen(endpoint, runs=runs, protocol=protocol, **options), replay


def kinds(events):
    return ["".join(type(e).__name__) + (f" {e.index}" if isinstance(e, Frame) else "") for e in events]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_two_runs_arrive_whole_and_in_order(protocol):
    events, replay = replayed(RecordedRuns(n_runs=2), runs=2, protocol=protocol)
    one = ["Run", *(f"Frame {i}" for i in range(6)), "RunEnd"]
    assert kinds(events) == one * 2
    for event in events:
        if isinstance(event, Frame):
            np.testing.assert_array_equal(event.decode(), FRAMES[event.index] + event.index)
            assert event.decode().dtype == np.uint16
    assert [e.complete for e in events if isinstance(e, RunEnd)] == [True, True]
    assert (replay.sent.runs, replay.sent.frames, replay.sent.unreadable) == (2, 12, 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_listener_learns_the_run(protocol):
    header = {"detector": "Eiger", "saturation_value": 60000.0, "omega_start_deg": 10.0, "omega_step_deg": 0.1, "exposure_s": 0.02}
    events, _ = replayed(RecordedRuns(**header), runs=1, protocol=protocol)
    run = events[0]
    assert (run.kind, run.mask_source, run.header.frames_expected) == (RunKind.ROTATION, "file", 6)
    assert {key: getattr(run.header, key) for key in header} == header
    assert run.mask.sum() == 1
    assert run.mask[3, 4]
    assert run.geometry.distance_mm == pytest.approx(100.0)
    assert run.geometry.beam_px == (20.0, 25.0)
    assert run.header.source.startswith("tcp://127.0.0.1:")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pub_and_sub(protocol):
    replay = Replay(RecordedRuns(), protocol=protocol, endpoint=LOCAL, socket="pub")
    with running(replay) as endpoint:
        events = listen(endpoint, runs=1, protocol=protocol, socket="sub")
    assert kinds(events) == ["Run", *(f"Frame {i}" for i in range(6)), "RunEnd"]


def is_image(message):
    return isinstance(message, stream1.Image | stream2.Image)


def number_of(message):
    return message.frame if isinstance(message, stream1.Image) else message.image_id


def series_of(message):
    return message.series if hasattr(message, "series") else message.series_id


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_series_without_an_end_closes_when_the_next_begins(protocol):
    def no_first_end(message, parts):
        is_first_end = isinstance(message, stream1.End | stream2.End) and series_of(message) == 1
        return [] if is_first_end else [parts]

    events, _ = replayed(RecordedRuns(n_runs=2), runs=2, protocol=protocol, fault=no_first_end)
    ends = [e for e in events if isinstance(e, RunEnd)]
    assert [e.complete for e in ends] == [False, True]
    assert "series 2 began" in ends[0].reason
    assert sum(isinstance(e, Frame) for e in events) == 12


def test_a_series_without_an_end_closes_by_silence():
    def no_end(message, parts):
        return [] if isinstance(message, stream2.End) else [parts]

    events, _ = replayed(RecordedRuns(), runs=1, fault=no_end, end_timeout_s=0.3)
    assert (events[-1].complete, "nothing of it came" in events[-1].reason) == (False, True)
    assert sum(isinstance(e, Frame) for e in events) == 6


def test_what_the_consumer_takes_is_not_silence():
    replay = Replay(RecordedRuns(), endpoint=LOCAL)
    with running(replay) as endpoint:
        source = StreamSource(endpoint, protocol="stream2", resolver=RunResolver(), end_timeout_s=0.2)
        events = []
        for event in source:
            events.append(event)
            time.sleep(0.3 if isinstance(event, Frame) and event.index < 2 else 0.0)
            if isinstance(event, RunEnd):
                source.stop()
    assert kinds(events) == ["Run", *(f"Frame {i}" for i in range(6)), "RunEnd"]
    assert events[-1].complete


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_damage_to_one_run_is_counted_and_the_next_one_is_whole(protocol):
    """Frame 1 twice, frame 2 lost, frame 3 cut short, frame 4 replaced by noise."""

    def faulty(message, parts):
        if not is_image(message) or series_of(message) != 1:
            return [parts]
        cut = [part[: len(part) // 2] for part in parts]
        return {1: [parts, parts], 2: [], 3: [cut], 4: [[b"\xff\x00noise"]]}.get(number_of(message), [parts])

    events, _ = replayed(RecordedRuns(n_runs=2), runs=2, protocol=protocol, fault=faulty)
    first, second = [[e for e in events if e is run or getattr(e, "run", None) is run] for run in events if isinstance(run, Run)]
    assert [e.index for e in first if isinstance(e, Frame)] == [0, 1, 5]
    losses = Counter(e.what for e in first if isinstance(e, Lost))
    assert losses == {"dropped": 1, "failed": 2}
    assert kinds(second) == ["Run", *(f"Frame {i}" for i in range(6)), "RunEnd"]
    assert second[-1].complete


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_hostile_corpus_costs_one_loss_each_and_no_run(protocol):
    corpus = hostile.STREAM2 if protocol == "stream2" else {k: v for k, v in hostile.STREAM1.items() if v}
    payloads = [[p] if isinstance(p, bytes) else p for p in corpus.values()]

    def hostile_first_frame(message, parts):
        return [*payloads, parts] if is_image(message) and number_of(message) == 2 else [parts]

    events, _ = replayed(RecordedRuns(n_runs=2), runs=2, protocol=protocol, fault=hostile_first_frame)
    assert sum(e.count for e in events if isinstance(e, Lost) and e.what == "failed") == 2 * len(payloads)
    assert sum(isinstance(e, Frame) for e in events) == 12
    assert all(e.complete for e in events if isinstance(e, RunEnd))
    assert all(0 < len(e.reason) < 400 for e in events if isinstance(e, Lost))


def test_a_start_that_was_missed_costs_that_series_only():
    def no_first_start(message, parts):
        return [] if isinstance(message, stream2.Start) and series_of(message) == 1 else [parts]

    events, _ = replayed(RecordedRuns(n_runs=2), runs=2, fault=no_first_start)
    assert sum(e.count for e in events if isinstance(e, Lost)) == 6
    ends = [e for e in events if isinstance(e, RunEnd)]
    assert [e.complete for e in ends] == [False, True]
    assert "missed" in ends[0].reason


def test_messages_that_are_too_large_are_refused_and_counted():
    def large(message, parts):
        return [parts, [bytes(150_000)]] if is_image(message) and number_of(message) == 1 else [parts]

    events, _ = replayed(RecordedRuns(), runs=1, fault=large, limits=Limits(message_bytes=100_000))
    assert [e.reason for e in events if isinstance(e, Lost)] == ["a message of 150000 bytes is refused (at most 100000)"]
    assert sum(isinstance(e, Frame) for e in events) == 6


def test_a_message_that_is_never_received_costs_what_was_on_its_way_not_the_next_run():
    """More than twice the bound: ZeroMQ gives the connection up, for good if left to itself."""

    def huge(message, parts):
        return [[bytes(1_000_000)], parts] if is_image(message) and series_of(message) == 1 and number_of(message) == 2 else [parts]

    replay = Replay(RecordedRuns(), endpoint=LOCAL, fault=huge, loop=True, rate_hz=100.0)
    with running(replay) as endpoint:
        events = listen(endpoint, runs=3, limits=Limits(message_bytes=100_000))
    ends = [e for e in events if isinstance(e, RunEnd)]
    frames = [sum(isinstance(f, Frame) and f.run is end.run for f in events) for end in ends]
    assert (ends[-1].complete, frames[-1]) == (True, 6)
    assert [e.reason for e in events if isinstance(e, Lost) and e.what == "failed"] == [
        "a message of more than 200000 bytes is refused; the connection was made anew"
    ]


def test_a_detector_that_goes_and_comes_back():
    first = Replay(RecordedRuns(), endpoint=LOCAL, socket="pub")
    endpoint = first.open()
    second = Replay(RecordedRuns(), endpoint=endpoint, socket="pub")

    def one_after_the_other():
        first.run()
        time.sleep(0.8)  # longer than it takes to see that a connection is gone
        second.run()

    thread = threading.Thread(target=one_after_the_other)
    thread.start()
    events = listen(endpoint, runs=2, socket="sub")
    thread.join()
    assert kinds(events) == ["Run", *(f"Frame {i}" for i in range(6)), "RunEnd"] * 2


def test_the_wanted_channel():
    def two_thresholds(message, parts):
        if not is_image(message):
            return [parts]
        (array,) = message.data.values()
        data = {"low": array, "high": EncodedArray.encode(array.decode() + 1)}
        return [[stream2.encode(stream2.Image(series_id=1, image_id=message.image_id, data=data))]]

    for channel, added in ((None, 0), ("low", 0), ("high", 1)):
        events, _ = replayed(RecordedRuns(), runs=1, fault=two_thresholds, channel=channel)
        frames = [e for e in events if isinstance(e, Frame)]
        np.testing.assert_array_equal(frames[0].decode(), FRAMES[0] + added)
    events, _ = replayed(RecordedRuns(), runs=1, fault=two_thresholds, channel="middle")
    losses = [e for e in events if isinstance(e, Lost)]
    assert [(e.what, e.index) for e in losses] == [("failed", i) for i in range(6)]
    assert "no channel middle among low, high; set source.channel" in losses[0].reason


def test_stop_ends_an_open_run():
    replay = Replay(RecordedRuns(n_frames=1000), endpoint=LOCAL, rate_hz=50.0)
    source = None
    with running(replay) as endpoint:
        source = StreamSource(endpoint, protocol="stream2", resolver=RunResolver())
        events = []
        for event in source:
            events.append(event)
            if isinstance(event, Frame) and event.index == 3:
                threading.Thread(target=source.stop).start()
    assert isinstance(events[-1], RunEnd)
    assert (events[-1].complete, events[-1].reason) == (False, "stopped")


def test_a_listener_that_binds_and_a_silent_line():
    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    source = StreamSource(f"tcp://127.0.0.1:{port}", protocol="stream2", resolver=RunResolver(), bind=True)
    threading.Timer(0.3, source.stop).start()
    assert list(source) == []


def test_an_iteration_that_is_left_early_closes_its_socket():
    replay = Replay(RecordedRuns(), endpoint=LOCAL)
    with running(replay) as endpoint:
        events = iter(StreamSource(endpoint, protocol="stream2", resolver=RunResolver()))
        assert isinstance(next(events), Run)
        events.close()


def test_an_endpoint_that_cannot_be():
    with pytest.raises(SourceError, match=r"nonsense: .*; set source\.endpoint"):
        list(StreamSource("nonsense", protocol="stream2", resolver=RunResolver()))


def test_stream1_taken_for_stream2_says_so():
    replay = Replay(RecordedRuns(), protocol="stream1", endpoint=LOCAL)
    with running(replay) as endpoint:
        source = StreamSource(endpoint, protocol="stream2", resolver=RunResolver())
        losses = []
        for event in source:
            if isinstance(event, Lost):
                losses.append(event)
                source.stop()
    assert "is this stream v1" in losses[0].reason


@pytest.mark.fixtures
def test_the_recorded_sequence_without_a_start_then_a_complete_series(fixtures_dir):
    recorded = [[(fixtures_dir / "stream2" / f"{n:06d}.cbor").read_bytes()] for n in (1, 2, 3, 4, 11)]
    first = {"done": False}

    def recorded_first(message, parts):
        before = [] if first["done"] else recorded
        first["done"] = True
        return [*before, parts]

    events, _ = replayed(RecordedRuns(), runs=2, fault=recorded_first)
    missed, good = [[e for e in events if e is run or getattr(e, "run", None) is run] for run in events if isinstance(run, Run)]
    assert kinds(missed) == ["Run", "Lost", "RunEnd"]
    assert (missed[1].what, missed[1].count, missed[2].complete) == ("dropped", 4, False)
    assert kinds(good) == ["Run", *(f"Frame {i}" for i in range(6)), "RunEnd"]
    assert good[-1].complete


@pytest.mark.fixtures
def test_the_recorded_stream1_series(fixtures_dir):
    """Real headers, pixels cut: the run and its three frames are there, and decoding each frame is a named error."""
    with (fixtures_dir / "stream1" / "eiger-small.cbors").open("rb") as file:
        decoder = cbor2.CBORDecoder(file, read_size=1)
        recorded = [decoder.decode() for _ in range(5)]

    def only_recorded(message, parts):
        return recorded if isinstance(message, stream1.Start) else []

    events, _ = replayed(RecordedRuns(), runs=1, protocol="stream1", fault=only_recorded)
    assert kinds(events) == ["Run", "Frame 0", "Frame 1", "Frame 2", "RunEnd"]
    assert (events[0].header.detector, events[-1].complete) == ("Dectris EIGER2 CdTe 9M", True)
    with pytest.raises(FrameError, match="frame 0 of series 6: bslz4"):
        events[1].decode()


@pytest.mark.fixtures
def test_the_converter_that_sends_its_header_with_every_frame(fixtures_dir):
    parts = [(fixtures_dir / "stream1" / f"interceptor_000001_part0{n}.bin").read_bytes() for n in (1, 2, 3, 4, 6)]
    parts.insert(4, b"absent")
    second = [part.replace(b'"frame":1', b'"frame":2') for part in parts]
    tracker = SeriesTracker(RunResolver(), "tcp://x:1")
    items = [*read_stream1(parts, endpoint="tcp://x:1"), *read_stream1(second, endpoint="tcp://x:1")]
    events = [e for item in items for e in tracker.accept(item, clock_s=0.0, arrived_s=0.0)]
    assert kinds(events) == ["Run", "Frame 1", "Frame 2"]
    assert (events[0].header.frames_expected, events[0].kind) == (999, RunKind.ROTATION)
    assert "contradicts itself" in events[0].geometry_problem
