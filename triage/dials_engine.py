"""DIALS as the reference engine: an Indexer whose work is done by an interpreter that has it, spoken to over ZeroMQ.

Debian and Ubuntu: `apt-get install --no-install-recommends dials python3-zmq`; conda's `dials` works too (indexing.dials.python).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from triage.core import Cell, Indexed, IndexingStatus, Run, Solution, Spots, TriageError
from triage.geometry import Geometry
from triage.indexing.bravais import settings
from triage.indexing.matrices import nearest_rotation

log = logging.getLogger(__name__)

WORKER = Path(__file__).with_name("outside") / "dials_worker.py"
"""Not a module of triage: it runs where DIALS is."""
MOST_LATTICES = 2
LEAST_INDEXED = 8
"""Spots of a lattice: what counts as visible (contract, section 7)."""
START_WITHIN_S = 90.0
_ANSWER_WITHIN_S = 120.0
_PROBE = "import zmq; import dials.command_line.index; from dials.util.version import dials_version; print(dials_version())"
_PROBE_WITHIN_S = 60.0
_OBLIQUITY_DEG = 1.0  # of a lattice's two-folds: DIALS refined it without symmetry
_POLL_MS = 200


class DialsError(TriageError):
    """DIALS is absent, or did not answer."""


def find_dials(python: str | None = None) -> tuple[str, str]:
    """The interpreter that has DIALS and ZeroMQ, and the version of DIALS. Raises DialsError: one line that names the mend."""
    candidates = [python] if python is not None else list(_candidates())
    for candidate in candidates:
        version = _probe(candidate)
        if version is not None:
            return candidate, version
    where = f"{python} does not import" if python is not None else "no interpreter was found that imports"
    raise DialsError(f"{where} dials and zmq: apt-get install --no-install-recommends dials python3-zmq, or set indexing.dials.python")


def _candidates() -> Iterator[str]:
    """/usr/bin/python3, then what the PATH holds: every python3, and dials.python of a DIALS of its own."""
    seen = set()
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    for path in [Path("/usr/bin/python3"), *(folder / name for folder in folders for name in ("dials.python", "python3"))]:
        if path.is_file() and os.access(path, os.X_OK) and path not in seen:
            seen.add(path)
            yield str(path)


def _probe(python: str) -> str | None:
    try:
        said = subprocess.run(
            [python, "-c", _PROBE], capture_output=True, text=True, check=True, timeout=_PROBE_WITHIN_S, env=_environment()
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip().splitlines()[-1] if said.stdout.strip() else None


def _environment() -> dict[str, str]:
    """Without what would lead another interpreter to this one's packages."""
    mine = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"}
    return {name: value for name, value in os.environ.items() if name not in mine} | {"OMP_NUM_THREADS": "1"}


class DialsIndexer:
    """Indexes one frame's spots by DIALS, each as a still; implements Indexer. A worker that dies is replaced at the next frame."""

    def __init__(self, python: str, *, answer_within_s: float = _ANSWER_WITHIN_S) -> None:
        """Starts the worker; `answer_within_s` is for one frame. Raises DialsError where it does not start."""
        self._python, self._answer_within_s = python, answer_within_s
        self._folder = Path(tempfile.mkdtemp(prefix="triage-dials-"))  # nobody else may speak to the worker
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        try:
            self.engine = self._start()
        except DialsError:
            self.close()
            raise
        log.info("indexing by %s, run by %s", self.engine, python)

    def index(self, spots: Spots, run: Run, *, cells: Sequence[Cell] = ()) -> Indexed:
        """Every lattice of the spots, two at most; `cells` are tried first. Raises DialsError where the worker fails."""
        if run.geometry is None:
            return Indexed(status=IndexingStatus.NOT_INDEXED, reason="the geometry is not known")
        use = np.flatnonzero(~spots.on_ice)
        rows = np.column_stack([spots.positions_px, spots.intensity, spots.sigma])[use]
        request = {"geometry": _geometry(run.geometry), "spots": rows.astype(float).tolist(), "most_lattices": MOST_LATTICES}
        reason = "no lattice was found"
        deadline_s = time.monotonic() + self._answer_within_s
        for cell in (*cells, None):
            answer = self._ask({**request, "cell": cell}, deadline_s - time.monotonic())
            if "error" in answer:
                raise DialsError(str(answer["error"]))
            solutions, explained = _solutions(answer.get("crystals", []), len(use))
            if solutions:
                return Indexed(
                    status=IndexingStatus.INDEXED,
                    solutions=tuple(solutions),
                    n_unindexed=len(use) - len(explained),
                    fraction_unexplained=1.0 - solutions[0].fraction_indexed,
                )
            reason = str(answer.get("reason", reason))
        return Indexed(status=IndexingStatus.NOT_INDEXED, reason=reason)

    def close(self) -> None:
        """Ends the worker."""
        self._end()
        self._context.destroy(linger=0)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> str:
        self._end()
        endpoint = f"ipc://{self._folder / 'worker'}"
        self._socket = self._context.socket(zmq.REQ)
        self._socket.bind(endpoint)
        self._worker = subprocess.Popen(
            [self._python, str(WORKER), endpoint],
            stdin=subprocess.PIPE,  # whose end tells the worker that nobody wants it any more
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
        version = self._exchange({"hello": True}, START_WITHIN_S).get("version")
        if not isinstance(version, str):
            raise DialsError("the worker does not name its version")
        return version

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close(linger=0)
        if self._worker is not None:
            if self._worker.stdin is not None:
                with contextlib.suppress(OSError):
                    self._worker.stdin.close()
            self._worker.kill()
            self._worker.wait()
        self._socket = self._worker = None

    def _ask(self, request: dict[str, Any], within_s: float) -> dict[str, Any]:
        if self._worker is None or self._worker.poll() is not None:
            log.warning("the DIALS worker has gone; another is started")
            self._start()
        return self._exchange(request, within_s)

    def _exchange(self, request: dict[str, Any], within_s: float) -> dict[str, Any]:
        socket, worker = self._socket, self._worker
        if socket is None or worker is None:
            raise DialsError("no DIALS worker runs")
        deadline_s = time.monotonic() + within_s
        self._await(socket, worker, zmq.POLLOUT, deadline_s)  # sending would wait for a worker that never connects
        socket.send(json.dumps(request, allow_nan=False).encode())
        self._await(socket, worker, zmq.POLLIN, deadline_s)
        answer = json.loads(socket.recv())
        if not isinstance(answer, dict):
            raise DialsError("the DIALS worker answered with no object")
        return answer

    def _await(self, socket: zmq.Socket[bytes], worker: subprocess.Popen[bytes], event: int, deadline_s: float) -> None:
        while not socket.poll(_POLL_MS, event):
            if worker.poll() is not None:
                self._end()
                raise DialsError(f"the DIALS worker died (exit status {worker.returncode})")
            if time.monotonic() > deadline_s:
                self._end()
                raise DialsError("DIALS did not answer in time; its worker was ended")


def _geometry(geometry: Geometry) -> dict[str, Any]:
    return {
        "wavelength_A": geometry.wavelength_A,
        "pixel_mm": geometry.pixel_mm,
        "shape_px": geometry.shape_px,
        "fast_axis": geometry.fast_axis,
        "slow_axis": geometry.slow_axis,
        "origin_mm": geometry.laboratory_mm((0.0, 0.0)).tolist(),
    }


def _solutions(crystals: Sequence[dict[str, Any]], n_spots: int) -> tuple[list[Solution], set[int]]:
    """Solutions, strongest first, and the spots they explain; lattices of too few spots are left out."""
    found, explained = [], set[int]()
    for crystal in crystals:
        if len(crystal["spots"]) >= LEAST_INDEXED:
            found.append(_solution(np.asarray(crystal["a_matrix"], dtype=np.float64).reshape(3, 3), len(crystal["spots"]), n_spots))
            explained.update(crystal["spots"])
    return sorted(found, key=lambda solution: -solution.n_indexed), explained


def _solution(a_matrix: Any, n_indexed: int, n_spots: int) -> Solution:
    """The most symmetrical description of a lattice that DIALS refined without symmetry; `a_matrix` (3, 3) in 1/A, columns a*, b*, c*."""
    direct = np.linalg.inv(a_matrix)
    setting = next(iter(settings(direct, _OBLIQUITY_DEG)))
    conventional = np.linalg.inv(setting.change @ direct)
    u = nearest_rotation(conventional @ np.linalg.inv(setting.reciprocal))
    return Solution(
        cell=setting.cell,
        bravais=setting.bravais,
        space_group=None,
        n_indexed=n_indexed,
        fraction_indexed=n_indexed / max(n_spots, 1),
        orientation=tuple(float(x) for x in u.ravel()),
    )
