"""Training: does it run, learn, go on and repeat itself. Truths: closed forms of the losses, and that one batch can be memorised."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")
from torch.utils.data import DataLoader  # noqa: E402

from models.network import Logits, Network, NetworkSize  # noqa: E402
from training.dataset import FrameDataset, load  # noqa: E402
from training.module import WEIGHTS, FrameModule, losses  # noqa: E402
from training.release import Outputs, calibrate, load_network, run_split  # noqa: E402
from training.settings import TrainSettings  # noqa: E402
from training.train import train  # noqa: E402
from triage.__main__ import main  # noqa: E402
from triage.compose import compose_settings  # noqa: E402
from triage.preprocess import Preprocess  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    # Lightning advises to use more workers to load data; here two frames are loaded.
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers:UserWarning"),
    # Our log lies in the same folder as the checkpoints, and is there first.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    # Lightning advises to log oftener; an epoch has two steps here.
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval:UserWarning"),
    # Lightning asks torch in a way that torch gives up.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]
torch.set_num_threads(1)  # on a busy machine two wait for each other

TINY = NetworkSize(trunk=(8, 16), crop=(4, 8, 8), hidden=16, dropout=0.0, n_features=Preprocess().n_features)
SMALL = ["network.trunk=[8,16]", "network.crop=[4,8,8]", "network.hidden=16"]


@pytest.fixture(scope="module")
def debug_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`triage train experiment=debug`, with its data in `data` and the run in `run`."""
    folder = tmp_path_factory.mktemp("debug")
    overrides = [f"data.folder={folder / 'data'}", f"out={folder / 'run'}", "trainer.epochs=1", *SMALL]
    assert main(["train", "experiment=debug", *overrides]) == 0
    return folder


def settings(debug_run: Path, out: Path, *overrides: str) -> TrainSettings:
    """The debug experiment on the frames that are there."""
    return compose_settings(
        "train", ["experiment=debug", f"data.folder={debug_run / 'data'}", f"out={out}", *SMALL, *overrides], TrainSettings
    )


@pytest.mark.slow
def test_the_debug_experiment_runs_and_leaves_its_record(debug_run: Path) -> None:
    report = json.loads((debug_run / "run" / "report.json").read_text())
    assert report["settings"]["network"]["trunk"] == [8, 16]
    assert (report["settings"]["data"]["seed"], report["data"]["shards"]) == (99, {"train": 1, "validation": 1, "test": 0})
    assert math.isfinite(report["validation_loss"])
    assert report["epochs"] == 1
    assert (
        report["measured"]["network"]["non_diffraction"]["n_positive"] + report["measured"]["network"]["non_diffraction"]["n_negative"] == 8
    )
    network, same = load_network(debug_run / "run" / "network.pt")
    assert json.loads(json.dumps(same)) == report
    outputs = run_split(network, debug_run / "data", "validation")
    assert outputs.lattices.shape == (8, 4)
    assert torch.isfinite(outputs.lattices).all()


@pytest.mark.slow
# Going on in another folder is what is wanted: the record of the first is not written over.
@pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")
def test_training_goes_on_from_a_checkpoint(debug_run: Path, tmp_path: Path) -> None:
    last = debug_run / "run" / "last.ckpt"
    out = train(settings(debug_run, tmp_path, "trainer.epochs=3", f"resume={last}"))
    before, after = (torch.load(path, weights_only=True, map_location="cpu") for path in (last, out / "last.ckpt"))
    assert (before["epoch"], before["global_step"]) == (0, 2)  # 8 frames in batches of 4
    assert (after["epoch"], after["global_step"]) == (2, 6)
    steps = [state["step"] for state in after["optimizer_states"][0]["state"].values()]
    assert {float(step) for step in steps} == {6.0}  # the optimiser's memory went on, too


@pytest.mark.slow
def test_the_same_seed_gives_the_same_first_loss(debug_run: Path, tmp_path: Path) -> None:
    first, again = (first_losses(debug_run, tmp_path / name, "1") for name in ("a", "b"))
    other = first_losses(debug_run, tmp_path / "c", "2")
    assert first == again
    assert first != other


def first_losses(debug_run: Path, out: Path, seed: str) -> dict[str, str]:
    train(settings(debug_run, out, "trainer.epochs=1", f"seed={seed}"))
    header, *rows = [line.split(",") for line in (out / "log" / "metrics.csv").read_text().splitlines()]
    values: dict[str, str] = {}
    for row in rows:
        values |= {name: value for name, value in zip(header, row, strict=True) if value and name.startswith(("train/", "validation/"))}
    assert any(name.startswith("train/loss") for name in values)
    return values


@pytest.mark.slow
def test_a_network_memorises_one_batch(debug_run: Path) -> None:
    torch.manual_seed(1)
    frames = FrameDataset(load(debug_run / "data", "train"), augment=False)
    batch = next(iter(DataLoader(frames, batch_size=8)))
    network = Network(TINY).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    history = []
    for _ in range(60):
        parts = losses(network(batch["image"], batch["crops"], batch["features"]), batch)
        total = torch.stack([WEIGHTS[name] * value for name, value in parts.items()]).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(total.item())
    assert history[-1] < 0.1 * history[0]


def batch_of(*, kind: list[int], s_max: list[float]) -> dict[str, Any]:
    n = len(kind)
    return {
        "lattices": torch.arange(n) % 4,
        "kind": torch.tensor(kind),
        "ice": torch.tensor([float(k % 2) for k in range(n)]),
        "s_max": torch.tensor(s_max),
    }


def logits_of(n: int, seed: int = 0) -> Logits:
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(n, 10, generator=generator, requires_grad=True)
    return Logits(made[:, :4], made[:, 4:8], made[:, 8], made[:, 9])


def test_losses_are_their_closed_forms() -> None:
    logits = Logits(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(2), torch.log(torch.tensor([0.4, 0.5])))
    parts = losses(logits, batch_of(kind=[0, 3], s_max=[0.4, 0.5 * math.exp(0.3)]))
    assert parts["lattices"].item() == pytest.approx(math.log(4))
    assert parts["kind"].item() == pytest.approx(math.log(4))
    assert parts["ice"].item() == pytest.approx(math.log(2))
    assert parts["resolution"].item() == pytest.approx(10 * (0.0 + (0.3 - 0.05)) / 2, rel=1e-5)  # Huber's, linear beyond 0.1


def test_a_truth_that_is_absent_leaves_no_trace() -> None:
    """The losses of a mixed batch are those of the frames that have the truth; gradients of the others are zero."""
    logits = logits_of(4)
    parts = losses(logits, batch_of(kind=[-1, 2, -1, 0], s_max=[0.3, float("nan"), 0.5, float("nan")]))
    chosen = Logits(logits.lattices[[1, 3]], logits.kind[[1, 3]], logits.ice[[1, 3]], logits.log_s[[0, 2]])
    expected = losses(chosen, batch_of(kind=[2, 0], s_max=[0.3, 0.5]))
    assert parts["kind"].item() == pytest.approx(expected["kind"].item())
    assert parts["resolution"].item() == pytest.approx(expected["resolution"].item())
    (kind,) = torch.autograd.grad(parts["kind"], logits.kind, retain_graph=True)
    (log_s,) = torch.autograd.grad(parts["resolution"], logits.log_s)
    assert kind[[0, 2]].abs().sum() == 0
    assert log_s[[1, 3]].abs().sum() == 0
    assert kind[[1, 3]].abs().sum() > 0
    assert log_s[[0, 2]].abs().sum() > 0


def test_a_batch_without_any_of_a_truth_has_no_such_loss() -> None:
    parts = losses(logits_of(3), batch_of(kind=[-1, -1, -1], s_max=[float("nan")] * 3))
    assert (parts["kind"].item(), parts["resolution"].item()) == (0.0, 0.0)
    total = torch.stack(list(parts.values())).sum()
    assert torch.isfinite(total)
    assert total.requires_grad


def test_calibration_finds_the_temperature_that_was_put_in() -> None:
    """Truths drawn from softmax(z): a network that says 2 z is twice too sure of itself."""
    generator = torch.Generator().manual_seed(4)
    z, z_kind = (2.0 * torch.randn(6000, 4, generator=generator) for _ in range(2))
    z_ice = 2.0 * torch.randn(6000, generator=generator)
    drawn, kind = (torch.multinomial(torch.softmax(x, dim=1), 1, generator=generator).squeeze(1) for x in (z, z_kind))
    kind[::2] = -1  # of frames that diffract: no truth
    truth = {"lattices": drawn, "kind": kind, "ice": torch.bernoulli(torch.sigmoid(z_ice), generator=generator)}
    found = calibrate(Outputs(2.0 * z, 0.7 * z_kind, 1.5 * z_ice, torch.zeros(6000), truth))
    assert (found.lattices, found.kind, found.ice) == pytest.approx((2.0, 0.7, 1.5), rel=0.1)


@pytest.fixture
def module() -> FrameModule:
    torch.manual_seed(0)
    return FrameModule(TINY, learning_rate=1e-2, weight_decay=0.1, warm_up=0.1, ema_decay=0.9)


def test_averaged_weights_move_by_the_stated_share(module: FrameModule) -> None:
    before = {name: value.clone() for name, value in module.averaged.state_dict().items()}
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter.add_(1.0)
    module.on_train_batch_end()  # at step 0 the decay is (1 + 0) / (10 + 0)
    for name, value in module.averaged.named_parameters():
        assert torch.allclose(value, before[name] + 0.9, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in module.averaged.parameters())


def test_the_learning_rate_rises_then_falls_and_biases_do_not_decay(module: FrameModule) -> None:
    module._trainer = SimpleNamespace(estimated_stepping_batches=100)
    schedule = module.configure_optimizers()["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    assert rates[0] == 0.0
    assert rates.index(max(rates)) == 10
    assert max(rates) == pytest.approx(1e-2)
    assert rates[55] == pytest.approx(0.5e-2)  # half way down the cosine
    assert rates[-1] < 1e-4
    groups = [(group["weight_decay"], {p.ndim > 1 for p in group["params"]}) for group in schedule.optimizer.param_groups]
    assert groups == [(0.1, {True}), (0.0, {False})]
