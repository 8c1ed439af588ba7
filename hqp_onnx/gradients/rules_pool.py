"""Rules of the pooling operators.

MaxPool: dx[argmax of window l] += g[l]. AveragePool: dx is the adjoint of a box filter on g / count, where count is
the number of pixels that the window l averages over.
"""

from __future__ import annotations

import numpy as np
import onnx

from hqp_onnx.gradients.prepare import attribute
from hqp_onnx.gradients.tape import Grads, Tape, number, numbers, refuse, rule
from hqp_onnx.gradients.window import Window, scatter_back, window
from hqp_onnx.runtime import Array


@rule("MaxPool")
def max_pool(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Scatter to the node's own second output: positions in the flattened input."""
    if number(n, "storage_order", 0):
        raise refuse(n, "has no gradient rule for storage_order 1")
    if len(n.output) == 1:
        n.output.append(t.prefix + n.output[0])
    flat = t.ints(-1)
    zeros = t.op("Expand", t.scalar(0, n.input[0]), t.op("Reshape", t.op("Size", n.input[0]), flat))
    index, grad = t.op("Reshape", n.output[1], flat), t.op("Reshape", str(g[0]), flat)
    return t.reshape_like(t.op("ScatterElements", zeros, index, grad, reduction="add"), n.input[0])


@rule("AveragePool")
def average_pool(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Box filter of each channel alone: channels join the batch."""
    w = window(t, n, numbers(n, "kernel_shape", []), n.input[0], n.output[0])
    shares = (1 / _counts(n, w)).astype(t.traced.types[n.input[0]])
    box = np.ones((1, 1, *w.kernel), shares.dtype)
    grad = t.reshape(t.mul(str(g[0]), t.const(shares)), -1, 1, *w.outer)
    return t.reshape_like(scatter_back(t, grad, t.const(box), box, w), n.input[0])


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
