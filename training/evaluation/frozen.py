"""The frozen set: the test split of a data folder, which every frame can be made again for; and what a network says of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from training.dataset import Arrays, load
from training.evaluation.measures import Floats, Ints
from triage.classify import OUTPUTS, ModelError, ModelMetadata, OnnxClassifier
from triage.core import TriageError
from triage.refusal import ConfigError

SPLIT = "test"
_BATCH = 50


class ModelUnfit(ConfigError):
    """A model that cannot judge these frames; the message names it and the mend."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrozenSet:
    """Frames that are judged and never learnt from."""

    folder: Path
    arrays: Arrays
    recipe: dict[str, Any]
    """Seed and preprocessing of the shards."""
    index: Ints
    """(n,) each frame's number within the split: with the seed, what makes it again."""

    @property
    def labels(self) -> npt.NDArray[Any]:
        """(n,) records of the truth."""
        return self.arrays.labels

    def identity(self) -> dict[str, Any]:
        """What tells whether two reports are about the same frames."""
        fields = [np.ascontiguousarray(self.labels[name]).tobytes() for name in self.labels.dtype.names or ()]
        digest = hashlib.sha256(self.index.tobytes() + b"".join(fields)).hexdigest()
        return {**self.recipe, "split": SPLIT, "frames": len(self.labels), "sha256": digest}


def load_frozen(folder: Path) -> FrozenSet:
    """The finished test shards of `folder`. Raises ConfigError, with the mend, where there are none."""
    try:
        arrays, recipe = load(folder, SPLIT), json.loads((folder / "recipe.json").read_text())
    except FileNotFoundError:
        raise ConfigError(f"{folder}: no simulated test frames; `triage evaluate evaluate.data={folder}` makes them") from None
    numbers = sorted(int(path.name.split("_")[1].split(".")[0]) for path in folder.glob(f"{SPLIT}_*.labels.npy"))
    parts = [number * len(images) + np.arange(len(images)) for number, images in zip(numbers, arrays.images, strict=True)]
    return FrozenSet(folder=folder, arrays=arrays, recipe=recipe, index=np.concatenate(parts).astype(np.int64))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """Calibrated probabilities of a whole split."""

    lattices: Floats
    """(n, 4): 0, 1, 2, 3 or more."""
    kind: Floats
    """(n, 4), in the order of NON_DIFFRACTION_KINDS."""
    ice: Floats
    """(n,)"""
    inverse_d_per_A: Floats
    """(n,)"""

    @property
    def multi_lattice(self) -> Floats:
        """(n,) probability of two or more."""
        return np.asarray(self.lattices[:, 2] + self.lattices[:, 3])

    @property
    def non_diffraction(self) -> Floats:
        """(n,) probability of none."""
        return np.asarray(self.lattices[:, 0])


def read_metadata(model: Path) -> ModelMetadata:
    """What travels inside the ONNX file. Raises ModelUnfit where this version cannot use it."""
    try:
        return OnnxClassifier(model, device="cpu").metadata
    except ModelError as error:
        raise ModelUnfit(str(error)) from None


def predict(model: Path, frames: FrozenSet) -> tuple[Predictions, ModelMetadata]:
    """What an ONNX file says of every frame. Raises ModelUnfit when the frames were prepared for another network."""
    metadata = read_metadata(model)
    wanted = json.loads(metadata.preprocess.to_json())
    held = frames.recipe["preprocess"]
    if {**wanted, "n_features": 0} != {**held, "n_features": 0} or wanted["n_features"] > held["n_features"]:
        raise ModelUnfit(f"{model}: wants preprocessing {wanted}, {frames.folder} holds {held}; use another data folder")
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    arrays, parts, start = frames.arrays, [], 0
    for images, crops in zip(arrays.images, arrays.crops, strict=True):
        features = arrays.features[start : start + len(images), : wanted["n_features"]]
        start += len(images)
        for k in range(0, len(images), _BATCH):
            feed = {"image": images[k : k + _BATCH], "crops": crops[k : k + _BATCH], "features": features[k : k + _BATCH]}
            parts.append(session.run(list(OUTPUTS), {name: np.array(x) for name, x in feed.items()}))
    lattices, kind, ice, inverse_d = (np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True))
    if not all(np.isfinite(x).all() for x in (lattices, kind, ice, inverse_d)):
        raise TriageError(f"{model}: not every output is a finite number")
    return Predictions(lattices=lattices, kind=kind, ice=ice, inverse_d_per_A=inverse_d), metadata


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
