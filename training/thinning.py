"""Two real frames of different orientation into one exact two-lattice frame, by binomial thinning of their photons.

Counts of a photon-counting detector are Poisson. If N is Poisson with mean m, and each photon is kept with probability p, the number
kept is Poisson with mean p m, and independent of the number thrown away (Kingman, Poisson Processes (1993), colouring theorem). Sums
of independent Poisson counts are Poisson. So frame A thinned by p plus frame B thinned by 1 - p is one draw of the frame that the
detector would have counted had A's crystal been in the beam for the share p of the exposure and B's for the rest: noise, background
and spots included, without a model of any of them. It is exact as far as the counts are Poisson: not where a pixel is saturated,
nor after dead-time or flat-field corrections by much more than the noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from triage.core import Pixels, Run, TriageError
from triage.geometry import Geometry

Counts = npt.NDArray[np.uint32]
SAME_WITHIN = 0.01
"""Relative difference of wavelengths and of distances that are one experiment: a spot at the edge of the detector moves by 1 % of its
distance from the beam, which no label depends on."""
SAME_BEAM_PX = 5.0


class ThinningError(TriageError):
    """Frames that cannot be put together; the message names the source and the reason."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exposure:
    """One frame as it was counted."""

    pixels: Pixels
    """(slow, fast)"""
    run: Run


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Superposition:
    """Two thinned frames in one."""

    counts: Counts
    """(slow, fast) photons; 0 where `run.mask` is set."""
    parts: tuple[Counts, Counts]
    """What each frame contributed."""
    whole: tuple[Counts, Counts]
    """What each frame counted, where both have data."""
    run: Run
    """The first frame's, masked where either frame has no data."""


def photons(exposure: Exposure) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Photons and where they are known, both (slow, fast); 0 where they are not: masked, no data, saturated or negative pixels.

    Raises ThinningError where counts are no photon numbers: a gain, an offset, fractions.
    """
    pixels, run, header = exposure.pixels, exposure.run, exposure.run.header
    if header.counts_per_photon != 1.0 or header.offset != 0.0:
        stated = f"{header.counts_per_photon:g} counts a photon, offset {header.offset:g}"
        raise ThinningError(f"{header.source}: not photons ({stated}); only frames of photon-counting detectors can be thinned")
    low, high = run.valid_range(pixels.dtype)
    known = (pixels >= max(low, 0.0)) & (pixels <= high)
    if header.saturation_value is not None:
        known &= pixels < header.saturation_value
    if run.mask is not None:
        known &= ~run.mask
    counts = np.where(known, pixels, 0)
    if np.issubdtype(counts.dtype, np.floating) and (counts != np.rint(counts)).any():
        raise ThinningError(f"{header.source}: not photons (fractions of counts); only frames of photon-counting detectors can be thinned")
    return counts.astype(np.int64), np.asarray(known)


def thinned(counts: npt.NDArray[np.int64], share: float, rng: np.random.Generator) -> Counts:
    """Each photon kept with probability `share`, independently. Raises ValueError where that is not within 0 to 1."""
    return rng.binomial(counts, share).astype(np.uint32)


def superposed(first: Exposure, second: Exposure, *, shares: tuple[float, float], rng: np.random.Generator) -> Superposition:
    """The sum of both frames, each thinned by its share; shares that add up to 1 keep the exposure.

    Raises ThinningError where the frames are not of one detector and geometry, or not photons.
    """
    if problem := difference(first.run, second.run):
        raise ThinningError(f"{first.run.header.source} and {second.run.header.source}: {problem}; thin frames of one experiment")
    (one, one_known), (other, other_known) = photons(first), photons(second)
    known = one_known & other_known
    one, other = np.where(known, one, 0), np.where(known, other, 0)
    parts = (thinned(one, shares[0], rng), thinned(other, shares[1], rng))
    header = replace(first.run.header, saturation_value=None, negative_is_no_data=False, no_data_value=None)
    run = replace(first.run, header=header, mask=~known, mask_source="both frames of a superposition")
    return Superposition(counts=parts[0] + parts[1], parts=parts, whole=(one.astype(np.uint32), other.astype(np.uint32)), run=run)


def difference(one: Run, other: Run) -> str | None:
    """Why two runs are not one experiment on one detector; None where they are."""
    if one.header.shape_px != other.header.shape_px:
        return f"different shapes ({one.header.shape_px}, {other.header.shape_px})"
    if (one.geometry is None) != (other.geometry is None):
        return "the geometry of one is unknown"
    if one.geometry is None or other.geometry is None:
        return None if one.header.detector == other.header.detector else "different detectors, and no geometry"
    return _geometry_difference(one.geometry, other.geometry)


def _geometry_difference(one: Geometry, other: Geometry) -> str | None:
    for name in ("wavelength_A", "distance_mm"):
        a, b = getattr(one, name), getattr(other, name)
        if abs(a - b) > SAME_WITHIN * a:
            return f"different {name} ({a:g}, {b:g})"
    if not np.allclose(one.pixel_mm, other.pixel_mm, rtol=SAME_WITHIN):
        return f"different pixel_mm ({one.pixel_mm}, {other.pixel_mm})"
    if not np.allclose(one.beam_px, other.beam_px, rtol=0.0, atol=SAME_BEAM_PX):
        return f"different beam_px ({one.beam_px}, {other.beam_px})"
    if not np.allclose((one.fast_axis, one.slow_axis), (other.fast_axis, other.slow_axis), atol=SAME_WITHIN):
        return "the detector stands at different angles"
    return None
