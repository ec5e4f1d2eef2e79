"""A trained network to the ONNX file that is released: calibrated probabilities out, preprocessing and provenance inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch

from models.network import Calibrated
from triage.classify import METADATA_KEY, OUTPUTS, ModelMetadata
from triage.core import TriageError
from triage.preprocess import N_CHANNELS

TOLERANCE = 1e-4


class ExportError(TriageError):
    """The ONNX file would not say what the network says."""


def export(network: Calibrated, metadata: ModelMetadata, path: Path) -> float:
    """Writes the ONNX file; returns the largest difference from torch over random frames.

    Raises ExportError when it exceeds 1e-4; the file is not left behind.
    """
    network.eval()
    example = _example(metadata, frames=2, seed=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.onnx")  # a released file is replaced only by one that passed
    batch = torch.export.Dim("frames", min=1, max=4096)
    torch.onnx.export(
        network,
        example,
        str(part),
        input_names=["image", "crops", "features"],
        output_names=list(OUTPUTS),
        dynamic_shapes=({0: batch}, {0: batch}, {0: batch}),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    model = onnx.load(str(part))
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, metadata.to_json()
    for node in model.graph.node:
        del node.metadata_props[:]  # the exporter's own stack traces: machine paths, and three quarters of the file
        node.doc_string = ""
    onnx.save(model, str(part))
    difference = _difference(network, metadata, part)
    if difference > TOLERANCE:
        part.unlink()
        raise ExportError(f"{path}: ONNX differs from torch by {difference:.2g}, more than {TOLERANCE:g}")
    part.replace(path)
    return difference


def _example(metadata: ModelMetadata, *, frames: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    made, generator = metadata.preprocess, torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (frames, N_CHANNELS, made.size, made.size), generator=generator, dtype=torch.uint8)
    crops = torch.randint(0, 256, (frames, made.n_crops, made.crop_px, made.crop_px), generator=generator, dtype=torch.uint8)
    crops[:, made.n_crops // 2 :] = 0
    return image, crops, torch.randn(frames, made.n_features, generator=generator)


def _difference(network: Calibrated, metadata: ModelMetadata, path: Path) -> float:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for seed, frames in ((1, 1), (2, 5)):
        inputs = _example(metadata, frames=frames, seed=seed)
        with torch.inference_mode():
            expected = network(*inputs)
        found = session.run(None, {name: x.numpy() for name, x in zip(("image", "crops", "features"), inputs, strict=True)})
        worst = max(worst, *(float(np.abs(a.numpy() - b).max()) for a, b in zip(expected, found, strict=True)))
    return worst
