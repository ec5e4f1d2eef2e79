"""`triage evaluate` from frames and models to pages. Truths: an ONNX file that says what was put into its frames, the simulator itself."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("onnx")
pytest.importorskip("matplotlib")
from frozen_set import SMALL, labels, said, write_model, write_shards

from training.dataset import LABEL_TYPE, label_row
from training.evaluation import contact_sheet
from training.evaluation.against import previous
from training.evaluation.contact_sheet import Remaker, sheets, worst
from training.evaluation.document import Document, Picture, Section, Table, as_html, as_markdown
from training.evaluation.frozen import FrozenSet, Predictions, load_frozen, predict
from training.evaluation.report import as_json, report_of
from training.evaluation.tables import document_of
from training.simulate.draw import draw_scene
from training.simulate.render import render
from training.simulate.scene import Scene
from triage.__main__ import main
from triage.features import SPOT_FEATURES
from triage.refusal import ConfigError

pytestmark = pytest.mark.torch

N = 240
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards 0 and 2 of the test split (1 is missing), and a training split."""
    folder = tmp_path_factory.mktemp("data")
    truth, learnt = labels(N), labels(80, seed=9)
    features = said(truth, doubt=1.5)
    half = N // 2
    write_shards(folder, "test", {0: (truth[:half], features[:half]), 2: (truth[half:], features[half:])})
    return write_shards(folder, "train", {0: (learnt, said(learnt, doubt=1.5))})


@pytest.fixture(scope="module")
def evaluated(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `triage evaluate` wrote, a previous model with more doubt beside."""
    out = tmp_path_factory.mktemp("out")
    model, other = write_model(out / "new.onnx", version="2.0.0"), write_model(out / "old.onnx", name="older")
    overrides = [f"evaluate.{key}={value}" for key, value in {"data": data, "train_data": data, "model": model, "against": other}.items()]
    overrides += ["evaluate.frames=120", f"evaluate.out={out / 'report'}", "evaluate.worst_frames=0", "evaluate.tracking.uri=null"]
    assert main(["evaluate", *overrides]) == 0
    return out / "report"


def test_frames_keep_their_number_where_a_shard_is_missing(data: Path) -> None:
    frames = load_frozen(data)
    assert frames.index.tolist() == [*range(120), *range(240, 360)]
    other = dataclasses.replace(frames, index=frames.index + 1)
    assert frames.identity()["sha256"] != other.identity()["sha256"]
    assert frames.identity() == load_frozen(data).identity()


def test_an_onnx_file_is_asked_frame_by_frame(data: Path, tmp_path: Path) -> None:
    frames = load_frozen(data)
    found, metadata = predict(write_model(tmp_path / "m.onnx"), frames)
    expected = said(frames.labels, doubt=1.5)
    assert found.lattices == pytest.approx(expected[:, :4])
    assert found.kind == pytest.approx(expected[:, 4:8])
    assert (found.ice.tolist(), found.inverse_d_per_A.tolist()) == (expected[:, 8].tolist(), expected[:, 9].tolist())
    assert (metadata.name, metadata.preprocess) == ("oracle", SMALL)


def test_a_release_that_knows_fewer_features_is_asked_on_the_same_frames(data: Path, tmp_path: Path) -> None:
    frames = load_frozen(data)
    older = write_model(tmp_path / "old.onnx", preprocess=dataclasses.replace(SMALL, n_features=len(SPOT_FEATURES)))
    assert np.array_equal(predict(older, frames)[0].lattices, predict(write_model(tmp_path / "m.onnx"), frames)[0].lattices)
    assert previous(older, frames).remark.startswith("Judged on the same frames")


def test_a_model_of_another_preprocessing_is_refused_in_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "m.onnx", preprocess=dataclasses.replace(SMALL, size=16))
    with pytest.raises(ConfigError, match=r"m.onnx: wants preprocessing .*'size': 16.* holds .*'size': 8.*use another data folder"):
        predict(model, load_frozen(data))
    overrides = [f"evaluate.data={data}", f"evaluate.train_data={data}", f"evaluate.model={model}", f"evaluate.out={tmp_path}"]
    assert main(["evaluate", *overrides, "evaluate.frames=120", "evaluate.tracking.uri=null"]) == 2
    *_, line = capsys.readouterr().err.splitlines()  # after what it did
    assert line.startswith("triage evaluate: ")


@pytest.mark.parametrize("key", ["model", "against"])
def test_a_model_that_is_not_there_is_refused_before_anything_is_simulated(
    key: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = tmp_path / "absent.onnx"
    overrides = [f"evaluate.model={write_model(tmp_path / 'm.onnx')}", f"evaluate.data={tmp_path / 'none'}", f"evaluate.{key}={absent}"]
    assert main(["evaluate", *overrides, "evaluate.tracking.uri=null"]) == 2
    assert capsys.readouterr().err == f"triage evaluate: evaluate.{key}: {absent}: no such file\n"
    assert not (tmp_path / "none").exists()


def test_a_folder_without_frames_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no simulated test frames; `triage evaluate evaluate.data=.*` makes them"):
        load_frozen(tmp_path)


@pytest.mark.slow
def test_the_report_has_every_part(evaluated: Path) -> None:
    report = json.loads((evaluated / "report.json").read_text())
    assert report["model"]["version"] == "2.0.0"
    assert (report["frames"], report["frames_of_held_out_detectors"]) == (N, N // 2)
    assert report["resolution_relative_error"]["median"][0] == pytest.approx(abs(1 / 1.1 - 1), abs=1e-3)
    for task in ("multi_lattice", "non_diffraction", "ice_rings"):
        rows = report[task]["all"]
        assert set(rows) >= {"network", "older 1.0.0", "baseline: gradient boosting"}
        assert rows["older 1.0.0"]["first_minus_this"] == [0.0, 0.0, 0.0]  # it says the same, and they are paired
        assert rows["network"]["auroc"][0] > 0.9
    assert report["against"] == {"name": "older 1.0.0", "remark": "Judged on the same frames; differences are paired."}
    assert set(report["ece"]) >= {"multi_lattice", "non_diffraction", "ice_rings", "lattices 1", "kind blank"}
    assert set(report["reach"]) == {"all", "held-out detectors"}
    confused = report["lattices_confusion"]
    assert [sum(row.values()) for row in confused.values()] == [N // 4] * 4
    assert {path.name for path in (evaluated / "plots").iterdir()} >= {"reliability.png", "confusion.png", "multi_lattice_strata.png"}


def test_one_threshold_for_all_gives_its_false_alarms_over_all(data: Path, tmp_path: Path) -> None:
    frames = load_frozen(data)
    network, metadata = predict(write_model(tmp_path / "m.onnx"), frames)
    rows = report_of(metadata, "0", frames, network, None, {})["multi_lattice"]
    alarms = sum(
        row["at_threshold_of_all"]["false_alarms"] * row["n_negative"]
        for row in (rows[name]["network"] for name in ("exposure: still", "exposure: rotation"))
    )
    assert alarms <= 0.01 * rows["all"]["network"]["n_negative"] + 0.01


class Page(HTMLParser):
    """Tags that refer to something, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.slow
def test_the_page_needs_no_other_file(evaluated: Path) -> None:
    page = Page((evaluated / "report.html").read_text())
    assert "oracle 2.0.0: evaluation" in page.text
    assert all(source.startswith(("data:image/png;base64,", "#s")) for source in page.sources)
    assert page.open.count("img") == len(list((evaluated / "plots").iterdir()))
    markdown = (evaluated / "report.md").read_text()
    assert all((evaluated / name).read_bytes().startswith(PNG) for name in re.findall(r"\]\((plots/[a-z_0-9]+\.png)\)", markdown))


def test_text_from_models_and_frames_cannot_become_markup() -> None:
    evil = '<script>alert("1")</script> | x'
    table = Table(evil, (evil,), [(evil,), ("yes",)])
    document = Document(evil, (evil,), (Section(evil, (evil,), (table,), (Picture("p", evil, b"png"),)),))
    page = Page(as_html(document))
    assert "script" not in page.open
    assert page.text.count(evil) >= 6
    row = next(line for line in as_markdown(document).splitlines() if line.startswith("| <script>"))
    assert row.count("\\|") == 1
    assert row.replace("\\|", "").count("|") == 2


def test_json_keeps_short_lists_on_a_line_and_means_the_same() -> None:
    value = {"auroc": [0.9, 0.8, 0.95], "names": ["a [1,\n 2]", "b"], "nested": [{"x": [1, 2]}], "empty": []}
    assert json.loads(as_json(value)) == value
    assert '"auroc": [0.9, 0.8, 0.95]' in as_json(value)
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json({"x": float("nan")})


def test_a_release_that_cannot_judge_the_frames_stands_by_its_own_report(data: Path, tmp_path: Path) -> None:
    frames = load_frozen(data)
    network, metadata = predict(write_model(tmp_path / "new.onnx"), frames)
    theirs = report_of(dataclasses.replace(metadata, name="older"), "0", frames, network, None, {})
    theirs["data"].update(sha256="0" * 64, seed=77)
    (tmp_path / "evaluation.json").write_text(as_json(theirs))
    old = write_model(tmp_path / "triage.onnx", preprocess=dataclasses.replace(SMALL, size=16))
    found = previous(old, frames)
    assert "cannot run it on these frames" in found.remark
    assert "another data set: 240 frames of seed 77" in found.remark
    report = report_of(metadata, "1", frames, network, found, {})
    row = report["multi_lattice"]["all"]["older 1.0.0"]
    assert row["auroc"] == theirs["multi_lattice"]["all"]["network"]["auroc"]
    assert row["first_minus_this"][1] < row["first_minus_this"][0] == 0.0 < row["first_minus_this"][2]
    assert found.remark in as_markdown(document_of(report, {}))
    by_file = previous(tmp_path / "evaluation.json", frames)
    assert report_of(metadata, "1", frames, network, by_file, {})["multi_lattice"] == report["multi_lattice"]


def test_what_is_no_report_is_refused(data: Path, tmp_path: Path) -> None:
    frames = load_frozen(data)
    for name, text in (("no.json", "{"), ("other.json", "{}"), ("list.json", "[]")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=f"{name}: no report of `triage evaluate`"):
            previous(tmp_path / name, frames)


def test_a_release_without_a_report_that_cannot_judge_is_refused(data: Path, tmp_path: Path) -> None:
    old = write_model(tmp_path / "old.onnx", preprocess=dataclasses.replace(SMALL, size=16))
    with pytest.raises(ConfigError, match=r"old.onnx: wants preprocessing"):
        previous(old, load_frozen(data))


def judged(truth: np.ndarray[Any, Any], doubt: float = 1.5) -> Predictions:
    features = said(truth, doubt=doubt).astype(np.float64)
    return Predictions(lattices=features[:, :4], kind=features[:, 4:8], ice=features[:, 8], inverse_d_per_A=features[:, 9])


def test_the_worst_frames_are_the_surest_errors_of_each_kind() -> None:
    truth = labels(200)
    network = judged(truth)
    found = {failing.name: failing.frames for failing in worst(network, truth, 22)}
    assert [len(frames) for frames in found.values()] == [6, 6, 5, 5]
    every = [k for frames in found.values() for k in frames]
    assert len(set(every)) == 22
    several = np.flatnonzero(truth["n_lattices"] >= 2)
    assert found["second lattice missed"] == several[np.argsort(network.multi_lattice[several], kind="stable")][:6].tolist()
    one = np.flatnonzero(truth["n_lattices"] == 1)
    assert found["second lattice imagined"] == one[np.argsort(-network.multi_lattice[one], kind="stable")][:6].tolist()
    assert sum(len(failing.frames) for failing in worst(network, truth, 0)) == 0


def small_scene(_seed: int, _split: str, index: int, _crystals: Any) -> Scene:
    return draw_scene(np.random.default_rng([4, index]), detectors=("PILATUS 300K",))


@pytest.fixture
def remade(data: Path, monkeypatch: pytest.MonkeyPatch) -> FrozenSet:
    """Two frames of which the second is on record with another truth."""
    monkeypatch.setattr(contact_sheet, "scene_of", small_scene)
    monkeypatch.setattr(contact_sheet, "structures", lambda *_: ())
    scenes = [small_scene(0, "", index, ()) for index in (7, 9)]
    rows = [label_row(scene, render(scene).labels) for scene in scenes]
    truth = np.array(rows, dtype=LABEL_TYPE)
    truth["visible_spots"][1] += 1
    frames = load_frozen(data)
    return dataclasses.replace(frames, arrays=dataclasses.replace(frames.arrays, labels=truth), index=np.array([7, 9]))


def test_a_frame_is_made_again_from_its_number_and_checked(remade: FrozenSet) -> None:
    remake = Remaker(remade)
    found = remake(0)
    assert found is not None
    scene, made = found
    assert scene == small_scene(0, "", 7, ())
    assert np.array_equal(made.counts, render(scene).counts)
    assert remake(1) is None  # the simulator makes another frame than the one that was judged


def test_a_contact_sheet_shows_what_can_be_made_again(remade: FrozenSet) -> None:
    failing = contact_sheet.Failing(name="second lattice missed", said="multi-lattice", frames=[0, 1], probability=np.array([0.1, 0.2]))
    pictures, lost = sheets(remade, [failing], Remaker(remade))
    assert lost == 1
    assert [picture.name for picture in pictures] == ["worst_second_lattice_missed"]
    assert pictures[0].png.startswith(PNG)
    [first, _] = contact_sheet.listed(remade, [failing])
    assert (first["index"], first["probability"]) == (7, 0.1)
