"""The network of the embedded engine's segmenter: a small U-Net that says what belongs together and what lies above what.

In: B x 3 x H x W, sRGB 0..1, H and W multiples of 32. Out: logits, B x CHANNELS x H/4 x W/4, in cells of four pixels:

- channel 0: the cell shows an element (not the background),
- channels 1 .. A: the cell and its neighbour at `OFFSETS[k]` show the same layer,
- channels A+1 .. 2A: where they do not, the cell's layer lies above the neighbour's.

Affinities at several distances and their clustering are the idea of the mutex watershed (Wolf et al., ECCV 2018, arXiv 1904.12654) and of
signed-graph agglomeration (Bailoni et al., arXiv 1906.11713). The order channels are ours.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

OFFSETS = tuple((dy * r, dx * r) for r in (1, 3, 8) for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)))
"""(rows, columns) in cells."""
CHANNELS = 1 + 2 * len(OFFSETS)
WIDTHS = (48, 96, 160, 224)


class Block(nn.Module):
    """A pre-activation residual block of two 3 x 3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(y)))


class Context(nn.Module):
    """Adds what the whole picture looks like to every cell."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mix(x.mean(dim=(2, 3)))[:, :, None, None]


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, a, 4, stride=2, padding=1))
        self.encoders = nn.ModuleList(
            [
                nn.Sequential(Block(a), Block(a)),
                nn.Sequential(nn.Conv2d(a, b, 2, stride=2), Block(b), Block(b)),
                nn.Sequential(nn.Conv2d(b, c, 2, stride=2), Block(c), Block(c), Context(c)),
                nn.Sequential(nn.Conv2d(c, d, 2, stride=2), Block(d), Context(d), Block(d)),
            ]
        )
        self.reduce = nn.ModuleList([nn.Conv2d(d + c, c, 1), nn.Conv2d(c + b, b, 1), nn.Conv2d(b + a, a, 1)])
        self.decoders = nn.ModuleList([nn.Sequential(Block(c)), nn.Sequential(Block(b), Block(b)), nn.Sequential(Block(a), Block(a))])
        self.head = nn.Sequential(nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, CHANNELS, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x * 2 - 1)
        skips = []
        for encoder in self.encoders:
            x = encoder(x)
            skips.append(x)
        for reduce, decoder, skip in zip(self.reduce, self.decoders, reversed(skips[:-1]), strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = decoder(reduce(torch.cat([x, skip], dim=1)))
        return self.head(x)
