"""Convolutions whose windows lie side by side, as in front of a vision transformer, without their strides.

Vela makes an operator of every output pixel where a stride is above 3. Let s x t be the kernel and the stride, and
w = W / t. The pixels of a window that lie beside each other become channels, and the rows of windows that lie above
each other come to stand in one row, none of which moves a value:

    [N, H, W, C]  =  [N, H / s, s w, t C]

There the window reads s pixels that are w apart: a kernel of 1 x s, dilated by w, stride 1, no padding.
"""

from __future__ import annotations

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.runtimes.litert.emitter import Emitter

_STRIDE = 3  # the largest that the NPU has


def are_patches(
    kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], image: tuple[int, int], pads: bool
) -> bool:
    """Whether windows cover an image side by side, with strides that the NPU does not have."""
    covered = all(size % step == 0 for size, step in zip(image, stride, strict=True))
    return kernel == stride and max(stride) > _STRIDE and dilation == (1, 1) and covered and not pads


def beside(e: Emitter, image: int, name: str, kernel: tuple[int, int]) -> int:
    """The number of the image ``name``, which stands as ``image`` [N, H, W, C], as [N, H / s, s w, t C]."""
    (n, c), (high, wide) = e.shape(name)[:2], e.shape(name)[2:]
    shape = (n, high // kernel[0], kernel[0] * (wide // kernel[1]), kernel[1] * c)
    new = e.new(name, shape)
    e.reshape(image, new, shape)
    return new


def in_a_row(weight: Array) -> Array:
    """A weight [O, C, s, t] as [O, t C, 1, s]."""
    outputs, channels, high, wide = weight.shape
    return np.ascontiguousarray(weight.transpose(0, 3, 1, 2)).reshape(outputs, wide * channels, 1, high)
