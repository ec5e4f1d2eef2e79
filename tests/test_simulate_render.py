"""Counts and labels of rendered scenes. Truths: Poisson's statistics, ring radii in closed form, module layouts, the contract's rules."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")
from training.simulate.crystal import Cell, Crystal  # noqa: E402
from training.simulate.detectors import DETECTORS, chip_borders, gap_mask  # noqa: E402
from training.simulate.diffraction import Beam, Lattice, Reflections, reflections  # noqa: E402
from training.simulate.draw import draw_scene, rotation_about  # noqa: E402
from training.simulate.render import Rendered, _apart, _paint, _photon_scale, _separation_deg, render, run_of  # noqa: E402
from training.simulate.scene import Artefacts, Background, Distortion, HeaderError, Powder, Scene, Shadows  # noqa: E402
from triage.core import Spots  # noqa: E402
from triage.spots import DispersionFinder  # noqa: E402

pytestmark = pytest.mark.torch
torch.set_num_threads(1)  # on a busy machine two wait for each other

CONSTANT = Background(level=10.0, air=0.0, water=0.0, plastic=0.0, constant=1.0, unevenness=0.0)
LYSOZYME = Crystal(space_group="P 43 21 2", cell=(78.9, 78.9, 37.9, 90.0, 90.0, 90.0), seed=193, b_factor_A2=20.0)
START = rotation_about(np.array([0.3, -0.8, 0.52]), 63.0)


def lattice(turned_deg: float = 0.0, *, scale: float = 1.0) -> Lattice:
    turned = rotation_about(np.array([0.1, 0.5, 0.9]), turned_deg) @ START
    return Lattice(crystal=LYSOZYME, orientation=tuple(map(float, turned.ravel())), mosaicity_deg=0.1, domain_A=4000.0, scale=scale)


def scene(**changes: Any) -> Scene:
    """An empty frame of a small detector."""
    plain = Scene(
        seed=5,
        detector="EIGER2 500K",
        wavelength_A=1.0,
        distance_mm=90.0,
        beam_px=(250.3, 512.8),
        beam=Beam(bandwidth=2e-4, divergence_rad=1e-4, size_px=0.6, rotation_deg=0.2),
        background=dataclasses.replace(CONSTANT, level=0.3),
        shadows=Shadows(stop_px=8.0),
    )
    return dataclasses.replace(plain, **changes)


def diffracting(*lattices: Lattice, visible: int = 120, **changes: Any) -> Scene:
    return scene(lattices=lattices or (lattice(),), visible_spots=visible, **changes)


def radii_px(made: Scene) -> npt.NDArray[np.float64]:
    slow, fast = (np.arange(n) + 0.5 - centre for n, centre in zip(made.geometry().shape_px, made.beam_px, strict=True))
    return np.hypot(slow[:, None], fast[None, :])


def received(made: Scene) -> npt.NDArray[np.float64]:
    """Of scattering alike in all directions: the solid angle of a pixel, cos^3 of the angle to the beam, and the polarisation factor."""
    two_theta = np.arctan(radii_px(made) * 0.075 / made.distance_mm)
    slow, fast = (np.arange(n) + 0.5 - centre for n, centre in zip(made.geometry().shape_px, made.beam_px, strict=True))
    azimuth = np.arctan2(slow[:, None], fast[None, :])
    along, across = (np.sin(two_theta) ** 2 * part(azimuth) ** 2 for part in (np.cos, np.sin))
    return np.cos(two_theta) ** 3 * (0.99 * (1 - along) + 0.01 * (1 - across))


@pytest.mark.parametrize("level", [0.05, 10.0])
def test_a_flat_background_has_the_mean_and_variance_of_photon_counting(level: float) -> None:
    made = scene(background=dataclasses.replace(CONSTANT, level=level))
    rendered = render(made)
    expected = level * received(made)
    away = radii_px(made) > 30
    counts, expected = rendered.counts[away].astype(np.float64), expected[away]
    assert counts.sum() == pytest.approx(expected.sum(), abs=5 * math.sqrt(expected.sum()) + 1e-3 * expected.sum())
    dispersion = ((counts - expected) ** 2 / expected).mean()  # variance over mean: 1 for Poisson, +- sqrt((2 + 1 / mean) / n)
    assert dispersion == pytest.approx(1.0, abs=6 * math.sqrt((2 + 1 / level) / len(counts)) + 1e-3)
    assert rendered.labels.background == pytest.approx(float(np.median(expected)), rel=0.02)


def test_the_beam_stop_and_a_closed_shutter_let_nothing_through() -> None:
    bright = scene(background=CONSTANT, shadows=Shadows(stop_px=20.0))
    assert render(bright).counts[radii_px(bright) < 12].mean() < 0.05 * 10
    closed = scene(background=CONSTANT, artefacts=Artefacts(shutter_closed=True))
    assert render(closed).counts.mean() < 10 * 2e-4


@pytest.mark.parametrize("d_A", [3.897, 2.249])
def test_ice_rings_lie_at_their_radii(d_A: float) -> None:
    made = scene(ice=Powder(rings_per_A=(1.0 / d_A,), strengths=(6.0,), width=0.002), background=CONSTANT, distance_mm=60.0)
    rendered = render(made)
    radius = radii_px(made)
    profile = np.bincount(radius.astype(int).ravel(), rendered.counts.ravel()) / np.bincount(radius.astype(int).ravel())
    two_theta = 2 * math.asin(made.wavelength_A / (2 * d_A))
    expected = made.distance_mm / 0.075 * math.tan(two_theta)
    near = np.arange(int(expected) - 6, int(expected) + 7)
    weight = (profile[near] - profile[near[[0, -1]]].mean()).clip(0)
    assert ((near + 0.5) * weight).sum() / weight.sum() == pytest.approx(expected, abs=0.6)
    assert rendered.labels.ice_rings
    assert rendered.labels.non_diffraction_kind == "ice"


def test_a_ring_too_faint_to_see_is_no_ice() -> None:
    labels = render(scene(ice=Powder(rings_per_A=(1.0 / 3.897,), strengths=(0.02,), width=0.002))).labels
    assert not labels.ice_rings
    assert labels.non_diffraction_kind == "blank"


@pytest.mark.parametrize("artefacts", [Artefacts(), Artefacts(zingers=5, hot_pixels=4, hot_lines=1, dead_module=True, jet_streak=2.0)])
def test_the_same_scene_makes_the_same_frame(artefacts: Artefacts) -> None:
    made = diffracting(
        artefacts=artefacts, ice=Powder(rings_per_A=(0.2566,), strengths=(2.0,), width=0.002, texture=1.0, n_spots=9, spot_photons=60.0)
    )
    first, again, other = render(made), render(made), render(dataclasses.replace(made, seed=6))
    assert np.array_equal(first.counts, again.counts)
    assert first.labels == again.labels
    assert not np.array_equal(first.counts, other.counts)


def test_a_scene_survives_json() -> None:
    rng = np.random.default_rng(8)
    drawn = [draw_scene(rng) for _ in range(60)]
    assert any(made.salt is not None for made in drawn)
    assert any(made.powder is not None for made in drawn)
    for made in drawn:
        assert Scene.from_json(made.to_json()) == made
        json.loads(made.to_json(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))


def test_a_painted_spot_keeps_its_photons_place_and_width() -> None:
    image = torch.zeros(60, 60)
    along = (0.6, 0.8)
    spot = one_spot(30.35, 28.6, radial=2.4, tangential=1.2, direction=along, photons=500.0)
    _paint(image, spot)
    pixels = image.numpy()
    slow, fast = np.mgrid[0:60, 0:60] + 0.5
    assert pixels.sum() == pytest.approx(500.0, rel=1e-4)
    d_slow, d_fast = slow - 30.35, fast - 28.6
    for moment in (d_slow, d_fast):
        assert (pixels * moment).sum() / 500.0 == pytest.approx(0.0, abs=0.01)
    u, v = d_slow * along[0] + d_fast * along[1], d_fast * along[0] - d_slow * along[1]
    assert (pixels * u**2).sum() / 500.0 == pytest.approx(2.4**2, rel=0.03)
    assert (pixels * v**2).sum() / 500.0 == pytest.approx(1.2**2, rel=0.03)


def test_a_ragged_spot_keeps_its_photons_place_and_width() -> None:
    spot = dataclasses.replace(
        one_spot(40.3, 38.6, radial=3.0, tangential=2.0, direction=(0.0, 1.0), photons=800.0),
        blocks=((0.9, -0.5, 0.4), (-0.6, 1.0 / 3.0, 0.6)),  # weighted, they lie about the middle
    )
    image = torch.zeros(80, 80)
    _paint(image, spot)
    pixels = image.numpy()
    slow, fast = np.mgrid[0:80, 0:80] + 0.5
    assert pixels.sum() == pytest.approx(800.0, rel=1e-4)
    for moment, variance in ((fast - 38.6, 9.0), (slow - 40.3, 4.0)):
        assert (pixels * moment).sum() / 800.0 == pytest.approx(0.0, abs=0.02)
        assert (pixels * moment**2).sum() / 800.0 == pytest.approx(variance, rel=0.04)
    smooth = torch.zeros(80, 80)
    _paint(smooth, dataclasses.replace(spot, blocks=()))
    assert float((image - smooth).abs().sum()) > 100.0


def test_pixels_at_the_borders_of_chips_respond_by_so_much_more() -> None:
    plain = scene(background=dataclasses.replace(CONSTANT, level=400.0))
    bordered = render(dataclasses.replace(plain, background=dataclasses.replace(plain.background, chip_borders=0.2))).counts
    slow, fast = chip_borders("EIGER2 500K")
    assert np.flatnonzero(slow).tolist() == [256]  # 512 x 1028 pixels of 256 x 257 a chip
    assert np.flatnonzero(fast).tolist() == [257, 514, 771]
    line = bordered[256, 600:700].mean() / bordered[[255, 257], 600:700].mean()
    assert line == pytest.approx(1.2, abs=5 / math.sqrt(400 * 100))


def test_a_header_may_be_wrong_about_the_geometry_and_the_photons_do_not_care() -> None:
    right = diffracting()
    wrong = dataclasses.replace(right, header_error=HeaderError(beam_px=(2.0, -1.5), distance=0.01, wavelength=-1e-3))
    assert np.array_equal(render(right).counts, render(wrong).counts)
    geometry = run_of(wrong).geometry
    assert geometry is not None
    assert geometry.beam_px == pytest.approx((252.3, 511.3))
    assert geometry.distance_mm == pytest.approx(90.9)
    assert geometry.wavelength_A == pytest.approx(0.999)
    assert run_of(right).geometry == right.geometry()


def test_an_exposure_is_chosen_for_its_strong_spots_too() -> None:
    relative = torch.logspace(0, -6, 1000)  # no background: 25 photons make I/sigma of 5
    spots = dataclasses.replace(
        one_spot(5.0, 5.0, radial=1.0, tangential=1.0, direction=(1.0, 0.0), photons=1.0),
        positions_px=torch.full((1000, 2), 5.0),
        photons=relative,
    )
    spots = dataclasses.replace(spots, radial_px=torch.ones(1000), tangential_px=torch.ones(1000))
    dark, open_ = torch.zeros(10, 10), torch.ones(10, 10)
    assert _photon_scale(spots, dark, open_, 200) == pytest.approx(25.0 / float(relative[199]))
    assert _photon_scale(spots, dark, open_, 800) == pytest.approx(1500.0 * 25.0 / float(relative[16]))  # the 98th percentile of 800


def one_spot(slow: float, fast: float, *, radial: float, tangential: float, direction: tuple[float, float], photons: float) -> Reflections:
    return Reflections(
        positions_px=torch.tensor([[slow, fast]]),
        photons=torch.tensor([photons]),
        s_per_A=torch.tensor([0.2]),
        radial_px=torch.tensor([radial]),
        tangential_px=torch.tensor([tangential]),
        direction=torch.tensor([direction]),
    )


@pytest.mark.parametrize(
    ("slow", "fast", "is_apart"), [(0.9 * 2.355 * 2, 0, False), (1.1 * 2.355 * 2, 0, True), (0, 0.9 * 2.355, False), (0, 1.1 * 2.355, True)]
)
def test_a_spot_is_apart_when_it_lies_more_than_one_fwhm_from_stronger_ones(slow: float, fast: float, is_apart: bool) -> None:
    weak = one_spot(100.0, 100.0, radial=2.0, tangential=1.0, direction=(1.0, 0.0), photons=50.0)
    strong = one_spot(100.0 + slow, 100.0 + fast, radial=2.0, tangential=1.0, direction=(1.0, 0.0), photons=80.0)
    assert _apart(weak, torch.tensor([True]), [strong]).tolist() == [is_apart]
    assert _apart(weak, torch.tensor([True]), []).tolist() == [True]


def test_exact_twins_count_as_one_lattice() -> None:
    labels = render(diffracting(lattice(), lattice(scale=0.8))).labels
    assert labels.n_lattices == 1
    assert labels.lattices[1].visible_spots > 60
    assert labels.lattices[1].separable_spots == 0
    assert labels.lattices[1].separation_deg == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(("turned_deg", "number"), [(0.01, 1), (3.0, 2), (40.0, 2)])
def test_a_second_lattice_counts_when_its_spots_come_apart(turned_deg: float, number: int) -> None:
    labels = render(diffracting(lattice(), lattice(turned_deg, scale=0.8))).labels
    assert labels.n_lattices == number
    assert labels.lattices[1].separation_deg == pytest.approx(turned_deg, abs=1e-3)
    assert labels.lattices[1].intensity_ratio == 0.8


AXES = np.eye(3)


@pytest.mark.parametrize(
    ("space_group", "cell", "axis", "turned_deg", "expected_deg"),
    [
        ("P 43 21 2", (79.0, 79.0, 38.0, 90.0, 90.0, 90.0), AXES[2], 90.0, 0.0),
        ("P 43", (79.0, 79.0, 38.0, 90.0, 90.0, 90.0), AXES[0], 180.0, 0.0),  # the lattice is 422, whatever is in it
        ("P 43 21 2", (79.0, 79.0, 38.0, 90.0, 90.0, 90.0), AXES[0], 90.0, 90.0),
        ("P 43 21 2", (79.0, 79.0, 38.0, 90.0, 90.0, 90.0), AXES[2], 92.0, 2.0),
        ("P 43 21 2", (79.0, 79.0, 38.0, 90.0, 90.0, 90.0), np.array([0.3, -0.5, 0.8]), 2.0, 2.0),
        ("P 61", (90.0, 90.0, 60.0, 90.0, 90.0, 120.0), AXES[2], 60.0, 0.0),
        ("P 61", (90.0, 90.0, 60.0, 90.0, 90.0, 120.0), AXES[2], 90.0, 30.0),
        ("I 2 3", (90.0, 90.0, 90.0, 90.0, 90.0, 90.0), np.ones(3), 120.0, 0.0),
        ("I 2 3", (90.0, 90.0, 90.0, 90.0, 90.0, 90.0), AXES[0], 45.0, 45.0),
        ("P 1 21 1", (60.0, 70.0, 80.0, 90.0, 105.0, 90.0), AXES[1], 180.0, 0.0),
        ("P 1 21 1", (60.0, 70.0, 80.0, 90.0, 105.0, 90.0), AXES[1], 170.0, 10.0),
        ("P 1", (60.0, 70.0, 80.0, 80.0, 105.0, 95.0), AXES[1], 180.0, 180.0),
        ("R 3:R", (60.0, 60.0, 60.0, 80.0, 80.0, 80.0), np.array([1.0, 1.0, 1.0]), 120.0, None),
    ],
)
def test_the_separation_is_the_smallest_that_the_symmetry_of_the_lattice_leaves(
    space_group: str, cell: Cell, axis: npt.NDArray[np.float64], turned_deg: float, expected_deg: float | None
) -> None:
    """Axes in the crystal's Cartesian frame: a along x, c* along z."""
    crystal = Crystal(space_group=space_group, cell=cell, seed=1, b_factor_A2=20.0)
    if expected_deg is None:  # the threefold axis of a rhombohedral cell: a + b + c
        axis, expected_deg = np.linalg.inv(crystal.reciprocal_basis()).sum(axis=0), 0.0
    first = dataclasses.replace(lattice(), crystal=crystal)
    turned = np.asarray(first.orientation).reshape(3, 3) @ rotation_about(axis, turned_deg)
    second = dataclasses.replace(first, orientation=tuple(map(float, turned.ravel())))
    assert _separation_deg(first, second) == pytest.approx(expected_deg, abs=1e-4)
    assert _separation_deg(second, first) == pytest.approx(expected_deg, abs=1e-4)


def test_the_separation_from_another_cell_is_the_plain_rotation() -> None:
    first = lattice()
    turned = np.asarray(first.orientation).reshape(3, 3) @ rotation_about(AXES[2], 90.0)
    other = dataclasses.replace(LYSOZYME, cell=(80.0, 80.0, 37.0, 90.0, 90.0, 90.0))
    second = dataclasses.replace(first, crystal=other, orientation=tuple(map(float, turned.ravel())))
    assert _separation_deg(first, second) == pytest.approx(90.0)


def test_a_second_lattice_too_weak_to_be_seen_does_not_count() -> None:
    labels = render(diffracting(lattice(), lattice(40.0, scale=0.01))).labels
    assert labels.n_lattices == 1
    assert labels.lattices[1].visible_spots < 8


@pytest.mark.parametrize(("visible", "number"), [(5, 0), (12, 1)])
def test_a_lattice_counts_from_eight_visible_spots(visible: int, number: int) -> None:
    labels = render(diffracting(visible=visible)).labels
    assert labels.n_lattices == number
    assert (labels.d_min_A is None) == (number == 0)
    assert labels.non_diffraction_kind == ("blank" if number == 0 else None)


@pytest.mark.parametrize("wanted", [20, 60, 120])
@pytest.mark.parametrize("level", [0.05, 8.0])
def test_as_many_spots_are_visible_as_were_asked_for(wanted: int, level: float) -> None:
    made = diffracting(visible=wanted, background=dataclasses.replace(CONSTANT, level=level), d_min_A=1.5)
    assert abs(render(made).labels.visible_spots - wanted) <= 2


@pytest.mark.parametrize(
    ("detector", "written"), [("PILATUS 300K", -1), ("EIGER 1M", 2**32 - 1), ("EIGER2 1M", 2**16 - 1), ("JUNGFRAU 1M", None)]
)
def test_gaps_hold_the_detectors_no_data_value(detector: str, written: int | None) -> None:
    shape = DETECTORS[detector][0].shape_px
    made = scene(detector=detector, beam_px=(shape[0] * 0.52, shape[1] * 0.48), background=CONSTANT)
    rendered = render(made)
    gaps = gap_mask(detector)
    found = rendered.counts[gaps]
    assert gaps.any()
    assert np.isnan(found).all() if written is None else (found == written).all()
    low, high = rendered.run.valid_range(rendered.counts.dtype)
    with np.errstate(invalid="ignore"):
        usable = (rendered.counts >= low) & (rendered.counts <= high)
    assert not usable[gaps].any()
    assert usable[~gaps].all()


@pytest.mark.parametrize(
    ("detector", "shape", "lines", "columns"),
    [
        ("PILATUS 300K", (619, 487), (195, 211), None),  # DECTRIS PILATUS manuals
        ("EIGER 1M", (1065, 1030), (514, 550), None),
        ("EIGER2 4M", (2162, 2068), (512, 549), (1028, 1039)),
        ("EIGER2 16M", (4362, 4148), (512, 549), (1028, 1039)),
        ("PILATUS3 6M", (2527, 2463), (195, 211), (487, 493)),
    ],
)
def test_module_layouts_are_the_manufacturers(
    detector: str, shape: tuple[int, int], lines: tuple[int, int], columns: tuple[int, int] | None
) -> None:
    gaps = gap_mask(detector)
    assert gaps.shape == shape == DETECTORS[detector][0].shape_px
    in_gap = np.flatnonzero(gaps.all(axis=1))
    assert (in_gap[0], in_gap[lines[1] - lines[0]]) == lines
    across = np.flatnonzero(gaps.all(axis=0))
    assert (columns is None) == (len(across) == 0)
    if columns is not None:
        assert (across[0], across[columns[1] - columns[0]]) == columns


def test_an_integrating_detector_adds_its_offset_and_noise() -> None:
    made = scene(detector="RAYONIX MX225", beam_px=(768.0, 768.0), background=dataclasses.replace(CONSTANT, level=20.0))
    rendered = render(made)
    corner = rendered.counts[:200, :200].astype(np.float64)
    light = corner.mean() - 10.0
    assert rendered.run.header.offset == 10.0
    assert corner.var() == pytest.approx(light + 1.5**2 + 1 / 12, rel=0.1)  # photons, read noise, rounding


def found_spots(rendered: Rendered) -> Spots:
    return DispersionFinder().find(rendered.counts, rendered.run)


@pytest.mark.parametrize("level", [0.1, 4.0])
def test_the_spot_finder_finds_the_visible_spots_and_little_else(level: float) -> None:
    made = diffracting(background=dataclasses.replace(CONSTANT, level=level))
    rendered = render(made)
    expected = reflections(made.lattices[0], made.beam, made.geometry(), made.d_min_A, made.detector_model().spread_px)
    photons = expected.photons.numpy() * rendered.labels.photons
    area = 4 * np.pi * (expected.radial_px * expected.tangential_px).numpy()
    significance = photons / np.sqrt(photons + level * area)
    positions = expected.positions_px.numpy()
    away = np.hypot(*(positions - made.beam_px).T) > 25
    found = found_spots(rendered).positions_px
    nearest = np.linalg.norm(positions[:, None] - found[None], axis=2)
    clear = away & (significance >= 8)
    assert clear.sum() > 40
    assert (nearest[clear].min(axis=1) < 2.0).mean() > 0.95
    assert (nearest[away & (significance >= 5)].min(axis=1) < 2.5).mean() > 0.7
    assert (nearest[significance > 1.5].min(axis=0) < 3.0).mean() > 0.95  # of what was found


@pytest.mark.parametrize("artefacts", [Artefacts(zingers=6), Artefacts(hot_lines=1, zingers=1)])
def test_artefacts_are_no_diffraction(artefacts: Artefacts) -> None:
    labels = render(scene(artefacts=artefacts)).labels
    assert (labels.n_lattices, labels.non_diffraction_kind) == (0, "artefact")


def test_salt_without_the_sample_is_no_diffraction() -> None:
    salt = Crystal(space_group="P 21 21 21", cell=(9.2, 10.8, 12.9, 90.0, 90.0, 90.0), seed=4, b_factor_A2=2.0, is_salt=True)
    strong = dataclasses.replace(lattice(), crystal=salt, mosaicity_deg=0.5)
    made = scene(salt=strong, salt_spots=9, distance_mm=50.0, beam=Beam(bandwidth=5e-3, divergence_rad=5e-4, rotation_deg=0.5))
    labels = render(made).labels
    assert (labels.n_lattices, labels.non_diffraction_kind, labels.d_min_A) == (0, "salt", None)


def test_decay_follows_the_stated_b_factor() -> None:
    """The same crystal with B larger by 30 A^2, at the same photons: visible intensities fall by exp(-B s^2 / 2)."""
    photons = render(diffracting()).labels.photons
    fresh = diffracting(photons=photons)
    crystal = dataclasses.replace(LYSOZYME, b_factor_A2=LYSOZYME.b_factor_A2 + 30.0)
    damaged = diffracting(dataclasses.replace(lattice(), crystal=crystal), photons=photons)
    before, after = found_spots(render(fresh)), found_spots(render(damaged))
    distance = np.linalg.norm(before.positions_px[:, None] - after.positions_px[None], axis=2)
    pairs = [(i, int(row.argmin())) for i, row in enumerate(distance) if row.min() < 1.0]
    bright = [(i, k) for i, k in pairs if before.intensity[i] > 300]
    assert len(bright) > 10
    s = before.inverse_d_per_A[[i for i, _ in bright]].astype(np.float64)
    ratio = np.array([after.intensity[k] / before.intensity[i] for i, k in bright])
    slope = np.polyfit(s**2, np.log(ratio), 1, w=np.sqrt(before.intensity[[i for i, _ in bright]]))[0]
    assert slope == pytest.approx(-15.0, abs=4.0)


def test_modules_out_of_place_move_their_spots_together() -> None:
    detector = DETECTORS["PILATUS3 1M"][0]
    slow, fast = (module + gap for module, gap in zip(detector.module_px, detector.gap_px, strict=True))
    at = np.array([[10.0, 10.0], [slow - 20.0, fast - 20.0], [slow + 10.0, 10.0]])
    moved = Distortion(modules_px=0.5, seed=3).moved(at, detector) - at
    np.testing.assert_allclose(moved[0], moved[1])
    assert np.abs(moved[0] - moved[2]).max() > 0.05
    many = [Distortion(modules_px=0.5, seed=seed).moved(at, detector)[0] - at[0] for seed in range(400)]
    np.testing.assert_allclose(np.std(many, axis=0), 0.5, rtol=0.15)


def test_a_bent_panel_moves_its_edges_and_not_its_middle() -> None:
    detector = DETECTORS["EIGER 1M"][0]
    middle = np.asarray(detector.shape_px) / 2.0
    moved = Distortion(smooth_px=1.0, seed=4).moved(np.stack([middle, np.zeros(2)]), detector)
    np.testing.assert_allclose(moved[0], middle)
    assert np.hypot(*moved[1]) > 0.2


def test_spots_are_drawn_where_the_distorted_detector_has_them() -> None:
    """Every spot of the plain frame is one of the distorted frame's, moved as told."""
    distortion = Distortion(modules_px=0.4, smooth_px=2.0, seed=5)
    plain, distorted = render(diffracting(visible=40)), render(diffracting(visible=40, distortion=distortion))
    [before], [after] = plain.reflections, distorted.reflections
    wanted = distortion.moved(before.positions_px.double().numpy(), DETECTORS["EIGER2 500K"][0])
    nearest = np.linalg.norm(wanted[:, None] - after.positions_px.numpy()[None], axis=2).min(axis=1)
    assert (nearest < 0.01).mean() > 0.95  # some have left the detector, or are too faint where they are now
    assert np.linalg.norm(wanted - before.positions_px.numpy(), axis=1).max() > 1.0


def test_a_distorted_scene_is_made_again_from_json() -> None:
    made = diffracting(distortion=Distortion(modules_px=0.1, smooth_px=0.2, seed=7))
    assert Scene.from_json(made.to_json()) == made
    older = json.loads(diffracting().to_json())
    del older["distortion"]
    assert Scene.from_json(json.dumps(older)).distortion == Distortion()
