"""Prints what docs/spots.md says of known spots and of frames without any: `python tests/measure_spots.py`, two minutes of one core.

Seeds are fixed; tests/test_spots.py asserts bounds round the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
from synthetic import match, photons_for, run_of, scattered, with_spots
from test_spots import FINDER, SHAPE, Floats, at, background_of, crowded, distance_from_centre, grid_of

SEEDS = range(5)


def known_spots(i_over_sigma: float, kind: str, level: float) -> Floats:
    """Recall, false spots in a million pixels, r.m.s. position error on one axis (px), median share of the intensity recovered."""
    rows = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        background = background_of(kind, level)
        true = scattered(rng, 120, SHAPE)
        photons = photons_for(i_over_sigma, at(background, true))
        found = FINDER.find(rng.poisson(with_spots(background, true, photons)).astype(np.uint16), run_of())
        matched = match(found.positions_px, true)
        error = np.sqrt((matched.error_px**2).mean())
        share = np.median(found.intensity[matched.found] / photons[matched.true])
        rows.append((matched.recall, matched.false * 1e6 / background.size, error, share))
    return np.mean(rows, axis=0)


def number_found(frame: Callable[[np.random.Generator], Floats], seeds: Iterable[int] = SEEDS, **header: object) -> list[int]:
    """Spots found in frames that have none."""
    frames = (frame(np.random.default_rng(seed)) for seed in seeds)
    return [len(FINDER.find(pixels if header else pixels.astype(np.uint16), run_of(**header))) for pixels in frames]  # type: ignore[arg-type]


def show_known_spots() -> None:
    print("known spots: found, false per million pixels, r.m.s. error in px, intensity recovered; means over seeds")
    for i_over_sigma in (7.0, 10.0, 20.0):
        for kind in ("flat", "slope", "ring"):
            for level in (0.02, 0.2, 1.0, 5.0, 20.0, 50.0):
                recall, false, error, share = known_spots(i_over_sigma, kind, level)
                print(f"  I/sigma {i_over_sigma:2.0f} {kind:5} {level:5g}: {recall:6.1%} {false:5.1f} {error:5.2f} {share:4.0%}")


def show_noise() -> None:
    print("Poisson noise: false spots in each million pixels")
    for level in (0.001, 0.02, 0.1, 0.3, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 400.0):
        found = number_found(lambda rng, level=level: rng.poisson(level, (1000, 1000)), range(10))
        print(f"  {level:g} photons a pixel: mean {np.mean(found):.1f}, most {max(found)}")
    print(f"noise beyond counting on 20 photons, {SHAPE} pixels: false spots")
    for gain, read in ((1.0, 6.0), (3.0, 0.0), (3.0, 4.0), (8.0, 4.0)):
        found = number_found(
            lambda rng, gain=gain, read=read: (40 + gain * rng.poisson(20.0, SHAPE) + rng.normal(0, read, SHAPE)).astype(np.float32),
            range(20),
            offset=40.0,
        )
        print(f"  gain {gain:g}, read noise {read:g}: mean {np.mean(found):.1f}, most {max(found)}")
    print("uneven pixels in half of a frame of 400 photons: false spots")
    for share in (0.02, 0.05, 0.1):
        found = number_found(lambda rng, share=share: rng.poisson(400 * (1 + share * rng.standard_normal(SHAPE) * (np.arange(512) > 256))))
        print(f"  {share:.0%}: {found}")


def show_false_shapes() -> None:
    print("hot pixels taken for spots, of 256")
    for value in (30, 100, 1000, 5000):
        for level in (0.02, 1.0, 5.0, 20.0, 50.0, 200.0):
            found = [len(FINDER.find(grid_of(value, level, seed), run_of())) for seed in SEEDS]
            print(f"  {value} on {level:g}: {found}")
    print("smooth rings on 5 photons a pixel, 1,005 px round: false spots")
    for width in (1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0):
        for height in (5.0, 10.0, 25.0, 50.0, 200.0):
            ring = 5.0 + height * np.exp(-0.5 * ((distance_from_centre() - 160.0) / width) ** 2)
            print(f"  width {width:g} px, height {height:g}: {number_found(lambda rng, ring=ring: rng.poisson(ring))}")
    print("edges of a shadow, 1,257 px round: false spots")
    for bright, dark in ((3.0, 0.05), (10.0, 0.05), (30.0, 1.0), (100.0, 5.0)):
        shadow = np.where(distance_from_centre() < 200.0, bright, dark)
        print(f"  {bright:g} to {dark:g} photons: {number_found(lambda rng, shadow=shadow: rng.poisson(shadow))}")


def show_crowds() -> None:
    print("crowded frames: share of the spots above I/sigma 10 that is found")
    for n in (100, 300, 450, 550):
        print(f"  {n} spots on 262,144 pixels: " + " ".join(f"{crowded(n, seed):.1%}" for seed in SEEDS))


def on_circle(radius_px: float, n: int = 40) -> Floats:
    azimuth = np.arange(n) * (2.0 * np.pi / n) + 0.03
    return 256.0 + radius_px * np.stack([np.sin(azimuth), np.cos(azimuth)], axis=1)


def share_found(background: Floats, true: Floats, photons: npt.ArrayLike, width: float) -> str:
    image = with_spots(background, true, photons, width)
    frames = (np.random.default_rng(seed).poisson(image).astype(np.uint16) for seed in SEEDS)
    return f"{np.mean([match(FINDER.find(pixels, run_of()).positions_px, true).recall for pixels in frames]):.0%}"


def show_hidden_spots() -> None:
    print("spots of I/sigma 20 on the crest of a smooth ring on 5 photons a pixel: found")
    for width in (1.5, 3.0, 6.0, 12.0):
        for height in (5.0, 10.0, 25.0, 50.0):
            ring, true = 5.0 + height * np.exp(-0.5 * ((distance_from_centre() - 160.0) / width) ** 2), on_circle(160.0)
            print(f"  width {width:g} px, height {height:g}: {share_found(ring, true, photons_for(20.0, 5.0 + height), 0.9)}")
    print("spots of 10,000 photons inside the edge of a shadow: found")
    for bright, dark in ((6.0, 3.0), (5.0, 0.5), (15.0, 1.0), (20.0, 0.5)):
        shadow = np.where(distance_from_centre() < 200.0, bright, dark)
        shares = [f"{share_found(shadow, on_circle(200.0 - away), 1e4, 1.2)} at {away:g} px" for away in (4.0, 10.0, 15.0, 20.0, 30.0)]
        print(f"  {bright:g} to {dark:g} photons: " + ", ".join(shares))
    print("pairs of spots of standard deviation 1.5 px on 5 photons a pixel: found")
    for photons in (300.0, 3000.0, 30_000.0):
        true = [np.concatenate([on_circle(150.0, 30), on_circle(150.0 + apart, 30)]) for apart in (6.0, 8.0, 10.0, 12.0, 15.0)]
        shares = [f"{share_found(np.full(SHAPE, 5.0), both, photons, 1.5)}" for both in true]
        print(f"  {photons:g} photons: {', '.join(shares)} at 6, 8, 10, 12, 15 px")


if __name__ == "__main__":
    for show in (show_known_spots, show_noise, show_false_shapes, show_crowds, show_hidden_spots):
        show()
