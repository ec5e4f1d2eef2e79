"""Runs as spot lists, without pixels: the physics of `training.simulate`, and what the spot finder makes of it (`finder.py`).

A run is a pure function of (seed, split, index). Structures are those of `training.dataset.structures`; half of the test runs are on
detectors that are in no other split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from training.dataset import HELD_OUT_DETECTORS, SPLITS, structures
from training.decay.course import Course, Damage, Floats, draw_course, draw_damage
from training.decay.finder import I_OVER_SIGMA, released
from training.decay.sweep import Ints, Partials, Sweep, finest_d_A, join, still_partials, swept_partials
from training.simulate.background import rate
from training.simulate.crystal import Crystal
from training.simulate.detectors import DETECTORS
from training.simulate.diffraction import Beam, Lattice
from training.simulate.draw import draw_ice, random_rotation, rotation_about
from training.simulate.render import VISIBLE_I_OVER_SIGMA
from training.simulate.scene import Background, Powder, Scene, Shadows
from triage.core import Run, RunHeader, RunKind, Spots
from triage.geometry import Geometry
from triage.spots import on_ice_ring

KINDS = {
    "stills": 0.25,
    "rotation_60": 0.25,
    "rotation_150": 0.13,
    "rotation_300": 0.08,
    "rotation_600": 0.13,
    "rotation_1200": 0.04,
    "wedges": 0.12,
}
"""Shares of kinds of run; the number is that of frames, at least."""
FRAMES = {
    "stills": (60, 160),
    "rotation_60": (60, 80),
    "rotation_150": (120, 180),
    "rotation_300": (240, 301),
    "rotation_600": (600, 701),
    "rotation_1200": (1200, 1801),
    "wedges": (120, 181),
}
LARGEST_ANGLE_DEG = 360.0
REFERENCE_FRAMES = 12
"""Whose visible spots define the outer shell (95th percentile of 1/d)."""
_DAMAGED_SHARE = 0.5
_DOSE_LEVELS = 6
"""Of stills: the reflections in diffracting position are worked out anew at so many doses."""
_ROWS_PER_VISIBLE = 8.0
"""Partials that are worked out for each one that is to be visible; what is fainter stays unseen, also in the brightest frame."""
_S_GRID = torch.linspace(0.02, 1.2, 600)
_DETECTORS = ("EIGER2 4M", "EIGER2 1M", "PILATUS3 1M", "PILATUS3 6M", "JUNGFRAU 1M", "EIGER2 9M")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """All that was drawn for one run."""

    seed: int
    index: int
    kind: str
    angle_deg: Floats
    """(n_frames,) at the start of each exposure."""
    wedges: tuple[tuple[int, int], ...]
    """First frame and number of frames of each."""
    detector: str
    geometry: Geometry
    beam: Beam
    lattice: Lattice
    """Orientation at angle zero."""
    second: Lattice
    d_min_A: float
    visible_spots: float
    """Mean number in a frame of the undamaged crystal in the full beam."""
    background: Background
    ice: Powder
    damage: Damage
    course: Course

    @property
    def n_frames(self) -> int:
        """Planned, with those that never arrive."""
        return len(self.angle_deg)

    def run(self) -> Run:
        """As a listener would see it."""
        kind = RunKind.STILLS if self.kind == "stills" else RunKind.ROTATION
        step = self.beam.rotation_deg
        header = RunHeader(
            source="simulated",
            detector=self.detector,
            shape_px=self.geometry.shape_px,
            omega_start_deg=0.0 if step else None,
            omega_step_deg=step or None,
            rotation_axis=self.beam.rotation_axis if step else None,
        )
        return Run(id=f"simulated-{self.index}", header=header, kind=kind, geometry=self.geometry, geometry_source="simulation")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulatedRun:
    """The spots of every frame, and the truth (n_frames,)."""

    plan: Plan
    outer_d_A: float
    delta_B_A2: Floats
    scale: Floats
    """Of damage alone."""
    photons: float
    """Per unit of relative intensity."""
    starts: Ints
    """(n_frames + 1,) where each frame's rows begin."""
    frames_per_reflection: float
    """In how many frames a reflection that is seen at all is seen, in the mean."""
    rows: npt.NDArray[np.float32]
    """(n, 6): slow, fast, intensity, sigma, background, s."""

    @property
    def loss(self) -> Floats:
        """Of the outer shell's intensity, by damage."""
        return np.asarray(1.0 - self.scale * np.exp(-self.delta_B_A2 / (2.0 * self.outer_d_A**2)))

    @property
    def dose_MGy(self) -> Floats:
        """Since damage set in."""
        return self.delta_B_A2 / self.plan.damage.B_per_MGy

    def frames(self) -> Iterator[tuple[int, Spots]]:
        """The frames that arrived, in order."""
        for frame in np.flatnonzero(self.plan.course.present):
            yield int(frame), _spots(self.rows[self.starts[frame] : self.starts[frame + 1]])


def _spots(rows: npt.NDArray[np.float32]) -> Spots:
    rows = rows[np.argsort(-rows[:, 2], kind="stable")]
    return Spots(
        positions_px=rows[:, :2],
        intensity=rows[:, 2],
        sigma=rows[:, 3],
        background=rows[:, 4],
        peak=rows[:, 2],
        n_pixels=np.full(len(rows), 6, dtype=np.int32),
        inverse_d_per_A=rows[:, 5],
        on_ice=on_ice_ring(rows[:, 5]),
    )


def draw_plan(seed: int, split: str, index: int, detectors: tuple[str, ...] | None = None) -> Plan:
    """One run of a split; `detectors` are drawn from where given."""
    rng = np.random.default_rng([seed, SPLITS[split][0], 11, index])
    crystals = _structures(seed, split)
    crystal = crystals[int(rng.integers(len(crystals)))]
    kind = str(rng.choice(list(KINDS), p=np.asarray(list(KINDS.values())) / sum(KINDS.values())))
    angle, wedges, step = _angles(rng, kind)
    usual = HELD_OUT_DETECTORS if split == "test" and index % 2 else _DETECTORS
    detector = str(rng.choice(detectors or usual))
    geometry, beam = _experiment(rng, detector, step)
    volume = abs(1.0 / float(np.linalg.det(crystal.reciprocal_basis())))
    lattice = _lattice(rng, crystal)
    return Plan(
        seed=seed,
        index=index,
        kind=kind,
        angle_deg=angle,
        wedges=wedges,
        detector=detector,
        geometry=geometry,
        beam=beam,
        lattice=lattice,
        second=replace(lattice, orientation=_flat(random_rotation(rng))),
        d_min_A=finest_d_A(volume, float(rng.uniform(1.3, 1.8))),
        visible_spots=float(np.exp(rng.uniform(np.log(30.0), np.log(250.0)))),
        background=_background(rng),
        ice=replace(draw_ice(rng, 1.0), n_spots=0),
        damage=draw_damage(rng, damaged=bool(rng.random() < _DAMAGED_SHARE)),
        course=draw_course(rng, len(angle), angle),
    )


@lru_cache(maxsize=4)
def _structures(seed: int, split: str) -> tuple[Crystal, ...]:
    return structures(seed, split)


def _angles(rng: np.random.Generator, kind: str) -> tuple[Floats, tuple[tuple[int, int], ...], float]:
    """Angle of every frame, wedges (first frame, number) and oscillation."""
    if kind == "stills":
        n = int(rng.integers(*FRAMES[kind]))
        return np.zeros(n), ((0, n),), 0.0
    n = int(rng.integers(*FRAMES[kind]))
    step = float(rng.choice([s for s in (0.05, 0.1, 0.1, 0.2, 0.25, 0.5) if s * n <= LARGEST_ANGLE_DEG]))
    if kind != "wedges":
        return np.asarray(step * np.arange(n), dtype=np.float64), ((0, n),), step
    each = n // int(rng.integers(2, 6))
    starts = [0.0]
    while len(starts) < n // each:  # some come back to where they were, some to the inverse beam
        again = starts[int(rng.integers(len(starts)))] + 180.0 * int(rng.integers(2))
        starts.append(again if rng.random() < 0.4 else float(rng.uniform(0.0, 360.0)))
    angle = np.concatenate([start + step * np.arange(each, dtype=np.float64) for start in starts])
    return angle, tuple((k * each, each) for k in range(len(starts))), step


def _experiment(rng: np.random.Generator, name: str, step_deg: float) -> tuple[Geometry, Beam]:
    detector = DETECTORS[name][0]
    wavelength = float(rng.normal(0.98, 0.03))
    size_mm = np.asarray(detector.shape_px) * detector.pixel_mm
    edge_A = float(np.exp(rng.uniform(np.log(1.4), np.log(2.8))))
    distance = max(0.5 * float(size_mm.min()) / np.tan(2.0 * np.arcsin(wavelength / (2.0 * edge_A))), 50.0)
    geometry = Geometry(
        wavelength_A=wavelength,
        distance_mm=distance,
        pixel_mm=(detector.pixel_mm, detector.pixel_mm),
        beam_px=(detector.shape_px[0] * float(rng.normal(0.5, 0.02)), detector.shape_px[1] * float(rng.normal(0.5, 0.02))),
        shape_px=detector.shape_px,
    )
    beam = Beam(
        bandwidth=float(np.exp(rng.uniform(np.log(5e-5), np.log(5e-4)))),
        divergence_rad=min(float(np.exp(rng.uniform(np.log(3e-5), np.log(5e-4)))), 2.0 * detector.pixel_mm / distance),
        size_px=float(rng.uniform(0.3, 1.0)),
        rotation_deg=step_deg,
        rotation_axis=(1.0, 0.0, 0.0) if rng.random() < 0.8 else (0.0, 1.0, 0.0),
    )
    return geometry, beam


def _lattice(rng: np.random.Generator, crystal: Crystal) -> Lattice:
    return Lattice(
        crystal=crystal,
        orientation=_flat(random_rotation(rng)),
        mosaicity_deg=float(np.exp(rng.uniform(np.log(0.03), np.log(0.4)))),
        domain_A=float(np.exp(rng.uniform(np.log(1_000.0), np.log(10_000.0)))),
        scale=1.0,
    )


def _background(rng: np.random.Generator) -> Background:
    return Background(
        level=float(np.exp(rng.uniform(np.log(0.02), np.log(20.0)))),
        air=float(rng.exponential(0.6)),
        water=float(rng.uniform(0.2, 1.0)),
        plastic=0.0,
        constant=float(rng.uniform(0.05, 0.4)),
        unevenness=0.0,
    )


def _flat(matrix: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(x) for x in matrix.ravel())


def simulate(plan: Plan) -> SimulatedRun:
    """The run's spots and truth. The outer shell, and with it the dose that takes so much of it, are known once the photon scale is."""
    parts = _partials(plan, plan.lattice)
    smooth = _smooth(plan)
    under = np.interp(parts.s_per_A, _S_GRID.numpy(), smooth[0])
    recorded = parts.recorded()
    needed = _threshold(under * parts.area_px)
    photons = _photon_scale(needed / np.maximum(recorded, 1e-12), plan.visible_spots * plan.n_frames)
    reference = (parts.frame < REFERENCE_FRAMES) & (recorded * photons > needed)
    outer_d = 1.0 / float(np.quantile(parts.s_per_A[reference], 0.95)) if reference.sum() >= 8 else plan.d_min_A
    delta_B = plan.damage.growths(plan.n_frames, outer_d)
    scale = np.exp(-plan.damage.scale_per_B * delta_B)
    if plan.kind == "stills" and delta_B[-1] > 0:
        parts = _stills_at_doses(plan, delta_B)
    rows = [_seen(plan, parts, photons, delta_B, scale, np.ones(plan.n_frames))]
    if plan.course.second.max() > 0:
        rows.append(_seen(plan, _partials(plan, plan.second), photons, delta_B, scale, plan.course.second))
    table = np.concatenate(rows)
    table = table[np.argsort(table[:, 6], kind="stable")]
    starts = np.searchsorted(table[:, 6], np.arange(plan.n_frames + 1))
    return SimulatedRun(
        plan=plan,
        outer_d_A=outer_d,
        delta_B_A2=delta_B,
        scale=scale,
        photons=photons,
        starts=starts.astype(np.int64),
        frames_per_reflection=len(table) / max(len(np.unique(table[:, 7])), 1),
        rows=table[:, :6].astype(np.float32),
    )


def dimmed(run: SimulatedRun) -> SimulatedRun:
    """The same crystal and damage with a course of its own: it leaves the beam, is a plate, or has its beam dip."""
    plan = run.plan
    rng = np.random.default_rng([plan.seed, plan.index, 5])
    names = ("leaving", "flux_dips") if plan.kind == "stills" else ("leaving", "flux_dips", "plate")
    wanted = str(rng.choice(names))
    while (course := draw_course(rng, plan.n_frames, plan.angle_deg)).look_alike != wanted:
        pass
    share = course.brightness / course.brightness.max()
    return simulate(replace(plan, course=replace(plan.course, look_alike=wanted, brightness=plan.course.brightness * share)))


def _partials(plan: Plan, lattice: Lattice) -> Partials:
    spread = DETECTORS[plan.detector][0].spread_px
    if plan.kind == "stills":
        return still_partials(lattice, plan.beam, plan.geometry, plan.d_min_A, np.arange(plan.n_frames), spread)
    axis, start = np.asarray(plan.beam.rotation_axis), np.asarray(lattice.orientation).reshape(3, 3)
    parts = []
    for first, number in plan.wedges:
        turned = replace(lattice, orientation=_flat(rotation_about(axis, float(plan.angle_deg[first])) @ start))
        sweep = Sweep(first_frame=first, n_frames=number, most_rows=int(_ROWS_PER_VISIBLE * plan.visible_spots * number))
        parts.append(swept_partials(turned, plan.beam, plan.geometry, plan.d_min_A, sweep, spread))
    return join(parts)


def _stills_at_doses(plan: Plan, delta_B: Floats) -> Partials:
    """Stills of a crystal whose cell and mosaicity grow: other reflections come into diffracting position."""
    level = np.minimum((delta_B / delta_B[-1] * _DOSE_LEVELS).astype(int), _DOSE_LEVELS - 1)
    spread = DETECTORS[plan.detector][0].spread_px
    parts = []
    for k in np.unique(level):
        frames = np.flatnonzero(level == k)
        grown = 1.0 + plan.damage.cell_growth_per_B * float(delta_B[frames].mean())
        a, b, c, alpha, beta, gamma = plan.lattice.crystal.cell
        crystal = replace(plan.lattice.crystal, cell=(a * grown, b * grown, c * grown, alpha, beta, gamma))
        mosaicity = plan.lattice.mosaicity_deg * (1.0 + plan.damage.broadening_per_B * float(delta_B[frames].mean()))
        lattice = replace(plan.lattice, crystal=crystal, mosaicity_deg=mosaicity)
        parts.append(still_partials(lattice, plan.beam, plan.geometry, plan.d_min_A, frames, spread))
    return join(parts)


@lru_cache(maxsize=2)
def _smooth(plan: Plan) -> Floats:
    """Background in photons a pixel on _S_GRID, without ice and with ice of unit strength; (2, n)."""
    scene = Scene(
        seed=0,
        detector=plan.detector,
        wavelength_A=plan.geometry.wavelength_A,
        distance_mm=plan.geometry.distance_mm,
        beam_px=plan.geometry.beam_px,
        beam=plan.beam,
        background=plan.background,
        shadows=Shadows(stop_px=1.0),
    )
    ice = replace(plan.ice, strengths=tuple(x / max(plan.ice.strengths) for x in plan.ice.strengths), texture=0.0)
    clear = torch.ones(1, len(_S_GRID))
    cosine = (1.0 - (_S_GRID[None] * plan.geometry.wavelength_A) ** 2 / 2.0).clamp_min(0.0)  # of 2 theta
    received = cosine**3 * (1.0 + cosine**2) / 2.0  # the polarisation averaged over the azimuth
    both = (scene, replace(scene, ice=ice))
    levels = [rate(each, _S_GRID[None], clear, torch.Generator(), received).expected[0].numpy() for each in both]
    return np.asarray(levels, dtype=np.float64)


def _threshold(beneath: Floats) -> Floats:
    """Photons of a spot that is just visible over `beneath` photons of background: brightness and outer shell go by it."""
    z2 = VISIBLE_I_OVER_SIGMA**2
    return np.asarray(0.5 * (z2 + np.sqrt(z2 * z2 + 4.0 * z2 * beneath)))


def _photon_scale(needed: Floats, wanted: float) -> float:
    """Photons per relative intensity that make `wanted` rows visible, or nearly all."""
    nth = min(int(wanted), int(0.6 * len(needed)))  # a small cell has not so many
    return float(np.partition(needed, nth)[nth])


def _seen(plan: Plan, parts: Partials, photons: float, delta_B: Floats, scale: Floats, strength: Floats) -> Floats:
    """Rows (n, 8) of slow, fast, intensity, sigma, background, s, frame, whole intensity: what the spot finder reports, and of what."""
    rng = np.random.default_rng([plan.seed, plan.index, len(parts)])
    smooth, course = _smooth(plan), plan.course
    frame = parts.frame
    bright = course.brightness * scale * strength * photons
    worth = parts.full * bright[frame] > I_OVER_SIGMA[0] ** 2  # fainter ones are not found on any background
    parts, frame = parts.take(worth & course.present[frame]), frame[worth & course.present[frame]]
    plain, icy = (np.interp(parts.s_per_A, _S_GRID.numpy(), level) for level in smooth)
    background = plain * course.background[frame] + (icy - plain) * course.ice[frame]
    broadening = 1.0 + (plan.damage.broadening_per_B * delta_B[frame] if plan.kind != "stills" else 0.0)
    expected = parts.recorded(broadening) * bright[frame] * np.exp(-delta_B[frame] * parts.s_per_A**2 / 2.0)
    found, intensity, sigma = released().seen(rng, expected, background, parts.area_px)
    seen = parts.take(found)
    jitter = rng.normal(size=(len(found), 2)) * np.sqrt(seen.area_px / (4 * np.pi) / intensity)[:, None]
    columns = (intensity, sigma, background[found], seen.s_per_A, seen.frame.astype(np.float64), seen.full)
    return np.column_stack([seen.positions_px + jitter, *columns])
