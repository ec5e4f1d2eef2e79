"""Evaluations and releases in MLflow: https://mlflow.org/docs/latest/ml/model-registry/."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.evaluation.tables import metrics
from training.settings import TrackingSettings

CHAMPION = "champion"
"""Alias of the released version in the registry."""


@contextmanager
def _run(uri: str, experiment: str, name: str) -> Iterator[Any]:
    """An MLflow run within; yields the module."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow  # takes seconds, and may be absent where nothing is tracked

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment)
    with mlflow.start_run(run_name=name):
        yield mlflow


def log_evaluation(settings: TrackingSettings, report: dict[str, Any], folder: Path) -> None:
    """Records a report's headline numbers and its files; does nothing without a tracking URI."""
    if settings.uri is None:
        return
    model = report["model"]
    with _run(settings.uri, settings.experiment, f"evaluate {model['name']} {model['version']}") as mlflow:
        mlflow.set_tags({"verb": "evaluate", "model.sha256": model["sha256"], "data.sha256": report["data"]["sha256"]})
        mlflow.log_metrics(metrics(report))
        mlflow.log_artifacts(str(folder), "evaluation")


def register_champion(settings: TrackingSettings, report: dict[str, Any], model: Path) -> str | None:
    """Registers an exported model and points the alias `champion` at it; returns its version, None without a tracking URI."""
    if settings.uri is None:
        return None
    import onnx

    stated = report["model"]
    with _run(settings.uri, settings.experiment, f"export {stated['name']} {stated['version']}") as mlflow:
        mlflow.set_tags({"verb": "export", "model.sha256": stated["sha256"]})
        mlflow.log_metrics(metrics(report))
        logged = mlflow.onnx.log_model(
            onnx.load(str(model)),
            name="model",
            registered_model_name=stated["name"],
            pip_requirements=["onnxruntime"],  # stated: MLflow would look for them by running the model
            save_as_external_data=False,
        )
        version = str(logged.registered_model_version)
        client = mlflow.MlflowClient()
        client.set_registered_model_alias(stated["name"], CHAMPION, version)
        client.set_model_version_tag(stated["name"], version, "release", stated["version"])
    return version
