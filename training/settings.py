"""Checked settings of `triage train`, mirrored in conf/train.yaml and conf/experiment/."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.network import NetworkSize
from triage.preprocess import Preprocess

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(_Strict):
    """Which simulated frames."""

    folder: Path
    seed: int
    train_frames: Positive
    validation_frames: Positive
    processes: Positive


class TrainerSettings(_Strict):
    """How the network is fitted."""

    epochs: Positive
    batch: Annotated[int, Field(ge=2)]
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    weight_decay: Annotated[float, Field(ge=0.0)]
    warm_up: Fraction
    ema_decay: Fraction
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    accelerator: Literal["auto", "cpu", "gpu"]
    max_minutes: Annotated[float, Field(gt=0.0)] | None


class TrackingSettings(_Strict):
    """Where MLflow keeps the record; None: nowhere."""

    uri: str | None
    experiment: str


class NetworkSettings(_Strict):
    """Widths of the network and which looks it uses."""

    trunk: list[int]
    crop: Annotated[list[int], Field(min_length=3, max_length=3)]
    hidden: Positive
    dropout: Fraction
    use_crops: bool
    use_features: bool
    use_resolution_map: bool

    def size(self) -> NetworkSize:
        """As the network takes it."""
        return NetworkSize(
            trunk=tuple(self.trunk),
            crop=(self.crop[0], self.crop[1], self.crop[2]),
            hidden=self.hidden,
            n_features=Preprocess().n_features,
            dropout=self.dropout,
            use_crops=self.use_crops,
            use_features=self.use_features,
            use_resolution_map=self.use_resolution_map,
        )


class TrainSettings(_Strict):
    """Everything `triage train` takes."""

    name: str
    out: Path
    resume: Path | None
    seed: int
    data: DataSettings
    trainer: TrainerSettings
    tracking: TrackingSettings
    network: NetworkSettings
