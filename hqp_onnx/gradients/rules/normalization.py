"""Rules of the normalisations.

u = (x - mean) / sqrt(var + eps) over m elements: dx = (g - mean(g) - u mean(g u)) / sqrt(var + eps).
y = x / ||x||: dx = (g - s <g, y>) / ||x||, s the gradient of the norm.
LRN, y = x b^-beta with b = bias + alpha/size W x^2 and a band matrix W over channels:
dx = g b^-beta - 2 alpha beta / size x W^T (g y / b).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx

from hqp_onnx.gradients.tape import Grads, Tape, rule
from hqp_onnx.graphs.nodes import number


@rule("LayerNormalization")
def layer_normalization(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Normalisation over the axes from ``axis`` on, then scale and bias."""
    axes = range(t.axis(n, -1), len(t.dims(n.input[0])))
    u, inverse = _normalized(t, n, axes)
    if i == 0:
        return _normalized_back(t, n, t.mul(str(g[0]), n.input[1]), u, inverse, axes)
    return t.reduce_to(t.mul(str(g[0]), u) if i == 1 else str(g[0]), t.dims(n.output[0]), n.input[i])


@rule("InstanceNormalization")
def instance_normalization(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Normalisation over the spatial axes, then scale and bias per channel."""
    axes = range(2, len(t.dims(n.input[0])))
    u, inverse = _normalized(t, n, axes)
    if i == 0:
        scale = t.reshape(n.input[1], -1, *[1] * len(axes))
        return _normalized_back(t, n, t.mul(str(g[0]), scale), u, inverse, axes)
    return t.reduce("ReduceSum", t.mul(str(g[0]), u) if i == 1 else str(g[0]), [0, *axes])


@rule("LpNormalization")
def lp_normalization(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """The gradient of the norm is sign x for p = 1 and y for p = 2; a zero vector has none."""
    x, y, axis = n.input[0], n.output[0], [t.axis(n, -1)]
    first = number(n, "p", 2) == 1
    norm = t.reduce("ReduceL1" if first else "ReduceL2", x, axis, keepdims=True)
    along = t.reduce("ReduceSum", t.mul(str(g[0]), y), axis, keepdims=True)
    slope = t.op("Sign", x) if first else y
    return t.mul(t.op("Sub", str(g[0]), t.mul(slope, along)), t.inverse(norm, x))


@rule("LRN")
def lrn(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Channels are columns of a matrix product with the band."""
    x, y, grad = n.input[0], n.output[0], str(g[0])
    size, beta = int(number(n, "size", 1)), number(n, "beta", 0.75)
    rate = number(n, "alpha", 1e-4) / size
    (channels,) = t.static(n, x, [1])
    offset = np.arange(channels)[None] - np.arange(channels)[:, None]
    band = ((offset >= -((size - 1) // 2)) & (offset <= size // 2)).astype(t.traced.types[x])

    def summed(values: str, matrix: np.ndarray[Any, Any]) -> str:
        return t.reshape_like(t.op("MatMul", t.const(matrix), t.reshape(values, 0, channels, -1)), x)

    b = t.add(t.mul(summed(t.mul(x, x), band), t.scalar(rate, x)), t.scalar(number(n, "bias", 1.0), x))
    back = t.mul(summed(t.op("Div", t.mul(grad, y), b), band.T), t.mul(x, t.scalar(2 * rate * beta, x)))
    return t.op("Sub", t.mul(grad, t.op("Pow", b, t.scalar(-beta, x))), back)


def _normalized(t: Tape, n: onnx.NodeProto, axes: Sequence[int]) -> tuple[str, str]:
    """Normalised u, and 1 / sqrt(var + eps)."""
    x = n.input[0]
    centred = t.op("Sub", x, _mean(t, n, x, axes))
    variance = t.add(_mean(t, n, t.mul(centred, centred), axes), t.scalar(number(n, "epsilon", 1e-5), x))
    inverse = t.op("Reciprocal", t.op("Sqrt", variance))
    return t.mul(centred, inverse), inverse


def _normalized_back(t: Tape, n: onnx.NodeProto, g: str, u: str, inverse: str, axes: Sequence[int]) -> str:
    along = t.mul(u, _mean(t, n, t.mul(g, u), axes))
    return t.mul(inverse, t.op("Sub", t.op("Sub", g, _mean(t, n, g, axes)), along))


def _mean(t: Tape, n: onnx.NodeProto, x: str, axes: Sequence[int]) -> str:
    count = prod(t.static(n, n.input[0], axes))
    return t.mul(t.reduce("ReduceSum", x, axes, keepdims=True), t.scalar(1 / count, n.input[0]))
