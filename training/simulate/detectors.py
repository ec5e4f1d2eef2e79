"""The detectors that frames are simulated for: size, pixel, gaps between modules, and how counts come out.

Module layouts from the manufacturers' manuals (DECTRIS PILATUS3, EIGER, EIGER2 user manuals; JUNGFRAU: Mozzanica et al., Synchrotron
Radiation News 31 (2018) 16; Rayonix MX series data sheets).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """A flat detector of modules on a grid."""

    name: str
    shape_px: tuple[int, int]
    pixel_mm: float
    module_px: tuple[int, int]
    gap_px: tuple[int, int]
    dtype: str
    """Of the counts as written: uint16, uint32, int32 or float32."""
    spread_px: float = 0.2
    """Standard deviation of the point spread; pixel detectors have next to none, CCDs a good pixel."""
    chip_px: tuple[int, int] = (0, 0)
    """Pitch of the readout chips within a module, at whose borders pixels respond differently; zeros for none."""
    offset: float = 0.0
    read_noise: float = 0.0

    @property
    def negative_is_no_data(self) -> bool:
        """Pilatus images mark gaps by negative counts."""
        return self.dtype == "int32"


def _grid(modules: tuple[int, int], module_px: tuple[int, int], gap_px: tuple[int, int]) -> tuple[int, int]:
    slow, fast = (n * size + (n - 1) * gap for n, size, gap in zip(modules, module_px, gap_px, strict=True))
    return slow, fast


def _pilatus(name: str, modules: tuple[int, int]) -> Detector:
    return Detector(
        name=name,
        shape_px=_grid(modules, (195, 487), (17, 7)),
        pixel_mm=0.172,
        module_px=(195, 487),
        gap_px=(17, 7),
        dtype="int32",
        spread_px=0.1,
        chip_px=(98, 61),
    )


def _eiger(name: str, modules: tuple[int, int], gap_px: tuple[int, int], dtype: str) -> Detector:
    module = (514, 1030) if name.startswith("EIGER ") else (512, 1028)
    return Detector(
        name=name,
        shape_px=_grid(modules, module, gap_px),
        pixel_mm=0.075,
        module_px=module,
        gap_px=gap_px,
        dtype=dtype,
        chip_px=(module[0] // 2, module[1] // 4),
    )


def _jungfrau(name: str, modules: tuple[int, int]) -> Detector:
    return Detector(
        name=name,
        shape_px=_grid(modules, (514, 1030), (36, 8)),
        pixel_mm=0.075,
        module_px=(514, 1030),
        gap_px=(36, 8),
        dtype="float32",
        spread_px=0.25,
        chip_px=(257, 257),
        read_noise=0.15,
    )


def _ccd(name: str, size: int, pixel_mm: float, *, spread_px: float = 1.0) -> Detector:
    return Detector(
        name=name,
        shape_px=(size, size),
        pixel_mm=pixel_mm,
        module_px=(size, size),
        gap_px=(0, 0),
        dtype="uint16",
        spread_px=spread_px,
        offset=10.0,
        read_noise=1.5,
    )


def _without_gaps(name: str, shape_px: tuple[int, int], pixel_mm: float, dtype: str) -> Detector:
    return Detector(name=name, shape_px=shape_px, pixel_mm=pixel_mm, module_px=shape_px, gap_px=(0, 0), dtype=dtype, spread_px=0.1)


DETECTORS: dict[str, tuple[Detector, float]] = {
    detector.name: (detector, weight)
    for detector, weight in (
        (_eiger("EIGER2 500K", (1, 1), (0, 0), "uint16"), 3.0),
        (_eiger("EIGER 1M", (2, 1), (37, 10), "uint32"), 4.0),
        (_eiger("EIGER2 1M", (2, 1), (38, 12), "uint16"), 3.0),
        (_eiger("EIGER2 4M", (4, 2), (38, 12), "uint16"), 0.9),
        (_eiger("EIGER2 9M", (6, 3), (38, 12), "uint32"), 0.25),
        (_eiger("EIGER2 16M", (8, 4), (38, 12), "uint32"), 0.1),
        (_pilatus("PILATUS 300K", (3, 1)), 2.0),
        (_pilatus("PILATUS3 1M", (5, 2)), 3.0),
        (_pilatus("PILATUS3 2M", (8, 3)), 1.2),
        (_pilatus("PILATUS3 6M", (12, 5)), 0.5),
        (_jungfrau("JUNGFRAU 1M", (2, 1)), 1.5),
        (_jungfrau("JUNGFRAU 4M", (4, 2)), 0.4),
        (_ccd("RAYONIX MX225", 1536, 0.146), 0.8),
        (_ccd("RAYONIX MX340", 1920, 0.177), 0.5),
        (_ccd("MAR165 BINNED", 1024, 0.158, spread_px=0.7), 0.8),
        (_without_gaps("LAMBDA 750K", (516, 1556), 0.055, "uint16"), 0.8),
        (_without_gaps("IDEAL 1M", (1000, 1000), 0.1, "int32"), 0.8),
        (_without_gaps("IDEAL 2M", (1500, 1500), 0.11, "uint16"), 0.5),
    )
}
"""Every detector with how often it is drawn: small ones more often, because a frame of them costs less."""


@lru_cache(maxsize=32)
def chip_borders(name: str) -> tuple[np.ndarray, np.ndarray]:
    """1 on the lines of pixels at the readout chips' borders, else 0: (slow,) and (fast,) float32."""
    detector, _ = DETECTORS[name]
    lines = []
    for length, module, gap, chip in zip(detector.shape_px, detector.module_px, detector.gap_px, detector.chip_px, strict=True):
        within = np.arange(length) % (module + gap)
        border = (within % chip == 0) & (within > 0) & (within < module) if chip else np.zeros(length, dtype=bool)
        lines.append(border.astype(np.float32))
    return lines[0], lines[1]


@lru_cache(maxsize=32)
def gap_mask(name: str) -> np.ndarray:
    """True in the gaps between modules, (slow, fast)."""
    detector, _ = DETECTORS[name]
    lines = [
        np.arange(length) % (module + gap) >= module
        for length, module, gap in zip(detector.shape_px, detector.module_px, detector.gap_px, strict=True)
    ]
    return lines[0][:, None] | lines[1][None, :]
