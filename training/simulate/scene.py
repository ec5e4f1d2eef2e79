"""Everything that was rolled for one frame: parameters that can be written as JSON, and that make the same frame again."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.simulate.crystal import Crystal
from training.simulate.detectors import DETECTORS, Detector
from training.simulate.diffraction import Beam, Lattice
from triage.core import FloatArray
from triage.geometry import FAST_AXIS, SLOW_AXIS, Geometry, Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Powder:
    """Rings of one powder (ice or salt)."""

    rings_per_A: tuple[float, ...]
    """s = 1/d."""
    strengths: tuple[float, ...]
    """Peak over the local background's typical level."""
    width: float
    """Standard deviation as a fraction of s."""
    texture: float = 0.0
    """0: smooth; 1 and more: broken into arcs."""
    n_spots: int = 0
    """Single crystallites that stand out of the rings."""
    spot_photons: float = 0.0
    """Their mean intensity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """Scattering that is not Bragg's; relative weights of its parts, times `level`."""

    level: float
    """Photons a pixel where it is strongest."""
    air: float
    water: float
    plastic: float
    constant: float
    unevenness: float
    """Standard deviation of a smooth variation over the detector."""
    flat_field: float = 0.0
    """Standard deviation of each pixel's response."""
    water_per_A: float = 0.305
    """Where the solvent's ring lies."""
    plastic_per_A: float = 0.207
    ripple: float = 0.0
    """Standard deviation of a variation over some tens of pixels: uneven windows, shadows of threads, glass."""
    chip_borders: float = 0.0
    """By how much the pixels at the readout chips' borders respond more (or, negative, less)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadows:
    """What stands between crystal and detector."""

    stop_px: float
    """Radius of the beam stop."""
    arm_px: float = 0.0
    """Half width of its arm; 0 for none."""
    arm_deg: float = 0.0
    collimator_px: float = 0.0
    """Outside this radius the detector is dark; 0 for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefacts:
    """What looks like diffraction and is not."""

    zingers: int = 0
    hot_pixels: int = 0
    hot_lines: int = 0
    dead_module: bool = False
    jet_streak: float = 0.0
    """Peak over the background's level."""
    shutter_closed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderError:
    """By how much the header is wrong about the geometry, as headers are."""

    beam_px: tuple[float, float] = (0.0, 0.0)
    """Stated less true beam centre (slow, fast)."""
    distance: float = 0.0
    """Stated over true distance, less one."""
    wavelength: float = 0.0
    """Stated over true wavelength, less one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distortion:
    """By how much spots lie elsewhere than on a flat, untilted detector whose modules are all in place, as headers describe it."""

    modules_px: float = 0.0
    """Standard deviation of each module's shift, in slow and in fast."""
    smooth_px: float = 0.0
    """Standard deviation of the shifts at the edges that go with the square of the distance from the middle: tilts, tapers, bent panels."""
    seed: int = 0

    def moved(self, positions_px: FloatArray, detector: Detector) -> FloatArray:
        """Positions (n, 2; slow, fast) where they are found, for those where they should be."""
        rng, shape = np.random.default_rng(self.seed), np.asarray(detector.shape_px)
        pitch = np.asarray(detector.module_px) + np.asarray(detector.gap_px)
        modules = -(-shape // pitch)
        shifts = rng.normal(0.0, 1.0, (*modules, 2)) * self.modules_px
        curved = rng.normal(0.0, 1.0, (3, 2)) * self.smooth_px
        module = (positions_px // pitch).astype(int).clip(0, modules - 1)
        slow, fast = (2.0 * positions_px / shape - 1.0).T
        return positions_px + shifts[module[:, 0], module[:, 1]] + np.stack([slow**2, slow * fast, fast**2], axis=1) @ curved


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One frame's parameters."""

    seed: int
    """Of the photon noise and of textures."""
    detector: str
    wavelength_A: float
    distance_mm: float
    beam_px: tuple[float, float]
    fast_axis: Vector = FAST_AXIS
    slow_axis: Vector = SLOW_AXIS
    beam: Beam
    lattices: tuple[Lattice, ...] = ()
    """Strongest first by `scale` (which is relative to the first)."""
    salt: Lattice | None = None
    """A salt crystal, of its own photons."""
    harmonic: float = 0.0
    """Share of half the wavelength in the beam's intensity."""
    d_min_A: float = 1.5
    visible_spots: int | None = None
    """Sets the photon scale: this many spots of the first lattice have I/sigma >= 5 (or all there are). None: `photons` says."""
    photons: float | None = None
    """Photons per unit of relative intensity."""
    salt_spots: int = 0
    """Visible spots of the salt crystal."""
    background: Background
    ice: Powder | None = None
    powder: Powder | None = None
    shadows: Shadows
    artefacts: Artefacts = Artefacts()
    gaps_masked: bool = True
    """Whether the frame comes with a pixel mask, or with no-data values alone."""
    header_error: HeaderError = HeaderError()
    distortion: Distortion = Distortion()
    kind: str = ""
    """What was meant when it was drawn: a stratum for reports, never a label."""

    def detector_model(self) -> Detector:
        """The detector's description."""
        return DETECTORS[self.detector][0]

    def geometry(self) -> Geometry:
        """The frame's geometry."""
        detector = self.detector_model()
        return Geometry(
            wavelength_A=self.wavelength_A,
            distance_mm=self.distance_mm,
            pixel_mm=(detector.pixel_mm, detector.pixel_mm),
            beam_px=self.beam_px,
            shape_px=detector.shape_px,
            fast_axis=self.fast_axis,
            slow_axis=self.slow_axis,
        )

    def stated_geometry(self) -> Geometry:
        """The geometry as the header states it."""
        true, error = self.geometry(), self.header_error
        return dataclasses.replace(
            true,
            wavelength_A=true.wavelength_A * (1.0 + error.wavelength),
            distance_mm=true.distance_mm * (1.0 + error.distance),
            beam_px=(true.beam_px[0] + error.beam_px[0], true.beam_px[1] + error.beam_px[1]),
        )

    def to_json(self) -> str:
        """All parameters as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Scene:
        """The scene written by `to_json`."""
        value = json.loads(text)
        value["beam"] = Beam(**_tuples(value["beam"]))
        value["lattices"] = tuple(_lattice(x) for x in value["lattices"])
        value["salt"] = _lattice(value["salt"]) if value["salt"] is not None else None
        value["background"] = Background(**value["background"])
        for name in ("ice", "powder"):
            value[name] = Powder(**_tuples(value[name])) if value[name] is not None else None
        value["shadows"] = Shadows(**value["shadows"])
        value["artefacts"] = Artefacts(**value["artefacts"])
        value["header_error"] = HeaderError(**_tuples(value.get("header_error", {})))
        value["distortion"] = Distortion(**value.get("distortion", {}))
        return cls(**_tuples(value))


def _lattice(value: dict[str, Any]) -> Lattice:
    return Lattice(**{**_tuples(value), "crystal": Crystal(**_tuples(value["crystal"]))})


def _tuples(value: dict[str, Any]) -> dict[str, Any]:
    return {key: _tuple(item) for key, item in value.items()}


def _tuple(value: Any) -> Any:
    return tuple(_tuple(item) for item in value) if isinstance(value, list) else value
