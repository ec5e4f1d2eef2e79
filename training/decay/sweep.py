"""Every reflection that a run records, and in which frames: `training.simulate.diffraction.reflections` for all frames at once.

A reflection meets the sphere at an angle of its own; its rocking curve is a Gaussian in the angle, and a frame records the part of it
that it sweeps over (Greenhough & Helliwell, J. Appl. Cryst. 15 (1982) 338). Laboratory frame of `triage.geometry`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import erf

from training.simulate.diffraction import Beam, Lattice, reflections
from triage.geometry import Geometry

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MOST_REFLECTIONS = 120_000
"""Of the reciprocal lattice within the resolution limit; a large cell is enumerated to a lower resolution instead."""
_WIDEST_FRAMES = 240.0
"""Reflections that rock for longer lie next to the rotation axis: they are next to none."""
_TAIL = 3.0
"""Standard deviations of the rocking curve that are recorded on either side."""
USUAL_SPREAD_PX = 0.2
"""Standard deviation of the point spread of most pixel detectors of `training.simulate.detectors`."""
_LEAST_S = 0.01
"""1/A: under 100 A all is behind the beam stop."""


@dataclass(frozen=True, slots=True, eq=False)
class Partials:
    """Parts of reflections, one row a frame and reflection that meet; all of length n. Intensities are those of the undamaged crystal."""

    frame: Ints
    positions_px: Floats
    """(n, 2) slow, fast."""
    s_per_A: Floats
    full: Floats
    """Relative intensity of the whole reflection, with Lorentz and polarisation factors."""
    start: Floats
    """Where the frame begins on the rocking curve, in standard deviations from its centre; of stills zero."""
    end: Floats
    area_px: Floats
    """Of the 2-sigma ellipse."""

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, which: npt.NDArray[np.bool_] | Ints) -> Partials:
        """The chosen rows."""
        return Partials(*(getattr(self, field.name)[which] for field in fields(self)))

    def recorded(self, broadening: npt.ArrayLike = 1.0) -> Floats:
        """Relative intensity (n,) that each frame records, of a rocking curve `broadening` (n,) times as wide."""
        root = np.sqrt(2.0) * np.asarray(broadening, dtype=np.float64)
        part = np.where(self.start == self.end, 1.0, 0.5 * (erf(self.end / root) - erf(self.start / root)))
        return np.asarray(self.full * part)


def join(parts: list[Partials]) -> Partials:
    """All rows, in the order of frames."""
    joined = Partials(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Partials)))
    return joined.take(np.argsort(joined.frame, kind="stable"))


def still_partials(
    lattice: Lattice, beam: Beam, geometry: Geometry, d_min_A: float, frames: Ints, spread_px: float = USUAL_SPREAD_PX
) -> Partials:
    """The same reflections in each of `frames`: stills of one orientation. `spread_px` is the detector's point spread."""
    found = reflections(lattice, replace(beam, rotation_deg=0.0), geometry, d_min_A, spread_px)
    n, repeats = len(found.photons), len(frames)
    area = 4.0 * np.pi * (found.radial_px * found.tangential_px).numpy()
    nothing = np.zeros(n * repeats)
    return Partials(
        frame=np.repeat(frames, n),
        positions_px=np.tile(found.positions_px.numpy().astype(np.float64), (repeats, 1)),
        s_per_A=np.tile(found.s_per_A.numpy().astype(np.float64), repeats),
        full=np.tile(found.photons.numpy().astype(np.float64), repeats),
        start=nothing,
        end=nothing,
        area_px=np.tile(area.astype(np.float64), repeats),
    )


def finest_d_A(volume_A3: float, wanted_A: float) -> float:
    """Resolution down to which a lattice of this cell volume has at most MOST_REFLECTIONS points."""
    return max(wanted_A, (4.0 / 3.0 * np.pi * volume_A3 / MOST_REFLECTIONS) ** (1.0 / 3.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Consecutive exposures."""

    first_frame: int
    n_frames: int
    most_rows: int = 10**9
    """About so many partials, of the strongest reflections, are enough: the rest cannot be seen."""


def swept_partials(
    lattice: Lattice, beam: Beam, geometry: Geometry, d_min_A: float, sweep: Sweep, spread_px: float = USUAL_SPREAD_PX
) -> Partials:
    """Partials of consecutive exposures of `beam.rotation_deg`; `lattice.orientation` is at the start of the first.

    `spread_px` is the detector's point spread.
    """
    n_frames = sweep.n_frames
    orientation = np.asarray(lattice.orientation).reshape(3, 3)
    axis = np.asarray(beam.rotation_axis, dtype=np.float64)
    step = float(np.deg2rad(beam.rotation_deg))
    hkl, start_g = _lattice_points(orientation @ lattice.crystal.reciprocal_basis(), d_min_A)
    margin = 0.5 * _WIDEST_FRAMES * step  # what is centred before the first frame or after the last rocks into them
    which, angle = _crossings(start_g, axis, geometry.wavelength_A, -margin, n_frames * step + margin)
    g = _rotated(start_g[which], axis, angle)
    k1 = g + np.array([0.0, 0.0, 1.0 / geometry.wavelength_A])
    speed = np.abs((k1 * np.cross(axis, g)).sum(axis=1)) * geometry.wavelength_A  # d(excitation error)/d(angle), 1/A per rad
    s = np.linalg.norm(g, axis=1)
    width = _excitation_sigma(s, lattice, beam, geometry.wavelength_A) / np.maximum(speed, 1e-9)  # rad
    positions = geometry.positions_px(k1)
    keep = (positions > 0).all(axis=1) & (positions < geometry.shape_px).all(axis=1) & (width < margin / _TAIL)
    keep &= (angle + _TAIL * width > 0.0) & (angle - _TAIL * width < n_frames * step)
    hkl, angle, k1, speed, s, width, positions = (x[keep] for x in (hkl[which], angle, k1, speed, s, width, positions))
    unit = k1 / np.linalg.norm(k1, axis=1, keepdims=True)
    polarised = beam.polarisation * (1 - unit[:, 0] ** 2) + (1 - beam.polarisation) * (1 - unit[:, 1] ** 2)  # Kahn et al. (1982)
    wilson = lattice.crystal.intensities(torch.from_numpy(hkl), torch.from_numpy(s.astype(np.float32))).numpy()
    whole = Partials(
        frame=np.zeros(len(s), dtype=np.int64),
        positions_px=np.asarray(positions),
        s_per_A=s,
        full=wilson * polarised / speed * lattice.scale,
        start=np.zeros(len(s)),
        end=np.zeros(len(s)),
        area_px=_area_px(lattice, beam, geometry, unit, spread_px),
    )
    rows = np.minimum(1.0 + 2.0 * _TAIL * width / step, n_frames)
    order = np.argsort(-whole.full / np.maximum(width / step, 0.4))  # by the largest part in one frame
    some = order[: int(np.searchsorted(np.cumsum(rows[order]), sweep.most_rows)) + 1]
    some = some[wilson[some] > 0]
    return _per_frame(whole.take(some), angle[some] / step, width[some] / step, sweep.first_frame, n_frames)


def _per_frame(whole: Partials, at: Floats, width: Floats, first_frame: int, n_frames: int) -> Partials:
    """One row for every frame that records a part; `at` and `width` are the rocking curve's centre and width in frames."""
    low = np.clip(np.floor(at - _TAIL * width), 0, n_frames - 1).astype(np.int64)
    high = np.clip(np.floor(at + _TAIL * width), 0, n_frames - 1).astype(np.int64)
    number = high - low + 1
    row = np.repeat(np.arange(len(at)), number)
    frame = low[row] + np.arange(len(row)) - np.repeat(np.cumsum(number) - number, number)
    rows = whole.take(row)
    start = (frame - at[row]) / width[row]
    return replace(rows, frame=frame + first_frame, start=start, end=start + 1.0 / width[row])


def _lattice_points(basis: Floats, d_min_A: float) -> tuple[Ints, Floats]:
    """Indices (n, 3) and vectors (n, 3) of all lattice points within the resolution limit."""
    limits = np.floor(np.linalg.norm(np.linalg.inv(basis), axis=1) / d_min_A).astype(int)
    axes = [np.arange(-n, n + 1) for n in limits]
    plane = np.stack(np.meshgrid(axes[0], axes[1], indexing="ij"), axis=-1).reshape(-1, 2)
    base = plane @ basis[:, :2].T
    # For each pair of indices, the third runs along a chord of the sphere of radius 1/d_min.
    along = basis[:, 2]
    a = along @ along
    half = base @ along / a
    room = half**2 - ((base**2).sum(axis=1) - 1.0 / d_min_A**2) / a
    meets = room > 0
    plane, base, half, root = plane[meets], base[meets], half[meets], np.sqrt(room[meets])
    first = np.ceil(-half - root).astype(np.int64)
    number = np.maximum(np.floor(-half + root).astype(np.int64) - first + 1, 0)
    which = np.repeat(np.arange(len(number)), number)
    third = first[which] + np.arange(len(which)) - np.repeat(np.cumsum(number) - number, number)
    hkl = np.column_stack([plane[which], third])
    g = base[which] + third[:, None] * along
    away = (g**2).sum(axis=1) > _LEAST_S**2
    return hkl[away], g[away]


def _crossings(g: Floats, axis: Floats, wavelength_A: float, first_rad: float, end_rad: float) -> tuple[Ints, Floats]:
    """Which points (m,) meet the sphere, and at which angle (m,) in rad, from `first_rad` to `end_rad`; a point may do so often.

    |k0 + g| = |k0| asks for g_z = -lambda s^2 / 2, and g_z goes with the angle as c + a cos + b sin.
    """
    parallel = (g @ axis)[:, None] * axis
    across = g - parallel
    a, b = across[:, 2], np.cross(axis, across)[:, 2]
    radius = np.hypot(a, b)
    wanted = -0.5 * wavelength_A * (g**2).sum(axis=1) - parallel[:, 2]
    possible = np.flatnonzero(np.abs(wanted) < radius)
    phase = np.arctan2(b[possible], a[possible])
    offset = np.arccos(wanted[possible] / radius[possible])
    which, angles = [], []
    for angle in (phase + offset, phase - offset):
        for turn in range(int((end_rad - first_rad) / (2 * np.pi)) + 1):
            turned = np.mod(angle - first_rad, 2 * np.pi) + 2 * np.pi * turn + first_rad
            inside = turned < end_rad
            which.append(possible[inside])
            angles.append(turned[inside])
    return np.concatenate(which), np.concatenate(angles)


def _rotated(g: Floats, axis: Floats, angle: Floats) -> Floats:
    """Vectors (n, 3), each turned about the axis by its angle (Rodrigues)."""
    parallel = (g @ axis)[:, None] * axis
    across = g - parallel
    return np.asarray(parallel + np.cos(angle)[:, None] * across + np.sin(angle)[:, None] * np.cross(axis, across))


def _excitation_sigma(s: Floats, lattice: Lattice, beam: Beam, wavelength_A: float) -> Floats:
    """Standard deviation of the excitation error in 1/A, as in `training.simulate.diffraction`."""
    sin_theta = np.minimum(s * wavelength_A / 2.0, 0.999)
    cos_theta = np.sqrt(1.0 - sin_theta**2)
    mosaic = np.deg2rad(lattice.mosaicity_deg) * s * cos_theta
    divergence = beam.divergence_rad * s * cos_theta
    size = 1.0 / (2.355 * lattice.domain_A)
    return np.asarray(np.sqrt(size**2 + mosaic**2 + (beam.bandwidth * s * sin_theta) ** 2 + divergence**2))


def _area_px(lattice: Lattice, beam: Beam, geometry: Geometry, unit: Floats, spread_px: float) -> Floats:
    """Area (n,) of the spots' 2-sigma ellipses in pixels, as in `training.simulate.diffraction`."""
    path = geometry.distance_mm / float(np.mean(geometry.pixel_mm))
    cos = np.clip(unit[:, 2], 0.05, 1.0)
    tan = np.sqrt(1.0 - cos**2) / cos
    round_px2 = spread_px**2 + beam.size_px**2 + (beam.divergence_rad * path) ** 2 + 1.0 / 12.0
    round_px2 += (path * geometry.wavelength_A / (2.355 * lattice.domain_A)) ** 2
    streak = path / cos**2 * 2.0 * tan / (1.0 + 1.0 / cos) * beam.bandwidth
    arc = path * tan * np.deg2rad(lattice.mosaicity_deg)
    return np.asarray(4.0 * np.pi * np.sqrt((round_px2 + streak**2) * (round_px2 + arc**2)))
