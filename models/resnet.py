"""A baseline: ResNet-18 (He et al., Deep Residual Learning, CVPR 2016, table 1) at half its widths, of the whole frame alone."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.network import LOGITS, Logits
from triage.preprocess import N_CHANNELS

HALF_WIDTH = 32
"""Of the first stage; the published network has 64."""


class _Block(nn.Module):
    """Two 3 x 3 convolutions and what goes past them: as it is, or through a 1 x 1 convolution where the shape changes (option B)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.past: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.past = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.past(x))


class ResNet18(nn.Module):
    """(B, channels, S, S) float -> (B, outputs): four stages of two blocks, each twice as wide and half as large as the one before."""

    def __init__(self, *, width: int, channels: int, outputs: int) -> None:
        super().__init__()
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        ]
        for stage, (before, after) in enumerate(pairwise(widths)):
            layers += [_Block(before, after, 1 if stage == 0 else 2), _Block(after, after, 1)]
        self.body = nn.Sequential(*layers)
        self.heads = nn.Linear(widths[-1], outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """`image` of any size divisible by 32, scaled to about 1."""
        out: Tensor = self.heads(self.body(image).mean(dim=(2, 3)))
        return out


class HalfResNet18(nn.Module):
    """Bytes of one frame to the same logits as Network; crops and features are taken and not looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ResNet18(width=HALF_WIDTH, channels=N_CHANNELS, outputs=LOGITS)

    def forward(self, image: Tensor, crops: Tensor, features: Tensor) -> Logits:  # noqa: ARG002
        """`image` (B, N_CHANNELS, S, S) uint8."""
        out = self.net(image.float() / 255.0)
        return Logits(out[:, :4], out[:, 4:8], out[:, 8], out[:, 9] - 1.0)
