"""Rules of reductions and softmax.

A reduction y = F(sum_i f(x_i)) has dx_i = g F' f'(x_i), with g repeated along the reduced axes.
Softmax: dx = y (g - <g, y>).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import onnx

from hqp_onnx.gradients.tape import Grads, Tape, rule
from hqp_onnx.graphs.nodes import number, numbers


@rule("ReduceSum", "ReduceMean")
def reduce_sum(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """To every element alike."""
    axes = _axes(t, n)
    return spread(t, n, _kept(t, str(g[0]), n.input[0], axes), axes, mean=n.op_type == "ReduceMean")


@rule("ReduceMax", "ReduceMin")
def reduce_extremum(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """To the elements that attain it, in equal parts."""
    axes = _axes(t, n)
    return _attained(
        t, _kept(t, str(g[0]), n.input[0], axes), n.input[0], _kept(t, n.output[0], n.input[0], axes), axes
    )


Slope = Callable[[Tape, str, str], str]


def reduction(op: str) -> Callable[[Slope], Slope]:
    """Register f(tape, x, y) -> name of dy/dx, for y with the reduced axes as 1."""

    def register(slope: Slope) -> Slope:
        def apply(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
            x, axes = n.input[0], _axes(t, n)
            grad, y = (_kept(t, str(name), x, axes) for name in (g[0], n.output[0]))
            return t.mul(grad, slope(t, x, y))

        rule(op)(apply)
        return slope

    return register


@reduction("ReduceSumSquare")
def reduce_sum_square(t: Tape, x: str, y: str) -> str:
    """2 x."""
    return t.mul(x, t.scalar(2, x))


@reduction("ReduceL1")
def reduce_l1(t: Tape, x: str, y: str) -> str:
    """= sign x."""
    return t.op("Sign", x)


@reduction("ReduceL2")
def reduce_l2(t: Tape, x: str, y: str) -> str:
    """X / y, and 0 at the origin."""
    return t.mul(x, t.inverse(y, x))


@reduction("ReduceLogSum")
def reduce_log_sum(t: Tape, x: str, y: str) -> str:
    """e^-y for each."""
    ones = t.op("Expand", t.scalar(1, x), t.op("Shape", x))
    return t.mul(ones, t.op("Exp", t.op("Neg", y)))


@reduction("ReduceLogSumExp")
def reduce_log_sum_exp(t: Tape, x: str, y: str) -> str:
    """The softmax, e^(x - y)."""
    return t.op("Exp", t.op("Sub", x, y))


@rule("GlobalMaxPool")
def global_max_pool(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """ReduceMax over the spatial axes."""
    return _attained(t, str(g[0]), n.input[0], n.output[0], range(2, len(t.dims(n.input[0]))))


@rule("GlobalAveragePool")
def global_average_pool(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """ReduceMean over the spatial axes."""
    return spread(t, n, str(g[0]), range(2, len(t.dims(n.input[0]))), mean=True)


@rule("Softmax")
def softmax(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """= y (g - <g, y>)."""
    inner = t.reduce("ReduceSum", t.mul(str(g[0]), n.output[0]), [t.axis(n, -1)], keepdims=True)
    return t.mul(n.output[0], t.op("Sub", str(g[0]), inner))


@rule("LogSoftmax")
def log_softmax(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """= g - softmax(x) sum(g)."""
    total = t.reduce("ReduceSum", str(g[0]), [t.axis(n, -1)], keepdims=True)
    return t.op("Sub", str(g[0]), t.mul(t.op("Exp", n.output[0]), total))


def spread(t: Tape, n: onnx.NodeProto, g: str, axes: Sequence[int], mean: bool) -> str:
    """``g``, of size 1 along ``axes``, repeated along them; divided by the number of repetitions if ``mean``."""
    x = n.input[0]
    if not mean and None in [t.dims(x)[axis] for axis in axes]:
        return t.op("Expand", g, t.op("Shape", x))
    sizes = t.static(n, x, axes)
    shares = np.full([1] * len(t.dims(x)), 1 / prod(sizes) if mean else 1, t.traced.types[x])
    for axis, size in zip(axes, sizes, strict=True):
        shares = np.repeat(shares, size, axis)
    return t.mul(g, t.const(shares))


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
