"""What a network is worth on frames of structures and detectors it never saw: by stratum, with intervals, beside others. A recipe."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.evaluation.against import previous
from training.evaluation.baselines import baselines
from training.evaluation.contact_sheet import Remaker, listed, sheets, worst
from training.evaluation.document import PLOTS, Picture, as_html, as_markdown
from training.evaluation.frozen import SPLIT, load_frozen, predict, read_metadata, sha256_of
from training.evaluation.illustrate import pictures_of
from training.evaluation.report import as_json, report_of, scores_of
from training.evaluation.tables import document_of
from training.settings import EvaluatePart
from training.tracking import log_evaluation
from training.train import simulate_split
from triage.refusal import ConfigError

LOG = logging.getLogger(__name__)
_MOST_TRAIN_FRAMES = 4000
"""Simulated for the baselines where there are none; where there are, all are used."""


def evaluate(settings: EvaluatePart) -> dict[str, Any]:
    """Judges the frozen set; writes report.html, report.md, report.json and plots to `settings.out`; returns the numbers.

    Raises ConfigError, with the mend, when models or frames do not fit each other.
    """
    model, out = Path(settings.model), Path(settings.out)
    _check(settings)
    train_data = _simulated(settings)
    frames = load_frozen(Path(settings.data))
    LOG.info("%d frames", len(frames.labels))
    network, metadata = predict(model, frames)
    other = previous(Path(settings.against), frames) if settings.against is not None else None
    learnt = baselines(train_data, frames)
    LOG.info("measuring")
    report = report_of(metadata, sha256_of(model), frames, network, other, learnt)
    pictures = pictures_of(report, frames, network, scores_of(network, other, learnt))
    failings = worst(network, frames.labels, settings.worst_frames)
    report["worst_frames"] = listed(frames, failings)
    if report["worst_frames"]:
        LOG.info("making the worst frames again")
        pictures["worst"], lost = sheets(frames, failings, Remaker(frames))
        report["worst_frames_not_remade"] = lost
    write(report, pictures, out)
    log_evaluation(settings.tracking, report, out)
    return report


def _check(settings: EvaluatePart) -> None:
    """Refuses what would be refused anyway, before frames are simulated for minutes."""
    for key, path in (("model", settings.model), ("against", settings.against)):
        if path is not None and not Path(path).is_file():
            raise ConfigError(f"evaluate.{key}: {path}: no such file")
    read_metadata(Path(settings.model))


def _simulated(settings: EvaluatePart) -> Path:
    """Makes what is missing of the test frames, and of training frames for the baselines; returns the folder of the latter."""
    data, train_data = Path(settings.data), Path(settings.train_data) if settings.train_data is not None else None
    try:
        simulate_split(data, settings.seed, SPLIT, settings.frames, settings.processes)
        if train_data is not None and any(train_data.glob("train_*.labels.npy")):
            return train_data
        simulate_split(data, settings.seed, "train", min(settings.frames, _MOST_TRAIN_FRAMES), settings.processes)
    except ValueError as error:
        raise ConfigError(f"evaluate.data: {error}") from None
    return data


def write(report: dict[str, Any], pictures: Mapping[str, Sequence[Picture]], out: Path) -> None:
    """report.html (needs no other file), report.md, report.json, and the plots as PNG."""
    document = document_of(report, pictures)
    (out / PLOTS).mkdir(parents=True, exist_ok=True)
    for stale in (out / PLOTS).glob("*.png"):
        stale.unlink()
    for picture in document.pictures():
        (out / PLOTS / f"{picture.name}.png").write_bytes(picture.png)
    (out / "report.json").write_text(as_json(report))
    (out / "report.md").write_text(as_markdown(document))
    (out / "report.html").write_text(as_html(document))
