"""The weights of a released ONNX file as a `network.pt` that training can start from.

    python -m training.unfold models/released/triage.onnx data/cpu_small runs/released

Export folds each batch normalisation into the layer before it. Here it gets back a scale and an offset that, with the statistics of the
given frames, leave what the folded layer says as it is; so that training goes on from there, normalised as before. A file that knows
fewer of the spots' statistics than this version gets weights of zero for the others. Its trees come along, for new ones to stand beside.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from models.network import Network
from models.trees import Forest
from training.boosting import HEADS, packed
from training.dataset import load
from training.settings import TrainSettings
from triage.classify import OnnxClassifier
from triage.compose import compose_settings

LOG = logging.getLogger(__name__)
FRAMES = 512
"""Frames whose statistics the normalisations take."""
_PREFIX = "network."
_SCORE = "crops.score.weight"
_OF_STATISTICS = ("features.0.weight", "features.0.bias", "features.0.running_mean", "features.0.running_var", "features.1.weight")
"""One entry, or one column, for each statistic."""


def unfold(path: Path, folder: Path, *, split: str = "validation") -> Network:
    """The network of an ONNX file, in evaluation mode. Raises ValueError when the file holds another network."""
    network = Network().eval()
    graph = onnx.load(path).graph
    given = {item.name.removeprefix(_PREFIX): torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    own = network.state_dict()
    normalisations = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)}
    folded = {name: before for name, before in _before(network).items() if f"{name}.running_mean" not in given}
    for name, tensor in own.items():
        owner = name.rsplit(".", 1)[0]
        if owner in folded or name.endswith("num_batches_tracked"):
            continue
        value = given.get(name)
        if name == _SCORE and value is None:  # exported transposed, under a name of no meaning
            value = next((other.T for other in given.values() if other.ndim == 2 and other.T.shape == tensor.shape), None)
        if value is not None and name in _OF_STATISTICS:
            value = _widened(value, tensor)
        if value is None or value.shape != tensor.shape:
            raise ValueError(f"{path}: no weights {name} of shape {tuple(tensor.shape)}: the file holds another network")
        tensor.copy_(value)
    offsets = {name: given[f"{before}.weight_bias"] for name, before in folded.items()}
    with torch.no_grad():
        _normalise(network, {normalisations[name]: offset for name, offset in offsets.items()}, folder, split)
    return network


def _widened(value: Tensor, like: Tensor) -> Tensor:
    """With what a new network has for the statistics that the file does not know; their columns of weights are zero."""
    known = value.shape[-1]
    if value.shape[:-1] != like.shape[:-1] or known > like.shape[-1]:
        return value
    rest = like[..., known:] if like.ndim == 1 else torch.zeros_like(like[..., known:])
    return torch.cat([value, rest], dim=-1)


def _before(network: Network) -> dict[str, str]:
    """Of each batch normalisation that follows a layer with weights: that layer's name."""
    found: dict[str, str] = {}
    last: str | None = None
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            last = name
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and last is not None:
            found[name] = last
    return found


def unfold_trees(path: Path) -> dict[str, Any]:
    """The trees of an ONNX file as `training.boosting.fit_trees` returns them; of heads without any, nothing.

    Export names where nodes point to (`Trees.below`) and the baseline, and nothing else reliably: the other arrays are those that are read
    at the nodes which are pointed to. Raises ValueError when they are not there.
    """
    graph = onnx.load(path).graph
    given = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    found = {}
    for head, outputs in HEADS.items():
        below = given.get(f"trees.{head}.below")
        if below is None:
            continue
        left, right = np.split(below, 2)
        read = [given[name] for name in _read_at(graph, f"trees.{head}.below") if name in given and given[name].shape == left.shape]
        feature = next((array for array in read if array.dtype == np.int64), None)
        threshold = next((array for array in read if array.dtype == np.float32 and np.isinf(array).any()), None)  # a leaf's is infinite
        value = next((array for array in read if array.dtype == np.float32 and not np.isinf(array).any()), None)
        if feature is None or threshold is None or value is None:
            raise ValueError(f"{path}: the trees for {head} cannot be read: another version exported them; grow new ones (training.regrow)")
        own = np.arange(len(left))
        roots = np.setdiff1d(own, np.concatenate([each[each != own] for each in (left, right)]))
        forest = Forest(
            feature=feature,
            threshold=threshold,
            left=left,
            right=right,
            value=value,
            roots=roots.reshape(-1, outputs),
            baseline=given[f"trees.{head}.baseline"],
            depth=_depth(left, right, roots),
        )
        found[head] = packed(forest)
    return found


def _read_at(graph: onnx.GraphProto, below: str) -> Iterator[str]:
    """What is gathered at the nodes that `below` gives, first level first."""
    pointed = {node.output[0] for node in graph.node if below in node.input}
    for node in graph.node:
        if node.op_type == "Unsqueeze" and node.input[0] in pointed:
            pointed.add(node.output[0])
        elif node.op_type.startswith("Gather") and node.input[1] in pointed:
            yield node.input[0]


def _depth(left: npt.NDArray[np.int64], right: npt.NDArray[np.int64], roots: npt.NDArray[np.int64]) -> int:
    """Steps from the roots until every node points at itself."""
    at, depth = roots, 0
    while True:
        after = np.unique(np.concatenate([left[at], right[at]]))
        if np.array_equal(after, at):
            return depth
        at, depth = after, depth + 1


def _normalise(network: Network, offsets: dict[nn.Module, Tensor], folder: Path, split: str) -> None:
    """One pass over the frames; each normalisation is set before its first use, so that those behind it see what they will."""

    def take(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        over = [axis for axis in range(x.ndim) if axis != 1]
        mean, variance = x.mean(dim=over), x.var(dim=over, unbiased=False)
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)  # noqa: S101 - for the type checker
        assert module.running_mean is not None  # noqa: S101
        assert module.running_var is not None  # noqa: S101
        module.running_mean.copy_(mean)
        module.running_var.copy_(variance)
        module.weight.copy_(torch.sqrt(variance + module.eps))
        module.bias.copy_(offsets[module] + mean)

    hooks = [module.register_forward_pre_hook(take) for module in offsets]
    arrays = load(folder, split)
    number = min(FRAMES, arrays.shard_frames)
    network(
        torch.from_numpy(np.array(arrays.images[0][:number])),
        torch.from_numpy(np.array(arrays.crops[0][:number])),
        torch.from_numpy(arrays.features[:number]),
    )
    for hook in hooks:
        hook.remove()


def report_of(path: Path) -> dict[str, Any]:
    """What a training would have reported of an ONNX file's network, as far as the file tells: its frames, and usual settings."""
    metadata = OnnxClassifier(path, device="cpu").metadata
    known = metadata.provenance
    settings = compose_settings(
        "train", [f"name={metadata.name}", f"seed={known['seed']}", f"data.seed={known['data_seed']}"], TrainSettings
    )
    told = {name: known[name] for name in ("data", "git_revision", "training_minutes")}
    return {"unfolded": metadata.version, "settings": settings.model_dump(mode="json"), **told}


def main() -> None:
    """Reads an ONNX file, writes network.pt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    network = unfold(given.model, given.data)
    given.out.mkdir(parents=True, exist_ok=True)
    trees = unfold_trees(given.model)
    torch.save({"weights": network.state_dict(), "trees": trees, "report": report_of(given.model)}, given.out / "network.pt")
    LOG.info("written: %s", given.out / "network.pt")


if __name__ == "__main__":
    main()
