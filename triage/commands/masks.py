"""A mask file of the configuration: non-zero pixels are not used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fabio
import h5py
import hdf5plugin  # noqa: F401  registers the filters that masks may be stored with
import numpy as np

from triage.core import Mask
from triage.refusal import ConfigError

_HDF5_SUFFIXES = (".h5", ".hdf5", ".nxs")
_USUAL_PLACES = (
    "/entry/instrument/detector/detectorSpecific/pixel_mask",
    "/entry/instrument/detector/pixel_mask",
    "/mask",
    "/data/mask",
)


def read_mask(name: str) -> Mask:
    """The mask in a NumPy (.npy), HDF5 (`FILE` or `FILE::/path/in/it`) or image file, (slow, fast), True where not to be used.

    Raises ConfigError that names the file and the mend.
    """
    path, _, inside = name.partition("::")
    if not Path(path).is_file():
        raise ConfigError(f"source.mask: {path}: no such file")
    try:
        values = _values(Path(path), inside)
    except (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ConfigError(f"source.mask: {path} cannot be read as a mask ({' '.join(str(error).split())})") from error
    if values.ndim != 2:
        raise ConfigError(f"source.mask: {path} holds an array of {values.ndim} dimensions, a mask has two (slow, fast)")
    return np.asarray(values != 0)


def _values(path: Path, inside: str) -> Any:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix in _HDF5_SUFFIXES:
        with h5py.File(path, "r") as file:
            places = [inside] if inside else [place for place in _USUAL_PLACES if place in file]
            if not places:
                raise KeyError(f"no mask at {', '.join(_USUAL_PLACES)}; write source.mask={path}::/path/in/the/file")
            return file[places[0]][()]
    with fabio.open(path) as image:
        return image.data
