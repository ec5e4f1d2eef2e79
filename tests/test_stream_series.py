"""Which message belongs to which run: lists in, events out, no sockets."""

from collections import Counter

import hostile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triage.core import Frame, FrameError, Lost, Run, RunEnd, RunHeader
from triage.sources.resolve import Overrides, RunResolver
from triage.sources.series import Closing, Exposure, Garbled, Opening, Patience, SeriesTracker
from triage.wire.arrays import EncodedArray

PIXELS = EncodedArray.encode(np.arange(6, dtype="u2").reshape(2, 3), "none")


def opening(series=1, message="start", shape=(2, 3), **changes):
    return Opening(series=series, header=RunHeader(source="x", shape_px=shape), message=(series, message), **changes)


def exposure(index, series=1, array=PIXELS):
    return Exposure(series=series, index=index, array=array)


def events_of(items, *, patience=None, resolver=None, step_s=0.0, close="stopped"):
    """What a tracker says of items that arrive `step_s` apart; a float among them is that much silence."""
    tracker = SeriesTracker(resolver or RunResolver(), "tcp://x:1", patience)
    clock_s, events = 0.0, []
    for item in items:
        if isinstance(item, float):
            clock_s += item
            events += tracker.tick(clock_s)
        else:
            clock_s += step_s
            events += tracker.accept(item, clock_s=clock_s, arrived_s=clock_s)
    return events + (tracker.close(close) if close else [])


def words(events):
    """Events as short texts."""
    texts = {Run: "run {0.id}", Frame: "frame {0.index}", Lost: "{0.what} {0.count}", RunEnd: "end {0.complete}"}
    return [texts[type(event)].format(event) for event in events]


def assert_runs_are_whole(events):
    """Every run is Run, then its own frames and losses, then one RunEnd; ids are unique."""
    current, ids = None, []
    for event in events:
        if isinstance(event, Run):
            assert current is None
            current = event
            ids.append(event.id)
        else:
            assert event.run is current
            current = None if isinstance(event, RunEnd) else current
    assert current is None
    assert len(set(ids)) == len(ids)


def test_a_series_from_start_to_end():
    events = events_of([opening(), exposure(0), exposure(1), Closing(series=1)])
    assert words(events) == ["run series-1", "frame 0", "frame 1", "end True"]
    np.testing.assert_array_equal(events[1].decode(), [[0, 1, 2], [3, 4, 5]])


def test_two_series_back_to_back():
    items = [opening(1), exposure(0), Closing(series=1), opening(2), exposure(0, 2), Closing(series=2)]
    assert words(events_of(items)) == ["run series-1", "frame 0", "end True", "run series-2", "frame 0", "end True"]


def test_a_new_series_in_the_middle():
    events = events_of([opening(1), exposure(0), opening(2), exposure(0, 2), Closing(series=2)])
    assert words(events) == ["run series-1", "frame 0", "end False", "run series-2", "frame 0", "end True"]
    assert "series 2 began before its end" in events[2].reason


def test_silence_ends_a_series_and_frames_resume_it():
    patience = Patience(end_s=10.0)
    events = events_of([opening(), exposure(0), 9.0, exposure(1), 11.0, exposure(2), exposure(1), Closing(series=1)], patience=patience)
    assert words(events) == ["run series-1", "frame 0", "frame 1", "end False", "run series-1-2", "frame 2", "dropped 1", "end True"]
    assert "no end" in events[3].reason


def test_an_armed_detector_may_wait_long_for_its_trigger():
    assert words(events_of([opening(), 3600.0, exposure(0), Closing(series=1)])) == ["run series-1", "frame 0", "end True"]


def test_repeated_frames_are_dropped():
    events = events_of([opening(), exposure(0), exposure(0), exposure(1), Closing(series=1)])
    assert words(events) == ["run series-1", "frame 0", "dropped 1", "frame 1", "end True"]
    assert (events[2].index, "again" in events[2].reason) == (0, True)


def test_a_missed_start_with_its_end():
    events = events_of([exposure(0), exposure(1), exposure(2), Closing(series=1), opening(2), exposure(0, 2), Closing(series=2)])
    assert words(events) == ["run series-1", "dropped 3", "end False", "run series-2", "frame 0", "end True"]
    assert events[0].header == RunHeader(source="tcp://x:1")
    assert "start of series 1 was missed" in events[2].reason


def test_a_missed_start_counts_while_it_lasts():
    events = events_of([exposure(0), exposure(1), 5.0, exposure(2), 31.0], close=None)
    assert words(events) == ["run series-1", "dropped 1", "dropped 1", "dropped 1", "end False"]
    assert [e.index for e in events[1:4]] == [0, 1, 2]


def test_frames_wait_for_a_start_that_is_late():
    """Round-robin: with several senders the start may come after the first frames."""
    events = events_of([exposure(0), 1.0, exposure(1), opening(), exposure(2), Closing(series=1)], patience=Patience(start_s=2.0))
    assert words(events) == ["run series-1", "frame 0", "frame 1", "frame 2", "end True"]
    assert [e.arrived_s for e in events[1:4]] == [0.0, 1.0, 1.0]


def test_frames_of_the_next_series_wait_while_this_one_is_open():
    events = events_of([opening(1), exposure(0), exposure(0, 2), exposure(1), opening(2), exposure(1, 2), Closing(series=2)])
    assert words(events) == ["run series-1", "frame 0", "frame 1", "end False", "run series-2", "frame 0", "frame 1", "end True"]


def test_the_waiting_room_is_small():
    events = events_of([*(exposure(i) for i in range(6)), opening(), exposure(6), Closing(series=1)], patience=Patience(frames=4))
    assert words(events) == ["run series-1", *["dropped 1"] * 6, "end False", "run series-1-2", "frame 6", "end True"]
    assert [e.index for e in events[1:7]] == [0, 1, 2, 3, 4, 5]


def test_frames_of_another_series_are_counted_when_this_one_is_over():
    items = [opening(1), exposure(0), exposure(7, 9), exposure(8, 9), 3.0, exposure(1), Closing(series=1)]
    events = events_of(items)
    assert words(events) == ["run series-1", "frame 0", "frame 1", "end True", "run series-9", "dropped 2", "end False"]


def test_late_frames_are_counted_apart():
    events = events_of([opening(1), exposure(0), Closing(series=1), exposure(1)])
    assert words(events) == ["run series-1", "frame 0", "end True", "run series-1-2", "dropped 1", "end False"]


def test_a_header_sent_again_is_no_new_series():
    events = events_of([opening(), exposure(0), opening(), exposure(1), Closing(series=1)])
    assert words(events) == ["run series-1", "frame 0", "frame 1", "end True"]


def test_the_same_number_with_another_header_is_a_new_series():
    """A detector that was restarted counts from the beginning."""
    events = events_of([opening(message="Monday"), exposure(0), opening(message="Tuesday"), exposure(0), Closing(series=1)])
    assert words(events) == ["run series-1", "frame 0", "end False", "run series-1-2", "frame 0", "end True"]


def test_a_header_with_every_frame():
    items = [x for i in range(3) for x in (opening(message=f"phi={i}", with_frame=True), exposure(i))]
    assert words(events_of(items)) == ["run series-1", "frame 0", "frame 1", "frame 2", "end False"]


def test_a_header_without_a_shape_learns_it_from_the_first_frame():
    events = events_of([opening(shape=None), exposure(0), Closing(series=1)])
    assert words(events) == ["run series-1", "frame 0", "end True"]
    assert events[0].header.shape_px == (2, 3)


def test_a_header_without_a_shape_and_no_frame():
    assert words(events_of([opening(shape=None), Closing(series=1)])) == ["run series-1", "end True"]


def test_bad_messages_are_counted_where_they_fall():
    events = events_of([opening(), exposure(0), Garbled(reason="bad"), exposure(1), Closing(series=1)])
    assert words(events) == ["run series-1", "frame 0", "failed 1", "frame 1", "end True"]
    assert events[2].reason == "bad"


def test_bad_messages_outside_any_series():
    events = events_of([Garbled(reason="bad"), Garbled(reason="bad"), opening(), exposure(0), Closing(series=1)])
    assert words(events) == ["run no-series", "failed 1", "failed 1", "end False", "run series-1", "frame 0", "end True"]


def test_a_configured_mask_that_does_not_fit_costs_the_run_not_the_listener():
    resolver = RunResolver(Overrides(mask=np.zeros((5, 5), bool)))
    events = events_of([opening(), exposure(0), exposure(1), Closing(series=1)], resolver=resolver)
    assert words(events) == ["run series-1", "failed 1", "failed 1", "end False"]
    assert "5 x 5" in events[1].reason
    assert "5 x 5" in events[3].reason


@pytest.mark.parametrize(
    ("array", "bit_depth", "what"),
    [
        (EncodedArray.encode(np.zeros((3, 2), "u2")), None, "3 x 2 pixels"),
        (EncodedArray.encode(np.zeros((2, 3), "u4")), 16, "32 bits"),
        (hostile.PIXELS["raw bytes too few"], None, "11 bytes"),
    ],
)
def test_frames_that_are_not_what_the_header_promised(array, bit_depth, what):
    events = events_of([opening(bit_depth=bit_depth), exposure(5, array=array), Closing(series=1)])
    assert words(events) == ["run series-1", "frame 5", "end True"]
    with pytest.raises(FrameError, match=f"frame 5 of series 1: .*{what}"):
        events[1].decode()


def test_stopping_closes_what_is_open():
    events = events_of([opening(), exposure(0), exposure(3, 4)])
    assert words(events) == ["run series-1", "frame 0", "end False", "run series-4", "dropped 1", "end False"]
    assert events[2].reason == "stopped"


def test_a_flood_of_unknown_series_stays_small():
    items = [opening(), exposure(0), *(exposure(0, series) for series in range(10, 400)), Closing(series=1)]
    events = events_of(items)
    assert_runs_are_whole(events)
    assert len(events) < 400
    assert sum(e.count for e in events if isinstance(e, Lost)) == 390


items = st.lists(
    st.one_of(
        st.builds(opening, series=st.integers(1, 3), message=st.sampled_from("ab"), shape=st.sampled_from([(2, 3), None])),
        st.builds(exposure, st.integers(0, 4), st.integers(1, 3)),
        st.builds(exposure, st.integers(0, 4), st.integers(1, 3)),
        st.builds(Closing, series=st.integers(1, 3)),
        st.builds(Garbled, reason=st.just("bad"), series=st.sampled_from([None, 1, 2])),
        st.floats(0.0, 40.0),
    ),
    max_size=40,
)


@settings(max_examples=500, deadline=None)
@given(items)
def test_whatever_comes_is_counted_once_in_whole_runs(received):
    events = events_of(received, patience=Patience(frames=3))
    assert_runs_are_whole(events)
    frames = sum(isinstance(e, Frame) for e in events)
    losses = Counter()
    for event in events:
        if isinstance(event, Lost):
            losses[event.what] += event.count
    assert frames + losses["dropped"] == sum(isinstance(item, Exposure) for item in received)
    assert losses["failed"] == sum(isinstance(item, Garbled) for item in received)
    for run in (e for e in events if isinstance(e, Run)):
        indices = [e.index for e in events if isinstance(e, Frame) and e.run is run]
        assert len(set(indices)) == len(indices)
