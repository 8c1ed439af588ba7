"""Rules of the linear maps: y = A x, dx = A^T g."""

from __future__ import annotations

import numpy as np
import onnx

from hqp_onnx.gradients.prepare import attribute
from hqp_onnx.gradients.tape import Grads, Tape, number, refuse, rule
from hqp_onnx.gradients.window import Window, scatter_back, window
from hqp_onnx.runtime import Array


@rule("Conv")
def conv(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """The adjoint of a convolution."""
    weight = t.value(n, 1)
    if i or weight is None:
        raise refuse(n, "has no gradient rule for its weight or bias as an activation")
    w = window(t, n, weight.shape[2:], n.input[0], n.output[0])
    return scatter_back(t, str(g[0]), n.input[1], weight, w)


@rule("ConvTranspose")
def conv_transpose(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """The convolution of which the node is the adjoint."""
    weight = t.value(n, 1)
    if i or weight is None:
        raise refuse(n, "has no gradient rule for its weight or bias as an activation")
    return t.op("Conv", str(g[0]), n.input[1], **adjoint_window(t, n, weight.shape[2:]).attributes())


def adjoint_window(t: Tape, n: onnx.NodeProto, kernel: tuple[int, ...]) -> Window:
    """The window of the convolution (from y to x) of which a ConvTranspose node is the adjoint."""
    if attribute(n, "auto_pad", "NOTSET") not in ("NOTSET", "VALID") or attribute(n, "output_shape"):
        raise refuse(n, "has no gradient rule with auto_pad or output_shape: make its pads explicit")
    return window(t, n, kernel, n.output[0], n.input[0])


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
    """Y = A B: dA = g B^T, dB = A^T g, summed over broadcast batch axes."""
    a, b = n.input
    if min(len(t.dims(a)), len(t.dims(b))) < 2:
        raise refuse(n, "has no gradient rule for operands of rank 1")
    lead = t.dims(n.output[0])[:-2]
    if i == 0:
        return t.reduce_to(t.op("MatMul", str(g[0]), _swapped(t, b)), lead + t.dims(a)[-2:], a)
    return t.reduce_to(t.op("MatMul", _swapped(t, a), str(g[0])), lead + t.dims(b)[-2:], b)


@rule("BatchNormalization")
def batch_normalization(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """At inference a fixed scale gamma / sqrt(var + eps) per channel."""
    gamma, var = t.value(n, 1), t.value(n, 4)
    if i or gamma is None or var is None or number(n, "training_mode", 0):
        raise refuse(n, "has no gradient rule in training mode")
    scale: Array = gamma / np.sqrt(var + number(n, "epsilon", 1e-5))
    return t.mul(str(g[0]), t.const(scale.astype(gamma.dtype).reshape(-1, *[1] * (len(t.dims(n.input[0])) - 2))))


def _swapped(t: Tape, x: str) -> str:
    rank = len(t.dims(x))
    return t.op("Transpose", x, perm=[*range(rank - 2), rank - 1, rank - 2])
