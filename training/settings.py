"""Checked settings of the developer's verbs, mirrored in conf/."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from training.simulate.detectors import DETECTORS
from triage.preprocess import Preprocess
from triage.settings import Strict

if TYPE_CHECKING:
    from models.network import NetworkSize

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
SimulationDevice = Literal["cpu", "cuda", "auto"]
"""Where pixels are simulated; auto: on a GPU where torch sees one."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(_Strict):
    """Which simulated frames."""

    folder: Path
    seed: int
    train_frames: Positive
    validation_frames: Positive
    processes: Positive
    loaders: Annotated[int, Field(ge=0, le=64)]
    """Processes that read frames while others are trained on; 0: none."""
    device: SimulationDevice = "cpu"
    labels: Path | None = None
    """A label store whose frames are mixed in (docs/labels.md)."""
    labels_share: Fraction = 0.0
    """Of the frames of an epoch, those that are labelled."""
    labels_validation: Fraction = 0.0
    """Of the labelled runs, those that are validated on."""
    labels_thinned: Annotated[int, Field(ge=0)] = 0
    """Two-lattice frames made of pairs of labelled ones, by binomial thinning."""

    @model_validator(mode="after")
    def _labels_are_there(self) -> Self:
        if self.labels is None and self.labels_share > 0.0:
            raise ValueError("set data.labels to a label store; data.labels_share wants frames of one")
        if self.labels is not None and self.labels_share == 0.0:
            raise ValueError("set data.labels_share above 0; no frame of data.labels would be used")
        return self


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
    devices: Positive | Literal["auto"] = 1
    """GPUs, or processes on a CPU, of each node."""
    strategy: Literal["auto", "ddp"] = "auto"
    nodes: Positive = 1
    patience: Positive | None = None
    """Epochs without a better validation loss after which training stops; None: never."""
    max_minutes: Annotated[float, Field(gt=0.0)] | None
    """Of one leg, simulation included; None: until it is done."""


class TrackingSettings(_Strict):
    """Where MLflow keeps the record; None: nowhere."""

    uri: str | None
    experiment: str


class TrainTracking(TrackingSettings):
    """Also, what the run is called and which one it is part of."""

    run_name: str | None = None
    """None: the model's name."""
    parent: str | None = None
    """The id of an MLflow run; `--multirun` sets it."""


class NetworkSettings(_Strict):
    """Which network, how wide, and which looks it uses; the widths and looks are those of `triage`, not of the baseline."""

    kind: Literal["triage", "resnet18_half"] = "triage"
    trunk: list[int]
    crop: Annotated[list[int], Field(min_length=3, max_length=3)]
    hidden: Positive
    dropout: Fraction
    use_crops: bool
    use_features: bool
    use_resolution_map: bool
    use_spectrum: bool
    use_radial: bool
    shrink: Literal[1, 2, 4] = 1
    pool: Literal["both", "mean", "max"] = "both"

    def size(self) -> NetworkSize:
        """As the network takes it."""
        from models.network import NetworkSize  # brings torch, which takes seconds: not to refuse a wrong key

        return NetworkSize(
            trunk=tuple(self.trunk),
            crop=(self.crop[0], self.crop[1], self.crop[2]),
            hidden=self.hidden,
            n_features=Preprocess().n_features,
            dropout=self.dropout,
            use_crops=self.use_crops,
            use_features=self.use_features,
            use_resolution_map=self.use_resolution_map,
            use_spectrum=self.use_spectrum,
            use_radial=self.use_radial,
            shrink=self.shrink,
            pool=self.pool,
        )


class TreesSettings(_Strict):
    """The boosted trees beside the network."""

    rounds: Annotated[int, Field(ge=0, le=5000)] = 200
    """0: no trees."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 0.06
    leaves: Annotated[int, Field(ge=2, le=255)] = 15
    depth: Annotated[int, Field(ge=1, le=30)] = 8
    l2: Annotated[float, Field(ge=0.0)] = 1.0


class TrainSettings(_Strict):
    """Everything `triage train` takes."""

    name: str
    out: Path
    resume: Literal["auto"] | Path | None
    """A checkpoint to go on from; `auto`: the last one of `out`, where there is one."""
    warm_start: Path | None
    """A `network.pt` whose weights are taken where they fit; the rest starts at random."""
    share_before: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Of its weights and trees, in the mean with those that training ends with; 0: these alone."""
    seed: int
    data: DataSettings
    trainer: TrainerSettings
    tracking: TrainTracking
    network: NetworkSettings
    trees: TreesSettings = TreesSettings()


class SimulatePart(Strict):
    """Which frames are simulated, and where they are written."""

    out: str
    n: Positive
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    frames_per_file: Annotated[int, Field(ge=1, le=100_000)]
    processes: Annotated[int, Field(ge=1, le=1024)] | None
    """Null: one for each core."""
    detectors: Annotated[list[str], Field(min_length=1)] | None
    """Null: all, by their usual shares."""
    device: SimulationDevice

    @field_validator("detectors")
    @classmethod
    def _known(cls, names: list[str] | None) -> list[str] | None:
        unknown = [name for name in names or () if name not in DETECTORS]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not one of {', '.join(DETECTORS)}")
        return names


class RunsPart(Strict):
    """Simulated runs that radiation damage is judged on."""

    test: Positive
    """How many, of the test split."""
    train: Positive
    """How many of the training split give the trends beside it their thresholds."""
    serial: Annotated[int, Field(ge=0)]
    """How many serial runs, which have no decay, are judged beside them."""
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    train_seed: Annotated[int, Field(ge=0, lt=2**63)]


class EvaluatePart(Strict):
    """Which model, on which frames; or decay on which runs."""

    what: Literal["frames", "runs"]
    runs: RunsPart
    model: str
    against: str | None
    """Another model, or its report, shown beside it."""
    data: str
    train_data: str | None
    """Whose training split teaches the baselines; where there is none, frames are simulated in `data`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    frames: Positive
    processes: Positive
    worst_frames: Annotated[int, Field(ge=0, le=400)]
    out: str
    tracking: TrackingSettings


class EvaluateSettings(Strict):
    """Everything `triage evaluate` takes."""

    evaluate: EvaluatePart


class ExportPart(Strict):
    """Which trained network becomes which file, and what it must beat."""

    network: str
    data: str
    frozen: str
    """Folder whose test split decides."""
    released: str
    """The model to beat; there need not be one."""
    version: str
    out: str
    force: bool
    reason: str | None
    """Why it is forced."""
    tracking: TrackingSettings

    @model_validator(mode="after")
    def _forced_for_a_reason(self) -> ExportPart:
        if self.force and not (self.reason or "").strip():
            raise ValueError("force=true needs a reason, which the model then carries: export.reason='...'")
        return self


class ExportSettings(Strict):
    """Everything `triage export` takes."""

    export: ExportPart


class SimulateSettings(Strict):
    """Everything `triage simulate` takes."""

    simulate: SimulatePart


class LabelPart(Strict):
    """Which store, and whose labels."""

    store: str
    labeller: str | None
    origin: Literal["simulated", "indexing", "person"] | None
    rows: Literal["all", "current"]
    source: str | None
    frame: Annotated[int, Field(ge=0)] | None


class LabelSettings(Strict):
    """Everything `triage label` takes."""

    label: LabelPart
