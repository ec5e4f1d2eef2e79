"""Records as plain JSON objects: the results' public form (docs/results.md).

Numbers are finite; what is not known is None, never a magic number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from pathlib import PurePath
from typing import Any, assert_never

import numpy as np

from triage.core import (
    NON_DIFFRACTION_KINDS,
    CellShare,
    Decay,
    Flag,
    Indexing,
    Judgement,
    Record,
    Run,
    RunFinished,
    RunStarted,
    Solution,
    SpotSummary,
    Verdict,
)


def to_json(record: Record) -> dict[str, Any]:
    """The record as an object that `json.dumps(..., allow_nan=False)` accepts, with `type` and `run` first."""
    match record:
        case RunStarted():
            fields = _run(record)
        case Verdict():
            fields = _frame(record)
        case Indexing():
            fields = _indexing(record)
        case Flag():
            fields = _flag(record)
        case RunFinished():
            fields = _run_end(record)
        case _:
            assert_never(record)
    return {name: plain(value) for name, value in fields.items()}


def plain(value: Any) -> Any:
    """The value in JSON's own types: a number that is not finite becomes None, an array a list, a time ISO 8601, the rest text."""
    match value:
        case None | bool() | int():
            return value.value if isinstance(value, Enum) else value
        case float():
            return float(value) if math.isfinite(value) else None
        case Enum():
            return plain(value.value)
        case str():
            return value
        case datetime():
            return value.isoformat()
        case Mapping():
            return {str(plain(key)): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case np.ndarray() | np.generic():
            return plain(value.tolist())
        case PurePath():
            return str(value)
        case _:
            return str(value)


def _run(record: RunStarted) -> dict[str, Any]:
    run, header, model = record.run, record.run.header, record.model
    return {
        "type": "run",
        "run": run.id,
        "source": header.source,
        "kind": run.kind,
        "detector": header.detector,
        **_geometry(run),
        "frames_expected": header.frames_expected,
        "omega_start_deg": header.omega_start_deg,
        "omega_step_deg": header.omega_step_deg,
        "exposure_s": header.exposure_s,
        "mask_source": run.mask_source,
        "geometry_source": run.geometry_source,
        "geometry_problem": run.geometry_problem,
        "model": None if model is None else {"name": model.name, "version": model.version, "sha256": model.sha256},
        "config": record.config,
        "started_at": run.started_at,
    }


def _geometry(run: Run) -> dict[str, Any]:
    """The checked geometry; where there is none, what the header states, unchecked (`geometry_problem` tells them apart)."""
    known = run.geometry if run.geometry is not None else run.header.stated
    shape = run.geometry.shape_px if run.geometry is not None else run.header.shape_px
    return {
        "shape_px": shape,
        "pixel_mm": _pair(known.pixel_mm),
        "distance_mm": known.distance_mm,
        "wavelength_A": known.wavelength_A,
        "beam_px": _pair(known.beam_px),
    }


def _pair(value: tuple[float, float] | None) -> tuple[float, float] | None:
    """Both numbers or neither: half a position is of no use."""
    return value if value is not None and all(math.isfinite(part) for part in value) else None


def _frame(verdict: Verdict) -> dict[str, Any]:
    return {
        "type": "frame",
        "run": verdict.run_id,
        "frame": verdict.frame,
        "file": verdict.file,
        **_judgement(verdict.judgement),
        "decay": _decay(verdict.decay),
        "spots": _spots(verdict.spots),
        "latency_ms": verdict.latency_ms,
        "error": verdict.error,
    }


def _judgement(judgement: Judgement | None) -> dict[str, Any]:
    if judgement is None:
        return dict.fromkeys(("lattices", "probabilities", "non_diffraction_kind", "resolution_A", "ice_rings"))
    return {
        "lattices": judgement.lattices,
        "probabilities": {"multi_lattice": judgement.multi_lattice, "non_diffraction": judgement.non_diffraction},
        "non_diffraction_kind": dict(zip(NON_DIFFRACTION_KINDS, judgement.non_diffraction_kind, strict=True)),
        "resolution_A": judgement.resolution_A,
        "ice_rings": judgement.ice_rings,
    }


def _decay(decay: Decay | None) -> dict[str, Any] | None:
    if decay is None:
        return None
    return {
        "probability": decay.probability,
        "alarm_probability": decay.alarm_probability,
        "delta_B_A2": decay.delta_B_A2,
        "delta_B_sigma": decay.delta_B_sigma,
        "scale": decay.scale,
        "scale_sigma": decay.scale_sigma,
        "reference_frames": decay.reference_frames,
        "since_frame": decay.since_frame,
        "outer_d_A": decay.outer_d_A,
        "outer_loss": decay.outer_loss,
        "inner_d_A": decay.inner_d_A,
        "inner_loss": decay.inner_loss,
        "again_delta_B_A2": decay.again_delta_B_A2,
        "again_delta_B_sigma": decay.again_delta_B_sigma,
        "again_spots": decay.again_spots,
        "network_probability": decay.network_probability,
    }


def _spots(spots: SpotSummary | None) -> dict[str, Any] | None:
    if spots is None:
        return None
    return {
        "count": spots.count,
        "count_no_ice": spots.count_no_ice,
        "resolution_A": spots.resolution_A,
        "total_intensity": spots.total_intensity,
        "mean_i_over_sigma": spots.mean_i_over_sigma,
        "resolution_shells_A": spots.resolution_shells_A,
        "sharpness": spots.sharpness,
        "overloads": spots.overloads,
    }


def _indexing(indexing: Indexing) -> dict[str, Any]:
    indexed = indexing.indexed
    return {
        "type": "indexing",
        "run": indexing.run_id,
        "frame": indexing.frame,
        "engine": indexing.engine,
        "status": indexed.status,
        "reason": indexed.reason,
        "solutions": [_solution(solution) for solution in indexed.solutions],
        "n_unindexed": indexed.n_unindexed,
        "fraction_unexplained": indexed.fraction_unexplained,
        "beam_shift_px": indexed.beam_shift_px,
        "multi_lattice": indexing.multi_lattice,
        "agreement": indexing.agreement,
        "run_cells": [_cells(share) for share in indexing.cells],
        "cell_outlier": indexing.is_outlier,
        "latency_ms": indexing.latency_ms,
    }


def _cells(share: CellShare) -> dict[str, Any]:
    return {
        "cell": share.cell,
        "bravais": share.bravais,
        "n": share.n,
        "share": share.share,
        "drift_percent_per_1000_frames": share.drift_percent_per_1000_frames,
    }


def _solution(solution: Solution) -> dict[str, Any]:
    return {
        "cell": solution.cell,
        "bravais": solution.bravais,
        "space_group": solution.space_group,
        "n_indexed": solution.n_indexed,
        "fraction_indexed": solution.fraction_indexed,
        "orientation": solution.orientation,
    }


def _flag(flag: Flag) -> dict[str, Any]:
    return {
        "type": "flag",
        "run": flag.run_id,
        "id": flag.id,
        "flag": flag.flag,
        "state": flag.state,
        "first_frame": flag.first_frame,
        "frame": flag.frame,
        "severity": flag.severity,
        "probability": flag.probability,
        "reason": flag.reason,
        "at": flag.at,
    }


def _run_end(record: RunFinished) -> dict[str, Any]:
    progress = record.progress
    return {
        "type": "run_end",
        "run": record.run_id,
        "frames_received": progress.received,
        "frames_judged": progress.judged,
        "frames_dropped": progress.dropped,
        "frames_failed": progress.failed,
        "frames_missing": progress.missing,
        "flags": record.flags,
        "indexed": record.indexed,
        "wall_s": record.wall_s,
        "complete": record.complete,
        "reason": record.reason,
    }
