"""The command line, with a fake network: exit statuses, one-line errors, what is printed and what is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from triage.__main__ import DEVELOPER_VERBS, VERBS, main
from triage.classify import ModelMetadata
from triage.commands import arguments, interrupt, session
from triage.core import Judgement, Model, Pixels, Run, Spots
from triage.preprocess import Preprocess

REPOSITORY = Path(__file__).resolve().parents[1]
FRAMES = 12


class BrightnessClassifier:
    """Says that bright frames diffract; stands in for the network."""

    model = Model(name="brightness", version="0", sha256="0" * 64)
    metadata = ModelMetadata(name="brightness", version="0", preprocess=Preprocess(), base_rates=(0.25,) * 4, provenance={})

    def score(self, pixels: Pixels, spots: Spots, run: Run) -> Judgement:
        empty = 0.98 if pixels.mean() < 1 else 0.01
        return Judgement(
            lattices=(empty, 1 - empty - 0.005, 0.005, 0.0), non_diffraction_kind=(0.9, 0.1, 0.0, 0.0), ice_rings=0.02, resolution_A=2.1
        )


@pytest.fixture(autouse=True)
def _fake_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "load_classifier", lambda _settings: BrightnessClassifier())


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_frames(path: Path, frames: np.ndarray[Any, Any] | None = None) -> Path:
    """A bare HDF5 data file, as an EIGER writes it beside its master."""
    if frames is None:
        frames = np.full((FRAMES, 64, 48), 5, np.uint16)
    with h5py.File(path, "w") as file:
        file.create_dataset("/entry/data/data", data=frames, chunks=(1, *frames.shape[1:]))
    return path


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def err_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line]


# verbs and help


def test_without_a_verb_there_is_an_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {verb} " in out for verb in (*VERBS, *DEVELOPER_VERBS))
    assert not any(f"\n  {verb} " in out for verb in ("relay", "tune"))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"triage {verb}")
    assert out.count(f"triage {verb} ") >= 3


@pytest.mark.parametrize("verb", ["relay", "tune"])
def test_verbs_of_later_versions_say_so(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "x"]) == 2
    assert err_lines(capsys) == [f"triage {verb}: not in this version"]


def test_an_unknown_verb_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["listne"]) == 2
    [line] = err_lines(capsys)
    assert "listne" in line
    assert "listen" in line


def test_developer_verbs_are_called_with_their_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    import triage.__main__ as command_line

    class Entry:
        def load(self) -> Any:
            return lambda argv: len(argv)

    monkeypatch.setattr(command_line.metadata, "entry_points", lambda **_: [Entry()])
    assert main(["train", "a=1", "b=2"]) == 2


@pytest.mark.parametrize("installed", [True, False])
def test_developer_verbs_that_are_not_there_say_where_they_are(
    installed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import triage.__main__ as command_line

    class Entry:
        def load(self) -> Any:
            raise ModuleNotFoundError("No module named 'torch'")

    monkeypatch.setattr(command_line.metadata, "entry_points", lambda **_: [Entry()] if installed else [])
    assert main(["train"]) == 2
    [line] = err_lines(capsys)
    assert "pip install -e '.[train]'" in line


def test_compiled_loops_have_a_place_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert main(["--version"]) == 0
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)  # now anybody could have put code there
    assert main(["--version"]) == 0
    assert Path(os.environ["NUMBA_CACHE_DIR"]) != folder
    monkeypatch.delenv("NUMBA_CACHE_DIR")


def test_the_first_interrupt_asks_and_a_later_one_insists(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(interrupt, "_SAME_SIGNAL_S", 60.0)
    with interrupt.interruptible(lambda: asked.append(True)):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # the same key press, passed on twice
        assert asked == [True]
        monkeypatch.setattr(interrupt, "_SAME_SIGNAL_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


# files and overrides


def test_files_and_overrides_are_told_apart(cwd: Path) -> None:
    (cwd / "a=b.cbf").write_bytes(b"")
    given = ["x_master.h5", "mode=live", "a=b.cbf", "1=2.cbf", "source.geometry.beam_px=[1,2]", "dir/c=d.cbf", "+x.y=1"]
    files, overrides = arguments.split(given)
    assert files == ["x_master.h5", "a=b.cbf", "1=2.cbf"]
    assert overrides == ["mode=live", "source.geometry.beam_px=[1,2]", "dir/c=d.cbf", "+x.y=1"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run"], "no files"),
        (["run", "--fast", "x.h5"], "unknown option --fast"),
        (["run", "x.h5", "mode=fast"], "mode: 'fast' is not one of"),
        (["run", "x.h5", "source=dectris_stream2"], "use triage listen source=dectris_stream2"),
        (["run", "x.h5", "source.mask=nomask.npy"], "source.mask: nomask.npy: no such mask file"),
        (["run", "x.h5", "sinks.hdf5.path=same.h5"], "{run}"),
        (["run", "x.h5", "sinks.jsonl.path=/proc/no/such.jsonl"], "/proc/no/such.jsonl"),
        (["listen", "x.h5"], "takes no files (x.h5)"),
        (["listen", "dashbord=off"], "did you mean dashboard?"),
        (["replay"], "no files"),
        (["demo", "demo.file=nothing.h5"], "demo.file: nothing.h5: no such file"),
        (["demo", "demo.frames=0"], "demo.frames: 0 is out of range"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(argv: list[str], said: str, cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    [line] = err_lines(capsys)
    assert line.startswith(f"triage {argv[0]}: ")
    assert said in line


# run


def test_run_prints_a_summary_and_exits_0(cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_frames(cwd / "a_000001.h5")
    assert main(["run", "a_000001.h5"]) == 0
    out = capsys.readouterr().out
    assert "100 %" in out
    assert f"{FRAMES}" in out


def test_run_writes_json_lines_of_the_contract(cwd: Path) -> None:
    write_frames(cwd / "a_000001.h5")
    assert main(["run", "a_000001.h5", "sinks.jsonl.path=out.jsonl"]) == 0
    run, *frames, end = [r for r in records(cwd / "out.jsonl") if r["type"] not in ("flag", "indexing")]
    assert (run["type"], run["source"], run["shape_px"]) == ("run", "a_000001.h5", [64, 48])
    assert run["config"]["mode"] == "complete"
    assert [f["frame"] for f in frames] == list(range(FRAMES))
    assert all(f["latency_ms"] > 0 and f["error"] is None for f in frames)
    assert (end["frames_received"], end["frames_judged"], end["complete"]) == (FRAMES, FRAMES, True)


def test_results_on_standard_output_are_nothing_but_json(cwd: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_frames(cwd / "a_000001.h5", np.zeros((40, 64, 48), np.uint16))
    assert main(["run", "a_000001.h5", "sinks.jsonl.path=-"]) == 0
    out, err = capfd.readouterr()
    kinds = {json.loads(line)["type"] for line in out.splitlines()}
    assert {"run", "frame", "indexing", "flag", "run_end"} <= kinds
    assert "RAISED  non_diffraction" in err


def test_flags_are_printed_as_they_are_raised(cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = np.full((60, 64, 48), 5, np.uint16)
    frames[20:40] = 0
    write_frames(cwd / "a_000001.h5", frames)
    assert main(["run", "a_000001.h5", "sinks.jsonl.path=out.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "RAISED  non_diffraction" in out
    assert "cleared non_diffraction" in out
    raised = [r for r in records(cwd / "out.jsonl") if r["type"] == "flag" and r["flag"] == "non_diffraction" and r["state"] == "raised"]
    assert [r["first_frame"] for r in raised] == [20]


def test_indexing_says_why_a_frame_is_skipped_and_can_be_switched_off(cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_frames(cwd / "a_000001.h5")
    assert main(["run", "a_000001.h5", "indexing.every=5", "sinks.jsonl.path=out.jsonl", "sinks.hdf5.path=out.h5{run}"]) == 0
    found = [r for r in records(cwd / "out.jsonl") if r["type"] == "indexing"]
    assert [(r["frame"], r["status"], r["reason"]) for r in found] == [(k, "skipped", "the geometry is not known") for k in (0, 5, 10)]
    assert records(cwd / "out.jsonl")[-1]["indexed"] == 0
    assert main(["run", "a_000001.h5", "indexing=off", "sinks.jsonl.path=off.jsonl"]) == 0
    assert not [r for r in records(cwd / "off.jsonl") if r["type"] == "indexing"]
    assert "run: " not in capsys.readouterr().out


def test_a_file_that_is_not_there_costs_that_file(cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_frames(cwd / "a_000001.h5")
    (cwd / "text.cbf").write_text("this is no image\n")
    assert main(["run", "gone.h5", "a_000001.h5", "text.cbf", "sinks.jsonl.path=out.jsonl"]) == 1
    said = err_lines(capsys)
    assert sum("gone.h5" in line for line in said) == 1
    assert sum("text.cbf" in line for line in said) == 1
    ends = {r["run"]: r for r in records(cwd / "out.jsonl") if r["type"] == "run_end"}
    sources = {r["run"]: r["source"] for r in records(cwd / "out.jsonl") if r["type"] == "run"}
    complete = {sources[run]: end["complete"] for run, end in ends.items()}
    assert complete == {"gone.h5": False, "a_000001.h5": True, "text.cbf": False}
    assert all(end["reason"] for end in ends.values() if not end["complete"])


def test_a_row_a_file_says_in_words_what_it_is(cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_frames(cwd / "bright_000001.h5", np.full((1, 64, 48), 5, np.uint16))
    write_frames(cwd / "dark_000001.h5", np.zeros((1, 64, 48), np.uint16))
    assert main(["run", "bright_000001.h5", "dark_000001.h5", "gone.h5", "source.group=file"]) == 1
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if ".h5" in line}
    assert "1 lattice 0.98" in rows["bright_000001.h5"]
    assert "no lattice 0.98" in rows["dark_000001.h5"]
    assert "0.98 blank" in rows["dark_000001.h5"]
    assert "gone.h5" in rows


def test_mode_live_counts_what_it_skips(cwd: Path) -> None:
    write_frames(cwd / "a_000001.h5", np.full((200, 64, 48), 5, np.uint16))
    assert main(["run", "a_000001.h5", "mode=live", "pipeline.buffer_frames=2", "sinks.jsonl.path=out.jsonl"]) == 0
    end = records(cwd / "out.jsonl")[-1]
    assert end["frames_received"] == 200 == end["frames_judged"] + end["frames_dropped"]


# masks


@pytest.mark.parametrize("name", ["mask.npy", "mask.h5", "mask.tif"])
def test_a_mask_that_cannot_be_read_is_refused_by_name(name: str, cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cwd / name).write_bytes(b"garbage")
    assert main(["run", "a_000001.h5", f"source.mask={name}"]) == 2
    complaint = capsys.readouterr().err.strip().splitlines()
    assert len(complaint) == 1
    assert "source.mask: " in complaint[0]
    assert name in complaint[0]


# processes of their own


FAKE_NETWORK = """
import sys
sys.path.insert(0, {tests!r})

from test_commands import BrightnessClassifier
from triage.commands import session
session.load_classifier = lambda _settings: BrightnessClassifier()
from triage.__main__ import main
sys.exit(main({argv!r}))
"""


@pytest.fixture
def start(cwd: Path) -> Iterator[Any]:
    """Starts `triage ARGV` with the fake network, in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def begin(*argv: str) -> subprocess.Popen[str]:
        program = FAKE_NETWORK.format(tests=str(REPOSITORY / "tests"), argv=list(argv))
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(condition: Any, timeout_s: float = 100.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def test_ctrl_c_ends_a_listener_cleanly_with_its_results(cwd: Path, start: Any) -> None:
    write_frames(cwd / "demo.h5", np.full((30, 64, 48), 5, np.uint16))
    process = start("demo", "demo.file=demo.h5", "demo.rate_hz=50", "dashboard=off", "sinks.jsonl.path=out.jsonl")
    out = cwd / "out.jsonl"
    wait_for(lambda: process.poll() is not None or (out.exists() and out.read_text().count("run_end") >= 2))
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=60)
    assert process.returncode == 0, complained
    assert "Traceback" not in complained
    assert "judged" in said
    kinds = [r["type"] for r in records(out)]
    assert kinds.count("run") == kinds.count("run_end") >= 2
    assert kinds[-1] == "run_end"


def test_the_demo_ends_by_itself_after_its_frames(cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_frames(cwd / "demo.h5", np.full((30, 64, 48), 5, np.uint16))
    argv = ["demo", "demo.file=demo.h5", "demo.frames=70", "demo.rate_hz=500", "dashboard=off", "sinks.jsonl.path=out.jsonl"]
    assert main(argv) == 0
    ends = [r for r in records(cwd / "out.jsonl") if r["type"] == "run_end"]
    assert [(e["frames_judged"], e["frames_dropped"], e["complete"]) for e in ends] == [(30, 0, True), (30, 0, True), (10, 0, True)]


def test_a_reader_that_goes_away_ends_the_run_quietly(cwd: Path, start: Any) -> None:
    write_frames(cwd / "a_000001.h5", np.full((500, 64, 48), 5, np.uint16))
    process = start("run", "a_000001.h5", "sinks.jsonl.path=-")
    assert json.loads(process.stdout.readline())["type"] == "run"
    process.stdout.close()
    process.wait(timeout=60)
    complained = process.stderr.read()
    assert process.returncode == 0, complained
    assert "Traceback" not in complained


def test_replay_and_listen_meet_over_a_socket(cwd: Path, start: Any) -> None:
    write_frames(cwd / "a_000001.h5")
    endpoint = "ipc://box"
    listener = start("listen", f"source.endpoint={endpoint}", "dashboard=off", "indexing=off", "sinks.jsonl.path=out.jsonl")
    detector = start("replay", "a_000001.h5", f"replay.endpoint={endpoint}", "replay.rate_hz=200")
    _, said = detector.communicate(timeout=100)
    assert detector.returncode == 0, said
    assert f"sent {FRAMES} frames in 1 runs" in said
    wait_for(lambda: (cwd / "out.jsonl").exists() and "run_end" in (cwd / "out.jsonl").read_text())
    listener.send_signal(signal.SIGTERM)
    listener.communicate(timeout=60)
    assert listener.returncode == 0
    end = next(r for r in records(cwd / "out.jsonl") if r["type"] == "run_end")
    assert (end["frames_received"], end["complete"]) == (FRAMES, True)
