"""Rules of quantization: straight through, as if rounding were the identity.

For x' = s (clip(round(x / s) + z, low, high) - z), dL/dx = dL/dx' where x / s + z rounds into low .. high, else 0
(Bengio et al. 2013, arXiv:1308.3432). The gradient of an integer tensor is stated for the real value s (q - z) that it
stands for, so DequantizeLinear passes it on.
"""

from __future__ import annotations

import numpy as np
import onnx

from hqp_onnx.gradients.tape import Grads, Tape, refuse, rule
from hqp_onnx.graphs.nodes import attribute


@rule("DequantizeLinear")
def dequantize(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """As it is."""
    if i:
        raise refuse(n, "has no gradient rule for its scale")
    return str(g[0])


@rule("QuantizeLinear")
def quantize(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Where nothing is clipped."""
    x, scale, zero = n.input[0], t.value(n, 1), t.value(n, 2)
    if i or scale is None or attribute(n, "block_size", 0):
        raise refuse(n, "has no gradient rule for its scale, or for blocks")
    zero = np.zeros(1, np.uint8) if zero is None else zero
    if zero.dtype.kind not in "iu":
        raise refuse(n, f"has no gradient rule for {zero.dtype}")
    rank, axis = len(t.dims(x)), t.axis(n, 1) if scale.size > 1 else 0
    column = [-1 if scale.size > 1 and k == axis else 1 for k in range(rank)]
    info, kind = np.iinfo(zero.dtype), t.traced.types[x]
    ends = (info.min - 0.5 - zero, info.max + 0.5 - zero)
    low, high = (t.const((scale.astype(np.float64) * end).astype(kind).reshape(column)) for end in ends)
    inside = t.op("And", t.op("GreaterOrEqual", x, low), t.op("LessOrEqual", x, high))
    return t.mul(str(g[0]), t.mask(inside, x))
