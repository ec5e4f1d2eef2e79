"""What people use today: a spot count, and gradient boosting on the spots' statistics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from training.dataset import load
from training.evaluation.frozen import FrozenSet
from training.evaluation.measures import Floats
from triage.features import FEATURE_NAMES
from triage.refusal import ConfigError

SPOT_COUNT, ON_ICE, BOOSTING = "spot count", "share of spots on ice", "gradient boosting"
_ITERATIONS, _LEARNING_RATE = 200, 0.08


def baselines(train: Path, frames: FrozenSet) -> dict[str, dict[str, Floats]]:
    """Scores (n,) of each judgement's baselines; gradient boosting learns on the training split of `train`.

    Raises ConfigError when that folder has no such split, or was prepared in another way than the frames.
    """
    try:
        arrays, recipe = load(train, "train"), json.loads((train / "recipe.json").read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"evaluate.train_data: {error}") from None
    if recipe["preprocess"] != frames.recipe["preprocess"]:
        raise ConfigError(f"evaluate.train_data: {train} was prepared in another way than {frames.folder}; set it to null")
    labels, test = arrays.labels, frames.arrays.features
    count = test[:, FEATURE_NAMES.index("log_count_off_ice")].astype(np.float64)
    ice = test[:, FEATURE_NAMES.index("fraction_on_ice")].astype(np.float64)
    counted = {"multi_lattice": (SPOT_COUNT, count), "non_diffraction": (SPOT_COUNT, -count), "ice_rings": (ON_ICE, ice)}
    truths = {
        "multi_lattice": labels["n_lattices"] >= 2,
        "non_diffraction": labels["n_lattices"] == 0,
        "ice_rings": labels["ice_rings"] == 1,
    }
    scores = {}
    for task, truth in truths.items():
        model = HistGradientBoostingClassifier(max_iter=_ITERATIONS, learning_rate=_LEARNING_RATE, random_state=0)
        boosted = model.fit(arrays.features, truth).predict_proba(test)[:, 1]
        scores[task] = dict((counted[task], (BOOSTING, boosted)))
    return scores
