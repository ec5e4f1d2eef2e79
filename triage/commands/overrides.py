"""What the configuration says of every run of a source."""

from __future__ import annotations

from triage.core import Mask, RunKind, SourceError
from triage.geometry import StatedGeometry
from triage.refusal import ConfigError
from triage.settings import FilesSettings, GeometrySettings, StreamSettings
from triage.sources.masks import read_mask
from triage.sources.resolve import Overrides, RunResolver


def resolver(source: FilesSettings | StreamSettings, kind: RunKind | None = None) -> RunResolver:
    """What makes runs of headers, with the configuration's overrides. Raises ConfigError where the mask cannot be read."""
    geometry = _stated(source.geometry)
    if source.mask is None:
        return RunResolver(Overrides(geometry=geometry, kind=kind))
    return RunResolver(Overrides(geometry=geometry, kind=kind, mask=_mask(source.mask), mask_source=source.mask))


def _mask(name: str) -> Mask:
    try:
        return read_mask(name)
    except SourceError as error:
        raise ConfigError(f"source.mask: {error}") from None


def _stated(settings: GeometrySettings) -> StatedGeometry:
    return StatedGeometry(
        distance_mm=settings.distance_mm,
        beam_px=settings.beam_px,
        wavelength_A=settings.wavelength_A,
        pixel_mm=settings.pixel_mm,
    )
