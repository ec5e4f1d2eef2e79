"""Does the released network's word on a frame say more of damage than the classical evidence does? By cross-validation over runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.decay.agree import NETWORK, Both
from triage.decay.evidence import LOSS_MEANT
from triage.decay.fusion import UNSEEN

Floats = npt.NDArray[np.float64]
_FOLDS = 10
_DRAWS = 400


def gain(runs: Sequence[Both]) -> str:
    """AUROC and log loss of `the outer shell has lost more than LOSS_MEANT`, by frame, as Markdown; each run weighs the same.

    Of all frames that the tracker judges, and of those for which it has evidence: in the first ones it says UNSEEN.
    """
    return "\n\n".join([_table(runs), _table([_with_evidence(run) for run in runs])])


def _with_evidence(run: Both) -> Both:
    seen = run.chance != UNSEEN
    return replace(run, frame=run.frame[seen], chance=run.chance[seen], loss=run.loss[seen], network=run.network[seen])


def _table(runs: Sequence[Both]) -> str:
    chosen = [run for run in runs if len(run.frame)]
    group = np.repeat(np.arange(len(chosen)), [len(run.frame) for run in chosen])
    weight = np.repeat([1.0 / len(run.frame) for run in chosen], [len(run.frame) for run in chosen])
    p = np.clip(np.concatenate([run.chance for run in chosen]), 1e-6, 1.0 - 1e-6)
    classical = np.log(p / (1.0 - p))[:, None]
    network = np.concatenate([run.network for run in chosen])
    lost = np.concatenate([run.loss for run in chosen]) > LOSS_MEANT
    columns = {"tracker": classical, f"tracker, {', '.join(NETWORK)}": np.hstack([classical, network]), "network alone": network}
    found = {name: _held_out(x, lost, weight, group) for name, x in columns.items()}
    base = found["tracker"]
    head = f"| {len(chosen)} runs, {len(lost)} frames, {lost.mean():.0%} damaged | AUROC | log loss | gain over the tracker's |"
    lines = [head, "|---|---|---|---|"]
    for name, q in found.items():
        gained = _interval(_cost(base, lost) - _cost(q, lost), weight, group)
        auroc, cost = roc_auc_score(lost, q, sample_weight=weight), log_loss(lost, q, sample_weight=weight)
        lines.append(f"| {name} | {auroc:.3f} | {cost:.3f} | {gained[0]:+.3f} ({gained[1]:+.3f} to {gained[2]:+.3f}) |")
    return "\n".join(lines)


def _held_out(x: Floats, lost: npt.NDArray[np.bool_], weight: Floats, group: npt.NDArray[np.int64]) -> Floats:
    """Probabilities by a logistic regression that did not learn from the frame's run."""
    found = np.zeros(len(lost))
    for train, test in GroupKFold(_FOLDS).split(x, lost, group):
        model = make_pipeline(StandardScaler(), LogisticRegression())
        model.fit(x[train], lost[train], logisticregression__sample_weight=weight[train])
        found[test] = model.predict_proba(x[test])[:, 1]
    return np.clip(found, 1e-6, 1.0 - 1e-6)


def _cost(q: Floats, lost: npt.NDArray[np.bool_]) -> Floats:
    return -np.log(np.where(lost, q, 1.0 - q))


def _interval(gained: Floats, weight: Floats, group: npt.NDArray[np.int64]) -> tuple[float, float, float]:
    """Mean over runs with 95 % by resampling them."""
    each = np.bincount(group, weight * gained)
    rng = np.random.default_rng(0)
    drawn = [each[rng.integers(0, len(each), len(each))].mean() for _ in range(_DRAWS)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(each.mean()), float(low), float(high)
