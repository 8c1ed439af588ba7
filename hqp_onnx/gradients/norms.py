"""Squared norms of per-sample filter gradients, ||(delta_i U_i^T)_k||^2.

direct:  one product delta (shifted x)^T per tap; K C T L multiplications. Where channels are too few to fill a
         matrix product, one product with the patches of all taps, which a Conv by unit kernels cuts out.
         Depthwise convolutions have forms of their own (depthwise.py).
gram:    the norm is diag(delta (U^T U) delta^T), and U^T U sums the Gram matrix of x over taps:
         (U^T U)[l, m] = sum over taps t of (x^T x)[l s + t d - p, m s + t d - p], one axis after the other;
         P^2 C + K L^2 multiplications for P input pixels, far fewer where the image is small.
rank1:   L = 1 without a window: ||delta_k||^2 ||x||^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import numpy as np

from hqp_onnx.errors import GradientError
from hqp_onnx.gradients.depthwise import depthwise_gradient, picked
from hqp_onnx.gradients.factors import Factors, by_sample, factors, joined
from hqp_onnx.gradients.filters import Use
from hqp_onnx.gradients.tape import Tape, refuse
from hqp_onnx.gradients.window import padded, read
from hqp_onnx.graphs.nodes import number
from hqp_onnx.graphs.weight_axes import CONVOLUTIONS
from hqp_onnx.graphs.windows import Window

COPY = 8  # a copied or added element costs about as much as this many multiplications of a matrix product


def squared_norms(t: Tape, uses: Sequence[tuple[Use, str]], form: str | None = None) -> tuple[str, int]:
    """Append ||dL_i/dW_f||^2 [N, filters] of one weight.

    Args:
        t: tape of the model.
        uses: the nodes that read the weight, each with the gradient of its output. Their contributions are added
            before the square.
        form: "direct" or "gram" where possible; the cheapest if None.

    Returns:
        Name of the norms, and the elements per sample that they need at work.
    """
    return norms_of(t, [factors(t, use, grad) for use, grad in uses], form)


def norms_of(t: Tape, parts: Sequence[Factors], form: str | None = None) -> tuple[str, int]:
    """The same, of the sum of products."""
    if len(parts) > 1 and all(part.window is None for part in parts):
        parts = [joined(t, parts)]
    first = parts[0]
    form = "direct" if len(parts) > 1 or first.transposed else form or _cheapest(first)
    if form == "rank1":
        delta, x = t.reshape(first.delta, -1, first.filters), t.reshape(first.x, -1, first.channels)
        return t.mul(t.mul(delta, delta), t.reduce("ReduceSumSquare", x, [1], keepdims=True)), first.filters
    if form == "gram":
        return _gram_norms(t, first), 4 * first.groups * first.inner**2
    blocks = [_blocks(t, part) for part in parts]
    if len({len(some) for some in blocks}) > 1 or len({(p.groups, p.filters, p.channels) for p in parts}) > 1:
        raise GradientError(f"weight '{first.weight}' is read in several shapes: per-sample gradients need one")
    sums = [some[0] if len(some) == 1 else t.op("Sum", *some) for some in zip(*blocks, strict=True)]
    axes = ([1, 2, 3] if first.channels == 1 else [1, 2]) if first.transposed else [3]
    squares = [t.reduce("ReduceSumSquare", block, axes) for block in sums]
    total = squares[0] if len(squares) == 1 else t.op("Sum", *squares)
    return t.reshape(total, -1, first.channels if first.transposed else first.groups * first.filters), _work(first)


def inner_products(t: Tape, uses: Sequence[tuple[Use, str]]) -> str:
    """Append <W_f, dL_i/dW_f> [N, filters] of one weight: sum over pixels of delta (y - bias)."""
    parts = [_inner_product(t, use, grad) for use, grad in uses]
    return parts[0] if len(parts) == 1 else t.op("Sum", *parts)


def output_norms(t: Tape, uses: Sequence[tuple[Use, str]]) -> str:
    """Append ||dL_i/dy_f||^2 [N, filters] of one weight, y_f being what filter f computes at all positions."""
    parts = [_output_norm(t, use, grad) for use, grad in uses]
    return parts[0] if len(parts) == 1 else t.op("Sum", *parts)


def _output_norm(t: Tape, use: Use, grad: str) -> str:
    rank = len(t.dims(use.node.output[0]))
    if use.node.op_type in CONVOLUTIONS:
        norms = t.reduce("ReduceSumSquare", grad, range(2, rank)) if rank > 2 else t.mul(grad, grad)
        return _over_groups(t, norms, use)
    f = factors(t, use, grad)
    return t.reduce("ReduceSumSquare", by_sample(t, use, f, grad), [1])


def _over_groups(t: Tape, sums: str, use: Use) -> str:
    """[N, filters] of sums by output channel: a filter of a grouped ConvTranspose has one in each group."""
    groups = int(number(use.node, "group", 1))
    if use.node.op_type != "ConvTranspose" or groups == 1:
        return sums
    filters = t.static(use.node, use.node.output[0], [1])[0] // groups
    return t.reduce("ReduceSum", t.reshape(sums, -1, groups, filters), [1])


def _work(f: Factors) -> int:
    """Elements per sample that the direct form holds at a time."""
    held = 4 * f.groups * f.channels * f.inner
    return held + f.groups * f.channels * f.taps * f.pixels if f.narrow else held * (4 if f.depthwise else 1)


def _cheapest(f: Factors) -> str:
    """The form of least cost."""
    if f.direct and f.pixels == f.groups == 1:
        return "rank1"
    if f.depthwise:
        return "direct"
    direct = f.channels * f.taps * f.pixels * (f.filters + (0 if f.direct else COPY))
    gram = f.inner**2 * f.channels + f.filters * f.pixels * (f.pixels + 2 * COPY)
    if f.window is not None and not f.direct:
        gram += COPY * sum(f.window.kernel) * f.inner * f.pixels
    return "gram" if gram < direct else "direct"


def _gram_norms(t: Tape, f: Factors) -> str:
    """diag(delta (U^T U) delta^T)."""
    rows, columns = _rows(t, f), _columns(t, f)
    gram = t.op("MatMul", rows, columns)
    if f.window is not None and not f.direct:
        gram = _over_taps(t, gram, f.groups, f.window)
    delta = _delta(t, f)
    norms = t.reduce("ReduceSum", t.mul(t.op("MatMul", delta, gram), delta), [3])
    return t.reshape(norms, -1, f.groups * f.filters)


def _over_taps(t: Tape, gram: str, groups: int, w: Window) -> str:
    """Sum of [N, G, P, P] over taps, for the pixels that each reads: [N, G, L, L]."""
    rank = len(w.inner)
    begin = [max(0, p) for p in w.begin]
    end = [max(0, p) for p in w.end]
    grid = t.reshape(gram, -1, groups, *w.inner, *w.inner)
    if any(begin + end):
        grid = t.op("Pad", grid, t.ints(0, 0, *begin, *begin, 0, 0, *end, *end))
    for axis in range(rank):
        shifts = [_shifted(t, grid, (2 + axis, 2 + rank + axis), axis, w, tap) for tap in range(w.kernel[axis])]
        grid = shifts[0] if len(shifts) == 1 else t.op("Sum", *shifts)
    return t.reshape(grid, -1, groups, prod(w.outer), prod(w.outer))


def _shifted(t: Tape, x: str, axes: Sequence[int], axis: int, w: Window, tap: int) -> str:
    """What ``tap`` of a window reads along one spatial axis of the padded x, which x has at ``axes``."""
    start, step = tap * w.dilation[axis], w.stride[axis]
    stop = start + (w.outer[axis] - 1) * step + 1
    n = len(axes)
    return t.op("Slice", x, t.ints(*[start] * n), t.ints(*[stop] * n), t.ints(*axes), t.ints(*[step] * n))


def _blocks(t: Tape, f: Factors) -> list[str]:
    """Per-sample dW of each tap, [N, G, K, C]."""
    delta = _delta(t, f)
    if f.window is None or f.direct:
        return [t.op("MatMul", delta, _rows(t, f))]
    w, rank = f.window, len(f.window.inner)
    if f.depthwise:
        return [depthwise_gradient(t, f)]
    if f.narrow:
        patches = t.reshape(picked(t, f, np.eye(f.taps)), -1, f.groups, f.channels * f.taps, f.pixels)
        return [t.op("MatMul", delta, t.op("Transpose", patches, perm=[0, 1, 3, 2]))]
    x = padded(t, t.op("Transpose", f.x, perm=[0, 1, *range(3, 3 + rank), 2]), w, trailing=1)
    taps = (read(t, x, w, taps) for taps in product(*map(range, w.kernel)))
    return [t.op("MatMul", delta, t.reshape(one, 0, 0, -1, f.channels)) for one in taps]


def _delta(t: Tape, f: Factors) -> str:
    """[N, G, K, L]."""
    if f.window is not None:
        return f.delta
    return t.op("Transpose", t.reshape(f.delta, -1, 1, f.pixels, f.filters), perm=[0, 1, 3, 2])


def _rows(t: Tape, f: Factors) -> str:
    """X as [N, G, P, C]."""
    if f.window is None:
        return t.reshape(f.x, -1, 1, f.pixels, f.channels)
    return t.op("Transpose", t.reshape(f.x, -1, f.groups, f.channels, f.inner), perm=[0, 1, 3, 2])


def _columns(t: Tape, f: Factors) -> str:
    """X as [N, G, C, P]."""
    if f.window is None:
        return t.op("Transpose", _rows(t, f), perm=[0, 1, 3, 2])
    return t.reshape(f.x, -1, f.groups, f.channels, f.inner)


def _inner_product(t: Tape, use: Use, grad: str) -> str:
    """One node's share: its output without the bias, times the gradient, summed over all but samples and filters."""
    node = use.node
    if use.turned:
        return _product_with_weight(t, use, factors(t, use, grad))
    y = node.output[0]
    rank = len(t.dims(y))
    bias = node.input[2] if len(node.input) > 2 and node.op_type != "MatMul" else ""
    if bias and node.op_type == "Gemm":
        bias = t.mul(bias, t.scalar(number(node, "beta", 1.0), y))
    elif bias:
        bias = t.reshape(bias, -1, *[1] * (rank - 2))
    along = t.mul(grad, t.op("Sub", y, bias) if bias else y)
    f = factors(t, use, grad)
    if node.op_type == "Gather" and use.axis == 0:
        sums = t.reduce("ReduceSum", by_sample(t, use, f, along), [2], keepdims=True)
        return t.reduce("ReduceSum", t.mul(f.delta, sums), [1])
    if f.window is None:
        return t.reduce("ReduceSum", by_sample(t, use, f, along), [1])
    return _over_groups(t, t.reduce("ReduceSum", along, range(2, rank)), use)


def _product_with_weight(t: Tape, use: Use, f: Factors) -> str:
    """The share of a turned node, whose output says nothing of filters: its part of dW, times W."""
    weight = t.traced.values[use.weight]
    if f.window is not None:
        raise refuse(use.node, f"reads weight '{use.weight}' with its filters along another axis")
    part = t.mul(t.op("MatMul", _delta(t, f), _rows(t, f)), t.const(weight if len(weight) == f.filters else weight.T))
    return t.reshape(t.reduce("ReduceSum", part, [3]), -1, f.filters)
