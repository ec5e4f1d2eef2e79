"""Files that labels come from and go to. Truths: what went in; text as CrystFEL's manual and `stream.c` describe it, written by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelling import judgements, said

from training.labels.indexing import read_records, read_stream
from training.labels.label import Label
from training.labels.rows import COLUMNS, BadRow, Defaults, Parsed, TableError, read_csv, read_parquet, write_csv, write_parquet
from training.labels.simulated import read_simulated

START = datetime(2025, 3, 31, 14, tzinfo=UTC)
PERSON = Defaults(labeller="ada", origin="person")
INDEXING = Defaults(labeller="CrystFEL", origin="indexing")


def problems(rows: Parsed) -> list[str]:
    return [row.problem for row in rows if isinstance(row, BadRow)]


@st.composite
def labels(draw: st.DrawFn) -> Label:
    """A stored label."""
    text = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(lambda name: name == name.strip() != "")
    return said(
        draw(st.integers(0, 10**6)),
        source=draw(text),
        labeller=draw(text),
        time=START + timedelta(microseconds=draw(st.integers(0, 10**12))),
        undoes=draw(st.none() | st.just(START - timedelta(1))),
        **draw(judgements()),
    )


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(labels(), max_size=6))
def test_what_is_written_is_read_again(tmp_path: Path, ending: str, rows: list[Label]) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    write, read = (write_csv, read_csv) if ending == "csv" else (write_parquet, read_parquet)
    write(tmp_path / f"labels.{ending}", rows)
    assert list(read(tmp_path / f"labels.{ending}", PERSON)) == rows


def test_parquet_has_the_columns_in_their_types(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet(tmp_path / "labels.parquet", [said(1, n_lattices=2, ice_rings=True, d_min_A=2.5, time=START)])
    table = parquet.read_table(tmp_path / "labels.parquet")
    assert tuple(table.column_names) == COLUMNS
    types = {name: str(table.schema.field(name).type) for name in COLUMNS}
    assert (types["frame"], types["ice_rings"], types["d_min_A"]) == ("int64", "bool", "double")
    assert types["time"].startswith("timestamp[us, tz=UTC")


def test_csv_is_read_as_spreadsheets_write_it(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("\ufeffframe, source ,n_lattices,diffracts,ice_rings,time\r\n3,a.h5,2.0,1,No,2025-03-31T16:00:00+02:00\r\n,,,,,\r\n")
    [row] = read_csv(path, PERSON)
    assert row == said(3, source="a.h5", n_lattices=2, diffracts=True, ice_rings=False, time=START)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("a.h5,1.5,,", "line 2, column frame: '1.5' is not a whole number"),
        ("a.h5,,,", "line 2, column frame: empty"),
        ("a.h5,1,maybe,", "line 2, column ice_rings: 'maybe' is not true or false"),
        ("a.h5,1,,2.1 A", "line 2, column d_min_A: '2.1 A' is not a number"),
        ("a.h5,1,,nan", "line 2, column d_min_A: nan is out of range, must be > 0 and finite"),
        ("a.h5,1,", "line 2: 3 cells, the header names 4 columns"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_column(tmp_path: Path, row: str, problem: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(f"source,frame,ice_rings,d_min_A\n{row}\nb.h5,1,true,2.0\n")
    bad, good = read_csv(path, PERSON)
    assert isinstance(bad, BadRow)
    assert bad.problem == f"{path}, {problem}"
    assert good == said(1, source="b.h5", ice_rings=True, d_min_A=2.0)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("source,frame,n_lattice\n", "line 1: no such column 'n_lattice'; did you mean n_lattices?"),
        ("source,n_lattices\n", "line 1: no column 'frame'"),
        ("source,frame,frame\n", "line 1: two columns 'frame'"),
        ("", "line 1: no column 'source'"),
        ('source,frame\n"a.h5,1\n', "not CSV"),
    ],
)
def test_a_file_without_our_columns_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=problem.replace("?", r"\?")):
        list(read_csv(path, PERSON))


def test_what_is_not_text_or_not_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(b"source,frame\n\xff\xfe\x00,1\n")
    with pytest.raises(TableError, match="save it as comma-separated UTF-8"):
        list(read_csv(path, PERSON))
    pytest.importorskip("pyarrow")
    with pytest.raises(TableError, match="not a Parquet file"):
        list(read_parquet(path, PERSON))


# CrystFEL

HEAD = """CrystFEL stream format 2.3
Generated by CrystFEL 0.10.2
indexamajig -i files.lst -g jf.geom --indexing=xgandalf{multi} -o run.stream
----- Begin geometry file -----
adu_per_photon = 1
----- End geometry file -----
"""


def chunk(image: str, event: str | None, limits_A: list[float], *, is_ended: bool = True) -> str:
    crystals = "".join(
        f"--- Begin crystal\nCell parameters 7.9 7.9 3.8 nm, 90.0 90.0 90.0 deg\n"
        f"diffraction_resolution_limit = {10 / d:.2f} nm^-1 or {d:.2f} A\nnum_reflections = 0\n--- End crystal\n"
        for d in limits_A
    )
    named = f"Event: {event}\n" if event is not None else ""
    indexed = "xgandalf-nolatt-cell" if limits_A else "none"
    return (
        f"----- Begin chunk -----\nImage filename: {image}\n{named}Image serial number: 1\nhit = 1\nindexed_by = {indexed}\n"
        f"num_peaks = 2\npeak_resolution = 3.50 nm^-1 or 2.86 A\nPeaks from peak search\n  fs/px   ss/px (1/d)/nm^-1   Intensity  Panel\n"
        f" 117.00  202.00       1.86      300.00   p0\nEnd of peak list\n{crystals}" + ("----- End chunk -----\n" if is_ended else "")
    )


def stream(tmp_path: Path, *chunks: str, multi: bool = True) -> Path:
    path = tmp_path / "run.stream"
    path.write_text(HEAD.format(multi=" --multi" if multi else "") + "".join(chunks))
    return path


def test_each_indexed_chunk_is_a_label(tmp_path: Path) -> None:
    path = stream(
        tmp_path,
        chunk("/data/run.cxi", "entry//12", [2.5]),
        chunk("/data/run.cxi", "//13", []),
        chunk("/data/run.cxi", "//14", [3.0, 1.9, 2.2]),
        chunk("still_00007.cbf", None, [2.0, 2.4]),
    )
    read = list(read_stream(path, INDEXING))
    assert read == [
        said(12, source="/data/run.cxi", labeller="CrystFEL", origin="indexing", n_lattices=1, diffracts=True, d_min_A=2.5),
        said(14, source="/data/run.cxi", labeller="CrystFEL", origin="indexing", n_lattices=3, diffracts=True, d_min_A=1.9),
        said(0, source="still_00007.cbf", labeller="CrystFEL", origin="indexing", n_lattices=2, diffracts=True, d_min_A=2.0),
    ]


def test_one_crystal_is_no_count_where_further_ones_were_not_looked_for(tmp_path: Path) -> None:
    one, two = read_stream(stream(tmp_path, chunk("a.h5", "//0", [2.5]), chunk("a.h5", "//1", [2.5, 2.6]), multi=False), INDEXING)
    assert isinstance(one, Label)
    assert isinstance(two, Label)
    assert (one.n_lattices, one.diffracts) == (None, True)
    assert two.n_lattices == 2


def test_chunks_that_are_no_label_are_named(tmp_path: Path) -> None:
    path = stream(
        tmp_path,
        chunk("a.h5", "tag-57375862//", [2.5]),
        chunk("a.h5", "//3", [2.5]),
        chunk("a.h5", "//4", [2.5], is_ended=False),
    )
    rows = list(read_stream(path, INDEXING))
    assert [row.frame for row in rows if isinstance(row, Label)] == [3]
    found = problems(iter(rows))
    assert found[0] == f"{path}, line 7, column frame: event 'tag-57375862//' is no frame number; label these frames by a CSV file"
    assert found[1].endswith("the chunk has no end; was indexamajig interrupted?")


def test_another_file_is_no_stream(tmp_path: Path) -> None:
    path = tmp_path / "run.stream"
    path.write_text("frame 3 looks cracked\n")
    with pytest.raises(TableError, match="not a CrystFEL stream"):
        list(read_stream(path, INDEXING))


# triage's own records


def records(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def indexed(frame: object, n: int, left_over: float | None, **more: object) -> dict[str, object]:
    solutions = [{"cell": [78, 78, 37, 90, 90, 90]}] * n
    status = "indexed" if n else "not_indexed"
    return {
        "type": "indexing",
        "run": "r1",
        "frame": frame,
        "solutions": solutions,
        "fraction_unexplained": left_over,
        "status": status,
    } | more


def test_indexing_records_are_labels_of_their_runs_source(tmp_path: Path) -> None:
    path = records(
        tmp_path,
        {"type": "run", "run": "r1", "source": "a_master.h5"},
        {"type": "frame", "run": "r1", "frame": 0},
        indexed(0, 1, 0.05),
        indexed(1, 1, 0.6),
        indexed(2, 2, 0.6),
        indexed(3, 0, 1.0),
    )
    read = list(read_records(path, INDEXING))
    assert all(isinstance(row, Label) and row.source == "a_master.h5" and row.diffracts for row in read)
    assert [(row.frame, row.n_lattices) for row in read if isinstance(row, Label)] == [(0, 1), (1, None), (2, 2)]


def test_bad_records_are_named(tmp_path: Path) -> None:
    path = records(
        tmp_path, indexed(0, 1, 0.0), "{", "[1]", {"type": "run", "run": "r1", "source": "a.h5"}, indexed("x", 1, 0.0), indexed(4, 2, 0.0)
    )
    rows = list(read_records(path, INDEXING))
    assert [problem.removeprefix(f"{path}, ") for problem in problems(iter(rows))] == [
        "line 1, column source: no `run` record of 'r1' before it",
        "line 2: not JSON (Expecting property name enclosed in double quotes)",
        "line 3: not a record",
        "line 5, column frame: an `indexing` record needs a frame and its solutions",
    ]
    assert isinstance(rows[-1], Label)


# simulated files


def test_the_truth_of_a_simulated_file_is_its_labels(tmp_path: Path) -> None:
    path = tmp_path / "simulated.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("entry/labels")
        group["n_lattices"] = np.array([2, 0], dtype=np.int8)
        group["diffracts"] = np.array([True, False])
        group.create_dataset("non_diffraction_kind", data=["", "ice"], dtype=h5py.string_dtype())
        group["ice_rings"] = np.array([False, True])
        group["d_min_A"] = np.array([2.0, np.nan], dtype=np.float32)
    simulated = Defaults(labeller="triage simulate", origin="simulated")
    assert list(read_simulated(path, simulated)) == [
        said(
            0, source=str(path), labeller="triage simulate", origin="simulated", n_lattices=2, diffracts=True, ice_rings=False, d_min_A=2.0
        ),
        said(
            1,
            source=str(path),
            labeller="triage simulate",
            origin="simulated",
            n_lattices=0,
            diffracts=False,
            non_diffraction_kind="ice",
            ice_rings=True,
        ),
    ]
    with h5py.File(tmp_path / "bare.h5", "w"):
        pass
    with pytest.raises(TableError, match="not a file of `triage simulate`"):
        list(read_simulated(tmp_path / "bare.h5", simulated))
