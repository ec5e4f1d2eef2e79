"""Gradient-boosted trees beside the network, as tensors: what scikit-learn fitted, said by gathers and comparisons alone.

On spots' statistics boosting and a network err differently, and the weighted sum of their logits is better than either
(docs/decisions/0011-trees-beside-the-network.md). All trees go down one level at a time, so torch and ONNX Runtime do the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Boosted trees of C outputs, all nodes of all trees in one table of N rows; a leaf points at itself."""

    feature: npt.NDArray[np.int64]
    """(N,) which feature a node looks at."""
    threshold: npt.NDArray[np.float32]
    """(N,): to the left where the feature is not greater."""
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    value: npt.NDArray[np.float32]
    """(N,): what a leaf adds."""
    roots: npt.NDArray[np.int64]
    """(T, C): where each tree begins; every output has as many trees."""
    baseline: npt.NDArray[np.float32]
    """(C,)"""
    depth: int
    """Steps from a root to the deepest leaf."""


def forest_of(rounds: Sequence[Sequence[npt.NDArray[np.void]]], baseline: npt.ArrayLike) -> Forest:
    """From the node tables of a fitted `HistGradientBoostingClassifier`: of each round (T), one table for each output (C).

    Raises ValueError for splits on categories, which no feature here has.
    """
    tables = [table for trees in rounds for table in trees]
    starts = np.cumsum([0, *(len(table) for table in tables)])
    nodes = np.concatenate(tables)
    if nodes["is_categorical"].any():
        raise ValueError("trees that split on categories are not supported")
    leaf, own = nodes["is_leaf"].astype(bool), np.arange(len(nodes))
    offset = np.repeat(starts[:-1], np.diff(starts))
    threshold = nodes["num_threshold"].astype(np.float32)
    too_high = threshold > nodes["num_threshold"]  # a float32 feature is compared as it is in double precision
    threshold = np.where(too_high, np.nextafter(threshold, np.float32(-np.inf)), threshold)
    return Forest(
        feature=np.where(leaf, 0, nodes["feature_idx"].astype(np.int64)),
        threshold=np.where(leaf, np.float32(np.inf), threshold).astype(np.float32),
        left=np.where(leaf, own, nodes["left"] + offset).astype(np.int64),
        right=np.where(leaf, own, nodes["right"] + offset).astype(np.int64),
        value=np.where(leaf, nodes["value"], 0.0).astype(np.float32),
        roots=starts[:-1].reshape(len(rounds), len(rounds[0])).astype(np.int64),
        baseline=np.asarray(baseline, dtype=np.float32).reshape(-1),
        depth=int(nodes["depth"].max()),
    )


class Trees(nn.Module):
    """Features (B, F) to the sum of the leaves they fall into (B, C)."""

    feature: Tensor
    threshold: Tensor
    below: Tensor
    value: Tensor
    roots: Tensor
    baseline: Tensor

    def __init__(self, forest: Forest) -> None:
        super().__init__()
        self.depth, self.outputs = forest.depth, forest.roots.shape[1]
        for name, array in (
            ("feature", forest.feature),
            ("threshold", forest.threshold),
            ("below", np.concatenate([forest.left, forest.right])),
            ("value", forest.value),
            ("roots", forest.roots.reshape(-1)),
            ("baseline", forest.baseline),
        ):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)))

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) float32 -> (B, C) logits."""
        frames, nodes = features.shape[0], self.feature.shape[0]
        at = self.roots.unsqueeze(0).expand(frames, -1)  # (B, T C)
        for _ in range(self.depth):
            seen = features.gather(1, self.feature[at])
            at = self.below[at + nodes * (seen > self.threshold[at]).long()]
        leaves = self.value[at].reshape(frames, -1, self.outputs)
        return leaves.sum(dim=1) + self.baseline
