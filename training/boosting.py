"""Fits the boosted trees that stand beside the network in the released model (`models.trees`), on the spots' statistics alone."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from models.trees import Forest, Trees, forest_of
from training.dataset import SPOILT_SHARE, Arrays
from training.settings import TreesSettings
from triage.core import NON_DIFFRACTION_KINDS

LOG = logging.getLogger(__name__)
HEADS = {"lattices": 4, "kind": len(NON_DIFFRACTION_KINDS), "ice": 1}
"""What trees are fitted to, and the number of their logits."""


def fit_trees(arrays: Arrays, boosting: TreesSettings, seed: int) -> dict[str, Any]:
    """A forest for each of HEADS, as tensors and numbers that `torch.save` keeps.

    Frames come twice, as they are and with false spots among their own, as the network sees them. A head whose classes are not all
    there has no forest.
    """
    labels = arrays.labels
    kinds = labels["kind"].astype(int)
    truths = {"lattices": np.minimum(labels["n_lattices"].astype(int), 3), "kind": kinds, "ice": labels["ice_rings"].astype(int)}
    judged = {"lattices": truths["lattices"] >= 0, "kind": kinds >= 0, "ice": truths["ice"] >= 0}
    fitted: dict[str, Any] = {}
    for head, outputs in HEADS.items():
        chosen = judged[head]
        classes = max(outputs, 2)
        if len(np.unique(truths[head][chosen])) < classes:
            LOG.warning("no trees for %s: the frames lack some of its classes", head)
            continue
        features, truth, weight = _with_spoilt(arrays, chosen, truths[head])
        model = HistGradientBoostingClassifier(
            max_iter=boosting.rounds,
            learning_rate=boosting.learning_rate,
            max_leaf_nodes=boosting.leaves,
            max_depth=boosting.depth,
            l2_regularization=boosting.l2,
            early_stopping=False,
            random_state=seed,
        ).fit(features, truth, sample_weight=weight)
        LOG.info("trees for %s on %d frames", head, int(chosen.sum()))
        fitted[head] = packed(_forest(model))
    return fitted


def _forest(model: HistGradientBoostingClassifier) -> Forest:
    """scikit-learn has no public way to its trees; `tests/test_trees.py` holds what is read here against its own predictions."""
    rounds = model._predictors  # noqa: SLF001
    return forest_of([[tree.nodes for tree in trees] for trees in rounds], model._baseline_prediction)  # noqa: SLF001


def _with_spoilt(arrays: Arrays, chosen: npt.NDArray[np.bool_], truth: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], ...]:
    """Features (n, F), truth (n,) and weights (n,) of the chosen frames, and of the same with false spots."""
    features, n = arrays.features[chosen], int(chosen.sum())
    if arrays.spoilt is None:
        return features, truth[chosen], np.ones(n)
    weights = np.concatenate([np.full(n, 1.0 - SPOILT_SHARE), np.full(n, SPOILT_SHARE)])
    return np.concatenate([features, arrays.spoilt[chosen]]), np.tile(truth[chosen], 2), weights


def packed(forest: Forest) -> dict[str, Any]:
    """A forest as tensors and numbers."""
    return {name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in asdict(forest).items()}


def trees_of(saved: dict[str, Any]) -> dict[str, Trees]:
    """The modules of what `fit_trees` returned."""
    unpacked = {
        head: {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in forest.items()}
        for head, forest in saved.items()
    }
    return {head: Trees(Forest(**forest)) for head, forest in unpacked.items()}
