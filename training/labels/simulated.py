"""Labels of simulated files: the columns under `/entry/labels` that `triage simulate` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py

from training.labels.label import Label
from training.labels.rows import Defaults, Parsed, TableError

_NAMES = ("n_lattices", "diffracts", "non_diffraction_kind", "ice_rings", "d_min_A")


def read_simulated(path: Path, defaults: Defaults) -> Parsed:
    """The truth of every frame of a simulated NXmx file. Raises TableError where it is none."""
    try:
        with h5py.File(path, "r") as file:
            columns = {name: _column(file[f"entry/labels/{name}"]) for name in _NAMES}
    except (OSError, KeyError) as error:
        raise TableError(f"{path}: not a file of `triage simulate` with /entry/labels ({error})") from error
    for frame in range(len(columns["n_lattices"])):
        n_lattices, d_min_A = int(columns["n_lattices"][frame]), float(columns["d_min_A"][frame])
        yield Label(
            source=str(path),
            frame=frame,
            n_lattices=n_lattices,
            diffracts=bool(columns["diffracts"][frame]),
            non_diffraction_kind=columns["non_diffraction_kind"][frame] or None,
            ice_rings=bool(columns["ice_rings"][frame]),
            d_min_A=d_min_A if d_min_A > 0.0 else None,
            labeller=defaults.labeller,
            origin=defaults.origin,
        )


def _column(item: h5py.Dataset) -> Any:
    return item.asstr()[()] if h5py.check_string_dtype(item.dtype) is not None else item[()]
