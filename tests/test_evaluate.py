"""Measures, strata and aims. Truths: scikit-learn, closed forms, a slow loop over thresholds, sets whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("torch")
pytest.importorskip("onnx")
from frozen_set import labels
from sklearn.metrics import average_precision_score, roc_auc_score

from training.dataset import HELD_OUT_DETECTORS
from training.evaluation import reach, strata
from training.evaluation.against import unpaired
from training.evaluation.measures import contrast, percentile_with_interval, precision, reliability, resampled, roc, threshold_at

pytestmark = pytest.mark.torch


def scored(n: int = 400, *, ties: bool = True) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    truth = rng.random(n) < 0.3
    scores = rng.normal(size=n) + 1.2 * truth
    return (np.round(scores, 1) if ties else scores), truth


def test_auroc_is_scikit_learns_with_and_without_ties() -> None:
    for ties in (True, False):
        scores, truth = scored(ties=ties)
        assert roc(scores, truth).auroc()[0] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


def test_a_resampled_auroc_is_that_of_the_frames_drawn() -> None:
    scores, truth = scored()
    weights = resampled(truth, bootstraps=5)
    areas = roc(scores, truth, weights).auroc()
    for row, area in zip(weights, areas, strict=True):
        assert row[truth].sum() == truth.sum()
        assert row[~truth].sum() == (~truth).sum()
        assert area == pytest.approx(roc_auc_score(np.repeat(truth, row), np.repeat(scores, row)), abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.5, 1.0])
def test_recall_is_the_best_that_any_threshold_gives_within_the_false_alarms(share: float) -> None:
    scores, truth = scored()
    allowed = [(scores[truth] >= t).mean() for t in np.append(scores, np.inf) if (scores[~truth] >= t).mean() <= share]
    assert roc(scores, truth).recall(share)[0] == pytest.approx(max(allowed))
    threshold = threshold_at(scores, truth, share)
    assert (scores[~truth] > threshold).mean() <= share


def test_average_precision_follows_from_the_curve() -> None:
    scores, truth = scored()
    recall, found = precision(scores, truth)
    assert (np.diff(recall, prepend=0.0) * found).sum() == pytest.approx(average_precision_score(truth, scores))


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """AUROC of two unit normals a distance of sqrt(2) z apart is the normal's distribution function at z; here 0.8413 at z = 1."""
    rng, covered = np.random.default_rng(8), 0
    for _ in range(60):
        truth = np.arange(240) < 80
        _, low, high = contrast({"one": rng.normal(size=240) + np.sqrt(2.0) * truth}, truth)["one"]["auroc"]
        covered += low <= 0.8413 <= high
    assert 52 <= covered <= 60  # 57 are expected; fewer than 52 has a chance of 1 %


def test_differences_are_paired() -> None:
    """A scorer that differs from another by a little noise: their difference is known far better than either."""
    scores, truth = scored(1500, ties=False)
    rows = contrast({"one": scores, "other": scores + 0.05 * np.random.default_rng(1).normal(size=1500)}, truth)
    assert "first_minus_this" not in rows["one"]
    value, low, high = rows["other"]["first_minus_this"]
    assert value == pytest.approx(rows["one"]["auroc"][0] - rows["other"]["auroc"][0], abs=2e-4)
    assert high - low < 0.2 * (rows["one"]["auroc"][2] - rows["one"]["auroc"][1])
    apart = unpaired(rows["one"]["auroc"], rows["other"]["auroc"])
    assert apart[0] == pytest.approx(value, abs=2e-4)
    assert apart[2] - apart[1] > 5 * (high - low)


def test_too_few_frames_give_numbers_of_frames_alone() -> None:
    truth = np.arange(60) < 19
    assert contrast({"one": np.arange(60.0)}, truth) == {"one": {"n_positive": 19, "n_negative": 41}}
    few = contrast({"one": np.arange(120.0)}, np.arange(120) < 60)["one"]
    assert "recall_at_5pc" in few
    assert "recall_at_1pc" not in few  # one per cent of 60 frames is none


def test_calibration_error_is_its_closed_form() -> None:
    """Stated 0.3 of which 0.5 are true, stated 0.9 of which all are: 0.2 and 0.1 off, weighted by 100 and 300 frames."""
    probability = np.repeat([0.3, 0.9], [100, 300])
    truth = np.concatenate((np.arange(100) < 50, np.ones(300, dtype=bool)))
    found = reliability(probability, truth)
    assert found.ece[0] == pytest.approx(0.25 * 0.2 + 0.75 * 0.1)
    assert found.ece[1] < found.ece[0] < found.ece[2]
    assert found.true.tolist() == [0.5, 1.0]
    assert found.stated == pytest.approx([0.3, 0.9])
    assert found.frames.tolist() == [100, 300]
    assert reliability(np.ones(30), np.ones(30, dtype=bool)).ece == [0.0, 0.0, 0.0]  # the last bin is closed


def test_an_interval_of_a_median_holds_it() -> None:
    value, low, high = percentile_with_interval(np.random.default_rng(2).normal(size=900), 50)
    assert low < value < high
    assert high - low == pytest.approx(2 * 1.96 * 1.2533 / 30, rel=0.35)  # standard error of a normal's median


def test_strata_hold_the_frames_they_name() -> None:
    truth = labels(400)
    found = {stratum.name: stratum for stratum in strata.multi_lattice(truth)}
    several, one = truth["n_lattices"] >= 2, truth["n_lattices"] == 1
    assert np.array_equal(found["all"].positive, several)
    for stratum in found.values():
        assert not (stratum.positive & ~several).any()
        assert not (stratum.negative & ~one).any()
    bins = [found[name].positive for name in found if name.startswith("separation:") and name != "separation: 0.6-2 deg"]
    assert np.array_equal(np.sum(bins, axis=0), truth["n_lattices"] == 2)  # each pair in one bin
    ratios = [stratum.positive for name, stratum in found.items() if name.startswith("intensity ratio:")]
    assert np.array_equal(np.sum(ratios, axis=0), several)
    reached = truth[found[strata.REACH_MULTI].positive]
    assert reached["intensity_ratio"].min() >= 0.1
    assert reached["separation_deg"].min() >= 0.6
    small = truth[found[strata.REACH_SPLIT].positive]
    assert len(small) > 0
    assert ((small["separation_deg"] >= 0.6) & (small["separation_deg"] < 2.0) & (small["n_lattices"] == 2)).all()
    assert set(truth["detector"][found["held-out detectors"].positive]) <= set(HELD_OUT_DETECTORS)
    still = found["exposure: still"]
    assert (truth["rotation_deg"][still.positive | still.negative] == 0).all()


def test_weak_frames_and_kinds_are_strata_of_non_diffraction() -> None:
    truth = labels(400)
    found = {stratum.name: stratum for stratum in strata.non_diffraction(truth)}
    weak = truth[found[strata.REACH_WEAK].negative]
    assert len(weak) > 0
    assert weak["visible_spots"].min() >= 8
    assert weak["visible_spots"].max() < 25
    assert (truth["kind"][found["kind: ice"].positive] == 1).all()
    assert np.array_equal(found["kind: ice"].negative, truth["n_lattices"] > 0)


def with_field(truth: np.ndarray[Any, Any], name: str, values: Any) -> np.ndarray[Any, Any]:
    kept = [entry for entry in truth.dtype.descr if entry[0] != name]
    wider = np.zeros(len(truth), dtype=[*kept, (name, "U16")])
    for field, *_ in kept:
        wider[field] = truth[field]
    wider[name] = values
    return wider


def test_every_kind_of_sample_is_a_stratum_and_the_wanted_ones_that_are_absent_are_named() -> None:
    truth = labels(400)
    truth = with_field(truth, "sample", np.where(np.arange(400) % 8 < 4, "small_molecule", "protein"))
    found = {stratum.name: stratum for stratum in strata.multi_lattice(truth)}
    small = truth["sample"] == "small_molecule"
    assert np.array_equal(found["sample: small_molecule"].positive, small & (truth["n_lattices"] >= 2))
    assert np.array_equal(found["sample: small_molecule"].negative, small & (truth["n_lattices"] == 1))
    assert strata.absent(truth) == ["translational pseudo-symmetry", "harmonics", "long cells"]


def test_a_sample_that_only_one_side_has_stands_against_all_of_the_other() -> None:
    truth = labels(400)
    one = truth["n_lattices"] == 1
    truth = with_field(truth, "sample", np.where(one, "harmonics", "protein"))
    found = {stratum.name: stratum for stratum in strata.multi_lattice(truth)}
    stratum = found["sample: harmonics (negatives; all positives)"]
    assert np.array_equal(stratum.negative, one)
    assert np.array_equal(stratum.positive, truth["n_lattices"] >= 2)


def measured(**changes: Any) -> dict[str, Any]:
    good = {"auroc": [0.999, 0.9985, 0.9999], "recall_at_1pc": [0.99, 0.985, 0.995]}
    names = ("multi_lattice", "small_split", "non_diffraction", "weak", "ice_rings")
    error = {"frames": 900, "median": [0.05, 0.04, 0.06], "p90": [0.2, 0.1, 0.3]}
    return {**dict.fromkeys(names, good), "resolution": error, "ece": {"ice_rings": [0.01, 0.01, 0.02]}, **changes}


def test_aims_are_met_missed_or_within_the_interval() -> None:
    assert {row["met"] for row in reach.judged(measured())} == {"yes"}
    rows = {
        row["what"]: row["met"]
        for row in reach.judged(
            measured(
                multi_lattice={"auroc": [0.96, 0.94, 0.98], "recall_at_1pc": [0.70, 0.65, 0.76]},
                weak={"n_positive": 3, "n_negative": 90},
                resolution=None,
                ece={"multi_lattice": [0.03, 0.02, 0.04], "kind salt": [0.031, 0.03, 0.04]},
            )
        )
    }
    assert rows["several lattices, ratio >= 0.1, split >= 0.6 deg: AUROC"] == "unsure"
    assert rows["several lattices, the same frames: recall at 1 % false alarms"] == "no"
    assert rows["no diffraction, the same frames: recall at 1 % false alarms"] == "yes"
    assert rows["of these, against weak frames (8-25 visible spots): AUROC"] == "too few"
    assert rows["resolution limit: median relative error"] == "too few"
    assert (rows["ECE of multi_lattice"], rows["ECE of kind salt"]) == ("unsure", "no")
