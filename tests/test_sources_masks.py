"""Mask files of every kind, and one line for each that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fabio.edfimage
import fabio.tifimage
import h5py
import numpy as np
import pytest
from file_writers import cbf_bytes, write_master

from triage.core import SourceError
from triage.sources.masks import read_mask

VALUES = np.zeros((6, 9), dtype=np.int32)
VALUES[1, 2], VALUES[5, 8] = 1, 256
EXPECTED = VALUES != 0


def _hdf5(path: Path, name: str, values: Any = VALUES) -> None:
    with h5py.File(path, "w") as file:
        file[name] = values


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("m.npy", lambda path: np.save(path, VALUES)),
        ("bool.npy", lambda path: np.save(path, EXPECTED)),
        ("m.h5", lambda path: _hdf5(path, "entry/instrument/detector/pixel_mask")),
        ("stack.h5", lambda path: _hdf5(path, "entry/instrument/detector/pixel_mask", VALUES[None])),
        ("x_master.h5", lambda path: write_master(path, [], mask=VALUES)),
        ("m.tif", lambda path: fabio.tifimage.TifImage(data=VALUES).write(str(path))),
        ("m.edf", lambda path: fabio.edfimage.EdfImage(data=VALUES).write(str(path))),
        ("m.cbf", lambda path: path.write_bytes(cbf_bytes(VALUES))),
    ],
)
def test_nonzero_is_masked_in_every_format(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name)
    np.testing.assert_array_equal(read_mask(tmp_path / name), EXPECTED)


def test_a_named_dataset(tmp_path: Path) -> None:
    _hdf5(tmp_path / "m.h5", "mine/own")
    np.testing.assert_array_equal(read_mask(f"{tmp_path}/m.h5:/mine/own"), EXPECTED)
    with pytest.raises(SourceError, match=r"it has no mask at /other; name the dataset as .*m\.h5:/group/dataset"):
        read_mask(f"{tmp_path}/m.h5:/other")


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("gone.npy", lambda path: None, "no such mask file"),
        ("text.npy", lambda path: path.write_text("no array"), "not a .npy array"),
        ("object.npy", lambda path: np.save(path, np.array([{}])), "not a .npy array"),
        ("cube.npy", lambda path: np.save(path, np.zeros((2, 3, 4))), "one image of numbers"),
        ("words.npy", lambda path: np.save(path, np.array([["a"]])), "one image of numbers"),
        ("empty.h5", lambda path: h5py.File(path, "w").close(), "it has no mask at /entry/instrument/detector/pixel_mask"),
        ("text.h5", lambda path: path.write_text("no HDF5"), "not an HDF5 file"),
        ("text.tif", lambda path: path.write_text("no image"), "cannot be read"),
        ("all.npy", lambda path: np.save(path, np.ones((4, 4))), "masks every pixel"),
    ],
)
def test_a_bad_mask_is_refused_in_one_line(tmp_path: Path, name: str, write: Any, said: str) -> None:
    write(tmp_path / name)
    with pytest.raises(SourceError) as caught:
        read_mask(tmp_path / name)
    assert said in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
