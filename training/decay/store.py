"""Judged runs on disk, so that simulating and reporting are apart, and a simulation that was cut off goes on."""

from __future__ import annotations

import logging
import pickle
from dataclasses import fields
from pathlib import Path

import torch

from training.decay.judge import JudgedRun, judge_run
from training.decay.runs import draw_plan, simulate
from triage.core import TriageError

LOG = logging.getLogger(__name__)
_EVERY = 10


class OldRunsError(TriageError):
    """Runs that were judged before something was kept of them."""


def load(path: Path) -> list[JudgedRun]:
    """Runs of a file written by `judge`. Raises OldRunsError where they lack something."""
    with path.open("rb") as file:
        found: list[JudgedRun] = pickle.load(file)
    missing = [field.name for field in fields(JudgedRun) if found and not hasattr(found[0], field.name)]
    if missing:
        raise OldRunsError(f"{path}: its runs were judged before {', '.join(missing)} was kept; judge them anew, into another file")
    return found


def judge(path: Path, *, seed: int, split: str, number: int, track: bool = True) -> list[JudgedRun]:
    """Simulates and judges runs 0 to `number` - 1 of a split, but for those that are in the file already; without `track`, their trends."""
    torch.set_num_threads(1)
    runs = load(path) if path.exists() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    for index in range(len(runs), number):
        runs.append(judge_run(simulate(draw_plan(seed, split, index)), track=track))
        if (index + 1) % _EVERY == 0 or index + 1 == number:
            LOG.info("%d of %d runs", index + 1, number)
            with path.with_suffix(".part").open("wb") as file:
                pickle.dump(runs, file)
            path.with_suffix(".part").replace(path)
    return runs[:number]
