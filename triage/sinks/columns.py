"""The per-frame arrays of the HDF5 results: their names, shapes and types, and a frame record as one row of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from triage.core import NON_DIFFRACTION_KINDS

_TEXT_BYTES = 512


@dataclass(frozen=True, slots=True)
class Column:
    """One growing array: (rows, *shape)."""

    name: str
    dtype: str = "f8"
    shape: tuple[int, ...] = ()
    units: str | None = None

    @property
    def is_text(self) -> bool:
        """Whether it holds text, of a fixed length in bytes: text of any length cannot be written under SWMR."""
        return self.dtype.startswith("S")

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """As HDF5 stores it."""
        dtype: np.dtype[Any] = h5py.string_dtype("utf-8", int(self.dtype[1:])) if self.is_text else np.dtype(self.dtype)
        return dtype

    def block(self, rows: Sequence[Mapping[str, Any]]) -> npt.NDArray[Any]:
        """These rows' values; what is absent or null is NaN, or empty text. Text is cut at a whole character."""
        if self.is_text:
            return np.array([_cut(row.get(self.name), int(self.dtype[1:])) for row in rows], dtype=self.stored_dtype)
        values = np.full((len(rows), *self.shape), np.nan if self.dtype == "f8" else 0, dtype=self.dtype)
        for i, row in enumerate(rows):
            value = row.get(self.name)
            if value is not None:
                values[i] = np.array(value, dtype=self.dtype)
        return values


def _cut(value: str | None, n_bytes: int) -> bytes:
    text = (value or "").encode(errors="replace")
    return text if len(text) <= n_bytes else text[:n_bytes].decode(errors="ignore").encode()


INDEXING_COLUMNS = (
    Column("indexing_status", "S16"),
    Column("indexing_reason", f"S{_TEXT_BYTES}"),
    Column("indexing_engine", "S64"),
    Column("indexing_n_solutions"),
    Column("indexing_cell", shape=(6,)),
    Column("indexing_bravais", "S4"),
    Column("indexing_orientation", shape=(9,)),
    Column("indexing_n_indexed"),
    Column("indexing_fraction_indexed"),
    Column("indexing_n_unindexed"),
    Column("indexing_fraction_unexplained"),
    Column("indexing_beam_shift_px", shape=(2,), units="pixel"),
    Column("indexing_multi_lattice"),
    Column("indexing_agreement", "S16"),
    Column("indexing_cell_outlier"),
    Column("indexing_latency_ms", units="ms"),
)
"""Filled when the indexing record comes; cell, type, orientation and spots are those of the first solution."""

FRAME_COLUMNS = (
    Column("file", f"S{_TEXT_BYTES}"),
    Column("error", f"S{_TEXT_BYTES}"),
    Column("lattices", shape=(4,)),
    Column("probabilities_multi_lattice"),
    Column("probabilities_non_diffraction"),
    *(Column(f"non_diffraction_kind_{kind}") for kind in NON_DIFFRACTION_KINDS),
    Column("resolution_A", units="angstrom"),
    Column("decay_probability"),
    Column("decay_alarm_probability"),
    Column("decay_delta_B_A2", units="angstrom^2"),
    Column("decay_delta_B_sigma", units="angstrom^2"),
    Column("decay_scale"),
    Column("decay_scale_sigma"),
    Column("decay_reference_frames", shape=(2,)),
    Column("decay_since_frame"),
    Column("decay_outer_d_A", units="angstrom"),
    Column("decay_outer_loss"),
    Column("decay_inner_d_A", units="angstrom"),
    Column("decay_inner_loss"),
    Column("decay_again_delta_B_A2"),
    Column("decay_again_delta_B_sigma"),
    Column("decay_again_spots"),
    Column("decay_network_probability"),
    Column("ice_rings"),
    Column("spots_count"),
    Column("spots_count_no_ice"),
    Column("spots_resolution_A", units="angstrom"),
    Column("spots_total_intensity", units="photons"),
    Column("spots_mean_i_over_sigma"),
    Column("spots_resolution_shells_A", units="angstrom"),
    Column("spots_sharpness"),
    Column("spots_overloads"),
    Column("latency_ms", units="ms"),
    *INDEXING_COLUMNS,
    Column("frame", "i8"),
)
"""`frame` is written last: as many rows as it has are whole."""

FLAG_COLUMNS = (
    Column("flag", "S32"),
    Column("state", "S16"),
    Column("first_frame", "i8"),
    Column("frame", "i8"),
    Column("severity", "S16"),
    Column("probability"),
    Column("reason", f"S{_TEXT_BYTES}"),
    Column("at", "S40"),
    Column("id", "S256"),
)
"""`id` is written last."""

RUN_END_COUNTS = ("frames_received", "frames_judged", "frames_dropped", "frames_failed", "frames_missing", "indexed", "wall_s", "complete")


def indexing_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """INDEXING_COLUMNS of an indexing record."""
    solutions = record["solutions"]
    told = {name: record[name] for name in ("status", "reason", "engine", "n_unindexed", "fraction_unexplained", "multi_lattice")}
    told |= {name: record[name] for name in ("beam_shift_px", "agreement", "cell_outlier", "latency_ms")}
    told["n_solutions"] = len(solutions) if record["status"] in ("indexed", "not_indexed") else None
    if solutions:
        told |= {name: solutions[0][name] for name in ("cell", "bravais", "orientation", "n_indexed", "fraction_indexed")}
    return {f"indexing_{name}": value for name, value in told.items()}


def flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    """Nested names joined by `_`; lists stay whole."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}_{inner}": item for inner, item in flatten(value).items()})
        else:
            flat[name] = value
    return flat
