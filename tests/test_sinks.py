"""Sinks, read back by the programs that users have: json, h5py (also in a second process while the file grows), a list reader."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triage.core import (
    Decay,
    Flag,
    Judgement,
    Progress,
    Record,
    Run,
    RunFinished,
    RunHeader,
    RunKind,
    RunStarted,
    Severity,
    Sink,
    SpotSummary,
    TriageError,
    Verdict,
)
from triage.records import to_json
from triage.sinks.good_frames import GoodFramesSink
from triage.sinks.guarded import GuardedSinks
from triage.sinks.hdf5 import Hdf5Sink
from triage.sinks.jsonl import JsonLinesSink
from triage.sinks.log import LogSink
from triage.sinks.paths import RunPaths, SinkError, safe_name

GOOD = Judgement(lattices=(0.02, 0.95, 0.02, 0.01), non_diffraction_kind=(0.7, 0.1, 0.1, 0.1), ice_rings=0.02, resolution_A=2.0)
EMPTY = replace(GOOD, lattices=(0.97, 0.01, 0.01, 0.01), resolution_A=None)
MULTI = replace(GOOD, lattices=(0.01, 0.05, 0.7, 0.24))
SPOTS = SpotSummary(count=40, count_no_ice=38, resolution_A=2.3, total_intensity=1.5e4, mean_i_over_sigma=11.0)
DECAY = Decay(
    probability=0.4, alarm_probability=0.6, delta_B_A2=2.5, delta_B_sigma=1.1, scale=0.9, scale_sigma=0.1, reference_frames=(0, 11)
)


def begin(run_id: str = "run-1", source: str = "s") -> RunStarted:
    run = Run(id=run_id, header=RunHeader(source=source, frames_expected=3), kind=RunKind.ROTATION, geometry=None)
    return RunStarted(run=run, model=None, config={"mode": "live"})


def a_verdict(frame: int, judgement: Judgement | None = GOOD, run_id: str = "run-1", file: str | None = None, **changes: Any) -> Verdict:
    verdict = Verdict(run_id=run_id, frame=frame, file=file, judgement=judgement, spots=SPOTS, decay=DECAY, latency_ms=1.5)
    return replace(verdict, **changes)


def a_flag(frame: int = 5, run_id: str = "run-1", severity: Severity = Severity.WARNING, state: str = "raised") -> Flag:
    return Flag(
        id=f"{run_id}:ice:1",
        run_id=run_id,
        flag="ice",
        state=state,
        first_frame=2,
        frame=frame,
        severity=severity,
        probability=0.9,
        reason="Ice rings.",
        at=datetime(2026, 1, 2, tzinfo=UTC),
    )


def finish(run_id: str = "run-1", complete: bool = True, reason: str | None = None) -> RunFinished:
    books = Progress(received=4, judged=3, failed=1)
    return RunFinished(run_id=run_id, progress=books, flags={"ice": 1}, indexed=0, wall_s=2.0, complete=complete, reason=reason)


def a_story(run_id: str = "run-1") -> list[Record]:
    failed = a_verdict(2, None, run_id, spots=None, decay=None, error="truncated")
    return [begin(run_id), a_verdict(0, GOOD, run_id), a_verdict(1, EMPTY, run_id, decay=None), failed, a_flag(3, run_id), finish(run_id)]


def send(sink: Sink, records: Sequence[Record]) -> None:
    for record in records:
        sink.accept(record)


# --- names of files ---


@given(run_id=st.text(max_size=300))
def test_names_are_safe_whatever_the_run_is_called(run_id: str) -> None:
    name = safe_name(run_id)
    assert 0 < len(name) <= 120
    assert not set(name) & set('/\\:*?"<>| \n\0')
    assert not name.startswith((".", "-"))


def test_two_runs_never_share_a_file(tmp_path: Path) -> None:
    paths = RunPaths(str(tmp_path / "deep" / "{run}.lst"), "sinks.x.path")
    names = [paths.of(run_id).name for run_id in ("a/b", "a b", "A_b", "../../etc/passwd", "a_b-2")]
    assert names == ["a_b.lst", "a_b-2.lst", "A_b-3.lst", "etc_passwd.lst", "a_b-2-2.lst"]
    assert (tmp_path / "deep").is_dir()


@pytest.mark.parametrize("make", [Hdf5Sink, GoodFramesSink])
def test_a_path_without_the_run_is_refused_by_key(make: type[Hdf5Sink] | type[GoodFramesSink]) -> None:
    with pytest.raises(SinkError, match=r"sinks\.\w+\.path=all\.x: the path must contain \{run\}"):
        make("all.x")


# --- JSON lines ---


def test_json_lines_are_the_records_each_seen_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    sink = JsonLinesSink(path)
    for n, record in enumerate(a_story(), start=1):
        sink.accept(record)
        lines = path.read_text().splitlines()
        assert len(lines) == n
        assert json.loads(lines[-1]) == to_json(record)
    sink.close()


def test_json_lines_go_to_standard_output_and_leave_it_open(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    sink = JsonLinesSink("-")
    send(sink, a_story())
    sink.close()
    print("after")
    lines = capsysbinary.readouterr().out.splitlines()
    assert [json.loads(line)["type"] for line in lines[:-1]] == ["run", "frame", "frame", "frame", "flag", "run_end"]
    assert lines[-1] == b"after"


def test_json_lines_name_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"sinks\.jsonl\.path"):
        JsonLinesSink(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="folder cannot be made"):
        JsonLinesSink(tmp_path / "file" / "x.jsonl")


class FullDisk(io.FileIO):
    """Takes 100 bytes more, then no more."""

    room = 100

    def write(self, data: Any, /) -> int:
        if self.room <= 0:
            raise OSError(28, "No space left on device")
        taken = super().write(bytes(data)[: self.room])
        self.room -= taken
        return taken


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    sink = JsonLinesSink(path)
    sink.accept(a_verdict(0))
    sink._file.close()
    full = FullDisk(path, "r+")
    full.seek(0, io.SEEK_END)
    sink._file = full
    with pytest.raises(SinkError, match="No space left"):
        sink.accept(a_verdict(1))
    full.room = 10_000
    sink.accept(a_verdict(2))
    sink.close()
    assert [json.loads(line)["frame"] for line in path.read_text().splitlines()] == [0, 2]


def test_a_reader_that_went_away_is_a_broken_pipe(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    sink = JsonLinesSink(f"/dev/fd/{writing}")
    os.close(writing)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        sink.accept(a_verdict(0))
    sink.close()


# --- HDF5 ---


def test_hdf5_holds_every_field_of_every_frame(tmp_path: Path) -> None:
    """Against the JSON records: nested names joined by `_`, null as NaN."""
    sink = Hdf5Sink(str(tmp_path / "{run}.h5"))
    story = a_story("scan 1/a")
    send(sink, story)
    sink.close()
    with h5py.File(tmp_path / "scan_1_a.h5") as file:
        group = file["entry/triage"]
        assert json.loads(group["run"][()]) == to_json(story[0])
        for row, record in enumerate(story[1:4]):
            for name, value in flat(to_json(record)).items():
                if name in ("type", "run"):
                    continue
                if name in ("probabilities", "non_diffraction_kind", "decay", "spots"):  # null as a whole
                    parts = [group[part][row] for part in group if part.startswith(f"{name}_")]
                    assert parts
                    assert all(np.isnan(part).all() for part in parts)
                    continue
                stored = group[name][row]
                if isinstance(value, str) or name in ("file", "error"):
                    assert stored.decode() == (value or ""), name
                else:
                    np.testing.assert_array_equal(stored, np.array(value, dtype=float), err_msg=name)
        assert np.isnan(group["lattices"][2]).all()
        assert (group["decay_probability"][0], group["decay_alarm_probability"][0]) == (0.4, 0.6)
        assert np.isnan(group["decay_probability"][1:]).all()
        assert [group["flags"][name][0] for name in ("flag", "state", "first_frame", "frame")] == [b"ice", b"raised", 2, 3]
        assert group["run_end/frames_received"][()] == 4
        assert group["run_end/complete"][()] == 1


def flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    names: dict[str, Any] = {}
    for name, value in record.items():
        names |= flat(value, f"{prefix}{name}_") if isinstance(value, dict) else {prefix + name: value}
    return names


def test_hdf5_is_nexus_that_viewers_open(tmp_path: Path) -> None:
    """By the NeXus rules: from `default` to `default` to an NXdata whose signal and axes exist, and are of one length."""
    sink = Hdf5Sink(str(tmp_path / "{run}.h5"))
    send(sink, a_story())
    with h5py.File(tmp_path / "run-1.h5") as file:
        assert file["entry"].attrs["NX_class"] == "NXentry"
        assert file["entry/triage"].attrs["NX_class"] == "NXprocess"
        plot = file[file.attrs["default"]][file["entry"].attrs["default"]]
        assert plot.attrs["NX_class"] == "NXdata"
        signals = [plot.attrs["signal"], *plot.attrs["auxiliary_signals"], plot.attrs["axes"]]
        assert {len(plot[name]) for name in signals} == {3}
        assert "NaN" in file["entry/triage"].attrs["missing_values"]


READER = """
import sys, time, h5py, numpy as np
path = sys.argv[1]
seen = []
with h5py.File(path, "r", swmr=True) as file:
    print("open", flush=True)
    frame, p, flag = file["entry/triage/frame"], file["entry/triage/probabilities_multi_lattice"], file["entry/triage/flags/id"]
    stop = time.monotonic() + 20
    while time.monotonic() < stop:
        for dataset in (frame, p, flag):
            dataset.refresh()
        if len(frame) and (not seen or len(frame) > seen[-1]):
            assert np.allclose(p[: len(frame)], 0.03) and list(frame[:]) == list(range(len(frame)))
            seen.append(len(frame))
            print(len(frame), flush=True)
        if len(flag):
            print("flag", flag[0].decode(), flush=True)
            break
        time.sleep(0.01)
"""


def test_hdf5_is_read_by_another_process_while_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triage.sinks.hdf5._FLUSH_EVERY_S", 0.0)
    sink = Hdf5Sink(str(tmp_path / "{run}.h5"))
    sink.accept(begin())
    with subprocess.Popen([sys.executable, "-c", READER, str(tmp_path / "run-1.h5")], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"  # nothing is written before the reader is there
        send(sink, [a_verdict(i) for i in range(3)])
        first = int(reader.stdout.readline())
        send(sink, [a_verdict(i) for i in range(3, 200)])
        sink.accept(a_flag())
        said = reader.stdout.read().split("\n")
    assert reader.returncode == 0
    assert 1 <= first <= 3
    assert "flag run-1:ice:1" in said
    sink.close()


def test_hdf5_without_an_end_keeps_its_rows(tmp_path: Path) -> None:
    sink = Hdf5Sink(str(tmp_path / "{run}.h5"))
    send(sink, [begin("a"), *(a_verdict(i, run_id="a") for i in range(700)), begin("b"), a_verdict(0, run_id="b")])
    sink.close()
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(file["entry/triage/frame"]) == list(range(700))
        assert math.isnan(file["entry/triage/run_end/complete"][()])
    with h5py.File(tmp_path / "b.h5") as file:
        assert len(file["entry/triage/frame"]) == 1


def test_hdf5_keeps_long_and_foreign_text_whole_up_to_its_bytes(tmp_path: Path) -> None:
    sink = Hdf5Sink(str(tmp_path / "{run}.h5"))
    send(sink, [begin(), a_verdict(0, file="ä" * 400), a_verdict(1, None, error="é\udcff"), finish(complete=False, reason="aborted: Ω")])
    with h5py.File(tmp_path / "run-1.h5") as file:
        assert file["entry/triage/file"].asstr()[0] == "ä" * 256
        assert file["entry/triage/error"].asstr()[1] == "é?"
        assert file["entry/triage/run_end/reason"][()].decode() == "aborted: Ω"
        assert file["entry/triage/run_end/complete"][()] == 0


def test_hdf5_says_which_file_it_could_not_make(tmp_path: Path) -> None:
    (tmp_path / "run-1.h5").mkdir()
    sink = Hdf5Sink(str(tmp_path / "{run}.h5"))
    with pytest.raises(SinkError, match=r"run-1\.h5: cannot be written"):
        sink.accept(begin())
    with pytest.raises(SinkError, match="no results file"):
        sink.accept(a_verdict(0))
    sink.close()


# --- good frames ---


def test_good_frames_of_single_images_are_listed_as_they_come(tmp_path: Path) -> None:
    sink = GoodFramesSink(str(tmp_path / "{run}.lst"))
    sink.accept(begin())
    files = [str(tmp_path / f"x_{i}.cbf") for i in range(5)]
    for i, judgement in enumerate([GOOD, EMPTY, MULTI, None, GOOD]):
        sink.accept(a_verdict(i, judgement, file=files[i]))
    assert (tmp_path / "run-1.lst").read_text().splitlines() == [files[0], files[4]]  # before the run's end
    sink.accept(finish())
    assert not list(tmp_path.glob("*_good.h5"))
    sink.close()


def test_good_frames_have_limits_of_the_users_choice(tmp_path: Path) -> None:
    sink = GoodFramesSink(str(tmp_path / "{run}.lst"), non_diffraction_below=0.99, multi_lattice_below=0.01)
    send(sink, [begin(), a_verdict(0, EMPTY), a_verdict(1, replace(GOOD, lattices=(0.0, 1.0, 0.0, 0.0))), a_verdict(2, GOOD), finish()])
    assert (tmp_path / "run-1.lst").read_text() == "run-1 //1\n"


def make_master(folder: Path, counts: Sequence[int]) -> tuple[Path, np.ndarray]:
    """A DECTRIS-like master: external links to data files, frames that all differ."""
    pixels = np.arange(sum(counts) * 6, dtype=np.uint16).reshape(-1, 2, 3)
    begin_at = 0
    with h5py.File(folder / "x_master.h5", "w") as master:
        master["entry/instrument/detector/detector_distance"] = 0.2
        for n, count in enumerate(counts, start=1):
            name = f"x_data_{n:06d}.h5"
            with h5py.File(folder / name, "w") as data:
                data["entry/data/data"] = pixels[begin_at : begin_at + count]
            master[f"entry/data/data_{n:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
            begin_at += count
    return folder / "x_master.h5", pixels


def judged_good(sink: GoodFramesSink, master: Path, frames: Sequence[int], n: int) -> None:
    shows = (a_verdict(i, GOOD if i in frames else EMPTY, file=str(master)) for i in range(n))
    send(sink, [begin(source=str(master)), *shows, finish()])


def test_good_frames_of_hdf5_are_listed_and_linked(tmp_path: Path) -> None:
    master, pixels = make_master(tmp_path, [4, 3, 5])
    good = [0, 1, 3, 4, 6, 7, 11]
    out = tmp_path / "out"
    judged_good(GoodFramesSink(str(out / "{run}.lst")), master, good, 12)
    assert (out / "run-1.lst").read_text().splitlines() == [f"{master} //{i}" for i in good]
    with h5py.File(out / "run-1_good.h5") as file:
        assert file["entry/data/data"].is_virtual
        np.testing.assert_array_equal(file["entry/data/data"][:], pixels[good])
        assert list(file["entry/data/source_frame"]) == good
        assert file["entry/instrument/detector/detector_distance"][()] == 0.2


@pytest.mark.parametrize("name", ["entry/data/data", "data", "exchange/frames"])
def test_good_frames_of_bare_data_files(tmp_path: Path, name: str) -> None:
    pixels = np.arange(5 * 4, dtype=np.int32).reshape(5, 2, 2)
    with h5py.File(tmp_path / "bare.h5", "w") as file:
        file[name] = pixels
        file["mask"] = np.zeros((1, 2, 2))
    judged_good(GoodFramesSink(str(tmp_path / "{run}.lst")), tmp_path / "bare.h5", [1, 2, 4], 5)
    with h5py.File(tmp_path / "run-1_good.h5") as file:
        np.testing.assert_array_equal(file["entry/data/data"][:], pixels[[1, 2, 4]])


def test_no_virtual_dataset_where_the_frames_cannot_be_numbered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    master, _ = make_master(tmp_path, [4, 3])
    (tmp_path / "x_data_000001.h5").unlink()
    judged_good(GoodFramesSink(str(tmp_path / "{run}.lst")), master, [5], 7)
    assert (tmp_path / "run-1.lst").read_text() == f"{master} //5\n"
    assert not (tmp_path / "run-1_good.h5").exists()
    assert "images are not all to be found" in caplog.text


def test_good_frames_past_the_end_are_no_wrong_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    master, _ = make_master(tmp_path, [4])
    judged_good(GoodFramesSink(str(tmp_path / "{run}.lst")), master, [3, 6], 7)
    assert not (tmp_path / "run-1_good.h5").exists()
    assert "1 good frames lie past the 4" in caplog.text


# --- log ---


def test_the_log_tells_flags_and_summaries(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    send(LogSink(), [*a_story(), a_flag(state="cleared"), a_flag(severity=Severity.INFO), finish(complete=False, reason="no end")])
    levels = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("WARNING", "run-1: ice raised: Ice rings.") in levels
    assert ("INFO", "run-1: ice cleared: Ice rings.") in levels
    assert ("INFO", "run-1: ice raised: Ice rings.") in levels
    assert ("INFO", "run-1: frame 2 was not judged: truncated") in levels
    assert ("INFO", "run-1: 3 of 4 frames judged in 2.0 s; 1 failed; flags: ice 1") in levels
    assert levels[-1][1].endswith("not complete (no end)")
    assert all("\n" not in line for _, line in levels)


# --- guarded ---


class Kept:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.closed = 0

    def accept(self, record: Record) -> None:
        self.records.append(record)

    def close(self) -> None:
        self.closed += 1


class Faulty(Kept):
    """Fails while it is broken."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.tried = 0

    def accept(self, record: Record) -> None:
        self.tried += 1
        if self.error is not None:
            raise self.error
        super().accept(record)

    def close(self) -> None:
        super().close()
        if self.error is not None:
            raise self.error


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


def flags_in(sink: Kept) -> list[Flag]:
    return [record for record in sink.records if isinstance(record, Flag) and record.flag == "sink"]


@pytest.mark.parametrize("error", [SinkError("disk full"), OSError(5, "I/O error"), ValueError("boom"), KeyError("k")])
@pytest.mark.parametrize("place", [0, 1])
def test_a_failing_sink_costs_the_others_nothing(error: Exception, place: int, clock: list[float]) -> None:
    good, bad = Kept(), Faulty(error)
    sinks = GuardedSinks([bad, good] if place == 0 else [good, bad], clock=lambda: clock[0])
    story = a_story()
    send(sinks, story)
    sinks.close()
    assert [record for record in good.records if record not in flags_in(good)][:-1] == story[:-1]
    [flag] = flags_in(good)
    assert (flag.state, flag.severity, flag.run_id) == ("raised", Severity.CRITICAL, "run-1")
    assert "Faulty takes no results" in flag.reason
    assert good.records[0] is story[0]  # the run record stays the first
    end = good.records[-1]
    assert isinstance(end, RunFinished)
    assert end.flags == {"ice": 1, "sink": 1}
    assert good.closed == bad.closed == 1


def test_a_failing_sink_is_tried_again_after_growing_pauses(clock: list[float]) -> None:
    good, bad = Kept(), Faulty(OSError(28, "No space left on device"))
    sinks = GuardedSinks([bad, good], clock=lambda: clock[0])
    sinks.accept(begin())
    tried = []
    for i in range(200):
        clock[0] = float(i)
        sinks.accept(a_verdict(i))
        tried.append(bad.tried)
    assert tried[-1] == pytest.approx(9, abs=1)  # after 1, 2, 4, 8, 16, 32, 60, 60 s
    bad.error = None
    clock[0] = 300.0
    sinks.accept(a_verdict(300))
    assert [flag.state for flag in flags_in(good)] == ["raised", "cleared"]
    assert flags_in(good)[0].id == flags_in(good)[1].id
    assert "lacks 20" in flags_in(good)[1].reason
    sinks.accept(a_verdict(301))
    assert bad.records[-1] == good.records[-1]


def test_a_new_run_is_a_new_chance(clock: list[float]) -> None:
    good, bad = Kept(), Faulty(SinkError("no such folder"))
    sinks = GuardedSinks([bad, good], clock=lambda: clock[0])
    send(sinks, a_story("a"))
    bad.error = None
    send(sinks, a_story("b"))
    assert bad.records == a_story_as_sent("b", bad)
    assert [flag.run_id for flag in flags_in(good)] == ["a"]


def a_story_as_sent(run_id: str, sink: Kept) -> list[Record]:
    """The records of this run, by identity of their kind and frame: stories are made afresh each time."""
    return [record for record in sink.records if (record.run.id if isinstance(record, RunStarted) else record.run_id) == run_id]


def test_a_failure_at_the_runs_end_is_logged_and_nothing_follows_the_end(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    good, bad = Kept(), Faulty()
    sinks = GuardedSinks([good, bad], clock=lambda: clock[0])
    story = a_story()
    send(sinks, story[:-1])
    bad.error = SinkError("disk full")
    sinks.accept(story[-1])
    assert isinstance(good.records[-1], RunFinished)
    assert "disk full" in caplog.text
    send(sinks, a_story("b")[:2])
    assert [flag.run_id for flag in flags_in(good)] == ["b"]


def test_two_failing_sinks_are_each_reported(clock: list[float]) -> None:
    good = Kept()
    sinks = GuardedSinks([Faulty(ValueError("a")), good, Faulty(ValueError("b"))], clock=lambda: clock[0])
    send(sinks, [begin(), a_verdict(0)])
    assert len({flag.id for flag in flags_in(good)}) == len(flags_in(good)) == 2


def test_a_reader_that_went_away_stops_the_work(clock: list[float]) -> None:
    stopped: list[bool] = []
    good, gone = Kept(), Faulty(BrokenPipeError(32, "Broken pipe"))
    sinks = GuardedSinks([gone, good], clock=lambda: clock[0], on_broken_pipe=lambda: stopped.append(True))
    send(sinks, [begin(), a_verdict(0), begin("b")])
    assert stopped == [True]
    assert gone.tried == 1


def test_a_real_results_file_that_cannot_be_made(tmp_path: Path, clock: list[float]) -> None:
    """The folder of HDF5 results is a file: JSON lines lose nothing, and say so."""
    (tmp_path / "results").touch()
    lines = JsonLinesSink(tmp_path / "x.jsonl")
    sinks = GuardedSinks([Hdf5Sink(str(tmp_path / "results" / "{run}.h5")), lines], clock=lambda: clock[0])
    send(sinks, a_story())
    sinks.close()
    records = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [record["type"] for record in records] == ["run", "flag", "frame", "frame", "frame", "flag", "run_end"]
    assert records[1]["flag"] == "sink"
    assert "results" in records[1]["reason"]
    assert records[-1]["flags"] == {"ice": 1, "sink": 1}


def test_sink_errors_are_for_people() -> None:
    assert issubclass(SinkError, TriageError)
