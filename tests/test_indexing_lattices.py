"""The embedded indexer on spots of lattices made by closed-form geometry (tests/lattice_spots.py)."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from lattice_spots import about, axes_of, lattice, misfit, outliers, reflections, run_of, spots_at, turn

from triage.core import Cell, Indexed, IndexingStatus, Run, RunKind, Spots
from triage.indexing import EmbeddedIndexer, indexer, known_cell
from triage.indexing.bravais import is_flat
from triage.indexing.centre import View, is_sharp
from triage.indexing.kernels import log10_tail
from triage.indexing.known_cell import anywhere
from triage.indexing.model import TURNS, Lattice, symmetrised, under
from triage.indexing.observed import Bools, Observed, with_beam_moved
from triage.indexing.search import SCOPES, Scope, Trial, chances, settle
from triage.spots import ICE_RINGS_A

CELLS: dict[str, Cell] = {
    "aP": (48.0, 61.0, 74.0, 81.0, 83.0, 75.0),
    "mP": (52.0, 67.0, 81.0, 90.0, 104.0, 90.0),
    "mC": (96.0, 58.0, 71.0, 90.0, 110.0, 90.0),
    "oP": (46.0, 63.0, 88.0, 90.0, 90.0, 90.0),
    "oC": (62.0, 95.0, 78.0, 90.0, 90.0, 90.0),
    "oI": (66.0, 84.0, 107.0, 90.0, 90.0, 90.0),
    "oF": (88.0, 112.0, 139.0, 90.0, 90.0, 90.0),
    "tP": (58.0, 58.0, 96.0, 90.0, 90.0, 90.0),
    "tI": (79.0, 79.0, 126.0, 90.0, 90.0, 90.0),
    "hP": (68.0, 68.0, 93.0, 90.0, 90.0, 120.0),
    "hR": (86.0, 86.0, 124.0, 90.0, 90.0, 120.0),
    "cP": (77.0, 77.0, 77.0, 90.0, 90.0, 90.0),
    "cI": (98.0, 98.0, 98.0, 90.0, 90.0, 90.0),
    "cF": (124.0, 124.0, 124.0, 90.0, 90.0, 90.0),
}


def has(indexed: Indexed, cell: Cell, orientation: np.ndarray, centring: str = "P", *, within_deg: float = 0.5) -> bool:
    found = (misfit(one.cell, one.orientation, cell, orientation, centring=centring) for one in indexed.solutions)
    return any(strain < 0.02 and turned < within_deg for strain, turned in found)


@pytest.mark.parametrize("bravais", CELLS)
def test_every_bravais_type_without_a_cell(bravais: str) -> None:
    rng, run = np.random.default_rng(3), run_of()
    cell, centring = CELLS[bravais], bravais[1]
    orientation = turn(rng)
    positions = np.vstack([lattice(cell, orientation, run, rng, centring=centring), outliers(run, rng, 25)])
    indexed = EmbeddedIndexer().index(spots_at(positions, run, rng), run)
    assert indexed.status is IndexingStatus.INDEXED
    assert len(indexed.solutions) == 1
    assert has(indexed, cell, orientation, centring)
    first = indexed.solutions[0]
    assert first.bravais == bravais
    assert np.abs(np.asarray(first.cell) / cell - 1.0).max() < 0.02
    assert indexed.fraction_unexplained is not None
    assert indexed.fraction_unexplained < 0.25


@pytest.mark.parametrize("bravais", ["aP", "mC", "oP", "tI", "hR", "cF"])
def test_known_cell(bravais: str) -> None:
    rng, run = np.random.default_rng(5), run_of()
    cell, centring = CELLS[bravais], bravais[1]
    orientation = turn(rng)
    stated = tuple(x * y for x, y in zip(cell, (1.006, 1.006, 1.006, 1.0, 1.0, 1.0), strict=True))
    positions = np.vstack([lattice(cell, orientation, run, rng, n=40, centring=centring), outliers(run, rng, 15)])
    indexed = EmbeddedIndexer().index(spots_at(positions, run, rng), run, cells=(stated,))  # type: ignore[arg-type]
    assert has(indexed, cell, orientation, centring)
    assert indexed.solutions[0].bravais == bravais


def test_even_reflections_of_a_face_centred_cell_are_no_smaller_one() -> None:
    """Of a known cF cell half the reflections are all even, half all odd; here there are three even ones to two odd."""
    rng, run = np.random.default_rng(23), run_of()
    assert run.geometry is not None
    orientation, cell = turn(rng), CELLS["cF"]
    found = reflections(cell, orientation, run.geometry, centring="F")
    hkl = np.rint(found[:, 2:] @ orientation * cell[0]).astype(int)
    even = (hkl % 2 == 0).all(axis=1)
    chosen = np.concatenate([np.flatnonzero(even)[:60], np.flatnonzero(~even)[:40]])
    indexed = EmbeddedIndexer().index(spots_at(found[chosen, :2], run, rng), run, cells=(cell,))
    assert has(indexed, cell, orientation, "F")
    assert indexed.solutions[0].bravais == "cF"


def test_mostly_even_reflections_of_a_centred_cell_are_no_smaller_one() -> None:
    """Of a known oC cell half of the reflections with h + k even have both even; here six in ten have all three."""
    rng, run = np.random.default_rng(24), run_of()
    assert run.geometry is not None
    orientation, cell = turn(rng), CELLS["oC"]
    found = reflections(cell, orientation, run.geometry, centring="C")
    hkl = np.rint(found[:, 2:] @ orientation * cell[:3]).astype(int)
    even = (hkl % 2 == 0).all(axis=1)
    chosen = np.concatenate([np.flatnonzero(even)[:60], np.flatnonzero(~even)[:40]])
    indexed = EmbeddedIndexer().index(spots_at(found[chosen, :2], run, rng), run, cells=(cell,))
    assert has(indexed, cell, orientation, "C")
    assert indexed.solutions[0].bravais == "oC"


@pytest.mark.parametrize(("axis", "off_deg"), [((0.3, 0.2, 1.0), -4.0), ((0.5, -1.0, 0.3), 4.0)])
def test_a_known_cell_that_settles_on_wrong_indices_is_found_without_it(
    monkeypatch: pytest.MonkeyPatch, axis: tuple[float, float, float], off_deg: float
) -> None:
    """From four degrees off it explains most spots: the one with the beam moved by 31 px, the other strained by 4 %."""
    rng, run, cell = np.random.default_rng(52), run_of(), (42.0, 109.0, 140.0, 90.0, 90.0, 90.0)
    orientation = turn(rng)
    spots = spots_at(lattice(cell, orientation, run, rng, n=420), run, rng)
    near = np.linalg.inv(axes_of(cell) @ (about(axis, off_deg) @ orientation).T)
    monkeypatch.setattr(indexer, "anywhere", lambda _observed, _use, _direct: [near])
    indexed = EmbeddedIndexer().index(spots, run, cells=(cell,))
    assert has(indexed, cell, orientation)
    assert indexed.solutions[0].bravais == "oP"
    assert indexed.solutions[0].n_indexed > 400
    assert indexed.beam_shift_px is not None
    np.testing.assert_allclose(indexed.beam_shift_px, (0.0, 0.0), atol=0.7)


def scopes_tried(monkeypatch: pytest.MonkeyPatch) -> list[Scope]:
    """The scopes in which an unknown cell is sought, as they are."""
    tried: list[Scope] = []
    real = indexer.candidates

    def counted(observed: Observed, use: Bools, scope: Scope) -> list[np.ndarray]:
        tried.append(scope)
        return real(observed, use, scope)

    monkeypatch.setattr(indexer, "candidates", counted)
    return tried


@pytest.mark.parametrize(("mosaic_deg", "doubted"), [(0.25, False), (1.0, False), (1.0, True)])
def test_mosaicity_is_no_reason_to_doubt_a_known_cell(monkeypatch: pytest.MonkeyPatch, mosaic_deg: float, doubted: bool) -> None:
    """A blunt lattice of nearly all spots is doubted where its cell is another than the one stated (here 1.6 % along c), not else."""
    tried = scopes_tried(monkeypatch)
    rng, run, cell = np.random.default_rng(53), run_of(), CELLS["oP"]
    orientation = turn(rng)
    spots = spots_at(lattice(cell, orientation, run, rng, n=150, mosaic_deg=mosaic_deg), run, rng)
    stated = (46.0, 63.0, 88.0 * (1.016 if doubted else 1.0), 90.0, 90.0, 90.0)
    found = EmbeddedIndexer()._first(View.of(spots, run), (stated,))
    assert found is not None
    assert found.lattice.trial.n > 135
    assert (found.lattice.trial.spread[1] > 0.006) == (mosaic_deg > 0.5)
    assert bool(tried) == doubted


@pytest.mark.parametrize("odd", [2, 30])
def test_a_known_cell_is_not_given_up_for_half_of_its_points(odd: int) -> None:
    """The lattice of every second plane of a known cell explains the other spots with half as many points, and yields to the cell."""
    rng, run, cell = np.random.default_rng(54), run_of(), CELLS["aP"]
    assert run.geometry is not None
    orientation = turn(rng)
    found = reflections(cell, orientation, run.geometry)
    h = np.rint(found[:, 2:] @ orientation @ axes_of(cell)[0]).astype(int)
    chosen = np.concatenate([np.flatnonzero(h % 2 == 0)[:120], np.flatnonzero(h % 2)[:odd]])
    view = View.of(spots_at(found[chosen, :2], run, rng), run)
    observed, use = view.observed, view.observed.usable
    halved = symmetrised(observed, use, settle(observed, use, np.linalg.inv(axes_of(cell) / [[2.0], [1.0], [1.0]] @ orientation.T)), 0.0)
    assert halved.trial.n > 100
    other = indexer._Found(view=view, lattice=halved)
    known = EmbeddedIndexer()._known_or_other(view, None, other, (cell,))
    assert known is not None
    volume = abs(np.linalg.det(np.linalg.inv(known.lattice.trial.a))) / abs(np.linalg.det(axes_of(cell)))
    assert volume == pytest.approx(1.0 if odd > 2 else 0.5, rel=0.02)  # two more spots are no reason for a larger cell


@pytest.mark.parametrize("bravais", CELLS)
def test_a_known_cell_is_recognised_in_a_lattice(bravais: str) -> None:
    """By its axes among the lattice's vectors, turned, in any basis, a little strained; another cell, and one strained by more, is not."""
    rng, cell = np.random.default_rng(55), CELLS[bravais]
    axes, orientation = axes_of(cell), turn(rng)
    lattice_axes = axes @ orientation.T @ np.diag([1.008, 0.995, 1.003])
    a, b, c = lattice_axes
    primitive = {"P": (a, b, c), "C": (a, (a + b) / 2, c), "I": (a, b, (a + b + c) / 2), "R": (a, b, (2 * a + b + c) / 3)}
    primitive["F"] = ((b + c) / 2, (a + c) / 2, (a + b) / 2)
    other_basis = np.array([[1, 1, 0], [0, 1, 0], [2, 0, 1]]) @ np.array(primitive[bravais[1]])
    found = known_cell.axes_like(axes, other_basis, 0.02)
    assert found is not None
    strain = np.linalg.svd(np.linalg.inv(axes) @ found, compute_uv=False) - 1.0
    assert np.abs(strain).max() < 0.01
    assert np.linalg.det(found) > 0
    points = found @ np.linalg.inv(other_basis)
    np.testing.assert_allclose(points, np.rint(points), atol=1e-9)
    assert known_cell.axes_like(axes * [[1.0], [1.0], [1.04]], other_basis, 0.02) is None
    assert known_cell.axes_like(axes_of((33.0, 41.0, 57.0, 90.0, 90.0, 90.0)), other_basis, 0.02) is None


def test_a_known_cell_holds_what_few_spots_leave_uncertain() -> None:
    """The axis along the beam: a few inner spots of a mosaic crystal do not tell it, and many do, whatever is stated."""
    cell, run = CELLS["oP"], run_of()
    direct, setting = indexer._stated(cell)
    stray_free, stray_held = [], []
    for seed in range(12):
        rng = np.random.default_rng([57, seed])
        orientation = about(rng.normal(size=3), 4.0)  # c within a few degrees of the beam
        spots = spots_at(lattice(cell, orientation, run, rng, n=14, mosaic_deg=1.0), run, rng)
        observed = View.of(spots, run).observed
        trial = settle(observed, observed.usable, np.linalg.inv(direct @ orientation.T), ways=TURNS)
        for one, stray in ((dataclasses.replace(setting, stated=None), stray_free), (setting, stray_held)):
            refined = under(observed, observed.usable, trial, one, 0.0)
            stray.append(np.abs(np.asarray(refined.setting.cell) / cell - 1.0).max())
    assert np.mean(stray_held) < 0.75 * np.mean(stray_free)
    assert max(stray_held) < 0.02
    rng, orientation, longer = np.random.default_rng(58), turn(np.random.default_rng(58)), (46.0, 63.0, 90.2, 90.0, 90.0, 90.0)
    indexed = EmbeddedIndexer().index(spots_at(lattice(longer, orientation, run, rng, n=200), run, rng), run, cells=(cell,))
    np.testing.assert_allclose(indexed.solutions[0].cell, longer, rtol=0.002)


@pytest.mark.parametrize("bravais", ["mC", "oC", "oI", "oF", "tI", "hR", "cI", "cF"])
def test_a_centred_known_cell_holds_its_smaller_lattice(bravais: str) -> None:
    """With the axes in the order in which they are reported, whatever that of the stated ones."""
    rng, run, cell = np.random.default_rng(59), run_of(), CELLS[bravais]
    spots = spots_at(lattice(cell, turn(rng), run, rng, n=100, centring=bravais[1]), run, rng)
    observed = View.of(spots, run).observed
    a, b, c = cell[:3]
    stated = (b, a, c, 90.0, 90.0, 90.0) if bravais[0] == "o" and bravais[1] != "C" else cell
    found, _ = EmbeddedIndexer()._known(observed, observed.usable, stated)
    assert found is not None
    assert found.setting.bravais == bravais
    assert found.setting.stated == pytest.approx(found.setting.cell, rel=0.01)
    if bravais[0] != "m":
        assert found.setting.stated == pytest.approx(cell, rel=1e-6)


@pytest.mark.parametrize(("shift_px", "sharp"), [((3.0, -4.0), True), ((4.0, -5.0), False)])
def test_a_lattice_that_moves_the_beam_far_is_not_sharp(shift_px: tuple[float, float], sharp: bool) -> None:
    """A fit expects 2 px; more than three times as much is a matter for the search of the beam."""
    rng, run, cell = np.random.default_rng(60), run_of(), CELLS["oP"]
    observed = View.of(spots_at(lattice(cell, turn(rng), run, rng), run, rng), run).observed
    found, _ = EmbeddedIndexer()._known(observed, observed.usable, cell)
    assert found is not None
    found.trial.shift_px = np.array(shift_px)
    assert is_sharp(observed, observed.usable, found) == sharp


def test_a_wrong_known_cell_does_no_harm() -> None:
    rng, run = np.random.default_rng(6), run_of()
    orientation = turn(rng)
    spots = spots_at(lattice(CELLS["mP"], orientation, run, rng), run, rng)
    indexed = EmbeddedIndexer().index(spots, run, cells=((33.0, 41.0, 57.0, 90.0, 90.0, 90.0),))
    assert has(indexed, CELLS["mP"], orientation)


def test_orientation_is_u_of_busing_and_levy() -> None:
    """g = U B h, by the textbook's B (Busing & Levy, 1967, equation 3): every spot is a whole h of the lattice reported."""
    rng, run = np.random.default_rng(7), run_of()
    assert run.geometry is not None
    cell = CELLS["aP"]
    positions = lattice(cell, turn(rng), run, rng, noise_px=0.05)
    solution = EmbeddedIndexer().index(spots_at(positions, run, rng), run).solutions[0]
    a, b, c, *angles = solution.cell
    alpha, beta, gamma = np.deg2rad(angles)
    volume = (
        a * b * c * np.sqrt(1 - np.cos([alpha, beta, gamma]) @ np.cos([alpha, beta, gamma]) + 2 * np.prod(np.cos([alpha, beta, gamma])))
    )
    a_star, b_star, c_star = (y * z * np.sin(x) / volume for x, y, z in ((alpha, b, c), (beta, a, c), (gamma, a, b)))
    metric = np.linalg.inv(axes_of(solution.cell) @ axes_of(solution.cell).T)  # of the reciprocal lattice
    u = np.asarray(solution.orientation).reshape(3, 3)
    assert np.linalg.det(u) == pytest.approx(1.0, abs=1e-9)
    np.testing.assert_allclose(u @ u.T, np.eye(3), atol=1e-9)
    # gemmi's B has a along x; Busing & Levy's own has a* along x: both must give these lengths and angles
    columns = u @ np.linalg.inv(axes_of(solution.cell))
    np.testing.assert_allclose(columns.T @ columns, metric, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(columns, axis=0), (a_star, b_star, c_star), rtol=1e-6)
    indices = run.geometry.scattering_vectors_per_A(positions) @ np.linalg.inv(columns).T
    assert np.median(np.abs(indices - np.rint(indices)).max(axis=1)) < 0.1


AXIS = (0.8, 0.6, 0.0)


def rotation(cell: Cell, start: np.ndarray, step_deg: float, frames: int, *, axis: tuple[float, float, float] | None) -> list[Spots]:
    """Consecutive frames of a crystal turned about AXIS; each has seven spots of it and two others."""
    run, found = rotating(step_deg, axis), []
    for frame in range(frames):
        rng = np.random.default_rng([20, frame])
        seen = lattice(cell, about(AXIS, step_deg * frame) @ start, run, rng, n=7)
        found.append(spots_at(np.vstack([seen, outliers(run, rng, 2)]), run, rng))
    return found


def rotating(step_deg: float, axis: tuple[float, float, float] | None) -> Run:
    run = run_of(rotation_deg=step_deg)
    return dataclasses.replace(run, kind=RunKind.ROTATION, header=dataclasses.replace(run.header, rotation_axis=axis))


@pytest.mark.parametrize("step_deg", [0.4, -0.4])
@pytest.mark.parametrize("known", [False, True])
def test_frames_of_a_rotation_that_say_too_little_alone_are_indexed_together(step_deg: float, known: bool) -> None:
    start, cell, n = turn(np.random.default_rng(21)), CELLS["oP"], 10
    *earlier, last = rotation(cell, start, step_deg, n, axis=AXIS)
    before = [(n - 1 - frame, spots) for frame, spots in enumerate(earlier)]
    run, cells = rotating(step_deg, AXIS), ((cell,) if known else ())
    assert "spots off the ice rings; at least 10 are needed" in (EmbeddedIndexer().index(last, run, cells=cells).reason or "")
    indexed = EmbeddedIndexer().index(last, run, cells=cells, before=before)
    assert indexed.status is IndexingStatus.INDEXED, indexed.reason
    assert has(indexed, cell, about(AXIS, step_deg * (n - 1)) @ start)  # where the crystal stands in the last frame
    assert len(indexed.solutions) == 1
    assert 5 <= indexed.solutions[0].n_indexed <= 9  # of that frame's spots
    assert indexed.n_unindexed == 9 - indexed.solutions[0].n_indexed


def test_without_the_header_s_axis_frames_are_indexed_alone() -> None:
    *earlier, last = rotation(CELLS["oP"], turn(np.random.default_rng(21)), 0.4, 10, axis=None)
    before = [(9 - frame, spots) for frame, spots in enumerate(earlier)]
    indexed = EmbeddedIndexer().index(last, rotating(0.4, None), before=before)
    assert "spots off the ice rings; at least 10 are needed" in (indexed.reason or "")


def test_a_thick_exposure_is_turned_about_the_header_s_axis() -> None:
    """About an axis that is neither horizontal nor vertical: points are turned onto the sphere by up to half a degree."""
    rng, run, cell = np.random.default_rng(22), rotating(1.0, AXIS), CELLS["oP"]
    start = turn(rng)
    parts = [lattice(cell, about(AXIS, angle) @ start, run, rng, n=40) for angle in np.linspace(-0.5, 0.5, 5)]
    spots = spots_at(np.vstack(parts), run, rng)
    found = EmbeddedIndexer()._first(View.of(spots, run), ())
    assert found is not None
    np.testing.assert_allclose(found.lattice.trial.spin, np.deg2rad(0.5) * np.asarray(AXIS))
    assert has(EmbeddedIndexer().index(spots, run), cell, start)


@pytest.mark.parametrize("apart", ["random", 1.5, 4.0])
def test_two_lattices(apart: float | str) -> None:
    rng, run = np.random.default_rng(11), run_of()
    cell = CELLS["oP"]
    first = turn(rng)
    second = turn(rng) if apart == "random" else about(rng.normal(size=3), float(apart)) @ first
    positions = np.vstack([lattice(cell, first, run, rng, n=110), lattice(cell, second, run, rng, n=60), outliers(run, rng, 20)])
    indexed = EmbeddedIndexer().index(spots_at(positions, run, rng), run)
    assert has(indexed, cell, first)
    assert has(indexed, cell, second)
    assert len(indexed.solutions) == 2
    assert indexed.fraction_unexplained is not None
    assert indexed.fraction_unexplained > 0.2


def test_three_lattices_one_of_another_cell() -> None:
    rng, run = np.random.default_rng(12), run_of()
    first, second, third = (turn(rng) for _ in range(3))
    positions = np.vstack(
        [
            lattice(CELLS["mP"], first, run, rng, n=130),
            lattice(CELLS["mP"], second, run, rng, n=90),
            lattice((38.0, 45.0, 52.0, 90.0, 90.0, 90.0), third, run, rng, n=60),
        ]
    )
    indexed = EmbeddedIndexer().index(spots_at(positions, run, rng), run)
    assert has(indexed, CELLS["mP"], first)
    assert has(indexed, CELLS["mP"], second)
    assert has(indexed, (38.0, 45.0, 52.0, 90.0, 90.0, 90.0), third)
    assert [one.n_indexed for one in indexed.solutions] == sorted((one.n_indexed for one in indexed.solutions), reverse=True)


def test_a_sharp_first_lattice_ends_the_search_of_scopes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two lattices none explains six spots in ten; wider scopes are tried only where what was found is not sharp, or nothing was."""
    tried = scopes_tried(monkeypatch)
    rng, run = np.random.default_rng(37), run_of()
    one, other = (lattice(CELLS["oP"], turn(rng), run, rng, n=n) for n in (120, 100))
    both = View.of(spots_at(np.vstack([one, other, outliers(run, rng, 20)]), run, rng), run)
    first = EmbeddedIndexer()._first(both, ())
    assert first is not None
    assert 100 < first.lattice.trial.n < 0.6 * both.observed.usable.sum()
    assert tried == [SCOPES[0]]
    tried.clear()
    assert EmbeddedIndexer()._first(View.of(spots_at(outliers(run, rng, 200), run, rng), run), ()) is None
    assert tried == list(SCOPES)


@pytest.mark.parametrize("crystals", [1, 3])
def test_known_orientations_are_followed_as_far_as_they_stand_out(monkeypatch: pytest.MonkeyPatch, crystals: int) -> None:
    """A triclinic cell has one orientation a crystal, and perhaps a neighbour that settles into it; every crystal is found all the same."""
    followed: list[int] = []
    real = indexer.under

    def counted(observed: Observed, use: Bools, trial: Trial, *others: Any, **named: Any) -> Lattice:
        followed.append(int(use.sum()))
        return real(observed, use, trial, *others, **named)

    monkeypatch.setattr(indexer, "under", counted)
    rng, run = np.random.default_rng(41), run_of()
    orientations = [turn(rng) for _ in range(crystals)]
    positions = np.vstack([lattice(CELLS["aP"], orientation, run, rng, n=150 // crystals) for orientation in orientations])
    spots = spots_at(positions, run, rng)
    observed = View.of(spots, run).observed
    found, _ = EmbeddedIndexer()._known(observed, observed.usable, CELLS["aP"])
    assert found is not None
    onto_all = followed.count(int(observed.usable.sum())) - 1  # the best one once more, when its cell is settled
    assert 1 <= onto_all <= 2
    indexed = EmbeddedIndexer().index(spots, run, cells=(CELLS["aP"],))
    assert all(has(indexed, CELLS["aP"], orientation) for orientation in orientations)
    assert len(indexed.solutions) == crystals


@pytest.mark.parametrize("bravais", CELLS)
def test_orientations_of_a_known_cell_are_tried_once_each(bravais: str) -> None:
    """Of a symmetrical cell many orientations are one lattice: the right one is among those tried, and no two are the same."""
    rng, run, cell = np.random.default_rng(43), run_of(), CELLS[bravais]
    orientation = turn(rng)
    observed = View.of(spots_at(lattice(cell, orientation, run, rng, centring=bravais[1]), run, rng), run).observed
    direct = axes_of(cell)
    tried = [np.linalg.inv(a) for a in anywhere(observed, observed.usable, direct)]
    assert 1 <= len(tried) <= 24

    def apart_deg(one: np.ndarray, other: np.ndarray) -> float:
        change = np.rint(one @ np.linalg.inv(other))
        if round(abs(np.linalg.det(change))) != 1:
            return np.inf
        u, stretch, vt = np.linalg.svd(np.linalg.inv(change @ other) @ one)
        if np.abs(stretch - 1.0).max() > 0.02:
            return np.inf
        return float(np.rad2deg(np.arccos(np.clip((np.trace(u @ vt) * np.linalg.det(u @ vt) - 1.0) / 2.0, -1.0, 1.0))))

    assert min(apart_deg(one, direct @ orientation.T) for one in tried) < 2.5
    assert min([apart_deg(one, other) for k, one in enumerate(tried) for other in tried[:k]], default=np.inf) > 0.5


@pytest.mark.parametrize(
    ("cell", "order"),
    [
        ((48.0, 61.0, 74.0, 81.0, 83.0, 75.0), 1),
        ((46.0, 63.0, 88.0, 90.0, 90.0, 90.0), 2),
        ((67.0, 52.0, 81.0, 90.0, 104.0, 90.0), 2),  # monoclinic, the two-fold along the shortest
        ((52.0, 67.0, 81.0, 90.0, 104.0, 90.0), 1),  # and not
        ((70.0, 70.0, 50.0, 90.0, 90.0, 90.0), 4),
        ((50.0, 50.0, 70.0, 90.0, 90.0, 90.0), 2),
        ((70.0, 70.0, 50.0, 90.0, 90.0, 120.0), 6),
        ((60.0, 60.0, 60.0, 90.0, 90.0, 90.0), 4),
    ],
)
def test_a_cell_is_turned_as_far_as_its_symmetry_about_the_shortest_axis_asks(cell: Cell, order: int) -> None:
    axes = axes_of(cell)
    shortest_first = axes[np.argsort(cell[:3], kind="stable")]
    assert known_cell._order_about_first(shortest_first @ turn(np.random.default_rng(1)).T) == order


@pytest.mark.parametrize(("k", "n", "p"), [(1, 1, 0.3), (3, 40, 0.01), (30, 40, 0.1), (40, 40, 0.7), (200, 450, 1e-4), (2, 300, 0.9)])
def test_the_chance_of_so_many_is_the_binomial_s_tail(k: int, n: int, p: float) -> None:
    """Against the sum in whole fractions."""
    share = Fraction(p)
    exact = sum(math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(k, n + 1))
    log10 = math.log10(exact.numerator) - math.log10(exact.denominator)
    assert log10_tail(k, n, p) == pytest.approx(log10, rel=1e-9, abs=1e-12)


def test_lattices_screened_together_are_as_likely_as_each_settled_alone() -> None:
    rng, run = np.random.default_rng(44), run_of()
    orientation = turn(rng)
    observed = View.of(spots_at(lattice(CELLS["oP"], orientation, run, rng), run, rng), run).observed
    right = orientation @ np.linalg.inv(axes_of(CELLS["oP"]))
    starts = np.stack([about((1.0, 2.0, 3.0), angle) @ right for angle in (0.0, 0.2, 20.0)])
    which = np.arange(0, len(observed), 2)
    use = np.zeros(len(observed), dtype=bool)
    use[which] = True
    q, ray = (np.stack([part] * 3) for part in observed.measured[:2])
    alone = [settle(observed, use, a, rounds=3).log10_chance for a in starts]
    np.testing.assert_allclose(chances(observed, which, q, ray, starts, rounds=3), alone, rtol=1e-9)
    assert alone[0] < -50 < alone[2]


@pytest.mark.parametrize("turned", [False, True])
def test_a_moved_beam_is_the_geometry_with_the_beam_there(turned: bool) -> None:
    """On a detector swung by 20 deg; spots of an earlier exposure are turned with their rays."""
    rng, run = np.random.default_rng(45), rotating(0.5, AXIS)
    assert run.geometry is not None
    swung = dataclasses.replace(run.geometry, slow_axis=(0.0, math.cos(0.35), math.sin(0.35)))
    spots = spots_at(outliers(run, rng, 30), run, rng)
    before = [(4, spots_at(outliers(run, rng, 30), run, rng))] if turned else []
    here = View.of(spots, dataclasses.replace(run, geometry=swung), before)
    moves = np.array([(3.0, -7.0), (-40.0, 21.0)])
    q, ray = with_beam_moved(here.observed, swung, moves)
    for k, move in enumerate(moves):
        there = dataclasses.replace(swung, beam_px=(swung.beam_px[0] + move[0], swung.beam_px[1] + move[1]))
        expected = there.scattering_vectors_per_A(here.observed.positions_px)
        back = np.stack([about(AXIS, angle) for angle in np.rad2deg(here.observed.turned_rad)])
        np.testing.assert_allclose(q[k], np.einsum("nij,nj->ni", back, expected), atol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(ray[k], axis=1), 1.0, atol=1e-12)
    assert here.observed.turned_rad.any() == turned


def test_a_known_cell_is_not_sought_again_where_the_beam_has_been_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lattice that tells where the beam is is brought along; the same spots with a right header need one search, these no more."""
    sought: list[int] = []
    real = indexer.anywhere

    def counted(observed: Observed, use: Bools, direct: np.ndarray) -> list[np.ndarray]:
        sought.append(int(use.sum()))
        return real(observed, use, direct)

    monkeypatch.setattr(indexer, "anywhere", counted)
    rng, run, cell = np.random.default_rng(46), run_of(), CELLS["oP"]
    assert run.geometry is not None
    orientation = turn(rng)
    spots = spots_at(lattice(cell, orientation, run, rng, n=160), run, rng)
    slow, fast = run.geometry.beam_px
    stated = dataclasses.replace(run, geometry=dataclasses.replace(run.geometry, beam_px=(slow - 24.0, fast + 31.0)))
    found = EmbeddedIndexer()._first(View.of(spots, stated), (cell,))
    assert found is not None
    np.testing.assert_allclose(found.view.moved_px, (24.0, -31.0), atol=2.0)
    assert found.lattice.trial.n > 150
    assert len(sought) == 1


def test_no_second_lattice_among_outliers() -> None:
    """One lattice and 30 % other spots, 16 times: at a significance of 1e-5 for a second one, none is expected."""
    run, second = run_of(), 0
    for seed in range(16):
        rng = np.random.default_rng([13, seed])
        cell = list(CELLS.values())[seed % len(CELLS)]
        centring = list(CELLS)[seed % len(CELLS)][1]
        positions = np.vstack([lattice(cell, turn(rng), run, rng, n=90, centring=centring), outliers(run, rng, 40)])
        second += len(EmbeddedIndexer().index(spots_at(positions, run, rng), run).solutions) > 1
    assert second == 0


@pytest.mark.parametrize("n", [15, 60, 250])
def test_random_spots_are_not_indexed(n: int) -> None:
    run = run_of()
    for seed in range(2):
        rng = np.random.default_rng([14, seed])
        indexed = EmbeddedIndexer().index(spots_at(outliers(run, rng, n), run, rng), run, cells=(CELLS["oP"],))
        assert indexed.status is IndexingStatus.NOT_INDEXED
        assert indexed.reason == "no lattice explains the spots better than chance"
        assert indexed.solutions == ()
        assert indexed.fraction_unexplained is None


def test_too_few_spots_and_no_geometry_are_said() -> None:
    rng, run = np.random.default_rng(15), run_of()
    spots = spots_at(outliers(run, rng, 7), run, rng)
    assert EmbeddedIndexer().index(spots, run) == Indexed(
        status=IndexingStatus.NOT_INDEXED, reason="7 spots off the ice rings; at least 10 are needed"
    )
    blind = dataclasses.replace(run, geometry=None, geometry_problem="no distance")
    indexed = EmbeddedIndexer().index(spots, blind)
    assert indexed.status is IndexingStatus.NOT_INDEXED
    assert "no distance" in (indexed.reason or "")


@pytest.mark.parametrize("known", [False, True])
def test_beam_centre_three_pixels_off(known: bool) -> None:
    rng, true_run = np.random.default_rng(16), run_of(beam_px=(1060.0, 1030.0))
    stated = run_of(beam_px=(1062.4, 1028.2))
    orientation = turn(rng)
    spots = spots_at(lattice(CELLS["oP"], orientation, true_run, rng, n=150), stated, rng)
    indexed = EmbeddedIndexer().index(spots, stated, cells=(CELLS["oP"],) if known else ())
    assert has(indexed, CELLS["oP"], orientation)
    assert indexed.solutions[0].n_indexed > 120


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("off_px", [(0.0, 0.0), (-24.0, 31.0), (55.0, 20.0)])
def test_a_header_with_the_beam_elsewhere(off_px: tuple[float, float], known: bool) -> None:
    """Points tens of pixels off make another lattice of the same spots, strained and blunt; where the header is right, nothing moves."""
    rng, run, cell = np.random.default_rng(31), run_of(), CELLS["oP"]
    first, second = turn(rng), turn(rng)
    spots = spots_at(np.vstack([lattice(cell, first, run, rng, n=160), lattice(cell, second, run, rng, n=60)]), run, rng)
    assert run.geometry is not None
    slow, fast = run.geometry.beam_px
    stated = dataclasses.replace(run, geometry=dataclasses.replace(run.geometry, beam_px=(slow + off_px[0], fast + off_px[1])))
    indexed = EmbeddedIndexer().index(spots, stated, cells=(cell,) if known else ())
    assert has(indexed, cell, first)
    assert has(indexed, cell, second)
    assert len(indexed.solutions) == 2
    assert indexed.beam_shift_px is not None
    np.testing.assert_allclose(indexed.beam_shift_px, -np.asarray(off_px), atol=0.7)


def test_ice_spots_are_no_lattice() -> None:
    rng, run = np.random.default_rng(17), run_of()
    orientation = turn(rng)
    spots = spots_at(np.vstack([lattice(CELLS["mP"], orientation, run, rng, n=80), _ice(run, rng, 120)]), run, rng)
    indexed = EmbeddedIndexer().index(spots, run)
    assert has(indexed, CELLS["mP"], orientation)
    assert len(indexed.solutions) == 1
    assert indexed.fraction_unexplained is not None
    assert indexed.fraction_unexplained < 0.1
    alone = EmbeddedIndexer().index(spots_at(_ice(run, rng, 200), run, rng), run)
    assert alone.status is IndexingStatus.NOT_INDEXED


def _ice(run: Run, rng: np.random.Generator, n: int) -> np.ndarray:
    """Spots on ice rings: 2 theta by Bragg's law."""
    assert run.geometry is not None
    two_theta = 2 * np.arcsin(0.98 / 2 / rng.choice(np.asarray(ICE_RINGS_A[:5]), n))
    radius, angle = 180.0 * np.tan(two_theta) / 0.075, rng.uniform(0, 2 * np.pi, n)
    return np.asarray(run.geometry.beam_px) + radius[:, None] * np.column_stack([np.sin(angle), np.cos(angle)])


def test_half_the_wavelength_is_no_larger_cell() -> None:
    """Spots of lambda/2 lie half way between those of lambda."""
    rng, run = np.random.default_rng(18), run_of()
    assert run.geometry is not None
    orientation = turn(rng)
    half = dataclasses.replace(run.geometry, wavelength_A=0.49)
    harmonic = reflections(CELLS["oP"], orientation, half, d_min_A=1.5)[:, :2]
    harmonic = harmonic[rng.choice(len(harmonic), 25, replace=False)]
    spots = spots_at(np.vstack([lattice(CELLS["oP"], orientation, run, rng, n=120), harmonic]), run, rng)
    indexed = EmbeddedIndexer().index(spots, run)
    assert has(indexed, CELLS["oP"], orientation)
    assert len(indexed.solutions) == 1


def test_the_same_spots_give_the_same_answer_in_any_order() -> None:
    rng, run = np.random.default_rng(19), run_of()
    spots = spots_at(lattice(CELLS["tI"], turn(rng), run, rng, centring="I"), run, rng)
    indexer = EmbeddedIndexer()
    first = indexer.index(spots, run)
    assert indexer.index(spots, run) == first
    columns = ("positions_px", "intensity", "sigma", "background", "peak", "n_pixels", "inverse_d_per_A", "on_ice")
    order = rng.permutation(len(spots))
    shuffled = dataclasses.replace(spots, **{name: getattr(spots, name)[order] for name in columns})
    assert indexer.index(shuffled, run) == first


@pytest.mark.parametrize(("third", "flat"), [((0.0, 0.0, 9.0), False), ((3.0, 5.0, 0.0), True), ((3.0, 5.0, 1e-4), True)])
def test_three_vectors_in_a_plane_span_no_cell(third: tuple[float, float, float], flat: bool) -> None:
    assert is_flat(np.array([[7.0, 0.0, 0.0], [0.0, 8.0, 0.0], third])) is flat


def test_a_lattice_refined_flat_is_none() -> None:
    trial = Trial(
        a=np.array([[0.02, 0.0, 0.02], [0.0, 0.02, 0.02], [0.0, 0.0, 1e-9]]),
        shift_px=np.zeros(2),
        spin=np.zeros(3),
        spread=np.array([0.5, 0.003]),
        inside=np.ones(40, dtype=bool),
        hkl=np.ones((40, 3)),
        away=np.zeros((40, 2)),
        log10_chance=-90.0,
    )
    assert not EmbeddedIndexer()._is_there(trial, 15.0)
    trial.a[2, 2] = 0.02
    assert EmbeddedIndexer()._is_there(trial, 15.0)


def test_a_lattice_that_its_symmetry_makes_flat_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its points fill no space, so that no chance is small enough to tell it from a lattice."""
    real = indexer.symmetrised

    def flattened(*given: Any) -> Lattice:
        lattice = real(*given)
        lattice.trial.a[:, 1] = lattice.trial.a[:, 0] + 1e-9 * lattice.trial.a[:, 1]
        return lattice

    monkeypatch.setattr(indexer, "symmetrised", flattened)
    rng, run = np.random.default_rng(56), run_of()
    observed = View.of(spots_at(lattice(CELLS["oP"], turn(rng), run, rng), run, rng), run).observed
    bases = indexer.candidates(observed, observed.usable, SCOPES[0])
    assert EmbeddedIndexer()._unknown(observed, observed.usable, [bases]) is None
