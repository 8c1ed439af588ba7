"""The gradient of a convolution's weight, summed over the batch: dW = sum over samples i, pixels l of delta_il U_il^T.

U holds what the window reads (``factors``). Samples and pixels become one long axis, [filters, N L] and [channels,
N L], so every tap of the kernel is one large matrix product; where channels are too few to fill one, the patches
of all taps are. Depthwise kernels have forms of their own, per sample (``depthwise``).
"""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx

from hqp_onnx.gradients.depthwise import depthwise_gradient, picked
from hqp_onnx.gradients.factors import NARROW, Factors
from hqp_onnx.gradients.tape import Tape
from hqp_onnx.gradients.window import padded, read
from hqp_onnx.graphs.windows import Window


def weight_gradient(t: Tape, n: onnx.NodeProto, delta: str, x: str, w: Window) -> str:
    """Append dL/dW [filters, channels / group, *kernel].

    Args:
        t: tape of the model.
        n: the node; its input 1 is the weight.
        delta: gradient of the window's output, [N, filters, *outer].
        x: what the window reads, [N, channels, *inner].
        w: the window.
    """
    weight = n.input[1]
    filters, channels, *kernel = t.static(n, weight)
    if channels == 1 and filters == w.group and np.prod(kernel) > 1:
        f = Factors(weight, delta, x, w.group, 1, 1, int(np.prod(w.outer)), w)
        return t.reshape(t.reduce("ReduceSum", depthwise_gradient(t, f), [0]), filters, channels, *kernel)
    rows = _joined(t, delta, len(kernel), (w.group, filters // w.group, -1))
    if channels <= NARROW and np.prod(kernel) > 1:
        f = Factors(weight, delta, x, w.group, filters // w.group, channels, int(np.prod(w.outer)), w)
        patches = _joined(t, picked(t, f, np.eye(f.taps)), len(kernel), (w.group, channels * f.taps, -1))
        return t.reshape(_product(t, rows, patches, w.group), filters, channels, *kernel)
    wide = padded(t, t.op("Transpose", x, perm=[1, 0, *range(2, 2 + len(kernel))]), w)
    taps = [
        t.reshape(read(t, wide, w, taps), w.group, channels, -1)
        if w.inner != w.outer or np.prod(kernel) > 1
        else t.reshape(wide, w.group, channels, -1)
        for taps in product(*map(range, kernel))
    ]
    parts = [t.reshape(_product(t, rows, tap, w.group), filters, channels, 1) for tap in taps]
    return t.reshape(parts[0] if len(parts) == 1 else t.op("Concat", *parts, axis=2), filters, channels, *kernel)


def _joined(t: Tape, x: str, rank: int, sizes: tuple[int, ...]) -> str:
    """[N, channels, ...] with channels first, then samples and pixels, in ``sizes``."""
    return t.reshape(t.op("Transpose", x, perm=[1, 0, *range(2, 2 + rank)]), *sizes)


def _product(t: Tape, a: str, b: str, group: int) -> str:
    """A B^T for each group."""
    if group > 1:
        return t.op("MatMul", a, t.op("Transpose", b, perm=[0, 2, 1]))
    return t.op("Gemm", t.op("Squeeze", a, t.ints(0)), t.op("Squeeze", b, t.ints(0)), transB=1)
