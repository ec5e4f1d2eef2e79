"""Which message belongs to which run: a state machine without sockets or clocks of its own.

A worker may never see a series' start (it joined late, or another client of the detector got it) or its end (aborted). Frames before their
start wait a little, for a start that is late; then they are counted as dropped in a run of which nothing is known. A series without an end
closes on the next start or after a silence. Runs do not interleave: messages of another series than the open one are kept or counted.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial

from triage.core import Event, Frame, FrameError, Lost, Pixels, Run, RunEnd, RunHeader, SourceError
from triage.sources.resolve import RunResolver
from triage.wire.arrays import EncodedArray

MAX_STRAY_SERIES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A series begins."""

    series: int
    header: RunHeader = field(compare=False)
    message: object
    """What was received; equal messages (a relay sends the header again to new listeners) are one opening."""
    bit_depth: int | None = None
    with_frame: bool = False
    """Sent again with every frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """A frame arrived."""

    series: int
    index: int
    array: EncodedArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """A series is over."""

    series: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbled:
    """A message that cannot be used; what is known of where it belongs."""

    reason: str
    series: int | None = None
    index: int | None = None


Item = Opening | Exposure | Closing | Garbled


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long, in seconds of listening, and for how much the tracker waits."""

    end_s: float = 30.0
    """Silence after which a series without an end is over."""
    start_s: float = 2.0
    """How long a frame waits for its series' start."""
    frames: int = 16
    """Frames that wait at most; they stay compressed."""


@dataclass(slots=True, kw_only=True)
class _Open:
    """The series that is open; `run` is None until its first frame tells the shape that the header does not."""

    series: int | None
    opening: Opening | None = None
    run: Run | None = None
    loss: tuple[str, str] | None = None
    """Why every frame of it is lost: (what, reason)."""
    seen: set[int] = field(default_factory=set)
    last_s: float = 0.0
    is_idle: bool = True
    """Nothing came yet: a detector may be armed long before it is triggered, so silence means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    exposure: Exposure
    arrived_s: float
    since_s: float


class SeriesTracker:
    """Turns what arrives into Events. `clock_s` is time spent listening: what the consumer of the events takes is not silence."""

    def __init__(self, resolver: RunResolver, source: str, patience: Patience | None = None) -> None:
        self._resolver = resolver
        self._source = source
        self._patience = patience or Patience()
        self._open: _Open | None = None
        self._silenced: _Open | None = None  # closed by silence; resumes when its frames do
        self._waiting: deque[_Waiting] = deque()
        self._strays: dict[tuple[int | None, str], tuple[int, str]] = {}

    def accept(self, item: Item, *, clock_s: float, arrived_s: float) -> list[Event]:
        """The events that follow from one message."""
        events = self.tick(clock_s)
        if isinstance(item, Opening):
            events += self._begin(item, clock_s)
        elif isinstance(item, Exposure):
            events += self._expose(item, clock_s, arrived_s)
        elif isinstance(item, Closing):
            events += self._end(item)
        else:
            events += self._garbled(item, clock_s)
        return events

    def tick(self, clock_s: float) -> list[Event]:
        """The events that follow from time having passed."""
        events: list[Event] = []
        current = self._open
        if current is not None and not current.is_idle and clock_s - current.last_s >= self._patience.end_s:
            self._silenced = current if current.opening is not None else None
            events += self._finish(complete=False, reason=f"nothing of it came for {self._patience.end_s:g} s, and no end")
        while self._waiting and clock_s - self._waiting[0].since_s >= self._patience.start_s:
            events += self._give_up(self._waiting.popleft(), clock_s)
        return events

    def close(self, reason: str) -> list[Event]:
        """The events that follow from nobody listening any more."""
        events = self._finish(complete=False, reason=reason) if self._open is not None else []
        while self._waiting:
            self._stray(self._waiting.popleft().exposure)
        return events + self._flush()

    def _begin(self, opening: Opening, clock_s: float) -> list[Event]:
        current = self._open
        if current is not None and current.opening is not None and self._is_repeated(opening, current.opening):
            current.last_s = clock_s
            return []
        events = self._finish(complete=False, reason=f"series {opening.series} began before its end") if current is not None else []
        self._silenced = None
        self._open = current = _Open(series=opening.series, opening=opening, last_s=clock_s)
        if opening.header.shape_px is not None:
            events += self._start_run(current, opening.header)
        for waiting in self._take_waiting(opening.series):
            events += self._expose(waiting.exposure, clock_s, waiting.arrived_s)
        return events

    @staticmethod
    def _is_repeated(opening: Opening, current: Opening) -> bool:
        return opening == current or (opening.with_frame and current.with_frame and opening.series == current.series)

    def _start_run(self, current: _Open, header: RunHeader) -> list[Event]:
        try:
            current.run = self._resolver.resolve(header, f"series-{current.series}")
        except SourceError as error:
            current.run = self._resolver.unknown(self._source, f"series-{current.series}")
            current.loss = ("failed", str(error))
        return [current.run]

    def _expose(self, exposure: Exposure, clock_s: float, arrived_s: float) -> list[Event]:
        events: list[Event] = []
        current = self._open
        if current is None and self._silenced is not None and self._silenced.series == exposure.series:
            current, events = self._resume(self._silenced)
        if current is None or current.series != exposure.series:
            self._waiting.append(_Waiting(exposure=exposure, arrived_s=arrived_s, since_s=clock_s))
            return self._give_up(self._waiting.popleft(), clock_s) if len(self._waiting) > self._patience.frames else []
        current.last_s, current.is_idle = clock_s, False
        if current.run is None and current.opening is not None:
            slow, fast = exposure.array.shape
            events += self._start_run(current, replace(current.opening.header, shape_px=(slow, fast)))
        if current.run is not None:
            events.append(self._frame(current, current.run, exposure, arrived_s))
        return events

    def _frame(self, current: _Open, run: Run, exposure: Exposure, arrived_s: float) -> Event:
        index = exposure.index
        if current.loss is not None:
            return Lost(run=run, what=current.loss[0], reason=current.loss[1], index=index)
        if index in current.seen:
            return Lost(run=run, what="dropped", reason=f"frame {index} came again", index=index)
        current.seen.add(index)
        bit_depth = None if current.opening is None else current.opening.bit_depth
        return Frame(run=run, index=index, decode=partial(_pixels, exposure, run.header.shape_px, bit_depth), arrived_s=arrived_s)

    def _resume(self, silenced: _Open) -> tuple[_Open, list[Event]]:
        """A series that paused longer than our patience goes on as another run of the same header."""
        self._silenced = None
        header = silenced.run.header if silenced.run is not None else None
        self._open = current = replace(silenced, run=None, loss=None)
        return current, [] if header is None else self._start_run(current, header)

    def _end(self, closing: Closing) -> list[Event]:
        current = self._open
        if current is not None and current.series == closing.series:
            if current.loss is None:
                return self._finish(complete=True, reason=None)
            return self._finish(complete=False, reason=current.loss[1])
        self._silenced = None
        for waiting in self._take_waiting(closing.series):
            self._stray(waiting.exposure)
        return self._flush() if current is None else []

    def _garbled(self, garbled: Garbled, clock_s: float) -> list[Event]:
        events: list[Event] = []
        current = self._open
        if current is None:
            reason = "unusable messages outside any series" if garbled.series is None else _missed(garbled.series)
            current, events = self._open_unknown(garbled.series, clock_s, reason)
        if current.run is None or garbled.series not in (None, current.series):
            self._count_stray(garbled.series, "failed", garbled.reason)
            return events
        current.last_s, current.is_idle = clock_s, False
        return [*events, Lost(run=current.run, what="failed", reason=garbled.reason, index=garbled.index)]

    def _give_up(self, waiting: _Waiting, clock_s: float) -> list[Event]:
        """A frame's start did not come in time: its series, as far as it waits, is an unknown run, unless a known one is open."""
        exposure, current = waiting.exposure, self._open
        events: list[Event] = []
        if current is not None and current.series != exposure.series:
            if current.opening is not None:
                self._stray(exposure)
                return []
            events += self._finish(complete=False, reason=current.loss[1] if current.loss else None)
            current = None
        if current is None:
            current, events_of_run = self._open_unknown(exposure.series, clock_s, _missed(exposure.series))
            events += events_of_run
        for each in (waiting, *self._take_waiting(exposure.series)):
            events += self._expose(each.exposure, clock_s, each.arrived_s)
        return events

    def _take_waiting(self, series: int) -> list[_Waiting]:
        mine = [w for w in self._waiting if w.exposure.series == series]
        self._waiting = deque(w for w in self._waiting if w.exposure.series != series)
        return mine

    def _open_unknown(self, series: int | None, clock_s: float, reason: str) -> tuple[_Open, list[Event]]:
        run = self._resolver.unknown(self._source, _run_name(series))
        self._silenced = None
        self._open = _Open(series=series, run=run, loss=("dropped", reason), last_s=clock_s, is_idle=False)
        return self._open, [run]

    def _finish(self, *, complete: bool, reason: str | None) -> list[Event]:
        current, self._open = self._open, None
        events: list[Event] = []
        if current is not None:
            if current.run is None:  # a header without a shape, and no frame to tell it
                current.run = self._resolver.unknown(self._source, _run_name(current.series))
                events.append(current.run)
            why = reason if current.loss is None or complete else current.loss[1]
            events.append(RunEnd(run=current.run, complete=complete, reason=why))
        return events + self._flush()

    def _stray(self, exposure: Exposure) -> None:
        self._count_stray(exposure.series, "dropped", _missed(exposure.series))

    def _count_stray(self, series: int | None, what: str, reason: str) -> None:
        key = (series, what)
        if key not in self._strays and len(self._strays) >= MAX_STRAY_SERIES:
            key = (None, what)
        self._strays[key] = (self._strays.get(key, (0, reason))[0] + 1, reason)

    def _flush(self) -> list[Event]:
        """Runs of which nothing is known, for what was counted while another run was open."""
        strays, self._strays = self._strays, {}
        events: list[Event] = []
        for series in dict.fromkeys(series for series, _ in strays):
            run = self._resolver.unknown(self._source, _run_name(series))
            losses = [(what, *counted) for (of, what), counted in strays.items() if of == series]
            events.append(run)
            events += [Lost(run=run, what=what, count=count, reason=reason) for what, count, reason in losses]
            events.append(RunEnd(run=run, complete=False, reason=losses[0][2]))
        return events


def _run_name(series: int | None) -> str:
    return "no-series" if series is None else f"series-{series}"


def _missed(series: int) -> str:
    return f"the start of series {series} was missed, or its end came first"


def _pixels(exposure: Exposure, shape_px: tuple[int, int] | None, bit_depth: int | None) -> Pixels:
    """The frame's pixels; raises FrameError where they are not what the header promised."""
    array, name = exposure.array, f"frame {exposure.index} of series {exposure.series}"
    if array.shape != shape_px:
        raise FrameError(f"{name}: {array.shape[0]} x {array.shape[1]} pixels, but the header says {shape_px} (slow, fast)")
    if bit_depth is not None and bit_depth != 8 * array.itemsize:
        raise FrameError(f"{name}: {8 * array.itemsize} bits a pixel, but the header says {bit_depth}")
    try:
        return array.decode()
    except FrameError as error:
        raise FrameError(f"{name}: {error}") from None
