"""The spot finder agrees, spot by spot, with one written to be read."""

from __future__ import annotations

import math

import numpy as np
import pytest
from synthetic import Floats, photons_for, run_of, with_spots

from triage.core import Mask, Pixels
from triage.spots import DispersionFinder


def slowly(pixels: Pixels, mask: Mask) -> list[tuple[float, ...]]:
    """The finder on a photon counter, written to be read: (slow, fast, intensity, sigma, background, peak, n) of each spot."""
    n_slow, n_fast = pixels.shape
    photons = pixels.astype(float)
    rows, columns = range(0, n_slow, 16), range(0, n_fast, 16)
    means = {(r // 16, c // 16): tile_mean(photons, mask, r, c) for r in rows for c in columns}
    strong, seeds = np.zeros(pixels.shape, dtype=bool), []
    for tile in sorted(means):
        near = sorted(m for (r, c), m in means.items() if abs(r - tile[0]) <= 1 and abs(c - tile[1]) <= 1 and m is not None)
        level = near[(len(near) - 1) // 2] if near else 0.0
        own = means[tile]
        level = level if own is None else min(level, own)
        for r in range(16 * tile[0], min(n_slow, 16 * tile[0] + 16)):
            for c in range(16 * tile[1], min(n_fast, 16 * tile[1] + 16)):
                if not mask[r, c] and photons[r, c] > level + 3.0 * math.sqrt(level) + 2.0:
                    strong[r, c] = True
                    around = photons[max(0, r - 1) : r + 2, max(0, c - 1) : c + 2]
                    if (around > level + 1.5 * math.sqrt(level) + 0.6).sum() > 1:
                        seeds.append((r, c))
    found, member = [], np.zeros(pixels.shape, dtype=bool)
    for r, c in seeds:
        spot = None if member[r, c] else grown(photons, mask, strong, member, (r, c))
        if spot is not None:
            found.append(spot)
    return sorted(found, key=lambda spot: -spot[2])


def tile_mean(photons: Floats, mask: Mask, r: int, c: int) -> float | None:
    values = photons[r : r + 16, c : c + 16][~mask[r : r + 16, c : c + 16]]
    return float(values.mean()) if len(values) >= 16 else None


def grown(photons: Floats, mask: Mask, strong: Mask, member: Mask, seed: tuple[int, int]) -> tuple[float, ...] | None:
    r, c = seed
    window = np.s_[max(0, r - 6) : r + 7, max(0, c - 6) : c + 7]
    quiet = photons[window][~mask[window] & ~strong[window] & ~member[window]]
    if len(quiet) < 20:
        return None
    local = quiet.mean()
    if photons[seed] <= local + 3.0 * math.sqrt(local) + 2.0:
        return None
    pixels, edge = {seed}, [seed]
    while edge:
        row, column = edge.pop()
        for near in ((row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
            inside = 0 <= near[0] < photons.shape[0] and 0 <= near[1] < photons.shape[1]
            if (
                inside
                and near not in pixels
                and not mask[near]
                and not member[near]
                and photons[near] > local + 1.5 * math.sqrt(local) + 0.6
            ):
                pixels.add(near)
                edge.append(near)
    for pixel in pixels:
        member[pixel] = True
    return measured_spot(photons, sorted(pixels), float(local), len(quiet))


def measured_spot(photons: Floats, pixels: list[tuple[int, int]], local: float, n_quiet: int) -> tuple[float, ...] | None:
    counts, n = np.array([photons[pixel] for pixel in pixels]), len(pixels)
    above = np.maximum(counts - local, 0.0)
    z = 2.0 * (math.sqrt(counts.sum() + 0.375) - math.sqrt(n * local + 0.375))
    zinger = n < 4 and counts.max() - local > 0.95 * above.sum() and above.sum() > 40
    if n < 2 or z < 5.5 or zinger:
        return None
    place = ((np.array(pixels) + 0.5) * above[:, None]).sum(axis=0) / above.sum()
    sigma = math.sqrt(counts.sum() + n * n * local / n_quiet)
    return (*place, counts.sum() - n * local, sigma, local, counts.max(), n)


@pytest.mark.parametrize(("level", "seed"), [(0.05, 1), (0.5, 2), (3.0, 3), (15.0, 4)])
def test_spot_by_spot_as_a_slow_implementation_finds_them(level: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (118, 137)  # not whole tiles
    mask = rng.random(shape) < 0.01
    mask[:, 60:66] = True
    mask[84:, 110:] = True
    true = rng.uniform(2, np.array(shape) - 2, (18, 2))  # some touch, some lie at the edge or in the gap
    image = with_spots(np.full(shape, level) * (1 + np.arange(137) / 60), true, photons_for(9.0, level) * rng.exponential(2.0, 18))
    pixels = np.where(mask, 50_000, rng.poisson(image)).astype(np.uint16)
    expected = slowly(pixels, mask)
    found = DispersionFinder().find(pixels, run_of(mask=mask))
    assert len(found) == len(expected) > 6
    ours = np.column_stack([found.positions_px, found.intensity, found.sigma, found.background, found.peak, found.n_pixels])
    np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=2e-3)
