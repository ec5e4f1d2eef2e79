"""What a released network is worth on frames of structures and detectors it never saw: by stratum, with intervals, beside baselines."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from training.dataset import HELD_OUT_DETECTORS, Arrays, load
from triage.classify import METADATA_KEY, ModelMetadata
from triage.core import NON_DIFFRACTION_KINDS
from triage.features import FEATURE_NAMES

LOG = logging.getLogger(__name__)
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_BOOTSTRAPS = 200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """Probabilities of a whole split."""

    lattices: Floats
    """(n, 4)"""
    kind: Floats
    """(n, 4)"""
    ice: Floats
    inverse_d: Floats

    @property
    def multi_lattice(self) -> Floats:
        """Probability of two or more."""
        return self.lattices[:, 2] + self.lattices[:, 3]


def predict(model: Path, arrays: Arrays) -> tuple[Predictions, ModelMetadata]:
    """What an ONNX file says of every frame."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    metadata = ModelMetadata.from_json(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    parts, start = [], 0
    for images, crops in zip(arrays.images, arrays.crops, strict=True):
        features = arrays.features[start : start + len(images)]
        start += len(images)
        for k in range(0, len(images), 50):
            feed = {"image": np.array(images[k : k + 50]), "crops": np.array(crops[k : k + 50]), "features": features[k : k + 50]}
            parts.append(session.run(None, feed))
    lattices, kind, ice, inverse_d = (np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True))
    return Predictions(lattices=lattices, kind=kind, ice=ice, inverse_d=inverse_d), metadata


def recall_at(positive: Floats, negative: Floats, false_alarms: float) -> float:
    """Share of positives above the threshold that a share `false_alarms` of the negatives exceeds."""
    return float((positive > np.quantile(negative, 1.0 - false_alarms)).mean())


def contrast(scores: Floats, truth: Bools) -> dict[str, Any]:
    """AUROC and recall at 1 % and 5 % false alarms, each with a 95 % bootstrap interval over frames; n of each side."""
    positive, negative = scores[truth], scores[~truth]
    result: dict[str, Any] = {"n_positive": len(positive), "n_negative": len(negative)}
    if min(len(positive), len(negative)) < 20:
        return result
    rng = np.random.default_rng(0)
    measures: dict[str, Callable[[Floats, Floats], float]] = {
        "auroc": lambda p, q: float(roc_auc_score(np.r_[np.ones(len(p)), np.zeros(len(q))], np.r_[p, q])),
        "recall_at_1pc": lambda p, q: recall_at(p, q, 0.01),
        "recall_at_5pc": lambda p, q: recall_at(p, q, 0.05),
    }
    for name, measure in measures.items():
        drawn = [measure(rng.choice(positive, len(positive)), rng.choice(negative, len(negative))) for _ in range(_BOOTSTRAPS)]
        low, high = np.percentile(drawn, (2.5, 97.5))
        result[name] = [round(measure(positive, negative), 4), round(float(low), 4), round(float(high), 4)]
    return result


def expected_calibration_error(probability: Floats, truth: Bools, bins: int = 15) -> float:
    """ECE over equal-width bins (Naeini et al., AAAI 2015)."""
    index = np.minimum((probability * bins).astype(int), bins - 1)
    total = 0.0
    for k in range(bins):
        inside = index == k
        if inside.any():
            total += inside.mean() * abs(float(probability[inside].mean()) - float(truth[inside].mean()))
    return float(total)


def multi_lattice_strata(labels: npt.NDArray[Any]) -> dict[str, Bools]:
    """Which multi-lattice frames fall in which stratum; the single-lattice frames of the same detectors are the other side."""
    multi = labels["n_lattices"] >= 2
    separation, ratio = labels["separation_deg"], labels["intensity_ratio"]
    split, fair = labels["meant"] == "split", ratio >= 0.1
    strata = {"all": multi, "ratio >= 0.1, separation >= 0.6 deg": multi & fair & (separation >= 0.6)}
    for low, high in ((0.1, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, 8.0)):
        strata[f"split {low}-{high} deg"] = multi & split & (separation >= low) & (separation < high)
    strata["random orientation"] = multi & (labels["meant"] == "random_pair")
    for low, high in ((0.03, 0.1), (0.1, 0.3), (0.3, 1.01)):
        strata[f"intensity ratio {low}-{min(high, 1.0)}"] = multi & (ratio >= low) & (ratio < high)
    for low, high in ((8, 25), (25, 80), (80, 10_000)):
        strata[f"second lattice with {low}-{high} separable spots"] = (
            multi & (labels["second_separable"] >= low) & (labels["second_separable"] < high)
        )
    return strata


def evaluate(model: Path, folder: Path) -> dict[str, Any]:
    """The report of one model on the test split of `folder`; baselines are fitted on its training split."""
    arrays = load(folder, "test")
    labels = arrays.labels
    predictions, metadata = predict(model, arrays)
    truth_multi, truth_none = labels["n_lattices"] >= 2, labels["n_lattices"] == 0
    single, weak = labels["n_lattices"] == 1, (labels["visible_spots"] >= 8) & (labels["visible_spots"] < 25)
    baselines = _baselines(load(folder, "train"), arrays)
    report: dict[str, Any] = {
        "model": {"name": metadata.name, "version": metadata.version, "provenance": metadata.provenance},
        "frames": len(labels),
        "held_out_detectors": list(HELD_OUT_DETECTORS),
        "multi_lattice": {},
        "non_diffraction": {},
    }
    held_out = np.isin(labels["detector"], HELD_OUT_DETECTORS)
    for name, chosen in multi_lattice_strata(labels).items():
        rows = {"network": predictions.multi_lattice, **{f"baseline {key}": value["multi"] for key, value in baselines.items()}}
        report["multi_lattice"][name] = _against(rows, chosen, single)
    for name, chosen in (("held-out detectors", held_out), ("seen detectors", ~held_out)):
        report["multi_lattice"][name] = _against({"network": predictions.multi_lattice}, truth_multi & chosen, single & chosen)
    rows = {"network": predictions.lattices[:, 0], **{f"baseline {key}": value["none"] for key, value in baselines.items()}}
    report["non_diffraction"]["against frames with >= 8 visible spots"] = _against(rows, truth_none, ~truth_none)
    report["non_diffraction"]["against weak frames (8-25 visible spots)"] = _against(rows, truth_none, ~truth_none & weak)
    for k, name in enumerate(NON_DIFFRACTION_KINDS):
        report["non_diffraction"][f"{name} against frames with >= 8 visible spots"] = _against(rows, labels["kind"] == k, ~truth_none)
    report["ice_rings"] = contrast(predictions.ice, labels["ice_rings"] == 1)
    report["kind_confusion"] = _confusion(predictions, labels)
    known = np.isfinite(labels["d_min_A"])
    error = np.abs(1.0 / predictions.inverse_d[known] / labels["d_min_A"][known] - 1.0)
    report["resolution_relative_error"] = {"median": round(float(np.median(error)), 4), "p90": round(float(np.percentile(error, 90)), 4)}
    report["ece"] = {
        "multi_lattice": round(expected_calibration_error(predictions.multi_lattice, truth_multi), 4),
        "non_diffraction": round(expected_calibration_error(predictions.lattices[:, 0], truth_none), 4),
        "ice_rings": round(expected_calibration_error(predictions.ice, labels["ice_rings"] == 1), 4),
    }
    return report


def _against(rows: dict[str, Floats], positive: Bools, negative: Bools) -> dict[str, Any]:
    chosen = positive | negative
    return {name: contrast(scores[chosen], positive[chosen]) for name, scores in rows.items()}


def _baselines(train: Arrays, test: Arrays) -> dict[str, dict[str, Floats]]:
    """Scores of what people use today: a spot count, and gradient boosting on the spots' statistics."""
    count = test.features[:, FEATURE_NAMES.index("log_count_off_ice")].astype(np.float64)
    scores = {"spot count": {"multi": count, "none": -count}}
    boosted: dict[str, Floats] = {}
    for name, truth in (("multi", train.labels["n_lattices"] >= 2), ("none", train.labels["n_lattices"] == 0)):
        model = HistGradientBoostingClassifier(max_iter=200, learning_rate=0.08, random_state=0).fit(train.features, truth)
        boosted[name] = model.predict_proba(test.features)[:, 1]
    return {**scores, "gradient boosting": boosted}


def _confusion(predictions: Predictions, labels: npt.NDArray[Any]) -> dict[str, dict[str, int]]:
    """True kind of the frames without a lattice, against the likeliest kind."""
    said = predictions.kind.argmax(axis=1)
    return {
        name: {other: int(((labels["kind"] == k) & (said == j)).sum()) for j, other in enumerate(NON_DIFFRACTION_KINDS)}
        for k, name in enumerate(NON_DIFFRACTION_KINDS)
    }


def evaluate_models(models: list[Path], folder: Path, out: Path) -> list[dict[str, Any]]:
    """One report a model, written to `out` under the model's name and version."""
    reports = []
    for model in models:
        report = evaluate(model, folder)
        write(report, out / f"{report['model']['name']}-{report['model']['version']}")
        reports.append(report)
    return reports


def as_markdown(report: dict[str, Any]) -> str:
    """The report's tables for the model card."""
    lines = ["| stratum | scores | n + / - | AUROC | recall at 1 % | recall at 5 % |", "|---|---|---|---|---|---|"]
    for part in ("multi_lattice", "non_diffraction"):
        for stratum, rows in report[part].items():
            lines += [_row(f"{part}: {stratum}", scorer, row) for scorer, row in rows.items()]
    lines.append(_row("ice_rings", "network", report["ice_rings"]))
    resolution, ece = report["resolution_relative_error"], report["ece"]
    lines += ["", f"Resolution limit: median relative error {resolution['median']:.1%}, 90th percentile {resolution['p90']:.1%}."]
    lines += ["ECE: " + ", ".join(f"{name} {value:.3f}" for name, value in ece.items()) + "."]
    lines += ["", "| true kind | " + " | ".join(NON_DIFFRACTION_KINDS) + " |", "|---|" + "---|" * len(NON_DIFFRACTION_KINDS)]
    for name, row in report["kind_confusion"].items():
        lines.append(f"| {name} | " + " | ".join(str(row[k]) for k in NON_DIFFRACTION_KINDS) + " |")
    return "\n".join(lines) + "\n"


def _row(stratum: str, scorer: str, row: dict[str, Any]) -> str:
    numbers = [
        f"{value[0]:.3f} ({value[1]:.3f}-{value[2]:.3f})" if (value := row.get(key)) else "too few"
        for key in ("auroc", "recall_at_1pc", "recall_at_5pc")
    ]
    return f"| {stratum} | {scorer} | {row['n_positive']} / {row['n_negative']} | " + " | ".join(numbers) + " |"


def write(report: dict[str, Any], out: Path) -> None:
    """`report.json` and `report.md` in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1))
    (out / "report.md").write_text(as_markdown(report))
