"""Diffraction frames made with NumPy from known spots: the truth that spot finding and the network's input are tested against."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from triage.core import Mask, Run, RunHeader
from triage.geometry import Geometry

Floats = npt.NDArray[np.float64]

GEOMETRY = Geometry(wavelength_A=1.0, distance_mm=40.0, pixel_mm=(0.075, 0.075), beam_px=(251.3, 262.7), shape_px=(512, 512))


def run_of(*, geometry: Geometry | None = None, mask: Mask | None = None, **header: object) -> Run:
    return Run(id="synthetic", header=RunHeader(source="synthetic", **header), kind=None, geometry=geometry, mask=mask)  # type: ignore[arg-type]


def scattered(rng: np.random.Generator, n: int, shape: tuple[int, int], apart: float = 12.0, margin: float = 8.0) -> Floats:
    """(n, 2) sub-pixel positions, none within `apart` px of another or `margin` px of the edge."""
    positions: list[Floats] = []
    while len(positions) < n:
        at = rng.uniform(margin, np.asarray(shape) - margin)
        if all(np.hypot(*(at - other)) >= apart for other in positions):
            positions.append(at)
    return np.array(positions)


def with_spots(expected: Floats, positions: Floats, photons: npt.ArrayLike, width: float = 0.9) -> Floats:
    """`expected` photons plus Gaussian spots (standard deviation `width` px), each integrated over every pixel in closed form."""
    result = expected.astype(np.float64)
    for (slow, fast), total in zip(positions, np.broadcast_to(photons, len(positions)), strict=True):
        half = math.ceil(5 * width) + 1
        rows = np.arange(max(0, int(slow) - half), min(expected.shape[0], int(slow) + half + 1))
        columns = np.arange(max(0, int(fast) - half), min(expected.shape[1], int(fast) + half + 1))
        result[np.ix_(rows, columns)] += total * np.outer(_share(rows, slow, width), _share(columns, fast, width))
    return result


def _share(pixels: npt.NDArray[np.int_], centre: float, width: float) -> Floats:
    """The part of a unit Gaussian that falls within each pixel [p, p + 1)."""
    limits = [0.5 * math.erf((edge - centre) / (width * math.sqrt(2.0))) for edge in [*pixels, pixels[-1] + 1]]
    return np.diff(limits)


def photons_for(i_over_sigma: float, background: npt.ArrayLike, width: float = 0.9) -> Floats:
    """Photons of a spot of that I/sigma: I / sqrt(I + A b), A = 4 pi width^2 the equivalent area of profile fitting."""
    area = 4.0 * math.pi * width**2
    return 0.5 * i_over_sigma**2 + np.sqrt(0.25 * i_over_sigma**4 + i_over_sigma**2 * area * np.asarray(background))


@dataclass(frozen=True)
class Matched:
    """Found spots against true ones."""

    recall: float
    false: int
    error_px: Floats
    """(n found of the true ones, 2): found minus true."""
    true: npt.NDArray[np.int_]
    """Indices of the true spots found."""
    found: npt.NDArray[np.int_]
    """Indices of the spots that found them."""


def match(found: npt.ArrayLike, true: Floats, within: float = 2.0) -> Matched:
    """Pairs each true spot with the nearest found one, if that lies `within` px."""
    at = np.asarray(found, dtype=float).reshape(-1, 2)
    if len(at) == 0:
        return Matched(0.0, 0, np.zeros((0, 2)), np.zeros(0, dtype=int), np.zeros(0, dtype=int))
    distance = np.hypot(*(true[:, None] - at[None]).transpose(2, 0, 1))
    hit = np.flatnonzero(distance.min(axis=1) < within)
    nearest = distance.argmin(axis=1)[hit]
    false = int((distance.min(axis=0) >= within).sum())
    return Matched(len(hit) / len(true), false, at[nearest] - true[hit], hit, nearest)
