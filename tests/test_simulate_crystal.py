"""Simulated structure factors. Truths: Wilson's statistics in closed form, gemmi's space groups and cells."""

from __future__ import annotations

import itertools
import math

import gemmi
import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")
from training.simulate.crystal import Crystal, _group_table, classify, draw_crystal, draw_salt  # noqa: E402

pytestmark = pytest.mark.torch
torch.set_num_threads(1)  # on a busy machine two wait for each other

GROUPS = ["P 1", "C 1 2 1", "P 21 21 21", "P 2 2 2", "P 43 21 2", "P 32 2 1", "R 3 2", "P 61 2 2", "F 4 3 2", "I 41 3 2"]
CELL = (60.0, 70.0, 80.0, 90.0, 90.0, 90.0)


def box(limit: int) -> npt.NDArray[np.int64]:
    """Every index but 0, 0, 0 with |h|, |k|, |l| up to `limit`."""
    found = np.array(list(itertools.product(range(-limit, limit + 1), repeat=3)))
    return found[np.any(found != 0, axis=1)]


def flat_crystal(space_group: str, cell: tuple[float, float, float, float, float, float] = CELL, **changes: object) -> Crystal:
    """Intensities without any fall-off."""
    return Crystal(**{"space_group": space_group, "cell": cell, "seed": 11, "b_factor_A2": 0.0, "is_salt": True, **changes})


def intensities(crystal: Crystal, hkl: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return crystal.intensities(torch.as_tensor(hkl), torch.full((len(hkl),), 0.2)).numpy().astype(np.float64)


@pytest.mark.parametrize("name", GROUPS)
def test_absences_centric_reflections_and_epsilon_agree_with_gemmi(name: str) -> None:
    hkl = box(6)
    group = gemmi.SpaceGroup(name).operations()
    _, centric, epsilon, absent = (x.numpy() for x in classify(torch.as_tensor(hkl), name))
    assert absent.tolist() == [group.is_systematically_absent(h) for h in hkl.tolist()]
    assert centric.tolist() == [group.is_reflection_centric(h) for h in hkl.tolist()]
    assert epsilon.tolist() == [group.epsilon_factor_without_centering(h) for h in hkl.tolist()]


@pytest.mark.parametrize("name", GROUPS)
def test_reflections_share_an_intensity_exactly_when_gemmi_calls_them_equivalent(name: str) -> None:
    hkl = box(6)
    key = classify(torch.as_tensor(hkl), name)[0].numpy()
    group = gemmi.SpaceGroup(name)
    unit, operations = gemmi.ReciprocalAsu(group), group.operations()
    unique = [tuple(unit.to_asu(h, operations)[0]) for h in hkl.tolist()]
    pairs = set(zip(key.tolist(), unique, strict=True))
    assert len(pairs) == len(set(key.tolist())) == len(set(unique))
    found = dict(zip(unique, intensities(flat_crystal(name), hkl).tolist(), strict=True))
    assert intensities(flat_crystal(name), hkl) == pytest.approx([found[h] for h in unique])


def test_acentric_intensities_are_exponential() -> None:
    hkl = box(24)
    hkl = hkl[hkl[:, 0] > 0]  # Friedel mates are no independent samples
    z = intensities(flat_crystal("P 1"), hkl)
    assert z.mean() == pytest.approx(1.0, abs=5 / math.sqrt(len(z)))
    assert (z**2).mean() / z.mean() ** 2 == pytest.approx(2.0, abs=0.06)  # Wilson 1949
    for limit in (0.1, 0.5, 1.0, 2.0):  # N(z) of Howells, Phillips & Rogers, Acta Cryst. 3 (1950) 210
        assert (z < limit).mean() == pytest.approx(1 - math.exp(-limit), abs=0.006)


def test_centric_intensities_are_squares_of_gaussians() -> None:
    axis = np.arange(1, 181)
    hkl = np.stack([*(x.ravel() for x in np.meshgrid(axis, axis)), np.zeros(len(axis) ** 2, dtype=np.int64)], axis=1)
    z = intensities(flat_crystal("P 2 2 2"), hkl)
    assert z.mean() == pytest.approx(1.0, abs=5 * math.sqrt(2 / len(z)))
    assert (z**2).mean() / z.mean() ** 2 == pytest.approx(3.0, abs=0.25)
    for limit in (0.1, 0.5, 1.0, 2.0):
        assert (z < limit).mean() == pytest.approx(math.erf(math.sqrt(limit / 2)), abs=0.01)


def test_special_reflections_are_stronger_by_epsilon() -> None:
    axial = np.zeros((8000, 3), dtype=np.int64)
    axial[:, 2] = np.arange(1, 8001)
    z = intensities(flat_crystal("P 4 2 2"), axial)
    assert z.mean() == pytest.approx(gemmi.SpaceGroup("P 4 2 2").operations().epsilon_factor([0, 0, 1]), rel=0.07)


@pytest.mark.parametrize("b_factor", [10.0, 35.0])
def test_intensity_falls_off_as_the_b_factor_says(b_factor: float) -> None:
    """A Wilson plot: ln <I> against s^2 has the slope -B/2."""
    cell = (45.0, 52.0, 61.0, 83.0, 97.0, 105.0)
    hkl = box(20)
    s = 1.0 / np.array([gemmi.UnitCell(*cell).calculate_d(h) for h in hkl.tolist()])
    kept = s < 0.4
    crystal = flat_crystal("P 1", cell, b_factor_A2=b_factor)
    found = crystal.intensities(torch.as_tensor(hkl[kept]), torch.as_tensor(s[kept], dtype=torch.float32)).numpy()
    shell = ((s[kept] / 0.4) ** 2 * 12).astype(int)
    s2 = np.bincount(shell, s[kept] ** 2) / np.bincount(shell)
    mean = np.bincount(shell, found) / np.bincount(shell)
    slope = np.polyfit(s2, np.log(mean), 1, w=np.sqrt(np.bincount(shell)))[0]
    assert slope == pytest.approx(-b_factor / 2, abs=0.6)


def test_two_crystals_that_differ_in_b_differ_by_that_factor_alone() -> None:
    s = torch.linspace(0.05, 0.7, 50)
    sharp, soft = (Crystal(space_group="P 1", cell=CELL, seed=1, b_factor_A2=b) for b in (20.0, 60.0))
    ratio = (soft.fall_off(s) / sharp.fall_off(s)).numpy()
    assert ratio == pytest.approx(np.exp(-0.5 * 40.0 * s.numpy() ** 2), rel=1e-4)


def test_anisotropy_weakens_along_c_star_only() -> None:
    plain, weak = flat_crystal("P 1"), flat_crystal("P 1", anisotropy_A2=30.0)
    hkl = np.array([[7, 3, 0], [0, 0, 16], [2, -5, 8]])
    expected = np.exp(-0.5 * 30.0 * (hkl[:, 2] / 80.0) ** 2)  # orthorhombic: c* = 1/c
    assert intensities(weak, hkl) / intensities(plain, hkl) == pytest.approx(expected, rel=1e-4)


def test_a_full_pseudo_translation_extinguishes_a_class_and_keeps_the_mean() -> None:
    crystal = flat_crystal("P 1", pseudo_translation=(0.0, 0.0, 0.5), pseudo_strength=1.0)
    hkl = box(14)
    z = intensities(crystal, hkl)
    assert z[hkl[:, 2] % 2 != 0].max() < 1e-5
    assert z[hkl[:, 2] % 2 == 0].mean() == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("cell", [CELL, (31.0, 44.0, 58.0, 78.0, 99.0, 112.0), (90.0, 90.0, 130.0, 90.0, 90.0, 120.0)])
def test_reciprocal_basis_gives_gemmis_resolution(cell: tuple[float, float, float, float, float, float]) -> None:
    hkl = box(4)
    g = hkl @ flat_crystal("P 1", cell).reciprocal_basis().T
    assert 1.0 / np.linalg.norm(g, axis=1) == pytest.approx([gemmi.UnitCell(*cell).calculate_d(h) for h in hkl.tolist()])


def test_drawn_cells_obey_their_space_group() -> None:
    rng = np.random.default_rng(4)
    for crystal in [*(draw_crystal(rng) for _ in range(300)), *(draw_salt(rng) for _ in range(60))]:
        group = gemmi.SpaceGroup(crystal.space_group)
        assert group.is_sohncke()
        assert gemmi.UnitCell(*crystal.cell).is_compatible_with_spacegroup(group), crystal
        assert gemmi.UnitCell(*crystal.cell).volume > 50.0


def test_every_sohncke_group_can_be_drawn() -> None:
    names, shares = _group_table()
    assert len(set(names)) == 65  # International Tables A
    assert shares.sum() == pytest.approx(1.0)
    assert min(shares) > 1e-3
