"""Sliding windows: output pixel l of axis a reads the input pixels l s_a + t d_a - p_a, t = 0 .. k_a - 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hqp_onnx.graphs.nodes import Node, attribute, number, numbers, operator

_POOLS = ("MaxPool", "AveragePool", "LpPool")


@dataclass(frozen=True)
class Window:
    """Sizes per spatial axis. ``end`` is the padding that the last window really needs, negative if none is read."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]
    inner: tuple[int, ...]
    outer: tuple[int, ...]
    group: int = 1

    @property
    def extent(self) -> tuple[int, ...]:
        """Pixels from the first to the last tap."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def end(self) -> tuple[int, ...]:
        """Padding after the last pixel."""
        sizes = zip(self.outer, self.stride, self.extent, self.inner, self.begin, strict=True)
        return tuple((out - 1) * s + reach - size - p for out, s, reach, size, p in sizes)

    @property
    def pointwise(self) -> bool:
        """Whether every pixel is read by one window of its own."""
        return all(k == 1 for k in self.kernel) and set(self.stride) == {1} and not any(self.begin + self.end)

    def attributes(self) -> dict[str, Any]:
        """Kernel, strides, dilations, group and dense padding as node attributes."""
        return {
            "kernel_shape": self.kernel,
            "strides": self.stride,
            "dilations": self.dilation,
            "pads": [*self.begin, *(max(0, p) for p in self.end)],
            "group": self.group,
        }


def window_of(node: Node, kernel: Sequence[int], inner: Sequence[int], outer: Sequence[int]) -> Window:
    """The window of a convolution or pooling node, from images of ``inner`` pixels to images of ``outer``.

    Padding at the end follows from the sizes, so auto_pad and ceil_mode need no rules of their own;
    but dilated poolings are padded as onnxruntime does it, as if they were not dilated.
    """
    ones = [1] * len(kernel)
    stride, dilation = numbers(node, "strides", ones), numbers(node, "dilations", ones)
    begin = numbers(node, "pads", [0] * 2 * len(kernel))[: len(kernel)]
    mode = attribute(node, "auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        outer_same, reach = outer, dilation
        if set(dilation) != {1} and operator(node) in _POOLS:
            outer_same, reach = [-(-n // s) for n, s in zip(inner, stride, strict=True)], ones
        spans = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(outer_same, stride, kernel, reach, strict=True)]
        total = [max(0, span - size) for span, size in zip(spans, inner, strict=True)]
        begin = [(n + (mode == "SAME_LOWER")) // 2 for n in total]
    group = int(number(node, "group", 1))
    return Window(tuple(kernel), tuple(stride), tuple(dilation), tuple(begin), tuple(inner), tuple(outer), group)
