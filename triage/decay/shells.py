"""Spots summed in shells of resolution: what the early lane hands to the tracker."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from triage.core import ShellIntensities, Spots

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SHELL_EDGES_PER_A = tuple(round(0.05 + 0.03 * i, 2) for i in range(26))
"""From 20 A to 1.25 A, equally wide in s: 7 shells for a crystal that diffracts to 4 A, 15 for 2 A."""
_EDGES: Floats = np.array(SHELL_EDGES_PER_A)
N_SHELLS = len(SHELL_EDGES_PER_A) - 1
MID_S2: Floats = np.array([(a * a + b * b) / 2 for a, b in pairwise(SHELL_EDGES_PER_A)])


def middle(values: Floats) -> float:
    """The median (n,); `np.median` costs some times as much for few values."""
    half = len(values) // 2
    if len(values) % 2:
        return float(np.partition(values, half)[half])
    some = np.partition(values, (half - 1, half))
    return 0.5 * float(some[half - 1] + some[half])


def shell_of(s_per_A: npt.ArrayLike) -> Ints:
    """Index (n,) of the shell that each s = 1/d lies in; -1 or N_SHELLS outside."""
    return _EDGES.searchsorted(np.asarray(s_per_A), side="right") - 1


def shell_intensities(spots: Spots) -> ShellIntensities | None:
    """The spots off the ice rings, summed in SHELL_EDGES_PER_A; None without geometry."""
    if spots.inverse_d_per_A is None:
        return None
    shell = shell_of(spots.inverse_d_per_A)
    used = ~spots.on_ice & (shell >= 0) & (shell < N_SHELLS) & np.isfinite(spots.intensity) & np.isfinite(spots.sigma)
    shell, intensity = shell[used], spots.intensity[used].astype(np.float64)
    faintest = np.full(N_SHELLS, np.inf)
    np.minimum.at(faintest, shell, intensity)
    return ShellIntensities(
        edges_per_A=SHELL_EDGES_PER_A,
        intensity=tuple(np.bincount(shell, intensity, N_SHELLS).tolist()),
        variance=tuple(np.bincount(shell, spots.sigma[used].astype(np.float64) ** 2, N_SHELLS).tolist()),
        count=tuple(np.bincount(shell, minlength=N_SHELLS).tolist()),
        faintest=tuple(np.where(np.isfinite(faintest), faintest, 0.0).tolist()),
        spots=spots,
    )
