"""`triage evaluate evaluate.what=runs`: what decay is worth on test runs, beside the trends that people watch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from training.decay.judge import JudgedRun, judged_by
from training.decay.pictures import examples, losses
from training.decay.report import as_markdown, report_of
from training.decay.serial import SerialResult, as_sentence, judge_serial
from training.decay.store import judge
from training.settings import RunsPart
from triage.decay.fusion import released
from triage.flags.settings import DECAY


def evaluate_runs(settings: RunsPart, out: Path) -> str:
    """Simulates and judges what is missing, writes report.md, report.json and pictures to `out`; returns the tables.

    Judged runs are kept there, one file for each seed, with their evidence: another fusion needs no run judged again.
    """
    test = judge(out / f"test_{settings.seed}.pkl", seed=settings.seed, split="test", number=settings.test)
    train = judge(out / f"train_{settings.train_seed}.pkl", seed=settings.train_seed, split="train", number=settings.train, track=False)
    serial = judge_serial(settings.seed, settings.serial) if settings.serial else {}
    return write(train, [judged_by(run, released()) for run in test], out, serial)


def write(
    train: Sequence[JudgedRun], test: Sequence[JudgedRun], out: Path, serial: Mapping[str, SerialResult] = MappingProxyType({})
) -> str:
    """The report's files; returns its tables. `serial` is what was made of serial runs, if any."""
    found: dict[str, Any] = report_of(train, test, DECAY) | {"serial": {kind: asdict(result) for kind, result in serial.items()}}
    text = as_markdown(found)
    if serial:
        text += f"\n{as_sentence(serial)}\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(found, indent=1))
    (out / "report.md").write_text(text)
    (out / "decay_runs.png").write_bytes(examples(test, DECAY))
    (out / "decay_losses.png").write_bytes(losses(train, test, DECAY))
    return text
