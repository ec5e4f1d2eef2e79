"""Sweeps, legs, two processes, the baseline, records. Truths: Hydra's grammar, a published parameter count, one process against two."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from models.network import Network, NetworkSize  # noqa: E402
from models.resnet import HalfResNet18, ResNet18  # noqa: E402
from tests.test_training import SMALL, settings  # noqa: E402
from tests.test_training import debug_run as debug_run  # noqa: E402
from tests.test_training import pytestmark as pytestmark  # noqa: E402
from training.dataset import ShardSpec  # noqa: E402
from training.import_log import main as import_log  # noqa: E402
from training.module import FrameModule  # noqa: E402
from training.recording import data_sha256  # noqa: E402
from training.regrow import regrow  # noqa: E402
from training.release import load_network, load_trees  # noqa: E402
from training.settings import TrainSettings  # noqa: E402
from training.sweep import planned, sweep  # noqa: E402
from training.train import mean_weights, simulate_until, train  # noqa: E402
from triage.compose import compose_settings  # noqa: E402
from triage.preprocess import Preprocess  # noqa: E402
from triage.refusal import ConfigError  # noqa: E402

MIB = 2**20


def test_a_sweep_is_every_combination_each_in_its_own_folder(tmp_path: Path) -> None:
    runs = planned(["experiment=debug", f"out={tmp_path}", "seed=range(1,3)", "network.trunk=[8,16],[4]", "name=x"])
    found = [(run.settings.seed, run.settings.network.trunk, run.settings.out) for run in runs]
    assert found == [(1, [8, 16], tmp_path / "0"), (1, [4], tmp_path / "1"), (2, [8, 16], tmp_path / "2"), (2, [4], tmp_path / "3")]
    assert runs[1].settings.tracking.run_name == "seed=1, network.trunk=[4]"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["seed=1"], "no key has several values"),
        (["out=a,b"], "out: one folder for a sweep"),
        (["trainer.learning_rate=interval(0,1)"], "trainer.learning_rate: a sweep over .* is not supported"),
        (["seed=1,2", "trainer.epochs=3,0"], "trainer.epochs: 0 is out of range"),
        (["sed=1,2"], "sed: no such key; did you mean seed"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_it_begins(overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as refused:
        planned(["experiment=debug", *overrides])
    assert "\n" not in str(refused.value)


def test_a_run_that_fails_does_not_end_its_sweep(tmp_path: Path) -> None:
    def run(arguments: Sequence[str]) -> int:
        one = compose_settings("train", arguments, TrainSettings)
        one.out.mkdir()
        measured = {"network": {"weak": {"n_positive": 3, "auroc": [0.9, 0.8, 1.0]}, "resolution": None}}
        (one.out / "report.json").write_text(json.dumps({"validation_loss": one.seed / 2, "measured": measured}))
        return int(one.seed == 2)

    rows = sweep(["experiment=debug", f"out={tmp_path}", "seed=1,2,3"], run)
    assert [(row["status"], row["validation_loss"]) for row in rows] == [(0, 0.5), (1, None), (0, 1.5)]
    assert [row.get("measured") for row in rows] == [{"network/weak/auroc": 0.9}, None, {"network/weak/auroc": 0.9}]
    assert json.loads((tmp_path / "sweep.json").read_text()) == rows


def test_the_baseline_is_the_published_network() -> None:
    """ResNet-18 has 11,689,512 parameters for three channels and 1,000 classes (torchvision's table of weights)."""
    assert sum(p.numel() for p in ResNet18(width=64, channels=3, outputs=1000).parameters()) == 11_689_512


def test_the_baseline_sees_the_image_alone() -> None:
    torch.manual_seed(1)
    network = HalfResNet18().eval()
    image = torch.randint(0, 256, (2, 5, 64, 64), dtype=torch.uint8)
    one = network(image, torch.zeros(2, 4, 16, 16, dtype=torch.uint8), torch.zeros(2, 33))
    other = network(image, torch.ones(2, 4, 16, 16, dtype=torch.uint8), torch.ones(2, 33))
    assert (one.lattices.shape, one.kind.shape, one.ice.shape, one.log_s.shape) == ((2, 4), (2, 4), (2,), (2,))
    assert torch.equal(one.lattices, other.lattices)


def test_a_network_may_pool_one_way_and_look_at_a_smaller_frame() -> None:
    """With one way of pooling both places hold the same; every bin of the spots is seen when the frame is shrunk, for its maximum is."""
    torch.manual_seed(1)
    image = torch.zeros(1, 5, 64, 64, dtype=torch.uint8)
    image[0, 2, 31, 17] = 200
    inputs = (torch.zeros(1, 4, 16, 16, dtype=torch.uint8), torch.zeros(1, NetworkSize().n_features))
    for pool in ("mean", "max"):
        maps = Network(NetworkSize(image_px=64, pool=pool)).eval().trunk(torch.rand(1, 5, 64, 64))  # type: ignore[arg-type]
        half = maps.shape[1] // 2
        assert torch.equal(maps[:, :half], maps[:, half:])
    small = Network(NetworkSize(image_px=64, shrink=2)).eval()
    assert small.spectrum.cos_slow.shape == (16, 32)
    with_spot, without = small(image, *inputs), small(torch.zeros_like(image), *inputs)
    assert not torch.equal(with_spot.lattices, without.lattices)


def test_a_checkpoint_of_the_gpu_experiment_is_under_16_mib(tmp_path: Path) -> None:
    """The real network with its average and AdamW's two moments of every weight, as they are written."""
    wanted = compose_settings("train", ["experiment=gpu_full"], TrainSettings)
    module = FrameModule(Network(wanted.network.size()), learning_rate=1e-3, weight_decay=0.1, warm_up=0.1, ema_decay=0.9)
    optimizer = torch.optim.AdamW(module.network.parameters())
    for parameter in module.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": module.state_dict(), "optimizer_states": [optimizer.state_dict()]}, path)
    assert path.stat().st_size < 16 * MIB - MIB // 4  # the rest: loops, callbacks, settings
    assert wanted.trainer.max_minutes is not None
    assert wanted.trainer.max_minutes < 9
    assert (wanted.resume, wanted.tracking.uri) == ("auto", None)


def test_a_leg_that_is_over_simulates_no_more(tmp_path: Path) -> None:
    specs = [ShardSpec(folder=tmp_path, seed=1, split="train", number=0, frames=1)]
    assert not simulate_until(specs, 1, time.monotonic() - 1.0)
    assert not list(tmp_path.iterdir())


def test_the_hash_of_the_data_is_of_its_labels(tmp_path: Path) -> None:
    data = compose_settings("train", ["experiment=debug", f"data.folder={tmp_path}", "data.train_frames=3"], TrainSettings).data
    np.save(tmp_path / "train_0000.labels.npy", np.arange(3))
    before = data_sha256(data)
    np.save(tmp_path / "test_0000.labels.npy", np.arange(3))
    np.save(tmp_path / "train_0001.labels.npy", np.arange(3))  # more than three frames: not used
    assert data_sha256(data) == before
    assert data_sha256(data.model_copy(update={"train_frames": 4})) != before
    np.save(tmp_path / "train_0000.labels.npy", np.arange(1, 4))
    assert data_sha256(data) != before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of its database
def test_legs_go_on_where_the_last_one_stopped_and_are_imported_as_one_run(
    debug_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MLflow puts files beside where it is called
    out = tmp_path / "run"
    leg = ["resume=auto", "trainer.epochs=3", "trainer.max_minutes=1e-9"]
    steps = []
    for overrides in (leg, leg, leg, leg):
        train(settings(debug_run, out, *overrides))
        steps.append(torch.load(out / "last.ckpt", weights_only=True, map_location="cpu")["global_step"])
    assert steps == [2, 4, 6, 6]  # a leg that is over as it begins still makes an epoch, of two steps; after the last there is none
    assert json.loads((out / "report.json").read_text())["data"]["sha256"] == data_sha256(settings(debug_run, out).data)
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert import_log([str(out), uri, "legs"]) == 0
    assert import_log([str(out), uri, "legs"]) == 2  # once is enough
    client = mlflow.MlflowClient(tracking_uri=uri)
    [run] = client.search_runs([client.get_experiment_by_name("legs").experiment_id])
    assert run.data.params["trainer.epochs"] == "3"
    assert len(run.data.params["data.sha256"]) == 64
    assert len(client.get_metric_history(run.info.run_id, "validation/loss")) == 3


@pytest.mark.slow
def test_training_stops_when_the_validation_gets_no_better(debug_run: Path, tmp_path: Path) -> None:
    out = train(
        settings(debug_run, tmp_path, "trainer.epochs=60", "trainer.patience=1", "trainer.learning_rate=1e-12", "trainer.ema_decay=0")
    )
    assert out is not None
    assert json.loads((out / "report.json").read_text())["epochs"] < 60  # until the normalisations have settled


@pytest.mark.slow
def test_the_baseline_trains_and_is_read_again(debug_run: Path, tmp_path: Path) -> None:
    out = train(settings(debug_run, tmp_path, "trainer.epochs=1", "network.kind=resnet18_half"))
    assert out is not None
    network, _ = load_network(out / "network.pt")
    assert isinstance(network, HalfResNet18)


def command(debug_run: Path, out: Path, *more: str) -> list[str]:
    return ["train", "experiment=debug", f"data.folder={debug_run / 'data'}", f"out={out}", *SMALL, *more]


def ran(arguments: list[str], **environment: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1", **environment})


@pytest.mark.slow
def test_two_processes_train_as_one(debug_run: Path, tmp_path: Path) -> None:
    """Two steps of two times two frames; one process writes, and its average is that of its weights."""
    devices = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.batch=2", "trainer.epochs=1"]
    done = ran([sys.executable, "-m", "triage", *command(debug_run, tmp_path, *devices)])
    assert done.returncode == 0, done.stderr
    assert "MEMBER: 2/2" in done.stderr
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True, map_location="cpu")
    assert saved["global_step"] == 2  # eight frames, two in each of two processes
    network, report = load_network(tmp_path / "network.pt")
    assert math.isfinite(report["validation_loss"])
    averaged = {name.removeprefix("averaged."): x for name, x in saved["state_dict"].items() if name.startswith("averaged.")}
    assert all(torch.equal(x, averaged[name]) for name, x in network.state_dict().items())
    assert len(list(tmp_path.glob("log*/metrics.csv"))) == 1


@pytest.mark.slow
def test_training_needs_no_mlflow(debug_run: Path, tmp_path: Path) -> None:
    script = "import sys; sys.modules['mlflow'] = None; from triage.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = ran([sys.executable, "-c", script, *command(debug_run, tmp_path, "trainer.epochs=1")])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "network.pt").is_file()
    assert re.search(r"^\d{4}-\d\d-\d\d \S+ INFO: epoch 0: .*validation/loss", done.stderr, re.MULTILINE), "an epoch says what it reached"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of its database
def test_runs_of_a_sweep_have_one_parent_and_their_facts(debug_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MLflow puts files beside where it is called
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def run(arguments: Sequence[str]) -> int:
        train(compose_settings("train", arguments, TrainSettings))
        return 0

    sweep([*command(debug_run, tmp_path / "s", "seed=1,2", "trainer.epochs=1", f"tracking.uri={uri}")[1:]], run)
    client = mlflow.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("debug").experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run not in parents]
    assert len(parents) == 1
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parents[0].info.run_id}
    assert {child.info.run_name for child in children} == {"seed=1", "seed=2"}
    for child in children:
        assert {"seed", "git_revision", "data.sha256"} <= set(child.data.params)
        assert "validation/loss" in child.data.metrics


@pytest.mark.slow
def test_regrown_trees_stand_beside_a_network_that_stays(debug_run: Path, tmp_path: Path) -> None:
    before = torch.load(debug_run / "run" / "network.pt", weights_only=True)
    report = regrow(debug_run / "run" / "network.pt", debug_run / "data", tmp_path, seed=3)
    after = torch.load(tmp_path / "network.pt", weights_only=True)
    assert all(torch.equal(tensor, after["weights"][name]) for name, tensor in before["weights"].items())
    assert after["trees"]
    assert set(load_trees(tmp_path / "network.pt")) == set(after["trees"])
    assert report["data_of_network"] == before["report"]["data"]
    assert json.loads((tmp_path / "report.json").read_text())["measured"] == report["measured"]


@pytest.mark.slow
def test_two_generations_share_in_what_is_kept(debug_run: Path, tmp_path: Path) -> None:
    """Of trees grown anew on the same frames the mean with themselves, and of weights the stated mean."""
    network = debug_run / "run" / "network.pt"
    alone, both = tmp_path / "alone", tmp_path / "both"
    regrow(network, debug_run / "data", alone, seed=3)
    report = regrow(network, debug_run / "data", both, seed=3, share_before=0.25)
    assert report["trees_before"]["share"] == 0.25
    own, new, mean = (load_trees(path) for path in (network, alone / "network.pt", both / "network.pt"))
    x = torch.randn(30, Preprocess().n_features)
    with torch.inference_mode():
        for head in own:
            assert torch.allclose(mean[head](x), 0.25 * own[head](x) + 0.75 * new[head](x), atol=1e-5)
    weights = torch.load(network, weights_only=True)["weights"]
    doubled = {name: 2 * value for name, value in weights.items()}
    shared = mean_weights(doubled, weights, 0.25)
    assert all(torch.allclose(shared[name], 1.25 * value) for name, value in weights.items() if value.is_floating_point())
    assert all(torch.equal(shared[name], value) for name, value in weights.items() if not value.is_floating_point())


def test_a_share_of_nothing_is_refused_before_anything_is_simulated(tmp_path: Path) -> None:
    other = tmp_path / "network.pt"
    torch.save({"weights": {"a": torch.zeros(1)}}, other)
    for given, problem in (([], "of what"), ([f"warm_start={other}"], "is another network")):
        arguments = ["experiment=debug", f"data.folder={tmp_path / 'data'}", f"out={tmp_path / 'run'}", "share_before=0.5", *given]
        with pytest.raises(ConfigError, match=problem):
            train(compose_settings("train", arguments, TrainSettings))
    assert not (tmp_path / "data").exists()
