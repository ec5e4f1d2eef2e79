"""NXmx and Eiger masters, bare data files and other HDF5 files of frames: what they state, and where their frames are."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from triage.core import Mask, RunHeader, RunKind, SourceError
from triage.geometry import Vector
from triage.sources.axes import Axis, to_laboratory, unit
from triage.sources.cbf import reason
from triage.sources.hdf5 import (
    HDF5_FAILURES,
    FrameTable,
    NoDatasetError,
    datasets,
    frame_table,
    locate,
    open_file,
)
from triage.sources.nexus_geometry import stated_geometry
from triage.sources.nexus_tree import DEGREES, SECONDS, chain, child, depends_on, group_at, number, numbers, of_class, text

log = logging.getLogger(__name__)

LINKED_DATA = re.compile(r"data_(\d+)$")
"""How DECTRIS names the links of a master to its data files (EIGER file format, `/entry/data/data_000001`)."""
SMALLEST_STEP_DEG = 1e-6
AXIS_NAMES = ("omega", "phi", "chi", "kappa", "gonio_omega", "gonio_phi")
"""Where several axes move, the first of these is the scan's."""
PHOTON_COUNTERS = re.compile(r"eiger|pilatus|selun", re.IGNORECASE)
"""Detectors whose counts cannot be negative: where they are written as signed integers, a negative value is no data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The frames that an HDF5 file holds or refers to."""

    table: FrameTable
    first_image: int = 0
    """Where the run's frame numbers begin: above 0 when data files before the first one found are missing."""
    missing: str | None = None
    """What is not there, in one line; None where everything is."""


def entry_name(path: Path) -> str:
    """The name of the file's NXentry; empty where the file has none. Raises SourceError when it cannot be read."""
    with open_file(path) as file:
        entry = of_class(file, "NXentry", "entry")
        return "" if entry is None else str(entry.name).strip("/")


def linked_names(path: Path) -> list[str]:
    """The names of a master's `data_000001` links, in number order, wherever they lead; none where it has a whole `data`."""
    entry = entry_name(path)
    for folder in (f"{entry}/data", entry):
        try:
            place = locate(path, folder)
        except NoDatasetError:
            continue
        with open_file(place.file) as file:
            group = file[place.dataset]
            found = (
                {int(match.group(1)): name for name in group if (match := LINKED_DATA.match(name))} if isinstance(group, h5py.Group) else {}
            )
            if found and "data" not in group:
                return [f"{folder}/{found[n]}" for n in sorted(found)]
    return []


def stored_frames(path: Path) -> Stored:
    """Every frame of a file, over all its data files. Raises SourceError where there is none."""
    try:
        names = linked_names(path)
        return _joined(path, names) if names else Stored(table=frame_table(locate(path, whole_name(path))))
    except HDF5_FAILURES as error:
        raise SourceError(f"{path}: damaged, or in the middle of being written ({reason(error)})") from error


def whole_name(path: Path) -> str:
    """The name of the one dataset of frames: `data` of the NXdata, its `signal`, the detector's, else the largest of three dimensions."""
    entry = entry_name(path)
    for name in (*_usual_names(path, entry), "data", "entry/data"):
        try:
            place = locate(path, name)
        except NoDatasetError:
            continue
        with open_file(place.file) as file:
            if isinstance(file.get(place.dataset), h5py.Dataset):
                return name
    sized = sorted(datasets(path), key=lambda found: -int(np.prod(found[1])))
    if not sized:
        raise NoDatasetError(f"{path}: it has no frames: no {entry or 'entry'}/data/data, nor any other dataset (frames, slow, fast)")
    return sized[0][0]


def _usual_names(path: Path, entry: str) -> list[str]:
    with open_file(path) as file:
        signal = _signal(group_at(file, f"{entry}/data"))
    names = [f"{entry}/data/data", *([f"{entry}/data/{signal}"] if signal else [])]
    return [*names, f"{entry}/instrument/detector/data", f"{entry}/instrument_1/detector_1/data", f"{entry}/data_1/data"]


def _signal(group: h5py.Group | None) -> str | None:
    """The name of an NXdata's signal."""
    signal = None if group is None else group.attrs.get("signal")
    return signal if isinstance(signal, str) else None


def _joined(path: Path, names: list[str]) -> Stored:
    """The data files of a master one after another; those that are missing or damaged leave their reason."""
    table: FrameTable | None = None
    problems: list[str] = []
    first_image = 0
    for name in names:
        try:
            found = frame_table(locate(path, name))
            if table is None and problems:
                first_image = image_number(found)
            table = found if table is None else table.then(found)
        except SourceError as error:
            problems.append(str(error))
    if table is None:
        raise SourceError(problems[0])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Stored(table=table, first_image=first_image, missing=problems[0] + more if problems else None)


def image_number(table: FrameTable) -> int:
    """The zero-based number in the series of a data file's first frame, by DECTRIS's `image_nr_low`; 0 where that is not said."""
    place = table.places[0]
    with open_file(place.file) as file:
        low = file[place.dataset].attrs.get("image_nr_low")
    return max(0, int(low) - 1) if isinstance(low, (int, np.integer)) else 0


def read_header(path: Path, source: str, table: FrameTable) -> RunHeader:
    """What an HDF5 file states of its run. Raises SourceError when it cannot be read."""
    try:
        with open_file(path) as file:
            return _header(of_class(file, "NXentry", "entry"), source, table)
    except HDF5_FAILURES as error:
        raise SourceError(f"{path}: its header cannot be read ({reason(error)})") from error


def _header(entry: h5py.Group | None, source: str, table: FrameTable) -> RunHeader:
    detector = of_class(of_class(entry, "NXinstrument", "instrument"), "NXdetector", "detector")
    specific = group_at(detector, "detectorSpecific")
    geometry = stated_geometry(entry)
    mask, mask_source = _pixel_mask(detector, table.shape_px)
    scan = scan_axis(entry)
    name = text(detector, "description") or text(detector, "name") or text(detector, "type")
    counts_per_photon, offset = _photon_scale(of_class(entry, "NXdata", "data"))
    return RunHeader(
        source=source,
        detector=name,
        shape_px=table.shape_px,
        stated=geometry.stated,
        geometry_source=geometry.source,
        geometry_problem=geometry.problem,
        geometry_mendable=geometry.mendable,
        pixel_mask=mask,
        mask_source=mask_source,
        negative_is_no_data=bool(PHOTON_COUNTERS.search(name or "")),
        no_data_value=float(np.iinfo(table.dtype).min) if table.dtype.kind == "i" else None,
        saturation_value=number(detector, "saturation_value") or number(specific, "countrate_correction_count_cutoff"),
        counts_per_photon=counts_per_photon,
        offset=offset,
        kind=RunKind.ROTATION if scan.moves else None,
        frames_expected=announced(specific),
        omega_start_deg=scan.start_deg,
        omega_step_deg=scan.step_deg,
        rotation_axis=scan.axis,
        exposure_s=_seconds(detector, "count_time") or _seconds(detector, "frame_time"),
    )


def _photon_scale(data: h5py.Group | None) -> tuple[float, float]:
    """Counts a photon, and counts without photons: NXdata's value is (stored + offset) * scaling factor (NeXus manual, NXdata)."""
    signal = _signal(data) or "data"
    factor, shift = number(data, f"{signal}_scaling_factor"), number(data, f"{signal}_offset")
    return (1.0 / factor if factor is not None and factor > 0 else 1.0), (-shift if shift is not None else 0.0)


def _seconds(detector: h5py.Group | None, name: str) -> float | None:
    item = child(detector, name)
    return number(detector, name, SECONDS, "s") if item is not None else None


def announced(specific: h5py.Group | None) -> int | None:
    """How many frames DECTRIS's header promises (nimages times ntrigger), or None."""
    n_images, n_triggers = number(specific, "nimages"), number(specific, "ntrigger")
    n = int((n_images or 0) * (n_triggers or 1))
    return n if n > 0 else None


def _pixel_mask(detector: h5py.Group | None, shape_px: tuple[int, int]) -> tuple[Mask | None, str | None]:
    """The pixels that the header says must not be used (NXdetector: every nonzero value), and where that is said."""
    for group in (detector, group_at(detector, "detectorSpecific")):
        for name in ("pixel_mask", "pixel_mask_1"):
            item = child(group, name)
            if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "iub":
                continue
            values = np.asarray(item[()])
            if values.size == shape_px[0] * shape_px[1] and values.shape[-2:] == shape_px:
                return values.reshape(shape_px) != 0, "header (pixel_mask)"
            log.warning("%s: %s is %s, the frames are %s: not used", item.file.filename, item.name, values.shape, shape_px)
            return None, f"no-data values (the header's pixel_mask is {values.shape}, which does not fit)"
    return None, None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleScan:
    """How the sample turns from frame to frame; None where the file does not say."""

    start_deg: float | None = None
    step_deg: float | None = None
    axis: Vector | None = None
    """Unit vector in NeXus's laboratory frame, which is ours."""

    @property
    def moves(self) -> bool:
        """Whether it turns at all."""
        return self.step_deg is not None and abs(self.step_deg) > SMALLEST_STEP_DEG


def scan_axis(entry: h5py.Group | None) -> SampleScan:
    """The sample's rotation: of the axis that moves, else of omega at rest."""
    found = [_scan(dataset) for dataset in _sample_axes(of_class(entry, "NXsample", "sample"))]
    return next((scan for scan in found if scan.moves), found[0] if found else SampleScan())


def _sample_axes(sample: h5py.Group | None) -> list[h5py.Dataset]:
    """The sample's rotation axes: of its goniometer by name, then those of its chain."""
    groups = (group_at(sample, "goniometer"), of_class(sample, "NXtransformations", "transformations"))
    named = [item for group in groups for name in AXIS_NAMES if isinstance(item := child(group, name), h5py.Dataset)]
    try:
        start = depends_on(sample, text(sample, "depends_on")) if sample is not None else None
        axes: list[Axis] = [axis for axis in chain(start) if axis.is_rotation]
    except (TypeError, ValueError):  # GeometryError is a ValueError: a broken chain tells nothing of the scan
        axes = []
    listed = [item for axis in axes if isinstance(item := child(sample.file if sample is not None else None, axis.name), h5py.Dataset)]
    return [*named, *listed]


def _scan(axis: h5py.Dataset) -> SampleScan:
    """Start and step of one axis, from its settings, its end, or DECTRIS's increment beside it; and its direction."""
    name, group = axis.name.rpartition("/")[2], axis.parent
    try:
        settings = numbers(group, name, DEGREES, "deg") or []
        if len(settings) > 1:
            return SampleScan(start_deg=settings[0], step_deg=float(np.median(np.diff(settings))), axis=_direction(axis))
        ends = numbers(group, f"{name}_end", DEGREES, "deg")
        steps = [number(group, f"{name}_{word}", DEGREES, "deg") for word in ("increment", "increment_set", "range_average")]
    except ValueError:
        return SampleScan()
    start = settings[0] if settings else None
    if ends and start is not None and abs(ends[0] - start) > SMALLEST_STEP_DEG:
        return SampleScan(start_deg=start, step_deg=ends[0] - start, axis=_direction(axis))
    return SampleScan(start_deg=start, step_deg=next((step for step in steps if step is not None), None), axis=_direction(axis))


def _direction(axis: h5py.Dataset) -> Vector | None:
    """An axis' direction in the laboratory, with the axes it depends on at their first settings; None where its chain does not say."""
    try:
        own, *outer = chain(axis)
        x, y, z = to_laboratory(outer)[:3, :3] @ unit(own.vector, own.name)
    except ValueError:  # GeometryError is one
        return None
    return float(x), float(y), float(z)
