"""Results as HDF5, one file a run: an NXprocess group of per-frame arrays, readable while it grows (SWMR)."""

from __future__ import annotations

import json
import time
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from triage import __version__
from triage.core import Flag, Indexing, Record, RunFinished, RunStarted, Verdict
from triage.records import to_json
from triage.sinks.columns import FLAG_COLUMNS, FRAME_COLUMNS, INDEXING_COLUMNS, RUN_END_COUNTS, Column, flatten, indexing_row
from triage.sinks.paths import RunPaths, SinkError

_ROWS_A_CHUNK = 256
_FLUSH_EVERY_S = 1.0
_LARGEST_BUFFER = 4 * _ROWS_A_CHUNK
_LIBVER = ("v110", "v110")  # the oldest format with SWMR: every HDF5 since 1.10 (2016) reads it
_REASON = Column("reason", "S512")
_MISSING = "a value that is not known is NaN; text that is not known is empty"


class Hdf5Sink:
    """One HDF5 file a run, from a path that contains `{run}`; a file that exists is replaced.

    Rows are seen by readers within a second of their frame, as long as frames come, and at every flag and at the run's end.
    """

    def __init__(self, path_template: str) -> None:
        self._paths = RunPaths(path_template, "sinks.hdf5.path")
        self._files: dict[str, _RunFile] = {}

    def accept(self, record: Record) -> None:
        """Adds the record to its run's file. Raises SinkError where that cannot be written."""
        if isinstance(record, RunStarted):
            self._files[record.run.id] = _RunFile(self._paths.of(record.run.id), record)
            return
        file = self._files.get(record.run_id)
        if file is None:
            raise SinkError(f"{record.run_id}: has no results file, for it could not be made")
        match record:
            case Verdict():
                file.add_frame(record)
            case Indexing():
                file.add_indexing(record)
            case Flag():
                file.add_flag(record)
            case RunFinished():
                del self._files[record.run_id]
                file.finish(record)

    def close(self) -> None:
        """Closes what is open; a run that did not end keeps the rows it has. Raises SinkError for the first that fails, after all."""
        files, self._files = list(self._files.values()), {}
        problems = []
        for file in files:
            try:
                file.close()
            except SinkError as error:
                problems.append(error)
        if problems:
            raise problems[0]


class _RunFile:
    """An open results file. All objects are made before SWMR begins, for none can be made after."""

    def __init__(self, path: Path, started: RunStarted) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] = []
        self._late: dict[int, dict[str, Any]] = {}
        self._frame_of_row = array("q")
        self._flushed_s = time.monotonic()
        try:
            self._file = h5py.File(path, "w", libver=_LIBVER)
        except OSError as error:
            raise SinkError(f"{path}: cannot be written ({_one_line(error)}); set sinks.hdf5.path to another place") from error
        self._frames, self._flags, self._end = _lay_out(self._file, started)
        self._file.swmr_mode = True

    def add_frame(self, verdict: Verdict) -> None:
        self._rows.append(flatten(to_json(verdict)))
        self._frame_of_row.append(verdict.frame)
        self._flush_when_due()

    def add_indexing(self, indexing: Indexing) -> None:
        """Fills the frame's row in, which may have been written long ago; a frame that has none is left out."""
        row = _last(self._frame_of_row, indexing.frame)
        if row is None:
            return
        written = len(self._frame_of_row) - len(self._rows)
        if row >= written:
            self._rows[row - written].update(indexing_row(to_json(indexing)))
        else:
            self._late[row] = indexing_row(to_json(indexing))
        self._flush_when_due()

    def _flush_when_due(self) -> None:
        full = len(self._rows) >= _LARGEST_BUFFER or len(self._late) >= _LARGEST_BUFFER
        if full or time.monotonic() - self._flushed_s >= _FLUSH_EVERY_S:
            self._flush()

    def add_flag(self, flag: Flag) -> None:
        self._flush()
        self._guarded(_append, self._flags, FLAG_COLUMNS, [to_json(flag)])

    def finish(self, end: RunFinished) -> None:
        self._flush()
        self._guarded(_fill_end, self._end, to_json(end))
        self.close()

    def close(self) -> None:
        try:
            if self._file:
                self._flush()
        finally:
            self._guarded(self._file.close)

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        self._flushed_s = time.monotonic()
        if rows:
            self._guarded(_append, self._frames, FRAME_COLUMNS, rows)
        late, self._late = self._late, {}
        if late:
            self._guarded(_fill_in, self._frames, late)

    def _guarded(self, act: Any, *arguments: Any) -> None:
        try:
            act(*arguments)
        except (OSError, RuntimeError, ValueError) as error:
            raise SinkError(f"{self._path}: results could not be written ({_one_line(error)}); free some space") from error


def _lay_out(file: h5py.File, started: RunStarted) -> tuple[h5py.Group, h5py.Group, h5py.Group]:
    """The file's objects; returns the groups of frames, of flags and of the run's end."""
    record = to_json(started)
    file.attrs.update({"NX_class": "NXroot", "default": "entry"})
    entry = _group(file, "entry", "NXentry", default="plot")
    entry["start_time"] = record["started_at"]
    frames = _group(entry, "triage", "NXprocess", missing_values=_MISSING)
    frames["program"], frames["version"], frames["date"] = "triage", __version__, record["started_at"]
    frames["run"] = json.dumps(record, allow_nan=False)
    frames["run"].attrs["description"] = "the run's record as JSON: header, geometry, model and configuration"
    _make_columns(frames, FRAME_COLUMNS)
    flags = _group(frames, "flags", "NXcollection")
    _make_columns(flags, FLAG_COLUMNS)
    end = _group(frames, "run_end", "NXcollection", missing_values=_MISSING + "; all are, until the run ends")
    for name in RUN_END_COUNTS:
        end.create_dataset(name, data=np.nan)
    end.create_dataset("reason", data=_REASON.block([{}])[0], dtype=_REASON.stored_dtype)
    _plot(entry)
    return frames, flags, end


def _group(parent: h5py.Group, name: str, nx_class: str, **attributes: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs.update({"NX_class": nx_class, **attributes})
    return group


def _make_columns(group: h5py.Group, columns: Sequence[Column]) -> None:
    for column in columns:
        dataset = group.create_dataset(
            column.name,
            shape=(0, *column.shape),
            maxshape=(None, *column.shape),
            chunks=(_ROWS_A_CHUNK, *column.shape),
            dtype=column.stored_dtype,
            compression="gzip" if column.is_text else None,
            compression_opts=1 if column.is_text else None,
        )
        if column.units is not None:
            dataset.attrs["units"] = column.units


def _plot(entry: h5py.Group) -> None:
    """What a NeXus viewer shows first."""
    plot = _group(entry, "plot", "NXdata", signal="non_diffraction", axes="frame")
    plot.attrs["auxiliary_signals"] = ["multi_lattice", "ice_rings", "decay"]
    targets = {
        "frame": "frame",
        "non_diffraction": "probabilities_non_diffraction",
        "multi_lattice": "probabilities_multi_lattice",
        "ice_rings": "ice_rings",
        "decay": "decay_probability",
    }
    for name, target in targets.items():
        plot[name] = h5py.SoftLink(f"/entry/triage/{target}")


def _append(group: h5py.Group, columns: Sequence[Column], rows: Sequence[dict[str, Any]]) -> None:
    """Adds rows to every column, the last column last, each flushed in turn."""
    begin = len(group[columns[-1].name])
    for column in columns:
        dataset = group[column.name]
        dataset.resize(begin + len(rows), axis=0)
        dataset[begin:] = column.block(rows)
        dataset.flush()


def _fill_in(group: h5py.Group, late: dict[int, dict[str, Any]]) -> None:
    """Fills in what indexing found of frames whose rows are written."""
    rows = sorted(late)
    for column in INDEXING_COLUMNS:
        dataset = group[column.name]
        dataset[rows] = column.block([late[row] for row in rows])
        dataset.flush()


def _last(frames: array[int], frame: int) -> int | None:
    """The last place of a frame number among frames that mostly ascend."""
    place = bisect_right(frames, frame) - 1
    if place >= 0 and frames[place] == frame:
        return place
    return next((row for row in range(len(frames) - 1, -1, -1) if frames[row] == frame), None)


def _fill_end(group: h5py.Group, record: dict[str, Any]) -> None:
    for name in RUN_END_COUNTS:
        group[name][()] = np.nan if record[name] is None else float(record[name])
        group[name].flush()
    group["reason"][()] = _REASON.block([record])[0]
    group["reason"].flush()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
