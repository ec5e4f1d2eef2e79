"""Boosted trees as tensors, against scikit-learn's own predictions and through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")
from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: E402

from models.export import export  # noqa: E402
from models.network import Calibrated, Calibration, Network, NetworkSize, log_odds_of_none, with_log_odds_of_none  # noqa: E402
from models.trees import Trees, forest_of  # noqa: E402
from training.boosting import HEADS, Bins, fit_trees, joined, trees_of  # noqa: E402
from training.dataset import LABEL_TYPE, Arrays  # noqa: E402
from training.release import Outputs, calibrate  # noqa: E402
from training.settings import TreesSettings  # noqa: E402
from triage.classify import ModelMetadata, OnnxClassifier  # noqa: E402
from triage.features import N_FEATURES  # noqa: E402
from triage.preprocess import Preprocess  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:# The axis name:UserWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


def problem(n: int, classes: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Coarse features, so that many lie on a split's very threshold."""
    rng = np.random.default_rng(seed)
    x = (np.round(rng.normal(size=(n, 7)) * 20.0) / 20.0).astype(np.float32)
    score = x[:, :classes] + 0.5 * x[:, 3:4] * np.arange(classes) + rng.normal(size=(n, classes)) * 0.3
    return x, score.argmax(axis=1)


@pytest.mark.parametrize("classes", [2, 4])
def test_trees_say_what_scikit_learn_says_also_on_a_threshold(classes: int) -> None:
    x, y = problem(3000, classes, seed=classes)
    model = HistGradientBoostingClassifier(max_iter=30, max_leaf_nodes=15, random_state=0).fit(x, y)
    trees = Trees(forest_of([[tree.nodes for tree in trees] for trees in model._predictors], model._baseline_prediction))
    with torch.inference_mode():
        found = trees(torch.from_numpy(x)).numpy()
    expected = model.decision_function(x).reshape(len(x), -1)
    assert found.shape == (3000, 1 if classes == 2 else classes)
    assert np.abs(found - expected).max() < 1e-4


def test_thresholds_between_two_floats_keep_their_side() -> None:
    x = np.array([[np.float32(0.1)], [np.nextafter(np.float32(0.1), np.float32(1.0))]] * 50, dtype=np.float32)
    y = np.array([0, 1] * 50)
    model = HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=5).fit(x, y)
    trees = Trees(forest_of([[tree.nodes for tree in trees] for trees in model._predictors], model._baseline_prediction))
    with torch.inference_mode():
        found = trees(torch.from_numpy(x)).numpy()[:, 0]
    assert found == pytest.approx(model.decision_function(x), abs=1e-5)
    assert found[0] < 0.0 < found[1]


def arrays(n: int, *, spoilt: bool = True, without_salt: bool = False) -> Arrays:
    """Frames whose first feature tells the number of lattices and whose second tells the kind."""
    rng = np.random.default_rng(3)
    labels = np.zeros(n, dtype=LABEL_TYPE)
    labels["n_lattices"] = rng.integers(0, 5, n)
    labels["ice_rings"] = rng.integers(0, 2, n)
    labels["kind"] = np.where(labels["n_lattices"] == 0, rng.integers(0, 4, n), -1)
    if without_salt:
        labels["kind"][labels["kind"] == 2] = 0
    features = rng.normal(size=(n, N_FEATURES)).astype(np.float32)
    features[:, 0] = np.minimum(labels["n_lattices"], 3) + 0.2 * features[:, 0]
    features[:, 1] = labels["kind"] + 0.2 * features[:, 1]
    features[:, 2] = labels["ice_rings"] + 0.2 * features[:, 2]
    return Arrays(images=[], crops=[], features=features, labels=labels, shard_frames=n, spoilt=features + 0.05 if spoilt else None)


def test_every_head_gets_trees_that_know_their_classes() -> None:
    data = arrays(1200)
    trees = trees_of(fit_trees(data, TreesSettings(rounds=20), seed=1))
    assert {head: forest.outputs for head, forest in trees.items()} == HEADS
    with torch.inference_mode():
        said = {head: forest(torch.from_numpy(data.features)).numpy() for head, forest in trees.items()}
    truth = np.minimum(data.labels["n_lattices"], 3)
    none = truth == 0
    assert (said["lattices"].argmax(axis=1) == truth).mean() > 0.95
    assert (said["kind"][none].argmax(axis=1) == data.labels["kind"][none]).mean() > 0.95
    assert ((said["ice"][:, 0] > 0) == data.labels["ice_rings"]).mean() > 0.95
    assert ((said["none"][:, 0] > 0) == none).mean() > 0.95


@pytest.mark.parametrize("distinct", [40, 5000])
def test_trees_grown_on_numbers_of_bins_take_the_features_themselves(distinct: int) -> None:
    rng = np.random.default_rng(distinct)
    x = rng.choice(np.sort(rng.normal(size=distinct)), size=(5000, 3)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0.3).astype(int)
    bins = Bins.of(x)
    codes = bins.codes(x)
    assert [len(np.unique(column)) for column in codes.T] == [min(distinct, 255)] * 3
    if distinct == 40:
        assert all(np.array_equal(column, np.unique(own, return_inverse=True)[1]) for column, own in zip(codes.T, x.T, strict=True))
    else:
        assert np.bincount(codes[:, 0].astype(int)).max() < 2.5 * 5000 / 255
    model = HistGradientBoostingClassifier(max_iter=20).fit(codes[:4000], y[:4000])
    grown = forest_of([[tree.nodes for tree in trees] for trees in model._predictors], model._baseline_prediction)
    with torch.inference_mode():
        said = Trees(bins.in_units(grown))(torch.from_numpy(x)).numpy()[:, 0]
    assert said == pytest.approx(model.decision_function(codes), abs=1e-5)
    assert ((said > 0) == y)[4000:].mean() > 0.93


def test_joined_trees_say_the_weighted_mean() -> None:
    """And a head that only one of the two knows is as it is there."""
    data = arrays(600, spoilt=False)
    before = fit_trees(data, TreesSettings(rounds=8), seed=1)
    new = fit_trees(arrays(900, spoilt=False, without_salt=True), TreesSettings(rounds=5), seed=2)
    x = torch.from_numpy(data.features)
    with torch.inference_mode():
        one, other, both = ({head: forest(x) for head, forest in trees_of(its).items()} for its in (before, new, joined(before, new, 0.3)))
    assert set(both) == set(HEADS)
    assert torch.equal(both["kind"], one["kind"])
    for head in ("lattices", "ice", "none"):
        assert torch.allclose(both[head], 0.3 * one[head] + 0.7 * other[head], atol=1e-5)


def test_a_head_without_all_its_classes_has_no_trees(caplog: pytest.LogCaptureFixture) -> None:
    assert set(fit_trees(arrays(600, spoilt=False, without_salt=True), TreesSettings(rounds=2), seed=1)) == {"lattices", "ice", "none"}
    assert "no trees for kind" in caplog.text


def test_labelled_frames_teach_the_trees_what_was_judged_of_them() -> None:
    """A label that contradicts the simulation where only it has been: with half the weight of all, it is believed there."""
    data = arrays(900, spoilt=False)
    rows = np.zeros(40, dtype=LABEL_TYPE)
    rows["n_lattices"], rows["kind"], rows["ice_rings"] = 1, -1, -1  # counted, nothing said of kind and ice
    features = np.zeros((40, N_FEATURES), dtype=np.float32)
    features[:, 0], features[:, 5] = 3.0, 50.0
    far = torch.from_numpy(features[:1])
    with torch.inference_mode():
        before = trees_of(fit_trees(data, TreesSettings(rounds=20), seed=1))["lattices"](far)[0]
        after = trees_of(fit_trees(data, TreesSettings(rounds=20), seed=1, labelled=(features, rows), share=0.5))["lattices"](far)[0]
    assert (int(before.argmax()), int(after.argmax())) == (3, 1)


def test_calibration_weighs_what_is_worth_most() -> None:
    """Logits that are right at a temperature of 2 beside trees that know nothing, and the other way round."""
    generator = torch.Generator().manual_seed(4)
    z, noise = torch.randn(6000, 4, generator=generator) * 2.0, torch.randn(6000, 4, generator=generator)
    drawn = torch.multinomial(torch.softmax(z, dim=1), 1, generator=generator)[:, 0]
    truth = {"lattices": drawn, "kind": torch.full((6000,), -1), "ice": torch.zeros(6000), "s_max": torch.ones(6000)}
    empty = torch.zeros(6000)
    found = calibrate(Outputs(2.0 * z, noise, empty, empty, truth, {"lattices": noise}))
    assert found.lattices == pytest.approx(2.0, rel=0.1)
    assert found.lattices_trees == pytest.approx(0.0, abs=0.05)
    assert (found.kind, found.kind_trees) == (1.0, 0.0)  # no frame tells
    found = calibrate(Outputs(noise, noise, empty, empty, truth, {"lattices": z}))
    assert found.lattices > 10.0
    assert found.lattices_trees == pytest.approx(1.0, abs=0.1)


def test_trees_that_know_only_whether_there_is_a_lattice_say_so_and_no_more() -> None:
    """Among frames with lattices their number is as likely as before; calibration weighs the two by what they know of none."""
    generator = torch.Generator().manual_seed(4)
    z = torch.randn(6000, 4, generator=generator) * 2.0
    log_odds = log_odds_of_none(z)
    assert torch.allclose(torch.softmax(z, dim=1)[:, 0], torch.sigmoid(log_odds), atol=1e-6)
    moved = torch.softmax(with_log_odds_of_none(z, log_odds + 1.0), dim=1)
    assert torch.allclose(moved[:, 0], torch.sigmoid(log_odds + 1.0), atol=1e-6)
    before = torch.softmax(z, dim=1)[:, 1:]
    assert torch.allclose(moved[:, 1:] / moved[:, 1:].sum(dim=1, keepdim=True), before / before.sum(dim=1, keepdim=True), atol=1e-5)

    drawn = torch.multinomial(torch.softmax(z, dim=1), 1, generator=generator)[:, 0]
    truth = {"lattices": drawn, "kind": torch.full((6000,), -1), "ice": torch.zeros(6000), "s_max": torch.ones(6000)}
    empty, noise = torch.zeros(6000), torch.randn(6000, 1, generator=generator)
    found = calibrate(Outputs(z, z, empty, empty, truth, {"none": noise}))
    assert (found.none, found.none_trees) == (pytest.approx(1.0, rel=0.1), pytest.approx(0.0, abs=0.05))
    guessed = torch.cat([noise, z[:, 1:]], dim=1)  # knows nothing of none
    found = calibrate(Outputs(guessed, z, empty, empty, truth, {"none": log_odds[:, None]}))
    assert found.none_trees == pytest.approx(1.0, abs=0.15)


def test_onnx_runtime_says_the_same_with_trees_beside_the_network(tmp_path: Path) -> None:
    torch.manual_seed(1)
    data = arrays(800)
    network = Network(NetworkSize(trunk=(8, 16), crop=(4, 8, 8), hidden=16))
    calibration = Calibration(lattices=5.0, kind=5.0, ice=5.0, none=1.5, lattices_trees=0.8, kind_trees=0.7, ice_trees=0.9, none_trees=0.6)
    model = Calibrated(network, calibration, trees_of(fit_trees(data, TreesSettings(rounds=10), seed=1))).eval()
    metadata = ModelMetadata(name="t", version="0", preprocess=Preprocess(), base_rates=(0.25, 0.25, 0.25, 0.25), provenance={})
    assert export(model, metadata, tmp_path / "t.onnx") < 1e-4
    OnnxClassifier(tmp_path / "t.onnx", device="cpu")
    import onnxruntime as ort

    image = np.zeros((800, 5, 256, 256), dtype=np.uint8)[:40]
    crops = np.zeros((40, 24, 32, 32), dtype=np.uint8)
    session = ort.InferenceSession(str(tmp_path / "t.onnx"), providers=["CPUExecutionProvider"])
    lattices, *_ = session.run(None, {"image": image, "crops": crops, "features": data.features[:40]})
    assert (lattices.argmax(axis=1) == np.minimum(data.labels["n_lattices"][:40], 3)).mean() > 0.9
