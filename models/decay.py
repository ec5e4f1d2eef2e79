"""Heads for decay on a released network: how each frame appears, in numbers that frames of one run can be compared by.

They are learnt apart, on what the network's looks hold once they are side by side (`Looks`), and written into the same ONNX file, so that
what it says of single frames stays as it was judged (`attach`). What compares frames is `triage.pair.PairHead`, in the file's metadata.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from models.export import TOLERANCE, ExportError
from triage.classify import APPEARANCE_OUTPUT, METADATA_KEY, ModelMetadata, OnnxClassifier
from triage.core import Pixels, Run, Spots
from triage.pair import APPEARANCE, PairHead
from triage.preprocess import N_CHANNELS

Floats = npt.NDArray[np.float64]

JOIN = "network.join.0.weight"
"""Of the first layer over all looks."""
INVERSE_D = "inverse_d"
FARTHEST = 5.0
"""Standard deviations beyond which a look counts no more."""
_PREFIX = "decay."


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class DecayHeads:
    """Linear heads on the looks (n,) of a frame."""

    mean: Floats
    """(n,) of the looks, over the frames learnt from."""
    spread: Floats
    weight: Floats
    """(APPEARANCE - 1, n)"""
    bias: Floats

    def __call__(self, seen: npt.NDArray[np.floating]) -> Floats:
        """(frames, APPEARANCE) of what `Looks` gives, (frames, n + 1)."""
        looks = np.clip((seen[:, :-1] - self.mean) / self.spread, -FARTHEST, FARTHEST)
        return np.column_stack([seen[:, -1], looks @ self.weight.T + self.bias])


def looks_output(graph: onnx.GraphProto, path: Path) -> str:
    """Name of the tensor (frames, n) that holds all looks side by side. Raises ValueError when the file has none."""
    for node in graph.node:
        if JOIN in node.input:
            return str(node.input[0])
    raise ValueError(f"{path}: no layer {JOIN}: the file holds another network")


class Looks:
    """A released network up to where its looks at a frame are side by side, and its resolution limit."""

    def __init__(self, path: Path) -> None:
        self._preprocess = OnnxClassifier(path, device="cpu").metadata.preprocess
        model = onnx.load(str(path))
        self._output = looks_output(model.graph, path)
        self._session = _session(model, self._output)

    def __call__(self, pixels: Pixels, spots: Spots, run: Run) -> npt.NDArray[np.float32]:
        """(n + 1,) of one frame (slow, fast): the looks, and ln 1/d_min last."""
        inputs = self._preprocess(pixels, spots, run)
        feed = {"image": inputs.image[None], "crops": inputs.crops[None], "features": inputs.features[None]}
        looks, inverse_d = self._session.run([self._output, INVERSE_D], feed)
        return np.append(looks[0], np.log(inverse_d[0])).astype(np.float32)


def _session(model: onnx.ModelProto, *extra: str) -> ort.InferenceSession:
    """On one thread, with more outputs."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in extra)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def attach(path: Path, heads: DecayHeads, metadata: ModelMetadata, out: Path) -> None:
    """Writes the model file `path` with the frame's appearance as one more output, and these metadata, to `out`; heads it had go.

    Raises ExportError when the file would say something else than it did, or than `heads` does.
    """
    before = onnx.load(str(path))
    model = onnx.load(str(path))
    _strip(model.graph)
    _append(model.graph, heads, looks_output(model.graph, path))
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, metadata.to_json()
    onnx.checker.check_model(model)
    _compare(before, model, heads, metadata)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part.onnx")
    onnx.save(model, str(part))
    part.replace(out)


def _strip(graph: onnx.GraphProto) -> None:
    for kept in (graph.node, graph.initializer, graph.output):
        for item in [item for item in kept if item.name.startswith(_PREFIX) or item.name == APPEARANCE_OUTPUT]:
            kept.remove(item)


def _append(graph: onnx.GraphProto, heads: DecayHeads, looks: str) -> None:
    floats = {"mean": heads.mean, "over_spread": 1.0 / heads.spread, "least": np.array(-FARTHEST), "most": np.array(FARTHEST)}
    floats |= {"weight": heads.weight.T, "bias": heads.bias}
    graph.initializer.extend(numpy_helper.from_array(value.astype(np.float32), _PREFIX + name) for name, value in floats.items())
    graph.initializer.append(numpy_helper.from_array(np.array([1]), _PREFIX + "one"))
    steps = (
        ("Sub", (looks, "decay.mean"), "decay.centred"),
        ("Mul", ("decay.centred", "decay.over_spread"), "decay.standard"),
        ("Clip", ("decay.standard", "decay.least", "decay.most"), "decay.held"),
        ("Gemm", ("decay.held", "decay.weight", "decay.bias"), "decay.estimates"),
        ("Log", (INVERSE_D,), "decay.log_inverse_d"),
        ("Unsqueeze", ("decay.log_inverse_d", "decay.one"), "decay.column"),
    )
    graph.node.extend(helper.make_node(kind, inputs, [output], name=_PREFIX + kind) for kind, inputs, output in steps)
    graph.node.append(helper.make_node("Concat", ["decay.column", "decay.estimates"], [APPEARANCE_OUTPUT], name=_PREFIX + "Concat", axis=1))
    graph.output.append(helper.make_tensor_value_info(APPEARANCE_OUTPUT, onnx.TensorProto.FLOAT, ["frames", len(APPEARANCE)]))


def _compare(before: onnx.ModelProto, after: onnx.ModelProto, heads: DecayHeads, metadata: ModelMetadata) -> None:
    """On made-up frames: what was said before is said to the last bit, and the appearance is that of `heads`."""
    made, generator = metadata.preprocess, np.random.default_rng(1)
    feed = {
        "image": generator.integers(0, 256, (3, N_CHANNELS, made.size, made.size), dtype=np.uint8),
        "crops": generator.integers(0, 256, (3, made.n_crops, made.crop_px, made.crop_px), dtype=np.uint8),
        "features": generator.normal(size=(3, made.n_features)).astype(np.float32),
    }
    looks = looks_output(after.graph, Path("the new file"))
    old, new = _session(before), _session(after, looks)
    for name in sorted({output.name for output in before.graph.output} - {APPEARANCE_OUTPUT}):
        if not np.array_equal(old.run([name], feed)[0], new.run([name], feed)[0]):
            raise ExportError(f"{name} would not be what it was before the heads for decay")
    seen, inverse_d, said = new.run([looks, INVERSE_D, APPEARANCE_OUTPUT], feed)
    difference = float(np.abs(heads(np.column_stack([seen, np.log(inverse_d)])) - said).max())
    if not difference <= TOLERANCE:
        raise ExportError(f"{APPEARANCE_OUTPUT}: ONNX differs from the heads by {difference:.2g}, more than {TOLERANCE:g}")


def with_heads(metadata: ModelMetadata, head: PairHead, version: str, learnt_from: dict[str, object]) -> ModelMetadata:
    """The metadata of the file with the heads in it."""
    return dataclasses.replace(metadata, pair=head, version=version, provenance={**metadata.provenance, "decay": learnt_from})
