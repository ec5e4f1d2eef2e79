"""What `triage export` lets pass. Truths: networks that are the same, better or worse by construction; MLflow's own registry."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("onnx")
from frozen_set import OUTPUTS, SMALL, labels, said, write_model, write_shards  # noqa: E402

from models.network import Network, NetworkSize  # noqa: E402
from training import release as releasing  # noqa: E402
from training.evaluation.against import previous  # noqa: E402
from training.evaluation.frozen import FrozenSet, load_frozen, predict  # noqa: E402
from training.evaluation.report import report_of  # noqa: E402
from training.gate import DECIDING, compare  # noqa: E402
from training.release import Outputs  # noqa: E402
from training.settings import TrackingSettings  # noqa: E402
from training.tracking import register_champion  # noqa: E402
from triage.__main__ import main  # noqa: E402
from triage.classify import METADATA_KEY, ModelMetadata  # noqa: E402

pytestmark = pytest.mark.torch

N = 240


def verdict_of(doubt: float, released_doubt: float, folder: Path) -> Any:
    """The verdict on a network with one doubt against a released one with another, on the same frames."""
    truth = labels(N)
    mine, theirs = said(truth, doubt=doubt), said(truth, doubt=released_doubt, seed=2)
    ours = load_frozen(write_shards(folder / "ours", "test", {0: (truth, mine)}))
    their_frames = load_frozen(write_shards(folder / "theirs", "test", {0: (truth, theirs)}))
    network, metadata = predict(write_model(folder / "new.onnx"), ours)
    released = previous(write_model(folder / "old.onnx", name="older"), their_frames)
    return compare(report_of(metadata, "0", ours, network, released, {}), released)


def test_a_better_network_passes_and_a_worse_one_does_not(tmp_path: Path) -> None:
    better, worse = verdict_of(1.0, 4.0, tmp_path / "a"), verdict_of(4.0, 1.0, tmp_path / "b")
    assert better.passes
    assert all(low > 0 for _, low, _ in better.differences.values())
    assert not worse.passes
    assert worse.line.startswith("against older 1.0.0: multi-lattice AUROC ")
    assert "non-diffraction AUROC" in worse.line


def report_with(multi: list[float], none: list[float]) -> tuple[dict[str, Any], Any]:
    """A report of which only the deciding differences are made up."""
    released = dataclasses.make_dataclass("Released", ["name"])("older 1.0.0")
    rows = [
        {"network": {"auroc": [0.9, 0.8, 1.0]}, "older 1.0.0": {"auroc": [0.9, 0.8, 1.0], "first_minus_this": found}}
        for found in (multi, none)
    ]
    deciding = {"multi_lattice": {DECIDING["multi_lattice"]: rows[0]}, "non_diffraction": {"all": rows[1]}}
    return deciding, released


@pytest.mark.parametrize(
    ("multi", "none", "passes"),
    [
        ([0.01, -0.01, 0.03], [-0.001, -0.003, 0.001], True),  # better in one, the other within its interval
        ([0.05, 0.03, 0.07], [-0.002, -0.003, -0.001], False),  # worse beyond the interval in one
        ([-0.01, -0.03, 0.01], [-0.001, -0.003, 0.001], False),  # better in none
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], False),  # the same
    ],
)
def test_not_worse_beyond_the_interval_and_better_in_one(multi: list[float], none: list[float], passes: bool) -> None:
    assert compare(*report_with(multi, none)).passes is passes


def test_a_first_release_has_nothing_to_beat() -> None:
    assert compare({}, None).passes


@pytest.fixture
def frozen(tmp_path: Path) -> FrozenSet:
    truth = labels(N)
    return load_frozen(write_shards(tmp_path / "frozen", "test", {0: (truth, said(truth, doubt=1.5))}))


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained network whose exported file is the oracle: torch's exporter is tested elsewhere, and takes half a minute."""
    settings = {"name": "triage", "seed": 3, "data": {"seed": 5}}
    report = {"settings": settings, "git_revision": "abc", "data": {"seed": 5}, "training_minutes": 1.0}
    network = Network(NetworkSize(trunk=(8, 16), crop=(4, 8, 8), hidden=16))
    monkeypatch.setattr(releasing, "load_network", lambda _: (network, report))
    monkeypatch.setattr(releasing, "load_trees", lambda _: {})
    truth = {"lattices": torch.tensor([0, 1, 1, 2]), "kind": torch.tensor([0, -1, -1, -1]), "ice": torch.zeros(4)}
    outputs = Outputs(torch.randn(4, 4), torch.randn(4, 4), torch.randn(4), torch.zeros(4), truth)
    monkeypatch.setattr(releasing, "run_split", lambda *_: outputs)
    monkeypatch.setattr(releasing, "Preprocess", lambda: SMALL)

    def export(_: Any, metadata: ModelMetadata, path: Path) -> float:
        write_model(path)
        releasing.stamp(path, metadata)
        return 1e-6

    monkeypatch.setattr(releasing, "export", export)
    return tmp_path / "network.pt"


def arguments(trained: Path, frozen: FrozenSet, out: Path, *more: str) -> list[str]:
    keys = {"network": trained, "data": frozen.folder, "frozen": frozen.folder, "released": out, "out": out, "version": "0.3.0"}
    return ["export", *(f"export.{key}={value}" for key, value in keys.items()), "export.tracking.uri=null", *more]


def metadata_of(path: Path) -> ModelMetadata:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return ModelMetadata.from_json(session.get_modelmeta().custom_metadata_map[METADATA_KEY])


def test_the_first_is_written_the_same_again_is_refused_unless_forced_for_a_reason(
    trained: Path, frozen: FrozenSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "released" / "triage.onnx"
    out.parent.mkdir()
    assert main(arguments(trained, frozen, out)) == 0
    first, report = out.read_bytes(), json.loads((out.parent / "evaluation.json").read_text())
    metadata = metadata_of(out)
    assert metadata.base_rates == (0.25, 0.5, 0.25, 0.0)
    assert metadata.provenance["release"] == {"verdict": "the first release", "differences": {}, "forced": None}
    assert report["model"] == {
        "name": "triage",
        "version": "0.3.0",
        "sha256": releasing.sha256_of(out),
        "provenance": metadata.provenance,
    }
    capsys.readouterr()

    assert main(arguments(trained, frozen, out)) == 2
    *_, line = capsys.readouterr().err.splitlines()  # after what it did
    assert "triage.onnx: not written: against triage 0.3.0: multi-lattice AUROC" in line
    assert "(+0.0000, +0.0000 to +0.0000)" in line
    assert "export.force=true export.reason='...'" in line
    assert out.read_bytes() == first
    assert sorted(path.name for path in out.parent.iterdir()) == ["evaluation.json", "triage.onnx"]

    assert main(arguments(trained, frozen, out, "export.force=true")) == 2
    assert "force=true needs a reason" in capsys.readouterr().err
    assert main(arguments(trained, frozen, out, "export.force=true", "export.reason=the detector was changed")) == 0
    forced = metadata_of(out).provenance["release"]
    assert forced["forced"] == "the detector was changed"
    assert set(forced["differences"]) == {"multi_lattice", "non_diffraction"}


def test_without_a_frozen_set_only_force_writes_and_no_old_report_stays(
    trained: Path, frozen: FrozenSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new.onnx"
    (tmp_path / "evaluation.json").write_text("{}")
    none = f"export.frozen={tmp_path / 'none'}"
    assert main(arguments(trained, frozen, out, none)) == 2
    assert "none: no simulated test frames; `triage evaluate evaluate.data=" in capsys.readouterr().err
    assert not out.exists()
    assert main(arguments(trained, frozen, out, none, "export.force=true", "export.reason=a trial")) == 0
    assert metadata_of(out).provenance["release"]["verdict"].startswith("not compared: ")
    assert not (tmp_path / "evaluation.json").exists()


def test_a_file_that_differs_from_torch_is_refused_even_by_force(
    trained: Path, frozen: FrozenSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def differs(*_: Any) -> float:
        raise releasing.ExportError("x.onnx: ONNX differs from torch by 0.002, more than 0.0001")

    monkeypatch.setattr(releasing, "export", differs)
    assert main(arguments(trained, frozen, tmp_path / "x.onnx", "export.force=true", "export.reason=a trial")) == 2
    assert "ONNX differs from torch by 0.002" in capsys.readouterr().err
    assert not (tmp_path / "x.onnx").exists()


def test_new_metadata_change_nothing_else_of_a_file(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")
    metadata = metadata_of(path)
    releasing.stamp(path, dataclasses.replace(metadata, version="9.9.9"))
    assert metadata_of(path) == dataclasses.replace(metadata, version="9.9.9")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == list(OUTPUTS)


@pytest.mark.slow
# MLflow asks SQLAlchemy in ways that SQLAlchemy gives up.
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
# MLflow warns of its own type hints when its registry is imported.
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
def test_a_release_is_the_registrys_champion(frozen: FrozenSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)  # MLflow keeps files where it is run
    tracking = TrackingSettings(uri=f"sqlite:///{tmp_path / 'mlflow.db'}", experiment="tests")
    path = write_model(tmp_path / "triage.onnx", name="triage")
    network, metadata = predict(path, frozen)
    report = report_of(metadata, "0" * 64, frozen, network, None, {})
    assert register_champion(tracking, report, path) == "1"
    assert register_champion(tracking, report, path) == "2"
    client = mlflow.MlflowClient(tracking_uri=tracking.uri)
    champion = client.get_model_version_by_alias("triage", "champion")
    assert (str(champion.version), champion.tags["release"]) == ("2", "1.0.0")
    run = client.get_run(champion.run_id)
    assert run.data.metrics["test/non_diffraction/all/auroc"] == report["non_diffraction"]["all"]["network"]["auroc"][0]
    fetched = Path(mlflow.artifacts.download_artifacts("models:/triage@champion", dst_path=str(tmp_path / "fetched")))
    assert metadata_of(next(fetched.rglob("*.onnx"))) == metadata
