"""The leg for ice alone: it learns from rings, and changes no other answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from models.network import Network, NetworkSize  # noqa: E402
from training.dataset import LABEL_TYPE  # noqa: E402
from training.release import load_network  # noqa: E402
from training.rings import fit  # noqa: E402
from triage.features import N_FEATURES  # noqa: E402

pytestmark = pytest.mark.torch
SIZE = 32


def write_split(folder: Path, split: str, seed: int) -> None:
    """24 frames on which s rises with the distance from the middle; every other has a bright ring at one s."""
    rng = np.random.default_rng(seed)
    distance = np.hypot(*(np.mgrid[:SIZE, :SIZE] - SIZE / 2))
    images = np.zeros((24, 5, SIZE, SIZE), dtype=np.uint8)
    images[:, 0] = rng.integers(40, 60, (24, SIZE, SIZE))
    images[:, 3], images[:, 4] = 8 * distance, 255
    images[::2, 0, np.abs(distance - 9.0) < 0.7] += 80
    labels = np.zeros(24, dtype=LABEL_TYPE)
    labels["ice_rings"][::2] = 1
    features = rng.normal(size=(24, N_FEATURES)).astype(np.float32)
    arrays = {"image": images, "crops": np.zeros((24, 2, 16, 16), dtype=np.uint8), "features": features, "labels": labels}
    for name, array in arrays.items():
        np.save(folder / f"{split}_0000.{name}.npy", array)


def test_ice_is_learnt_from_rings_and_nothing_else_changes(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "validation")):
        write_split(tmp_path, split, seed)
    torch.manual_seed(0)
    network = Network(NetworkSize(trunk=(8, 16), crop=(4, 8, 8), hidden=16, image_px=SIZE)).eval()
    seen = [torch.from_numpy(np.load(tmp_path / f"validation_0000.{name}.npy")) for name in ("image", "crops", "features")]
    with torch.no_grad():
        before = network(*seen)
    loss = fit(network, tmp_path, steps=60)
    with torch.no_grad():
        after = network(*seen)
    assert loss < 0.1
    assert ((after.ice > 0) == (torch.arange(24) % 2 == 0)).all()
    assert all(torch.equal(getattr(before, name), getattr(after, name)) for name in ("lattices", "kind", "log_s"))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    network = Network()
    chosen = {name: getattr(network.size, name) for name in ("trunk", "crop", "hidden", "dropout", "use_crops", "use_features")}
    chosen |= {name: getattr(network.size, name) for name in ("use_resolution_map", "use_spectrum", "use_radial")}
    weights = {name: value for name, value in network.state_dict().items() if not name.startswith(("rings.", "ice."))}
    path = tmp_path / "network.pt"
    torch.save({"weights": weights, "report": {"settings": {"network": chosen}}}, path)
    assert not load_network(path)[0].ice.weight.any()  # of before ice had a look of its own: it begins at nothing
    torch.save({"weights": {"unheard.of": torch.zeros(1)}, "report": {"settings": {"network": chosen}}}, path)
    with pytest.raises(ValueError, match="weights of another network"):
        load_network(path)
