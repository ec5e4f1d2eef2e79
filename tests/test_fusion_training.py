"""The fit of the fusion. Truth: weights that made the labels, and a witness that knows nothing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
from training.fusion import Sample, fit
from triage.fusion import FEATURES, WEIGHTS, expit

pytestmark = pytest.mark.torch
TRUE = (-1.0, 0.8, 3.0, 1.0, 0.5, 0.0)


def sample(n: int, *, witness: bool) -> Sample:
    """Frames whose truth is drawn from the logistic of TRUE; without a witness, the classical features say nothing of it."""
    rng = np.random.default_rng(9)
    made = Sample(tried=n)
    for _ in range(n):
        logit_network, unexplained, second = rng.normal(-1.0, 2.0), float(rng.random()), float(rng.random() < 0.3)
        row = (1.0, logit_network, unexplained, second, second * float(rng.random()), float(rng.normal(0.0, 0.7)))
        told = row if witness else (*row[:2], 0.0, 0.0, 0.0, 0.0)
        made.features.append(row)
        made.p_network.append(expit(logit_network))
        made.several.append(bool(rng.random() < expit(float(np.dot(TRUE, told)))))
    return made


def test_the_fit_finds_the_weights_that_made_the_labels() -> None:
    result = fit(sample(6000, witness=True))
    weights = result["weights"]
    assert tuple(weights) == FEATURES
    assert list(weights.values()) == pytest.approx(TRUE, abs=0.35)
    assert result["measured"]["fused"]["log_loss"] < result["measured"]["network"]["log_loss"]
    assert result["measured"]["fused"]["auroc"] > result["measured"]["network"]["auroc"]


def test_a_witness_that_knows_nothing_gains_nothing() -> None:
    measured = fit(sample(3000, witness=False))["measured"]
    assert measured["fused"]["auroc"] == pytest.approx(measured["network"]["auroc"], abs=0.01)
    assert measured["unexplained_alone_auroc"] == pytest.approx(0.5, abs=0.04)


def test_the_weights_in_use_are_fitted_ones_that_cost_nothing() -> None:
    """On simulated frames the network of 0.7.0 leaves them nothing to gain (docs/slow-lane.md); they must not take anything either."""
    found = json.loads(WEIGHTS.read_text())
    assert found["provenance"]["script"] == "training/fusion.py"
    fused, network = found["measured"]["fused"], found["measured"]["network"]
    assert fused["log_loss"] < network["log_loss"] + 0.002
    assert fused["auroc"] > network["auroc"] - 0.002
    assert found["weights"]["unexplained"] > 0
    assert all(math.isfinite(weight) for weight in found["weights"].values())
