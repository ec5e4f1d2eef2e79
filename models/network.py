"""The network: two looks at a frame, and its spots' statistics.

The whole frame, pooled, goes through a small residual trunk, and so do two things computed from it: the power spectrum of its spots
(lattices are regular) and its mean over rings of equal resolution (powders are rings). Full-resolution crops of the strongest spots go
through a shared small network and attention pooling (split spots, streaks, zingers), the statistics of the spots through a perceptron.
Heads: lattice count, kind of non-diffraction, ice rings, resolution limit. Plain torch; about 0.33 GMAC a frame, crops included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from triage.features import N_FEATURES
from triage.preprocess import N_CHANNELS


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSize:
    """Widths; the input's own sizes come with Preprocess."""

    trunk: tuple[int, ...] = (16, 32, 64, 128)
    crop: tuple[int, int, int] = (16, 32, 48)
    hidden: int = 128
    n_features: int = N_FEATURES
    dropout: float = 0.2
    use_crops: bool = True
    use_features: bool = True
    use_resolution_map: bool = True
    use_spectrum: bool = True
    use_radial: bool = True
    image_px: int = 256
    shrink: Literal[1, 2, 4] = 1
    """By how much the whole frame is shrunk before any look at it."""
    pool: Literal["both", "mean", "max"] = "both"
    """How the maps of the whole frame and of its spectrum become numbers; of one kind alone, the place of the other holds it again."""
    spectrum: tuple[int, int, int] = (16, 32, 64)


@dataclass(frozen=True, slots=True, eq=False)
class Logits:
    """What the heads say, before calibration. B frames."""

    lattices: Tensor
    """(B, 4)"""
    kind: Tensor
    """(B, 4)"""
    ice: Tensor
    """(B,)"""
    log_s: Tensor
    """(B,): natural logarithm of 1/d_min in 1/A."""


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1, bias=False)
        )
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.body(x)))


def _down(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


def _pooled(maps: Tensor, pool: str) -> Tensor:
    """(B, C, H, W) -> (B, 2 C)."""
    mean, top = maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))
    return torch.cat([top if pool == "max" else mean, mean if pool == "mean" else top], dim=1)


def _shrunk(image: Tensor, times: int) -> Tensor:
    """(B, N_CHANNELS, S, S) -> (B, N_CHANNELS, S / times, S / times): the largest of the maximum and the spots, of all else the mean."""
    image = image.float()
    mean, top = nn.functional.avg_pool2d(image, times), nn.functional.max_pool2d(image[:, 1:3], times)
    return torch.cat([mean[:, :1], top, mean[:, 3:]], dim=1)


class _Trunk(nn.Module):
    """(B, N_CHANNELS, S, S) -> (B, 2 * last width)."""

    def __init__(self, widths: tuple[int, ...], pool: str) -> None:
        super().__init__()
        self.pool = pool
        layers: list[nn.Module] = [_down(N_CHANNELS, widths[0])]
        for before, after in pairwise(widths):
            layers += [_down(before, after), _Residual(after)]
        self.body = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        return _pooled(self.body(image), self.pool)


class _Crops(nn.Module):
    """(B, K, P, P) -> (B, 2 * last width): each crop alone, then attention over those that hold a spot."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        first, second, third = widths
        self.body = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(second, third, 3, padding=1, bias=False),
            nn.BatchNorm2d(third),
            nn.ReLU(),
        )
        self.score = nn.Linear(third, 1)

    def forward(self, crops: Tensor) -> Tensor:
        frames, number, size, _ = crops.shape
        present = crops.amax(dim=(2, 3)) > 0  # (B, K)
        maps = self.body(crops.reshape(frames * number, 1, size, size))
        each = maps.mean(dim=(2, 3)).reshape(frames, number, -1)  # (B, K, C)
        score = self.score(each).squeeze(-1).masked_fill(~present, -1e4)
        weight = torch.softmax(score, dim=1) * present
        attended = (weight.unsqueeze(-1) * each).sum(dim=1)
        share = present.to(each.dtype).unsqueeze(-1)
        mean = (each * share).sum(dim=1) / share.sum(dim=1).clamp_min(1.0)
        return torch.cat([attended, mean], dim=1)


class _Spectrum(nn.Module):
    """(B, S, S) map of the spots -> (B, 2 * last width): the power spectrum of a lattice's spots has peaks, at the cell's own vectors.

    The Fourier transform is two matrix products a side with constant matrices, half the frequencies (the map is real): 50 MMAC at
    S = 256, and the same in torch and in ONNX Runtime.
    """

    cos_slow: Tensor
    sin_slow: Tensor
    cos_fast: Tensor
    sin_fast: Tensor

    def __init__(self, size_px: int, widths: tuple[int, int, int], pool: str) -> None:
        super().__init__()
        self.pool = pool
        angle = 2.0 * math.pi / size_px * torch.outer(torch.arange(size_px // 2), torch.arange(size_px)).double()
        full = 2.0 * math.pi / size_px * torch.outer(torch.arange(size_px) - size_px // 2, torch.arange(size_px)).double()
        for name, matrix in (("cos_slow", angle.cos()), ("sin_slow", angle.sin()), ("cos_fast", full.cos().T), ("sin_fast", full.sin().T)):
            self.register_buffer(name, matrix.float().contiguous(), persistent=False)
        first, second, third = widths
        self.body = nn.Sequential(_down(1, first), _down(first, second), _down(second, third))

    def power(self, spots: Tensor) -> Tensor:
        """(B, S / 2, S): log(1 + |F|^2 / sum of squares), which averages log 2 or so for spots without order."""
        with torch.autocast(spots.device.type, enabled=False):
            spots = spots.float()
            cos, sin = self.cos_slow @ spots, self.sin_slow @ spots  # (B, S / 2, S)
            real = cos @ self.cos_fast - sin @ self.sin_fast
            imaginary = cos @ self.sin_fast + sin @ self.cos_fast
            total = (spots * spots).sum(dim=(1, 2), keepdim=True).clamp_min(1e-3)
            return torch.log1p((real * real + imaginary * imaginary) / total)

    def forward(self, spots: Tensor) -> Tensor:
        return _pooled(self.body(0.3 * self.power(spots).unsqueeze(1)), self.pool)


class _Radial(nn.Module):
    """(B, N_CHANNELS, S, S) bytes -> (B, 64): means over rings of equal resolution; ice and powders are lines at known places."""

    LEVELS = 256

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(2, 16, 5, padding=2, bias=False),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Conv1d(16, 16, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 128, 64, bias=False),
            nn.BatchNorm1d(64),  # without it this look stays a hundred times fainter than the others, and ice is not learnt
            nn.ReLU(),
        )

    def profile(self, image: Tensor) -> Tensor:
        """(B, 2, 256): mean and maximum channel against the byte of s, each less its own neighbourhood's mean."""
        level = image[:, 3].flatten(1).long()
        usable = (image[:, 4].flatten(1) > 127).float()
        empty = torch.zeros(image.shape[0], self.LEVELS, device=image.device)
        number = empty.scatter_add(1, level, usable)
        rows = []
        for channel in (0, 1):
            total = empty.scatter_add(1, level, usable * image[:, channel].flatten(1).float() / 255.0)
            rows.append(total / number.clamp_min(1.0))
        profile = torch.stack(rows, dim=1)
        return 20.0 * (profile - nn.functional.avg_pool1d(profile, 15, stride=1, padding=7, count_include_pad=False))

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.body(self.profile(image))
        return out


LOGITS = 4 + 4 + 1 + 1
"""Numbers of lattices, kinds of no diffraction, ice, log s."""


class Network(nn.Module):
    """Bytes of one frame to logits."""

    def __init__(self, size: NetworkSize | None = None) -> None:
        super().__init__()
        self.size = size = size or NetworkSize()
        self.trunk = _Trunk(size.trunk, size.pool)
        self.crops = _Crops(size.crop)
        self.features = nn.Sequential(
            nn.BatchNorm1d(size.n_features), nn.Linear(size.n_features, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
        )
        self.spectrum = _Spectrum(size.image_px // size.shrink, size.spectrum, size.pool)
        self.radial = _Radial()
        joined = 2 * size.trunk[-1] + 2 * size.crop[-1] + 64 + 2 * size.spectrum[-1] + 64
        self.join = nn.Sequential(
            nn.Linear(joined, size.hidden), nn.ReLU(), nn.Dropout(size.dropout), nn.Linear(size.hidden, size.hidden), nn.ReLU()
        )
        self.heads = nn.Linear(size.hidden, LOGITS)
        self.rings = _Radial()  # for ice alone: training/rings.py
        self.ice = nn.Linear(64 + 64, 1)
        nn.init.zeros_(self.ice.weight)
        nn.init.zeros_(self.ice.bias)
        self.shortcut = nn.Linear(64, LOGITS)  # the spots' statistics say most: they need not wait for the convolutions to settle

    def forward(self, image: Tensor, crops: Tensor, features: Tensor) -> Logits:
        """`image` (B, N_CHANNELS, S, S) uint8, `crops` (B, K, P, P) uint8, `features` (B, F) float."""
        size = self.size
        image = _shrunk(image, size.shrink) if size.shrink > 1 else image
        whole = image.float() / 255.0
        if not size.use_resolution_map:
            whole = torch.cat([whole[:, :3], torch.zeros_like(whole[:, 3:4]), whole[:, 4:]], dim=1)
        looks = [self.trunk(whole)]
        looks.append(self.crops(crops.float() / 255.0) * float(size.use_crops))
        statistics = self.features(features) * float(size.use_features)
        looks.append(statistics)
        looks.append(self.spectrum(whole[:, 2]) * float(size.use_spectrum))
        looks.append(self.radial(image) * float(size.use_radial))
        out = self.heads(self.join(torch.cat(looks, dim=1))) + self.shortcut(statistics)
        ice = self.ice(torch.cat([self.rings(image) * float(size.use_radial), statistics], dim=1))
        return Logits(out[:, :4], out[:, 4:8], out[:, 8] + ice[:, 0], out[:, 9] - 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Temperatures of the network's logits (Guo et al., ICML 2017) and weights of the trees', found on held-out frames."""

    lattices: float = 1.0
    kind: float = 1.0
    ice: float = 1.0
    none: float = 1.0
    """Of the log-odds of no lattice, after the others."""
    lattices_trees: float = 0.0
    kind_trees: float = 0.0
    ice_trees: float = 0.0
    none_trees: float = 0.0


def log_odds_of_none(lattices: Tensor) -> Tensor:
    """(B,) of no lattice against any, from logits (B, 4)."""
    return lattices[:, 0] - torch.logsumexp(lattices[:, 1:], dim=1)


def with_log_odds_of_none(lattices: Tensor, log_odds: Tensor) -> Tensor:
    """Logits (B, 4) with these log-odds (B,) of no lattice; how many there are, where there are some, is as before."""
    first = log_odds + torch.logsumexp(lattices[:, 1:], dim=1)
    return torch.cat([first.unsqueeze(1), lattices[:, 1:]], dim=1)


def joined_by_none(lattices: Tensor, trees: Tensor, chosen: Calibration) -> Tensor:
    """Logits (B, 4) with the word of the trees (B, 1) that know only whether there is a lattice."""
    return with_log_odds_of_none(lattices, log_odds_of_none(lattices) / chosen.none + chosen.none_trees * trees[:, 0])


class Calibrated(nn.Module):
    """The network as it is released, with boosted trees beside it where there are any: calibrated probabilities leave it.

    `trees`: of `lattices`, `kind`, `ice` and `none`; each takes features (B, F) and gives logits (B, 4), (B, 4), (B, 1) and (B, 1). Those
    of `none` know only whether there is a lattice, and know it better.
    """

    def __init__(self, network: Network, calibration: Calibration, trees: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        self.network = network
        self.calibration = calibration
        self.trees = nn.ModuleDict(trees or {})

    def forward(self, image: Tensor, crops: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(lattices (B, 4), kind (B, 4), ice (B,), inverse_d_per_A (B,))."""
        logits, c = self.network(image, crops, features), self.calibration
        lattices, kind, ice = logits.lattices / c.lattices, logits.kind / c.kind, logits.ice / c.ice
        if "lattices" in self.trees:
            lattices = lattices + c.lattices_trees * self.trees["lattices"](features)
        if "none" in self.trees:
            lattices = joined_by_none(lattices, self.trees["none"](features), c)
        if "kind" in self.trees:
            kind = kind + c.kind_trees * self.trees["kind"](features)
        if "ice" in self.trees:
            ice = ice + c.ice_trees * self.trees["ice"](features)[:, 0]
        return torch.softmax(lattices, dim=1), torch.softmax(kind, dim=1), torch.sigmoid(ice), torch.exp(logits.log_s)
