"""Fits how indexing's evidence is fused with the network's probability of several lattices, and measures what that gains.

    python -m training.fusion data/cpu_small [--split validation] [--frames 600] [--network models/released/triage.onnx]

Takes simulated frames that the network was not trained on, as `triage train` keeps them: their spots are indexed by the embedded indexer
without a cell, the network is asked again, and a logistic regression of "two or more lattices" on `triage.fusion.FEATURES` is fitted to
the frames that index. Writes triage/fusion.json with the weights and where they come from. Measured by five-fold cross-validation.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from training.dataset import ShardSpec, finished, scene_of, structures
from training.simulate.render import run_of
from triage.core import Run, Spots
from triage.fusion import FEATURES, WEIGHTS, evidence
from triage.indexing import EmbeddedIndexer
from triage.slow_lane.jobs import DIFFRACTS_BELOW, LEAST_SPOTS
from triage.spots import as_spots

LOG = logging.getLogger(__name__)
Floats = npt.NDArray[np.float64]
_FOLDS = 5
_C = 10.0  # weak regularisation: five weights and hundreds of frames


@dataclass(slots=True)
class Sample:
    """Frames worth indexing: what both witnesses said, and the truth."""

    features: list[tuple[float, ...]] = field(default_factory=list)
    """FEATURES of those that were indexed."""
    p_network: list[float] = field(default_factory=list)
    """Of the same."""
    several: list[bool] = field(default_factory=list)
    tried: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Frame:
    """One simulated frame, as `triage train` keeps it."""

    run: Run
    spots: Spots
    several: bool
    inputs: dict[str, npt.NDArray[Any]]


def _frames(spec: ShardSpec) -> Iterator[_Frame]:
    """A shard's frames with at least one lattice."""
    crystals = structures(spec.seed, spec.split)
    arrays = {name: np.load(spec.path.with_suffix(f".{name}.npy"), mmap_mode="r") for name in ("image", "crops", "features", "spots")}
    labels, ends = np.load(spec.path.with_suffix(".labels.npy")), np.load(spec.path.with_suffix(".spot_ends.npy"))
    for k, table in enumerate(np.split(np.asarray(arrays["spots"]), ends[:-1])):
        if labels["n_lattices"][k] < 1:
            continue
        scene = scene_of(spec.seed, spec.split, spec.number * spec.frames + k, crystals)
        run = run_of(scene)
        inputs = {name: np.asarray(arrays[name][k])[None] for name in ("image", "crops", "features")}
        yield _Frame(run=run, spots=as_spots(table, run), several=bool(labels["n_lattices"][k] >= 2), inputs=inputs)


def collect(specs: Sequence[ShardSpec], network: Path, most: int) -> Sample:
    """What both witnesses say of up to `most` frames that are worth indexing."""
    session = ort.InferenceSession(network.read_bytes(), providers=["CPUExecutionProvider"])
    indexer, sample = EmbeddedIndexer(), Sample()
    for frame in (frame for spec in specs for frame in _frames(spec)):
        if sample.tried >= most:
            break
        lattices = np.asarray(session.run(None, frame.inputs)[0][0], dtype=np.float64)
        off_ice = len(frame.spots) - int(frame.spots.on_ice.sum())
        if lattices[0] >= DIFFRACTS_BELOW or off_ice < LEAST_SPOTS:
            continue
        sample.tried += 1
        p = float(lattices[2:].sum() / lattices.sum())
        try:
            indexed = indexer.index(frame.spots, frame.run)
        except RuntimeError as error:  # a fault of the indexer, which in the slow lane costs the frame; it must be seen, and mended
            LOG.warning("a frame of %d spots: %s", len(frame.spots), error)
            continue
        found = evidence(p, indexed, off_ice)
        if found is not None:
            sample.features.append(found)
            sample.p_network.append(p)
            sample.several.append(frame.several)
        if sample.tried % 100 == 0:
            LOG.info("%d frames tried, %d indexed", sample.tried, len(sample.several))
    return sample


def fit(sample: Sample) -> dict[str, Any]:
    """The weights, and what they gain over the network alone on the frames that index, by cross-validation."""
    x, y, p = np.array(sample.features), np.array(sample.several), np.array(sample.p_network)
    regression = LogisticRegression(C=_C, fit_intercept=False, max_iter=1000)  # the first feature is the constant
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=1)
    fused = cross_val_predict(regression, x, y, cv=folds, method="predict_proba")[:, 1]
    weights = regression.fit(x, y).coef_[0]
    return {
        "weights": {name: round(float(weight), 4) for name, weight in zip(FEATURES, weights, strict=True)},
        "measured": {
            "frames_tried": sample.tried,
            "frames_indexed": len(y),
            "frames_of_several_lattices": int(y.sum()),
            "network": _scores(y, p),
            "fused": _scores(y, fused),
            "unexplained_alone_auroc": round(float(roc_auc_score(y, x[:, FEATURES.index("unexplained")])), 4),
        },
    }


def _scores(truth: npt.NDArray[np.bool_], p: Floats) -> dict[str, float]:
    at_one_percent = np.quantile(p[~truth], 0.99) if (~truth).any() else 1.0
    return {
        "auroc": round(float(roc_auc_score(truth, p)), 4),
        "log_loss": round(float(log_loss(truth, p)), 4),
        "recall_at_1_percent_false": round(float((p[truth] > at_one_percent).mean()), 4),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--network", type=Path, default=Path("models/released/triage.onnx"))
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    seed = json.loads((given.data / "recipe.json").read_text())["seed"]
    like = ShardSpec(folder=given.data, seed=seed, split=given.split, number=0)
    specs = [spec for spec in finished(given.data, like) if spec.split == given.split]
    result = fit(collect(specs, given.network, given.frames))
    result["provenance"] = {
        "script": "training/fusion.py",
        "network_sha256": hashlib.sha256(given.network.read_bytes()).hexdigest(),
        "data": {"seed": seed, "split": given.split},
    }
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    LOG.info("%s", json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
