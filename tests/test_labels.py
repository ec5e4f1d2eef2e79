"""The label store. Truths: a plain list of what was said and taken back; SQLite itself; text written by hand."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelling import judgements, said

from training.labels.label import JUDGED, LabelError, combined
from training.labels.store import LabelStore, LabelStoreError
from triage.__main__ import main

START = datetime(2025, 3, 31, 14, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelStore]:
    with LabelStore(tmp_path / "labels.sqlite", create=True) as store:
        yield store


# one label


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"n_lattices": -1}, "n_lattices"),
        ({"n_lattices": 0, "diffracts": True}, "diffracts"),
        ({"n_lattices": 2, "diffracts": False}, "diffracts"),
        ({"n_lattices": 1, "non_diffraction_kind": "ice"}, "non_diffraction_kind"),
        ({"non_diffraction_kind": "fog"}, "non_diffraction_kind"),
        ({"non_diffraction_kind": "blank", "d_min_A": 2.0}, "d_min_A"),
        ({"d_min_A": 0.0}, "d_min_A"),
        ({"d_min_A": float("nan")}, "d_min_A"),
        ({"origin": "rumour"}, "origin"),
        ({"labeller": " "}, "labeller"),
        ({"source": ""}, "source"),
        ({"frame": -1}, "frame"),
        ({"time": datetime(2025, 1, 1)}, "time"),
    ],
)
def test_a_label_that_cannot_be_true_is_refused_by_column(changes: dict[str, object], column: str) -> None:
    with pytest.raises(LabelError) as error:
        said(**changes)  # type: ignore[arg-type]
    assert error.value.column == column


@pytest.mark.parametrize(
    ("judged", "shows"),
    [
        ({"n_lattices": 2}, True),
        ({"n_lattices": 0}, False),
        ({"diffracts": True}, True),
        ({"non_diffraction_kind": "ice"}, False),
        ({"ice_rings": True}, None),
    ],
)
def test_any_column_that_tells_says_whether_a_frame_diffracts(judged: dict[str, object], shows: bool | None) -> None:
    assert said(**judged).shows_lattices is shows


def test_labels_are_taken_together_column_by_column() -> None:
    indexing = said(labeller="CrystFEL", origin="indexing", n_lattices=1, d_min_A=2.1, time=START + timedelta(days=1))
    early = said(labeller="bob", n_lattices=3, ice_rings=False, time=START)
    late = said(labeller="ada", n_lattices=2, time=START + timedelta(hours=1))
    found = combined([indexing, early, late])
    assert found.says == {"n_lattices": 2, "ice_rings": False, "d_min_A": 2.1}
    assert (found.labeller, found.origin) == ("ada+bob+CrystFEL", "person")


def test_what_contradicts_a_more_trusted_judgement_is_left_out() -> None:
    found = combined([said(non_diffraction_kind="ice"), said(labeller="xds", origin="indexing", n_lattices=1, d_min_A=3.0, ice_rings=True)])
    assert found.says == {"non_diffraction_kind": "ice", "ice_rings": True}


def test_what_was_drawn_is_known_better_than_what_was_seen() -> None:
    assert combined([said(n_lattices=1), said(labeller="triage simulate", origin="simulated", n_lattices=2)]).n_lattices == 2


# the store


def test_rows_come_back_as_they_went_in(store: LabelStore) -> None:
    whole = said(3, n_lattices=2, diffracts=True, ice_rings=False, decayed=True, d_min_A=1.85, time=START)
    little = said(1, non_diffraction_kind="salt", time=START)
    assert store.add([whole, little]).rows == 2
    assert store.history() == [little, whole]
    assert store.history("run.h5", 3) == [whole]
    assert store.history("other.h5") == []


def test_null_is_null_in_the_file(store: LabelStore) -> None:
    store.add([said(ice_rings=False)])
    with closing(sqlite3.connect(store.path)) as raw:
        [row] = raw.execute(f"SELECT {', '.join(JUDGED)} FROM labels").fetchall()
    assert row == (None, None, None, 0, None, None)


def test_labels_without_a_time_follow_one_another(store: LabelStore) -> None:
    future = datetime.now(UTC) + timedelta(days=1)
    store.add([said(n_lattices=1, time=future), said(n_lattices=2), said(n_lattices=3)])
    assert [row.n_lattices for row in store.history()] == [1, 2, 3]
    assert store.current()[0].n_lattices == 3


def test_a_second_judgement_leaves_the_columns_alone_that_it_does_not_make(store: LabelStore) -> None:
    store.add([said(n_lattices=2), said(ice_rings=True)])
    assert store.current()[0].says == {"n_lattices": 2, "ice_rings": True}


def test_nothing_is_ever_changed_or_deleted(store: LabelStore) -> None:
    store.add([said(n_lattices=2)])
    with closing(sqlite3.connect(store.path)) as raw:
        for statement in ("UPDATE labels SET n_lattices = 1", "DELETE FROM labels"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                raw.execute(statement)
    assert [row.n_lattices for row in store.history()] == [2]


def test_undo_is_a_further_row_that_says_what_stands_without_it(store: LabelStore) -> None:
    store.add([said(n_lattices=1, time=START), said(n_lattices=2, ice_rings=True, time=START + timedelta(1))])
    first = store.undo("run.h5", 0, "ada")
    assert (first.says, first.undoes) == ({"n_lattices": 1}, START + timedelta(1))
    assert store.current()[0].says == {"n_lattices": 1}
    second = store.undo("run.h5", 0, "ada")
    assert (second.says, second.undoes) == ({}, START)
    assert store.current() == []
    assert len(store.history()) == 4
    with pytest.raises(LabelError, match=r"run.h5, frame 0: no label by ada to take back"):
        store.undo("run.h5", 0, "ada")


OPERATIONS = st.lists(st.tuples(st.sampled_from(["ada", "bob"]), st.integers(0, 1), st.none() | judgements()), max_size=20)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_the_store_says_what_a_list_of_labels_says(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int, dict | None]]
) -> None:
    """None: take back. Every label ever made is still there at the end."""
    stacks: dict[tuple[str, int], list[dict[str, object]]] = {}
    made = 0
    with LabelStore(tmp_path_factory.mktemp("store") / "labels.sqlite", create=True) as store:
        for labeller, frame, judged in operations:
            stack = stacks.setdefault((labeller, frame), [])
            if judged is not None:
                made += store.add([said(frame, labeller=labeller, **judged)]).rows
                stack.append(judged)
            elif stack:
                stack.pop()
                store.undo("run.h5", frame, labeller)
        history = store.history()
        assert sum(row.undoes is None for row in history) == made
        for (labeller, frame), stack in stacks.items():
            rows = [row for row in history if (row.labeller, row.frame) == (labeller, frame)]
            newest_first = [said(frame, labeller=labeller, time=START - timedelta(k), **judged) for k, judged in enumerate(reversed(stack))]
            expected = combined(newest_first).says if newest_first else {}
            if rows and rows[-1].undoes is not None:
                assert rows[-1].says == expected
            others = [row for row in store.current("run.h5", frame) if row.labeller == labeller]
            if others:
                assert others[0].says == expected


def test_a_file_that_breaks_off_adds_nothing(store: LabelStore) -> None:
    def broken() -> object:
        yield said(n_lattices=1)
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        store.add(broken())  # type: ignore[arg-type]
    assert store.history() == []


def test_the_same_row_twice_is_one_row_and_another_one_with_its_key_is_refused(store: LabelStore) -> None:
    row = said(n_lattices=1, time=START)
    assert (store.add([row]).rows, store.add([row]).known) == (1, 1)
    written = store.add([said(5, n_lattices=1, time=START), said(n_lattices=2, time=START)])
    assert written.rows == 1
    assert written.refused == [(1, "another label of this frame by ada has the same time")]


def test_stores_merge_either_way_to_the_same(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "a", create=True) as a, LabelStore(tmp_path / "b", create=True) as b:
        a.add([said(0, n_lattices=1), said(1, n_lattices=2)])
        b.merge(a)
        b.undo("run.h5", 0, "ada")
        b.add([said(1, labeller="bob", ice_rings=True)])
        a.add([said(2, non_diffraction_kind="blank")])
        a.merge(b)
        assert b.merge(a).rows == 1
        assert a.history() == b.history()
        assert len(a.history()) == 5
        assert [label.frame for label in a.current()] == [1, 2]
        assert a.merge(b).rows == 0


def label_much(path: Path, labeller: str, n: int) -> None:
    """One of several labellers at once; each makes the store where it is not there yet."""
    with LabelStore(path, create=True) as store:
        for k in range(n):
            store.add([said(k % 3, labeller=labeller, n_lattices=k)])
            if k % 5 == 4:
                store.undo("run.h5", k % 3, labeller)


def test_labellers_at_once_lose_nothing(tmp_path: Path) -> None:
    path, n = tmp_path / "labels.sqlite", 20
    names = ["ada", "ada", "bob", "cleo"]  # the same person on two machines, too
    with ProcessPoolExecutor(len(names), mp_context=get_context("spawn")) as pool:
        for future in [pool.submit(label_much, path, name, n) for name in names]:
            future.result()
    with LabelStore(path) as store:
        rows = store.history()
    assert sum(row.undoes is None for row in rows) == n * len(names)
    assert sum(row.undoes is not None for row in rows) == n // 5 * len(names)
    said_by_ada = sorted(row.n_lattices for row in rows if row.labeller == "ada" and row.undoes is None)
    assert said_by_ada == sorted([*range(n), *range(n)])


def test_threads_may_share_a_store(store: LabelStore) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: store.add([said(k % 2, labeller=f"p{k % 4}", n_lattices=k)]), range(40)))
    assert sorted(row.n_lattices for row in store.history()) == list(range(40))


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelStoreError, match="no such label store; triage label import"):
        LabelStore(tmp_path / "absent.sqlite")
    text = tmp_path / "notes.txt"
    text.write_text("frame 3 looks cracked\n" * 50)
    with pytest.raises(LabelStoreError, match="file is not a database"):
        LabelStore(text, create=True)
    other = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(other)) as raw:
        raw.execute("CREATE TABLE birds (name TEXT)")
    with pytest.raises(LabelStoreError, match="not a label store"):
        LabelStore(other, create=True)


def test_a_store_of_a_later_format_is_refused(store: LabelStore) -> None:
    with closing(sqlite3.connect(store.path)) as raw:
        raw.execute("PRAGMA user_version = 2")
    with pytest.raises(LabelStoreError, match="format 2, this triage reads 1"):
        LabelStore(store.path)


# the verb


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_good_rows_are_kept_and_bad_ones_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["run.h5,0,2,", "run.h5,1,x,", "run.h5,2,1,ice", "run.h5,3,,blank", ",4,1,"]
    (here / "labels.csv").write_text("\n".join(["source,frame,n_lattices,non_diffraction_kind", *rows]))
    assert main(["label", "import", "labels.csv", "label.labeller=ada"]) == 1
    out, err = capsys.readouterr()
    assert out == "imported: labels.csv: 2 rows, 3 left out\n"
    assert err.splitlines() == [
        "labels.csv, line 3, column n_lattices: 'x' is not a whole number",
        "labels.csv, line 4, column non_diffraction_kind: 'ice' contradicts a frame that diffracts",
        "labels.csv, line 6, column source: empty",
    ]
    with LabelStore(here / "labels.sqlite") as store:
        assert [(label.frame, label.says, label.labeller, label.origin) for label in store.history()] == [
            (0, {"n_lattices": 2}, "ada", "person"),
            (3, {"non_diffraction_kind": "blank"}, "ada", "person"),
        ]


def test_a_file_imported_again_adds_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "labels.csv").write_text("source,frame,n_lattices,ice_rings\nrun.h5,0,2,\nrun.h5,0,,true\nrun.h5,1,,\n")
    assert [main(["label", "import", "labels.csv"]) for _ in range(2)] == [0, 0]
    assert capsys.readouterr().out.splitlines() == ["imported: labels.csv: 2 rows", "imported: labels.csv: 0 rows, 2 there already"]


def test_export_import_and_merge_by_the_verb(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "labels.csv").write_text("source,frame,n_lattices\nrun.h5,0,2\nrun.h5,1,1\n")
    one, two = "label.store=one.sqlite", "label.store=two.sqlite"
    assert main(["label", "import", "labels.csv", one, "label.labeller=ada"]) == 0
    assert main(["label", "undo", one, "label.source=run.h5", "label.frame=0", "label.labeller=ada"]) == 0
    assert main(["label", "export", "all.csv", one]) == 0
    assert main(["label", "import", "all.csv", two]) == 0
    assert main(["label", "merge", "one.sqlite", two]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "imported: labels.csv: 2 rows",
        "taken back: run.h5, frame 0: ada now says nothing",
        "exported: 3 rows: all.csv",
        "imported: all.csv: 3 rows",
        "merged: one.sqlite: 0 rows, 3 there already",
    ]
    assert main(["label", "export", "-", two, "label.rows=current"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header == "source,frame,n_lattices,diffracts,non_diffraction_kind,ice_rings,decayed,d_min_A,labeller,origin,time"
    assert row.startswith("run.h5,1,1,,,,,,ada,person,20")


def test_list_and_current_are_tables(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LabelStore(here / "labels.sqlite", create=True) as store:
        store.add([said(0, n_lattices=1), said(0, labeller="bob", ice_rings=True), said(7, n_lattices=3)])
        store.undo("run.h5", 7, "ada")
    assert main(["label", "list"]) == 0
    assert len(listed := capsys.readouterr().out.splitlines()) == 5
    assert sum("(taken back)" in line for line in listed) == 1
    assert main(["label", "current"]) == 0
    [_, row] = capsys.readouterr().out.splitlines()
    assert row.split()[:4] == ["run.h5", "0", "1", "true"]
    assert "bob+ada" in row


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["imprt"], "no action 'imprt'; there are import, export, merge, list, current, undo"),
        (["import"], "import: name a file"),
        (["list", "run.h5"], "list takes no files (run.h5)"),
        (["list", "label.stor=x"], "label.stor: no such key; did you mean label.store?"),
        (["import", "a.csv", "label.origin=rumour"], "label.origin: 'rumour' is not one of 'simulated', 'indexing', 'person'"),
        (["export", "labels.xls"], "export: labels.xls: name a file that ends in .csv or .parquet"),
        (["undo", "label.frame=3"], "undo: set label.source and label.frame"),
    ],
)
def test_bad_usage_is_one_line(here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str) -> None:
    assert main(["label", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"triage label: {problem}")


def test_a_file_that_cannot_be_read_costs_that_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "labels.csv").write_text("source,frame,n_lattices\nrun.h5,0,2\n")
    assert main(["label", "import", "absent.csv", "notes.txt", "labels.csv"]) == 1
    out, err = capsys.readouterr()
    assert out == "imported: labels.csv: 1 rows\n"
    assert err.splitlines() == [
        "absent.csv: No such file or directory",
        "notes.txt: labels are read from .csv, .parquet, .stream, .jsonl, .h5",
    ]


def test_the_verb_needs_no_torch(here: Path) -> None:
    (here / "labels.csv").write_text("source,frame,n_lattices\nrun.h5,0,2\n")
    block = "import sys; sys.modules.update(torch=None, lightning=None, sklearn=None, pyarrow=None); from triage.__main__ import main; "
    run = subprocess.run(
        [sys.executable, "-c", f"{block}sys.exit(main(['label', 'import', 'labels.csv']))"], capture_output=True, text=True
    )
    assert (run.returncode, run.stdout) == (0, "imported: labels.csv: 1 rows\n"), run.stderr


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "--help"]) == 0
    assert capsys.readouterr().out.count("triage label ") >= 3
