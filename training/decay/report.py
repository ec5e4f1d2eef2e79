"""Tables (Markdown) of an evaluation of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from training.decay.judge import JudgedRun
from training.decay.measure import GROUPS, alarms_per_1000, baselines, by_look_alike, coverage, delays, detection, flagged_at
from training.decay.reliability import as_table, of_frames
from triage.core import TriageError
from triage.decay.calibration import raise_at
from triage.flags import FlagThreshold

AIMS = {"flagged": 0.90, "false": 0.05, "coverage": 0.90}
LOSS_AIMS = {"stills": 0.30, "rotation, 60 to 79 frames": 0.60, "rotation, 600 and more": 0.40}
"""Median loss of the outer shell when flagged (issue 5)."""
ASKED = (1.0, 0.5, 0.2, 0.1, 0.05)
"""Alarms per 1,000 undamaged frames that `flags.decay.false_alarms_per_1000` may ask for."""


class TooFewRunsError(TriageError):
    """There is no undamaged run to count false alarms in."""


def report_of(train: Sequence[JudgedRun], test: Sequence[JudgedRun], threshold: FlagThreshold) -> dict[str, Any]:
    """All numbers; `[value, low, high]` with 95 % intervals over runs. The trends' thresholds are chosen on `train`.

    Raises TooFewRunsError where one side has no undamaged run.
    """
    for key, runs in (("train", train), ("test", test)):
        if all(run.damaged for run in runs):
            raise TooFewRunsError(f"evaluate.runs.{key} = {len(runs)}: none of these runs is undamaged; ask for more")
    ours = detection(test, lambda run: flagged_at(run, threshold))
    false_share = ours["all"]["false"][0] if ours["all"]["false"] else 0.0
    return {
        "runs": {"train": len(train), "test": len(test)},
        "no_decay": sum(len(run.frame) == 0 for run in test),
        "detection": ours,
        "baselines": baselines(train, test, false_share),
        "baselines_at_5pc": baselines(train, test, AIMS["false"]),
        "coverage": coverage(test),
        "coverage_of_scale": coverage(test, lambda run: (run.scale - run.true_scale) / run.scale_sigma),
        "calibration": of_frames(test),
        "delays": delays(test, threshold),
        "look_alikes": by_look_alike(test, threshold),
        "alarms_per_1000": alarms_per_1000(test, threshold),
        "alarms_asked": {rate: alarms_per_1000(test, replace(threshold, raise_at=raise_at(rate))) for rate in ASKED},
        "held_out_detectors": detection([run for run in test if run.index % 2], lambda run: flagged_at(run, threshold))["all"],
    }


def as_markdown(report: dict[str, Any]) -> str:
    """The report's tables."""
    parts = [
        f"{report['runs']['test']} test runs ({report['no_decay']} too weak for any judgement), {report['runs']['train']} training runs.",
        _detection_table(report),
        _baseline_table(report),
        _look_alike_table(report),
        as_table(report["calibration"], "calibration of `probability`, frames"),
        _delay_table(report),
        f"Alarms per 1,000 undamaged frames: {_value(report['alarms_per_1000'], 3)}.",
        _alarm_table(report),
    ]
    return "\n\n".join(parts) + "\n"


def _detection_table(report: dict[str, Any]) -> str:
    lines = [
        "| runs | damaged | flagged | median loss when flagged | bound | undamaged | flagged of them | delta_B within 2 sigma | scale |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines.extend(_row(name, report["detection"][name], report["coverage"][name], report["coverage_of_scale"][name]) for name in GROUPS)
    lines.append(_row("all, held-out detectors", report["held_out_detectors"], [], []))
    return "\n".join(lines)


def _row(name: str, row: dict[str, Any], covered: Sequence[float], scale: Sequence[float]) -> str:
    losses = f"{_percent(row['flagged'])} | {_percent(row['loss'])} | {_percent(row['bound'][:1])}"
    return f"| {name} | {row['damaged']} | {losses} | {row['sound']} | {_percent(row['false'])} | {_percent(covered)} | {_percent(scale)} |"


def _baseline_table(report: dict[str, Any]) -> str:
    lines = [
        "| detector | flagged | median loss: all | stills | 60 to 79 | 600 and more | undamaged flagged |",
        "|---|---|---|---|---|---|---|",
    ]
    columns = ("all", "stills", "rotation, 60 to 79 frames", "rotation, 600 and more")

    def line(name: str, rows: dict[str, Any]) -> str:
        losses = " | ".join(_percent(rows[column]["loss"][:1]) for column in columns)
        return f"| {name} | {_percent(rows['all']['flagged'])} | {losses} | {_percent(rows['all']['false'])} |"

    lines.append(line("this one", report["detection"]))
    for key, words in (("baselines", "as many false alarms as this one"), ("baselines_at_5pc", "5 % false alarms")):
        for name, entry in report[key].items():
            lines.append(line(f"{name}, falls by {entry['threshold']:.0%} ({words})", entry["rows"]))
    return "\n".join(lines)


def _look_alike_table(report: dict[str, Any]) -> str:
    lines = ["| what else happens | undamaged | flagged | damaged | flagged | median loss |", "|---|---|---|---|---|---|"]
    for name, row in report["look_alikes"].items():
        loss = "" if row["loss"] is None else f"{row['loss']:.0%}"
        lines.append(f"| {name.replace('_', ' ')} | {row['sound']} | {row['false']} | {row['damaged']} | {row['flagged']} | {loss} |")
    return "\n".join(lines)


def _delay_table(report: dict[str, Any]) -> str:
    lines = ["| damaged runs | number | dose from onset to flag, MGy (median) | dose at the run's end (median) |", "|---|---|---|---|"]
    for name, row in report["delays"].items():
        told = [_value(row[key], 2) if row[key] else "" for key in ("dose_MGy", "dose_at_end_MGy")]
        lines.append(f"| {name} | {row['damaged']} | {told[0]} | {told[1]} |")
    return "\n".join(lines)


def _alarm_table(report: dict[str, Any]) -> str:
    lines = ["| alarms per 1,000 undamaged frames asked for | level | met |", "|---|---|---|"]
    lines.extend(f"| {rate:g} | {raise_at(rate):.3f} | {_value(found, 3)} |" for rate, found in report["alarms_asked"].items())
    return "\n".join(lines)


def _percent(value: Sequence[float]) -> str:
    if len(value) == 0:
        return ""
    if len(value) == 1:
        return f"{value[0]:.0%}"
    return f"{value[0]:.0%} ({value[1]:.0%} to {value[2]:.0%})"


def _value(value: Sequence[float], digits: int) -> str:
    return f"{value[0]:.{digits}f} ({value[1]:.{digits}f} to {value[2]:.{digits}f})"
