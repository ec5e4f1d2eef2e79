"""`triage train --multirun`: one run for each combination of the values of the swept keys, as Hydra's basic sweeper orders them.

https://hydra.cc/docs/advanced/override_grammar/extended/. Each run is a process of its own: its seed, its memory, its processes under DDP.
"""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

from training.evaluation.reach import headline
from training.settings import TrainSettings
from triage.compose import compose_settings
from triage.refusal import ConfigError

LOG = logging.getLogger(__name__)
FLAGS = ("--multirun", "-m")
SUMMARY = "sweep.json"
_LISTED = (ValueType.SIMPLE_CHOICE_SWEEP, ValueType.CHOICE_SWEEP, ValueType.RANGE_SWEEP)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweptRun:
    """One run of a sweep."""

    number: int
    chosen: tuple[str, ...]
    """The swept keys' values, as `key=value`."""
    arguments: tuple[str, ...]
    """All overrides of `triage train`."""
    settings: TrainSettings

    @property
    def name(self) -> str:
        """What it is called in MLflow."""
        return ", ".join(self.chosen)


def planned(arguments: Sequence[str]) -> list[SweptRun]:
    """The runs of a sweep, each in the folder `out`/number, all checked before the first begins.

    Raises ConfigError: no key is swept, a sweep cannot be listed, or some combination is refused.
    """
    fixed: list[str] = []
    swept: list[list[str]] = []
    for argument in arguments:
        values = _values(argument)
        if values is None:
            fixed.append(argument)
        else:
            swept.append(values)
    if not swept:
        raise ConfigError("--multirun: no key has several values; write some as key=a,b, such as seed=1,2,3")
    runs = []
    for number, chosen in enumerate(itertools.product(*swept)):
        base = compose_settings("train", [*fixed, *chosen], TrainSettings)
        own = [*fixed, *chosen, f"out={_quoted(base.out / str(number))}", f"tracking.run_name={', '.join(chosen)}"]
        settings = compose_settings("train", own, TrainSettings)
        runs.append(SweptRun(number=number, chosen=chosen, arguments=tuple(own), settings=settings))
    if len({run.settings.tracking.uri for run in runs}) > 1:
        raise ConfigError("tracking.uri: the runs of a sweep are recorded in one place; give one value")
    return runs


def sweep(arguments: Sequence[str], run: Callable[[Sequence[str]], int] | None = None) -> list[dict[str, Any]]:
    """Runs a sweep, one after another, under one parent run in MLflow; returns (and writes to sweep.json) how each ended.

    A run that fails is noted, the others go on. `run` takes the overrides of one run and gives its exit status.
    """
    runs = planned(arguments)
    begin = run or in_process_of_its_own
    folder = runs[0].settings.out.parent
    folder.mkdir(parents=True, exist_ok=True)
    from training.recording import SweepRecord

    record = SweepRecord.begin(runs[0].settings, f"sweep of {len(runs)}")
    rows: list[dict[str, Any]] = []
    try:
        for one in (replace(each, arguments=(*each.arguments, *record.overrides)) for each in runs):
            LOG.info("run %d of %d: %s", one.number + 1, len(runs), one.name)
            status = begin(one.arguments)
            row = {"run": one.number, "overrides": list(one.chosen), "folder": str(one.settings.out), "status": status}
            rows.append({**row, **_results(one.settings.out if status == 0 else None)})
            (folder / SUMMARY).write_text(json.dumps(rows, indent=1))
    finally:
        record.end(folder / SUMMARY, finished=len(rows) == len(runs) and all(row["status"] == 0 for row in rows))
    return rows


def in_process_of_its_own(arguments: Sequence[str]) -> int:
    """`triage train` with these overrides; its exit status."""
    return subprocess.run([sys.executable, "-m", "triage", "train", *arguments], check=False).returncode


def _values(argument: str) -> list[str] | None:
    """Each value of a swept key as an override of its own; None: one value, or text that Hydra's grammar is not asked about."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return None  # `compose_settings` says what is wrong with it, if anything
    if not override.is_sweep_override():
        return None
    return _listed(override)


def _listed(override: Override) -> list[str]:
    key = override.get_key_element()
    if key == "out":
        raise ConfigError("out: one folder for a sweep; each run has its own within it")
    if override.value_type not in _LISTED:
        raise ConfigError(f"{key}: a sweep over {override.get_value_string()} is not supported; write key=a,b or key=range(1,4)")
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _results(folder: Path | None) -> dict[str, Any]:
    """What a finished run's report says of it; of a failed one, nothing."""
    report = folder / "report.json" if folder is not None else None
    if report is None or not report.is_file():
        return {"validation_loss": None}
    said = json.loads(report.read_text())
    return {"validation_loss": said["validation_loss"], "measured": headline(said.get("measured", {}))}
