"""The results' public form: names and meanings are the documented ones (docs/results.md), written out here by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triage.core import (
    Decay,
    Flag,
    Judgement,
    Model,
    Progress,
    Run,
    RunFinished,
    RunHeader,
    RunKind,
    RunStarted,
    Severity,
    SpotSummary,
    Verdict,
)
from triage.geometry import Geometry, StatedGeometry
from triage.records import plain, to_json

GEOMETRY = Geometry(wavelength_A=0.9763, distance_mm=200.0, pixel_mm=(0.075, 0.0751), beam_px=(1100.5, 1050.25), shape_px=(2162, 2068))
AT = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
JUDGEMENT = Judgement(lattices=(0.1, 0.6, 0.2, 0.1), non_diffraction_kind=(0.7, 0.1, 0.1, 0.1), ice_rings=0.25, resolution_A=2.1)
SPOTS = SpotSummary(
    count=40,
    count_no_ice=38,
    resolution_A=2.3,
    resolution_shells_A=2.2,
    total_intensity=1.5e4,
    mean_i_over_sigma=11.0,
    sharpness=0.3,
    overloads=2,
)
DECAY = Decay(
    probability=0.4, alarm_probability=0.6, delta_B_A2=2.5, delta_B_sigma=1.1, scale=0.9, scale_sigma=0.1, reference_frames=(0, 11)
)


def a_verdict(**changes: Any) -> Verdict:
    verdict = Verdict(run_id="r", frame=7, file="a.cbf", judgement=JUDGEMENT, spots=SPOTS, decay=DECAY, latency_ms=12.5)
    return replace(verdict, **changes)


def as_read(record: Any) -> dict[str, Any]:
    """What a script reads back from one line; refuses NaN and Infinity."""
    loaded: dict[str, Any] = json.loads(json.dumps(to_json(record), allow_nan=False))
    return loaded


def test_run_record_has_the_documented_fields() -> None:
    header = RunHeader(
        source="x_master.h5",
        detector="EIGER2 4M",
        shape_px=(2162, 2068),
        frames_expected=100,
        omega_start_deg=0.0,
        omega_step_deg=0.1,
        exposure_s=0.01,
    )
    run = Run(id="x", header=header, kind=RunKind.ROTATION, geometry=GEOMETRY, geometry_source="header", started_at=AT)
    model = Model(name="net", version="1", sha256="ab")
    assert as_read(RunStarted(run=run, model=model, config={"mode": "live", "path": Path("p"), "x": math.inf})) == {
        "type": "run",
        "run": "x",
        "source": "x_master.h5",
        "kind": "rotation",
        "detector": "EIGER2 4M",
        "shape_px": [2162, 2068],
        "pixel_mm": [0.075, 0.0751],
        "distance_mm": 200.0,
        "wavelength_A": 0.9763,
        "beam_px": [1100.5, 1050.25],
        "frames_expected": 100,
        "omega_start_deg": 0.0,
        "omega_step_deg": 0.1,
        "exposure_s": 0.01,
        "mask_source": "no-data values",
        "geometry_source": "header",
        "geometry_problem": None,
        "model": {"name": "net", "version": "1", "sha256": "ab"},
        "config": {"mode": "live", "path": "p", "x": None},
        "started_at": "2026-02-03T04:05:06+00:00",
    }


def test_without_a_checked_geometry_the_finite_part_of_the_header_is_kept() -> None:
    stated = StatedGeometry(wavelength_A=math.nan, distance_mm=10.0, pixel_mm=(0.075, 0.075), beam_px=(math.nan, 3.0))
    header = RunHeader(source="s", shape_px=(10, 20), stated=stated)
    run = Run(id="s", header=header, kind=RunKind.STILLS, geometry=None, geometry_problem="distance_mm = 10 mm is implausible")
    record = as_read(RunStarted(run=run, model=None, config={}))
    assert (record["shape_px"], record["distance_mm"], record["pixel_mm"]) == ([10, 20], 10.0, [0.075, 0.075])
    assert (record["wavelength_A"], record["beam_px"], record["model"]) == (None, None, None)
    assert "implausible" in record["geometry_problem"]


def test_an_unreadable_file_gives_a_run_record_of_nulls() -> None:
    run = Run(id="gone", header=RunHeader(source="gone.h5"), kind=None, geometry=None, geometry_problem="no header")
    record = as_read(RunStarted(run=run, model=None, config={}))
    unknown = ("kind", "detector", "shape_px", "pixel_mm", "distance_mm", "wavelength_A", "beam_px", "frames_expected", "exposure_s")
    assert record["source"] == "gone.h5"
    assert {name: record[name] for name in unknown} == dict.fromkeys(unknown)


def test_frame_record_has_the_documented_fields() -> None:
    assert as_read(a_verdict()) == {
        "type": "frame",
        "run": "r",
        "frame": 7,
        "file": "a.cbf",
        "lattices": [0.1, 0.6, 0.2, 0.1],
        "probabilities": {"multi_lattice": pytest.approx(0.3, abs=1e-6), "non_diffraction": 0.1},
        "non_diffraction_kind": {"blank": 0.7, "ice": 0.1, "salt": 0.1, "artefact": 0.1},
        "resolution_A": 2.1,
        "decay": {
            "probability": 0.4,
            "alarm_probability": 0.6,
            "delta_B_A2": 2.5,
            "delta_B_sigma": 1.1,
            "scale": 0.9,
            "scale_sigma": 0.1,
            "reference_frames": [0, 11],
        }
        | dict.fromkeys(("since_frame", "outer_d_A", "outer_loss", "inner_d_A", "inner_loss"))
        | dict.fromkeys(("again_delta_B_A2", "again_delta_B_sigma", "again_spots", "network_probability")),
        "ice_rings": 0.25,
        "spots": {"count": 40, "count_no_ice": 38, "resolution_A": 2.3, "total_intensity": 1.5e4, "mean_i_over_sigma": 11.0}
        | {"resolution_shells_A": 2.2, "sharpness": 0.3, "overloads": 2},
        "latency_ms": 12.5,
        "error": None,
    }


def test_a_frame_that_failed_has_null_judgements() -> None:
    record = as_read(a_verdict(judgement=None, spots=None, decay=None, error="the payload is truncated"))
    nulls = ("lattices", "probabilities", "non_diffraction_kind", "resolution_A", "decay", "ice_rings", "spots")
    assert record["error"] == "the payload is truncated"
    assert {name: record[name] for name in nulls} == dict.fromkeys(nulls)


def test_flag_record_has_the_documented_fields() -> None:
    flag = Flag(
        id="r:ice:1",
        run_id="r",
        flag="ice",
        state="raised",
        first_frame=3,
        frame=9,
        severity=Severity.WARNING,
        probability=None,
        reason="Ice.",
        at=AT,
    )
    assert as_read(flag) == {
        "type": "flag",
        "run": "r",
        "id": "r:ice:1",
        "flag": "ice",
        "state": "raised",
        "first_frame": 3,
        "frame": 9,
        "severity": "warning",
        "probability": None,
        "reason": "Ice.",
        "at": "2026-02-03T04:05:06+00:00",
    }


def test_run_end_record_has_the_documented_fields() -> None:
    progress = Progress(received=10, judged=7, dropped=2, failed=1, missing=3)
    end = RunFinished(run_id="r", progress=progress, flags={"ice": 1}, indexed=0, wall_s=1.5, complete=False, reason="no end")
    assert as_read(end) == {
        "type": "run_end",
        "run": "r",
        "frames_received": 10,
        "frames_judged": 7,
        "frames_dropped": 2,
        "frames_failed": 1,
        "frames_missing": 3,
        "flags": {"ice": 1},
        "indexed": 0,
        "wall_s": 1.5,
        "complete": False,
        "reason": "no end",
    }


@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.datetimes()
        | st.builds(Path, st.just("a"))
        | st.builds(np.float32, st.floats(width=32))
        | st.builds(np.int64, st.integers(-5, 5)),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=10,
    )
)
def test_anything_becomes_json(value: Any) -> None:
    json.dumps(plain(value), allow_nan=False)


def test_plain_keeps_values() -> None:
    class Colour(Enum):
        RED = 1

    value = {"a": np.array([[1.5, np.nan]]), Severity.INFO: (Colour.RED, np.True_, {3})}
    assert plain(value) == {"a": [[1.5, None]], "info": [1, True, [3]]}


@given(parts=st.lists(st.floats(0.001, 1.0), min_size=4, max_size=4))
def test_probabilities_follow_from_lattices(parts: list[float]) -> None:
    total = sum(parts)
    lattices = (parts[0] / total, parts[1] / total, parts[2] / total, parts[3] / total)
    record = as_read(a_verdict(judgement=replace(JUDGEMENT, lattices=lattices)))
    assert sum(record["lattices"]) == pytest.approx(1.0)
    assert record["probabilities"]["multi_lattice"] == pytest.approx(record["lattices"][2] + record["lattices"][3], abs=1e-6)
    assert record["probabilities"]["non_diffraction"] == record["lattices"][0]


def test_a_judgement_that_is_not_a_number_becomes_null() -> None:
    record = as_read(a_verdict(judgement=replace(JUDGEMENT, resolution_A=math.inf, ice_rings=math.nan), latency_ms=math.nan))
    assert (record["resolution_A"], record["ice_rings"], record["latency_ms"]) == (None, None, None)
