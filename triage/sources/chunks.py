"""Reading frames out of HDF5 datasets from several threads: chunks of one bslz4 frame are decompressed outside the HDF5 library's lock."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from triage.core import FrameError, Pixels, SourceError
from triage.sources.cbf import reason
from triage.sources.hdf5 import HDF5_FAILURES, Place, open_file
from triage.sources.images import native
from triage.wire.compression import decompress

BITSHUFFLE = 32008
"""The bitshuffle filter's number (registered HDF5 filters, HDF Group)."""
BITSHUFFLE_LZ4 = 2
"""Its fifth option: which compressor follows (bshuf_h5filter.h)."""
OPEN_DATASETS = 16
"""Kept open at a time; a master may have thousands of data files."""


@dataclass(frozen=True, slots=True)
class _Open:
    file: h5py.File
    dataset: h5py.Dataset
    packing: str
    """`bslz4` or `none` where a chunk is one frame packed so, else `other`."""


class FrameReader:
    """Reads frames by place; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[Place, _Open] = OrderedDict()

    def read(self, place: Place, position: int) -> Pixels:
        """One frame, (slow, fast). Raises FrameError in one line."""
        where = f"{place.file}, frame {position}"
        try:
            source = self._opened(place)
            return _read(source, position, where)
        except HDF5_FAILURES as error:
            raise FrameError(f"{where}: cannot be read ({reason(error)})") from error
        except SourceError as error:
            raise FrameError(str(error)) from error

    def refresh(self) -> None:
        """Looks again at the lengths of the growing datasets that are open, for every handle of this process.

        HDF5 2.0 corrupts its own table of objects when a dataset is refreshed that two handles have open; so nothing else refreshes,
        and this is called while only this reader has them open.
        """
        with self._lock:
            for source in self._open.values():
                if source.file.swmr_mode:
                    source.dataset.id.refresh()

    def _opened(self, place: Place) -> _Open:
        with self._lock:
            if place not in self._open:
                file = open_file(place.file)
                self._open[place] = _Open(file, file[place.dataset], _packing(file[place.dataset]))
                if len(self._open) > OPEN_DATASETS:
                    self._open.popitem(last=False)  # closed once no thread reads from it any more
            self._open.move_to_end(place)
            return self._open[place]


def _packing(dataset: h5py.Dataset) -> str:
    if dataset.ndim != 3 or dataset.is_virtual or dataset.chunks != (1, *dataset.shape[1:]):
        return "other"
    filters = dataset.id.get_create_plist()
    numbers = [filters.get_filter(i) for i in range(filters.get_nfilters())]
    if not numbers:
        return "none"
    code, _, options, _ = numbers[0]
    return "bslz4" if len(numbers) == 1 and code == BITSHUFFLE and len(options) > 4 and options[4] == BITSHUFFLE_LZ4 else "other"


def _read(source: _Open, position: int, where: str) -> Pixels:
    dataset = source.dataset
    if dataset.ndim == 2:
        return _as_pixels(dataset[()])
    if source.packing == "other":
        return _as_pixels(dataset[position])
    if dataset.id.get_chunk_info_by_coord((position, 0, 0)).byte_offset is None:
        raise FrameError(f"{where}: the file has no data for this frame")
    skipped_filters, chunk = dataset.id.read_direct_chunk((position, 0, 0))
    if skipped_filters:
        return _as_pixels(dataset[position])
    shape, dtype = dataset.shape[1:], dataset.dtype
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    try:
        raw = decompress("bslz4" if source.packing == "bslz4" else "none", chunk, n_bytes, dtype.itemsize)
    except FrameError as error:
        raise FrameError(f"{where}: {error}") from error
    return _as_pixels(raw.view(dtype).reshape(shape))


def _as_pixels(array: Any) -> Pixels:
    return np.ascontiguousarray(array, dtype=native(array.dtype))
