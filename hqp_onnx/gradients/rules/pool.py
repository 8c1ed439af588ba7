"""Rules of the pooling operators and of the windows that they slide.

MaxPool: dx[argmax of window l] += g[l]. AveragePool: dx is the adjoint of a box filter on g / count, where count is
the number of pixels that the window l averages over. LpPool, y = (sum |x|^p)^(1/p): dx = sign(x) |x|^(p-1) times the
adjoint of the box filter on g y^(1-p). Col2Im is the adjoint of cutting an image into windows.
"""

from __future__ import annotations

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.gradients.tape import Grads, Tape, refuse, rule
from hqp_onnx.gradients.window import scatter_back, window
from hqp_onnx.graphs.nodes import attribute, number, numbers
from hqp_onnx.graphs.windows import Window


@rule("MaxPool")
def max_pool(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Scatter to the node's own second output: positions in the flattened input."""
    if number(n, "storage_order", 0):
        raise refuse(n, "has no gradient rule for storage_order 1")
    if len(n.output) == 1:
        n.output.append(t.new_name())
    flat = t.ints(-1)
    zeros = t.op("Expand", t.scalar(0, n.input[0]), t.op("Reshape", t.op("Size", n.input[0]), flat))
    index, grad = t.op("Reshape", n.output[1], flat), t.op("Reshape", str(g[0]), flat)
    return t.reshape_like(t.op("ScatterElements", zeros, index, grad, reduction="add"), n.input[0])


@rule("AveragePool")
def average_pool(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Box filter of each channel alone: channels join the batch."""
    w = window(t, n, numbers(n, "kernel_shape", []), n.input[0], n.output[0])
    shares = (1 / _counts(n, w)).astype(t.traced.types[n.input[0]])
    grad = t.reshape(t.mul(str(g[0]), t.const(shares)), -1, 1, *w.outer)
    return t.reshape_like(_spread(t, n, grad, w), n.input[0])


@rule("LpPool")
def lp_pool(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Box filter of each channel alone."""
    w = window(t, n, numbers(n, "kernel_shape", []), n.input[0], n.output[0])
    inner, outer = _lp_slopes(t, n)
    grad = t.reshape(t.mul(str(g[0]), outer), -1, 1, *w.outer)
    return t.mul(inner, t.reshape_like(_spread(t, n, grad, w), n.input[0]))


@rule("GlobalLpPool")
def global_lp_pool(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """One window over everything."""
    inner, outer = _lp_slopes(t, n)
    return t.mul(inner, t.mul(str(g[0]), outer))


@rule("MaxUnpool")
def max_unpool(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """The elements at the indices, which count in the flattened output."""
    if len(n.input) > 2:
        raise refuse(n, "has no gradient rule with output_shape")
    flat = t.ints(-1)
    grad, index = t.op("Reshape", str(g[0]), flat), t.op("Reshape", n.input[1], flat)
    return t.reshape_like(t.op("Gather", grad, index), n.input[0])


@rule("Col2Im")
def col2im(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """A convolution by every unit kernel, of each channel alone."""
    image, block = t.value(n, 1), t.value(n, 2)
    assert image is not None and block is not None
    taps, rank = int(block.prod()), len(block)
    units = np.eye(taps).reshape(taps, 1, *block).astype(t.traced.types[n.input[0]])
    kept = {name: numbers(n, name, [1] * rank) for name in ("dilations", "strides")}
    pads = numbers(n, "pads", [0] * 2 * rank)
    one = t.reshape(str(g[0]), -1, 1, *(int(size) for size in image))
    return t.reshape_like(t.op("Conv", one, t.const(units), pads=pads, **kept), n.input[0])


def _lp_slopes(t: Tape, n: onnx.NodeProto) -> tuple[str, str]:
    """sign(x) |x|^(p-1) and y^(1-p), which is 0 where y is 0."""
    x, y, p = n.input[0], n.output[0], int(number(n, "p", 2))
    if p == 1:
        return t.op("Sign", x), t.scalar(1, x)
    if p == 2:
        return x, t.inverse(y, x)
    power = t.mul(t.op("Sign", x), t.op("Pow", t.op("Abs", x), t.scalar(p - 1, x)))
    return power, t.op("Pow", t.inverse(y, x), t.scalar(p - 1, x))


def _spread(t: Tape, n: onnx.NodeProto, g: str, w: Window) -> str:
    """Adjoint of the sum over each window, of g [N C, 1, *outer]."""
    box = np.ones((1, 1, *w.kernel), t.traced.types[n.input[0]])
    return scatter_back(t, g, t.const(box), box, w)


def _counts(n: onnx.NodeProto, w: Window) -> Array:
    """Pixels under each window, of the shape of one output channel; padding counts if the node says so."""
    padded = bool(number(n, "count_include_pad", 0))
    rank = len(w.kernel)
    ends = numbers(n, "pads", [0] * 2 * rank)[rank:]
    counts = np.ones(w.outer)
    for axis in range(rank):
        declared = ends[axis] if attribute(n, "auto_pad", "NOTSET") == "NOTSET" else max(0, w.end[axis])
        low, high = (-w.begin[axis], w.inner[axis] + declared) if padded else (0, w.inner[axis])
        first = np.arange(w.outer[axis])[:, None] * w.stride[axis] - w.begin[axis]
        at = first + np.arange(w.kernel[axis]) * w.dilation[axis]
        inside = ((at >= low) & (at < high)).sum(1)
        counts *= inside.reshape([-1 if a == axis else 1 for a in range(rank)])
    return counts
