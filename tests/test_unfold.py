"""A released file's weights, taken back to train on from. Truth: what ONNX Runtime says of the same frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from tests.conftest import REPOSITORY  # noqa: E402
from training.boosting import HEADS, trees_of  # noqa: E402
from training.dataset import LABEL_TYPE  # noqa: E402
from training.release import load_network, load_trees  # noqa: E402
from training.unfold import main, unfold, unfold_trees  # noqa: E402
from triage.classify import OUTPUTS, OnnxClassifier  # noqa: E402
from triage.features import N_FEATURES  # noqa: E402

pytestmark = pytest.mark.torch
RELEASED = REPOSITORY / "models" / "released" / "triage.onnx"


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """Sixteen frames of noise in the form of a shard."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(4)
    arrays = {
        "image": rng.integers(0, 256, (16, 5, 256, 256), dtype=np.uint8),
        "crops": rng.integers(0, 90, (16, 24, 32, 32), dtype=np.uint8),
        "features": rng.normal(size=(16, N_FEATURES)).astype(np.float32),
    }
    for name, array in {**arrays, "labels": np.zeros(16, dtype=LABEL_TYPE)}.items():
        np.save(folder / f"validation_0000.{name}.npy", array)
    return folder, arrays


def said_by_the_file(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a released file says, which may know fewer statistics."""
    session = onnxruntime.InferenceSession(RELEASED)
    known = next(given.shape[1] for given in session.get_inputs() if given.name == "features")
    said = session.run(list(OUTPUTS), {**arrays, "features": arrays["features"][:, :known]})
    return dict(zip(("lattices", "kind", "ice", "s"), said, strict=True))


def test_the_unfolded_network_says_what_the_file_says(frames: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, arrays = frames
    network = unfold(RELEASED, folder)
    with torch.inference_mode():
        logits = network(*(torch.from_numpy(array) for array in arrays.values()))
    said = said_by_the_file(arrays)
    assert torch.exp(logits.log_s).numpy() == pytest.approx(said["s"], rel=1e-4)
    # Between a network's logits and the file's probabilities lie a temperature and, of the trees beside it, a weighted sum of their own;
    # whether there is a lattice is told by others as well.
    said_logits = {"ice": np.log(said["ice"] / (1 - said["ice"])), "lattices": np.log(said["lattices"][:, 2] / said["lattices"][:, 1])}
    ours = {"ice": logits.ice.numpy(), "lattices": (logits.lattices[:, 2] - logits.lattices[:, 1]).numpy()}
    other = {**arrays, "image": np.roll(arrays["image"], 1, axis=0), "crops": np.roll(arrays["crops"], 1, axis=0)}  # the trees see neither
    with torch.inference_mode():
        moved = network(*(torch.from_numpy(array) for array in other.values()))
    moved_logits = {"ice": moved.ice.numpy(), "lattices": (moved.lattices[:, 2] - moved.lattices[:, 1]).numpy()}
    again = said_by_the_file(other)
    again_logits = {"ice": np.log(again["ice"] / (1 - again["ice"])), "lattices": np.log(again["lattices"][:, 2] / again["lattices"][:, 1])}
    for head in ("ice", "lattices"):
        change, theirs = ours[head] - moved_logits[head], said_logits[head] - again_logits[head]
        clear = np.abs(theirs) > 0.02
        assert clear.sum() >= 8
        assert change[clear] / theirs[clear] == pytest.approx(np.median(change[clear] / theirs[clear]), rel=2e-2)


def test_the_unfolded_trees_say_what_the_file_says() -> None:
    """Held against the sums of leaves inside the file."""
    saved = unfold_trees(RELEASED)
    model = onnx.load(RELEASED)
    inside = [next(node.output[0] for node in model.graph.node if f"trees.{head}.baseline" in node.input) for head in saved]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in inside)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    known = next(given.shape[1] for given in session.get_inputs() if given.name == "features")
    features = 3.0 * np.random.default_rng(2).normal(size=(20, known)).astype(np.float32)
    nothing = {"image": np.zeros((20, 5, 256, 256), dtype=np.uint8), "crops": np.zeros((20, 24, 32, 32), dtype=np.uint8)}
    said = session.run(inside, {**nothing, "features": features})
    assert set(saved) == set(HEADS)
    with torch.inference_mode():
        for theirs, trees in zip(said, trees_of(saved).values(), strict=True):
            assert np.ptp(theirs) > 1.0
            assert trees(torch.from_numpy(features)).numpy() == pytest.approx(theirs, abs=1e-4)


def test_training_goes_on_normalised_as_before(frames: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, arrays = frames
    network = unfold(RELEASED, folder)
    batch = [torch.from_numpy(array) for array in arrays.values()]
    first = network.trunk.body[0]
    with torch.inference_mode():
        frozen = first(batch[0].float() / 255.0)
        network.train()
        trained = first(batch[0].float() / 255.0)  # the statistics of the batch are those it was unfolded with
    assert torch.allclose(frozen, trained, atol=1e-3)


def test_a_file_of_another_network_is_refused(frames: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    other = onnx.load(RELEASED)
    for item in other.graph.initializer:
        if item.name == "network.heads.weight":
            item.name = "network.other.weight"
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx: no weights heads\.weight"):
        unfold(tmp_path / "other.onnx", frames[0])


def test_what_is_written_is_a_trained_network_to_all_that_takes_one(
    frames: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["unfold", str(RELEASED), str(frames[0]), str(tmp_path)])
    main()
    _, report = load_network(tmp_path / "network.pt")
    assert set(load_trees(tmp_path / "network.pt")) == set(unfold_trees(RELEASED))
    known = OnnxClassifier(RELEASED, device="cpu").metadata
    assert (report["unfolded"], report["settings"]["name"], report["data"]) == (known.version, known.name, known.provenance["data"])
    assert report["settings"]["data"]["seed"] == known.provenance["data_seed"]
