"""The weights of a released ONNX file as a `network.pt` that training can start from.

    python -m training.unfold models/released/triage.onnx data/cpu_small runs/released

Export folds each batch normalisation into the layer before it. Here it gets back a scale and an offset that, with the statistics of the
given frames, leave what the folded layer says as it is; so that training goes on from there, normalised as before. A file that knows
fewer of the spots' statistics than this version gets weights of zero for the others.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from models.network import Network
from training.dataset import load

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
    torch.save({"weights": network.state_dict(), "report": {"unfolded": str(given.model)}}, given.out / "network.pt")
    LOG.info("written: %s", given.out / "network.pt")


if __name__ == "__main__":
    main()
