"""The record of a training: MLflow, or CSV files beside the checkpoints that can be imported into MLflow afterwards."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger

from training.dataset import used_shards
from training.evaluation.reach import headline
from training.settings import DataSettings, TrainSettings
from triage.core import TriageError

NOTE = "mlflow_run.json"
"""In a run's folder: its MLflow run, which a resumed training goes on with."""
ARTIFACTS = ("network.pt", "report.json")
PARENT_TAG = "mlflow.parentRunId"
_REPORT_TAG = "report.sha256"


class ImportRefused(TriageError):
    """A run's folder cannot be imported into MLflow; the message names it and the mend."""


def git_revision() -> str:
    """The checkout's revision, with `+` where it has uncommitted changes; `unknown` outside one."""
    try:
        revision = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision + ("+" if dirty.strip() else "")


def data_sha256(data: DataSettings) -> str:
    """A hash over the labels of the training and validation shards that are used, with the shards' names."""
    digest = hashlib.sha256()
    for split, frames in (("train", data.train_frames), ("validation", data.validation_frames)):
        for path in used_shards(data.folder, split, frames):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def logger_of(settings: TrainSettings, *, resumed: bool) -> Logger:
    """MLflow's logger, or without a tracking URI one that writes CSV: `log`, then `log_2`, ... for runs that go on in the same folder."""
    tracking = settings.tracking
    if tracking.uri is None:
        return CSVLogger(save_dir=settings.out, name="", version=_free_log(settings.out, resumed=resumed))
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    return MLFlowLogger(
        experiment_name=tracking.experiment,
        tracking_uri=tracking.uri,
        run_name=tracking.run_name or settings.name,
        tags={PARENT_TAG: tracking.parent} if tracking.parent else None,
        run_id=_noted_run(settings.out, tracking.uri) if resumed else None,
    )


def log_settings(logger: Logger, settings: TrainSettings, facts: dict[str, Any], *, resumed: bool) -> None:
    """Every setting, the git revision and the data's hash; a run that goes on has them already. For rank zero."""
    if resumed and settings.tracking.uri is not None and _noted_run(settings.out, settings.tracking.uri) is not None:
        return
    logger.log_hyperparams({**flat(settings.model_dump(mode="json")), **facts})
    if isinstance(logger, MLFlowLogger):
        note = {"uri": settings.tracking.uri, "run_id": logger.run_id}
        (settings.out / NOTE).write_text(json.dumps(note))


def log_artifacts(logger: Logger, folder: Path) -> None:
    """The trained network and its report."""
    if isinstance(logger, MLFlowLogger) and logger.run_id is not None:
        for name in ARTIFACTS:
            logger.experiment.log_artifact(logger.run_id, str(folder / name))


def log_measures(logger: Logger, measured: dict[str, Any]) -> None:
    """What a finished training is compared by; beside CSV files the report has it."""
    if isinstance(logger, MLFlowLogger) and logger.run_id is not None:
        _log_measures(logger.experiment, logger.run_id, measured)


def _log_measures(client: Any, run_id: str, measured: dict[str, Any]) -> None:
    for name, value in headline(measured).items():
        client.log_metric(run_id, f"measured/{name}", value)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Inner keys in dotted form."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRecord:
    """The parent run of a sweep; without a tracking URI there is none."""

    uri: str | None
    run_id: str | None

    @classmethod
    def begin(cls, settings: TrainSettings, name: str) -> SweepRecord:
        """Makes the parent run."""
        uri = settings.tracking.uri
        if uri is None:
            return cls(uri=None, run_id=None)
        client = _client(uri)
        run = client.create_run(_experiment(client, settings.tracking.experiment), run_name=name, tags={"verb": "train --multirun"})
        return cls(uri=uri, run_id=run.info.run_id)

    @property
    def overrides(self) -> tuple[str, ...]:
        """What tells a run its parent."""
        return () if self.run_id is None else (f"tracking.parent={self.run_id}",)

    def end(self, summary: Path, *, finished: bool) -> None:
        """Closes the parent run, the summary of the sweep with it."""
        if self.uri is None or self.run_id is None:
            return
        client = _client(self.uri)
        if summary.is_file():
            client.log_artifact(self.run_id, str(summary))
        client.set_terminated(self.run_id, "FINISHED" if finished else "FAILED")


def import_run(folder: Path, uri: str, experiment: str) -> str:
    """Records a training that ran without MLflow: settings, curves, network and report; returns the MLflow run's id.

    Raises ImportRefused where the folder holds no finished training, or was imported already.
    """
    report_path = folder / "report.json"
    logs = _logs(folder)
    if not report_path.is_file() or not logs:
        raise ImportRefused(f"{folder}: no report.json and log/metrics.csv of a training in it; name the folder that `triage train` wrote")
    report = json.loads(report_path.read_text())
    sha256 = hashlib.sha256(report_path.read_bytes()).hexdigest()
    client = _client(uri)
    where = _experiment(client, experiment)
    if client.search_runs([where], f"tags.`{_REPORT_TAG}` = '{sha256}'", max_results=1):
        raise ImportRefused(f"{folder}: imported already into the experiment {experiment!r}; delete that run first")
    run_id = str(client.create_run(where, run_name=report["settings"]["name"], tags={_REPORT_TAG: sha256, "verb": "train"}).info.run_id)
    facts = {"git_revision": report["git_revision"], "data.sha256": report["data"]["sha256"]}
    for key, value in {**flat(report["settings"]), **facts}.items():
        client.log_param(run_id, key, value)
    for log in logs:
        _import_curves(client, run_id, log)
    _log_measures(client, run_id, report.get("measured", {}))
    for name in ARTIFACTS:
        client.log_artifact(run_id, str(folder / name))
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _import_curves(client: Any, run_id: str, log: Path) -> None:
    """Every number of a CSV log, at its step; the CSV has no times, so the file's stands for all."""
    from mlflow.entities import Metric

    most = 1000  # metrics a call: https://mlflow.org/docs/latest/api_reference/rest-api.html#log-batch
    at_ms = int(log.stat().st_mtime * 1000)
    with log.open(newline="") as lines:
        metrics = [
            Metric(name, float(value), at_ms, int(row["step"]))
            for row in csv.DictReader(lines)
            for name, value in row.items()
            if name != "step" and value
        ]
    for first in range(0, len(metrics), most):
        client.log_batch(run_id, metrics=metrics[first : first + most])


def _logs(folder: Path) -> list[Path]:
    """The CSV logs of a run's folder, in the order they were written."""
    return sorted(folder.glob("log*/metrics.csv"), key=lambda path: (len(path.parent.name), path.parent.name))


def _free_log(out: Path, *, resumed: bool) -> str:
    """A name for the next CSV log; a training that begins anew in a folder replaces what was logged there."""
    if not resumed:
        for log in out.glob("log*/metrics.csv"):
            shutil.rmtree(log.parent)
        return "log"
    number = 1 + sum(1 for path in out.glob("log*") if path.is_dir())
    return "log" if number == 1 else f"log_{number}"


def _noted_run(out: Path, uri: str) -> str | None:
    note = out / NOTE
    noted = json.loads(note.read_text()) if note.is_file() else {}
    return str(noted["run_id"]) if noted.get("uri") == uri else None


def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow  # takes seconds, and may be absent where nothing is tracked

    return mlflow.MlflowClient(tracking_uri=uri)


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))
