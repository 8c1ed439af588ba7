"""Rules of the linear maps: y = A x, dx = A^T g."""

from __future__ import annotations

from string import ascii_letters

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.gradients.tape import Grads, Tape, refuse, rule
from hqp_onnx.gradients.weight_gradient import weight_gradient
from hqp_onnx.gradients.window import adjoint_window, scatter_back, window
from hqp_onnx.graphs.nodes import attribute, number


@rule("Conv")
def conv(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """The adjoint of a convolution; its weight's gradient correlates input and output."""
    if i == 2:
        return _channel_sums(t, str(g[0]), n)
    w = window(t, n, t.static(n, n.input[1])[2:], n.input[0], n.output[0])
    if i == 1:
        return weight_gradient(t, n, str(g[0]), n.input[0], w)
    return scatter_back(t, str(g[0]), n.input[1], t.traced.values.get(n.input[1]), w)


@rule("ConvTranspose")
def conv_transpose(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """The convolution of which the node is the adjoint: from the output's gradient to the input."""
    if i == 2:
        return _channel_sums(t, str(g[0]), n)
    w = adjoint_window(t, n, t.static(n, n.input[1])[2:])
    if i == 1:
        return weight_gradient(t, n, n.input[0], str(g[0]), w)
    return t.op("Conv", str(g[0]), n.input[1], **w.attributes())


@rule("Gemm")
def gemm(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Y = alpha A' B' + beta C, A' and B' being A and B or their transposes."""
    ta, tb = int(number(n, "transA", 0)), int(number(n, "transB", 0))
    alpha, grad = number(n, "alpha", 1.0), str(g[0])
    if i == 2:
        scaled = t.mul(grad, t.scalar(number(n, "beta", 1.0), n.output[0]))
        return t.reduce_to(scaled, t.dims(n.output[0]), n.input[2])
    a, b = n.input[:2]
    left, right, flags = (grad, b, (0, 1 - tb)) if i == 0 else (a, grad, (1 - ta, 0))
    if (ta, tb)[i]:
        left, right, flags = right, left, (1 - flags[1], 1 - flags[0])
    return t.op("Gemm", left, right, alpha=alpha, transA=flags[0], transB=flags[1])


@rule("MatMul")
def matmul(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Y = A B: dA = g B^T, dB = A^T g, summed over broadcast batch axes; a vector is a row A or a column B."""
    (a, b), grad = n.input, str(g[0])
    left, right = t.dims(a), t.dims(b)
    lead = t.dims(n.output[0])[: max(len(left), len(right), 2) - 2]
    column, row = len(right) == 1, len(left) == 1
    if column:
        b, right, grad = t.op("Unsqueeze", b, t.ints(1)), (*right, 1), t.op("Unsqueeze", grad, t.ints(-1))
    if row:
        a, left, grad = t.op("Unsqueeze", a, t.ints(0)), (1, *left), t.op("Unsqueeze", grad, t.ints(-2))
    if i == 0:
        return t.reduce_to(t.op("MatMul", grad, _swapped(t, b, len(right))), lead + left[-2:], n.input[0])
    if len(right) == 2 and None not in right and not column:
        rows = (t.reshape(x, -1, size) for x, size in zip((a, grad), t.static(n, n.input[1]), strict=True))
        return t.op("Gemm", *rows, transA=1)
    product, inner = t.op("MatMul", _swapped(t, a, len(left)), grad), lead + right[-2:]
    return t.reduce_to(
        t.op("Squeeze", product, t.ints(-1)) if column else product, inner[:-1] if column else inner, n.input[1]
    )


@rule("Einsum")
def einsum(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """The same sum of products with the operand and the output in each other's place.

    A letter that only this operand has was summed away; ones bring it back.
    """
    operands, output = _letters(t, n)
    mine = operands.pop(i)
    others = [name for place, name in enumerate(n.input) if place != i]
    lost = [letter for letter in mine if letter not in output + "".join(operands)]
    if lost:
        sizes = t.static(n, n.input[i], [mine.index(letter) for letter in lost])
        operands, others = [*operands, "".join(lost)], [*others, t.const(np.ones(sizes, t.traced.types[n.input[i]]))]
    return t.op("Einsum", str(g[0]), *others, equation=f"{','.join([output, *operands])}->{mine}")


def _letters(t: Tape, n: onnx.NodeProto) -> tuple[list[str], str]:
    """Subscripts of the operands and of the output, without ellipses."""
    equation = str(attribute(n, "equation", "")).replace(" ", "")
    inputs, arrow, output = equation.partition("->")
    if not arrow:
        letters = sorted(set(inputs) - set(",."))
        output = ("..." if "..." in inputs else "") + "".join(x for x in letters if inputs.count(x) == 1)
    terms = inputs.split(",")
    ranks = [len(t.dims(name)) - len(term.replace(".", "")) for term, name in zip(terms, n.input, strict=True)]
    spare = [x for x in ascii_letters if x not in equation]
    most = max((rank for rank, term in zip(ranks, terms, strict=True) if "." in term), default=0)
    explicit = [
        term.replace("...", "".join(spare[most - rank : most])) for rank, term in zip(ranks, terms, strict=True)
    ]
    sizes: dict[str, int | None] = {}
    for term, name in zip(explicit, n.input, strict=True):
        for letter, size in zip(term, t.dims(name), strict=True):
            if len(set(term)) < len(term) or sizes.setdefault(letter, size) != size:
                raise refuse(n, "has no gradient rule for a diagonal or a broadcast axis")
    return explicit, output.replace("...", "".join(spare[:most]))


@rule("BatchNormalization")
def batch_normalization(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """At inference u = (x - mean) / sqrt(var + eps), then scale and bias, per channel."""
    mean, var = t.value(n, 3), t.value(n, 4)
    if i > 2 or mean is None or var is None or number(n, "training_mode", 0):
        raise refuse(n, "has no gradient rule in training mode")
    if i == 2:
        return _channel_sums(t, str(g[0]), n)
    inverse: Array = (1 / np.sqrt(var + number(n, "epsilon", 1e-5))).astype(var.dtype)
    if i == 1:
        along = _channel_sums(t, t.mul(str(g[0]), n.input[0]), n)
        centre = t.mul(_channel_sums(t, str(g[0]), n), t.const(mean))
        return t.mul(t.op("Sub", along, centre), t.const(inverse))
    scale = t.mul(n.input[1], t.const(inverse))
    return t.mul(str(g[0]), t.reshape(scale, -1, *[1] * (len(t.dims(n.input[0])) - 2)))


def _channel_sums(t: Tape, x: str, n: onnx.NodeProto) -> str:
    """Sums over all axes but that of channels, ``x`` being of the shape of the node's output."""
    return t.reduce("ReduceSum", x, [axis for axis in range(len(t.dims(n.output[0]))) if axis != 1])


def _swapped(t: Tape, x: str, rank: int) -> str:
    return t.op("Transpose", x, perm=[*range(rank - 2), rank - 1, rank - 2])
