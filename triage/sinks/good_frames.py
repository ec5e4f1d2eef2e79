"""The frames worth processing further: a CrystFEL list and DIALS' selection as the run proceeds, an HDF5 virtual dataset at its end."""

from __future__ import annotations

import logging
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import h5py

from triage.core import Record, RunFinished, RunStarted, Verdict
from triage.sinks.dials_selection import DialsSelection
from triage.sinks.paths import RunPaths, SinkError
from triage.sinks.virtual import write_virtual

log = logging.getLogger(__name__)

_HDF5_SUFFIXES = (".h5", ".hdf5", ".nxs", ".cxi")


class GoodFramesSink:
    """One list a run, from a path that contains `{run}`; a file that exists is replaced.

    A frame is good when it was judged, and its probabilities of no diffraction and of several lattices are below their limits. A line
    is `path` for a file of one image, `path //N` for image N (from zero) of an HDF5 file, and `run //N` for a stream. Beside the list
    `NAME.dials` holds the same frames as arguments of DIALS, one a line (DialsSelection).
    """

    def __init__(self, path_template: str, *, non_diffraction_below: float = 0.5, multi_lattice_below: float = 0.5) -> None:
        self._paths = RunPaths(path_template, "sinks.good_frames.path")
        self._limits = (non_diffraction_below, multi_lattice_below)
        self._lists: dict[str, _List] = {}

    def accept(self, record: Record) -> None:
        """Adds a good frame to its run's list. Raises SinkError where that cannot be written."""
        if isinstance(record, RunStarted):
            self._lists[record.run.id] = _List.begun(self._paths.of(record.run.id))
        elif record.run_id not in self._lists:
            raise SinkError(f"{record.run_id}: has no list of good frames, for it could not be made")
        elif isinstance(record, Verdict) and self._is_good(record):
            self._lists[record.run_id].add(record)
        elif isinstance(record, RunFinished):
            self._lists.pop(record.run_id).finish()

    def _is_good(self, verdict: Verdict) -> bool:
        judgement = verdict.judgement
        if judgement is None or verdict.error is not None:
            return False
        return judgement.non_diffraction < self._limits[0] and judgement.multi_lattice < self._limits[1]

    def close(self) -> None:
        """Closes the lists of runs that did not end."""
        lists, self._lists = list(self._lists.values()), {}
        for open_list in lists:
            open_list.close()


@dataclass(slots=True)
class _List:
    path: Path
    lines: TextIO
    selection: DialsSelection
    masters: set[str] = field(default_factory=set)
    """The HDF5 files met; a run has one."""
    frames: array[int] = field(default_factory=lambda: array("q"))
    """Good frames of an HDF5 file."""

    @classmethod
    def begun(cls, path: Path) -> _List:
        try:
            lines = path.open("w", buffering=1, encoding="utf-8", errors="surrogateescape")
            return cls(path, lines, DialsSelection(path.with_name(f"{path.name.removesuffix('.lst')}.dials")))
        except OSError as error:
            raise SinkError(f"{path}: cannot be written ({error.strerror}); set sinks.good_frames.path to another place") from error

    def add(self, verdict: Verdict) -> None:
        if verdict.file is None:
            line = f"{verdict.run_id} //{verdict.frame}"
            in_stack, file = True, None
        elif self._is_hdf5(verdict.file):
            file = Path(verdict.file).absolute()
            line, in_stack = f"{file} //{verdict.frame}", True
            self.frames.append(verdict.frame)
        else:
            file = Path(verdict.file).absolute()
            line, in_stack = str(file), False
        try:
            self.lines.write(line + "\n")
            self.selection.add(file, verdict.frame if in_stack else None)
        except OSError as error:
            raise SinkError(f"{self.path}: a line could not be written ({error.strerror}); free some space") from error

    def _is_hdf5(self, file: str) -> bool:
        if file in self.masters:
            return True
        found = file.lower().endswith(_HDF5_SUFFIXES) or bool(h5py.is_hdf5(file))
        if found:
            self.masters.add(file)
        return found

    def finish(self) -> None:
        """Closes the list; without the virtual dataset, which needs the master's data files, the list still stands."""
        self.close()
        if len(self.masters) == 1:
            try:
                write_virtual(self.path.with_name(f"{self.path.stem}_good.h5"), Path(*self.masters), self.frames)
            except SinkError as error:
                log.warning("%s", error)

    def close(self) -> None:
        try:
            self.selection.close()
            self.lines.close()
        except OSError as error:
            raise SinkError(f"{self.path}: could not be written to the end ({error.strerror}); free some space") from error
