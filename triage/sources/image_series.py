"""Series of single-image files: which of them share a geometry, and decoding each."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from triage.core import FrameError, Pixels, RunHeader, SourceError
from triage.geometry import StatedGeometry
from triage.sources import images

log = logging.getLogger(__name__)

SAME_WITHIN = 1e-3
"""Relative difference of distances and wavelengths that are one geometry: motors read back with noise."""
SAME_BEAM_PX = 1.0


@dataclass(frozen=True, slots=True)
class Series:
    """Image files that form one run."""

    paths: list[str]
    header: RunHeader | None
    """The first that could be read, or None."""
    is_checked: bool
    """Whether every file's own header was compared with it; if not, that is done as the frames are decoded."""


def series_of(paths: list[str]) -> Iterator[Series]:
    """Image files in number order, split where the geometry changes.

    Where the first and the last agree, the headers between are not read now: there may be thousands. A damaged file stays in its series.
    """
    if len(paths) > 2:
        first, last = _header(paths[0]), _header(paths[-1])
        if first is not None and last is not None and _same_geometry(first, last):
            yield Series(paths, first, is_checked=False)
            return
    part: list[str] = []
    header: RunHeader | None = None
    for path in paths:
        own = _header(path)
        if header is not None and own is not None and not _same_geometry(header, own):
            yield Series(part, header, is_checked=True)
            part, header = [], None
        header = header or own
        part.append(path)
    if part:
        yield Series(part, header, is_checked=True)


def _header(path: str) -> RunHeader | None:
    try:
        return images.read_header(Path(path), path)
    except SourceError as error:
        log.debug("%s", error)
        return None


def problem_of(path: str) -> str | None:
    """Why an image file cannot be read."""
    try:
        images.read_header(Path(path), path)
        images.read_pixels(Path(path))
    except (SourceError, FrameError) as error:
        return str(error)
    return None


def with_shape(series: Series) -> RunHeader:
    """The header with the frames' shape, from the first image that can be read where the format's header lacks it.

    Raises SourceError when no file has a header or pixels that can be read.
    """
    if series.header is None:
        raise SourceError(f"{series.paths[0]}: cannot be read")
    if series.header.shape_px is not None:
        return series.header
    for path in series.paths:
        try:
            slow, fast = images.read_pixels(Path(path)).shape
        except FrameError as error:
            log.debug("%s", error)
            continue
        return replace(series.header, shape_px=(int(slow), int(fast)))
    raise SourceError(f"{series.paths[0]}: its pixels cannot be read")


def image_pixels(path: Path, header: RunHeader, is_checked: bool) -> Pixels:
    """One image of a series, (slow, fast). Raises FrameError where it is damaged, of another shape, or of another geometry."""
    pixels = images.read_pixels(path)
    if header.shape_px is None or pixels.shape != header.shape_px:
        raise FrameError(f"{path}: is {pixels.shape[0]} x {pixels.shape[1]} pixels, its series {_words(header.shape_px)}")
    own = None if is_checked else _header(str(path))
    if own is not None and not _same_geometry(replace(header, shape_px=own.shape_px), own):
        raise FrameError(f"{path}: its header states another geometry than its series'; judge it with source.group=file")
    return pixels


def _words(shape_px: tuple[int, int] | None) -> str:
    return "unknown" if shape_px is None else f"{shape_px[0]} x {shape_px[1]}"


def _same_geometry(one: RunHeader, other: RunHeader) -> bool:
    """Whether two image headers can belong to one run."""
    if (one.shape_px, one.detector) != (other.shape_px, other.detector):
        return False
    a, b = one.stated, other.stated
    return _near(a.beam_px, b.beam_px, absolute=SAME_BEAM_PX) and all(
        _near(_numbers(a, name), _numbers(b, name), relative=SAME_WITHIN)
        for name in ("wavelength_A", "distance_mm", "pixel_mm", "fast_axis", "slow_axis")
    )


def _numbers(stated: StatedGeometry, name: str) -> tuple[float, ...] | None:
    value = getattr(stated, name)
    return value if value is None or isinstance(value, tuple) else (value,)


def _near(one: tuple[float, ...] | None, other: tuple[float, ...] | None, *, relative: float = 0.0, absolute: float = 0.0) -> bool:
    if one is None or other is None:
        return one is other
    scale = max(abs(a) for a in one)
    return all(abs(a - b) <= max(absolute, relative * scale) for a, b in zip(one, other, strict=True))
