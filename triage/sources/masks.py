"""Mask files: which pixels must not be used, as a person gives them in the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from triage.core import FrameError, Mask, SourceError
from triage.sources import images
from triage.sources.cbf import reason
from triage.sources.hdf5 import HDF5_FAILURES, NoDatasetError, locate, open_file
from triage.sources.naming import HDF5_SUFFIXES

MASK_NAMES = (
    "/entry/instrument/detector/pixel_mask",
    "/entry/instrument/detector/detectorSpecific/pixel_mask",
    "/pixel_mask",
    "/mask",
)
"""Where masks are in HDF5 files: NXmx, DECTRIS masters, and by hand."""


def read_mask(path: str | Path) -> Mask:
    """True where a mask file says that a pixel must not be used: every value other than zero, (slow, fast).

    Reads `.npy`, HDF5 (`pixel_mask` at its NeXus place, or `file.h5:/group/dataset`), and images (`.tif`, `.cbf`, `.edf`, ...).
    Raises SourceError naming the file and the mend.
    """
    file, dataset = _split(str(path))
    if not file.is_file():
        raise SourceError(f"{file}: no such mask file; set source.mask to .npy, .h5 (or file.h5:/dataset), .tif, .cbf or .edf")
    if file.suffix.lower() in HDF5_SUFFIXES:
        values = _from_hdf5(file, dataset)
    elif file.suffix.lower() == ".npy":
        values = _from_npy(file)
    else:
        values = _from_image(file)
    while values.ndim > 2 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2 or values.dtype.kind not in "iufb":
        raise SourceError(f"{file}: a mask is one image of numbers (slow, fast), this has shape {values.shape} and type {values.dtype}")
    mask: Mask = values != 0
    if mask.all():
        raise SourceError(f"{file}: it masks every pixel; nonzero means masked (invert it?)")
    return mask


def _split(path: str) -> tuple[Path, str | None]:
    """`file.h5:/dataset` as its two parts."""
    file, colon, dataset = path.rpartition(":")
    return (Path(file), dataset) if colon and Path(file).suffix.lower() in HDF5_SUFFIXES else (Path(path), None)


def _from_hdf5(file: Path, dataset: str | None) -> npt.NDArray[Any]:
    for name in (dataset,) if dataset is not None else MASK_NAMES:
        try:
            place = locate(file, name)
            with open_file(place.file) as opened:
                item = opened[place.dataset]
                if isinstance(item, h5py.Dataset):
                    return np.asarray(item[()])
        except NoDatasetError:
            continue
        except HDF5_FAILURES as error:
            raise SourceError(f"{file}: its mask {name} cannot be read ({reason(error)})") from error
    looked = dataset or ", ".join(MASK_NAMES)
    raise SourceError(f"{file}: it has no mask at {looked}; name the dataset as {file}:/group/dataset")


def _from_npy(file: Path) -> npt.NDArray[Any]:
    try:
        return np.asarray(np.load(file, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise SourceError(f"{file}: not a .npy array ({reason(error)})") from error


def _from_image(file: Path) -> npt.NDArray[Any]:
    try:
        return images.read_pixels(file)
    except FrameError as error:
        raise SourceError(f"{error}; set source.mask to .npy, .h5, .tif, .cbf or .edf") from error
