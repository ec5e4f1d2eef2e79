"""Fits the boosted trees that stand beside the network in the released model (`models.trees`), on the spots' statistics alone."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from models.trees import Forest, Trees, forest_of
from training.dataset import BLIND_SHARE, SPOILT_SHARE, Arrays
from training.settings import TreesSettings
from triage.core import NON_DIFFRACTION_KINDS

LOG = logging.getLogger(__name__)
HEADS = {"lattices": 4, "kind": len(NON_DIFFRACTION_KINDS), "ice": 1, "none": 1}
"""What trees are fitted to, and the number of their logits; `none`: whether there is no lattice, and nothing else."""
_OF_NONE = {"learning_rate": 0.08, "max_leaf_nodes": 31, "max_depth": None, "l2_regularization": 0.0}
"""In place of the settings: scikit-learn's own, slower by a little, and better at this (docs/decisions/0026)."""
_MOST_BINS = 255
"""As many as scikit-learn's trees can tell apart."""

Labelled = tuple[npt.NDArray[np.float32], npt.NDArray[Any]]
"""Features (n, F) and records (n,) of LABEL_TYPE, what was not judged below zero."""


def fit_trees(arrays: Arrays, trees: TreesSettings, seed: int, labelled: Labelled | None = None, share: float = 0.0) -> dict[str, Any]:
    """A forest for each of HEADS, as tensors and numbers that `torch.save` keeps.

    Frames come as they are, with false spots among their own, and without geometry; labelled ones weigh `share` of all. A head whose
    classes are not all there has no forest.
    """
    features, labels, weights = _in_all_ways(arrays)
    if labelled is not None and len(labelled[1]):
        each = share / (1.0 - share) * weights.sum() / len(labelled[1])
        features, labels = np.concatenate([features, labelled[0]]), np.concatenate([labels, labelled[1]])
        weights = np.concatenate([weights, np.full(len(labelled[1]), each)])
    bins = Bins.of(features)
    codes = bins.codes(features)
    kinds, ice = labels["kind"].astype(int), labels["ice_rings"].astype(int)
    number = labels["n_lattices"].astype(int)
    truths = {"lattices": np.minimum(number, 3), "kind": kinds, "ice": ice, "none": np.where(number < 0, -1, number == 0)}
    fitted: dict[str, Any] = {}
    for head, outputs in HEADS.items():
        chosen = truths[head] >= 0
        if len(np.unique(truths[head][chosen])) < max(outputs, 2):
            LOG.warning("no trees for %s: the frames lack some of its classes", head)
            continue
        shape = {
            "learning_rate": trees.learning_rate,
            "max_leaf_nodes": trees.leaves,
            "max_depth": trees.depth,
            "l2_regularization": trees.l2,
            **(_OF_NONE if head == "none" else {}),
        }
        model = HistGradientBoostingClassifier(max_iter=trees.rounds, early_stopping=False, random_state=seed, **shape)
        model.fit(codes[chosen], truths[head][chosen], sample_weight=weights[chosen])
        LOG.info("trees for %s are grown", head)
        fitted[head] = packed(bins.in_units(_forest(model)))
    return fitted


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of equally many frames, by which trees are grown: once for all heads.

    scikit-learn makes its own for each fit, where frames have weights in a loop over quantiles that takes longer than the growing. Given
    the numbers of these bins it finds as few values as it can tell apart, and makes none.
    """

    edges: tuple[npt.NDArray[np.float32], ...]
    """Of each feature the upper edges, ascending, of all bins but the last; a value on an edge is below it."""

    @classmethod
    def of(cls, features: npt.NDArray[np.float32]) -> Bins:
        """Bins of features (n, F), at most `_MOST_BINS` each; of few values, one each with edges half way between."""
        return cls(tuple(_edges(column) for column in features.T))

    def codes(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The numbers (n, F) of the bins that features (n, F) fall into."""
        pairs = zip(self.edges, features.T, strict=True)
        return np.column_stack([np.searchsorted(edges, column, side="left") for edges, column in pairs]).astype(np.float32)

    def in_units(self, forest: Forest) -> Forest:
        """A forest grown on the numbers of bins as one that takes the features themselves."""
        threshold = forest.threshold.copy()
        for node in np.flatnonzero(np.isfinite(threshold)):
            threshold[node] = self.edges[forest.feature[node]][int(threshold[node])]
        return replace(forest, threshold=threshold)


def _edges(column: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    values = np.unique(column).astype(np.float64)
    if len(values) <= _MOST_BINS:
        exact = 0.5 * (values[:-1] + values[1:])
    else:
        exact = np.unique(np.quantile(column.astype(np.float64), np.arange(1, _MOST_BINS) / _MOST_BINS, method="averaged_inverted_cdf"))
    edges = exact.astype(np.float32)
    return np.where(edges > exact, np.nextafter(edges, np.float32(-np.inf)), edges)  # no value comes to lie on the edge below it


def joined(before: dict[str, Any], new: dict[str, Any], share: float) -> dict[str, Any]:
    """Of each head the weighted mean of two forests' logits, as one forest; `share`, 0 to 1, is that of the one `before`.

    A head that only one of the two has is as it is there.
    """
    both = {head: _mean(_unpacked(before[head]), _unpacked(new[head]), share) for head in new if head in before}
    return {**before, **new, **{head: packed(forest) for head, forest in both.items()}}


def _mean(one: Forest, other: Forest, share: float) -> Forest:
    nodes = len(one.feature)
    return Forest(
        feature=np.concatenate([one.feature, other.feature]),
        threshold=np.concatenate([one.threshold, other.threshold]),
        left=np.concatenate([one.left, other.left + nodes]),
        right=np.concatenate([one.right, other.right + nodes]),
        value=np.concatenate([share * one.value, (1.0 - share) * other.value]).astype(np.float32),
        roots=np.concatenate([one.roots, other.roots + nodes]),
        baseline=(share * one.baseline + (1.0 - share) * other.baseline).astype(np.float32),
        depth=max(one.depth, other.depth),
    )


def _forest(model: HistGradientBoostingClassifier) -> Forest:
    """scikit-learn has no public way to its trees; `tests/test_trees.py` holds what is read here against its own predictions."""
    rounds = model._predictors  # noqa: SLF001
    return forest_of([[tree.nodes for tree in trees] for trees in rounds], model._baseline_prediction)  # noqa: SLF001


def _in_all_ways(arrays: Arrays) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Features, records and weights of all frames: as they are, with false spots, without geometry, as often as the network sees them."""
    ways = [(SPOILT_SHARE, arrays.spoilt), (BLIND_SHARE, arrays.blind)]
    there = [(share, features) for share, features in ways if features is not None]
    there = [(1.0 - sum(share for share, _ in there), arrays.features), *there]
    n = len(arrays.labels)
    return (
        np.concatenate([features for _, features in there]),
        np.concatenate([arrays.labels] * len(there)),
        np.concatenate([np.full(n, share) for share, _ in there]),
    )


def packed(forest: Forest) -> dict[str, Any]:
    """A forest as tensors and numbers."""
    return {name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in asdict(forest).items()}


def trees_of(saved: dict[str, Any]) -> dict[str, Trees]:
    """The modules of what `fit_trees` returned."""
    return {head: Trees(_unpacked(forest)) for head, forest in saved.items()}


def _unpacked(forest: dict[str, Any]) -> Forest:
    unpacked: dict[str, Any] = {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in forest.items()}
    return Forest(**unpacked)
