"""The network at work: an ONNX file that carries its own preprocessing, judged by ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from triage.core import NON_DIFFRACTION_KINDS, Judgement, Model, Pixels, Run, Spots, TriageError
from triage.features import beam_check
from triage.pair import PairHead
from triage.preprocess import Preprocess

METADATA_KEY = "triage"
"""Of the ONNX file's metadata: a JSON object with everything serving needs to know."""
OUTPUTS = ("lattices", "kind", "ice", "inverse_d")
"""What every model says of a frame."""
APPEARANCE_OUTPUT = "appearance"
"""What a model with a `pair` head says besides."""

_STATE = ort.capi.onnxruntime_pybind11_state
_LOAD_ERRORS = (_STATE.Fail, _STATE.InvalidProtobuf, _STATE.InvalidGraph, _STATE.InvalidArgument, _STATE.NotImplemented, RuntimeError)


class ModelError(TriageError):
    """A model file that cannot be used; the message names it and the mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """What travels inside the ONNX file beside the weights."""

    name: str
    version: str
    preprocess: Preprocess
    base_rates: tuple[float, float, float, float]
    """Shares of 0, 1, 2, 3-or-more lattices that the probabilities are calibrated at."""
    provenance: dict[str, Any]
    """Calibration, git revision, data, seeds."""
    pair: PairHead | None = None
    """Compares the appearance of frames of a run; None in a model that does not state it."""

    def to_json(self) -> str:
        """As it is written into the file."""
        return json.dumps(
            {
                "name": self.name,
                "version": self.version,
                "preprocess": json.loads(self.preprocess.to_json()),
                "lattices": ["0", "1", "2", "3+"],
                "non_diffraction_kinds": list(NON_DIFFRACTION_KINDS),
                "base_rates": list(self.base_rates),
                "provenance": self.provenance,
                **({} if self.pair is None else {"pair": self.pair.to_json()}),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> ModelMetadata:
        """Raises ValueError or KeyError when something is absent or of another version."""
        value = json.loads(text)
        if tuple(value["non_diffraction_kinds"]) != NON_DIFFRACTION_KINDS:
            raise ValueError(f"its kinds are {value['non_diffraction_kinds']}")
        rates = [float(rate) for rate in value["base_rates"]]
        if len(rates) != 4:
            raise ValueError(f"it has {len(rates)} base rates, not 4")
        return cls(
            name=str(value["name"]),
            version=str(value["version"]),
            preprocess=Preprocess.from_json(json.dumps(value["preprocess"])),
            base_rates=(rates[0], rates[1], rates[2], rates[3]),
            provenance=dict(value["provenance"]),
            pair=PairHead.from_json(value["pair"]) if "pair" in value else None,
        )


class OnnxClassifier:
    """Judges frames with a released network; safe to call from several threads."""

    def __init__(self, path: Path, device: str = "auto") -> None:
        """Loads once. `device` is auto, cpu or cuda. Raises ModelError naming the file and the mend."""
        if not path.is_file():
            raise ModelError(f"{path}: no such model file; set model=PATH to an exported .onnx")
        content = path.read_bytes()
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # frames are judged in parallel, one thread each
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(content, options, providers=_providers(device))
        except _LOAD_ERRORS as error:
            raise ModelError(f"{path}: not an ONNX model that this runtime can load ({str(error).splitlines()[0]})") from None
        written = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if written is None:
            raise ModelError(f"{path}: carries no preprocessing ({METADATA_KEY!r} metadata); export it with `triage export`")
        try:
            self.metadata = ModelMetadata.from_json(written)
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path}: its metadata do not fit this version ({error}); export the model again") from None
        self._outputs = [*OUTPUTS] if self.metadata.pair is None else [*OUTPUTS, APPEARANCE_OUTPUT]
        if self.metadata.pair is not None and APPEARANCE_OUTPUT not in {output.name for output in self._session.get_outputs()}:
            raise ModelError(f"{path}: has a head that compares frames, and no output {APPEARANCE_OUTPUT!r} for it; export the model again")
        self.model = Model(name=self.metadata.name, version=self.metadata.version, sha256=hashlib.sha256(content).hexdigest())

    def score(self, pixels: Pixels, spots: Spots, run: Run) -> Judgement:
        """The network's judgement of one frame (slow, fast)."""
        inputs = self.metadata.preprocess(pixels, spots, run)
        feed = {"image": inputs.image[None], "crops": inputs.crops[None], "features": inputs.features[None]}
        said = [np.asarray(x[0], dtype=np.float64) for x in self._session.run(self._outputs, feed)]
        lattices, kind, ice, inverse_d = said[: len(OUTPUTS)]
        counts, kinds = lattices / lattices.sum(), kind / kind.sum()  # float32 sums to one within 1e-7; here to 1e-16
        return Judgement(
            lattices=(float(counts[0]), float(counts[1]), float(counts[2]), float(counts[3])),
            non_diffraction_kind=(float(kinds[0]), float(kinds[1]), float(kinds[2]), float(kinds[3])),
            ice_rings=float(ice),
            resolution_A=float(1.0 / inverse_d) if run.geometry is not None and counts[0] < 0.5 else None,
            beam=beam_check(inputs.features),
            appearance=said[-1] if len(said) > len(OUTPUTS) else None,
        )


def _providers(device: str) -> list[str]:
    available = ort.get_available_providers()
    if device == "cuda" and "CUDAExecutionProvider" not in available:
        raise ModelError("model.device=cuda: this ONNX Runtime has no CUDA; install onnxruntime-gpu or set model.device=cpu")
    if device in ("auto", "cuda") and "CUDAExecutionProvider" in available:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]
