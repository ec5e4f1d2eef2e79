"""Real frames beside simulated ones of the same detector, geometry, rotation, background level and number of spots.

All else (crystal, mosaicity, beam, profile of the background) is drawn as it is for training, so the figures show what drawing gets wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes

from training.simulate.background import rate, received_of, resolution_map, transmission
from training.simulate.crystal import Crystal, draw_crystal
from training.simulate.detectors import DETECTORS, gap_mask
from training.simulate.draw import draw_scene
from training.simulate.render import render
from training.simulate.scene import Artefacts, Scene
from training.simulate.validate.setting import Floats, panels, write
from triage.core import Frame, Pixels, Run, Spots, TriageError
from triage.geometry import Geometry
from triage.sources.files import FileSource
from triage.sources.resolve import RunResolver
from triage.spots import DispersionFinder, as_spots, as_table

DRAWS = 5
"""Simulated frames beside each real one."""
LEAST_I_OVER_SIGMA = 5.0
SPOT_RADIUS_PX = 6
"""Pixels nearer to a spot than this are no background."""
_S_EDGES = np.linspace(0.02, 0.9, 90)


@dataclass(frozen=True, slots=True, kw_only=True)
class Real:
    """A real frame with a geometry that can be simulated."""

    file: str
    title: str
    detector: str
    longest_edge_A: float
    """Of the cells drawn beside it: small molecules have small ones."""
    shortest_edge_A: float


REAL = (
    Real(file="DLS_I03_smargon_0001.cbf.gz", title="Pilatus3 6M, weak", detector="PILATUS3 6M", shortest_edge_A=35.0, longest_edge_A=200.0),
    Real(file="run2_1_00148.cbf.bz2", title="Pilatus 6M, strong", detector="PILATUS3 6M", shortest_edge_A=35.0, longest_edge_A=200.0),
    Real(
        file="dlsnxs2cbf_therm_0001.cbf.gz", title="Eiger 16M, very weak", detector="EIGER2 16M", shortest_edge_A=35.0, longest_edge_A=200.0
    ),
    Real(file="ximg2700_00001.cbf", title="Pilatus 300K, small cell", detector="PILATUS 300K", shortest_edge_A=5.0, longest_edge_A=32.0),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """One frame, real or not, as the figures need it."""

    spots: Spots
    """With I/sigma of at least 5."""
    level: float
    """Mean background, photons a pixel."""
    profile: Floats
    """Mean background in rings of s, nan where there are fewer than 200 pixels."""
    dispersion: float
    """Variance over mean of the background within rings, median over the rings: 1 where photons are all there is."""
    whole: Floats
    """The frame in blocks, the largest value of each, so that spots survive."""
    detail: Floats
    """The window with the most spots."""

    @property
    def significance(self) -> Floats:
        """I/sigma of its spots."""
        return np.asarray(self.spots.intensity / self.spots.sigma, dtype=np.float64)

    @property
    def peak_share(self) -> Floats:
        """The brightest pixel's share of each spot's photons."""
        return np.asarray((self.spots.peak - self.spots.background) / self.spots.intensity, dtype=np.float64)


Row = tuple[Real, Seen, list[Seen]]
"""A real frame and those simulated beside it."""


def compare(out: Path, folder: Path) -> dict[str, str]:
    """Writes the figures of real frames in `folder` beside simulated ones; returns the numbers in them."""
    rows = [beside(real, folder, seed=number) for number, real in enumerate(REAL)]
    _pictures(out, rows)
    _profiles(out, rows)
    _spots(out, rows)
    return {f"{real.title}: {name}": told for real, frame, simulated in rows for name, told in _numbers(frame, simulated).items()}


def beside(real: Real, folder: Path, *, seed: int, draws: int = DRAWS) -> Row:
    """The real frame in `folder`, and frames simulated in its likeness."""
    run, pixels = _read(folder / real.file)
    frame = _seen(pixels, run)
    if run.geometry is None:
        raise TriageError(f"{folder / real.file}: the header's geometry cannot be used; take another frame")
    rng = np.random.default_rng([20, seed])
    return real, frame, [_simulated_like(real, run.geometry, run.header.omega_step_deg or 0.0, frame, rng) for _ in range(draws)]


def _read(path: Path) -> tuple[Run, Pixels]:
    frame = next(event for event in FileSource([path], resolver=RunResolver(), group="file") if isinstance(event, Frame))
    return frame.run, frame.decode()


def _seen(pixels: Pixels, run: Run) -> Seen:
    if run.geometry is None:
        raise TriageError(f"{run.id}: the header's geometry cannot be used; take another frame")
    low, high = run.valid_range(pixels.dtype)
    photons = ((pixels - np.float32(run.header.offset)) / np.float32(run.header.counts_per_photon)).astype(np.float32)
    usable = (pixels >= low) & (pixels <= high)
    if run.mask is not None:
        usable &= ~run.mask
    photons[~usable] = 0.0
    found = DispersionFinder().find(pixels, run)
    spots = as_spots(as_table(found)[found.intensity >= LEAST_I_OVER_SIGMA * found.sigma], run)
    whole, detail = _thumbnail(photons), photons[_densest(spots, photons.shape)].astype(np.float64)
    for slow, fast in found.positions_px.astype(int):
        usable[max(slow - SPOT_RADIUS_PX, 0) : slow + SPOT_RADIUS_PX + 1, max(fast - SPOT_RADIUS_PX, 0) : fast + SPOT_RADIUS_PX + 1] = False
    mean, dispersion = rings(resolution_map(run.geometry).numpy()[usable], photons[usable])
    return Seen(
        spots=spots,
        level=float(photons[usable].mean()),
        profile=mean,
        dispersion=dispersion,
        whole=whole,
        detail=detail,
    )


def rings(s_per_A: npt.NDArray[np.float32], photons: npt.NDArray[np.float32]) -> tuple[Floats, float]:
    """Mean in rings of s (nan where there are fewer than 200 pixels), and the median over the rings of variance over mean.

    Hot pixels and what the finder missed are left out: more than six standard deviations above a ring's 99th percentile.
    """
    index = np.digitize(s_per_A, _S_EDGES)
    mean, dispersion = np.full(len(_S_EDGES) - 1, np.nan), []
    for k in range(1, len(_S_EDGES)):
        ring = photons[index == k].astype(np.float64)
        if len(ring) < 200:
            continue
        top = np.percentile(ring, 99)
        ring = ring[ring <= top + 6.0 * np.sqrt(top + 1.0)]
        mean[k - 1] = ring.mean()
        if len(ring) >= 2000 and ring.mean() > 0:
            dispersion.append(ring.var() / ring.mean())
    return mean, float(np.median(dispersion))


def _simulated_like(real: Real, geometry: Geometry, rotation_deg: float, frame: Seen, rng: np.random.Generator) -> Seen:
    """Level and number of spots as in the real frame."""
    scene = _drawn(real, geometry, rotation_deg, rng)
    gaps = torch.from_numpy(gap_mask(scene.detector))
    received = received_of(geometry, scene.beam.polarisation)
    smooth = rate(scene, resolution_map(geometry), transmission(scene) * ~gaps, torch.Generator().manual_seed(0), received).expected
    level = scene.background.level * frame.level / float(smooth[~gaps].mean())
    background = dataclasses.replace(scene.background, level=level)
    rendered = render(dataclasses.replace(scene, background=background, visible_spots=max(len(frame.spots), 1)))
    return _seen(rendered.counts, rendered.run)


def _drawn(real: Real, geometry: Geometry, rotation_deg: float, rng: np.random.Generator) -> Scene:
    crystals = _crystals(real, rng)
    scene = draw_scene(rng, crystals=crystals, detectors=(real.detector,))
    while scene.kind != "single" or scene.ice is not None or scene.salt is not None:
        scene = draw_scene(rng, crystals=crystals, detectors=(real.detector,))
    if DETECTORS[real.detector][0].shape_px != geometry.shape_px:
        raise TriageError(f"{real.file}: not the size of a {real.detector}; name another detector in training/simulate/validate/real.py")
    return dataclasses.replace(
        scene,
        wavelength_A=geometry.wavelength_A,
        distance_mm=geometry.distance_mm,
        beam_px=geometry.beam_px,
        fast_axis=geometry.fast_axis,
        slow_axis=geometry.slow_axis,
        beam=dataclasses.replace(scene.beam, rotation_deg=rotation_deg),
        harmonic=0.0,
        artefacts=Artefacts(),
    )


def _crystals(real: Real, rng: np.random.Generator) -> tuple[Crystal, ...]:
    found: list[Crystal] = []
    while len(found) < 2 * DRAWS:
        crystal = draw_crystal(rng)
        if real.shortest_edge_A < min(crystal.cell[:3]) and max(crystal.cell[:3]) < real.longest_edge_A:
            found.append(crystal)
    return tuple(found)


def _pictures(out: Path, rows: list[Row]) -> None:
    """Whole frames above, a detail below, of each pair."""
    figure, axes = panels(4 * len(rows), rows=4, width=2.5, height=2.6)
    for column, (real, frame, beside) in enumerate(rows):
        for k, (one, name) in enumerate(((frame, "real"), (beside[0], "simulated"))):
            whole, detail = axes[k * len(rows) + column], axes[(2 + k) * len(rows) + column]
            _picture(whole, one.whole)
            _picture(detail, one.detail)
            whole.set_title(f"{real.title}: {name}", fontsize=8)
    write(figure, out / "simulate_beside_real.png")


def _picture(axes: Axes, image: Floats) -> None:
    middle = float(np.median(image))
    bottom, top = max(0.0, middle - 4.0 * np.sqrt(middle + 1.0)), middle + 12.0 * np.sqrt(middle + 1.0)
    axes.imshow(np.clip(image, bottom, top), cmap="gray_r", vmin=bottom, vmax=top, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def _thumbnail(photons: npt.NDArray[np.float32], size: int = 170) -> Floats:
    step = max(1, int(np.ceil(max(photons.shape) / size)))
    shape = [n // step * step for n in photons.shape]
    blocks = photons[: shape[0], : shape[1]].reshape(shape[0] // step, step, shape[1] // step, step)
    return np.asarray(blocks.max(axis=(1, 3)), dtype=np.float64)


def _densest(spots: Spots, shape_px: tuple[int, ...], size: int = 130) -> tuple[slice, slice]:
    at = spots.positions_px
    corner = np.clip(at - size / 2, 0, np.array(shape_px) - size).astype(int)
    number = [int(((at >= c) & (at < c + size)).all(axis=1).sum()) for c in corner]
    slow, fast = corner[int(np.argmax(number))]
    return np.s_[slow : slow + size, fast : fast + size]


def _profiles(out: Path, rows: list[Row]) -> None:
    figure, axes = panels(len(rows), width=3.4, height=2.8)
    middle = (_S_EDGES[:-1] + _S_EDGES[1:]) / 2
    for panel, (real, frame, beside) in zip(axes, rows, strict=True):
        for one in beside:
            panel.plot(middle, one.profile / one.level, color="tab:blue", lw=0.7, alpha=0.7)
        panel.plot(middle, frame.profile / frame.level, "k", lw=1.6)
        panel.set(xlabel="s = 1/d, A$^{-1}$", title=f"{real.title} ({frame.level:.2g} ph/px)", ylim=(0, 5))
    axes[0].set_ylabel("background / its mean")
    write(figure, out / "simulate_profiles.png")


def _spots(out: Path, rows: list[Row]) -> None:
    """I/sigma distribution; share of the brightest pixel; strong pixels; resolution of the spots."""
    figure, axes = panels(4 * len(rows), rows=4, width=3.4, height=2.5)
    for column, (real, frame, beside) in enumerate(rows):
        significance, share, pixels, resolution = (axes[k * len(rows) + column] for k in range(4))
        for one, style in (*((b, {"color": "tab:blue", "lw": 0.7, "alpha": 0.7}) for b in beside), (frame, {"color": "k", "lw": 1.6})):
            ordered = np.sort(one.significance)
            significance.loglog(ordered, 1.0 - np.arange(len(ordered)) / len(ordered), **style)
            share.semilogx(*_binned(one.significance, one.peak_share), **style)
            pixels.loglog(*_binned(one.significance, one.spots.n_pixels.astype(np.float64)), **style)
            ordered = np.sort(np.asarray(one.spots.inverse_d_per_A, dtype=np.float64))
            resolution.plot(ordered, np.arange(len(ordered)) / len(ordered), **style)
        significance.set(xlabel="I/sigma", title=real.title, xlim=(4, 500))
        share.set(xlabel="I/sigma", ylim=(0, 1), xlim=(4, 500))
        pixels.set(xlabel="I/sigma", xlim=(4, 500), ylim=(1, 100))
        resolution.set(xlabel="s = 1/d, A$^{-1}$")
    for k, name in enumerate(("share of spots above", "brightest pixel / I", "strong pixels a spot", "share of spots below")):
        axes[k * len(rows)].set_ylabel(name)
    write(figure, out / "simulate_spots.png")


def _binned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Median of y in bins of x that hold at least five spots."""
    edges = np.geomspace(5, 500, 9)
    index = np.digitize(x, edges)
    used = [k for k in range(1, len(edges)) if (index == k).sum() >= 5]
    return np.sqrt(edges[np.array(used, int) - 1] * edges[used]), np.array([np.median(y[index == k]) for k in used])


def _numbers(frame: Seen, beside: list[Seen]) -> dict[str, str]:
    """Of the real frame, and the median, smallest and largest of the simulated ones."""
    measures: dict[str, Callable[[Seen], float]] = {
        "spots": lambda one: float(len(one.spots)),
        "background": lambda one: one.level,
        "variance / mean of the background": lambda one: one.dispersion,
        "I/sigma, median": lambda one: float(np.median(one.significance)),
        "I/sigma, 90th percentile over median": lambda one: float(np.percentile(one.significance, 90) / np.median(one.significance)),
        "brightest pixel / I, I/sigma 10 to 30": lambda one: _moderate(one, one.peak_share),
        "strong pixels, I/sigma 10 to 30": lambda one: _moderate(one, one.spots.n_pixels.astype(np.float64)),
        "s of the spots, 95th percentile": lambda one: float(np.percentile(np.asarray(one.spots.inverse_d_per_A), 95)),
        "background at 0.3 / at 0.5 per A": lambda one: float(
            np.interp(0.3, _S_EDGES[:-1], one.profile) / np.interp(0.5, _S_EDGES[:-1], one.profile)
        ),
    }
    found = {}
    for name, measure in measures.items():
        simulated = [measure(one) for one in beside]
        told = [np.nan] * 3 if np.isnan(simulated).all() else [np.nanmin(simulated), np.nanmedian(simulated), np.nanmax(simulated)]
        found[name] = f"{measure(frame):.3g} real; {told[1]:.3g} simulated ({told[0]:.3g} to {told[2]:.3g})"
    return found


def _moderate(frame: Seen, values: Floats) -> float:
    chosen = (frame.significance > 10) & (frame.significance < 30)
    return float(np.median(values[chosen])) if chosen.any() else float("nan")
