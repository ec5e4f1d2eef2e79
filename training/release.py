"""From a trained network to the released file: calibrated on the validation split, compared on the frozen set, written with its report."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models.export import ExportError, export
from models.network import Calibrated, Calibration, Network, log_odds_of_none
from models.resnet import HalfResNet18
from models.trees import Trees
from training.boosting import trees_of
from training.dataset import FrameDataset, load
from training.evaluation.against import REPORT_NAME, previous
from training.evaluation.frozen import load_frozen, predict, sha256_of
from training.evaluation.report import as_json, report_of
from training.gate import Refused, Verdict, compare
from training.settings import ExportPart, NetworkSettings
from training.simulate.draw import KINDS
from training.tracking import register_champion
from triage.classify import METADATA_KEY, ModelMetadata
from triage.preprocess import Preprocess
from triage.refusal import ConfigError

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """Logits of a whole split, and its truth."""

    lattices: Tensor
    kind: Tensor
    ice: Tensor
    log_s: Tensor
    truth: dict[str, Tensor]
    trees: dict[str, Tensor] = field(default_factory=dict)
    """Of `lattices`, `kind`, `ice` and `none`, where there are trees: their logits."""


def load_network(path: Path) -> tuple[Network, dict[str, Any]]:
    """The network and report of a `network.pt` that `triage train` wrote; the baseline is called as a Network is."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    chosen = saved["report"]["settings"]["network"]
    if chosen.get("kind", "triage") == "resnet18_half":  # networks of before there were two say nothing
        baseline = HalfResNet18()
        baseline.load_state_dict(saved["weights"])
        return cast(Network, baseline.eval()), saved["report"]
    network = Network(NetworkSettings.model_validate(chosen).size())
    missing, unknown = network.load_state_dict(saved["weights"], strict=False)
    if unknown or any(not name.startswith(("rings.", "ice.")) for name in missing):  # these begin at nothing: the answer is the same
        raise ValueError(f"{path}: weights of another network (missing {missing[:3]}, unknown {unknown[:3]})")
    return network.eval(), saved["report"]


def load_trees(path: Path) -> dict[str, Trees]:
    """The boosted trees of a `network.pt`; none where it was trained without."""
    return trees_of(torch.load(path, map_location="cpu", weights_only=True).get("trees", {}))


def run_split(network: Network, folder: Path, split: str, trees: Mapping[str, Trees] | None = None, frames: int | None = None) -> Outputs:
    """Logits of every frame of a split, or of its first shards that hold so many."""
    parts, truths, beside = [], [], []
    names = ("lattices", "kind", "ice", "s_max")
    with torch.inference_mode():
        for batch in DataLoader(FrameDataset(load(folder, split, frames), augment=False), batch_size=64):
            logits = network(batch["image"], batch["crops"], batch["features"])
            parts.append((logits.lattices, logits.kind, logits.ice, logits.log_s))
            truths.append({name: batch[name] for name in names})
            beside.append({head: forest(batch["features"]) for head, forest in (trees or {}).items()})
    lattices, kind, ice, log_s = (torch.cat(column) for column in zip(*parts, strict=True))
    return Outputs(
        lattices,
        kind,
        ice,
        log_s,
        truth={name: torch.cat([t[name] for t in truths]) for name in names},
        trees={head: torch.cat([said[head] for said in beside]) for head in trees or {}},
    )


def calibrate(outputs: Outputs) -> Calibration:
    """Temperatures (Guo et al., ICML 2017), and weights of the trees, that make the held-out split likeliest."""
    kinds, entropy, binary = outputs.truth["kind"], nn.functional.cross_entropy, nn.functional.binary_cross_entropy_with_logits
    known = kinds >= 0
    trees = outputs.trees
    beside = {"kind": trees["kind"][known] if "kind" in trees else None, "ice": trees["ice"][:, 0] if "ice" in trees else None}
    lattices = _blend(outputs.lattices, trees.get("lattices"), lambda x: entropy(x, outputs.truth["lattices"]))
    none = (1.0, 0.0)
    if "none" in trees:
        said = outputs.lattices / lattices[0] + (lattices[1] * trees["lattices"] if "lattices" in trees else 0.0)
        empty = (outputs.truth["lattices"] == 0).float()
        none = _blend(log_odds_of_none(said), trees["none"][:, 0], lambda x: binary(x, empty))
    kind = _blend(outputs.kind[known], beside["kind"], lambda x: entropy(x, kinds[known])) if known.any() else (1.0, 0.0)
    ice = _blend(outputs.ice, beside["ice"], lambda x: binary(x, outputs.truth["ice"]))
    return Calibration(
        lattices=lattices[0],
        kind=kind[0],
        ice=ice[0],
        none=none[0],
        lattices_trees=lattices[1],
        kind_trees=kind[1],
        ice_trees=ice[1],
        none_trees=none[1],
    )


def _blend(network: Tensor, trees: Tensor | None, loss: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """The temperature of the network's logits, 0.4 to 40, and the weight of the trees', 0 to 2, of least loss."""
    coarse = [
        (t, w)
        for t in np.exp(np.linspace(np.log(0.4), np.log(40.0), 40))
        for w in (np.linspace(0.0, 2.0, 21) if trees is not None else (0.0,))
    ]

    def best(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
        return min(pairs, key=lambda pair: float(loss(network / pair[0] + (pair[1] * trees if trees is not None else 0.0))))

    t, w = best(coarse)
    around = np.linspace(-1.0, 1.0, 21)
    weights = np.clip(w + 0.1 * around, 0.0, 2.0) if trees is not None else (0.0,)
    t, w = best((float(t * np.exp(0.12 * step)), float(weight)) for step in around for weight in weights)
    return float(t), float(w)


def release(settings: ExportPart) -> str:
    """Writes the ONNX file of a trained network, calibrated on the validation split, with its report beside it.

    Returns how it compares with the released one. Raises Refused when it differs from torch or does not beat the released one.
    """
    out, candidate = Path(settings.out), Path(settings.out).with_suffix(".candidate.onnx")
    network, trained = load_network(Path(settings.network))
    trees = load_trees(Path(settings.network))
    outputs = run_split(network, Path(settings.data), "validation", trees)
    calibration = calibrate(outputs)
    metadata = _metadata(trained, settings.version, calibration, outputs.truth["lattices"])
    try:
        difference = export(Calibrated(network, calibration, trees), metadata, candidate)
    except ExportError as error:
        raise Refused(str(error)) from None
    LOG.info("%s: calibration %s, ONNX differs from torch by %.1e", out, calibration, difference)
    try:
        report, verdict = _judged(candidate, settings)
        if not verdict.passes and not settings.force:
            raise Refused(f"{out}: not written: {verdict.line}; export.force=true export.reason='...' writes it all the same")
        gate = {"verdict": verdict.line, "differences": verdict.differences, "forced": settings.reason if settings.force else None}
        metadata = dataclasses.replace(metadata, provenance={**metadata.provenance, "release": gate})
        stamp(candidate, metadata)
        _place(candidate, out, report, metadata)
    finally:
        candidate.unlink(missing_ok=True)
    if report is not None:
        register_champion(settings.tracking, report, out)
    return verdict.line


def _metadata(trained: dict[str, Any], version: str, calibration: Calibration, lattices: Tensor) -> ModelMetadata:
    rates = torch.bincount(lattices, minlength=4).double()
    base = (rates / rates.sum()).tolist()
    return ModelMetadata(
        name=trained["settings"]["name"],
        version=version,
        preprocess=Preprocess(),
        base_rates=(base[0], base[1], base[2], base[3]),
        provenance={
            "calibration": asdict(calibration),
            "drawn_shares": KINDS,
            "git_revision": trained["git_revision"],
            "data": trained["data"],
            "seed": trained["settings"]["seed"],
            "data_seed": trained["settings"]["data"]["seed"],
            "training_minutes": trained["training_minutes"],
            "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def _judged(candidate: Path, settings: ExportPart) -> tuple[dict[str, Any] | None, Verdict]:
    """The candidate's report on the frozen set and how it compares; no report where it is forced and there is no frozen set."""
    try:
        frames = load_frozen(Path(settings.frozen))
        network, metadata = predict(candidate, frames)
        released = previous(Path(settings.released), frames) if Path(settings.released).is_file() else None
        report = report_of(metadata, sha256_of(candidate), frames, network, released, {})
        return report, compare(report, released)
    except ConfigError as error:
        if not settings.force:
            raise Refused(f"{settings.out}: not written: {error}") from None
        return None, Verdict(passes=False, line=f"not compared: {error}", differences={})


def stamp(path: Path, metadata: ModelMetadata) -> None:
    """Replaces the metadata inside an ONNX file."""
    model = onnx.load(str(path))
    [entry] = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
    entry.value = metadata.to_json()
    onnx.save(model, str(path))


def _place(candidate: Path, out: Path, report: dict[str, Any] | None, metadata: ModelMetadata) -> None:
    """The file and its report; an older model's report does not stay beside it."""
    beside = out.with_name(REPORT_NAME)
    if report is None:
        beside.unlink(missing_ok=True)
    else:
        report["model"].update(sha256=sha256_of(candidate), provenance=metadata.provenance)
        beside.write_text(as_json(report))
    candidate.replace(out)
