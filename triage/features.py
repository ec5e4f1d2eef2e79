"""Statistics of a frame's spots: a cheap summary that does not depend on the detector's size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from triage.binned_spots import BINNED_FEATURES
from triage.core import BeamCheck, FloatArray, Run, Spots
from triage.faint_spots import FAINT_FEATURES
from triage.lattice_features import LATTICE_FEATURES, MANY, lattice_features
from triage.ranks import NTH, crowded_lines, log_nth, running_median

SPOT_FEATURES = (
    "log_count",
    "log_count_off_ice",
    "fraction_on_ice",
    *(f"log_i_over_sigma_q{q}" for q in (10, 50, 90, 100)),
    *(f"log_n_pixels_q{q}" for q in (10, 50, 90)),
    *(f"peak_fraction_q{q}" for q in (10, 50, 90)),
    "log_background",
    "geometry_known",
    *(f"s_q{q}" for q in (5, 25, 50, 75, 95)),
    *(f"log_neighbour_px_q{q}" for q in (5, 25, 50, 75)),
    *(f"log_neighbour_relative_q{q}" for q in (5, 25, 50)),
    *(f"log_second_neighbour_relative_q{q}" for q in (5, 50)),
    "pair_repeats_mean",
    "pair_repeats_q90",
    "azimuthal_unevenness",
    "powder_likeness",
    *LATTICE_FEATURES,
    "log_rotation_deg",
    "share_on_lines",
    "share_in_rings",
    "log_count_clean",
    "log_count_clean_5_sigma",
    *(f"log_i_over_sigma_clean_{n}" for n in NTH),
)
FEATURE_NAMES = (*SPOT_FEATURES, *BINNED_FEATURES, *FAINT_FEATURES)
"""All that a model is given; `triage.preprocess` puts them together."""
N_FEATURES = len(FEATURE_NAMES)

_SHELL_PER_A, _SHELLS_ROUND = 0.005, 6
_CROWD_SIGMA, _CROWD_LEAST = 6.0, 4.0
"""What is crowded has so many standard deviations and so many spots more than expected."""
_STRONGEST = 250  # bounds the pair statistics to a millisecond or so


def spot_features(spots: Spots, run: Run) -> FloatArray:
    """(len(SPOT_FEATURES),) finite numbers, in that order; zeros where a statistic has too few spots."""
    values: list[float] = [np.log1p(len(spots)), np.log1p(int((~spots.on_ice).sum()))]
    if len(spots) == 0:
        return np.asarray(values + [0.0] * (len(SPOT_FEATURES) - 2), dtype=np.float32)
    values.append(float(spots.on_ice.mean()))
    values.extend(np.percentile(np.log1p(spots.intensity / spots.sigma), (10, 50, 90, 100)))
    values.extend(np.percentile(np.log(spots.n_pixels), (10, 50, 90)))
    values.extend(np.percentile((spots.peak - spots.background) / np.maximum(spots.intensity, 1.0), (10, 50, 90)))
    values.append(float(np.log(np.median(np.maximum(spots.background, 0.0)) + 0.01)))
    values.append(float(run.geometry is not None))
    values.extend(np.percentile(spots.inverse_d_per_A, (5, 25, 50, 75, 95)) if spots.inverse_d_per_A is not None else [0.0] * 5)
    values.extend(_neighbours(spots))
    values.extend(_radial(spots, run))
    on_lines, in_rings = crowded_lines(spots.positions_px, run.header.shape_px), crowded_rings(spots)
    clean = ~(on_lines | in_rings)
    values.extend(lattice_features(spots, run.geometry, clean) if run.geometry is not None else [0.0] * len(LATTICE_FEATURES))
    values.append(float(np.log(abs(run.header.omega_step_deg or 0.0) + 0.01)))
    values.extend([float(on_lines.mean()), float(in_rings.mean())])
    values.extend(_strongest(spots, clean))
    return np.nan_to_num(np.asarray(values, dtype=np.float32), posinf=20.0, neginf=-20.0)


def clean_significances(spots: Spots, run: Run) -> npt.NDArray[np.float32]:
    """I/sigma of the spots (m,) that lie neither on a crowded line nor in a crowded ring."""
    clean = ~(crowded_lines(spots.positions_px, run.header.shape_px) | crowded_rings(spots))
    return np.asarray(spots.intensity[clean] / spots.sigma[clean])


def beam_check(features: FloatArray) -> BeamCheck | None:
    """What the features, SPOT_FEATURES first, say of the beam's place; None where it was not free (geometry unknown, too few spots)."""
    named = dict(zip(SPOT_FEATURES, features[: len(SPOT_FEATURES)].tolist(), strict=True))
    if named["geometry_known"] == 0.0 or np.expm1(named["log_count_clean"]) < MANY - 0.5 or named["lattice_log_moved_px"] == 0.0:
        return None
    return BeamCheck(
        stated=named["lattice_share_unmoved"],
        moved=named["lattice_share_explained"],
        moved_px=float(np.expm1(named["lattice_log_moved_px"])),
    )


def _neighbours(spots: Spots) -> list[float]:
    """Nearest-neighbour distances, and how often difference vectors come again."""
    positions = spots.positions_px[:_STRONGEST].astype(np.float64)
    n = len(positions)
    if n < 6:
        return [0.0] * 11
    difference = positions[:, None] - positions[None]  # (n, n, 2) px
    distance = np.hypot(difference[..., 0], difference[..., 1])
    np.fill_diagonal(distance, np.inf)
    ordered = np.sort(np.partition(distance, 1, axis=1)[:, :2], axis=1)  # (n, 2) nearest and second nearest
    extent = np.ptp(np.percentile(positions, (5, 95), axis=0), axis=0)
    typical = np.sqrt(max(float(extent.prod()), 1.0) / n)
    relative = np.log(ordered / typical + 1e-3)
    values = [*np.percentile(np.log(ordered[:, 0] + 0.1), (5, 25, 50, 75)), *np.percentile(relative[:, 0], (5, 25, 50))]
    values.extend(np.percentile(relative[:, 1], (5, 50)))
    near = np.triu(distance < 4.0 * typical, k=1)
    values.extend(_repeats(difference[near]))
    return values


def _repeats(vectors: npt.NDArray[np.float64]) -> list[float]:
    """How many other difference vectors agree with one within 2 px, over what chance gives: a lattice repeats itself."""
    if len(vectors) < 10:
        return [0.0, 0.0]
    vectors = vectors[:1500] * np.where(vectors[:1500, :1] < 0, -1.0, 1.0)  # v and -v are one
    cells = np.floor(vectors / 4.0).astype(np.int64)
    _, inverse, counts = np.unique(cells[:, 0] * 100_003 + cells[:, 1], return_inverse=True, return_counts=True)
    extent = np.ptp(vectors, axis=0) + 4.0
    chance = len(vectors) * 16.0 / float(extent.prod())
    own = np.log1p(counts[inverse] / max(chance, 1e-3))
    return [float(own.mean()), float(np.percentile(own, 90))]


def crowded_rings(spots: Spots) -> npt.NDArray[np.bool_]:
    """Which spots (n,) lie in a thin shell of 1/d with far more of them than its neighbourhood: textured powders, ice."""
    if spots.inverse_d_per_A is None:
        return np.zeros(len(spots), dtype=bool)
    shells = (spots.inverse_d_per_A / _SHELL_PER_A).astype(int).clip(0, 499)
    counts = np.bincount(shells, minlength=500).astype(np.float64)
    pair = counts + np.maximum(np.roll(counts, 1), np.roll(counts, -1))  # a ring may lie on a border of shells
    expected = 2.0 * running_median(counts, _SHELLS_ROUND)
    return np.asarray((pair > expected + _CROWD_SIGMA * np.sqrt(expected) + _CROWD_LEAST)[shells])


def _strongest(spots: Spots, clean: npt.NDArray[np.bool_]) -> list[float]:
    """Numbers of spots that nothing speaks against, and the I/sigma of the nth strongest of them."""
    significance = np.sort(spots.intensity[clean] / spots.sigma[clean])[::-1]
    return [float(np.log1p(len(significance))), float(np.log1p((significance >= 5.0).sum())), *log_nth(significance)]


def _radial(spots: Spots, run: Run) -> list[float]:
    """Unevenness over azimuth, and how far the spots crowd at few radii, as a textured powder's do."""
    if run.geometry is None or spots.inverse_d_per_A is None or len(spots) < 8:
        return [0.0, 0.0]
    offsets = spots.positions_px - np.asarray(run.geometry.beam_px, dtype=np.float32)
    sectors = np.bincount(((np.arctan2(offsets[:, 0], offsets[:, 1]) + np.pi) / (2 * np.pi) * 12).astype(int) % 12, minlength=12)
    shells = np.bincount((spots.inverse_d_per_A / 0.004).astype(int).clip(0, 400))
    share = shells[shells > 0] / len(spots)
    return [float(sectors.std() / sectors.mean()), float(np.log((share**2).sum() * len(shells) + 1e-3))]
