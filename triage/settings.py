"""What may be configured: every key, its type and its range. Checked after composing; unknown keys are refused."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from triage.buffer import Mode
from triage.core import Cell, RunKind
from triage.decay.calibration import raise_at
from triage.flags import Evidence, FlagsSettings, FlagThreshold, SerialSettings, ThresholdError

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Pair = Annotated[tuple[Finite, Finite], Field(strict=False)]
"""(slow, fast)"""
PositivePair = Annotated[tuple[Positive, Positive], Field(strict=False)]
Port = Annotated[int, Field(ge=0, le=65_535)]


class Strict(BaseModel):
    """No unknown keys, no silent conversion, no change afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class GeometrySettings(Strict):
    """What overrides the header's word; null leaves it."""

    distance_mm: Positive | None
    beam_px: Pair | None
    """(slow, fast)"""
    wavelength_A: Positive | None
    pixel_mm: PositivePair | None
    """(slow, fast)"""


class FilesSettings(Strict):
    """Frames from files."""

    kind: Literal["files"]
    paths: Annotated[list[str], Field(strict=False)]
    """`triage run` and `replay` take them from the command line."""
    group: Literal["series", "file"]
    follow: bool
    """Whether a file that is still being written is followed to its end."""
    geometry: GeometrySettings
    mask: str | None


class StreamSettings(Strict):
    """Frames from a detector's stream."""

    kind: Literal["dectris_stream2", "dectris_stream1"]
    endpoint: str
    socket: Literal["pull", "sub"]
    channel: str | None
    end_timeout_s: Positive
    """A series from which nothing comes for so long is over."""
    geometry: GeometrySettings
    mask: str | None


class RunSettings(Strict):
    """What the header may not tell."""

    kind: Literal["auto", "rotation", "stills", "serial", "grid"]

    @property
    def override(self) -> RunKind | None:
        """The kind that wins over the header's; None for `auto`."""
        return None if self.kind == "auto" else RunKind(self.kind)


class PriorSettings(Strict):
    """Base rates the network's probabilities are used at by the flags; null keeps those recorded in the model."""

    lattices: Annotated[tuple[Rate, Rate, Rate, Rate], Field(strict=False)] | None
    """Shares of frames with 0, 1, 2, 3-or-more lattices; relative."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.lattices is not None and sum(self.lattices) <= 0:
            raise ValueError("lattices: all rates are 0, set four numbers of at least 0, not all 0")
        return self


class ModelSettings(Strict):
    """Which network."""

    path: str | None
    """Null: the released one."""
    device: Literal["auto", "cpu", "cuda"]
    prior: PriorSettings


class PipelineSettings(Strict):
    """How wide the early lane is."""

    judges: Annotated[int, Field(ge=1, le=256)] | None
    """Threads; null: one for each core."""
    buffer_frames: Annotated[int, Field(ge=2, le=10_000)]


class ThresholdSettings(Strict):
    """When a flag is raised, and when it is cleared."""

    raise_at: Probability
    clear_at: Probability
    k: Annotated[int, Field(ge=1, le=100_000)]
    n: Annotated[int, Field(ge=1, le=100_000)]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        try:
            self.threshold()
        except ThresholdError as error:
            raise ValueError(str(error)) from None
        return self

    def threshold(self) -> FlagThreshold:
        """As the policies want it."""
        return FlagThreshold(raise_at=self.raise_at, clear_at=self.clear_at, k=self.k, n=self.n)


class MultiLatticeSettings(ThresholdSettings):
    """Of several lattices."""

    evidence: Literal["network", "fused"]


class DecayFlagSettings(ThresholdSettings):
    """Of radiation damage; a wanted rate of false alarms wins over `raise_at`."""

    false_alarms_per_1000: Positive | None
    """Per undamaged frame; null: `raise_at` says."""

    def threshold(self) -> FlagThreshold:
        """As the policy wants it."""
        if self.false_alarms_per_1000 is None:
            return super().threshold()
        level = raise_at(self.false_alarms_per_1000)
        return FlagThreshold(raise_at=level, clear_at=min(self.clear_at, level), k=self.k, n=self.n)


class SerialFlagsSettings(Strict):
    """What the flags mean where every frame shows another crystal."""

    multi_lattice: ThresholdSettings
    fall_to: Annotated[float, Field(gt=0, lt=1)]
    expected_hits: Annotated[float, Field(ge=1)]
    largest_window: Annotated[int, Field(ge=10, le=1_000_000)]
    prior: Annotated[float, Field(gt=0, lt=1)]


class FlagGroups(Strict):
    """Thresholds and persistence of every flag."""

    false_alarms_per_1000: None
    multi_lattice: MultiLatticeSettings
    non_diffraction: ThresholdSettings
    decay: DecayFlagSettings
    ice: ThresholdSettings
    coverage: ThresholdSettings
    source: ThresholdSettings
    cell_outlier: ThresholdSettings
    serial: SerialFlagsSettings

    def settings(self) -> FlagsSettings:
        """As the policies want them."""
        serial = SerialSettings(
            multi_lattice=self.serial.multi_lattice.threshold(),
            fall_to=self.serial.fall_to,
            expected_hits=self.serial.expected_hits,
            largest_window=self.serial.largest_window,
            prior=self.serial.prior,
        )
        return FlagsSettings(
            multi_lattice=self.multi_lattice.threshold(),
            non_diffraction=self.non_diffraction.threshold(),
            decay=self.decay.threshold(),
            ice=self.ice.threshold(),
            coverage=self.coverage.threshold(),
            source=self.source.threshold(),
            cell_outlier=self.cell_outlier.threshold(),
            serial=serial,
            evidence=Evidence(self.multi_lattice.evidence),
        )


class DialsSettings(Strict):
    """The reference engine."""

    python: str | None
    """The interpreter that has DIALS; null: found by itself."""


class IndexingSettings(Strict):
    """The slow lane."""

    engine: Literal["off", "embedded", "dials"]
    every: Annotated[int, Field(ge=1)] | None
    """Null: as many frames as the lane keeps up with."""
    processes: Annotated[int, Field(ge=1, le=256)] | None
    queue: Annotated[int, Field(ge=2, le=100_000)]
    timeout_s: Positive
    cell: str | None
    together: Annotated[int, Field(ge=1, le=20)]
    """Frames of a rotation that are indexed at once."""
    dials: DialsSettings

    @model_validator(mode="after")
    def _can(self) -> Self:
        if self.engine == "dials" and self.together > 1:
            raise ValueError(f"together={self.together}: DIALS is given one frame at a time; set indexing.together=1 or indexing=embedded")
        return self

    @field_validator("cell")
    @classmethod
    def _is_cell(cls, text: str | None) -> str | None:
        _ = None if text is None else _cell(text)
        return text

    @property
    def known_cell(self) -> Cell | None:
        """The cell that is known beforehand, in A and deg."""
        return None if self.cell is None else _cell(self.cell)


def _cell(text: str) -> Cell:
    try:
        a, b, c, alpha, beta, gamma = (float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise ValueError(f"{text!r} is no unit cell; write a,b,c,alpha,beta,gamma in A and deg") from None
    if not (all(1.0 <= length <= 10_000.0 for length in (a, b, c)) and _close(alpha, beta, gamma)):
        raise ValueError(f"{text!r} is no unit cell: lengths of 1 to 10,000 A and angles that close are wanted")
    return a, b, c, alpha, beta, gamma


def _close(alpha: float, beta: float, gamma: float) -> bool:
    """Whether three axes can have these angles between them, in deg."""
    angles = (alpha, beta, gamma)
    return all(1.0 < angle < 179.0 for angle in angles) and 2.0 * max(angles) < sum(angles) < 359.0


class PathSettings(Strict):
    """A sink's file; null: no such sink."""

    path: str | None


class LogSettings(Strict):
    """Flags and summaries as log lines on standard error."""

    enabled: bool


class SinksSettings(Strict):
    """Where records go."""

    jsonl: PathSettings
    hdf5: PathSettings
    good_frames: PathSettings
    log: LogSettings


class DashboardSettings(Strict):
    """The live page."""

    enabled: bool
    host: str
    port: Port


class ReplaySettings(Strict):
    """The detector in a box."""

    protocol: Literal["stream1", "stream2"]
    endpoint: str
    rate_hz: Positive | None
    """Null: as fast as the listener takes them."""
    loop: bool


class DemoSettings(Strict):
    """The demonstration."""

    file: str | None
    """Null: the demo run that comes with triage."""
    frames: Annotated[int, Field(ge=1)] | None
    """How many to send; null: over and over, until Ctrl-C."""
    rate_hz: Positive


class ReplayVerb(Strict):
    """Everything `triage replay` may be told."""

    source: FilesSettings
    replay: ReplaySettings


class RunVerb(Strict):
    """Everything `triage run` may be told."""

    source: FilesSettings
    model: ModelSettings
    flags: FlagGroups
    indexing: IndexingSettings
    sinks: SinksSettings
    dashboard: DashboardSettings
    mode: Annotated[Mode, Field(strict=False)]
    run: RunSettings
    sample: Literal["macromolecule", "small_molecule"]
    pipeline: PipelineSettings


class ListenVerb(RunVerb):
    """Everything `triage listen` may be told."""

    source: Annotated[FilesSettings | StreamSettings, Field(discriminator="kind")]  # type: ignore[assignment]


class DemoVerb(ListenVerb):
    """Everything `triage demo` may be told."""

    demo: DemoSettings
