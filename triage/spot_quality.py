"""What a frame's spots say of the frame: how far they go out, how sharp they are, whether the detector was overloaded.

Nothing here is seen by the network, and nothing changes which spots are found.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from triage.core import Pixels, Run, Spots

LEAST_FOR_SHELLS = 11
"""Spots off the ice rings, below which nothing is said of shells: DIALS asks for more than ten."""
_LEAST_A_SHELL, _SHARE_OF_INNERMOST, _MOST_OF_SPOTS = 25, 0.05, 0.25
_LEAST_SHELLS, _MOST_SHELLS = 20, 40
_FALLEN = 0.15
"""Of the innermost shells' number of spots, below which diffraction has ended: mu of Zhang et al."""
_LEAST_OFF_ICE = 5
_HOLE_PX = 1.5
"""Between a spot's centroid and an overflown pixel in its middle, along each axis."""
_NEARLY = 0.1
"""Of the saturation value, that the rest of a spot with an overflown pixel reaches: less, and the pixel is a dead one."""


def resolution_by_percentile(spots: Spots) -> float | None:
    """The d in A that 95 % of the spots off the ice rings stay within; None without geometry, and for fewer than five of them."""
    if spots.inverse_d_per_A is None or int((~spots.on_ice).sum()) < _LEAST_OFF_ICE:
        return None
    return float(1.0 / np.percentile(spots.inverse_d_per_A[~spots.on_ice], 95))


def resolution_by_shells(spots: Spots) -> float | None:
    """The d in A where spots end, counted in shells of equal volume of reciprocal space; None without geometry and where spots are few.

    Method 2 of DISTL (Zhang, Sauter, van den Bedem, Snell & Deacon, J. Appl. Cryst. 39 (2006) 112), as DIALS 3.12 computes it
    (`estimate_resolution_limit_distl_method2`), here on the spots off the ice rings: 20 to 40 shells, the innermost with a twentieth
    of the spots, at least 25; the first shell that, as the next one, holds less than 15 % of the mean of the innermost two.
    """
    if spots.inverse_d_per_A is None:
        return None
    s = spots.inverse_d_per_A[~spots.on_ice].astype(np.float64)
    cubes = np.unique(s[s > 0.0] ** 3)
    if len(s) < LEAST_FOR_SHELLS or len(cubes) < LEAST_FOR_SHELLS:
        return None
    edges = _shell_edges(cubes)
    counts = np.histogram(s[s**3 > edges[0]] ** 3, edges)[0]
    few = counts < _FALLEN * (counts[0] + counts[1]) / 2.0
    ended = np.flatnonzero(few[:-1] & few[1:])
    last = int(ended[0]) if len(ended) else len(counts) - 2
    return float(edges[last + 1] ** (-1.0 / 3.0))


def _shell_edges(cubes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Limits in s^3 of shells of equal volume that hold the ascending s^3 of the spots."""
    n = len(cubes)
    innermost = math.ceil(min(max(_LEAST_A_SHELL, _SHARE_OF_INNERMOST * n), _MOST_OF_SPOTS * n))
    reach = float(cubes[-1] - cubes[0])
    shells = math.ceil(reach / float(cubes[innermost] - cubes[0]))
    return np.linspace(cubes[0], cubes[-1], int(np.clip(shells, _LEAST_SHELLS, _MOST_SHELLS)) + 1)


def sharpness(spots: Spots) -> float | None:
    """The median share of a spot's photons that its largest pixel holds, 0 to 1; None without spots.

    A round Gaussian spot in the middle of a pixel has 0.58, 0.32, 0.20 or 0.09 for a full width at half maximum of 1, 1.5, 2 or 3 px.
    """
    if len(spots) == 0:
        return None
    return float(np.clip(np.median((spots.peak - spots.background) / np.maximum(spots.intensity, 1e-6)), 0.0, 1.0))


def overloads(pixels: Pixels, spots: Spots, run: Run) -> int | None:
    """How many spots have a pixel at or above the run's saturation value; None where that value is not known.

    `pixels` (slow, fast) are the counts that the spots were found in. A spot also counts whose middle has overflown: an unmasked pixel
    that holds no data because it is too large, in a spot that comes within a tenth of saturation beside it.
    """
    limit = run.header.saturation_value
    if limit is None or not math.isfinite(limit):
        return None
    scale, offset = run.header.counts_per_photon, run.header.offset
    peak = spots.peak.astype(np.float64) * scale + offset
    over = peak >= limit * (1.0 - 1e-6)  # peaks are photons in single precision
    largest = run.valid_range(pixels.dtype)[1]
    mask = run.mask if run.mask is not None else np.zeros((1, 1), dtype=bool)
    for k in np.flatnonzero(~over & (peak >= _NEARLY * limit)):
        over[k] = _has_hole(pixels, mask, spots.positions_px[k], min(limit, largest))
    return int(over.sum())


def _has_hole(pixels: Pixels, mask: npt.NDArray[np.bool_], position_px: npt.NDArray[np.float32], above: float) -> bool:
    first = np.maximum(np.floor(position_px - _HOLE_PX + 0.5).astype(int), 0)
    last = np.floor(position_px + _HOLE_PX + 0.5).astype(int)
    window = np.s_[first[0] : last[0], first[1] : last[1]]
    large = pixels[window] > above
    return bool((large & ~mask[window]).any() if mask.size > 1 else large.any())
