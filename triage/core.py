"""The nouns of the system, and the one-method seams between its parts.

Arrays and positions are (slow, fast); units are in the names; frames count from zero; absence is None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from triage.geometry import Geometry, StatedGeometry, Vector

Pixels = npt.NDArray[Any]
"""One frame's counts as the detector gave them, (slow, fast), integer or float32."""
Mask = npt.NDArray[np.bool_]
"""True where a pixel must not be used, (slow, fast)."""
FloatArray = npt.NDArray[np.float32]


class TriageError(Exception):
    """Something a person can mend; the message is one line that names the file, message or key, and the mend."""


class FrameError(TriageError):
    """One frame cannot be judged; the others can."""


class SourceError(TriageError):
    """A file or stream cannot be read at all."""


class RunKind(StrEnum):
    """What a run is; it decides what a flag means (contract, section 3)."""

    ROTATION = "rotation"
    STILLS = "stills"
    SERIAL = "serial"
    GRID = "grid"


class Severity(StrEnum):
    """How urgent a flag is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


NON_DIFFRACTION_KINDS = ("blank", "ice", "salt", "artefact")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHeader:
    """What a source's header states of a run; None where it says nothing. Nothing here has been checked."""

    source: str
    """The path as given, or the endpoint."""
    detector: str | None = None
    shape_px: tuple[int, int] | None = None
    stated: StatedGeometry = field(default_factory=StatedGeometry)
    geometry_source: str = "header"
    geometry_problem: str | None = None
    """Why the header's geometry must not be used (a cylinder of panels, say), or None."""
    geometry_mendable: bool = False
    """Whether overriding both distance_mm and beam_px settles the problem (a header that contradicts itself), as it cannot a cylinder."""
    pixel_mask: Mask | None = None
    mask_source: str | None = None
    negative_is_no_data: bool = False
    """Pilatus and Eiger CBF: every negative value is no data. Detectors with an offset have valid negatives."""
    no_data_value: float | None = None
    """A negative value that marks pixels without data in signed frames (Jungfraujoch's `error_value`), or None."""
    saturation_value: float | None = None
    counts_per_photon: float = 1.0
    offset: float = 0.0
    """counts = offset + counts_per_photon * photons."""
    kind: RunKind | None = None
    """Where the header tells (rotation increment, grid metadata), else None."""
    frames_expected: int | None = None
    omega_start_deg: float | None = None
    omega_step_deg: float | None = None
    rotation_axis: Vector | None = None
    """Unit vector in the frame of `triage.geometry` about which the sample turns, right-handed, by `omega_step_deg` from frame to frame."""
    exposure_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One series of frames of one geometry, checked and ready for judging."""

    id: str
    header: RunHeader
    kind: RunKind | None
    """None only where nothing is known of the run (an unreadable file, a stream whose start was missed)."""
    geometry: Geometry | None
    """None where it is absent or implausible; then `geometry_problem` says why, and frames are judged without resolution."""
    geometry_problem: str | None = None
    geometry_source: str = "none"
    mask: Mask | None = None
    mask_source: str = "no-data values"
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def valid_range(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        """Smallest and largest raw value that is a measurement (inclusive): all else is no data.

        Unsigned data: 2^n-1 and 2^n-2 are no data (DECTRIS SIMPLON manual: pixel mask and value range).
        """
        if np.issubdtype(dtype, np.unsignedinteger):
            return 0.0, float(np.iinfo(dtype).max) - 2.0
        low = 0.0 if self.header.negative_is_no_data else -3.0e38
        if self.header.no_data_value is not None and self.header.no_data_value < 0:
            low = max(low, self.header.no_data_value + 1.0)
        return low, float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 3.0e38


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One frame, still compressed: `decode` gives its pixels, or raises FrameError."""

    run: Run
    index: int
    """Zero-based within the run: the order in the file or group, or the stream's image number."""
    decode: Callable[[], Pixels]
    arrived_s: float
    """time.monotonic() when the last byte was received, or reading from file began."""
    file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lost:
    """Messages or frames of a run that are received but will never be judged."""

    run: Run
    what: str
    """`dropped` (skipped, repeated, no header) or `failed` (undecodable)."""
    count: int = 1
    reason: str = ""
    index: int | None = None
    """The frame concerned, where it is known."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunEnd:
    """The source has nothing more of this run."""

    run: Run
    complete: bool
    reason: str | None = None
    """Why it is not complete."""


Event = Run | Frame | Lost | RunEnd
"""What a source yields: a Run, then its Frames and Losses, then its RunEnd. Runs of one source do not interleave."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spots:
    """Spots of one frame, strongest first. All arrays have length n."""

    positions_px: FloatArray
    """(n, 2) centroids (slow, fast); the centre of the first pixel is (0.5, 0.5)."""
    intensity: FloatArray
    """Background-subtracted sum, in photons."""
    sigma: FloatArray
    """Poisson standard deviation of the intensity, in photons."""
    background: FloatArray
    """Mean local background, photons per pixel."""
    peak: FloatArray
    """Largest pixel, in photons."""
    n_pixels: npt.NDArray[np.int32]
    """Connected strong pixels."""
    inverse_d_per_A: FloatArray | None
    """s = 1/d; None without geometry."""
    on_ice: npt.NDArray[np.bool_]
    """Within an ice ring's band; all False without geometry."""

    def __len__(self) -> int:
        return len(self.intensity)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotSummary:
    """What classical spot finding says of a frame."""

    count: int
    count_no_ice: int
    resolution_A: float | None
    """The 95th percentile of 1/d, as d."""
    total_intensity: float
    """In photons."""
    mean_i_over_sigma: float | None
    resolution_shells_A: float | None = None
    """Where the number of spots in shells of equal volume falls off (DISTL's method 2); None where there are too few spots."""
    sharpness: float | None = None
    """Median share of a spot's photons in its largest pixel, 0 to 1; None without spots."""
    overloads: int | None = None
    """Spots with a pixel at or above the run's saturation value; None where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamCheck:
    """Whether the stated beam centre fits the one lattice that explains most of a frame's spots."""

    stated: float
    """Share of the spots that the lattice explains with the beam where the header has it."""
    moved: float
    """The same with the beam centre free."""
    moved_px: float
    """How far it then lies from the stated one; only the order of magnitude is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the network alone says of a frame, calibrated at the base rates recorded in the model."""

    lattices: tuple[float, float, float, float]
    """Probabilities of 0, 1, 2, 3-or-more visible sample lattices; they sum to 1."""
    non_diffraction_kind: tuple[float, float, float, float]
    """Probabilities over NON_DIFFRACTION_KINDS, given that the frame does not diffract; they sum to 1."""
    ice_rings: float
    resolution_A: float | None
    beam: BeamCheck | None = None
    """None where there is no geometry, or too few spots to say."""
    appearance: npt.NDArray[np.float64] | None = field(default=None, compare=False, repr=False)
    """(APPEARANCE,) of `triage.pair`: what decay compares of a frame with others of its run. Not recorded; None from a model without."""

    @property
    def multi_lattice(self) -> float:
        """Probability of two or more lattices."""
        return self.lattices[2] + self.lattices[3]

    @property
    def non_diffraction(self) -> float:
        """Probability that no sample lattice is visible."""
        return self.lattices[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decay:
    """How a frame compares with the run's own reference frames."""

    probability: float
    """That the outer shell has lost more than 15 %, calibrated within each kind of run."""
    alarm_probability: float
    """The same evened over kinds and lengths of runs, so that one level is one rate of false alarms; the flag watches this one."""
    delta_B_A2: float
    delta_B_sigma: float
    scale: float
    """Of the intensity, against the reference: flux, volume in the beam and damage together."""
    scale_sigma: float
    reference_frames: tuple[int, int]
    """First and last frame of the reference, inclusive."""
    since_frame: int | None = None
    """Where the growth of B most likely began; None where there is no sign of one."""
    outer_d_A: float | None = None
    """Edge of the outer shells that `outer_loss` speaks of; None where it was not looked at."""
    outer_loss: float | None = None
    """Share of the intensity that the spots beyond `outer_d_A` have lost to damage, as fitted."""
    inner_d_A: float | None = None
    inner_loss: float | None = None
    """The same of the spots below `inner_d_A`."""
    again_delta_B_A2: float | None = None
    """Growth of B from the run's first eighth to its last, by reflections and symmetry mates measured again; None without an indexed frame
    of a rotation, or enough of them."""
    again_delta_B_sigma: float | None = None
    again_spots: int | None = None
    """Measurements of reflections that were measured again."""
    network_probability: float | None = None
    """The network's own word, from its looks at the reference's frames and at the last block; None from a model that gives none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellIntensities:
    """Summed spot intensity in shells of s = 1/d, the classical evidence for decay. Arrays of one length."""

    edges_per_A: tuple[float, ...]
    """Shell limits in s, one more than there are shells."""
    intensity: tuple[float, ...]
    """Photons above background."""
    variance: tuple[float, ...]
    """Photons squared."""
    count: tuple[int, ...] = ()
    """Spots in the shell; empty where not counted."""
    faintest: tuple[float, ...] = ()
    """Intensity of the shell's faintest spot, in photons, 0 where there is none; empty where not looked at."""
    spots: Spots | None = field(default=None, compare=False, repr=False)
    """The spots themselves; None where they were not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All that is said of one frame early; judgements are None where `error` says what went wrong."""

    run_id: str
    frame: int
    file: str | None
    judgement: Judgement | None
    spots: SpotSummary | None
    shells: ShellIntensities | None = None
    decay: Decay | None = None
    latency_ms: float
    error: str | None = None
    found: Spots | None = field(default=None, repr=False, compare=False)
    """The spots themselves, on their way to the slow lane; None where there is none, and in what sinks are given."""


Cell = tuple[float, float, float, float, float, float]
"""a, b, c in A; alpha, beta, gamma in deg."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """One lattice that indexing found in a frame."""

    cell: Cell
    """Conventional cell of `bravais`."""
    bravais: str
    """Bravais type by its Pearson letters, such as oP."""
    space_group: str | None
    """Where it is known (from a known cell, say), else None."""
    n_indexed: int
    """Spots that this lattice explains."""
    fraction_indexed: float
    """Of the spots given."""
    orientation: tuple[float, ...]
    """Nine numbers: the rotation U, row by row, in the frame of `triage.geometry`; g = U B h with B of Busing & Levy (1967)."""


class IndexingStatus(StrEnum):
    """How indexing of a frame ended."""

    INDEXED = "indexed"
    NOT_INDEXED = "not_indexed"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """What an indexer says of one frame's spots."""

    status: IndexingStatus
    reason: str | None = None
    """Why it is not indexed, or None."""
    solutions: tuple[Solution, ...] = ()
    """Strongest first."""
    n_unindexed: int | None = None
    """Spots that no solution explains; None where indexing did not take place."""
    fraction_unexplained: float | None = None
    """Share of spots that the first solution leaves unexplained; None without one."""
    beam_shift_px: tuple[float, float] | None = None
    """By how much the beam is off where it is stated (slow, fast), by the first solution; None where that is not told."""


class Agreement(StrEnum):
    """What network and indexing say together of several lattices in a frame that was indexed."""

    AGREES = "agrees"
    NETWORK_ONLY = "network_only"
    CLASSICAL_ONLY = "classical_only"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellShare:
    """Frames of a run whose lattices are alike."""

    cell: Cell
    """The middle of them, conventional."""
    bravais: str
    """Bravais type of most of them, by its Pearson letters."""
    n: int
    """Frames."""
    share: float
    """Of the run's indexed frames."""
    drift_percent_per_1000_frames: float | None = None
    """By how much the cell's edges grow with the frame number; None where that is not significant (3 sigma) or not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexing:
    """The classical witness's record of one frame; it may come later than the frame's own."""

    run_id: str
    frame: int
    engine: str
    """Which indexer, with its version."""
    indexed: Indexed
    multi_lattice: float | None
    """The network's probability fused with this evidence; None where there is neither."""
    agreement: Agreement | None = None
    """None where one of the two witnesses says nothing."""
    cells: tuple[CellShare, ...] = ()
    """The run's cells so far, largest cluster first; only with a frame that was indexed."""
    is_outlier: bool | None = None
    """Whether this frame's cell is that of another cluster than the run's largest; None where that cannot be told."""
    latency_ms: float
    """From the frame's arrival to this record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A red flag raised or cleared."""

    id: str
    run_id: str
    flag: str
    state: str
    """`raised` or `cleared`."""
    first_frame: int
    """Where the trouble seems to begin."""
    frame: int
    """Where it was decided."""
    severity: Severity
    probability: float | None
    reason: str
    """One sentence for the person at the beamline."""
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A run's books: received = judged + dropped + failed, once every frame in flight is done."""

    received: int = 0
    judged: int = 0
    dropped: int = 0
    failed: int = 0
    missing: int = 0
    """Announced, never received; known at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Which network judges."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunStarted:
    """The first record of a run."""

    run: Run
    model: Model | None
    config: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """The last record of a run."""

    run_id: str
    progress: Progress
    flags: dict[str, int]
    """How often each flag was raised."""
    indexed: int
    """Frames in which indexing found a lattice."""
    wall_s: float
    complete: bool
    reason: str | None


Record = RunStarted | Verdict | Indexing | Flag | RunFinished


class FrameSource(Protocol):
    """Where frames come from: the file and stream sources."""

    def __iter__(self) -> Iterator[Event]:
        """Every event, runs one after another."""
        ...


class SpotFinder(Protocol):
    """Classical spot finding."""

    def find(self, pixels: Pixels, run: Run) -> Spots:
        """The spots of a frame (slow, fast), strongest first."""
        ...


class Classifier(Protocol):
    """The network."""

    def score(self, pixels: Pixels, spots: Spots, run: Run) -> Judgement:
        """The judgement of a frame (slow, fast) with these spots."""
        ...


class Indexer(Protocol):
    """Indexing of one frame's spots; never raises for want of a lattice.

    One that tells `Indexed.beam_shift_px` also takes an argument of that name, `tuple[float, float] | None`: where earlier frames of the
    run have the beam, from where it is stated, tried first.
    """

    def index(self, spots: Spots, run: Run, *, cells: Sequence[Cell] = ()) -> Indexed:
        """Every lattice of the spots; `cells` are known ones, likeliest first, tried before an unknown one is sought."""
        ...


class FlagPolicy(Protocol):
    """Evidence over time to flags; one fresh instance a run and flag."""

    def update(self, verdict: Verdict, progress: Progress) -> Iterable[Flag]:
        """Flags raised or cleared by the next verdict, in frame order."""
        ...


@runtime_checkable
class IndexingPolicy(Protocol):
    """A flag policy that hears the classical witness too, as its records come: any time after the frame's own."""

    def update(self, verdict: Verdict, progress: Progress) -> Iterable[Flag]:
        """As of a FlagPolicy."""
        ...

    def witness(self, indexing: Indexing) -> Iterable[Flag]:
        """Flags raised or cleared by the next indexing record."""
        ...


class Sink(Protocol):
    """Where records go. `close` is called once, also after an error."""

    def accept(self, record: Record) -> None:
        """Takes one record."""
        ...

    def close(self) -> None:
        """Writes what is left and lets go."""
        ...
