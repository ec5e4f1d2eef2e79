"""Reading groups and quantities of NeXus files: by NX_class or usual name, with units converted, and transformation chains."""

from __future__ import annotations

import math
from collections.abc import Iterator

import h5py
import numpy as np

from triage.geometry import GeometryError
from triage.sources.axes import Axis
from triage.sources.hdf5 import HDF5_FAILURES

MILLIMETRES = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "microns": 1e-3, "nm": 1e-6, "pm": 1e-9}
ANGSTROMS = {"angstrom": 1.0, "angstroms": 1.0, "ang": 1.0, "a": 1.0, "å": 1.0, "nm": 10.0, "pm": 0.01, "m": 1e10}
DEGREES = {"deg": 1.0, "degree": 1.0, "degrees": 1.0, "°": 1.0, "rad": 180 / math.pi, "radian": 180 / math.pi, "radians": 180 / math.pi}
SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
ELECTRONVOLTS = {"ev": 1.0, "kev": 1e3}
PIXELS = {"pixel": 1.0, "pixels": 1.0, "px": 1.0}
EV_ANGSTROM = 12398.419843320026
"""h c (CODATA 2018, exact since 2019)."""
LONGEST_CHAIN = 64


def child(group: h5py.Group | None, path: str) -> h5py.Group | h5py.Dataset | None:
    """What lies at a path below a group; None where nothing does, or a link leads nowhere."""
    if group is None:
        return None
    try:
        found = group.get(path)
    except HDF5_FAILURES:
        return None
    return found if isinstance(found, (h5py.Group, h5py.Dataset)) else None


def group_at(parent: h5py.Group | None, path: str) -> h5py.Group | None:
    """The group at a path, or None."""
    found = child(parent, path)
    return found if isinstance(found, h5py.Group) else None


def of_class(parent: h5py.Group | None, nx_class: str, usual: str) -> h5py.Group | None:
    """The child of this NX_class (the one of the usual name, else the first), or the one of the usual name."""
    if parent is None:
        return None
    found = [group for name in parent if (group := group_at(parent, name)) is not None and attribute(group, "NX_class") == nx_class]
    named = group_at(parent, usual)
    return named if named is not None or not found else found[0]


def attribute(item: h5py.Group | h5py.Dataset, name: str) -> str | None:
    """A text attribute, or None."""
    try:
        value = item.attrs.get(name)
    except HDF5_FAILURES:  # attributes of types that h5py does not know
        return None
    return None if value is None else as_text(value)


def as_text(value: object) -> str:
    """HDF5's various strings as one."""
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size else ""
    return value.decode("utf-8", "replace").strip("\0 ") if isinstance(value, bytes) else str(value).strip("\0 ")


def text(group: h5py.Group | None, path: str) -> str | None:
    """A text dataset, or None."""
    found = child(group, path)
    if not isinstance(found, h5py.Dataset) or found.size is None or found.size == 0:
        return None
    return as_text(found[()]) or None


def numbers(group: h5py.Group | None, path: str, units: dict[str, float] | None = None, default: str = "") -> list[float] | None:
    """A numeric dataset's values in the unit that `units` maps to 1; None where it is absent.

    A dataset without units is taken to have `default`. Raises GeometryError for a unit that `units` does not have.
    """
    found = child(group, path)
    if not isinstance(found, h5py.Dataset) or found.size is None or found.size == 0 or found.dtype.kind not in "iufb":
        return None
    scale = 1.0 if units is None else _scale(found, units, default)
    return [float(value) * scale for value in np.asarray(found[()]).reshape(-1)]


def _scale(dataset: h5py.Dataset, units: dict[str, float], default: str) -> float:
    stated = attribute(dataset, "units") or default
    scale = units.get(stated.strip().lower(), units.get(stated.strip()))
    if scale is None:
        raise GeometryError(f"{dataset.name} has units {stated!r}, which are not among {', '.join(units)}")
    return scale


def number(group: h5py.Group | None, path: str, units: dict[str, float] | None = None, default: str = "") -> float | None:
    """The first of a numeric dataset's values, or None where there is none that is finite."""
    values = numbers(group, path, units, default)
    return values[0] if values and math.isfinite(values[0]) else None


def chain(start: h5py.Dataset | None, setting: int = 0) -> Iterator[Axis]:
    """The axes of an NXtransformations chain, from an axis outwards to the laboratory, at the given frame's setting.

    Raises GeometryError where the chain is broken (NeXus: depends_on).
    """
    item, seen = start, 0
    while item is not None:
        seen += 1
        if seen > LONGEST_CHAIN:
            raise GeometryError(f"the chain of axes of {start.name if start is not None else ''} goes in a circle")
        yield axis_of(item, setting)
        item = depends_on(item, attribute(item, "depends_on"))


def depends_on(item: h5py.Group | h5py.Dataset, path: str | None) -> h5py.Dataset | None:
    """The axis at a depends_on path, absolute or relative to the item's group; None at the end of the chain."""
    if path is None or path in (".", ""):
        return None
    found = child(item.file if path.startswith("/") else item if isinstance(item, h5py.Group) else item.parent, path)
    if not isinstance(found, h5py.Dataset):
        raise GeometryError(f"{item.name} depends on {path}, which is not there")
    return found


def axis_of(item: h5py.Dataset, setting: int = 0) -> Axis:
    """One axis of a chain, with lengths in mm and angles in degrees."""
    kind = attribute(item, "transformation_type")
    is_rotation = kind == "rotation"
    if kind not in ("rotation", "translation"):
        raise GeometryError(f"{item.name} has transformation_type {kind!r}, neither rotation nor translation")
    values = numbers(item.parent, item.name, DEGREES if is_rotation else MILLIMETRES, "deg" if is_rotation else "m") or [0.0]
    vector = _vector(item, "vector")
    setting_value = values[min(setting, len(values) - 1)]
    if setting_value == 0 and not is_rotation and not any(vector):
        vector = (0.0, 0.0, 1.0)  # a translation by nothing may say no direction
    return Axis(name=str(item.name), is_rotation=is_rotation, vector=vector, offset_mm=_offset(item), setting=setting_value)


def _offset(item: h5py.Dataset) -> tuple[float, float, float]:
    if "offset" not in item.attrs:
        return 0.0, 0.0, 0.0
    unit = (
        attribute(item, "offset_units")
        or (attribute(item, "units") if attribute(item, "transformation_type") == "translation" else None)
        or "m"
    )
    if unit.lower() not in MILLIMETRES:
        raise GeometryError(f"{item.name} has offset_units {unit!r}, which are not among {', '.join(MILLIMETRES)}")
    x, y, z = _vector(item, "offset")
    scale = MILLIMETRES[unit.lower()]
    return x * scale, y * scale, z * scale


def _vector(item: h5py.Dataset, name: str) -> tuple[float, float, float]:
    values = np.asarray(item.attrs.get(name, ()), dtype=np.float64).reshape(-1)
    if values.shape != (3,) or not np.isfinite(values).all():
        raise GeometryError(f"{item.name} has no {name} of three numbers")
    return float(values[0]), float(values[1]), float(values[2])
