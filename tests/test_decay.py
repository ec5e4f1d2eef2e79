"""Decay against runs drawn from a known B, scale, Wilson's distribution, Poisson noise and a detection threshold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from triage.core import Decay, Judgement, Run, RunHeader, RunKind, ShellIntensities, Spots, Verdict
from triage.decay import SHELL_EDGES_PER_A, DecaySettings, DecayTracker, shell_intensities
from triage.geometry import Geometry

GEOMETRY = Geometry(wavelength_A=1.0, distance_mm=200.0, pixel_mm=(0.075, 0.075), beam_px=(1000.0, 1000.0), shape_px=(2000, 2000))
GOOD = Judgement(lattices=(0.02, 0.96, 0.01, 0.01), non_diffraction_kind=(0.25, 0.25, 0.25, 0.25), ice_rings=0.0, resolution_A=2.0)
EMPTY = replace(GOOD, lattices=(0.97, 0.02, 0.005, 0.005))
ALARM = 0.8

Course = Callable[[int], float]


def a_run(kind: RunKind | None = RunKind.ROTATION, geometry: Geometry | None = GEOMETRY) -> Run:
    return Run(id="r", header=RunHeader(source="s"), kind=kind, geometry=geometry)


def spots_of(
    intensity: np.ndarray, s: np.ndarray, on_ice: np.ndarray | None = None, background: float = 1.0, at: np.ndarray | None = None
) -> Spots:
    """Spots at `at` (n, 2), by default far apart."""
    n = len(intensity)
    return Spots(
        positions_px=(10.0 * np.stack([np.arange(n), np.arange(n)], axis=1) if at is None else at).astype(np.float32),
        intensity=intensity.astype(np.float32),
        sigma=np.sqrt(np.maximum(intensity, 0) + 12 * background).astype(np.float32),
        background=np.full(n, background, dtype=np.float32),
        peak=intensity.astype(np.float32),
        n_pixels=np.full(n, 6, dtype=np.int32),
        inverse_d_per_A=s.astype(np.float32),
        on_ice=np.zeros(n, dtype=bool) if on_ice is None else on_ice,
    )


@dataclass
class Crystal:
    """Draws the spots of a frame: `n` reflections with s^2 density up to d_min, Wilson intensities, found above a threshold."""

    n: int = 500
    d_min_A: float = 1.6
    strength: float = 2000.0
    wilson_B: float = 20.0
    threshold: float = 25.0
    partials: bool = False
    persistence: float = 0.0
    """Share of the reflections that the next frame still sees (fine slicing)."""

    def frames(self, rng: np.random.Generator, n_frames: int, delta_B: Course, scale: Course) -> list[Spots]:
        frames = []
        s, unit, at = self._reflections(rng, self.n)
        for i in range(n_frames):
            kept = rng.random(self.n) < self.persistence
            fresh_s, fresh_unit, fresh_at = self._reflections(rng, self.n)
            s, unit, at = np.where(kept, s, fresh_s), np.where(kept, unit, fresh_unit), np.where(kept[:, None], at, fresh_at)
            seen = rng.random(self.n) < 0.9 + 0.1 * math.sin(i)  # the number of reflections varies with the orientation
            mean = self.strength * scale(i) * unit[seen] * np.exp(-(self.wilson_B + delta_B(i)) * s[seen] ** 2 / 2)
            measured = rng.poisson(mean + 12.0) - 12.0  # 12 photons of background under the spot
            found = measured > self.threshold
            frames.append(spots_of(measured[found], s[seen][found], at=at[seen][found]))
        return frames

    def _reflections(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        s = (rng.random(n) * (self.d_min_A**-3 - 0.05**3) + 0.05**3) ** (1 / 3)
        partial = rng.random(n) if self.partials else 1.0
        return s, rng.exponential(1.0, n) * partial, rng.uniform(0.0, 20_000.0, (n, 2))  # so far apart that none meet


def judged(frames: list[Spots], run: Run | None = None, tracker: DecayTracker | None = None) -> list[Decay | None]:
    tracker = tracker or DecayTracker(run or a_run())
    return [tracker.update(a_verdict(i, shell_intensities(spots))) for i, spots in enumerate(frames)]


def a_verdict(frame: int, shells: ShellIntensities | None, judgement: Judgement | None = GOOD) -> Verdict:
    return Verdict(run_id="r", frame=frame, file=None, judgement=judgement, spots=None, shells=shells, latency_ms=1.0)


def course(
    crystal: Crystal, seed: int, *, n_frames: int = 80, delta_B: Course = lambda i: 0.0, scale: Course = lambda i: 1.0
) -> list[Decay]:
    rng = np.random.default_rng(seed)
    return [decay for decay in judged(crystal.frames(rng, n_frames, delta_B, scale)) if decay is not None]


def largest_run_of_alarms(decays: list[Decay]) -> int:
    longest = current = 0
    for decay in decays:
        current = current + 1 if decay.alarm_probability > ALARM else 0
        longest = max(longest, current)
    return longest


CRYSTALS = [
    pytest.param(Crystal(), id="strong"),
    pytest.param(Crystal(n=150, strength=600), id="weak"),
    pytest.param(Crystal(n=200, d_min_A=2.8, wilson_B=60, strength=1500), id="low-resolution"),
    pytest.param(Crystal(partials=True), id="partials"),
    pytest.param(Crystal(persistence=0.6), id="fine-sliced"),
    pytest.param(Crystal(n=250, persistence=1.0), id="stills"),
]


def test_shells_sum_the_spots_and_leave_ice_out() -> None:
    s = np.array([0.06, 0.07, 0.30, 0.31, 0.01, 2.0])
    intensity = np.array([100.0, 50.0, 30.0, 70.0, 1e6, 1e6])
    shells = shell_intensities(spots_of(intensity, s, on_ice=np.array([False, False, False, True, False, False])))
    assert shells is not None
    inner, outer = SHELL_EDGES_PER_A.index(0.05), SHELL_EDGES_PER_A.index(0.29)
    assert [shells.intensity[i] for i in (inner, outer)] == [150.0, 30.0]
    assert [shells.variance[i] for i in (inner, outer)] == pytest.approx([100 + 50 + 24, 30 + 12])
    assert [shells.count[i] for i in (inner, outer)] == [2, 1]
    assert [shells.faintest[i] for i in (inner, outer)] == [50.0, 30.0]
    assert sum(shells.count) == 3


def test_no_shells_without_geometry_and_empty_shells_without_spots() -> None:
    empty = spots_of(np.zeros(0), np.zeros(0))
    shells = shell_intensities(empty)
    assert shells is not None
    assert set(shells.intensity) == {0.0}
    assert shell_intensities(replace(empty, inverse_d_per_A=None)) is None


@pytest.mark.parametrize("crystal", CRYSTALS)
@pytest.mark.parametrize("truth", [(6.0, 1.0), (15.0, 0.7)])
def test_recovers_the_growth_of_B_and_the_scale(crystal: Crystal, truth: tuple[float, float]) -> None:
    """Growth within 3 sigma + 20 %, averaged over runs: the threshold's correction is exact only for full Wilson intensities."""
    delta_B, scale = truth
    found = []
    for seed in range(6):
        decays = course(crystal, seed, n_frames=40, delta_B=lambda i: delta_B * (i >= 15), scale=lambda i: 1.0 if i < 15 else scale)
        found.append(decays[-1])
    mean = float(np.mean([decay.delta_B_A2 for decay in found]))
    error = float(np.std([decay.delta_B_A2 for decay in found])) / math.sqrt(len(found))
    assert abs(mean - delta_B) < 3 * error + 0.2 * delta_B
    assert np.mean([decay.scale for decay in found]) == pytest.approx(scale, rel=0.25)
    assert found[0].reference_frames == (0, 11)


@pytest.mark.parametrize("crystal", CRYSTALS)
def test_its_sigma_is_honest(crystal: Crystal) -> None:
    """Of undamaged runs, about as many lie beyond two sigma as should; at most 20 % instead of 5 %: the sigma is an estimate, and here the
    number of reflections in a shell varies as Poisson's, in a lattice less.
    """
    pulls = []
    for seed in range(60):
        decay = course(crystal, 1000 + seed, n_frames=19)[-1]
        pulls.append(decay.delta_B_A2 / decay.delta_B_sigma)
    assert np.mean(np.abs(pulls) > 2) <= 0.2
    assert np.std(pulls) > 0.4  # nor is it so large that nothing is ever found


@pytest.mark.parametrize("crystal", CRYSTALS)
def test_stays_quiet_on_an_undamaged_run(crystal: Crystal) -> None:
    """Not one frame of 150 would raise the flag."""
    assert largest_run_of_alarms(course(crystal, 1, n_frames=150)) == 0


LOOK_ALIKES = {
    "leaving the beam": lambda i: max(0.1, 1.0 - max(0, i - 20) / 60),
    "flux dip": lambda i: 0.25 if 40 <= i < 50 else 1.0,
    "beam dump and back": lambda i: 0.01 if 40 <= i < 45 else 1.0,
    "plate, periodic in rotation": lambda i: 1.0 + 0.7 * math.sin(2 * math.pi * i / 40),
    "top-up": lambda i: 1.05 - 0.1 * (i % 20) / 20,
}


@pytest.mark.parametrize("name", LOOK_ALIKES)
@pytest.mark.parametrize("crystal", CRYSTALS)
def test_a_falling_scale_alone_is_not_decay(name: str, crystal: Crystal) -> None:
    assert largest_run_of_alarms(course(crystal, 1, n_frames=100, scale=LOOK_ALIKES[name])) == 0


@pytest.mark.parametrize("crystal", CRYSTALS)
def test_catches_damage(crystal: Crystal) -> None:
    """B grows by 0.3 A^2 a frame from frame 20, and the scale falls: it is said before B has grown by 20 A^2."""
    for seed in range(2):
        decays = course(crystal, seed, n_frames=100, delta_B=lambda i: 0.3 * max(0, i - 20), scale=lambda i: math.exp(-max(0, i - 20) / 60))
        alarms = [100 - len(decays) + i for i, decay in enumerate(decays) if decay.alarm_probability > ALARM]
        assert 20 < alarms[0] < 86


def test_damaged_stills_are_judged_from_a_few_frames_on() -> None:
    """Five frames of recurring reflections are enough of a start; a turning crystal, or one with few spots, needs twelve or more."""

    def first(crystal: Crystal, kind: RunKind) -> tuple[int, int]:
        found = judged(crystal.frames(np.random.default_rng(5), 40, lambda i: 0.0, lambda i: 1.0), a_run(kind))
        return next(decay.reference_frames for decay in found if decay is not None)

    assert first(Crystal(n=1500, persistence=1.0), RunKind.STILLS) == (0, 4)
    assert first(Crystal(persistence=1.0), RunKind.ROTATION) == (0, 11)
    assert first(Crystal(persistence=0.6), RunKind.STILLS) == (0, 11)  # a header that does not tell of the rotation
    few = first(Crystal(n=60, persistence=1.0), RunKind.STILLS)
    assert 4 < few[1] < 24


def test_a_bad_start_is_left_out_of_the_reference() -> None:
    entering = course(Crystal(), 3, n_frames=60, scale=lambda i: 0.05 if i < 4 else 1.0)
    assert entering[0].reference_frames == (4, 11)
    assert abs(entering[-1].delta_B_A2) < 3 * entering[-1].delta_B_sigma + 1.0
    assert entering[-1].scale == pytest.approx(1.0, rel=0.25)


def test_frames_that_do_not_diffract_are_no_reference_and_have_no_decay() -> None:
    frames = Crystal().frames(np.random.default_rng(1), 40, lambda i: 0.0, lambda i: 1.0)
    tracker = DecayTracker(a_run())
    empty = [tracker.update(a_verdict(i, shell_intensities(spots_of(np.zeros(0), np.zeros(0))), EMPTY)) for i in range(10)]
    good = [tracker.update(a_verdict(10 + i, shell_intensities(spots))) for i, spots in enumerate(frames)]
    assert empty == [None] * 10
    first = next(decay for decay in good if decay is not None)
    assert first.reference_frames == (10, 21)
    gone = [tracker.update(a_verdict(60 + i, shell_intensities(frames[0]), EMPTY)) for i in range(10)]
    assert gone == [None] * 10
    assert tracker.update(a_verdict(70, shell_intensities(frames[0]))) is None  # the window holds no more than one diffracting frame


def test_a_frame_in_error_is_passed_over() -> None:
    frames = Crystal().frames(np.random.default_rng(2), 30, lambda i: 0.0, lambda i: 1.0)
    tracker = DecayTracker(a_run())
    for i, spots in enumerate(frames):
        assert tracker.update(a_verdict(2 * i, None, None)) is None
        decay = tracker.update(a_verdict(2 * i + 1, shell_intensities(spots)))
    assert decay is not None


@pytest.mark.parametrize(
    "run",
    [a_run(RunKind.SERIAL), a_run(RunKind.GRID), a_run(geometry=None)],
    ids=["serial", "grid", "no geometry"],
)
def test_meaningless_where_there_is_no_one_crystal_or_no_geometry(run: Run) -> None:
    frames = Crystal(n=100).frames(np.random.default_rng(1), 40, lambda i: 0.0, lambda i: 1.0)
    assert judged(frames, run) == [None] * 40


def test_frames_with_few_or_no_spots_are_survived() -> None:
    """Frames that the network takes for diffraction although next to nothing was found."""
    rng = np.random.default_rng(4)
    frames = [spots_of(rng.exponential(100.0, i % 4), rng.uniform(0.1, 0.5, i % 4)) for i in range(60)]
    assert judged(frames) == [None] * 60
    fine = Crystal().frames(rng, 20, lambda i: 0.0, lambda i: 1.0)
    last = judged(fine + frames)[-1]
    assert last is None or (math.isfinite(last.delta_B_A2) and 0.0 <= last.probability <= 1.0)


def test_shells_without_counts_are_accepted() -> None:
    shells = shell_intensities(Crystal().frames(np.random.default_rng(1), 1, lambda i: 0.0, lambda i: 1.0)[0])
    assert shells is not None
    tracker = DecayTracker(a_run())
    for i in range(30):
        decay = tracker.update(a_verdict(i, replace(shells, count=(), faintest=())))
    assert decay is not None  # thirty times the same frame
    assert abs(decay.delta_B_A2) < 0.1
    assert decay.probability < 0.5


def test_the_memory_is_bounded() -> None:
    tracker = DecayTracker(a_run(), DecaySettings(reference=5, reference_spots=1))
    frames = Crystal(n=100).frames(np.random.default_rng(1), 60, lambda i: 0.0, lambda i: 1.0)
    judged(frames, tracker=tracker)
    assert tracker._reference is not None
    assert len(tracker._window) == tracker._reference.window <= 15
    assert all(len(blocks) < tracker._reference.window for blocks in tracker._series)
    assert tracker._start == []


class Weighing(DecayTracker):
    """Keeps the frames at which the probability was said anew."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.at: list[int] = []

    def _weigh(self, features: np.ndarray | None, frame: int) -> None:
        super()._weigh(features, frame)
        if features is not None:
            self.at.append(frame)


def test_a_young_rotation_is_looked_at_twice_as_often() -> None:
    """By blocks of five frames, and others that begin two frames later; after a hundred by the first ones alone. Stills have one row."""
    tracker = Weighing(a_run())
    judged(Crystal().frames(np.random.default_rng(1), 140, lambda i: 0.0, lambda i: 1.0), tracker=tracker)
    assert tracker._reference is not None
    assert tracker._reference.window == 5
    young, old = [frame for frame in tracker.at if frame < 100], [frame for frame in tracker.at if frame >= 100]
    assert young == sorted([*range(14, 100, 5), *range(16, 100, 5)])
    assert old == list(range(104, 140, 5))
    stills = Weighing(a_run(RunKind.STILLS))
    judged(Crystal(persistence=1.0).frames(np.random.default_rng(1), 40, lambda i: 0.0, lambda i: 1.0), tracker=stills)
    assert stills._reference is not None
    assert set(np.diff(stills.at)) == {stills._reference.window}


def test_stills_are_known_by_their_repeating_spots_and_judged_more_closely() -> None:
    """The same reflections again and again: their sum tells what new ones, of random intensities, cannot."""
    same, new = (course(Crystal(persistence=share), 5, n_frames=30)[-1] for share in (1.0, 0.0))
    assert same.delta_B_sigma < 0.7 * new.delta_B_sigma  # of two frames, against five


def test_a_rising_background_is_no_decay() -> None:
    """Faint outer spots drown: the threshold follows the background, so that what is left is compared with what would be left."""
    rng = np.random.default_rng(8)
    s, unit, at = Crystal(n=300)._reflections(rng, 300)
    frames = []
    for i in range(60):
        level = 1.0 if i < 25 else 6.0
        beneath = 12.0 * level
        measured = rng.poisson(600.0 * unit * np.exp(-10.0 * s**2) + beneath) - beneath
        found = measured > 5.0 * np.sqrt(np.maximum(measured, 0) + beneath)
        frames.append(spots_of(measured[found], s[found], background=level, at=at[found]))
    last = judged(frames)[-1]
    assert last is not None
    assert abs(last.delta_B_A2) < 2.0 + 2 * last.delta_B_sigma


def test_a_record_says_what_was_seen_of_high_and_low_resolution() -> None:
    """Losses at the mean s^2 of the outer and inner fifths of the spots, by the fitted scale and growth."""
    decay = course(Crystal(persistence=1.0), 3, n_frames=60, delta_B=lambda i: 0.4 * max(0, i - 20))[-1]
    assert decay.outer_d_A is not None
    assert decay.outer_loss is not None
    assert decay.inner_loss is not None
    assert decay.inner_d_A is not None
    assert decay.outer_d_A < 3.0 < 4.0 < 2 * decay.inner_d_A
    assert decay.outer_loss > 1 - math.exp(-14.0 / decay.outer_d_A**2 / 2) - 0.1  # B grew by 15.6 at the end, less within the last window
    assert 0.0 < decay.inner_loss < decay.outer_loss
    assert decay.since_frame is not None
    assert abs(decay.since_frame - 20) <= 8
