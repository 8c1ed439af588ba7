"""Small torch modules, each one pattern of the convolutional literature, for ``export.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def conv(inside: int, outside: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outside), nn.ReLU())


class Squeeze(nn.Module):
    """Inverted bottleneck, squeeze and excitation, hard swish, residual (MobileNetV3)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand, self.depthwise = conv(3, 8), conv(8, 16, 1), conv(16, 16, 3, groups=16)
        self.down, self.up, self.project = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1), nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = functional.hardswish(self.depthwise(self.expand(x)))
        y = y * functional.hardsigmoid(self.up(functional.relu(self.down(functional.adaptive_avg_pool2d(y, 1)))))
        return self.head((x + self.project(y)).mean((2, 3)))


class Shuffle(nn.Module):
    """Chunk, branch, concatenate, shuffle (ShuffleNetV2), twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.branches = nn.ModuleList(nn.Sequential(conv(8, 8, 1), conv(8, 8, 3, groups=8)) for _ in range(2))
        self.last, self.head = conv(16, 12, 1), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for branch in self.branches:
            left, right = x.chunk(2, dim=1)
            x = torch.cat([left, branch(right)], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.last(x).mean((2, 3)))


class Dense(nn.Module):
    """BatchNormalization before convolution over all that came before (DenseNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 4 * i) for i in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.head = nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.convs, strict=False):
            x = torch.cat([x, layer(functional.relu(norm(x)))], 1)
        return self.head(functional.relu(self.norms[-1](x)).mean((2, 3)))


class UNet(nn.Module):
    """Down, up by a transposed convolution and by interpolation to a computed size, skips concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = conv(3, 6), conv(6, 8, 3, 2), conv(8, 10, 3, 2)
        self.up, self.mix, self.out = nn.ConvTranspose2d(10, 7, 2, 2), conv(15, 9), nn.Conv2d(15, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.one(x)
        two = self.two(one)
        y = self.mix(torch.cat([self.up(self.three(two)), two], 1))
        y = functional.interpolate(y, size=one.shape[2:], mode="bilinear", align_corners=False)
        return self.out(torch.cat([y, one], 1))


class Scales(nn.Module):
    """Channels split four ways, each part added to the next (Res2Net); a parameter-free padded shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.parts = conv(3, 16, 1), nn.ModuleList(conv(4, 4) for _ in range(3))
        self.join, self.head = nn.Conv2d(16, 24, 1), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        pieces = list(torch.split(x, 4, 1))
        for index, part in enumerate(self.parts):
            pieces[index + 1] = part(pieces[index + 1] + pieces[index])
        y = self.join(torch.cat(pieces, 1)) + functional.pad(x, (0, 0, 0, 0, 4, 4))
        return self.head(functional.relu(y).mean((2, 3)))


class Groups(nn.Module):
    """Grouped convolution, group normalisation, pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = conv(3, 12), nn.Conv2d(12, 16, 3, padding=1, groups=4)
        self.norm, self.wide, self.out = nn.GroupNorm(4, 16), nn.Conv2d(16, 24, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.silu(self.norm(self.grouped(self.stem(x))))
        return self.out(functional.relu(functional.pixel_shuffle(self.wide(x), 2)))


class Attend(nn.Module):
    """Attention over positions of a feature map, by nn.MultiheadAttention, among convolutions (DETR)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.attention = conv(3, 16, 3, 4), nn.MultiheadAttention(16, 4, batch_first=True)
        self.wide, self.narrow, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head((x + self.narrow(functional.gelu(self.wide(x)))).mean(1))


def _make(block: Callable[[], nn.Module]) -> Callable[[], tuple[Any, dict[str, Any]]]:
    return lambda: (block(), {"input": torch.randn(2, 3, 16, 16)})


BLOCKS = {
    "squeeze": (_make(Squeeze), "dynamo"),
    "shuffle": (_make(Shuffle), "torchscript"),
    "dense": (_make(Dense), "torchscript"),
    "unet": (_make(UNet), "torchscript"),
    "scales": (_make(Scales), "dynamo"),
    "groups": (_make(Groups), "torchscript"),
    "attend": (_make(Attend), "dynamo"),
}
