"""A tiny frozen set and an ONNX file that says what the set's features hold: what a report must say of it is known beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from training.dataset import LABEL_TYPE
from triage.classify import METADATA_KEY, ModelMetadata
from triage.preprocess import N_CHANNELS, Preprocess

SMALL = Preprocess(size=8, n_crops=1, crop_px=4)
OUTPUTS = {"lattices": (0, 4), "kind": (4, 8), "ice": (8, 9), "inverse_d": (9, 10)}
"""Columns of the features that the ONNX file hands out."""


def labels(n: int, seed: int = 0) -> npt.NDArray[Any]:
    """Truths of n frames: 0, 1, 2 and 3 lattices in turn."""
    rng = np.random.default_rng(seed)
    made = np.zeros(n, dtype=LABEL_TYPE)
    made["n_lattices"] = np.arange(n) % 4
    none, several = made["n_lattices"] == 0, made["n_lattices"] >= 2
    made["kind"] = np.where(none, np.arange(n) // 4 % 4, -1)
    made["ice_rings"] = np.arange(n) // 2 % 2
    made["d_min_A"] = np.where(none, np.nan, rng.uniform(1.2, 4.0, n))
    made["visible_spots"] = np.where(none, 0, rng.integers(8, 400, n))
    made["second_visible"] = made["second_separable"] = np.where(several, 30, 0)
    made["separation_deg"] = np.where(several, np.exp(rng.uniform(np.log(0.1), np.log(60.0), n)), np.nan)
    made["intensity_ratio"] = np.where(several, rng.uniform(0.05, 1.0, n), np.nan)
    made["background"] = np.exp(rng.uniform(-4, 4, n))
    made["rotation_deg"] = np.arange(n) // 4 % 2 * 0.1
    made["detector"] = np.where(np.arange(n) // 4 % 2, "PILATUS3 2M", "EIGER 1M")
    made["meant"] = np.where(none, "blank", np.where(several, "split", "single"))
    if "sample" in LABEL_TYPE.names:
        made["sample"] = np.where(none, "none", np.where(np.arange(n) // 8 % 2, "small_molecule", "protein"))
    return made


def said(truth: npt.NDArray[Any], *, doubt: float, seed: int = 1) -> npt.NDArray[np.float32]:
    """Features (n, n_features) whose leading columns are a judgement: the truth, blurred by `doubt` (0: certain and right)."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(len(truth), SMALL.n_features)).astype(np.float32)
    for (first, last), right in (
        (OUTPUTS["lattices"], np.minimum(truth["n_lattices"], 3)),
        (OUTPUTS["kind"], np.maximum(truth["kind"], 0)),
    ):
        scores = 4.0 * np.eye(4)[right] + doubt * rng.normal(size=(len(truth), 4))
        power = np.exp(scores)
        features[:, first:last] = power / power.sum(axis=1, keepdims=True)
    features[:, 8] = 1.0 / (1.0 + np.exp(-(4.0 * truth["ice_rings"] - 2.0 + doubt * rng.normal(size=len(truth)))))
    features[:, 9] = 1.1 / np.where(np.isfinite(truth["d_min_A"]), truth["d_min_A"], 3.0)
    return features


def write_shards(folder: Path, split: str, parts: dict[int, tuple[npt.NDArray[Any], npt.NDArray[np.float32]]]) -> Path:
    """Shards of a split by number, each of (labels, features)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (truth, features) in parts.items():
        path = folder / f"{split}_{number:04d}"
        n = len(truth)
        np.save(f"{path}.image.npy", np.zeros((n, N_CHANNELS, SMALL.size, SMALL.size), dtype=np.uint8))
        np.save(f"{path}.crops.npy", np.zeros((n, SMALL.n_crops, SMALL.crop_px, SMALL.crop_px), dtype=np.uint8))
        np.save(f"{path}.features.npy", features)
        np.save(f"{path}.labels.npy", truth)
    (folder / "recipe.json").write_text(json.dumps({"preprocess": json.loads(SMALL.to_json()), "seed": 5}, sort_keys=True))
    return folder


def write_model(path: Path, *, name: str = "oracle", version: str = "1.0.0", preprocess: Preprocess = SMALL) -> Path:
    """An ONNX file whose judgement of a frame is what its features say."""
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", N_CHANNELS, preprocess.size, preprocess.size]),
        helper.make_tensor_value_info("crops", TensorProto.UINT8, ["n", preprocess.n_crops, preprocess.crop_px, preprocess.crop_px]),
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", preprocess.n_features]),
    ]
    nodes, constants, outputs = [], [], []
    for output, (first, last) in OUTPUTS.items():
        columns = list(range(first, last)) if last - first > 1 else first  # one column alone: without an axis
        constants.append(onnx.numpy_helper.from_array(np.array(columns, dtype=np.int64), f"columns_{output}"))
        nodes.append(helper.make_node("Gather", ["features", f"columns_{output}"], [output], axis=1))
        shape = ["n", last - first] if last - first > 1 else ["n"]
        outputs.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, shape))
    graph = helper.make_graph(nodes, "oracle", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    metadata = ModelMetadata(name=name, version=version, preprocess=preprocess, base_rates=(0.25, 0.25, 0.25, 0.25), provenance={"seed": 1})
    helper.set_model_props(model, {METADATA_KEY: metadata.to_json()})
    onnx.save(model, str(path))
    return path
