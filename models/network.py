"""The network: two looks at a frame, and its spots' statistics.

The whole frame, pooled, goes through a small residual trunk; full-resolution crops of the strongest spots go through a shared small
network and attention pooling (split spots, streaks, zingers); the statistics of the spots through a perceptron. Heads: lattice count,
kind of non-diffraction, ice rings, resolution limit. Plain torch; about 0.24 GMAC a frame, crops included.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from triage.preprocess import N_CHANNELS


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSize:
    """Widths; the input's own sizes come with Preprocess."""

    trunk: tuple[int, ...] = (16, 32, 64, 128)
    crop: tuple[int, int, int] = (16, 32, 48)
    hidden: int = 128
    n_features: int = 33
    dropout: float = 0.2
    use_crops: bool = True
    use_features: bool = True
    use_resolution_map: bool = True


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


class _Trunk(nn.Module):
    """(B, N_CHANNELS, S, S) -> (B, 2 * last width)."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = [_down(N_CHANNELS, widths[0])]
        for before, after in pairwise(widths):
            layers += [_down(before, after), _Residual(after)]
        self.body = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.body(image)
        return torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)


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


class Network(nn.Module):
    """Bytes of one frame to logits."""

    def __init__(self, size: NetworkSize | None = None) -> None:
        super().__init__()
        self.size = size = size or NetworkSize()
        self.trunk = _Trunk(size.trunk)
        self.crops = _Crops(size.crop)
        self.features = nn.Sequential(
            nn.BatchNorm1d(size.n_features), nn.Linear(size.n_features, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()
        )
        joined = 2 * size.trunk[-1] + 2 * size.crop[-1] + 64
        self.join = nn.Sequential(
            nn.Linear(joined, size.hidden), nn.ReLU(), nn.Dropout(size.dropout), nn.Linear(size.hidden, size.hidden), nn.ReLU()
        )
        self.heads = nn.Linear(size.hidden, 4 + 4 + 1 + 1)

    def forward(self, image: Tensor, crops: Tensor, features: Tensor) -> Logits:
        """`image` (B, N_CHANNELS, S, S) uint8, `crops` (B, K, P, P) uint8, `features` (B, F) float."""
        size = self.size
        whole = image.float() / 255.0
        if not size.use_resolution_map:
            whole = torch.cat([whole[:, :3], torch.zeros_like(whole[:, 3:4]), whole[:, 4:]], dim=1)
        looks = [self.trunk(whole)]
        looks.append(self.crops(crops.float() / 255.0) * float(size.use_crops))
        looks.append(self.features(features) * float(size.use_features))
        out = self.heads(self.join(torch.cat(looks, dim=1)))
        return Logits(out[:, :4], out[:, 4:8], out[:, 8], out[:, 9] - 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Temperatures found on held-out frames (Guo et al., ICML 2017)."""

    lattices: float = 1.0
    kind: float = 1.0
    ice: float = 1.0


class Calibrated(nn.Module):
    """The network as it is released: calibrated probabilities leave it."""

    def __init__(self, network: Network, calibration: Calibration) -> None:
        super().__init__()
        self.network = network
        self.calibration = calibration

    def forward(self, image: Tensor, crops: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(lattices (B, 4), kind (B, 4), ice (B,), inverse_d_per_A (B,))."""
        logits = self.network(image, crops, features)
        return (
            torch.softmax(logits.lattices / self.calibration.lattices, dim=1),
            torch.softmax(logits.kind / self.calibration.kind, dim=1),
            torch.sigmoid(logits.ice / self.calibration.ice),
            torch.exp(logits.log_s),
        )
