"""From what a header states, and what the configuration overrides, to a checked Run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields

from triage.core import Mask, Run, RunHeader, RunKind, SourceError
from triage.geometry import Geometry, GeometryError, StatedGeometry


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the configuration says of every run of a source; None where it leaves the header's word."""

    geometry: StatedGeometry = field(default_factory=StatedGeometry)
    mask: Mask | None = None
    mask_source: str = "configuration"
    kind: RunKind | None = None


class RunResolver:
    """Makes checked Runs with ids unique within one session."""

    def __init__(self, overrides: Overrides | None = None) -> None:
        self._overrides = overrides or Overrides()
        self._taken: Counter[str] = Counter()

    def run_id(self, wanted: str) -> str:
        """`wanted`, or `wanted-2` and so on when it was given before."""
        self._taken[wanted] += 1
        nth = self._taken[wanted]
        return wanted if nth == 1 else f"{wanted}-{nth}"

    def unknown(self, source: str, wanted_id: str) -> Run:
        """A run of which nothing is known: an unreadable file, or a series whose start was missed."""
        return Run(id=self.run_id(wanted_id), header=RunHeader(source=source), kind=None, geometry=None, geometry_problem="no header")

    def resolve(self, header: RunHeader, wanted_id: str) -> Run:
        """A checked Run; `header.shape_px` must be known. Raises SourceError when a configured mask does not fit the detector."""
        if header.shape_px is None:
            raise SourceError(f"{header.source}: the detector's shape is unknown")
        geometry, problem, source = self._geometry(header)
        mask, mask_source = header.pixel_mask, header.mask_source or "no-data values"
        if self._overrides.mask is not None:
            mask, mask_source = self._overrides.mask, self._overrides.mask_source
        if mask is not None and mask.shape != header.shape_px:
            raise SourceError(
                f"{header.source}: the mask ({mask_source}) is {mask.shape[0]} x {mask.shape[1]} but the frames are "
                f"{header.shape_px[0]} x {header.shape_px[1]} (slow x fast); set source.mask to a file of that shape"
            )
        return Run(
            id=self.run_id(wanted_id),
            header=header,
            kind=self._overrides.kind or header.kind or RunKind.STILLS,
            geometry=geometry,
            geometry_problem=problem,
            geometry_source=source,
            mask=mask,
            mask_source=mask_source,
        )

    def _geometry(self, header: RunHeader) -> tuple[Geometry | None, str | None, str]:
        given = self._overrides.geometry
        names = ("wavelength_A", "distance_mm", "pixel_mm", "beam_px")
        overridden = frozenset(f.name for f in fields(given) if f.name in names and getattr(given, f.name) is not None)
        settled = header.geometry_mendable and {"distance_mm", "beam_px"} <= overridden
        if header.geometry_problem is not None and not settled:
            return None, header.geometry_problem, "none"
        if header.shape_px is None:
            return None, "the detector's shape is unknown", "none"
        try:
            geometry = header.stated.overridden_by(given).resolve(header.shape_px, trusted=overridden)
        except GeometryError as error:
            return None, str(error), "none"
        source = (
            header.geometry_source if not overridden else f"{header.geometry_source}, {', '.join(sorted(overridden))} from configuration"
        )
        return geometry, None, source
