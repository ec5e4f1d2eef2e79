"""Heads for decay on a released network: an embedding of each frame, and a small head that sees it beside the reference's.

They are learnt apart, on what the network's looks hold once they are side by side (`Looks`), and written into the same ONNX file, so that
what it says of single frames stays as it was judged (`attach`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from models.export import TOLERANCE, ExportError
from triage.classify import EMBEDDING, METADATA_KEY, ModelMetadata, OnnxClassifier
from triage.core import Pixels, Run, Spots
from triage.pair import ESTIMATES, PairHead
from triage.preprocess import N_CHANNELS

JOIN = "network.join.0.weight"
"""Of the first layer over all looks."""
SIZE, HIDDEN, PAIR_HIDDEN = 16, 64, 24
FARTHEST = 5.0
"""Standard deviations beyond which a look counts no more."""
DROPOUT = 0.2
_PREFIX = "decay."


class DecayHeads(nn.Module):
    """Looks (B, n) of frames to embeddings (B, SIZE + ESTIMATES); and pairs of those to log-odds and two estimates."""

    mean: Tensor
    spread: Tensor

    def __init__(self, mean: Tensor, spread: Tensor) -> None:
        """Of the looks (n,), over the frames learnt from."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)
        self.body = nn.Sequential(nn.Linear(len(mean), HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, SIZE))
        self.estimates = nn.Linear(SIZE, len(ESTIMATES))
        self.inner = nn.Linear(2 * SIZE + len(ESTIMATES), PAIR_HIDDEN)
        self.outer = nn.Linear(PAIR_HIDDEN, 3)
        self.straight = nn.Linear(SIZE + len(ESTIMATES), 3, bias=False)

    def forward(self, looks: Tensor) -> Tensor:
        """Embeddings, the estimates last."""
        own = self.body(((looks - self.mean) / self.spread).clamp(-FARTHEST, FARTHEST))
        return torch.cat([own, self.estimates(own)], dim=1)

    def pair(self, reference: Tensor, now: Tensor) -> Tensor:
        """(B, 3): log-odds of damage, loss of the outer shell as an exponent, change of ln photons; of mean embeddings (B, .)."""
        change = now - reference
        hidden = torch.tanh(self.inner(torch.cat([change, reference[:, :SIZE]], dim=1)))
        out: Tensor = self.outer(hidden) + self.straight(change)
        return out

    def pair_head(self, slope: float, offset: float) -> PairHead:
        """The log-odds alone, calibrated, as the runtime has them."""

        def array(weights: Tensor) -> npt.NDArray[np.float64]:
            return weights.detach().double().numpy()

        return PairHead(
            inner=array(self.inner.weight),
            inner_bias=array(self.inner.bias),
            outer=slope * array(self.outer.weight[0]),
            straight=slope * array(self.straight.weight[0]),
            bias=slope * float(self.outer.bias[0]) + offset,
        )


def looks_output(graph: onnx.GraphProto, path: Path) -> str:
    """Name of the tensor (frames, n) that holds all looks side by side. Raises ValueError when the file has none."""
    for node in graph.node:
        if JOIN in node.input:
            return str(node.input[0])
    raise ValueError(f"{path}: no layer {JOIN}: the file holds another network")


class Looks:
    """A released network up to where its looks at a frame are side by side."""

    def __init__(self, path: Path) -> None:
        self._preprocess = OnnxClassifier(path, device="cpu").metadata.preprocess
        model = onnx.load(str(path))
        self._output = looks_output(model.graph, path)
        model.graph.output.append(helper.make_empty_tensor_value_info(self._output))
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def __call__(self, pixels: Pixels, spots: Spots, run: Run) -> npt.NDArray[np.float32]:
        """(n,) of one frame (slow, fast)."""
        inputs = self._preprocess(pixels, spots, run)
        feed = {"image": inputs.image[None], "crops": inputs.crops[None], "features": inputs.features[None]}
        return np.asarray(self._session.run([self._output], feed)[0][0], dtype=np.float32)


def attach(path: Path, heads: DecayHeads, metadata: ModelMetadata, out: Path) -> None:
    """Writes the model file `path` with the embedding as one more output, and these metadata, to `out`; heads it had go.

    Raises ExportError when the file would say something else than it did, or than torch does.
    """
    heads.eval()
    before = onnx.load(str(path))
    model = onnx.load(str(path))
    graph = model.graph
    _strip(graph)
    looks = looks_output(graph, path)
    _append(graph, heads, looks)
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, metadata.to_json()
    onnx.checker.check_model(model)
    _compare(before, model, heads, looks, metadata)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part.onnx")
    onnx.save(model, str(part))
    part.replace(out)


def _strip(graph: onnx.GraphProto) -> None:
    for kept in (graph.node, graph.initializer, graph.output):
        own = [item for item in kept if item.name.startswith(_PREFIX) or item.name == EMBEDDING]
        for item in own:
            kept.remove(item)


def _append(graph: onnx.GraphProto, heads: DecayHeads, looks: str) -> None:
    """Six nodes; the two linear layers after the hidden units are one."""
    first, last, estimates = heads.body[0], heads.body[3], heads.estimates
    with torch.no_grad():
        weight = torch.cat([last.weight, estimates.weight @ last.weight])
        bias = torch.cat([last.bias, estimates.weight @ last.bias + estimates.bias])
        constants = {
            "mean": heads.mean,
            "over_spread": 1.0 / heads.spread,
            "least": torch.tensor(-FARTHEST),
            "most": torch.tensor(FARTHEST),
            "first": first.weight,
            "first_bias": first.bias,
            "last": weight,
            "last_bias": bias,
        }
    graph.initializer.extend(numpy_helper.from_array(value.float().numpy(), _PREFIX + name) for name, value in constants.items())
    steps = (
        ("Sub", "mean"),
        ("Mul", "over_spread"),
        ("Clip", "least", "most"),
        ("Gemm", "first", "first_bias"),
        ("Relu",),
        ("Gemm", "last", "last_bias"),
    )
    before = looks
    for number, (kind, *given) in enumerate(steps):
        after = EMBEDDING if number == len(steps) - 1 else f"{_PREFIX}{number}"
        options = {"transB": 1} if kind == "Gemm" else {}
        inputs = [before, *(_PREFIX + name for name in given)]
        graph.node.append(helper.make_node(kind, inputs, [after], name=f"{_PREFIX}{kind}_{number}", **options))
        before = after
    graph.output.append(helper.make_tensor_value_info(EMBEDDING, onnx.TensorProto.FLOAT, ["frames", len(bias)]))


def _compare(before: onnx.ModelProto, after: onnx.ModelProto, heads: DecayHeads, looks: str, metadata: ModelMetadata) -> None:
    """On made-up frames: what was said before is said to the last bit, and the embedding is torch's."""
    made, generator = metadata.preprocess, np.random.default_rng(1)
    old = {output.name for output in before.graph.output} - {EMBEDDING}
    after = onnx.ModelProto.FromString(after.SerializeToString())
    after.graph.output.append(helper.make_empty_tensor_value_info(looks))
    feed = {
        "image": generator.integers(0, 256, (3, N_CHANNELS, made.size, made.size), dtype=np.uint8),
        "crops": generator.integers(0, 256, (3, made.n_crops, made.crop_px, made.crop_px), dtype=np.uint8),
        "features": generator.normal(size=(3, made.n_features)).astype(np.float32),
    }
    sessions = [ort.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"]) for each in (before, after)]
    for name in sorted(old):
        said = [session.run([name], feed)[0] for session in sessions]
        if not np.array_equal(*said):
            raise ExportError(f"{name} is not what it was before the heads for decay")
    seen, embedding = sessions[1].run([looks, EMBEDDING], feed)
    with torch.inference_mode():
        wanted = heads(torch.from_numpy(seen)).numpy()
    if (difference := float(np.abs(wanted - embedding).max())) > TOLERANCE:
        raise ExportError(f"{EMBEDDING}: ONNX differs from torch by {difference:.2g}, more than {TOLERANCE:g}")


def with_heads(metadata: ModelMetadata, head: PairHead, version: str, learnt_from: dict[str, object]) -> ModelMetadata:
    """The metadata of the file with the heads in it."""
    return dataclasses.replace(metadata, pair=head, version=version, provenance={**metadata.provenance, "decay": learnt_from})
