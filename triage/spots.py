"""Classical spot finding: local background, connected strong pixels, sparse by design.

In the tradition of the dispersion test (Winter et al., DIALS, Acta Cryst. D74 (2018) 85) and peakfinder8 (Barty et al., J. Appl.
Cryst. 47 (2014) 1118). Cheap test first: a pixel is a candidate when it stands out of its tile's background. The full statistics,
in a window that leaves other strong pixels out, are computed only there. Significances are in Anscombe's variance-stabilised units
z = 2 (sqrt(x + 3/8) - sqrt(b + 3/8)) (Anscombe, Biometrika 35 (1948) 246), which hold from empty frames to bright ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from triage.binning import measured
from triage.core import FloatArray, Pixels, Run, Spots, SpotSummary
from triage.spot_kernels import Counts, Levels, find_spots, noise_of
from triage.spot_quality import resolution_by_percentile, resolution_by_shells, sharpness

SPOT_FINDER_VERSION = 2
"""Raised whenever the spots found in a frame change: a model trained on another version's spots does not load."""

ICE_RINGS_A = (
    3.897,
    3.669,
    3.441,
    2.671,
    2.249,
    2.072,
    1.948,
    1.918,
    1.883,
    1.721,
    1.524,
    1.473,
    1.444,
    1.372,
    1.367,
    1.299,
    1.275,
    1.261,
    1.224,
)
"""d of hexagonal ice's powder rings (Thorn et al., Acta Cryst. D73 (2017) 729)."""
ICE_HALF_WIDTH = 0.006
"""Half the width of a ring's band, as a fraction of s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DispersionFinder:
    """Finds spots of one frame; implements SpotFinder."""

    candidate_sigma: float = 3.0
    """Of a pixel above its tile, to be looked at: more than b + 3 sqrt(b) + 2 photons, so at least 3 on an empty background."""
    grow_sigma: float = 1.5
    """Of a pixel above the local background, to belong to a spot: more than b + 1.5 sqrt(b) + 0.6 photons."""
    spot_z: float = 5.5
    """Of the whole spot against the local background."""
    min_pixels: int = 2
    """One strong pixel alone is a zinger or a hot pixel."""
    max_pixels: int = 500
    """Larger connected regions are rings, shadows' edges or streaks."""

    def find(self, pixels: Pixels, run: Run) -> Spots:
        """The spots of a frame (slow, fast), strongest first."""
        converted, mask, low, high = measured(pixels, run)
        frame = Counts(converted, mask, low, high, np.float32(run.header.offset), np.float32(1.0 / run.header.counts_per_photon))
        levels = Levels(
            np.float32(self.candidate_sigma), np.float32(self.grow_sigma), np.float32(self.spot_z), self.min_pixels, self.max_pixels
        )
        return as_spots(find_spots(frame, levels, noise_of(frame)), run)


def as_table(spots: Spots) -> FloatArray:
    """The rows (n, 7) that `as_spots` makes the same spots of."""
    columns = (spots.intensity, spots.sigma, spots.background, spots.peak, spots.n_pixels)
    return np.column_stack([spots.positions_px, *columns]).astype(np.float32)


def summarise(spots: Spots, *, overloads: int | None = None) -> SpotSummary:
    """The frame's numbers from its spots (`triage.spot_quality`); `overloads` needs the pixels too, and is passed on."""
    return SpotSummary(
        count=len(spots),
        count_no_ice=int((~spots.on_ice).sum()),
        resolution_A=resolution_by_percentile(spots),
        resolution_shells_A=resolution_by_shells(spots),
        total_intensity=float(spots.intensity.sum()),
        mean_i_over_sigma=float((spots.intensity / spots.sigma).mean()) if len(spots) else None,
        sharpness=sharpness(spots),
        overloads=overloads,
    )


def on_ice_ring(inverse_d_per_A: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Whether each s = 1/d (any shape) lies within the band of a hexagonal ice ring."""
    s = np.asarray(inverse_d_per_A, dtype=np.float64)
    rings = 1.0 / np.asarray(ICE_RINGS_A)
    return np.asarray((np.abs(s[..., None] / rings - 1.0) < ICE_HALF_WIDTH).any(axis=-1), dtype=np.bool_)


def as_spots(table: FloatArray, run: Run) -> Spots:
    """Spots, strongest first, from rows (n, 7) of slow, fast, intensity, sigma, background, peak and number of pixels."""
    table = table[np.argsort(-table[:, 2], kind="stable")]
    positions = np.ascontiguousarray(table[:, :2])
    inverse_d: FloatArray | None = None
    on_ice: npt.NDArray[np.bool_] = np.zeros(len(table), dtype=bool)
    if run.geometry is not None:
        inverse_d = run.geometry.inverse_d_per_A(positions).astype(np.float32)
        on_ice = on_ice_ring(inverse_d)
    return Spots(
        positions_px=positions,
        intensity=table[:, 2].copy(),
        sigma=table[:, 3].copy(),
        background=table[:, 4].copy(),
        peak=table[:, 5].copy(),
        n_pixels=table[:, 6].astype(np.int32),
        inverse_d_per_A=inverse_d,
        on_ice=on_ice,
    )
