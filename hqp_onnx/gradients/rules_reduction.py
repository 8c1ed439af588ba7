"""Rules of reductions, softmax and normalisations.

Softmax: dx = y (g - <g, y>). Normalisation u = (x - mean) / sqrt(var + eps) over m elements:
dx = (g - mean(g) - u mean(g u)) / sqrt(var + eps).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx

from hqp_onnx.gradients.prepare import attribute
from hqp_onnx.gradients.tape import Grads, Tape, number, numbers, rule


@rule("ReduceSum", "ReduceMean")
def reduce_sum(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """To every element alike."""
    axes = _axes(t, n)
    return _spread(t, n, _kept(t, str(g[0]), n.input[0], axes), axes, mean=n.op_type == "ReduceMean")


@rule("ReduceMax", "ReduceMin")
def reduce_extremum(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """To the elements that attain it, in equal parts."""
    axes = _axes(t, n)
    return _attained(
        t, _kept(t, str(g[0]), n.input[0], axes), n.input[0], _kept(t, n.output[0], n.input[0], axes), axes
    )


@rule("GlobalMaxPool")
def global_max_pool(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """ReduceMax over the spatial axes."""
    return _attained(t, str(g[0]), n.input[0], n.output[0], range(2, len(t.dims(n.input[0]))))


@rule("GlobalAveragePool")
def global_average_pool(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """ReduceMean over the spatial axes."""
    return _spread(t, n, str(g[0]), range(2, len(t.dims(n.input[0]))), mean=True)


@rule("Softmax")
def softmax(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """= y (g - <g, y>)."""
    inner = t.reduce("ReduceSum", t.mul(str(g[0]), n.output[0]), [_axis(t, n)], keepdims=True)
    return t.mul(n.output[0], t.op("Sub", str(g[0]), inner))


@rule("LogSoftmax")
def log_softmax(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """= g - softmax(x) sum(g)."""
    total = t.reduce("ReduceSum", str(g[0]), [_axis(t, n)], keepdims=True)
    return t.op("Sub", str(g[0]), t.mul(t.op("Exp", n.output[0]), total))


@rule("LayerNormalization")
def layer_normalization(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Normalisation over the axes from ``axis`` on, then scale and bias."""
    axes = range(_axis(t, n), len(t.dims(n.input[0])))
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


def _spread(t: Tape, n: onnx.NodeProto, g: str, axes: Sequence[int], mean: bool) -> str:
    """``g``, of size 1 along ``axes``, repeated along them; divided by the number of repetitions if ``mean``."""
    x = n.input[0]
    sizes = t.static(n, x, axes)
    shares = np.full([1] * len(t.dims(x)), 1 / prod(sizes) if mean else 1, t.traced.types[x])
    for axis, size in zip(axes, sizes, strict=True):
        shares = np.repeat(shares, size, axis)
    return t.mul(g, t.const(shares))


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


def _attained(t: Tape, g: str, x: str, y: str, axes: Sequence[int]) -> str:
    hits = t.mask(t.op("Equal", x, y), x)
    return t.mul(hits, t.op("Div", g, t.reduce("ReduceSum", hits, axes, keepdims=True)))


def _kept(t: Tape, y: str, x: str, axes: Sequence[int]) -> str:
    """``y`` with the reduced axes of ``x`` as 1."""
    dims = [1 if axis in axes else n for axis, n in enumerate(t.dims(x))]
    return t.reshape(y, *(-1 if n is None else n for n in dims))


def _axes(t: Tape, n: onnx.NodeProto) -> list[int]:
    """Reduced axes of a Reduce node, from its input or attribute."""
    rank = len(t.dims(n.input[0]))
    value = t.value(n, 1)
    axes = numbers(n, "axes", []) if value is None else [int(axis) for axis in value]
    if not axes and not number(n, "noop_with_empty_axes", 0):
        return list(range(rank))
    return [axis % rank for axis in axes]


def _axis(t: Tape, n: onnx.NodeProto) -> int:
    axis = attribute(n, "axis", -1)
    assert isinstance(axis, int)
    return axis % len(t.dims(n.input[0]))
