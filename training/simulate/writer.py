"""Simulated frames as NXmx files: what a beamline writes, with the truth of every frame beside it under `/entry/labels`.

NeXus's laboratory frame (McStas: origin at the sample, z along the beam, y up) is taken to be that of `triage.geometry`, so pixel
directions, rotation axis and the orientations in the labels are all in one frame. Definition: NXmx of the NeXus manual (2024.02).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import hdf5plugin
import numpy as np
import numpy.typing as npt

import triage
from training.simulate.columns import columns, units_of
from training.simulate.crystfel import geometry_file
from training.simulate.detectors import gap_mask
from training.simulate.render import Labels, render
from training.simulate.scene import Scene
from triage.core import TriageError

SHARED = ("detector", "wavelength_A", "distance_mm", "beam_px", "fast_axis", "slow_axis", "beam", "gaps_masked")
"""What the frames of one file have in common: it is said once, in the header."""
RECIPE = "recipe"
"""Attribute of `/entry/labels`: what makes the same file again."""
FWHM = 2.3548
"""Full width at half maximum over standard deviation of a Gaussian."""
NO_PARALLAX_M = 1e-9
"""Thickness of the sensor: photons are recorded at its surface, so nobody must correct for parallax (DIALS refuses 0)."""
SATURATION = {"uint16": 2**16 - 4, "uint32": 2**32 - 4, "int32": 2**20}
"""Where `training.simulate.render` clips counts; float frames are not clipped."""
_AXES = "/entry/instrument/detector/transformations"
_MODULE = "/entry/instrument/detector/module"
FloatArray = npt.NDArray[np.floating[Any]]
Compressor = Literal["lz4", "zstd"]


class SimulationError(TriageError):
    """Simulated files cannot be written; the message names the file and the mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """How the frames of a file follow one another."""

    start_deg: float = 0.0
    step_deg: float = 0.0
    """From one frame's start to the next one's; 0 where every frame shows another crystal, at the same angle."""
    exposure_s: float | None = None
    """None: nothing that is simulated depends on time."""

    def angles_deg(self, n: int) -> FloatArray:
        """Where each of `n` exposures begins."""
        return self.start_deg + self.step_deg * np.arange(n, dtype=np.float64)


def write_nxmx(
    path: Path,
    scenes: Sequence[Scene],
    *,
    scan: Scan | None = None,
    recipe: str = "",
    compressor: Compressor = "lz4",
    on_frame: Callable[[], None] = lambda: None,
    device: str = "cpu",
) -> None:
    """Renders the scenes into one NXmx file, and CrystFEL's description of its geometry beside it (`.geom`).

    The file has its name only once it is complete. Raises ValueError when the scenes differ in what the header says once, and
    SimulationError when the file cannot be written.
    """
    _check_shared(scenes)
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(part, "w") as file:
            _write_header(file, scenes[0], len(scenes), scan or Scan())
            labels = _write_frames(file["entry/data"], scenes, compressor, on_frame, device)
            _write_labels(file["entry"], columns(scenes, labels), recipe)
        path.with_suffix(".geom").write_text(geometry_file(scenes[0]))
        part.replace(path)
    except OSError as error:
        raise SimulationError(f"{path}: cannot be written ({error.strerror or error}); set simulate.out to a folder with room") from error
    finally:
        part.unlink(missing_ok=True)


def recipe_of(path: Path) -> str | None:
    """The recipe a complete file was made by; None where there is no such file. Raises SimulationError when it is not one of ours."""
    if not path.exists():
        return None
    try:
        with h5py.File(path, "r") as file:
            return str(file["entry/labels"].attrs[RECIPE])
    except (OSError, KeyError) as error:
        raise SimulationError(f"{path}: not a file of simulated frames; move it away or set simulate.out to another folder") from error


def _check_shared(scenes: Sequence[Scene]) -> None:
    if not scenes:
        raise ValueError("a file needs at least one frame")
    for scene in scenes[1:]:
        different = [name for name in SHARED if getattr(scene, name) != getattr(scenes[0], name)]
        if different:
            raise ValueError(f"the frames of one file must share {', '.join(different)}")


def _write_frames(
    data: h5py.Group, scenes: Sequence[Scene], compressor: Compressor, on_frame: Callable[[], None], device: str
) -> list[Labels]:
    """One bitshuffled chunk a frame, compressed by `lz4` or (half the size, slower) `zstd`; frames are rendered one at a time."""
    shape_px, dtype = scenes[0].detector_model().shape_px, scenes[0].detector_model().dtype
    packing = hdf5plugin.Bitshuffle(cname=compressor, clevel=19 if compressor == "zstd" else 3)
    frames = data.create_dataset("data", shape=(len(scenes), *shape_px), dtype=dtype, chunks=(1, *shape_px), **packing)
    frames.attrs["interpretation"] = "image"
    labels = []
    for k, scene in enumerate(scenes):
        rendered = render(scene, device=device)
        frames[k] = rendered.counts
        labels.append(rendered.labels)
        on_frame()
    return labels


def _write_labels(entry: h5py.Group, table: Mapping[str, npt.NDArray[Any]], recipe: str) -> None:
    group = _group(entry, "labels", "NXprocess")
    _field(group, "program", "triage simulate")
    _field(group, "version", triage.__version__)
    for name, values in table.items():
        _field(group, name, values, units=units_of(name))
    group.attrs[RECIPE] = recipe


def _write_header(file: h5py.File, scene: Scene, n_frames: int, scan: Scan) -> None:
    file.attrs["NX_class"], file.attrs["default"] = "NXroot", "entry"
    entry = _group(file, "entry", "NXentry")
    entry.attrs["default"] = "data"
    _field(entry, "definition", "NXmx")
    _field(entry, "title", "simulated diffraction")
    _group(entry, "data", "NXdata").attrs["signal"] = "data"
    _field(_group(entry, "source", "NXsource"), "name", "simulation")
    instrument = _group(entry, "instrument", "NXinstrument")
    _field(instrument, "name", "simulation")
    _write_beam(_group(instrument, "beam", "NXbeam"), scene)
    _write_detector(_group(instrument, "detector", "NXdetector"), scene, scan)
    _write_sample(_group(entry, "sample", "NXsample"), scene, scan.angles_deg(n_frames))
    if scene.detector_model().offset:  # NXdata: photons = (stored value + offset) * scaling factor
        _field(entry["data"], "data_offset", -scene.detector_model().offset)
        _field(entry["data"], "data_scaling_factor", 1.0)


def _write_beam(group: h5py.Group, scene: Scene) -> None:
    beam = scene.beam
    _field(group, "incident_wavelength", scene.wavelength_A, units="angstrom")
    _field(group, "incident_wavelength_spread", FWHM * beam.bandwidth * scene.wavelength_A, units="angstrom")
    _field(group, "incident_beam_divergence", [FWHM * beam.divergence_rad] * 2, units="rad")
    _field(group, "incident_polarisation_stokes", [1.0, 2.0 * beam.polarisation - 1.0, 0.0, 0.0])


def _write_detector(group: h5py.Group, scene: Scene, scan: Scan) -> None:
    detector, geometry = scene.detector_model(), scene.geometry()
    along_beam_mm = float(geometry.laboratory_mm(geometry.beam_px)[2])
    _field(group, "description", detector.name)
    _field(group, "type", "CCD" if detector.offset else "Pixel")
    _field(group, "sensor_material", "Si")
    _field(group, "sensor_thickness", NO_PARALLAX_M, units="m")
    _field(group, "distance", along_beam_mm * 1e-3, units="m")
    for axis, k in (("y", 0), ("x", 1)):
        _field(group, f"{axis}_pixel_size", geometry.pixel_mm[k] * 1e-3, units="m")
        _field(group, f"beam_center_{axis}", geometry.beam_px[k], units="pixel")
    if detector.dtype in SATURATION:
        _field(group, "saturation_value", SATURATION[detector.dtype])
        _field(group, "underload_value", 0)
        _field(group, "bit_depth_image", 8 * np.dtype(detector.dtype).itemsize)
        _field(group, "bit_depth_readout", 8 * np.dtype(detector.dtype).itemsize)
    if scan.exposure_s is not None:
        for name in ("count_time", "frame_time"):
            _field(group, name, scan.exposure_s, units="s")
    if scene.gaps_masked:  # bit 0: gap
        mask = gap_mask(scene.detector).astype(np.uint32)
        group.create_dataset("pixel_mask", data=mask, chunks=mask.shape, compression="gzip")  # read without any plug-in
    _field(group, "depends_on", f"{_AXES}/det_z")
    _axis(_group(group, "transformations", "NXtransformations"), "det_z", along_beam_mm * 1e-3, (0.0, 0.0, 1.0), ".")
    _write_module(_group(group, "module", "NXdetector_module"), scene)


def _write_module(group: h5py.Group, scene: Scene) -> None:
    """The whole detector as one module, its first pixel's outer corner at the end of the chain."""
    geometry = scene.geometry()
    corner_mm = geometry.laboratory_mm((0.0, 0.0)) - geometry.laboratory_mm(geometry.beam_px)
    length_mm = float(np.linalg.norm(corner_mm))
    _field(group, "data_origin", [0, 0])
    _field(group, "data_size", list(geometry.shape_px))
    _axis(group, "module_offset", length_mm * 1e-3, corner_mm / length_mm if length_mm else geometry.fast_axis, f"{_AXES}/det_z")
    for name, size, vector in (
        ("fast", geometry.pixel_mm[1], geometry.fast_axis),
        ("slow", geometry.pixel_mm[0], geometry.slow_axis),
    ):
        _axis(group, f"{name}_pixel_direction", size * 1e-3, vector, f"{_MODULE}/module_offset")


def _write_sample(group: h5py.Group, scene: Scene, start_deg: FloatArray) -> None:
    """The sample, and the axis it turns about during each exposure; a still depends on none."""
    _field(group, "name", "simulated")
    if not scene.beam.rotation_deg:
        _field(group, "depends_on", ".")
        return
    _field(group, "depends_on", "/entry/sample/transformations/omega")
    axes = _group(group, "transformations", "NXtransformations")
    _axis(axes, "omega", start_deg, scene.beam.rotation_axis, ".", kind="rotation")
    _field(axes, "omega_end", start_deg + scene.beam.rotation_deg, units="deg")


def _axis(group: h5py.Group, name: str, value: Any, vector: npt.ArrayLike, depends_on: str, *, kind: str = "translation") -> None:
    item = _field(group, name, value, units="deg" if kind == "rotation" else "m")
    item.attrs["transformation_type"] = kind
    item.attrs["vector"] = np.asarray(vector, dtype=np.float64)
    item.attrs["offset"], item.attrs["offset_units"] = np.zeros(3), "m"
    item.attrs["depends_on"] = depends_on


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _field(group: h5py.Group, name: str, value: Any, *, units: str | None = None) -> h5py.Dataset:
    item = group.create_dataset(name, data=value, dtype=h5py.string_dtype() if _is_text(value) else None)
    if units is not None:
        item.attrs["units"] = units
    return item


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype.kind == "O")
