"""Per-sample weight gradients of depthwise convolutions, dW_t = sum over l of delta_l x_{l s + t d - p}, per channel.

taps:    one product delta (shifted x) per tap, then its sum. Along a stride, Slice moves single elements; there a
         depthwise Conv with a kernel that is 1 at the tap reads the pixels at the speed of a convolution.
rows:    2-D: delta^T (x moved by t_y rows) is the correlation of columns, a matrix product; the tap t_x is the sum of
         one of its diagonals, which a constant matrix takes.
fourier: three products with constant matrices (correlation.py).
"""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.gradients.correlation import correlation_rank, correlation_tables
from hqp_onnx.gradients.factors import Factors
from hqp_onnx.gradients.tape import Tape
from hqp_onnx.gradients.window import padded, read
from hqp_onnx.graphs.windows import Window

# in multiplications of a large matrix product, measured on CPUs with AVX2
PASS = 45  # a pixel of a tap, which is moved, multiplied and summed
SMALL = 2.5  # a multiplication in a product of small matrices
CALL = 12500  # one such product


def depthwise_gradient(t: Tape, f: Factors) -> str:
    """Append dW [N, C, 1, taps].

    Args:
        t: tape of the model.
        f: factors of a depthwise convolution.
    """
    return FORMS[depthwise_form(f)](t, f)


def depthwise_form(f: Factors) -> str:
    """The form of least cost."""
    w = _window(f)
    costs = {
        "taps": PASS * f.taps * f.pixels,
        "fourier": correlation_rank(w) * (f.inner + f.pixels + f.taps),
    }
    if len(w.kernel) == 2:
        width = w.inner[1] + max(0, w.begin[1]) + max(0, w.end[1])
        costs["rows"] = int(w.kernel[0] * (SMALL * f.pixels * width + CALL))
    return min(costs, key=costs.__getitem__)


def _window(f: Factors) -> Window:
    assert f.window is not None
    return f.window


def _taps(t: Tape, f: Factors) -> str:
    w = _window(f)
    spatial = range(2, 2 + len(w.kernel))
    delta = t.reshape(f.delta, 0, 0, *w.outer)
    if w.stride[-1] > 1:
        moved = [picked(t, f, one) for one in np.eye(f.taps)]
    else:
        wide = padded(t, t.reshape(f.x, 0, 0, *w.inner), w)
        moved = [read(t, wide, w, taps) for taps in product(*map(range, w.kernel))]
    sums = [t.reduce("ReduceSum", t.mul(one, delta), spatial, keepdims=True) for one in moved]
    return t.reshape(t.op("Concat", *sums, axis=2), 0, 0, 1, f.taps)


def picked(t: Tape, f: Factors, kernels: Array) -> str:
    """[N, G C k, *outer]: the correlations of every channel of x with each of k kernels [k, taps]."""
    w, channels = _window(f), f.groups * f.channels
    each = kernels.reshape(-1, 1, *w.kernel).astype(t.traced.types[f.weight])
    weight = np.tile(each, (channels, *[1] * (each.ndim - 1)))
    x = t.reshape(f.x, 0, channels, *w.inner)
    return t.op("Conv", x, t.const(weight), **{**w.attributes(), "group": channels})


def _rows(t: Tape, f: Factors) -> str:
    w = _window(f)
    x = padded(t, t.reshape(f.x, 0, 0, *w.inner), w)
    delta = t.op("Transpose", t.reshape(f.delta, 0, 0, *w.outer), perm=[0, 1, 3, 2])
    width = w.inner[1] + max(0, w.begin[1]) + max(0, w.end[1])
    diagonals = t.const(_diagonals(w, width).astype(t.traced.types[f.weight]))
    blocks = []
    for tap in range(w.kernel[0]):
        products = t.reshape(t.op("MatMul", delta, read(t, x, w, [tap])), 0, 0, 1, w.outer[1] * width)
        blocks.append(t.op("MatMul", products, diagonals))
    return t.op("Concat", *blocks, axis=3)


def _diagonals(w: Window, width: int) -> Array:
    """[outer * width, taps] of the last axis: 1 where the output pixel reads the padded pixel with that tap."""
    table = np.zeros((w.outer[1], width, w.kernel[1]))
    for pixel, tap in product(range(w.outer[1]), range(w.kernel[1])):
        table[pixel, pixel * w.stride[1] + tap * w.dilation[1], tap] = 1
    return table.reshape(-1, w.kernel[1])


def _fourier(t: Tape, f: Factors) -> str:
    a, b, c = (t.const(table.astype(t.traced.types[f.weight])) for table in correlation_tables(_window(f)))
    x, delta = t.reshape(f.x, 0, 0, 1, f.inner), t.reshape(f.delta, 0, 0, 1, prod(_window(f).outer))
    return t.op("MatMul", t.mul(t.op("MatMul", x, a), t.op("MatMul", delta, b)), c)


FORMS = {"taps": _taps, "rows": _rows, "fourier": _fourier}
