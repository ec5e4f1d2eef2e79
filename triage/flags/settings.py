"""Thresholds and persistence of every flag, with defaults for a beamline that has measured none of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from triage.flags.persistence import FlagThreshold, ThresholdError
from triage.flags.prior import Lattices

MULTI_LATTICE = FlagThreshold(raise_at=0.65, clear_at=0.45, k=7, n=10)
NON_DIFFRACTION = FlagThreshold(raise_at=0.8, clear_at=0.4, k=7, n=10)
DECAY = FlagThreshold(raise_at=0.8, clear_at=0.1, k=1, n=10)
ICE = FlagThreshold(raise_at=0.6, clear_at=0.4, k=7, n=10)
COVERAGE = FlagThreshold(raise_at=0.2, clear_at=0.05, k=10, n=100)
SOURCE = FlagThreshold(raise_at=0.5, clear_at=0.5, k=5, n=20)
CELL_OUTLIER = FlagThreshold(raise_at=0.5, clear_at=0.5, k=6, n=20)
SERIAL_MULTI_LATTICE = FlagThreshold(raise_at=0.5, clear_at=0.3, k=30, n=50)


class Evidence(StrEnum):
    """What the `multi_lattice` flag rests on."""

    NETWORK = "network"
    FUSED = "fused"


@dataclass(frozen=True, slots=True)
class PriorShift:
    """Base rates of 0, 1, 2, 3-or-more lattices: the model's, and the beamline's."""

    from_rates: Lattices
    to_rates: Lattices


@dataclass(frozen=True, slots=True)
class SerialSettings:
    """What the flags mean where every frame shows another crystal."""

    multi_lattice: FlagThreshold = SERIAL_MULTI_LATTICE
    """Of hits, not frames: 30 of 50 is a share of 60 %."""
    fall_to: float = 0.3
    """A hit rate that fell to this share of the run's own is the trouble looked for."""
    expected_hits: float = 20.0
    """The hit rate is taken over as many frames as would hold this many hits at the run's own rate."""
    largest_window: int = 2000
    prior: float = 0.001
    """Probability that the hit rate has fallen, before looking."""

    def __post_init__(self) -> None:
        if not (0 < self.fall_to < 1 and 0 < self.prior < 1):
            raise ThresholdError(f"serial.fall_to = {self.fall_to:g} and serial.prior = {self.prior:g}: set both between 0 and 1")
        if not (self.expected_hits >= 1 and self.largest_window >= 1):
            raise ThresholdError("serial.expected_hits and serial.largest_window: set both to at least 1")


@dataclass(frozen=True, slots=True)
class FlagsSettings:
    """One threshold a flag; `coverage` reads `raise_at` as a share of frames, and k as the fewest frames lost."""

    multi_lattice: FlagThreshold = MULTI_LATTICE
    non_diffraction: FlagThreshold = NON_DIFFRACTION
    decay: FlagThreshold = DECAY
    ice: FlagThreshold = ICE
    coverage: FlagThreshold = COVERAGE
    source: FlagThreshold = SOURCE
    cell_outlier: FlagThreshold = CELL_OUTLIER
    serial: SerialSettings = field(default_factory=SerialSettings)
    evidence: Evidence = Evidence.NETWORK
    """What `multi_lattice` rests on."""
    prior: PriorShift | None = None
    """None: probabilities as the model gives them, at its own base rates."""
