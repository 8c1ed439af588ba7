"""ResNet-18 and MobileNetV3-Small with the block structure of their papers, adapted to 28x28 grey images.

ResNet-18 (He et al. 2016, arXiv:1512.03385): four stages of two basic blocks; the stem is 3x3 of
stride 1 before the max pooling, with 24 channels instead of 64. MobileNetV3-Small (Howard et al. 2019,
arXiv:1905.02244): the eleven bottlenecks of Table 2 at width 1.0; the stem and the last bottleneck
stage keep stride 1, so that the feature map ends at 4x4.

Both take pixel values 0..255 and normalise them in the graph, as many exported models do.
Dev-only: the product never imports torch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PIXEL_MEAN, PIXEL_STD = 72.94, 90.02  # of the Fashion-MNIST training split


class Normalized(nn.Module):
    """A network behind the pixel normalisation that it was trained with."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [N, 10] of pixels [N, 1, 28, 28] in 0..255."""
        logits: Tensor = self.body((pixels - PIXEL_MEAN) / PIXEL_STD)
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


def resnet18(width: int = 24, classes: int = 10) -> nn.Module:
    """ResNet-18 of the given stem width."""
    layers: list[nn.Module] = [conv_bn(1, width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for stage in range(4):
        outputs = width << stage
        layers += [BasicBlock(channels, outputs, 1 if stage == 0 else 2), BasicBlock(outputs, outputs, 1)]
        channels = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return Normalized(nn.Sequential(*layers))


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
MOBILENET_V3_SMALL: list[tuple[int, int, int, bool, type[nn.Module], int]] = [
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


def mobilenet_v3_small(classes: int = 10) -> nn.Module:
    """MobileNetV3-Small, width 1.0."""
    layers: list[nn.Module] = [conv_bn(1, 16), nn.Hardswish()]
    channels = 16
    for kernel, hidden, outputs, gate, activation, stride in MOBILENET_V3_SMALL:
        layers.append(Bottleneck(channels, kernel, hidden, outputs, gate, activation, stride))
        channels = outputs
    layers += [conv_bn(channels, 576, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    layers += [nn.Linear(576, 1024), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(1024, classes)]
    return Normalized(nn.Sequential(*layers))


NETWORKS = {"resnet18": resnet18, "mobilenet_v3_small": mobilenet_v3_small}
