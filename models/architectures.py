"""Networks with the block structure of their papers, adapted to images of about 30 x 30 pixels.

ResNet-18 (He et al. 2016, arXiv:1512.03385, Table 1): four stages of two basic blocks; the stem is 3x3 of stride 1,
with or without the max pooling. ResNet-56 (section 4.2 of the same): three stages of nine blocks, 16 to 64 channels,
with 1x1 shortcuts. MobileNetV3-Small and -Large (Howard et al. 2019, arXiv:1905.02244, Tables 1 and 2) at width 1.0;
the stem and the last stage keep stride 1, so that the feature map ends at 4x4. A small vision transformer
(Dosovitskiy et al. 2021, arXiv:2010.11929): patches of 4x4, pre-norm blocks, mean of the tokens.

All take pixel values 0..255 and normalise them in the graph, as many exported models do.
Dev-only: the product never imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CLASSES = 10


@dataclass(frozen=True)
class Images:
    """Square images: their side in pixels, and mean and standard deviation (0..255) of each channel in training."""

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return len(self.mean)


Network = Callable[[Images], nn.Module]


class Normalized(nn.Module):
    """A network behind the pixel normalisation that it was trained with."""

    def __init__(self, body: nn.Module, images: Images) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.tensor(images.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(images.std)[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [N, 10] of pixels [N, channels, side, side] in 0..255."""
        logits: Tensor = self.body((pixels - self.mean) / self.std)
        return logits


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, then BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside an identity or 1x1 shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(inputs, outputs, stride=stride)
        self.conv2 = conv_bn(outputs, outputs)
        plain = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if plain else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, then ReLU."""
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x))


def residual_stages(inputs: int, widths: list[int], blocks: int) -> list[nn.Module]:
    """Stages of ``blocks`` basic blocks; every stage but the first halves the resolution."""
    layers: list[nn.Module] = []
    for stage, outputs in enumerate(widths):
        for block in range(blocks):
            layers.append(BasicBlock(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
    return layers


def classifier(channels: int) -> list[nn.Module]:
    """Global mean and a linear layer."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


def resnet18(images: Images, width: int = 64, pool: bool = False) -> nn.Module:
    """ResNet-18 of the given stem width; ``pool`` keeps the stem's max pooling."""
    stem: list[nn.Module] = [conv_bn(images.channels, width), nn.ReLU()]
    stem += [nn.MaxPool2d(3, 2, 1)] if pool else []
    return nn.Sequential(*stem, *residual_stages(width, [width << n for n in range(4)], 2), *classifier(width << 3))


def resnet56(images: Images) -> nn.Module:
    """ResNet-56 for small images."""
    stem = [conv_bn(images.channels, 16), nn.ReLU()]
    return nn.Sequential(*stem, *residual_stages(16, [16, 32, 64], 9), *classifier(64))


class SqueezeExcite(nn.Module):
    """Channel gate: global mean, 1x1 reduce, ReLU, 1x1 expand, hard sigmoid."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeeze, 1)
        self.expand = nn.Conv2d(squeeze, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The gated tensor."""
        gate = nn.functional.hardsigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))))
        return x * gate


def divisible(value: float, by: int = 8) -> int:
    """Nearest multiple of ``by``, at most 10 % below ``value`` (as in the MobileNet papers)."""
    rounded = max(by, int(value + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * value else rounded


class Bottleneck(nn.Module):
    """Inverted residual: 1x1 expand, depthwise, optional gate, 1x1 linear projection."""

    def __init__(
        self, inputs: int, kernel: int, hidden: int, outputs: int, gate: bool, activation: type[nn.Module], stride: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [] if hidden == inputs else [conv_bn(inputs, hidden, 1), activation()]
        layers += [conv_bn(hidden, hidden, kernel, stride, groups=hidden), activation()]
        if gate:
            layers.append(SqueezeExcite(hidden, divisible(hidden / 4)))
        layers.append(conv_bn(hidden, outputs, 1))
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Projection, plus the input where shapes agree."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


# kernel, hidden, outputs, gate, activation, stride
Stages = list[tuple[int, int, int, bool, type[nn.Module], int]]
MOBILENET_V3_SMALL: Stages = [
    (3, 16, 16, True, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 2),
    (3, 88, 24, False, nn.ReLU, 1),
    (5, 96, 40, True, nn.Hardswish, 2),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 120, 48, True, nn.Hardswish, 1),
    (5, 144, 48, True, nn.Hardswish, 1),
    (5, 288, 96, True, nn.Hardswish, 1),
    (5, 576, 96, True, nn.Hardswish, 1),
    (5, 576, 96, True, nn.Hardswish, 1),
]
MOBILENET_V3_LARGE: Stages = [
    (3, 16, 16, False, nn.ReLU, 1),
    (3, 64, 24, False, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 1),
    (5, 72, 40, True, nn.ReLU, 2),
    (5, 120, 40, True, nn.ReLU, 1),
    (5, 120, 40, True, nn.ReLU, 1),
    (3, 240, 80, False, nn.Hardswish, 2),
    (3, 200, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 480, 112, True, nn.Hardswish, 1),
    (3, 672, 112, True, nn.Hardswish, 1),
    (5, 672, 160, True, nn.Hardswish, 1),
    (5, 960, 160, True, nn.Hardswish, 1),
    (5, 960, 160, True, nn.Hardswish, 1),
]


def mobilenet_v3(images: Images, stages: Stages, head: int) -> nn.Module:
    """MobileNetV3 of the given bottlenecks, with ``head`` channels before the classifier."""
    layers: list[nn.Module] = [conv_bn(images.channels, 16), nn.Hardswish()]
    channels = 16
    for kernel, hidden, outputs, gate, activation, stride in stages:
        layers.append(Bottleneck(channels, kernel, hidden, outputs, gate, activation, stride))
        channels = outputs
    wide = 6 * channels
    layers += [conv_bn(channels, wide, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    layers += [nn.Linear(wide, head), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(head, CLASSES)]
    return nn.Sequential(*layers)


def mobilenet_v3_small(images: Images) -> nn.Module:
    """MobileNetV3-Small."""
    return mobilenet_v3(images, MOBILENET_V3_SMALL, 1024)


def mobilenet_v3_large(images: Images) -> nn.Module:
    """MobileNetV3-Large."""
    return mobilenet_v3(images, MOBILENET_V3_LARGE, 1280)


class Attention(nn.Module):
    """Multi-head self-attention over tokens [N, T, C]."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mix, self.project = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens mixed by softmax(Q K^T / sqrt(C / heads)) V."""
        samples, tokens, channels = x.shape
        mixed = self.mix(x).reshape(samples, tokens, 3, self.heads, channels // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(query @ key.transpose(-1, -2) * (channels // self.heads) ** -0.5, -1)
        output: Tensor = self.project((weights @ value).transpose(1, 2).reshape(samples, tokens, channels))
        return output


class Block(nn.Module):
    """Attention and a two-layer perceptron, each behind LayerNorm and beside an identity."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attend = nn.Sequential(nn.LayerNorm(channels), Attention(channels, heads))
        layers = [nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)]
        self.think = nn.Sequential(nn.LayerNorm(channels), *layers)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [N, T, C]."""
        x = x + self.attend(x)
        y: Tensor = x + self.think(x)
        return y


class VisionTransformer(nn.Module):
    """Patches of 4 x 4, learned positions, ``depth`` blocks, the mean of the tokens."""

    def __init__(self, images: Images, channels: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(images.channels, channels, 4, 4)
        self.position = nn.Parameter(0.02 * torch.randn(1, (images.side // 4) ** 2, channels))
        self.blocks = nn.Sequential(*(Block(channels, heads) for _ in range(depth)))
        self.head = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.blocks(tokens).mean(1))
        return logits


def vit(images: Images) -> nn.Module:
    """A vision transformer of 4 blocks, 128 channels, 4 heads."""
    return VisionTransformer(images, 128, 4, 4)
