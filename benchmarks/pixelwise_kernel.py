"""Diffraction pixel by pixel: what mosaic blocks, each lit by one ray at one instant of the exposure, scatter into pixels near reflections.

A sample of the sum is one block (its misorientation and its place in the crystal), one ray (direction and wavelength), one instant of the
rotation and one depth of absorption in the sensor; a frame is the sum over some hundred to some thousand of them. In each the intensity at
a pixel is |F|^2 times the lattice transform at the pixel's fractional indices (James, The Optical Principles of the Diffraction of X-rays
(1962), chapter 1; Kirian et al., Opt. Express 18 (2010) 5713). Where a transform has fallen off nothing is evaluated.

The laboratory frame is that of `triage.geometry`: z along the beam, x along fast, y along slow.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")
_inline = numba.njit(nogil=True, cache=True, error_model="numpy", forceinline=True)

GAUSSIAN_REACH = 1.3
"""In units of 1/N: exp(-pi 1.3^2) is 0.5 % of the peak, and 99.9 % of the light along an axis is inside."""
SQUARE_REACH = 2.0
"""The first subsidiary maxima of the interference function, 5 % of the peak, are inside, and 95 % of the light along an axis."""
_LEAST_FORWARD = 0.05  # cosine of two-theta: rays that never meet a plane across the beam
_MOST_CANDIDATES = 400_000


class Rays(NamedTuple):
    """The samples, one a row."""

    to_q: Floats
    """(K, 3, 3): hkl to the scattering vector, 1/A, of the block as it is turned at that instant."""
    to_cells: Floats
    """(K, 3, 3): scattering vector to N1 h, N2 k, N3 l."""
    direction: Floats
    """(K, 3) unit vectors of the incident rays."""
    inverse_wavelength: Floats
    """(K,), 1/A."""
    origin_mm: Floats
    """(K, 3): where the block lies."""
    depth: Floats
    """(K,) in 0 to 1: quantile of the depth at which the sensor absorbs."""
    point: Floats
    """(K, 2) in 0 to 1: where within each pixel, or part of a pixel, intensity is evaluated (slow, fast)."""


class Transform(NamedTuple):
    """The lattice transform of a block of N1 x N2 x N3 cells; its peak is 1."""

    n_cells: Floats
    """(3,)"""
    square: bool
    """Interference function of a parallelepiped; else a Gaussian of the same peak and integral along each axis."""
    cut_per_A: float
    """Beyond this distance from a lattice point it is nothing."""


class Plane(NamedTuple):
    """A flat detector across the beam."""

    distance_mm: float
    pixel_mm: float
    beam_slow: float
    beam_fast: float
    per_mm: float
    """Linear attenuation of the sensor; 0 for a surface without depth."""
    thickness_mm: float


class Window(NamedTuple):
    """Orientations that bound an exposure, and how near to the Ewald sphere a point must come."""

    to_q: Floats
    """(3, 3, 3): hkl to scattering vector at the start, middle and end."""
    inverse_wavelength: float
    s_max_per_A: float
    tolerance_per_A: float
    tolerance_rad: float
    """Times the length of the vector: mosaicity, divergence, bandwidth."""


@_jit
def candidates(most: Ints, window: Window) -> Ints:
    """(n, 3) indices, up to +-most, that may diffract during the exposure."""
    found = np.empty((_MOST_CANDIDATES, 3), np.int64)
    n = 0
    for h in range(-most[0], most[0] + 1):
        for k in range(-most[1], most[1] + 1):
            for l in range(-most[2], most[2] + 1):  # noqa: E741
                near = _near(h, k, l, window)
                if near and n < _MOST_CANDIDATES:
                    found[n, 0], found[n, 1], found[n, 2] = h, k, l
                    n += 1
    return found[:n].copy()


@_inline
def _near(h: int, k: int, l: int, window: Window) -> bool:  # noqa: E741
    low, high, length = np.inf, -np.inf, 0.0
    for t in range(3):
        a = window.to_q[t]
        x = a[0, 0] * h + a[0, 1] * k + a[0, 2] * l
        y = a[1, 0] * h + a[1, 1] * k + a[1, 2] * l
        z = a[2, 0] * h + a[2, 1] * k + a[2, 2] * l
        length = np.sqrt(x * x + y * y + z * z)
        if length > window.s_max_per_A or length == 0.0:
            return False
        z += window.inverse_wavelength
        off = np.sqrt(x * x + y * y + z * z) - window.inverse_wavelength
        low, high = min(low, off), max(high, off)
    tolerance = window.tolerance_per_A + window.tolerance_rad * length
    return low < tolerance and high > -tolerance


@_jit
def expose(
    hkl: Ints, strength: Floats, rays: Rays, transform: Transform, plane: Plane, received: Floats, oversample: int
) -> tuple[Floats, Floats]:
    """The frame of one lattice, and what each reflection gave.

    `strength` (n,) is |F|^2 of `hkl` (n, 3); `received` (slow, fast) is what a pixel counts of light scattered evenly in all directions
    (solid angle, polarisation, absorption, shadows, gaps); each pixel is evaluated at `oversample`^2 points.

    Returns the image (slow, fast), and sums (n, 6) over each reflection's pixels of its light, and of that times slow, fast, slow^2,
    slow fast, fast^2 (of pixels' centres).
    """
    image = np.zeros(received.shape)
    sums = np.zeros((len(hkl), 6))
    for n in range(len(hkl)):
        for k in range(len(rays.depth)):
            _add(n, k, hkl, strength, rays, transform, plane, received, oversample, image, sums)
    return image, sums


@_inline
def _add(  # noqa: PLR0913
    n: int,
    k: int,
    hkl: Ints,
    strength: Floats,
    rays: Rays,
    transform: Transform,
    plane: Plane,
    received: Floats,
    oversample: int,
    image: Floats,
    sums: Floats,
) -> None:
    """One reflection in one sample."""
    a, wave = rays.to_q[k], rays.inverse_wavelength[k]
    gx = a[0, 0] * hkl[n, 0] + a[0, 1] * hkl[n, 1] + a[0, 2] * hkl[n, 2]
    gy = a[1, 0] * hkl[n, 0] + a[1, 1] * hkl[n, 1] + a[1, 2] * hkl[n, 2]
    gz = a[2, 0] * hkl[n, 0] + a[2, 1] * hkl[n, 1] + a[2, 2] * hkl[n, 2]
    sx, sy, sz = rays.direction[k, 0] * wave, rays.direction[k, 1] * wave, rays.direction[k, 2] * wave
    kx, ky, kz = sx + gx, sy + gy, sz + gz
    length = np.sqrt(kx * kx + ky * ky + kz * kz)
    left = transform.cut_per_A**2 - (length - wave) ** 2  # of the transform's sphere, what the Ewald sphere cuts
    forward = kz / length
    if left <= 0.0 or forward < _LEAST_FORWARD:
        return
    z = plane.distance_mm + _depth_mm(plane, rays.depth[k], forward) - rays.origin_mm[k, 2]
    slow = (rays.origin_mm[k, 1] + z * ky / kz) / plane.pixel_mm + plane.beam_slow
    fast = (rays.origin_mm[k, 0] + z * kx / kz) / plane.pixel_mm + plane.beam_fast
    reach = np.sqrt(left) / length * z / (forward * forward) / plane.pixel_mm
    c, cut2 = rays.to_cells[k], transform.cut_per_A**2
    weight = strength[n] / (oversample * oversample * len(rays.depth))
    for i in range(max(0, int(np.floor(slow - reach))), min(image.shape[0], int(np.floor(slow + reach)) + 1)):
        for j in range(max(0, int(np.floor(fast - reach))), min(image.shape[1], int(np.floor(fast + reach)) + 1)):
            if received[i, j] == 0.0:
                continue
            value = 0.0
            for u in range(oversample):
                y = (i + (u + rays.point[k, 0]) / oversample - plane.beam_slow) * plane.pixel_mm - rays.origin_mm[k, 1]
                for v in range(oversample):
                    x = (j + (v + rays.point[k, 1]) / oversample - plane.beam_fast) * plane.pixel_mm - rays.origin_mm[k, 0]
                    scale = wave / np.sqrt(x * x + y * y + z * z)
                    dx, dy, dz = x * scale - sx - gx, y * scale - sy - gy, z * scale - sz - gz
                    if dx * dx + dy * dy + dz * dz > cut2:
                        continue
                    value += _transform(
                        transform,
                        c[0, 0] * dx + c[0, 1] * dy + c[0, 2] * dz,
                        c[1, 0] * dx + c[1, 1] * dy + c[1, 2] * dz,
                        c[2, 0] * dx + c[2, 1] * dy + c[2, 2] * dz,
                    )
            if value == 0.0:
                continue
            value *= weight * received[i, j]
            image[i, j] += value
            _sum(sums, n, value, i + 0.5, j + 0.5)


@_inline
def _sum(sums: Floats, n: int, value: float, slow: float, fast: float) -> None:
    sums[n, 0] += value
    sums[n, 1] += value * slow
    sums[n, 2] += value * fast
    sums[n, 3] += value * slow * slow
    sums[n, 4] += value * slow * fast
    sums[n, 5] += value * fast * fast


@_inline
def _depth_mm(plane: Plane, quantile: float, forward: float) -> float:
    """Depth at which this share of the absorbed light is absorbed, for a ray at an angle of cosine `forward` (Beer and Lambert)."""
    if plane.per_mm == 0.0:
        return 0.0
    share = 1.0 - np.exp(-plane.per_mm * plane.thickness_mm / forward)
    return float(-np.log(1.0 - quantile * share) * forward / plane.per_mm)


@_inline
def _transform(transform: Transform, x: float, y: float, z: float) -> float:
    """At N times the fractional indices' distance from the lattice point."""
    if not transform.square:
        return float(np.exp(-np.pi * (x * x + y * y + z * z)))
    return _interference(x, transform.n_cells[0]) * _interference(y, transform.n_cells[1]) * _interference(z, transform.n_cells[2])


@_inline
def _interference(x: float, n_cells: float) -> float:
    """The interference function sin^2(pi N h) / (N sin(pi h))^2 at x = N h."""
    below = n_cells * np.sin(np.pi * x / n_cells)
    if abs(below) < 1e-9:
        return 1.0
    return float((np.sin(np.pi * x) / below) ** 2)
