"""Where reflections land and how bright and wide they are. Truths: enumeration of the whole lattice, closed forms, Monte Carlo."""

from __future__ import annotations

import dataclasses
import itertools
import math

import gemmi
import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")
from training.simulate.crystal import Crystal  # noqa: E402
from training.simulate.diffraction import (  # noqa: E402
    Beam,
    Lattice,
    Reflections,
    _excitation_sigma,
    _near_sphere,
    _polarisation,
    _widths,
    recorded_fraction,
    reflections,
)
from training.simulate.draw import random_rotation, rotation_about  # noqa: E402
from triage.geometry import Geometry  # noqa: E402

pytestmark = pytest.mark.torch
torch.set_num_threads(1)  # on a busy machine two wait for each other

GEOMETRY = Geometry(wavelength_A=1.0, distance_mm=100.0, pixel_mm=(0.075, 0.075), beam_px=(500.0, 480.0), shape_px=(1000, 1000))
CRYSTAL = Crystal(space_group="P 21 21 21", cell=(50.0, 60.0, 70.0, 90.0, 90.0, 90.0), seed=3, b_factor_A2=15.0)
STILL = Beam(bandwidth=1e-4, divergence_rad=1e-4, size_px=0.5)
TILTED = random_rotation(np.random.default_rng(1))
Matrix = npt.NDArray[np.float64]


def lattice(orientation: Matrix = TILTED, crystal: Crystal = CRYSTAL, *, mosaicity_deg: float = 0.1, domain_A: float = 3000.0) -> Lattice:
    flat = tuple(float(x) for x in orientation.ravel())
    return Lattice(crystal=crystal, orientation=flat, mosaicity_deg=mosaicity_deg, domain_A=domain_A, scale=1.0)


@pytest.mark.parametrize(
    ("cell", "orientation"),
    [
        ((40.0, 50.0, 60.0, 90.0, 90.0, 90.0), TILTED),
        ((40.0, 50.0, 60.0, 90.0, 90.0, 90.0), np.eye(3)),
        ((31.0, 44.0, 58.0, 78.0, 99.0, 112.0), random_rotation(np.random.default_rng(2))),
        ((25.0, 25.0, 190.0, 90.0, 90.0, 120.0), random_rotation(np.random.default_rng(3))),
    ],
)
@pytest.mark.parametrize("tolerance", [3e-4, 4e-3])
def test_reflections_near_the_sphere_are_those_of_a_whole_enumeration(
    cell: tuple[float, float, float, float, float, float], orientation: Matrix, tolerance: float
) -> None:
    wavelength, d_min = 1.1, 2.6
    basis = orientation @ Crystal(space_group="P 1", cell=cell, seed=1, b_factor_A2=10.0).reciprocal_basis()
    limits = [int(edge / d_min) + 3 for edge in cell[:3]]
    everything = np.array(list(itertools.product(*(range(-n, n + 1) for n in limits))))
    g = everything @ basis.T
    s = np.linalg.norm(g, axis=1)
    error = np.linalg.norm(g + np.array([0.0, 0.0, 1.0 / wavelength]), axis=1) - 1.0 / wavelength
    expected = everything[(np.abs(error) < tolerance) & (s < 1.0 / d_min) & (s > 0.01)]
    hkl, found_g = _near_sphere(basis, wavelength, d_min, tolerance)
    assert len(expected) > 10
    assert sorted(hkl.tolist()) == sorted(expected.tolist())
    assert found_g.numpy() == pytest.approx(hkl.numpy() @ basis.T, abs=1e-12)


def test_a_reflection_on_the_sphere_lands_at_its_bragg_angle() -> None:
    """a* turned until h00 diffracts in the plane of the fast axis: the spot lies at D tan(2 theta) along it."""
    d, h = 50.0 / 12, 12
    theta = math.asin(GEOMETRY.wavelength_A / (2 * d))
    turned = rotation_about(np.array([0.0, 1.0, 0.0]), math.degrees(theta))  # x to (cos theta, 0, -sin theta)
    found = reflections(lattice(turned, mosaicity_deg=0.02), STILL, GEOMETRY, 2.0, 0.3)
    fast = GEOMETRY.beam_px[1] + GEOMETRY.distance_mm * math.tan(2 * theta) / 0.075
    nearest = np.linalg.norm(found.positions_px.numpy() - [GEOMETRY.beam_px[0], fast], axis=1).argmin()
    assert found.positions_px[nearest].numpy() == pytest.approx([GEOMETRY.beam_px[0], fast], abs=2e-3)
    assert float(found.s_per_A[nearest]) == pytest.approx(h / 50.0)


def test_spots_of_a_wide_exposure_lie_at_the_bragg_angles_that_gemmi_gives() -> None:
    found = reflections(lattice(), dataclasses.replace(STILL, rotation_deg=0.5), GEOMETRY, 2.0, 0.3)
    cell = gemmi.UnitCell(*CRYSTAL.cell)
    possible = np.sort([cell.calculate_1_d2(h) for h in itertools.product(range(26), range(31), range(36)) if any(h)]) ** 0.5
    s = found.s_per_A.numpy().astype(np.float64)
    assert np.abs(possible[np.searchsorted(possible, s - 1e-6)] - s).max() < 2e-6
    bright = found.photons > found.photons.median()  # the faint ones diffract before or after, and only their tails are seen
    at = GEOMETRY.inverse_d_per_A(found.positions_px[bright].numpy())
    assert np.abs(at - s[bright.numpy()]).max() < 1.5e-3


def test_spots_turn_with_the_crystal_about_the_beam() -> None:
    quarter = rotation_about(np.array([0.0, 0.0, 1.0]), 90.0)  # x (fast) to y (slow)
    centred = dataclasses.replace(GEOMETRY, beam_px=(500.0, 500.0))
    before = reflections(lattice(), STILL, centred, 2.0, 0.3).positions_px.numpy() - 500.0
    after = reflections(lattice(quarter @ TILTED), STILL, centred, 2.0, 0.3).positions_px.numpy() - 500.0
    turned = np.stack([before[:, 1], -before[:, 0]], axis=1)  # slow' = fast, fast' = -slow
    assert np.sort(after, axis=0) == pytest.approx(np.sort(turned, axis=0), abs=1e-3)


def test_partials_of_consecutive_exposures_sum_to_the_full_reflection() -> None:
    error, speed, sigma = (torch.tensor(x, dtype=torch.float64) for x in ([1e-3, -2e-3, 0.0], [0.3, -0.1, 0.02], [2e-3, 1e-3, 2e-4]))
    step = math.radians(0.1)
    steps = torch.arange(-400, 401)
    parts = torch.stack([recorded_fraction(error + speed * step * k, speed, sigma, step) for k in steps])
    assert parts.sum(dim=0).numpy() == pytest.approx((1.0 / speed.abs()).numpy(), rel=1e-9)  # the Lorentz factor
    middle = parts[390:411].sum(dim=0).numpy()
    assert middle == pytest.approx(recorded_fraction(error, speed, sigma, 21 * step).numpy(), rel=1e-9)


def test_a_still_is_the_limit_of_a_thin_rotation() -> None:
    error, speed, sigma = (torch.tensor(x, dtype=torch.float64) for x in ([1e-3, -2e-3, 0.0], [0.3, -0.1, 1e-12], [2e-3, 1e-3, 2e-4]))
    still = recorded_fraction(error, speed, sigma, 0.0)
    for rotation in (1e-4, 1e-6):
        assert (recorded_fraction(error, speed, sigma, rotation) / rotation).numpy() == pytest.approx(still.numpy(), rel=1e-3)
    density = np.exp(-0.5 * (error / sigma).numpy() ** 2) / (sigma.numpy() * math.sqrt(2 * math.pi))
    assert still.numpy() == pytest.approx(density)


def photons_of_one_degree(step_deg: float, mosaicity_deg: float) -> float:
    """Of a degree of rotation about the fast axis, in consecutive exposures."""
    n = round(1.0 / step_deg)
    beam = dataclasses.replace(STILL, rotation_deg=step_deg)
    total = 0.0
    for k in range(n):
        turned = rotation_about(np.array([1.0, 0.0, 0.0]), step_deg * (k + 0.5 - n / 2)) @ TILTED
        total += float(reflections(lattice(turned, mosaicity_deg=mosaicity_deg), beam, GEOMETRY, 2.0, 0.3).photons.sum())
    return total


@pytest.mark.parametrize("mosaicity_deg", [0.05, 0.4])
def test_a_rotation_brings_as_many_photons_in_one_exposure_as_in_ten(mosaicity_deg: float) -> None:
    assert photons_of_one_degree(0.1, mosaicity_deg) == pytest.approx(photons_of_one_degree(1.0, mosaicity_deg), rel=0.03)


def test_thin_slices_lose_no_photons() -> None:
    assert photons_of_one_degree(0.02, 0.4) == pytest.approx(photons_of_one_degree(1.0, 0.4), rel=0.03)


@pytest.mark.parametrize(
    ("mosaicity_deg", "bandwidth", "divergence_rad"), [(0.3, 0.0, 0.0), (0.0, 5e-3, 0.0), (0.0, 0.0, 1e-3), (0.2, 2e-3, 5e-4)]
)
@pytest.mark.parametrize("d_A", [1.4, 6.0])
def test_the_blur_of_the_excitation_error_is_that_of_a_thousand_crystallites(
    mosaicity_deg: float, bandwidth: float, divergence_rad: float, d_A: float
) -> None:
    """Monte Carlo: tilt the blocks, change the wavelength, tilt the beam, and see how the distance from the sphere spreads."""
    rng = np.random.default_rng(7)
    n, wavelength, s = 40_000, 1.0, 1.0 / d_A
    sin_theta = wavelength * s / 2
    g = s * np.array([math.sqrt(1 - sin_theta**2), 0.0, -sin_theta])  # in the diffracting position
    tilt = rng.normal(scale=math.radians(mosaicity_deg), size=(n, 3))
    tilted = g + np.cross(tilt, g)
    inverse = 1.0 / (wavelength * (1.0 + bandwidth * rng.normal(size=n)))
    slope = divergence_rad * rng.normal(size=(n, 2))
    k0 = inverse[:, None] * np.stack([*slope.T, np.ones(n)], axis=1) / np.sqrt(1.0 + (slope**2).sum(axis=1))[:, None]
    error = np.linalg.norm(k0 + tilted, axis=1) - inverse
    blurred = Lattice(crystal=CRYSTAL, orientation=(1, 0, 0, 0, 1, 0, 0, 0, 1), mosaicity_deg=mosaicity_deg, domain_A=1e9, scale=1.0)
    beam = Beam(bandwidth=bandwidth, divergence_rad=divergence_rad)
    found = float(_excitation_sigma(torch.tensor([s]), blurred, beam, wavelength))
    assert found == pytest.approx(error.std(), rel=0.03)


def widths(d_A: float, *, bandwidth: float = 0.0, mosaicity_deg: float = 0.0, divergence_rad: float = 0.0) -> tuple[float, float]:
    """Radial and tangential standard deviation of a spot on the fast axis, without what widens every spot."""
    theta = math.asin(GEOMETRY.wavelength_A / (2 * d_A))
    unit = torch.tensor([[math.sin(2 * theta), 0.0, math.cos(2 * theta)]], dtype=torch.float64)
    position = torch.as_tensor(GEOMETRY.positions_px(unit.numpy()), dtype=torch.float32)
    beam = Beam(bandwidth=bandwidth, divergence_rad=divergence_rad, size_px=0.4)
    sharp = Lattice(crystal=CRYSTAL, orientation=(1, 0, 0, 0, 1, 0, 0, 0, 1), mosaicity_deg=mosaicity_deg, domain_A=1e9, scale=1.0)
    radial, tangential, direction = _widths(sharp, beam, GEOMETRY, unit, position, 0.3)
    assert direction[0].tolist() == pytest.approx([0.0, 1.0], abs=1e-6)
    constant = 0.3**2 + 0.4**2 + 1.0 / 12.0
    return math.sqrt(max(float(radial) ** 2 - constant, 0.0)), math.sqrt(max(float(tangential) ** 2 - constant, 0.0))


@pytest.mark.parametrize("d_A", [1.5, 2.0, 4.0])
def test_bandwidth_draws_a_spot_out_away_from_the_beam(d_A: float) -> None:
    def radius_px(wavelength_A: float) -> float:
        return GEOMETRY.distance_mm / 0.075 * math.tan(2 * math.asin(wavelength_A / (2 * d_A)))

    radial, tangential = widths(d_A, bandwidth=5e-3)
    assert radial == pytest.approx(5e-3 * (radius_px(1.0005) - radius_px(0.9995)) / 1e-3, rel=1e-3)
    assert tangential == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("d_A", [1.5, 2.0, 4.0])
def test_mosaicity_smears_a_spot_round_the_beam(d_A: float) -> None:
    radial, tangential = widths(d_A, mosaicity_deg=0.5)
    radius_px = GEOMETRY.distance_mm / 0.075 * math.tan(2 * math.asin(1.0 / (2 * d_A)))
    assert tangential == pytest.approx(radius_px * math.radians(0.5), rel=1e-3)
    assert radial == pytest.approx(0.0, abs=1e-3)


def test_divergence_widens_a_spot_all_round() -> None:
    assert widths(3.0, divergence_rad=1e-3) == pytest.approx((100.0 / 0.075 * 1e-3,) * 2, rel=1e-3)


@pytest.mark.parametrize("change", [{"mosaicity_deg": 0.4}, {"domain_A": 400.0}])
def test_worse_crystals_show_more_and_wider_spots(change: dict[str, float]) -> None:
    good = reflections(lattice(mosaicity_deg=0.05), STILL, GEOMETRY, 2.0, 0.3)
    bad = reflections(lattice(**{"mosaicity_deg": 0.05, **change}), STILL, GEOMETRY, 2.0, 0.3)
    assert len(bad.photons) > 1.3 * len(good.photons)
    assert float(bad.tangential_px.median()) > 1.1 * float(good.tangential_px.median())


def test_polarisation_follows_the_dipole() -> None:
    """At 2 theta = 90 deg: nothing in the plane of polarisation, all of it across; unpolarised light: (1 + cos^2) / 2."""
    rays = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    assert _polarisation(rays, 1.0).tolist() == pytest.approx([0.0, 1.0, 1.0])
    two_theta = 0.7
    ray = torch.tensor([[math.sin(two_theta) * math.cos(1.1), math.sin(two_theta) * math.sin(1.1), math.cos(two_theta)]])
    assert float(_polarisation(ray, 0.5)) == pytest.approx((1 + math.cos(two_theta) ** 2) / 2)


def test_only_spots_on_the_detector_are_returned() -> None:
    found: Reflections = reflections(
        lattice(), STILL, dataclasses.replace(GEOMETRY, shape_px=(300, 1000), beam_px=(-50.0, 480.0)), 2.0, 0.3
    )
    positions = found.positions_px.numpy()
    assert len(positions) > 10
    assert (positions > 0).all()
    assert (positions < [300, 1000]).all()
    assert (found.photons >= 0).all()
