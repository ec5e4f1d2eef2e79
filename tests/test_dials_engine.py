"""DIALS behind the Indexer protocol: what a worker may do to us, with one that misbehaves; what DIALS itself says of a known lattice."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_dials_worker import DIE, ERROR, HANG, NONE, ONE, TWO
from fake_indexers import CELL, indexable_run, spots_telling
from lattice_spots import lattice, run_of, spots_at, turn
from test_indexing_lattices import has

import triage.dials_engine
from triage import rehearsal
from triage.buffer import Mode
from triage.commands.indexing import slow_lane
from triage.compose import compose_settings
from triage.core import Run
from triage.dials_engine import DialsError, DialsIndexer, find_dials
from triage.refusal import ConfigError
from triage.settings import RunVerb

RUN = indexable_run()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[DialsIndexer]:
    monkeypatch.setattr(triage.dials_engine, "WORKER", Path(__file__).with_name("fake_dials_worker.py"))
    indexer = DialsIndexer(sys.executable, answer_within_s=1.0)
    yield indexer
    indexer.close()
    assert not indexer._folder.exists()


def test_the_version_is_the_engines_name(fake: DialsIndexer) -> None:
    assert fake.engine == "DIALS 0.0"


def test_lattices_are_described_as_ours_are(fake: DialsIndexer) -> None:
    indexed = fake.index(spots_telling(TWO), RUN)
    assert indexed.status == "indexed"
    first, second = indexed.solutions
    assert (first.n_indexed, second.n_indexed) == (20, 12)  # strongest first; one of three spots is no lattice
    assert first.cell == second.cell == pytest.approx((50.0, 80.0, 100.0, 90.0, 90.0, 90.0))
    assert (first.bravais, first.fraction_indexed, indexed.n_unindexed, indexed.fraction_unexplained) == ("oP", 0.5, 8, 0.5)
    a_matrix = np.array(first.orientation).reshape(3, 3) @ np.diag(1.0 / np.array(first.cell[:3]))
    np.testing.assert_allclose(np.abs(a_matrix), np.abs([[0.02, 0, 0], [0, 0, 0.01], [0, 0.0125, 0]]), atol=1e-12)
    assert np.linalg.det(a_matrix) > 0


def test_known_cells_are_tried_first_and_an_unknown_one_after(fake: DialsIndexer) -> None:
    assert fake.index(spots_telling(ONE), RUN, cells=(CELL,)).status == "indexed"
    none = fake.index(spots_telling(NONE), RUN, cells=(CELL,))
    assert (none.status, none.reason) == ("not_indexed", "No suitable lattice could be found.")


def test_without_geometry_nothing_is_asked(fake: DialsIndexer) -> None:
    assert fake.index(spots_telling(DIE), Run(id="r", header=RUN.header, kind=None, geometry=None)).status == "not_indexed"


def test_a_worker_that_dies_hangs_or_complains_costs_its_frame(fake: DialsIndexer, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DialsError, match=r"the DIALS worker died \(exit status 7\)"):
        fake.index(spots_telling(DIE), RUN)
    assert fake.index(spots_telling(ONE), RUN).status == "indexed"
    assert "another is started" in caplog.text
    began_s = time.monotonic()
    with pytest.raises(DialsError, match="did not answer in time"):
        fake.index(spots_telling(HANG), RUN)
    assert time.monotonic() - began_s < 10.0
    with pytest.raises(DialsError, match="no such panel"):
        fake.index(spots_telling(ERROR), RUN)
    assert fake.index(spots_telling(ONE), RUN).status == "indexed"


def test_a_worker_that_does_not_start_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text("raise SystemExit(3)\n")
    monkeypatch.setattr(triage.dials_engine, "WORKER", tmp_path / "worker.py")
    with pytest.raises(DialsError, match="exit status 3"):
        DialsIndexer(sys.executable)


def test_where_dials_is_absent_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triage.dials_engine, "_candidates", lambda: iter([sys.executable, "/no/such/python"]))
    with pytest.raises(DialsError, match=r"^no interpreter was found that imports dials and zmq: apt-get install"):
        find_dials()
    settings = compose_settings("run", ["indexing=dials", f"indexing.dials.python={sys.executable}"], RunVerb).indexing
    with pytest.raises(ConfigError, match=r"^indexing\.dials\.python: .*python.* does not import dials and zmq: .*set indexing\.dials"):
        slow_lane(settings, Mode.COMPLETE, 2)


@pytest.mark.dials
@pytest.mark.slow
def test_dials_itself_finds_a_lattice_that_is_known(dials_python: str) -> None:
    indexer = DialsIndexer(dials_python, answer_within_s=100.0)
    try:
        assert indexer.engine.startswith("DIALS ")
        spots = rehearsal._spots(rehearsal._TURNS[:1])
        indexed = indexer.index(spots, rehearsal.RUN)
    finally:
        indexer.close()
    assert indexed.status == "indexed", indexed.reason
    [found] = indexed.solutions
    assert found.bravais == "oP"
    np.testing.assert_allclose(found.cell, rehearsal.CELL, rtol=0.01)
    assert found.n_indexed > 0.6 * len(spots)
    true = rehearsal._rotation(np.asarray(rehearsal._TURNS[0]))
    turned = np.array(found.orientation).reshape(3, 3) @ true.T
    nearest = max(np.trace(turned @ true @ np.diag(signs) @ true.T) for signs in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)))
    assert np.rad2deg(np.arccos(min(1.0, (nearest - 1) / 2))) < 0.5


@pytest.mark.dials
@pytest.mark.slow
def test_dials_itself_finds_both_of_two_lattices_with_their_cell(dials_python: str) -> None:
    """Without a cell it doubles an axis of the first, in which more of the second one's spots find a place (docs/slow-lane.md)."""
    rng, run, cell = np.random.default_rng(11), run_of(), (52.0, 68.0, 96.0, 90.0, 90.0, 90.0)
    drawn = [turn(rng), turn(rng)]
    spots = spots_at(np.vstack([lattice(cell, u, run, rng, n=n) for u, n in zip(drawn, (110, 70), strict=True)]), run, rng)
    indexer = DialsIndexer(dials_python, answer_within_s=100.0)
    try:
        indexed = indexer.index(spots, run, cells=(cell,))
    finally:
        indexer.close()
    assert len(indexed.solutions) == 2, indexed.reason
    assert all(has(indexed, cell, u) for u in drawn)
    assert all(one.n_indexed >= 50 for one in indexed.solutions)
