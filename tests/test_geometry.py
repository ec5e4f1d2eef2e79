"""Geometry against closed forms, symmetry, its own inverse, and dxtbx (tests/golden/make_dxtbx_resolution.py)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triage.geometry import Geometry, GeometryError, StatedGeometry, Vector
from triage.sources.axes import rotation

GOLDEN = json.loads((Path(__file__).parent / "golden" / "dxtbx_resolution.json").read_text())
PLAIN = Geometry(wavelength_A=1.0, distance_mm=100.0, pixel_mm=(0.1, 0.1), beam_px=(500.0, 600.0), shape_px=(1000, 1200))
STATED = StatedGeometry(wavelength_A=1.0, distance_mm=100.0, pixel_mm=(0.1, 0.1), beam_px=(500.0, 600.0))


def turned(axis: Vector, steps: list[tuple[Vector, float]]) -> Vector:
    vector = np.asarray(axis)
    for about, angle in steps:
        vector = rotation(np.asarray(about), angle) @ vector
    return float(vector[0]), float(vector[1]), float(vector[2])


def tilted(steps: list[tuple[Vector, float]], **changes: Any) -> Geometry:
    return replace(PLAIN, fast_axis=turned((1, 0, 0), steps), slow_axis=turned((0, 1, 0), steps), **changes)


angles = st.floats(-75, 75, allow_nan=False)
tilted_detectors = st.builds(
    lambda x, y, z, distance, slow, fast: tilted(
        [((0, 0, 1), z), ((1, 0, 0), x), ((0, 1, 0), y / 2)],
        distance_mm=distance,
        beam_px=(slow, fast),
        pixel_mm=(0.1, 0.07),
    ),
    angles,
    angles,
    st.floats(-180, 180),
    st.floats(30, 2000),
    st.floats(-500, 1500),
    st.floats(-500, 1500),
)


def test_two_theta_of_45_degrees_is_where_the_closed_form_says() -> None:
    """At 2theta = 45 deg, d = lambda / (2 sin 22.5 deg), one distance away from the beam in every direction."""
    d = 1.0 / (2 * np.sin(np.deg2rad(22.5)))
    away = 100.0 / 0.1
    positions = [(500 + away, 600), (500 - away, 600), (500, 600 + away), (500 + away * 0.6, 600 - away * 0.8)]
    np.testing.assert_allclose(PLAIN.resolution_A(positions), d, rtol=1e-12)


@pytest.mark.parametrize("two_theta_deg", [1.0, 10.0, 30.0, 60.0, 80.0])
def test_braggs_law_at_any_angle(two_theta_deg: float) -> None:
    away = 100.0 * np.tan(np.deg2rad(two_theta_deg)) / 0.1
    expected = 1.0 / (2 * np.sin(np.deg2rad(two_theta_deg / 2)))
    assert PLAIN.resolution_A((500.0, 600.0 + away)) == pytest.approx(expected, rel=1e-12)


def test_foot_of_a_swung_detector_scatters_at_the_swing() -> None:
    """A detector swung by 30 deg: the pixel nearest to the sample, 2theta = 30 deg, lies d tan 30 deg from the beam's own pixel."""
    geometry = tilted([((0, 1, 0), 30.0)])  # towards +x: the beam meets it further along -fast
    foot = (500.0, 600.0 + 100.0 * np.tan(np.deg2rad(30)) / 0.1)
    assert np.linalg.norm(geometry.laboratory_mm(foot)) == pytest.approx(100.0)
    assert geometry.resolution_A(foot) == pytest.approx(1.0 / (2 * np.sin(np.deg2rad(15))))


def test_the_beam_centre_sees_no_resolution() -> None:
    assert PLAIN.inverse_d_per_A((500.0, 600.0)) == 0
    assert np.isinf(PLAIN.resolution_A((500.0, 600.0)))


@given(st.floats(0, 360), st.floats(1, 3000))
def test_resolution_is_the_same_all_around_the_beam(angle_deg: float, radius_px: float) -> None:
    angle = np.deg2rad(angle_deg)
    there = PLAIN.resolution_A((500 + radius_px * np.sin(angle), 600 + radius_px * np.cos(angle)))
    assert there == pytest.approx(float(PLAIN.resolution_A((500, 600 + radius_px))), rel=1e-9)


@given(tilted_detectors, st.floats(0, 360), st.tuples(st.floats(0, 1000), st.floats(0, 1200)))
def test_turning_the_detector_about_the_beam_changes_no_resolution(
    geometry: Geometry, angle_deg: float, position: tuple[float, float]
) -> None:
    about = rotation(np.array([0.0, 0.0, 1.0]), angle_deg)
    other = replace(geometry, fast_axis=tuple(about @ geometry.fast_axis), slow_axis=tuple(about @ geometry.slow_axis))
    assert other.inverse_d_per_A(position) == pytest.approx(float(geometry.inverse_d_per_A(position)), rel=1e-9, abs=1e-12)


@settings(max_examples=200)
@given(tilted_detectors, st.tuples(st.floats(0, 1000), st.floats(0, 1200)))
def test_positions_are_the_inverse_of_laboratory_coordinates(geometry: Geometry, position: tuple[float, float]) -> None:
    laboratory = geometry.laboratory_mm(position)
    np.testing.assert_allclose(geometry.positions_px(laboratory), position, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(geometry.positions_px(laboratory * 0.01), position, rtol=1e-9, atol=1e-6)  # only the direction counts


@given(tilted_detectors)
def test_the_beam_meets_the_detector_at_its_beam_centre(geometry: Geometry) -> None:
    np.testing.assert_allclose(geometry.positions_px([0.0, 0.0, 1.0]), geometry.beam_px, rtol=1e-9, atol=1e-9)


@given(tilted_detectors, st.tuples(st.floats(0, 1000), st.floats(0, 1200)))
def test_the_distance_is_that_of_the_plane(geometry: Geometry, position: tuple[float, float]) -> None:
    """No pixel is nearer than the distance; all lie in one plane at that distance."""
    normal = np.cross(geometry.fast_axis, geometry.slow_axis)
    assert abs(float(geometry.laboratory_mm(position) @ normal)) == pytest.approx(geometry.distance_mm, rel=1e-9)


def test_rays_that_go_away_from_the_detector_meet_it_nowhere() -> None:
    assert np.isnan(PLAIN.positions_px([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])).all()


@given(tilted_detectors, st.tuples(st.floats(0, 1000), st.floats(0, 1200)))
def test_scattering_vectors_end_on_the_ewald_sphere(geometry: Geometry, position: tuple[float, float]) -> None:
    """|q + s0| = |s0| = 1/lambda: elastic scattering."""
    q = geometry.scattering_vectors_per_A(position)
    assert np.linalg.norm(q + np.array([0, 0, 1 / geometry.wavelength_A])) == pytest.approx(1 / geometry.wavelength_A)


@pytest.mark.parametrize("panel", GOLDEN["panels"] + list(GOLDEN["files"].values()), ids=lambda panel: panel["name"])
def test_resolution_is_that_of_dxtbx(panel: dict[str, Any]) -> None:
    geometry = Geometry(
        wavelength_A=panel["wavelength_A"],
        distance_mm=panel["distance_mm"],
        pixel_mm=tuple(panel["pixel_mm"]),
        beam_px=tuple(panel["beam_px"]),
        shape_px=tuple(panel["shape_px"]),
        fast_axis=tuple(panel["fast_axis"]),
        slow_axis=tuple(panel["slow_axis"]),
    )
    np.testing.assert_allclose(geometry.resolution_A(panel["positions_px"]), panel["resolution_A"], rtol=1e-9)
    np.testing.assert_allclose(geometry.laboratory_mm((0.0, 0.0)), panel["origin_mm"], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"wavelength_A": None}, "source.geometry.wavelength_A"),
        ({"distance_mm": None}, "source.geometry.distance_mm"),
        ({"pixel_mm": None}, "source.geometry.pixel_mm"),
        ({"beam_px": None}, "source.geometry.beam_px"),
        ({"distance_mm": 10.0}, "distance_mm = 10 mm is implausible"),
        ({"wavelength_A": 0.0}, "wavelength_A = 0 A is implausible"),
        ({"wavelength_A": float("nan")}, "wavelength_A = nan A is implausible"),
        ({"pixel_mm": (75.0, 75.0)}, "pixel_mm = 75 mm is implausible"),
        ({"beam_px": (2000.0, 2000.0)}, "beam centre 2000.0, 2000.0"),
        ({"slow_axis": (1.0, 0.0, 0.0)}, "not orthogonal"),
        ({"slow_axis": (0.0, float("nan"), 0.0)}, "not orthogonal"),
        ({"beam_px": (float("nan"), 5.0), "fast_axis": (0.8, 0.0, 0.6)}, "beam centre nan, 5.0"),
        ({"fast_axis": (0.0, 0.0, 1.0)}, "parallel to the beam"),
    ],
)
def test_what_is_absent_or_implausible_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(GeometryError, match=named.replace(".", r"\.")):
        replace(STATED, **change).resolve((1000, 1200))


def test_a_persons_word_is_taken_though_it_looks_wrong() -> None:
    given_by_hand = STATED.overridden_by(StatedGeometry(beam_px=(-2000.0, 10.0), distance_mm=12.0))
    geometry = given_by_hand.resolve((1000, 1200), trusted=frozenset({"beam_px", "distance_mm"}))
    assert (geometry.beam_px, geometry.distance_mm, geometry.wavelength_A) == ((-2000.0, 10.0), 12.0, 1.0)


def test_a_swung_detector_may_have_the_beam_beside_it() -> None:
    fast = turned((1, 0, 0), [((0, 1, 0), 20.0)])
    geometry = replace(STATED, fast_axis=fast, beam_px=(500.0, -80.0)).resolve((1000, 1200))
    assert geometry.is_swung
