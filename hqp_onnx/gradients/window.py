"""Sliding windows: output pixel l of axis a reads the input pixels l s_a + t d_a - p_a, t = 0 .. k_a - 1.

The adjoint scatters: dx[l s + t d - p] += w[t] g[l]. With stride 1 that is a correlation of g with the flipped
kernel; otherwise ConvTranspose, whose output_padding restores the pixels that no window reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.gradients.prepare import attribute
from hqp_onnx.gradients.tape import Tape, number, numbers, refuse


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


def window(t: Tape, node: onnx.NodeProto, kernel: Sequence[int], inner: str, outer: str) -> Window:
    """The window of a convolution or pooling node from traced tensor ``inner`` to ``outer`` [N, C, ...].

    Padding at the end follows from the sizes, so that auto_pad and ceil_mode need no rules of their own.
    """
    axes = range(2, 2 + len(kernel))
    sizes, outs = t.static(node, inner, axes), t.static(node, outer, axes)
    ones = [1] * len(kernel)
    stride, dilation = numbers(node, "strides", ones), numbers(node, "dilations", ones)
    begin = numbers(node, "pads", [0] * 2 * len(kernel))[: len(kernel)]
    mode = attribute(node, "auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        spans = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(outs, stride, kernel, dilation, strict=True)]
        total = [max(0, span - size) for span, size in zip(spans, sizes, strict=True)]
        begin = [(n + (mode == "SAME_LOWER")) // 2 for n in total]
    group = int(number(node, "group", 1))
    return Window(tuple(kernel), tuple(stride), tuple(dilation), tuple(begin), sizes, outs, group)


def adjoint_window(t: Tape, n: onnx.NodeProto, kernel: Sequence[int]) -> Window:
    """The window of the convolution (from y to x) of which a ConvTranspose node is the adjoint."""
    if attribute(n, "auto_pad", "NOTSET") not in ("NOTSET", "VALID") or attribute(n, "output_shape"):
        raise refuse(n, "has no gradient rule with auto_pad or output_shape: make its pads explicit")
    return window(t, n, kernel, n.output[0], n.input[0])


def padded(t: Tape, x: str, w: Window, trailing: int = 0) -> str:
    """``x`` [N, G, *inner, ...] with the zeros that the window reads; ``trailing`` axes follow the spatial ones."""
    begin, end = [max(0, p) for p in w.begin], [max(0, p) for p in w.end]
    more = [0] * trailing
    return t.op("Pad", x, t.ints(0, 0, *begin, *more, 0, 0, *end, *more)) if any(begin + end) else x


def read(t: Tape, x: str, w: Window, taps: Sequence[int]) -> str:
    """What one tap reads from the padded ``x``; of fewer taps than axes, along the first of them."""
    axes = range(2, 2 + len(taps))
    starts = [tap * d for tap, d in zip(taps, w.dilation, strict=False)]
    stops = [a + (n - 1) * s + 1 for a, n, s in zip(starts, w.outer, w.stride, strict=False)]
    return t.op("Slice", x, t.ints(*starts), t.ints(*stops), t.ints(*axes), t.ints(*w.stride[: len(taps)]))


def scatter_back(t: Tape, g: str, name: str, weight: Array | None, w: Window) -> str:
    """Adjoint of the Conv by tensor ``name`` [K, C / group, ...]: to [N, C, *inner]. ``weight`` if it is constant."""
    if set(w.stride) == {1}:
        pads = [reach - 1 - p for reach, p in zip(w.extent * 2, w.begin + w.end, strict=True)]
        if min(pads) >= 0:
            flipped = _flip_in_graph(t, name, w) if weight is None else t.const(_flip(weight, w.group))
            return t.op("Conv", g, flipped, **{**w.attributes(), "pads": pads})
    return t.op("ConvTranspose", g, name, **w.attributes(), output_padding=[max(0, -p) for p in w.end])


def _flip(weight: Array, group: int) -> Array:
    """[K, C / group, ...] -> [C, K / group, ...], every spatial axis reversed."""
    k, c, *spatial = weight.shape
    grouped = weight.reshape(group, k // group, c, *spatial).swapaxes(1, 2)
    return np.flip(grouped.reshape(group * c, k // group, *spatial), tuple(range(2, 2 + len(spatial)))).copy()


def _flip_in_graph(t: Tape, name: str, w: Window) -> str:
    """``_flip`` of a tensor."""
    k, c = (int(n or 0) for n in t.dims(name)[:2])
    grouped = t.reshape(name, w.group, k // w.group, c, -1)
    turned = t.reshape(t.op("Transpose", grouped, perm=[0, 2, 1, 3]), w.group * c, k // w.group, *w.kernel)
    axes = [axis for axis, size in enumerate(w.kernel, 2) if size > 1]
    if not axes:
        return turned
    count, last = len(axes), np.iinfo(np.int64).min
    return t.op("Slice", turned, t.ints(*[-1] * count), t.ints(*[last] * count), t.ints(*axes), t.ints(*[-1] * count))
