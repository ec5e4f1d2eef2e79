"""Pixels and spots to the network's input: the only implementation, used by training and by serving.

Its parameters are a value that travels inside the ONNX file. Everything leaves as bytes (0 to 255), so that stored training data and
live frames are the same to the last bit. Counts become photons, photons become variance-stabilised significances.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from triage.binned_spots import BINNED_FEATURES, Binned, binned_features
from triage.binning import Bytes, binned_statistics, edges, measured
from triage.core import FloatArray, Pixels, Run, Spots
from triage.faint_spots import FaintSpots, faint_features, find_faint_spots
from triage.features import N_FEATURES, SPOT_FEATURES, clean_significances, spot_features
from triage.geometry import Geometry
from triage.spots import SPOT_FINDER_VERSION

PREPROCESS_VERSION = 2
N_CHANNELS = 5
"""Mean, maximum, spots, resolution, usable fraction."""
RESOLUTION_CHANNEL = 3
"""Zero where no geometry is known."""

_MEAN_SCALE = 20.0  # photons a pixel: log(1 + 20 x) spreads 0.02 to 5e4 over the byte
_MEAN_TOP = float(np.log1p(_MEAN_SCALE * 5e4))
_Z_TOP = float(np.log1p(400.0))  # Anscombe significance of a pixel at saturation of a 16-bit counter
_S_TOP = 1.25  # 1/A, that is 0.8 A
_LEAST_BIN_PX = 3.5  # of a side, in which broad spots are looked for
_LEAST_USABLE = 0.5  # of such a bin's pixels
_WITHOUT_FAINT = len(SPOT_FEATURES) + len(BINNED_FEATURES)
_BYTES = np.arange(256) / 255.0
_MEAN_OF = np.expm1(_BYTES * _MEAN_TOP) / _MEAN_SCALE  # what a byte of the pooled image says: photons a pixel,
_HALF_Z_OF = 0.5 * np.expm1(_BYTES * _Z_TOP)  # and half the significance of the largest pixel


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """What the network sees of one frame."""

    image: Bytes
    """(N_CHANNELS, size, size): the whole frame, pooled; the longer side fills the canvas."""
    crops: Bytes
    """(n_crops, crop_px, crop_px): full-resolution surroundings of the strongest spots; zeros where there are fewer."""
    features: FloatArray
    """(n_features,): statistics of the spots, of what stands out of the pooled frame, and of faint broad spots."""
    faint: FloatArray
    """(n, 4), see `FaintSpots.as_table`: what was found besides spots; nothing where the model does not know of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """The parameters of the network's input; equal values make equal input, bit for bit."""

    size: int = 256
    n_crops: int = 24
    crop_px: int = 32
    version: int = PREPROCESS_VERSION
    spot_finder_version: int = SPOT_FINDER_VERSION
    n_features: int = N_FEATURES
    """The leading ones of FEATURE_NAMES: older models know fewer."""

    def __call__(self, pixels: Pixels, spots: Spots, run: Run) -> Inputs:
        """The network's input for one frame (slow, fast) and its spots."""
        converted, mask, low, high = measured(pixels, run)
        scale, offset = 1.0 / run.header.counts_per_photon, run.header.offset
        slow_edges, fast_edges, corner = self._canvas(pixels.shape)
        number, total, largest = binned_statistics(converted, mask, low, high, slow_edges, fast_edges)
        image = np.zeros((N_CHANNELS, self.size, self.size), dtype=np.float32)
        window = (slice(corner[0], corner[0] + number.shape[0]), slice(corner[1], corner[1] + number.shape[1]))
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.where(number > 0, (total / number - offset) * scale, 0.0).clip(0.0)
        top = np.where(number > 0, (largest - offset) * scale, 0.0).clip(0.0)
        image[0][window] = np.log1p(_MEAN_SCALE * mean) / _MEAN_TOP
        image[1][window] = _stabilised(top, mean)
        self._paint(image[2], spots, slow_edges, fast_edges, corner)
        if run.geometry is not None:
            image[RESOLUTION_CHANNEL][window] = _resolution(run.geometry, (pixels.shape[0], pixels.shape[1]), number.shape)
        image[4][window] = number / np.maximum(np.outer(np.diff(slow_edges), np.diff(fast_edges)), 1)
        pooled = _bytes(image)
        faint = find_faint_spots(pixels, spots, run) if self.looks_for_faint_spots else FaintSpots.none()
        return Inputs(
            image=pooled,
            crops=self._crops(converted, mask, (low, high), spots, (offset, scale)),
            features=self.features(pooled, spots, faint, run, (pixels.shape[0], pixels.shape[1])),
            faint=faint.as_table(),
        )

    @property
    def looks_for_faint_spots(self) -> bool:
        """Whether the model knows of them."""
        return self.n_features > _WITHOUT_FAINT

    def features(self, image: Bytes, spots: Spots, faint: FaintSpots, run: Run, shape_px: tuple[int, int]) -> FloatArray:
        """(n_features,) from a frame's pooled image, as it leaves here, its spots, and what was found besides: no pixel is needed."""
        parts = [spot_features(spots, run)]
        if self.n_features > len(SPOT_FEATURES):
            parts.append(binned_features(self._binned(image, shape_px)))
        if self.looks_for_faint_spots:
            parts.append(faint_features(faint, run, clean_significances(spots, run)))
        return np.concatenate(parts)[: self.n_features]

    def _binned(self, image: Bytes, shape_px: tuple[int, int]) -> Binned:
        """What the bytes of the pooled image say, in photons; of small detectors in bins of several, so that a bin has some 4 px a side."""
        slow_edges, fast_edges, corner = self._canvas(shape_px)
        window = (slice(corner[0], corner[0] + len(slow_edges) - 1), slice(corner[1], corner[1] + len(fast_edges) - 1))
        pixels = np.outer(np.diff(slow_edges), np.diff(fast_edges)).astype(np.float64)
        times = math.ceil(_LEAST_BIN_PX * self.size / max(shape_px))
        number = _BYTES[image[4][window]] * pixels
        mean = _MEAN_OF[image[0][window]]
        photons, in_all = _blocks(mean * number, times).sum(axis=(1, 3)), _blocks(pixels, times).sum(axis=(1, 3))
        largest = (_HALF_Z_OF[image[1][window]] + np.sqrt(mean + 0.375)) ** 2 - 0.375
        number = _blocks(number, times).sum(axis=(1, 3))
        number[number < _LEAST_USABLE * in_all] = 0.0
        return Binned(
            mean=np.divide(photons, number, out=np.zeros_like(photons), where=number > 0.0),
            largest=_blocks(largest, times).max(axis=(1, 3)),
            number=number,
            seen=np.asarray(_blocks(image[2][window] > 0, times).any(axis=(1, 3))),
            level=_blocks(image[RESOLUTION_CHANNEL][window], times).max(axis=(1, 3)),
        )

    def to_json(self) -> str:
        """The parameters as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Preprocess:
        """The value written by `to_json`. Raises ValueError when this code cannot make that input."""
        try:
            value = cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(f"preprocessing parameters of another version ({error})") from None
        now = cls()
        for name in ("version", "spot_finder_version"):
            if getattr(value, name) != getattr(now, name):
                raise ValueError(f"the model wants preprocessing {name} {getattr(value, name)}, this code makes {getattr(now, name)}")
        if not len(SPOT_FEATURES) <= value.n_features <= now.n_features:
            makes = f"{len(SPOT_FEATURES)} to {now.n_features}"
            raise ValueError(f"the model wants preprocessing n_features {value.n_features}, this code makes {makes}")
        return value

    def _canvas(self, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], tuple[int, int]]:
        """Bin limits along slow and fast, and the canvas position of the first bin: the frame is centred, its longer side fills."""
        longer = max(shape)
        bins = [max(1, min(self.size, round(length * self.size / longer))) for length in shape]
        return edges(shape[0], bins[0]), edges(shape[1], bins[1]), ((self.size - bins[0]) // 2, (self.size - bins[1]) // 2)

    @staticmethod
    def _paint(
        canvas: FloatArray, spots: Spots, slow_edges: npt.NDArray[np.int32], fast_edges: npt.NDArray[np.int32], corner: tuple[int, int]
    ) -> None:
        """Each spot's I/sigma at its place, the largest where several share a bin."""
        if len(spots) == 0:
            return
        slow = np.searchsorted(slow_edges, spots.positions_px[:, 0], side="right") - 1 + corner[0]
        fast = np.searchsorted(fast_edges, spots.positions_px[:, 1], side="right") - 1 + corner[1]
        value = np.log1p(spots.intensity / spots.sigma) / _Z_TOP
        np.maximum.at(canvas, (slow.clip(0, canvas.shape[0] - 1), fast.clip(0, canvas.shape[1] - 1)), value.astype(np.float32))

    def _crops(self, pixels: Pixels, mask: Bytes, limits: tuple[float, float], spots: Spots, photons: tuple[float, float]) -> Bytes:
        crops = np.zeros((self.n_crops, self.crop_px, self.crop_px), dtype=np.float32)
        offset, scale = photons
        for k, spot in enumerate(self._chosen(spots)):
            first = np.floor(spots.positions_px[spot]).astype(int) - self.crop_px // 2
            slow = slice(max(0, first[0]), min(pixels.shape[0], first[0] + self.crop_px))
            fast = slice(max(0, first[1]), min(pixels.shape[1], first[1] + self.crop_px))
            raw = pixels[slow, fast]
            usable = (raw >= limits[0]) & (raw <= limits[1])
            if mask.size > 1:
                usable &= mask[slow, fast] == 0
            value = np.where(usable, (raw.astype(np.float32) - offset) * scale, 0.0).clip(0.0)
            background = max(float(spots.background[spot]), 0.0)
            inside = (slice(slow.start - first[0], slow.stop - first[0]), slice(fast.start - first[1], fast.stop - first[1]))
            crops[k][inside] = np.where(usable, _stabilised(value, np.float32(background)), 0.0)
        return _bytes(crops)

    def _chosen(self, spots: Spots) -> list[int]:
        """Indices of the strongest spots whose crops do not show one another's centre twice over."""
        chosen: list[int] = []
        reach = self.crop_px // 2
        taken = np.empty((self.n_crops, 2), dtype=np.float32)
        for spot in range(min(len(spots), 8 * self.n_crops)):
            at = spots.positions_px[spot]
            near = np.abs(taken[: len(chosen)] - at).max(axis=1) < reach if chosen else np.zeros(0, dtype=bool)
            if near.any():
                continue
            taken[len(chosen)] = at
            chosen.append(spot)
            if len(chosen) == self.n_crops:
                break
        return chosen


@lru_cache(maxsize=8)
def _resolution(geometry: Geometry, shape_px: tuple[int, int], bins: tuple[int, int]) -> FloatArray:
    """Inverse resolution s = 1/d at the bins' centres over _S_TOP; the same for all frames of a run."""
    slow_edges, fast_edges = edges(shape_px[0], bins[0]), edges(shape_px[1], bins[1])
    slow, fast = (slow_edges[1:] + slow_edges[:-1]) / 2, (fast_edges[1:] + fast_edges[:-1]) / 2
    positions = np.stack(np.meshgrid(slow, fast, indexing="ij"), axis=-1)
    return (geometry.inverse_d_per_A(positions) / _S_TOP).astype(np.float32)


def _stabilised(value: npt.NDArray[np.floating], background: npt.NDArray[np.floating] | np.floating) -> FloatArray:
    """Anscombe significance of photons above a background, logarithmic, 0 to 1 (not yet clipped)."""
    z = 2.0 * (np.sqrt(value + 0.375) - np.sqrt(background + 0.375))
    return (np.log1p(z.clip(0.0)) / _Z_TOP).astype(np.float32)


def _blocks(values: npt.NDArray[Any], times: int) -> npt.NDArray[Any]:
    """(slow, fast) as (slow / times, times, fast / times, times), filled up with zeros."""
    slow, fast = (-(-length // times) for length in values.shape)
    if times > 1:
        values = np.pad(values, ((0, slow * times - values.shape[0]), (0, fast * times - values.shape[1])))
    return values.reshape(slow, times, fast, times)


def _bytes(unit: FloatArray) -> Bytes:
    """0 to 1 as 0 to 255."""
    return np.rint(unit.clip(0.0, 1.0) * 255.0).astype(np.uint8)
