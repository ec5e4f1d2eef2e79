"""Frames to time with, made by NumPy alone: scattering that falls off from the beam, Bragg spots, module gaps, Poisson noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from triage.core import Run, RunHeader, RunKind
from triage.geometry import Geometry

BACKGROUNDS = (0.05, 1.0, 20.0)
"""Median photons a pixel."""
N_SPOTS = 300
GAP_PX = (38, 12)
MODULE_PX = (512, 1028)
NO_DATA = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """Modules (slow, fast) of an EIGER2."""

    name: str
    modules: tuple[int, int]

    @property
    def shape_px(self) -> tuple[int, int]:
        slow, fast = (n * module + (n - 1) * gap for n, module, gap in zip(self.modules, MODULE_PX, GAP_PX, strict=True))
        return slow, fast

    def gaps(self) -> npt.NDArray[np.bool_]:
        """True between modules."""
        slow, fast = (
            np.arange(length) % (module + gap) >= module for length, module, gap in zip(self.shape_px, MODULE_PX, GAP_PX, strict=True)
        )
        return slow[:, None] | fast[None, :]


DETECTORS = (Detector(name="1M", modules=(2, 1)), Detector(name="4M", modules=(4, 2)))


def run_of(detector: Detector) -> Run:
    """A rotation run on this detector, with mask and geometry, as a stream's header gives them."""
    slow, fast = detector.shape_px
    geometry = Geometry(
        wavelength_A=0.98, distance_mm=0.1 * slow, pixel_mm=(0.075, 0.075), beam_px=(0.51 * slow, 0.49 * fast), shape_px=(slow, fast)
    )
    header = RunHeader(source="benchmark", detector=detector.name, shape_px=(slow, fast))
    return Run(id="benchmark", header=header, kind=RunKind.ROTATION, geometry=geometry, mask=detector.gaps())


def frame(detector: Detector, background: float, *, seed: int, n_spots: int = N_SPOTS) -> npt.NDArray[np.uint16]:
    """Counts (slow, fast) with `background` photons a pixel in the median and `n_spots` spots of 0.9 px."""
    rng = np.random.default_rng(seed)
    slow, fast = np.ogrid[: detector.shape_px[0], : detector.shape_px[1]]
    radius = np.hypot(slow - 0.51 * detector.shape_px[0], fast - 0.49 * detector.shape_px[1]) / max(detector.shape_px)
    expected: Any = np.exp(-radius / 0.35) + 0.15 * np.exp(-0.5 * ((radius - 0.3) / 0.05) ** 2)
    expected *= background / np.median(expected)
    photons = (100.0 + 25.0 * np.sqrt(background)) * rng.exponential(1.5, n_spots)
    _add_spots(expected, rng.uniform(8, np.array(detector.shape_px) - 8, (n_spots, 2)), photons)
    counts: npt.NDArray[np.uint16] = rng.poisson(expected).astype(np.uint16)
    counts[detector.gaps()] = NO_DATA
    return counts


def _add_spots(expected: npt.NDArray[np.float64], positions: npt.NDArray[np.float64], photons: npt.NDArray[np.float64]) -> None:
    around = np.arange(-5, 6)
    for (slow, fast), total in zip(positions, photons, strict=True):
        rows, columns = int(slow) + around, int(fast) + around
        profile = np.exp(-0.5 * ((rows[:, None] + 0.5 - slow) ** 2 + (columns + 0.5 - fast) ** 2) / 0.9**2)
        expected[np.ix_(rows, columns)] += total * profile / profile.sum()
