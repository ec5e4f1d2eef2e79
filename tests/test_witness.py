"""The classical witness: records, agreement, fusion, its flags, and what the sinks keep of it. No process, no network."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from fake_indexers import CELL, indexable_run, judged, one, solution, two
from hypothesis import given
from hypothesis import strategies as st

from triage.core import (
    Agreement,
    Cell,
    CellShare,
    Flag,
    Indexed,
    Indexing,
    IndexingPolicy,
    IndexingStatus,
    Progress,
    RunFinished,
    RunKind,
    RunStarted,
    Solution,
    Verdict,
)
from triage.flags import Evidence, FlagsSettings, FlagThreshold, PriorShift, policies_for
from triage.flags.cells import CellOutlierPolicy
from triage.flags.lattices import FusedMultiLatticePolicy
from triage.flags.persistence import Persistence, Raise
from triage.fold import FoldParts, RunFold
from triage.fusion import FEATURES, WEIGHTS, Fusion, FusionError, as_weights, evidence, expit, logit, released
from triage.records import to_json
from triage.sinks.columns import INDEXING_COLUMNS
from triage.sinks.dials_selection import DialsSelection
from triage.sinks.good_frames import GoodFramesSink
from triage.sinks.hdf5 import Hdf5Sink
from triage.slow_lane import Known, Outcome
from triage.witness import RunCells, Witness, agreement

RUN = indexable_run()
NOT = Indexed(status=IndexingStatus.NOT_INDEXED, reason="no lattice explains the spots better than chance")


def outcome(frame: int = 0, indexed: Indexed | None = None, p_multi: float = 0.02, run_id: str = "run") -> Outcome:
    return Outcome(
        run_id=run_id,
        frame=frame,
        engine="fake 1",
        indexed=indexed or one(),
        judgement=judged(RUN, frame, p_multi=p_multi).judgement,
        n_spots=40,
        arrived_s=100.0,
    )


def a_record(frame: int = 0, indexed: Indexed | None = None, p_fused: float | None = 0.02, **changes: Any) -> Indexing:
    record = Indexing(run_id="run", frame=frame, engine="fake 1", indexed=indexed or one(), multi_lattice=p_fused, latency_ms=5.0)
    return replace(record, **changes)


# fusion


def test_the_released_weights_are_whole_and_have_a_provenance() -> None:
    assert len(released().weights) == len(FEATURES)
    assert json.loads(WEIGHTS.read_text())["provenance"]


def test_fusion_is_the_logistic_of_its_evidence() -> None:
    weights = dict(zip(FEATURES, (0.5, 1.0, 2.0, 3.0, 4.0, 5.0), strict=True))
    fusion = as_weights({"weights": weights})
    by_hand = 0.5 + math.log(0.2 / 0.8) + 2.0 * 0.4 + 3.0 + 4.0 * 14 / 24 + 5.0 * math.log(40 / 100)
    assert fusion.fused(0.2, two(), 40) == pytest.approx(1 / (1 + math.exp(-by_hand)))
    assert evidence(0.5, one(), 100) == pytest.approx((1.0, 0.0, 0.05, 0.0, 0.0, 0.0))


@pytest.mark.parametrize("status", [IndexingStatus.NOT_INDEXED, IndexingStatus.SKIPPED, IndexingStatus.FAILED])
def test_where_indexing_says_nothing_the_network_stands(status: IndexingStatus) -> None:
    assert released().fused(0.3, Indexed(status=status, reason="r"), 40) == 0.3


def test_weights_that_are_not_whole_are_refused() -> None:
    with pytest.raises(FusionError, match="constant"):
        as_weights({"weights": {"constant": 1.0}})
    with pytest.raises(FusionError, match="finite"):
        as_weights({"weights": dict.fromkeys(FEATURES, math.inf)})
    with pytest.raises(FusionError):
        as_weights({})


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 5000))
def test_the_fused_value_is_a_probability_and_grows_with_the_networks(p: float, q: float, n: int) -> None:
    low, high = sorted((p, q))
    found = [released().fused(each, two(), n) for each in (low, high)]
    assert all(0.0 <= each <= 1.0 for each in found)
    assert found[0] <= found[1]


def test_a_second_lattice_and_unexplained_spots_speak_for_several() -> None:
    plain, more = one(), two()
    unexplained = replace(plain, fraction_unexplained=0.5)
    fused = [released().fused(0.4, each, 60) for each in (plain, unexplained, more)]
    assert fused[0] < 0.4 < fused[1]
    assert fused[0] < 0.4 < fused[2]


@given(st.floats(0.001, 0.999))
def test_expit_undoes_logit(p: float) -> None:
    assert expit(logit(p)) == pytest.approx(p)


# records


@pytest.mark.parametrize(
    ("p_multi", "indexed", "said"),
    [
        (0.02, one(), Agreement.AGREES),
        (0.9, two(), Agreement.AGREES),
        (0.9, one(), Agreement.NETWORK_ONLY),
        (0.02, two(), Agreement.CLASSICAL_ONLY),
        (0.9, NOT, None),
        (0.02, Indexed(status=IndexingStatus.SKIPPED), None),
    ],
)
def test_agreement_is_of_frames_that_were_indexed(p_multi: float, indexed: Indexed, said: Agreement | None) -> None:
    assert agreement(judged(RUN, 0, p_multi=p_multi).judgement, indexed) is said
    assert agreement(None, indexed) is None


def test_an_indexing_record_has_the_fields_of_the_contract() -> None:
    record = Witness(fuse=Fusion((0.0,) * 6).fused, clock=lambda: 100.25).record(outcome(7, two(), p_multi=0.9))
    shown = json.loads(json.dumps(to_json(record), allow_nan=False))
    assert list(shown)[:4] == ["type", "run", "frame", "engine"]
    assert shown["type"] == "indexing"
    assert (shown["run"], shown["frame"], shown["engine"], shown["status"], shown["reason"]) == ("run", 7, "fake 1", "indexed", None)
    assert shown["solutions"][0] == {
        "cell": list(CELL),
        "bravais": "oP",
        "space_group": None,
        "n_indexed": 24,
        "fraction_indexed": 0.6,
        "orientation": [1, 0, 0, 0, 1, 0, 0, 0, 1],
    }
    assert [s["n_indexed"] for s in shown["solutions"]] == [24, 14]
    assert (shown["n_unindexed"], shown["fraction_unexplained"], shown["multi_lattice"]) == (2, 0.4, 0.5)
    assert (shown["agreement"], shown["latency_ms"], shown["run_cells"], shown["cell_outlier"]) == ("agrees", 250.0, [], None)


def test_a_frame_that_was_skipped_has_a_reason_and_the_networks_probability() -> None:
    skipped = Indexed(status=IndexingStatus.SKIPPED, reason="it does not diffract (probability 0.93)")
    shown = to_json(Witness().record(replace(outcome(3, skipped), judgement=None)))
    assert (shown["status"], shown["reason"]) == ("skipped", "it does not diffract (probability 0.93)")
    assert (shown["solutions"], shown["n_unindexed"], shown["fraction_unexplained"], shown["beam_shift_px"]) == ([], None, None, None)
    assert (shown["multi_lattice"], shown["agreement"]) == (None, None)
    assert to_json(Witness().record(outcome(3, skipped, p_multi=0.25)))["multi_lattice"] == 0.25


class ByVolume:
    """Clusters of two kinds, by the first axis."""

    def __init__(self) -> None:
        self.large = self.small = 0

    def add(self, frame: int, found: Solution) -> bool | None:
        self.large += found.cell[0] > 55
        self.small += found.cell[0] <= 55
        return found.cell[0] > 55 if self.small > 2 else None

    @property
    def shares(self) -> tuple[CellShare, ...]:
        return (CellShare(cell=CELL, bravais="oP", n=self.small, share=self.small / (self.small + self.large)),)

    @property
    def consensus(self) -> Cell | None:
        return CELL if self.small > 2 else None


def test_a_run_counts_what_is_indexed_and_hands_its_cell_over() -> None:
    fold = RunFold(RUN, FoldParts(witness=lambda: Witness(cells=ByVolume())))
    for frame, indexed in enumerate([one(), NOT, one(), one()]):
        assert fold.known == Known()
        [record] = fold.indexed(outcome(frame, indexed))
        assert isinstance(record, Indexing)
    assert fold.known == Known(cell=CELL)
    assert (record.cells[0].n, record.is_outlier) == (3, False)
    assert fold.finish(complete=True, reason=None).indexed == 3


# flags


def all_flags(policy: IndexingPolicy, records: list[Verdict | Indexing]) -> list[Flag]:
    flags: list[Flag] = []
    for record in records:
        flags += policy.update(record, Progress()) if isinstance(record, Verdict) else policy.witness(record)
    return flags


FOUR_OF_FIVE = FlagThreshold(raise_at=0.65, clear_at=0.45, k=4, n=5)


def test_fused_evidence_replaces_the_networks_while_the_frame_counts() -> None:
    doubtful = [judged(RUN, frame, p_multi=0.55) for frame in range(5)]
    assert all_flags(FusedMultiLatticePolicy(RUN, FOUR_OF_FIVE), [*doubtful]) == []
    told = [a_record(frame, two(), 0.95) for frame in (1, 2, 3, 4)]
    [flag] = all_flags(FusedMultiLatticePolicy(RUN, FOUR_OF_FIVE), [*doubtful, *told])
    assert (flag.flag, flag.state, flag.first_frame, flag.frame) == ("multi_lattice", "raised", 1, 4)
    assert flag.probability == pytest.approx(0.95)


def test_fused_evidence_holds_back_what_the_network_alone_would_raise() -> None:
    records: list[Verdict | Indexing] = []
    for frame in range(8):
        records += [judged(RUN, frame, p_multi=0.7), a_record(frame, one(), 0.1)]
    assert all_flags(FusedMultiLatticePolicy(RUN, FOUR_OF_FIVE), records) == []
    assert all_flags(FusedMultiLatticePolicy(RUN, FOUR_OF_FIVE), [r for r in records if isinstance(r, Verdict)]) != []


def test_evidence_that_comes_too_late_or_says_nothing_changes_nothing() -> None:
    frames = [judged(RUN, frame, p_multi=0.55) for frame in range(20)]
    late = [a_record(frame, two(), 0.95) for frame in range(12)]
    silent = [a_record(frame, NOT, 0.95) for frame in range(15, 20)]
    strangers = [a_record(frame, two(), 0.95) for frame in range(100, 110)]
    assert all_flags(FusedMultiLatticePolicy(RUN, FOUR_OF_FIVE), [*frames, *late, *silent, *strangers]) == []


def test_the_beamlines_base_rates_shift_fused_evidence_as_they_shift_the_networks() -> None:
    shift = PriorShift(from_rates=(0.2, 0.4, 0.2, 0.2), to_rates=(0.2, 0.4, 0.02, 0.02))
    records: list[Verdict | Indexing] = []
    for frame in range(6):
        records += [judged(RUN, frame, p_multi=0.7), a_record(frame, two(), 0.7)]
    assert all_flags(FusedMultiLatticePolicy(RUN, FOUR_OF_FIVE, shift), records) == []


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=40))
def test_revising_at_once_is_as_if_the_value_had_come_so(history: list[tuple[float, float]]) -> None:
    """Where no decision falls between a frame and its revision, both end alike."""
    threshold = FlagThreshold(raise_at=0.6, clear_at=0.3, k=3, n=4)
    revised, plain = Persistence(threshold), Persistence(threshold)
    for frame, (first, second) in enumerate(history):
        if revised.update(frame, first) is not None or revised.latest != frame:
            return
        assert (revised.revise(frame, second) is None) == (plain.update(frame, second) is None)
        assert revised.standing == plain.standing


def test_a_frame_that_does_not_count_cannot_be_revised() -> None:
    persistence = Persistence(FlagThreshold(raise_at=0.5, clear_at=0.2, k=2, n=2))
    assert persistence.revise(3, 1.0) is None
    persistence.update(0, 0.0)
    persistence.update(1, 0.9)
    assert isinstance(persistence.revise(0, 0.9), Raise)
    assert persistence.latest is None


def test_cells_unlike_the_runs_raise_and_like_ones_clear() -> None:
    clusters = (CellShare(cell=CELL, bravais="oP", n=30, share=0.6), CellShare(cell=(80.0, *CELL[1:]), bravais="oP", n=20, share=0.4))
    policy = CellOutlierPolicy(RUN, FlagThreshold(raise_at=0.5, clear_at=0.5, k=3, n=6))
    odd = [a_record(frame, one(), is_outlier=frame % 2 == 1, cells=clusters) for frame in range(6)]
    unknown = [a_record(frame, NOT) for frame in range(6, 9)]
    alike = [a_record(frame, one(), is_outlier=False, cells=clusters) for frame in range(9, 20)]
    assert list(policy.update(judged(RUN, 0), Progress())) == []
    raised, cleared = all_flags(policy, [*odd, *unknown, *alike])
    assert (raised.flag, raised.state, raised.first_frame, raised.frame) == ("cell_outlier", "raised", 1, 5)
    assert "oP 50.0 60.0 70.0 A 90 90 90 deg in 60%" in raised.reason
    assert (cleared.state, cleared.frame) == ("cleared", 12)


@pytest.mark.parametrize("kind", [RunKind.ROTATION, RunKind.STILLS, RunKind.SERIAL, None])
def test_who_hears_the_classical_witness(kind: RunKind | None) -> None:
    run = replace(RUN, kind=kind)
    named = [type(p).__name__ for p in policies_for(run, FlagsSettings()) if isinstance(p, IndexingPolicy)]
    assert named == ["SourcePolicy", "CellOutlierPolicy"]
    fused = policies_for(run, FlagsSettings(evidence=Evidence.FUSED))
    assert [type(p).__name__ for p in fused if isinstance(p, IndexingPolicy)] == [
        "SourcePolicy",
        "CellOutlierPolicy",
        "FusedMultiLatticePolicy",
    ]
    grid = policies_for(replace(RUN, kind=RunKind.GRID), FlagsSettings(evidence=Evidence.FUSED))
    assert [type(p).__name__ for p in grid if isinstance(p, IndexingPolicy)] == ["SourcePolicy"]


# sinks


def begun() -> RunStarted:
    return RunStarted(run=RUN, model=None, config={})


def ended() -> RunFinished:
    return RunFinished(run_id="run", progress=Progress(), flags={}, indexed=2, wall_s=1.0, complete=True, reason=None)


@pytest.mark.parametrize("flush_every_s", [0.0, 1e9])
def test_hdf5_rows_are_filled_in_whenever_the_record_comes(flush_every_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triage.sinks.hdf5._FLUSH_EVERY_S", flush_every_s)
    sink = Hdf5Sink(str(tmp_path / "{run}.h5"))
    sink.accept(begun())
    for frame in (0, 1, 2, 4):
        sink.accept(replace(judged(RUN, frame), found=None))
    sink.accept(a_record(1, two(), 0.9, agreement=Agreement.CLASSICAL_ONLY, is_outlier=True))
    sink.accept(a_record(3, one()))  # a frame that has no row
    sink.accept(replace(judged(RUN, 5), found=None))
    sink.accept(a_record(4, NOT, 0.3))
    sink.accept(ended())
    with h5py.File(tmp_path / "run.h5") as file:
        rows = file["entry/triage"]
        found = {column.name.removeprefix("indexing_"): rows[column.name][:] for column in INDEXING_COLUMNS}
        assert rows["frame"][:].tolist() == [0, 1, 2, 4, 5]
        assert rows["run_end/indexed"][()] == 2
    assert found["status"].tolist() == [b"", b"indexed", b"", b"not_indexed", b""]
    assert found["reason"][3].decode() == NOT.reason
    np.testing.assert_array_equal(found["n_solutions"], [np.nan, 2, np.nan, 0, np.nan])
    np.testing.assert_array_equal(found["cell"][1], CELL)
    assert np.isnan(found["cell"][3]).all()
    np.testing.assert_array_equal(found["multi_lattice"], [np.nan, 0.9, np.nan, 0.3, np.nan])
    assert (found["agreement"][1], found["cell_outlier"][1], found["bravais"][1]) == (b"classical_only", 1.0, b"oP")
    np.testing.assert_array_equal(found["orientation"][1], solution().orientation)


def test_indexing_rows_are_seen_while_the_file_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triage.sinks.hdf5._FLUSH_EVERY_S", 0.0)
    sink = Hdf5Sink(str(tmp_path / "{run}.h5"))
    sink.accept(begun())
    sink.accept(replace(judged(RUN, 0), found=None))
    with h5py.File(tmp_path / "run.h5", swmr=True) as file:
        status = file["entry/triage/indexing_status"]
        status.refresh()
        assert status[:].tolist() == [b""]
        sink.accept(a_record(0, one()))
        status.refresh()
        assert status[:].tolist() == [b"indexed"]
    sink.close()


def test_dials_is_told_of_files_or_of_ranges(tmp_path: Path) -> None:
    files, ranges = DialsSelection(tmp_path / "f.dials"), DialsSelection(tmp_path / "r.dials")
    for name in ("a_1.cbf", "a_2.cbf"):
        files.add(tmp_path / name, None)
    for frame in (0, 1, 2, 7, 9, 10):
        ranges.add(None, frame)
        if frame == 1:  # written as the run proceeds
            assert (tmp_path / "r.dials").read_text() == "spotfinder.scan_range=1,2\n"
    files.close()
    ranges.close()
    assert (tmp_path / "f.dials").read_text().splitlines() == [
        "input.allow_multiple_sequences=True",
        f"{tmp_path}/a_1.cbf",
        f"{tmp_path}/a_2.cbf",
    ]
    assert [line.partition("=")[2] for line in (tmp_path / "r.dials").read_text().splitlines()] == ["1,3", "8,8", "10,11"]


def test_the_selection_lies_beside_the_list(tmp_path: Path) -> None:
    sink = GoodFramesSink(str(tmp_path / "{run}.lst"))
    sink.accept(begun())
    sink.accept(replace(judged(RUN, 0), found=None, file="x_00001.cbf"))
    sink.accept(replace(judged(RUN, 1, p_multi=0.9), found=None, file="x_00002.cbf"))
    sink.accept(ended())
    assert (tmp_path / "run.dials").read_text().splitlines()[1:] == [(tmp_path / "run.lst").read_text().strip()]


# cells


def test_the_runs_cells_are_clustered_and_others_are_outliers() -> None:
    cells = RunCells()
    other: Cell = (50.0, 60.0, 80.0, 90.0, 90.0, 90.0)
    said = [cells.add(frame, solution(cell=other if frame % 3 == 2 else CELL)) for frame in range(30)]
    assert said[:9] == [None] * 9  # too few to tell
    assert said[12:] == [frame % 3 == 2 for frame in range(12, 30)]
    largest, second = cells.shares
    assert (largest.cell, largest.bravais, largest.n, largest.share) == (CELL, "oP", 20, pytest.approx(2 / 3))
    assert (second.cell, second.n) == (other, 10)
    assert cells.consensus == CELL


def test_a_cell_that_no_other_frame_shares_says_nothing() -> None:
    cells = RunCells()
    for frame in range(20):
        cells.add(frame, solution())
    assert cells.add(20, solution(cell=(31.0, 44.0, 97.0, 90.0, 90.0, 90.0))) is None
    assert cells.add(21, solution()) is False


def test_a_cell_that_grows_is_told() -> None:
    cells = RunCells()
    for frame in range(100):
        a, b, c, *angles = CELL
        grown = 1.0 + 1e-4 * frame
        cells.add(frame, solution(cell=(a * grown, b * grown, c * grown, *angles)))  # type: ignore[arg-type]
    assert cells.shares[0].drift_percent_per_1000_frames == pytest.approx(10.0, rel=0.05)
