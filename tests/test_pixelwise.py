"""The simulator of benchmarks/pixelwise.py on a small camera, against Bragg's law, gemmi and the rotation method's Lorentz factor."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest

pytest.importorskip("matplotlib")  # of the train extra, as the benchmark is
pytest.importorskip("scipy")
from benchmarks import pixelwise
from benchmarks.pixelwise_background import ICE_CELL, Camera, Diffuse, Ice, Setting, ice_lines
from benchmarks.pixelwise_crystal import SPACE_GROUPS, Crystal, Exposure, Structure, rotation, separation_deg
from benchmarks.pixelwise_frame import Made, Pattern, Scene, expose_scene, make, pattern_of, run_of
from benchmarks.pixelwise_report import Said, report
from triage.core import Judgement
from triage.geometry import Geometry
from triage.spots import DispersionFinder

pytestmark = pytest.mark.timeout(120)  # where loops are compiled for the first time

CAMERA = Camera(name="small", modules=(2, 1), module_px=(120, 250), gap_px=(10, 0), pixel_mm=0.2, dtype="int32", silicon_mm=0.45)
SETTING = Setting(camera=CAMERA, wavelength_A=1.0, distance_mm=60.0, beam_px=(131.3, 120.8), polarisation=0.95, stop_mm=1.0, arm_mm=0.0)
STRUCTURE = Structure(space_group="P 21 21 21", cell=(40.0, 50.0, 60.0, 90.0, 90.0, 90.0), b_factor_A2=10.0, seed=3)
ORIENTATION = rotation(np.array([[0.4, -0.7, 1.1]]))[0]
AXIS = np.array([1.0, 0.0, 0.0])


def scene(rotation_deg: float = 0.4, mosaicity_deg: float = 0.02, **changes: Any) -> Scene:
    exposure = Exposure(
        wavelength_A=1.0, bandwidth=1e-4, divergence_rad=(1e-4, 1e-4), rotation_deg=rotation_deg, axis=(1.0, 0.0, 0.0), lit_mm=0.02
    )
    crystal = Crystal(structure=STRUCTURE, orientation=ORIENTATION, mosaicity_deg=(mosaicity_deg,) * 3, block_A=1000.0)
    known: dict[str, Any] = {
        "setting": SETTING,
        "exposure": exposure,
        "crystals": (crystal,),
        "wanted": 60,
        "diffuse": Diffuse(level=1.0, air=0.5, inelastic=0.1, lopsided=0.0),
        "ice": None,
        "masked": True,
        "meant": "single",
    }
    return Scene(**(known | changes))


def pattern(made: Scene, seed: int = 0, received: np.ndarray | None = None) -> Pattern:
    return pattern_of(made.crystals[0], made, SETTING.received() if received is None else received, np.random.default_rng(seed))


def turned(made: Scene, by_deg: float) -> Scene:
    """With the middle of its exposure elsewhere."""
    about = rotation(np.deg2rad(by_deg) * AXIS[None])[0]
    return dataclasses.replace(made, crystals=(dataclasses.replace(made.crystals[0], orientation=about @ made.crystals[0].orientation),))


def crossings(hkl: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Angles (n,), deg, at which reflections meet the Ewald sphere, near zero (nan: they do not), and scattered wave vectors (n, 3).

    From direct axes by cross products and the closed form of a rotation about x (Arndt & Wonacott, The Rotation Method (1977)).
    """
    cell = gemmi.UnitCell(*STRUCTURE.cell)
    a, b, c = (np.array(cell.orthogonalize(gemmi.Fractional(*x)).tolist()) for x in np.eye(3))
    reciprocal = np.array([np.cross(b, c), np.cross(c, a), np.cross(a, b)]) / cell.volume
    g = hkl @ reciprocal @ ORIENTATION.T
    # |k0 + R g|^2 = |k0|^2 with k0 along z: -g^2 / 2 = z' / wavelength, z' = y sin(phi) + z cos(phi)
    wanted, radius, phase = -0.5 * (g**2).sum(axis=1), np.hypot(g[:, 1], g[:, 2]), np.arctan2(g[:, 1], g[:, 2])
    with np.errstate(invalid="ignore"):
        half = np.arccos(wanted / radius)
    both = np.stack([phase + half, phase - half])
    both = (both + np.pi) % (2.0 * np.pi) - np.pi
    phi = np.take_along_axis(both, np.abs(np.nan_to_num(both, nan=9.0)).argmin(axis=0)[None], axis=0)[0]
    y, z = np.cos(phi) * g[:, 1] - np.sin(phi) * g[:, 2], np.sin(phi) * g[:, 1] + np.cos(phi) * g[:, 2]
    return np.rad2deg(phi), np.stack([g[:, 0], y, z + 1.0], axis=1)


def test_spots_lie_where_a_closed_form_and_bragg_s_law_put_them() -> None:
    fine = Camera(name="fine", modules=(1, 1), module_px=(1000, 1000), gap_px=(0, 0), pixel_mm=0.05, dtype="int32")  # and no parallax
    made = scene(setting=dataclasses.replace(SETTING, camera=fine, beam_px=(525.2, 483.2)))
    found = pattern_of(made.crystals[0], made, made.setting.received(), np.random.default_rng(0))
    phi, k1 = crossings(found.hkl)
    whole = (np.abs(phi) < 0.12) & (found.light > 1e-3 * found.light.max())
    known = {"distance_mm": 60.0, "pixel_mm": (0.05, 0.05), "beam_px": made.setting.beam_px, "shape_px": fine.shape_px}
    geometry = Geometry(wavelength_A=1.0, **known)
    away = np.linalg.norm(found.centres_px - geometry.positions_px(k1), axis=1)
    assert whole.sum() > 30
    assert np.median(away[whole]) < 0.2
    d = np.array([gemmi.UnitCell(*STRUCTURE.cell).calculate_d(h) for h in found.hkl[whole].tolist()])
    radius_px = 60.0 * np.tan(2.0 * np.arcsin(1.0 / (2.0 * d))) / 0.05
    off = np.linalg.norm(found.centres_px[whole] - made.setting.beam_px, axis=1) - radius_px
    assert np.median(np.abs(off)) < 0.2
    assert abs(np.mean(off)) < 0.1
    # and what meets the sphere far from the exposure, or never, has little light: blocks of 1,000 A are broad
    assert found.light[np.isnan(phi) | (np.abs(phi) > 1.0)].sum() < 0.05 * found.light.sum()


def test_whole_reflections_have_the_lorentz_factor_of_the_rotation_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.pixelwise_frame.samples_of", lambda *_: 4000)
    found = pattern(scene(1.6), received=np.ones(CAMERA.shape_px))
    phi, k1 = crossings(found.hkl)
    strength = STRUCTURE.intensities(found.hkl)
    lorentz = 1.0 / np.abs(np.cross(k1, [0.0, 0.0, 1.0]) @ AXIS)
    inside = ((found.centres_px > 3) & (found.centres_px < np.array(CAMERA.shape_px) - 3)).all(axis=1)
    whole = inside & (np.abs(phi) < 0.4) & (lorentz < 6.0) & (strength > 0.02 * strength.max())
    # a pixel's solid angle is smaller by the cube of the cosine: `received` of one everywhere counts too much by its inverse
    cosine = k1[:, 2]
    ratio = (found.light * cosine**3 / strength / lorentz)[whole]
    assert whole.sum() > 20
    assert np.std(ratio) / np.mean(ratio) < 0.1


def test_a_rotation_is_the_sum_of_its_steps() -> None:
    whole = pattern(scene(0.4))
    steps = [pattern(turned(scene(0.1), by), seed=k) for k, by in enumerate((-0.15, -0.05, 0.05, 0.15))]
    summed = np.mean([one.image for one in steps], axis=0)
    assert whole.image.sum() == pytest.approx(summed.sum(), rel=0.03)
    assert np.corrcoef(whole.image.ravel(), summed.ravel())[0, 1] > 0.97


@pytest.mark.parametrize("square", [False, True])
def test_a_finer_sum_gives_the_same_light(square: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = scene(0.0, 0.1)
    made = dataclasses.replace(made, crystals=(dataclasses.replace(made.crystals[0], square=square),))
    coarse = pattern(made)
    monkeypatch.setattr("benchmarks.pixelwise_frame.samples_of", lambda *_: 1500)
    fine = pattern(made, seed=1)
    light = {tuple(h): x for h, x in zip(fine.hkl.tolist(), fine.light, strict=True)}
    strong = coarse.light > 0.02 * coarse.light.max()
    ratio = coarse.light[strong] / [light[tuple(h)] for h in coarse.hkl[strong].tolist()]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.05)
    assert np.std(ratio) < 0.2


@pytest.mark.parametrize("name", SPACE_GROUPS)
def test_intensities_have_the_group_s_symmetry_and_wilson_s_mean(name: str) -> None:
    cell = (60.0, 60.0, 60.0, 90.0, 90.0, 90.0)
    structure = Structure(space_group=name, cell=cell, b_factor_A2=0.0, seed=5)
    hkl = np.random.default_rng(0).integers(-12, 13, (400, 3))
    operations = gemmi.SpaceGroup(name).operations()
    intensity = structure.intensities(hkl)
    for op in operations.sym_ops:
        image = np.array([op.apply_to_hkl(h) for h in hkl.tolist()])
        assert np.allclose(structure.intensities(-image) > 0, intensity > 0)
    absent = np.array([operations.is_systematically_absent(h) for h in hkl.tolist()])
    assert (intensity[absent] == 0).all()
    general = np.array([operations.epsilon_factor_without_centering(h) == 1 for h in hkl.tolist()]) & ~absent
    mean = structure._mean(np.linalg.norm(hkl @ structure.reciprocal().T, axis=1))
    centring = max(len(operations.cen_ops), 1)
    assert np.mean(intensity[general] / mean[general]) / centring == pytest.approx(1.0, abs=0.35)


def test_two_lattices_are_counted_as_two_and_one_as_one() -> None:
    first = scene().crystals[0]
    other = dataclasses.replace(first, orientation=rotation(np.array([[0.03, 0.04, 0.0]]))[0] @ ORIENTATION, ratio=0.5)
    made = expose_scene(scene(crystals=(first, other)), np.random.default_rng(1), "two")
    assert made.truth["n_lattices"] == 2
    assert made.truth["lattices"][1]["separation_deg"] == pytest.approx(np.rad2deg(0.05), rel=1e-6)
    assert made.truth["lattices"][0]["visible"] == pytest.approx(60, abs=2)
    assert expose_scene(scene(), np.random.default_rng(1), "one").truth["n_lattices"] == 1
    same = dataclasses.replace(first, ratio=0.5)  # on the first: visible, and nowhere apart
    hidden = expose_scene(scene(crystals=(first, same)), np.random.default_rng(1), "hidden").truth
    assert hidden["n_lattices"] == 1
    assert hidden["lattices"][1]["visible"] >= 8 > hidden["lattices"][1]["separable"]
    faint = dataclasses.replace(other, ratio=1e-3)
    assert expose_scene(scene(crystals=(first, faint)), np.random.default_rng(1), "faint").truth["n_lattices"] == 1


def test_a_symmetry_of_the_lattice_is_no_separation() -> None:
    first = scene().crystals[0]
    turn = rotation(np.array([[np.pi, 0.0, 0.0]]))[0]  # the twofold along a
    assert separation_deg(first, dataclasses.replace(first, orientation=ORIENTATION @ turn)) < 1e-4


def test_ice_lies_at_textbook_spacings() -> None:
    lines, strength = ice_lines()
    textbook = np.array([3.90, 3.67, 3.44, 2.67, 2.25, 2.07, 1.95, 1.92, 1.88])  # hexagonal ice, strongest lines
    assert np.abs(1.0 / lines[:, None] - textbook).min(axis=0).max() < 0.01
    assert gemmi.UnitCell(*ICE_CELL).calculate_d([1, 0, 0]) == pytest.approx(1.0 / lines[0], abs=1e-4)
    assert (strength > 0).all()


def test_blanks_hold_nothing_and_ice_shows() -> None:
    ice = Ice(strength=2.0, crystallite_A=300.0, texture=0.0)
    made = expose_scene(scene(crystals=(), ice=ice), np.random.default_rng(0), "ice")
    assert made.truth["n_lattices"] == 0
    assert made.truth["ice_rings"]
    assert not expose_scene(scene(crystals=()), np.random.default_rng(0), "blank").truth["ice_rings"]
    counts = made.counts[~CAMERA.gaps()]
    assert (made.counts[CAMERA.gaps()] == -1).all()
    assert (counts >= 0).all()


def test_a_seed_makes_the_same_frame_again() -> None:
    one, again = make(1, 14), make(1, 14)
    assert np.array_equal(one.counts, again.counts)
    assert one.truth == again.truth
    assert one.truth["detector"] != make(1, 11).truth["detector"]


def made_small(seed: int, index: int) -> Made:
    """A frame of the small camera's, with an ice ring in every third."""
    ice = Ice(strength=2.0, crystallite_A=300.0, texture=0.0) if index % 3 == 0 else None
    return expose_scene(scene(crystals=(), ice=ice), np.random.default_rng([seed, index]), f"{seed}/{index}")


def test_frames_are_kept_and_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(pixelwise, "make", lambda seed, index: asked.append(index) or made_small(seed, index))
    paths = pixelwise.frames(tmp_path, 1, 2)
    assert pixelwise.frames(tmp_path, 1, 3)[:2] == paths
    assert asked == [0, 1, 2]
    with np.load(paths[0]) as kept:
        assert np.array_equal(kept["counts"], made_small(1, 0).counts)
    with pytest.raises(pixelwise.FolderError, match="--out"):
        pixelwise.frames(tmp_path, 2, 3)


def test_the_header_makes_the_run_that_the_frame_was_drawn_for() -> None:
    made = made_small(1, 1)
    run = run_of(made.header, CAMERA)
    assert run.geometry is not None
    positions = np.array([[10.5, 20.5], [200.5, 100.5]])
    assert run.geometry.inverse_d_per_A(positions) == pytest.approx(SETTING.s_per_A()[[10, 200], [20, 100]])
    assert run.mask is not None
    assert len(DispersionFinder().find(made.counts, run)) < 3


def test_the_table_says_what_was_judged() -> None:
    """Two networks: one right, one that knows nothing."""
    first = {"visible": 100, "separable": 100, "ratio": 1.0, "separation_deg": 0.0, "counts": True}
    common = {"rotation_deg": 0.1, "detector": "EIGER 1M", "ice_rings": False}
    truths: list[dict[str, Any]] = []
    for k in range(300):
        second = first | {"ratio": 0.5, "separation_deg": (1.0, 4.0, 40.0)[k % 9 // 3]}
        lattices = ([], [first], [first, second])[k % 3]
        d_min = 2.0 if lattices else None
        truths.append(common | {"n_lattices": len(lattices), "lattices": lattices, "d_min_A": d_min, "ice_rings": k % 10 == 0})
    judgements = {
        "right": [_judgement(truth["n_lattices"], ice=truth["ice_rings"]) for truth in truths],
        "idle": [_judgement(1, ice=False) for _ in truths],
    }
    lines = [line.split("|")[1:-1] for line in report(Said(truths=truths, judgements=judgements)).splitlines() if line]
    rows = {name.strip(): [cell.strip() for cell in cells] for name, *cells in lines}
    assert rows["several lattices (ratio >= 0.1) against one"][:4] == ["100 / 100", *["1.000 (1.000-1.000)"] * 2, "0.500 (0.500-0.500)"]
    assert rows["separation of 2 to 8 deg"][0] == "33 / 100"
    assert rows["no lattice against >= 8 visible spots"][0] == "100 / 200"
    assert rows["no lattice against 8 to 25 visible spots"][1] == "too few"
    assert rows["several lattices: stills"][0] == "0 / 0"
    assert rows["ice rings"][0] == "30 / 270"
    assert rows["resolution limit, relative error: median"][1] == "0.250 (0.250-0.250)"


def _judgement(lattices: int, *, ice: bool) -> Judgement:
    probability = np.full(4, 0.02)
    probability[lattices] = 0.94
    return Judgement(
        lattices=tuple(float(x) for x in probability),
        non_diffraction_kind=(0.25, 0.25, 0.25, 0.25),
        ice_rings=0.9 if ice else 0.1,
        resolution_A=None if lattices == 0 else 2.5,
    )
