"""Simulate what is missing, fit, keep the best, record everything: a recipe."""

from __future__ import annotations

import json
import logging
import subprocess
import time
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger
from torch.utils.data import DataLoader

from training.dataset import FrameDataset, ShardSpec, load, make_shards, provenance
from training.labels.dataset import labels_report, mixed
from training.module import FrameModule
from training.settings import TrainSettings

LOG = logging.getLogger(__name__)
SHARD_FRAMES = 200


def train(settings: TrainSettings) -> Path:
    """Trains a network; returns the folder with `network.pt` (weights, size, provenance) and `report.json`."""
    L.seed_everything(settings.seed, verbose=False)
    labels = labels_report(settings.data)  # first: a store that cannot be read must not be found out after an hour of simulation
    simulate_missing(settings)
    module = FrameModule(
        settings.network.size(),
        learning_rate=settings.trainer.learning_rate,
        weight_decay=settings.trainer.weight_decay,
        warm_up=settings.trainer.warm_up,
        ema_decay=settings.trainer.ema_decay,
    )
    if settings.warm_start is not None:
        warm_start(module, settings.warm_start)
    settings.out.mkdir(parents=True, exist_ok=True)
    best = ModelCheckpoint(dirpath=settings.out, filename="best", monitor="validation/loss", enable_version_counter=False)
    # Of its own: `save_last` writes only when the best improves, and a resumed run would begin there.
    last = ModelCheckpoint(dirpath=settings.out, filename="last", enable_version_counter=False)
    logger = _logger(settings)
    trainer = L.Trainer(
        max_epochs=settings.trainer.epochs,
        max_time=timedelta(minutes=settings.trainer.max_minutes) if settings.trainer.max_minutes else None,
        accelerator=settings.trainer.accelerator,
        precision=settings.trainer.precision,
        callbacks=[best, last, _EpochLog()],
        logger=logger,
        default_root_dir=settings.out,
        gradient_clip_val=1.0,
        log_every_n_steps=20,
        enable_model_summary=False,
    )
    started = time.monotonic()
    trainer.fit(module, _loader(settings, "train"), _loader(settings, "validation"), ckpt_path=settings.resume)
    minutes = (time.monotonic() - started) / 60.0
    checkpoint = torch.load(best.best_model_path or last.best_model_path, map_location="cpu", weights_only=True)
    prefix = "averaged."
    weights = {name.removeprefix(prefix): value for name, value in checkpoint["state_dict"].items() if name.startswith(prefix)}
    report = {
        "settings": settings.model_dump(mode="json"),
        "data": provenance(settings.data.folder),
        "labels": labels,
        "git_revision": git_revision(),
        "training_minutes": round(minutes, 1),
        "epochs": trainer.current_epoch,
        "validation_loss": float(best.best_model_score) if best.best_model_score is not None else None,
    }
    torch.save({"weights": weights, "report": report}, settings.out / "network.pt")
    (settings.out / "report.json").write_text(json.dumps(report, indent=1))
    _log_artifacts(logger, settings.out)
    return settings.out


def warm_start(module: FrameModule, path: Path) -> None:
    """Copies a trained network's weights into the leading part of each tensor of the same name; what is new stays as drawn."""
    weights = torch.load(path, map_location="cpu", weights_only=True)["weights"]
    for network in (module.network, module.averaged):
        for name, tensor in network.state_dict().items():
            if name not in weights or tensor.ndim != weights[name].ndim:
                continue
            fits = tuple(slice(0, min(a, b)) for a, b in zip(tensor.shape, weights[name].shape, strict=True))
            tensor[fits] = weights[name][fits] if tensor.ndim else weights[name]


def simulate_missing(settings: TrainSettings) -> None:
    """Makes the shards that the settings ask for and the folder lacks."""
    data = settings.data
    for split, frames in (("train", data.train_frames), ("validation", data.validation_frames)):
        simulate_split(data.folder, data.seed, split, frames, data.processes)


def simulate_split(folder: Path, seed: int, split: str, frames: int, processes: int) -> None:
    """Makes the shards of one split that the folder lacks."""
    size = min(SHARD_FRAMES, frames)
    make_shards([ShardSpec(folder=folder, seed=seed, split=split, number=n, frames=size) for n in range(ceil(frames / size))], processes)


def git_revision() -> str:
    """The checkout's revision, with `+` where it has uncommitted changes; `unknown` outside one."""
    try:
        revision = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision + ("+" if dirty.strip() else "")


def _loader(settings: TrainSettings, split: str) -> DataLoader[dict[str, torch.Tensor]]:
    training = split == "train"
    simulated = FrameDataset(load(settings.data.folder, split), augment=training)
    mixture = mixed(simulated, settings.data, split)
    return DataLoader(
        mixture.frames,
        batch_size=settings.trainer.batch,
        sampler=mixture.sampler,
        shuffle=training and mixture.sampler is None,
        drop_last=training and len(simulated) > settings.trainer.batch,
        num_workers=settings.data.loaders,
        persistent_workers=training and settings.data.loaders > 0,
    )


def _logger(settings: TrainSettings) -> Logger:
    if settings.tracking.uri is None:
        return CSVLogger(save_dir=settings.out, name="", version="log")
    logger = MLFlowLogger(experiment_name=settings.tracking.experiment, tracking_uri=settings.tracking.uri, run_name=settings.name)
    logger.log_hyperparams({**_flat(settings.model_dump(mode="json")), "git_revision": git_revision()})
    return logger


def _log_artifacts(logger: Logger, folder: Path) -> None:
    if isinstance(logger, MLFlowLogger) and logger.run_id is not None:
        for name in ("network.pt", "report.json"):
            logger.experiment.log_artifact(logger.run_id, str(folder / name))


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


class _EpochLog(Callback):
    """One line an epoch, for logs without a terminal."""

    def on_validation_epoch_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        numbers = {name: round(float(value), 4) for name, value in trainer.callback_metrics.items() if name.startswith("validation/")}
        LOG.info("epoch %d: %s", trainer.current_epoch, numbers)
