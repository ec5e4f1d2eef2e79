"""Writers of small, format-true files: Eiger masters, virtual datasets, NXmx with axes, growing files, CBF series."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import numpy.typing as npt
from fabio.compression import compByteOffset

SHAPE = (64, 80)
Frames = npt.NDArray[Any]


def frames(n: int, *, start: int = 0, dtype: str = "uint16", shape: tuple[int, int] = SHAPE) -> Frames:
    """(n, slow, fast): every frame different, and recognisable by its first pixel, `start + i`."""
    pixels = np.random.default_rng(start).poisson(2.0, (n, *shape)).astype(dtype)
    pixels[:, 0, 0] = np.arange(start, start + n)
    return pixels


def write_data_file(
    path: Path, pixels: Frames, *, dataset: str = "entry/data/data", first_image: int | None = None, **options: Any
) -> None:
    """A data file as DECTRIS's filewriter makes it: one bslz4 chunk a frame, `image_nr_low` counting from 1."""
    options = options or {"chunks": (1, *pixels.shape[1:]), **hdf5plugin.Bitshuffle(cname="lz4")}
    with h5py.File(path, "w") as file:
        data = file.create_dataset(dataset, data=pixels, **options)
        if first_image is not None:
            data.attrs["image_nr_low"], data.attrs["image_nr_high"] = first_image, first_image + len(pixels) - 1


def quantity(group: h5py.Group, name: str, value: Any, units: str | None = None, **attributes: Any) -> h5py.Dataset:
    item = group.create_dataset(name, data=value)
    if units is not None:
        item.attrs["units"] = units
    for key, attribute in attributes.items():
        item.attrs[key] = attribute
    return item


def nx(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = np.bytes_(nx_class.encode())
    return group


def write_header(file: h5py.File, *, n_images: int | None, mask: Frames | None = None) -> h5py.Group:
    """The header part of an EIGER master: plain fields, no module axes. Returns the NXdetector."""
    entry = nx(file, "entry", "NXentry")
    instrument = nx(entry, "instrument", "NXinstrument")
    quantity(nx(instrument, "beam", "NXbeam"), "incident_wavelength", np.float32(0.98), "angstrom")
    detector = nx(instrument, "detector", "NXdetector")
    quantity(detector, "description", np.bytes_(b"Dectris EIGER2 Si 1M"))
    quantity(detector, "beam_center_x", np.float32(42.5), "pixel")
    quantity(detector, "beam_center_y", np.float32(30.25), "pixel")
    quantity(detector, "detector_distance", np.float32(0.15), "m")
    for axis in "xy":
        quantity(detector, f"{axis}_pixel_size", np.float32(7.5e-5), "m")
    quantity(detector, "count_time", np.float32(0.01), "s")
    quantity(detector, "saturation_value", np.uint32(50000))
    specific = nx(detector, "detectorSpecific", "NXcollection")
    if n_images is not None:
        quantity(specific, "nimages", np.uint32(n_images))
        quantity(specific, "ntrigger", np.uint32(1))
    if mask is not None:
        quantity(specific, "pixel_mask", mask)
    goniometer = nx(nx(entry, "sample", "NXsample"), "goniometer", "NXtransformations")
    quantity(goniometer, "chi", np.float32([0.0]), "degree")
    quantity(goniometer, "omega", np.float32([20.0]), "degree")
    quantity(goniometer, "omega_increment", np.float32(0.25), "degree")
    return detector


def write_master(path: Path, links: Sequence[str], *, n_images: int | None = None, mask: Frames | None = None) -> None:
    """An EIGER master whose data lie in files of their own."""
    with h5py.File(path, "w") as file:
        write_header(file, n_images=n_images, mask=mask)
        data = nx(file["entry"], "data", "NXdata")
        for i, link in enumerate(links, start=1):
            data[f"data_{i:06d}"] = h5py.ExternalLink(link, "/entry/data/data")


def write_nxmx(path: Path, pixels: Frames, *, two_theta_deg: float = 0.0, beam_px: tuple[float, float] | None = (30.25, 42.5)) -> None:
    """NXmx as the standard has it: the detector by its chain of axes only, omega a frame, wavelength in nm, mask at its place.

    The chain: module_offset -> distance along z -> two_theta about y. The beam meets (30.25, 42.5) at a two-theta of zero.
    """
    pixel = 7.5e-5
    with h5py.File(path, "w") as file:
        entry = nx(file, "entry", "NXentry")
        instrument = nx(entry, "instrument", "NXinstrument")
        quantity(nx(instrument, "beam", "NXbeam"), "incident_wavelength", 0.098, "nm")
        detector = nx(instrument, "detector", "NXdetector")
        if beam_px is not None:
            quantity(detector, "beam_center_y", beam_px[0], "pixel")
            quantity(detector, "beam_center_x", beam_px[1], "pixel")
        quantity(detector, "distance", 150.0, "mm")
        quantity(detector, "pixel_mask", np.eye(*SHAPE, dtype=np.uint32))
        axes = nx(detector, "transformations", "NXtransformations")
        base = "/entry/instrument/detector/transformations"
        step = {"transformation_type": "translation", "offset": [0.0, 0.0, 0.0]}
        quantity(
            axes, "two_theta", np.float64([two_theta_deg]), "deg", transformation_type="rotation", vector=[0.0, 1.0, 0.0], depends_on="."
        )
        quantity(axes, "det_z", 0.15, "m", **step, vector=[0.0, 0.0, 1.0], depends_on=f"{base}/two_theta")
        module = nx(detector, "module", "NXdetector_module")
        quantity(module, "data_origin", [0, 0])
        quantity(module, "data_size", list(SHAPE))
        corner = np.array([42.5, 30.25, 0.0]) * pixel  # fast runs along -x, slow along -y
        quantity(
            module,
            "module_offset",
            float(np.linalg.norm(corner)),
            "m",
            **step,
            vector=corner / np.linalg.norm(corner),
            depends_on=f"{base}/det_z",
        )
        below = {**step, "depends_on": "/entry/instrument/detector/module/module_offset"}
        quantity(module, "fast_pixel_direction", pixel * 1e3, "mm", **below, vector=[-1.0, 0.0, 0.0])
        quantity(module, "slow_pixel_direction", pixel * 1e6, "um", **below, vector=[0.0, -1.0, 0.0])
        sample = nx(entry, "sample", "NXsample")
        quantity(sample, "depends_on", "/entry/sample/transformations/gonio_omega")
        omega = np.deg2rad(10.0 + 0.2 * np.arange(len(pixels)))
        quantity(
            nx(sample, "transformations", "NXtransformations"),
            "gonio_omega",
            omega,
            "rad",
            transformation_type="rotation",
            vector=[-1.0, 0.0, 0.0],
            depends_on=".",
        )
        data = nx(entry, "data", "NXdata")
        data.create_dataset("data", data=pixels, chunks=(1, *SHAPE), **hdf5plugin.Bitshuffle(cname="lz4"))


PILATUS_LINES = """# Detector: PILATUS 300K, S/N 3-0000
# Pixel_size 172e-6 m x 172e-6 m
# Exposure_time 0.0500000 s
# Count_cutoff 1000000 counts
# Wavelength 0.97950 A
# Detector_distance {distance} m
# Beam_xy (40.50, 31.25) pixels
# Start_angle {start:.4f} deg.
# Angle_increment {step} deg.
# Detector_2theta {two_theta} deg.
"""


def cbf_bytes(
    pixels: Frames, *, distance: float = 0.2, start: float = 0.0, step: float = 0.1, two_theta: float = 0.0, tables: str = ""
) -> bytes:
    """A CBF file as a PILATUS's camserver writes it."""
    packed = bytes(compByteOffset(pixels.astype(np.int32)))
    text = PILATUS_LINES.format(distance=distance, start=start, step=step, two_theta=two_theta)
    head = f"""###CBF: VERSION 1.5, CBFlib v0.7.8 - PILATUS detectors

data_frame

_array_data.header_convention "PILATUS_1.2"
_array_data.header_contents
;
{text};
{tables}
_array_data.data
;
--CIF-BINARY-FORMAT-SECTION--
Content-Type: application/octet-stream;
     conversions="x-CBF_BYTE_OFFSET"
Content-Transfer-Encoding: BINARY
X-Binary-Size: {len(packed)}
X-Binary-ID: 1
X-Binary-Element-Type: "signed 32-bit integer"
X-Binary-Element-Byte-Order: LITTLE_ENDIAN
Content-MD5: {base64.b64encode(hashlib.md5(packed).digest()).decode()}
X-Binary-Number-of-Elements: {pixels.size}
X-Binary-Size-Fastest-Dimension: {pixels.shape[1]}
X-Binary-Size-Second-Dimension: {pixels.shape[0]}
X-Binary-Size-Padding: 4095

"""
    tail = "\r\n--CIF-BINARY-FORMAT-SECTION----\r\n;\r\n"
    return head.replace("\n", "\r\n").encode() + b"\x0c\x1a\x04\xd5" + packed + bytes(4095) + tail.encode()


def write_cbf_series(folder: Path, numbers: Sequence[int], *, name: str = "frame_{}.cbf", **header: Any) -> list[str]:
    """CBF files, one a number; each frame's first pixel is its number."""
    paths = []
    for number in numbers:
        path = folder / name.format(number)
        path.write_bytes(cbf_bytes(frames(1, start=number, dtype="int32")[0], **header))
        paths.append(str(path))
    return paths
