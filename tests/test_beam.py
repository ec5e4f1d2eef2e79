"""Where a run has the beam: what its frames agree on, who is told, and that the search for it is left out then."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from fake_indexers import indexable_run, judged
from lattice_spots import about, lattice, outliers, run_of, spots_at, turn

from triage.beam import BeamCentres
from triage.core import Cell, Indexed, Indexing, IndexingStatus, Run, RunKind, Severity, Solution, Spots
from triage.flags.books import SourcePolicy
from triage.flags.persistence import FlagThreshold
from triage.indexing import EmbeddedIndexer, indexer
from triage.slow_lane import Known, Outcome
from triage.witness import RunCells, Witness

CELL: Cell = (46.0, 63.0, 88.0, 90.0, 90.0, 90.0)
OFF_PX = (-24.0, 32.0)
"""Stated less true: 40 px."""


def indexed(shift_px: tuple[float, float] | None, n: int = 60) -> Indexed:
    solution = Solution(cell=CELL, bravais="oP", space_group=None, n_indexed=n, fraction_indexed=0.9, orientation=tuple(np.eye(3).ravel()))
    return Indexed(status=IndexingStatus.INDEXED, solutions=(solution,), n_unindexed=5, fraction_unexplained=0.1, beam_shift_px=shift_px)


def centres(*shifts: tuple[float, float], n_indexed: int = 60) -> BeamCentres:
    made = BeamCentres()
    for frame, shift in enumerate(shifts):
        made.add(frame, shift, n_indexed)
    return made


def test_three_frames_within_a_pixel_agree() -> None:
    assert centres((24.0, -31.0), (24.4, -31.4)).agreed() is None
    beam = centres((80.0, 3.0), (24.0, -31.0), (24.4, -31.4), (24.2, -31.1)).agreed()
    assert beam is not None
    assert beam.shift_px == pytest.approx((24.2, -31.1))
    assert (beam.n, beam.first_frame) == (3, 1)
    assert beam.scatter_px == pytest.approx(np.hypot(0.2, 0.1))


def test_frames_that_differ_agree_on_nothing() -> None:
    rng = np.random.default_rng(1)
    assert centres(*(tuple(rng.uniform(-80.0, 80.0, 2)) for _ in range(40))).agreed() is None
    half = [(0.1, 0.2), (40.0, 3.0)] * 4
    assert centres(*half).agreed() is None
    assert centres(*half, (0.0, 0.3)).agreed() is not None


def test_small_lattices_and_engines_that_do_not_tell_say_nothing() -> None:
    assert centres(*[(24.0, -31.0)] * 9, n_indexed=19).agreed() is None
    made = BeamCentres()
    for frame in range(9):
        made.add(frame, None, 60)
    assert made.agreed() is None


def test_only_the_last_frames_count() -> None:
    beam = centres(*[(0.0, 0.0)] * 60, *[(9.0, 0.0)] * 40).agreed()
    assert beam is not None
    assert beam.shift_px == (9.0, 0.0)
    assert beam.first_frame == 60


@pytest.mark.parametrize(("shift_px", "told"), [((24.0, -31.0), (24.0, -31.0)), ((0.9, -1.1), None), (None, None)])
def test_a_witness_hands_on_where_the_beam_is(shift_px: tuple[float, float] | None, told: tuple[float, float] | None) -> None:
    witness, run = Witness(), indexable_run()
    for frame in range(3):
        assert witness.known == Known()
        judgement = judged(run, frame).judgement
        witness.record(
            Outcome(run_id="run", frame=frame, engine="e", indexed=indexed(shift_px), judgement=judgement, n_spots=70, arrived_s=0.0)
        )
    assert witness.known == Known(beam_shift_px=told)


def flag_of(*shifts: tuple[float, float]) -> list[str]:
    policy, said = SourcePolicy(run_of(), FlagThreshold(raise_at=1.0, clear_at=0.5, k=5, n=20)), []
    for frame, shift in enumerate(shifts):
        record = Indexing(run_id="test", frame=frame, engine="e", indexed=indexed(shift), multi_lattice=None, latency_ms=1.0)
        for flag in policy.witness(record):
            assert (flag.flag, flag.state, flag.severity, flag.first_frame, flag.frame) == ("source", "raised", Severity.WARNING, 0, frame)
            said.append(flag.reason)
    return said


def test_source_is_raised_once_and_says_where_the_beam_is() -> None:
    assert flag_of(*[(24.0, -31.0)] * 4) == []
    assert flag_of((24.0, -31.0), (24.3, -31.0), (24.6, -31.0), (24.3, -31.3), *[(24.3, -30.7)] * 9) == [
        "The beam is at (1084.3, 999.0) px (slow, fast) by the lattices of 5 frames, which agree to 0.3 px; it is stated at "
        "(1060.0, 1030.0): set 'source.geometry.beam_px=[1084.3,999.0]'."
    ]


def test_source_is_not_raised_where_the_header_is_right_or_frames_differ() -> None:
    assert flag_of(*[(3.0, -3.0)] * 30) == []
    rng = np.random.default_rng(2)
    assert flag_of(*(tuple(rng.uniform(-80.0, 80.0, 2)) for _ in range(60))) == []


def rotation_with_a_wrong_header(frames: int, together: int) -> tuple[Run, list[Spots]]:
    true = run_of(rotation_deg=0.5)
    assert true.geometry is not None
    slow, fast = true.geometry.beam_px
    geometry = dataclasses.replace(true.geometry, beam_px=(slow + OFF_PX[0], fast + OFF_PX[1]))
    header = dataclasses.replace(true.header, rotation_axis=(0.0, 1.0, 0.0))
    run, start, found = (
        dataclasses.replace(true, kind=RunKind.ROTATION, geometry=geometry, header=header),
        turn(np.random.default_rng(5)),
        [],
    )
    for frame in range(frames):
        rng = np.random.default_rng([6, frame])
        seen = lattice(CELL, about((0.0, 1.0, 0.0), 0.5 * frame) @ start, true, rng, n=160 // together)
        found.append(spots_at(np.vstack([seen, outliers(true, rng, 8)]), run, rng))
    return run, found


@pytest.mark.parametrize("together", [1, 4])
def test_a_run_with_a_wrong_header_is_searched_for_the_beam_at_first_only(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    searched: list[int] = []
    real = indexer.free_centre

    def counted(*arguments: object) -> object:
        searched.append(frame)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(indexer, "free_centre", counted)
    run, frames = rotation_with_a_wrong_header(10, together)
    witness = Witness(RunCells())
    for frame, spots in enumerate(frames):
        known = witness.known
        before = [(earlier, frames[frame - earlier]) for earlier in range(1, together) if earlier <= frame]
        said = EmbeddedIndexer().index(
            spots, run, cells=() if known.cell is None else (known.cell,), before=before, beam_shift_px=known.beam_shift_px
        )
        assert said.status is IndexingStatus.INDEXED, (frame, said.reason)
        assert said.beam_shift_px is not None
        if frame >= 3:
            np.testing.assert_allclose(said.beam_shift_px, -np.asarray(OFF_PX), atol=0.7)
            assert said.solutions[0].bravais == "oP"
            np.testing.assert_allclose(said.solutions[0].cell, CELL, rtol=0.01)
        judgement = judged(run, frame).judgement
        witness.record(
            Outcome(
                run_id="run", frame=frame, engine="e", indexed=said, judgement=judgement, n_spots=len(spots), arrived_s=time.monotonic()
            )
        )
    assert 0 in searched
    assert max(searched) <= 3 + together
    assert set(range(3 + together + 1, 10)).isdisjoint(searched)


def test_a_wrong_idea_of_the_beam_costs_no_frame() -> None:
    rng, run = np.random.default_rng(8), run_of()
    spots = spots_at(lattice(CELL, turn(rng), run, rng, n=25), run, rng)
    said = EmbeddedIndexer().index(spots, run, cells=(CELL,), beam_shift_px=(150.0, 90.0))
    assert said.status is IndexingStatus.INDEXED
    assert said.beam_shift_px is not None
    assert np.hypot(*said.beam_shift_px) < 2.0
