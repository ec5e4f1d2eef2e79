"""Simulate what is missing, fit, keep the best, record everything: a recipe."""

from __future__ import annotations

import json
import logging
import time
from math import ceil
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from models.network import Network
from models.resnet import HalfResNet18
from training.boosting import fit_trees, joined
from training.callbacks import EpochLog, LegEnd
from training.dataset import FrameDataset, ShardSpec, load, make_shards, provenance
from training.labels.dataset import labelled_statistics, labels_report, mixed
from training.module import FrameModule
from training.recording import data_sha256, git_revision, log_artifacts, log_measures, log_settings, logger_of
from training.settings import DataSettings, TrainSettings
from training.simulate.render import device_of
from training.validated import keep
from triage.refusal import ConfigError

LOG = logging.getLogger(__name__)
SHARD_FRAMES = 200
WAIT_S = 5.0
"""Between looks of another rank for the frames that rank zero simulates."""


def train(settings: TrainSettings) -> Path | None:
    """Trains a network; returns the folder with `network.pt` (weights, size, provenance) and `report.json`.

    None: the leg was over before all frames were simulated; the same again goes on. Under DDP every process comes here; rank zero
    simulates and writes.
    """
    begun = time.monotonic()
    minutes = settings.trainer.max_minutes
    deadline = begun + 60.0 * minutes if minutes is not None else None
    L.seed_everything(settings.seed, verbose=False)
    labels = labels_report(settings.data)  # first: a store that cannot be read must not be found out after an hour of simulation
    before = _before(settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    resume = checkpoint_to_resume(settings)
    resumed = resume is not None and resume.resolve().parent == settings.out.resolve()  # in its own folder: a further leg of one run
    earlier = _minutes_before(settings.out) if resumed else 0.0
    logger = logger_of(settings, resumed=resumed)
    best = ModelCheckpoint(dirpath=settings.out, filename="best", monitor="validation/loss", enable_version_counter=False)
    # Of its own: `save_last` writes only when the best improves, and a resumed run would begin there.
    last = ModelCheckpoint(dirpath=settings.out, filename="last", enable_version_counter=False)
    trainer = _trainer(settings, [best, last, *_stopping(settings, deadline)], logger)
    if not _frames_are_there(settings.data, simulates=trainer.is_global_zero, deadline=deadline):
        return None
    data = {**provenance(settings.data.folder), "sha256": data_sha256(settings.data)}
    if trainer.is_global_zero:
        log_settings(logger, settings, {"git_revision": git_revision(), "data.sha256": data["sha256"]}, resumed=resumed)
    started = time.monotonic()
    trainer.fit(_module(settings), _loader(settings, "train"), _loader(settings, "validation"), ckpt_path=resume)
    if not trainer.is_global_zero:
        return settings.out
    report: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "data": data,
        "labels": labels,
        "git_revision": git_revision(),
        "training_minutes": round(earlier + (time.monotonic() - started) / 60.0, 1),
        "epochs": trainer.current_epoch,
        "validation_loss": float(best.best_model_score) if best.best_model_score is not None else None,
    }
    weights = averaged_weights(Path(best.best_model_path or last.best_model_path))
    saved = {"weights": mean_weights(before["weights"], weights, settings.share_before) if before else weights, "report": report}
    if settings.trees.rounds and settings.network.kind == "triage":
        statistics = labelled_statistics(settings.data)
        arrays = load(settings.data.folder, "train", settings.data.train_frames)
        trees = fit_trees(arrays, settings.trees, settings.seed, statistics, settings.data.labels_share)
        saved["trees"] = joined(before.get("trees", {}), trees, settings.share_before)
    log_measures(logger, keep(saved, settings.out, settings.data)["measured"])
    log_artifacts(logger, settings.out)
    return settings.out


def checkpoint_to_resume(settings: TrainSettings) -> Path | None:
    """Which checkpoint the settings mean."""
    if settings.resume != "auto":
        return settings.resume
    last = settings.out / "last.ckpt"
    return last if last.is_file() else None


def averaged_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The averaged network's weights, out of a checkpoint."""
    prefix = "averaged."
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _module(settings: TrainSettings) -> FrameModule:
    network: Any = settings.network.size() if settings.network.kind == "triage" else HalfResNet18()
    module = FrameModule(
        network,
        learning_rate=settings.trainer.learning_rate,
        weight_decay=settings.trainer.weight_decay,
        warm_up=settings.trainer.warm_up,
        ema_decay=settings.trainer.ema_decay,
    )
    if settings.warm_start is not None:
        warm_start(module, settings.warm_start)
    return module


def mean_weights(before: dict[str, torch.Tensor], now: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """Of two networks of which one was trained on from the other: such a mean is often better than either, and errs less on frames unlike
    those of the training (Wortsman et al., ICML 2022). `share` is that of the one `before`; counters are those of now.
    """
    return {name: share * before[name] + (1.0 - share) * value if value.is_floating_point() else value for name, value in now.items()}


def _before(settings: TrainSettings) -> dict[str, Any]:
    """What training starts from, where it has a share in the end; else nothing. Raises ConfigError where it cannot have one."""
    if not settings.share_before:
        return {}
    if settings.warm_start is None or settings.network.kind != "triage":
        raise ConfigError(f"share_before={settings.share_before:g}: of what? Set warm_start to a network.pt, or share_before to 0")
    before: dict[str, Any] = torch.load(settings.warm_start, map_location="cpu", weights_only=True)
    shapes = {name: value.shape for name, value in Network(settings.network.size()).state_dict().items()}
    if {name: value.shape for name, value in before["weights"].items()} != shapes:
        raise ConfigError(f"share_before={settings.share_before:g}: {settings.warm_start} is another network; set share_before to 0")
    if settings.trees.rounds and not before.get("trees"):
        raise ConfigError(
            f"share_before={settings.share_before:g}: {settings.warm_start} has no trees; set trees.rounds or share_before to 0"
        )
    return before


def _stopping(settings: TrainSettings, deadline: float | None) -> list[Callback]:
    """What else watches the epochs, and what ends a training early."""
    callbacks: list[Callback] = [EpochLog()]
    if settings.trainer.patience is not None:
        callbacks.append(EarlyStopping(monitor="validation/loss", patience=settings.trainer.patience))
    if deadline is not None:
        callbacks.append(LegEnd(deadline))
    return callbacks


def _trainer(settings: TrainSettings, callbacks: list[Callback], logger: Logger) -> L.Trainer:
    return L.Trainer(
        max_epochs=settings.trainer.epochs,
        accelerator=settings.trainer.accelerator,
        devices=settings.trainer.devices,
        num_nodes=settings.trainer.nodes,
        strategy=settings.trainer.strategy,
        precision=settings.trainer.precision,
        callbacks=callbacks,
        logger=logger,
        default_root_dir=settings.out,
        gradient_clip_val=1.0,
        log_every_n_steps=20,
        enable_model_summary=False,
    )


def _minutes_before(out: Path) -> float:
    """Minutes of the legs before."""
    report = out / "report.json"
    return float(json.loads(report.read_text())["training_minutes"]) if report.is_file() else 0.0


def warm_start(module: FrameModule, path: Path) -> None:
    """Copies a trained network's weights into the leading part of each tensor of the same name; what is new stays as drawn."""
    weights = torch.load(path, map_location="cpu", weights_only=True)["weights"]
    for network in (module.network, module.averaged):
        for name, tensor in network.state_dict().items():
            if name not in weights or tensor.ndim != weights[name].ndim:
                continue
            fits = tuple(slice(0, min(a, b)) for a, b in zip(tensor.shape, weights[name].shape, strict=True))
            tensor[fits] = weights[name][fits] if tensor.ndim else weights[name]


def shard_specs(folder: Path, seed: int, split: str, frames: int, device: str = "cpu") -> list[ShardSpec]:
    """The shards that hold so many frames of a split."""
    size = min(SHARD_FRAMES, frames)
    return [ShardSpec(folder=folder, seed=seed, split=split, number=n, frames=size, device=device) for n in range(ceil(frames / size))]


def simulate_split(folder: Path, seed: int, split: str, frames: int, processes: int) -> None:
    """Makes the shards of one split that the folder lacks."""
    make_shards(shard_specs(folder, seed, split, frames), processes)


def _frames_are_there(data: DataSettings, *, simulates: bool, deadline: float | None) -> bool:
    """Makes the shards that the folder lacks, or waits for the process that does; false when the deadline comes first."""
    device = device_of(data.device, "data.device")
    specs = [
        spec
        for split, frames in (("train", data.train_frames), ("validation", data.validation_frames))
        for spec in shard_specs(data.folder, data.seed, split, frames, device)
    ]
    if simulates:
        return simulate_until(specs, data.processes, deadline)
    while not all(spec.is_done for spec in specs):
        if deadline is not None and time.monotonic() >= deadline:
            return False
        time.sleep(WAIT_S)
    return True


def simulate_until(specs: list[ShardSpec], processes: int, deadline: float | None) -> bool:
    """Makes the shards that are missing, as many at once as there are processes; stops before those that would end after the deadline.

    True when all are there.
    """
    if deadline is None:
        make_shards(specs, processes)
        return True
    missing = [spec for spec in specs if not spec.is_done]
    longest = 0.0
    for first in range(0, len(missing), processes):
        begun = time.monotonic()
        if begun + longest >= deadline:
            LOG.info("the leg is over: %d of %d shards are simulated", len(specs) - len(missing) + first, len(specs))
            return False
        make_shards(missing[first : first + processes], processes)
        longest = max(longest, time.monotonic() - begun)
    return True


def _loader(settings: TrainSettings, split: str) -> DataLoader[dict[str, torch.Tensor]]:
    training = split == "train"
    arrays = load(settings.data.folder, split, settings.data.train_frames if training else settings.data.validation_frames)
    if training and arrays.spoilt is None:  # made before there were any; labelled frames have none either, and need none
        raise ValueError(f"{settings.data.folder}: shards without features of false spots (.spoilt.npy): set data.folder to another folder")
    simulated = FrameDataset(arrays, augment=training)
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
