"""Measures of judged runs, the fusion's learning, dimmed copies. Truths: runs whose flags and losses are known, separable samples."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from scipy.spatial import cKDTree  # noqa: E402

from training.decay.evaluate import write  # noqa: E402
from training.decay.fuse import Samples, Witnessed, alarms_of, calibration_of, even_rates, learn, of_each  # noqa: E402
from training.decay.judge import JudgedRun, judged_by  # noqa: E402
from training.decay.measure import delays, detection, flagged_at  # noqa: E402
from training.decay.out_of_fold import level_of  # noqa: E402
from training.decay.reliability import as_table, reliability  # noqa: E402
from training.decay.report import ASKED, TooFewRunsError  # noqa: E402
from training.decay.runs import dimmed, draw_plan, simulate  # noqa: E402
from training.decay.serial import FRAMES, SerialResult, as_sentence, crystals, declared  # noqa: E402
from training.decay.store import OldRunsError, load  # noqa: E402
from training.verbs import evaluate  # noqa: E402
from triage.core import RunKind  # noqa: E402
from triage.decay.evidence import FEATURES  # noqa: E402
from triage.decay.fusion import UNSEEN, Fusion, Layers, calibrated, evened  # noqa: E402
from triage.flags.settings import DECAY  # noqa: E402

pytestmark = pytest.mark.torch
torch.set_num_threads(1)


def a_judged(index: int, *, damaged: bool, flagged: int | None, kind: str = "stills") -> JudgedRun:
    """100 frames; the outer shell loses 1 % with each, the dose is 0.1 MGy a frame; flagged from a frame on."""
    frame = np.arange(12.0, 100.0)
    loss = np.arange(100.0) / 100.0 if damaged else np.zeros(100)
    nothing = np.zeros(len(frame))
    return JudgedRun(
        index=index,
        kind=kind,
        look_alike="none",
        detector="EIGER2 4M",
        n_frames=100,
        exponent=3.0 if damaged else 0.0,
        onset=0.0,
        room_temperature=False,
        anisotropy_A2=0.0,
        outer_d_A=2.0,
        frame=frame,
        probability=np.full(len(frame), 0.6 if damaged else 0.01),
        delta_B=nothing,
        sigma=nothing + 1.0,
        scale=nothing + 1.0,
        scale_sigma=nothing + 0.1,
        true_delta_B=nothing,
        true_scale=nothing + 1.0,
        outer_loss=nothing,
        all_loss=loss,
        all_dose_MGy=0.1 * np.arange(100.0) * damaged,
        trends=np.tile(loss, (3, 1)),
        bound_frame=20.0,
        block=frame[:1],
        features=np.zeros((1, len(FEATURES)), dtype=np.float32),
        alarm_probability=np.where(frame >= (1000 if flagged is None else flagged), 0.999, 0.01),
    )


RUNS = [
    *[a_judged(k, damaged=True, flagged=30) for k in range(3)],
    a_judged(3, damaged=True, flagged=None),
    *[a_judged(k, damaged=False, flagged=None) for k in range(4, 9)],
    a_judged(9, damaged=False, flagged=50),
]


def test_what_is_flagged_and_how_late() -> None:
    """One frame decides: a flag at frame 30 has cost 30 % of the outer shell, and 3 MGy."""
    rows = detection(RUNS, lambda run: flagged_at(run, DECAY))["stills"]
    assert (rows["damaged"], rows["sound"]) == (4, 6)
    assert rows["flagged"][0] == 0.75
    assert rows["loss"][0] == pytest.approx(0.30)
    assert rows["false"][0] == pytest.approx(1 / 6, abs=1e-4)
    assert delays(RUNS, DECAY)["100 K"]["dose_MGy"][0] == pytest.approx(3.0)
    assert delays(RUNS, DECAY)["room temperature"]["damaged"] == 0


def test_the_report_of_runs_is_written(tmp_path: Path) -> None:
    """Of the four damaged runs' frames, 84 of 88 have lost more than 15 %; 0.6 is said of them, and 0.01 of the others."""
    text = write(RUNS, RUNS, tmp_path)
    found = json.loads((tmp_path / "report.json").read_text())["calibration"]["stills"]
    assert found["runs"] == 10
    assert found["ece"] == pytest.approx(0.4 * (84 / 88 - 0.6) + 0.6 * 0.01, abs=1e-3)
    assert "| stills | 10 | 0.246 | 0.382 |" in text
    assert "| stills | 4 | 75%" in text
    assert "MGy" in text
    frames = sum(run.n_frames for run in RUNS if not run.damaged)  # one of these runs says 0.999, which any rate allows
    for line in text.splitlines()[-len(ASKED) :]:
        assert line.split("|")[3].split()[0] == f"{1000 / frames:.3f}"
    assert json.loads((tmp_path / "report.json").read_text())["detection"]["stills"]["damaged"] == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decay_losses.png", "decay_runs.png", "report.json", "report.md"]


class AsBefore:
    """Is written as a run of a version that did not keep the last field."""

    def __reduce__(self) -> tuple[Any, ...]:
        return object.__new__, (JudgedRun,), RUNS[0].__getstate__()[:-1]  # type: ignore[attr-defined]


def test_runs_that_lack_something_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "test_1.pkl"
    path.write_bytes(pickle.dumps([AsBefore()]))
    with pytest.raises(OldRunsError, match=r"test_1.pkl: its runs were judged before scale_sigma was kept; judge them anew"):
        load(path)
    path.write_bytes(pickle.dumps(RUNS))
    assert [run.index for run in load(path)] == [run.index for run in RUNS]


def test_the_verb_simulates_judges_and_reports_and_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a user runs it, on few runs; the second time nothing is simulated again."""
    asked = [
        "evaluate.what=runs",
        "evaluate.runs.test=10",
        "evaluate.runs.train=4",
        "evaluate.runs.seed=5",
        "evaluate.runs.serial=1",
        f"evaluate.out={tmp_path}",
    ]
    assert evaluate(asked) == 0
    said = capsys.readouterr().out
    assert said.startswith("10 test runs")
    assert "spot count, falls by" in said
    assert "1 serial runs: decay null in all 100 frames, none flagged." in said
    assert str(tmp_path / "report.md") in said
    names = {"decay_losses.png", "decay_runs.png", "report.json", "report.md", "test_5.pkl", "train_51.pkl"}
    assert {path.name for path in tmp_path.iterdir()} == names
    written = {name: (tmp_path / name).stat().st_mtime_ns for name in ("test_5.pkl", "train_51.pkl")}
    assert evaluate(asked) == 0
    assert capsys.readouterr().out == said
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in written} == written


def test_serial_runs_are_reported_in_a_sentence_and_every_frame_is_another_crystal() -> None:
    """Numbers by hand; and of one drawn run: hits show other spots each, undamaged, and some frames show none."""
    none, some = SerialResult(frames=200, judged=0, flagged=0), SerialResult(frames=200, judged=90, flagged=1)
    said = as_sentence({"serial": none, "stills": some, "rotation": none})
    assert said.startswith("2 serial runs: decay null in all 200 frames, none flagged.")
    assert said.endswith("flagged: 1 of 2 as stills, 0 of 2 as rotation.")
    wrong = as_sentence({"serial": some, "stills": some, "rotation": none})
    assert wrong.startswith("2 serial runs: decay null in 110 of 200 frames, 1 flagged.")
    frames = list(crystals(5, 0))
    hits = [frame for frame in frames if len(frame)]
    assert 0.1 * FRAMES < len(hits) <= FRAMES == len(frames)
    nearest = cKDTree(hits[0].positions_px).query(hits[1].positions_px)[0]
    assert (nearest < 1.0).mean() < 0.2
    assert declared(draw_plan(5, "test", 0), RunKind.SERIAL).header.omega_step_deg is None


@pytest.mark.parametrize(("train", "test", "named"), [(RUNS[:4], RUNS, "train = 4"), (RUNS, RUNS[:3], "test = 3")])
def test_runs_without_an_undamaged_one_are_refused(train: list[JudgedRun], test: list[JudgedRun], named: str, tmp_path: Path) -> None:
    with pytest.raises(TooFewRunsError, match=rf"evaluate\.runs\.{named}: none of these runs is undamaged"):
        write(train, test, tmp_path)


def samples(n_runs: int = 40, each: int = 20) -> Samples:
    """One feature tells, the others are noise."""
    rng = np.random.default_rng(1)
    index = np.repeat(np.arange(n_runs), each)
    features = rng.normal(size=(len(index), len(FEATURES)))
    weight = np.full(len(index), 1.0 / each)
    return Samples(features, np.where(features[:, 3] > 0, 0.5, 0.0), index, weight, weight)


def test_learning_finds_what_tells_and_the_runtime_says_the_same() -> None:
    given = samples()
    told, found = learn(given, steps=150)
    assert np.mean((found.named > 0.0) == (given.loss > 0.15)) > 0.85
    assert np.mean((found.unnamed > 0.0) == (given.loss > 0.15)) > 0.85
    layers = Layers(*(np.array(told[name]) for name in Layers._fields))
    numbers = {name: told[name] for name in ("slope", "offset", "calibration")}
    fusion = Fusion(np.array(told["mean"]), np.array(told["spread"]), layers, **numbers)
    said = np.array([fusion.probability(row) for row in given.features])
    assert np.mean((said > 0.5) == (given.loss > 0.15)) > 0.9


def test_what_is_said_is_calibrated_in_each_kind() -> None:
    """Log-odds that are right of rotations, too high by 1 in stills, and to which growth beyond doubt has more to add than usual."""
    rng = np.random.default_rng(5)
    n, each = 20_000, 20
    features, right = np.zeros((n, len(FEATURES))), rng.normal(size=n)
    stills = np.repeat(rng.random(n // each) < 0.3, each)
    features[:, FEATURES.index("stills")] = stills
    features[:, FEATURES.index("z")] = np.arcsinh(np.where(rng.random(n) < 0.2, 6.0, 0.0))
    added = calibrated(features, (-1.0, 1.5))
    lost = rng.random(n) < 1.0 / (1.0 + np.exp(-right - added))
    index, weight = np.repeat(np.arange(n // each), each), np.full(n, 1.0 / each)
    found = calibration_of(Samples(features, np.where(lost, 0.5, 0.0), index, weight, weight), right)
    assert found == pytest.approx((-1.0, 1.5), abs=0.25)
    kinds = [("stills" if stills[k] else "rotation_60", k) for k in range(0, n, each)]
    logits = right + calibrated(features, found)
    runs = [(kind, 1.0 / (1.0 + np.exp(-logits[k : k + each])), np.where(lost[k : k + each], 0.5, 0.0)) for kind, k in kinds]
    rows = reliability(runs)
    assert set(rows) == {"stills", "rotation, 60 to 79 frames", "all"}
    assert all(row["ece"] < 0.05 for row in rows.values())
    before = [("stills", 1.0 / (1.0 + np.exp(-right[k : k + each])), runs[k // each][2]) for kind, k in kinds if kind == "stills"]
    assert reliability(before)["stills"]["ece"] > 0.1


def test_the_table_of_calibration_says_what_was_lost_of_what_was_said() -> None:
    """Two runs of one kind that weigh the same: 0.25 is said of one, whose half is lost, 0.85 of the other, of which all is."""
    runs = [("wedges", np.full(4, 0.25), np.array([0.0, 0.0, 0.3, 0.3])), ("wedges", np.full(40, 0.85), np.full(40, 0.5))]
    rows = reliability([*runs, ("stills", np.zeros(0), np.zeros(0))])
    assert set(rows) == {"wedges", "all"}
    assert rows["wedges"]["ece"] == pytest.approx(0.5 * 0.25 + 0.5 * 0.15)
    assert as_table(rows, "x").splitlines()[2] == "| wedges | 2 | 0.550 | 0.750 | 0.200 |  |  | 50 |  |  |  |  |  | 100 |  |"


def a_witnessed(index: int, n: int, *, damaged: bool = False) -> Witnessed:
    features = np.zeros((n, len(FEATURES)), dtype=np.float32)
    return Witnessed(index, "stills", "none", damaged, 10 * n, np.zeros(10 * n), features, 10 * np.arange(n))


def test_a_level_is_exceeded_by_the_share_asked_for_and_alarms_are_counted() -> None:
    """Three undamaged runs, the third with a copy that does not count; probabilities by hand. Equal rates are told apart by a per mille."""
    runs = [a_witnessed(0, 3), a_witnessed(1, 3), a_witnessed(2, 2), a_witnessed(2, 2), a_witnessed(3, 1, damaged=True)]
    probability = np.array([0.1, 0.7, 0.05, 0.2, 0.95, 0.99, 0.3, 0.3, 0.999, 0.999, 1.0])
    sound = [pair for pair in of_each(runs, probability) if not pair[0].damaged]
    assert level_of(sound, 0.0) == pytest.approx(0.99)
    assert level_of(sound, 0.34) == pytest.approx(0.7)
    table = dict(alarms_of(runs, probability))
    assert table[0.0] == pytest.approx(1000 * 2 / 80, rel=5e-3)  # 0.7 and 0.95 to 0.99
    assert table[2.5] == pytest.approx(1000 * 1 / 80, rel=5e-3)
    assert table[5.0] < table[4.0]


def test_rates_of_false_alarms_are_evened() -> None:
    """Long runs are looked at more often and stills less doubtful: with what is added, all kinds exceed the same level as often."""
    rng = np.random.default_rng(3)
    runs, logits, features = [], [], []
    for index in range(900):
        kind, n = (("stills", 20), ("rotation_60", 12), ("rotation_600", 120))[index % 3]
        runs.append(
            Witnessed(index, kind, "none", False, 5 * n, np.zeros(5 * n), np.zeros((n, len(FEATURES)), np.float32), 5 * np.arange(n))
        )
        row = np.zeros((n, len(FEATURES)))
        row[:, FEATURES.index("stills")] = kind == "stills"
        row[:, FEATURES.index("log_frames")] = np.log(5.0 * np.arange(n) + 1.0)
        features.append(row)
        logits.append(rng.normal(size=n) - 3.0 * (kind == "stills"))
    rows, values = np.concatenate(features), np.concatenate(logits)
    even = even_rates(runs, rows, values)
    assert even[0] == pytest.approx(3.0, abs=0.6)
    assert even[1] > 0.1
    after = of_each(runs, values + evened(rows, even))
    level = level_of(after, 0.05)
    for kind in ("stills", "rotation_60", "rotation_600"):
        exceeded = [bool((each >= level).any()) for run, each in after if run.kind == kind]
        assert 0.01 < np.mean(exceeded) < 0.1


def test_a_judged_run_can_be_judged_by_another_fusion() -> None:
    """The probability of a frame is that of the last block that was complete by then."""
    n = len(FEATURES)
    layers = Layers(np.zeros((1, n, 1)), np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(1), np.eye(1, n))
    rows = np.zeros((2, n), dtype=np.float32)
    rows[:, 0] = (1.0, -2.0)
    run = replace(a_judged(1, damaged=True, flagged=30), block=np.array([40.0, 60.0]), features=rows)
    judged = judged_by(run, Fusion(np.zeros(n), np.ones(n), layers, calibration=(0.0, 0.0)))
    found = judged.probability
    expected = np.where(run.frame < 40, UNSEEN, np.where(run.frame < 60, 1.0 / (1.0 + np.exp(-1.0)), 1.0 / (1.0 + np.exp(2.0))))
    assert found == pytest.approx(expected)
    assert judged.alarm_probability == pytest.approx(expected)


def test_a_dimmed_copy_holds_the_same_spots_fainter() -> None:
    """Of a faint spot the finder sums a smaller part than of a bright one: 80 to 95 % (docs/spots.md)."""
    plans = (draw_plan(4, "train", 300 + k) for k in range(200))
    plan: Any = next(plan for plan in plans if plan.kind == "stills" and plan.visible_spots > 100 and plan.damage.exponent == 0)
    here = np.ones(plan.n_frames, dtype=bool)
    run = simulate(replace(plan, course=replace(plan.course, brightness=np.ones(plan.n_frames), present=here)))
    copy = dimmed(run)
    assert copy.plan.course.look_alike in ("leaving", "flux_dips")
    assert len(copy.rows) < len(run.rows)
    assert copy.loss == pytest.approx(run.loss)
    darkest = int(np.argmin(np.where(copy.plan.course.brightness > 0.3, copy.plan.course.brightness, 9.0)))
    share = copy.plan.course.brightness[darkest]
    before, after = (each.rows[each.starts[darkest] : each.starts[darkest + 1]] for each in (run, copy))
    strong = before[np.argsort(-before[:, 2])[:12]]
    apart, nearest = cKDTree(after[:, :2]).query(strong[:, :2])
    assert (apart < 2.0).mean() > 0.7
    same = apart < 2.0
    left = np.sum(after[nearest[same], 2]) / np.sum(strong[same, 2])
    assert 0.7 * share < left < 1.1 * share
