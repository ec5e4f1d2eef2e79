"""What the detector in a box does by itself; with a listener: test_stream.py."""

import threading
import time

import pytest
import zmq
from test_stream import LOCAL, RecordedRuns, is_image, listen, number_of, running

from triage.core import Frame, Run, RunEnd
from triage.detector import DetectorError, Replay
from triage.wire import stream1, stream2


def received(endpoint, until):
    """Messages from a detector until `until(message)`."""
    context = zmq.Context()
    messages = []
    with context.socket(zmq.PULL) as socket:
        socket.connect(endpoint)
        while socket.poll(5000):
            messages.append(stream2.decode(socket.recv()))
            if until(messages):
                break
        socket.setsockopt(zmq.LINGER, 0)
    context.term()
    return messages


def is_end(messages):
    return isinstance(messages[-1], stream2.End)


def test_nothing_is_sent_before_somebody_listens():
    replay = Replay(RecordedRuns(), endpoint=LOCAL)
    with running(replay) as endpoint:
        time.sleep(0.3)
        assert replay.sent.frames == 0
        assert len(received(endpoint, is_end)) == 8
    assert replay.sent.frames == 6


def test_stop_before_anybody_listens():
    replay = Replay(RecordedRuns(), endpoint=LOCAL)
    with running(replay):
        time.sleep(0.2)
    assert replay.sent.frames == 0


def test_the_last_message_waits_for_a_slow_listener():
    replay = Replay(RecordedRuns(n_frames=20), endpoint=LOCAL)
    endpoint = replay.open()
    thread = threading.Thread(target=replay.run)
    thread.start()
    messages = received(endpoint, lambda m: time.sleep(0.02) or is_end(m))
    thread.join(10)
    assert not thread.is_alive()
    assert len(messages) == 22


def test_a_stopped_series_is_closed_as_an_aborted_one():
    replay = Replay(RecordedRuns(n_frames=1000), endpoint=LOCAL, rate_hz=100.0)

    def stop_after_five(messages):
        if len(messages) == 6:
            replay.stop()
        return is_end(messages)

    with running(replay) as endpoint:
        messages = received(endpoint, stop_after_five)
    assert is_end(messages)
    assert 7 <= len(messages) < 50
    assert messages[0].number_of_images == 1000


def test_the_rate_is_kept():
    replay = Replay(RecordedRuns(n_frames=11), endpoint=LOCAL, rate_hz=50.0)
    with running(replay) as endpoint:
        before_s = time.monotonic()
        received(endpoint, is_end)
        assert time.monotonic() - before_s >= 0.19  # ten intervals of 20 ms


def test_a_loop_sends_new_series_until_stopped():
    replay = Replay(RecordedRuns(n_frames=2), endpoint=LOCAL, loop=True)
    with running(replay) as endpoint:
        events = listen(endpoint, runs=3)
    runs = [e.id for e in events if isinstance(e, Run)][:3]
    assert runs == ["series-1", "series-2", "series-3"]
    assert all(e.complete for e in [e for e in events if isinstance(e, RunEnd)][:3])


def test_a_limited_number_of_frames_ends_in_a_complete_series():
    replay = Replay(RecordedRuns(n_frames=4), endpoint=LOCAL, loop=True, frames=6)
    with running(replay) as endpoint:
        events = listen(endpoint, runs=2)
    assert [e.header.frames_expected for e in events if isinstance(e, Run)] == [4, 2]
    assert sum(isinstance(e, Frame) for e in events) == 6
    assert replay.sent.frames == 6


@pytest.mark.parametrize("protocol", ["stream1", "stream2"])
def test_frames_the_source_cannot_read_are_left_out_and_counted(protocol, caplog):
    replay = Replay(RecordedRuns(unreadable=(0, 3)), protocol=protocol, endpoint=LOCAL)
    with running(replay) as endpoint:
        events = listen(endpoint, runs=1, protocol=protocol)
    assert [e.index for e in events if isinstance(e, Frame)] == [1, 2, 4, 5]
    assert (replay.sent.frames, replay.sent.unreadable) == (4, 2)
    assert "frame 3 of a-0 is not sent: corrupt chunk" in caplog.text


def test_a_fault_sees_every_message():
    seen = []

    def witness(message, parts):
        seen.append(number_of(message) if is_image(message) else type(message).__name__)
        assert stream1.decode(parts) == message
        return [parts]

    replay = Replay(RecordedRuns(n_frames=2), protocol="stream1", endpoint=LOCAL, fault=witness)
    with running(replay) as endpoint:
        listen(endpoint, runs=1, protocol="stream1")
    assert seen == ["Start", 0, 1, "End"]


def test_an_endpoint_in_use_is_named():
    first = Replay(RecordedRuns(), endpoint=LOCAL)
    endpoint = first.open()
    try:
        with pytest.raises(DetectorError, match=r"in use; set replay\.endpoint"):
            Replay(RecordedRuns(), endpoint=endpoint).run()
    finally:
        first.stop()
        first.close()
