"""The weight gradient of sample i as a product: dW_i = delta_i U_i^T.

Per group, delta_i [K, L] is the gradient of the node's output and U_i [C T, L] holds, for each of its L pixels, the
T = prod(kernel) pixels of C channels that the window reads. Gemm and MatMul are windows of one tap, their pixels
the rows that belong to a sample. Gather of rows of a matrix is a product with onehot(indices). ConvTranspose is the
convolution from its output's gradient to its input, so there delta is the node's input, and filters lie along C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import onnx

from hqp_onnx.gradients.filters import Use
from hqp_onnx.gradients.samples import require_samples, samples_first
from hqp_onnx.gradients.tape import Tape, refuse
from hqp_onnx.gradients.trace import Dims
from hqp_onnx.gradients.window import adjoint_window, window
from hqp_onnx.graphs.nodes import number
from hqp_onnx.graphs.windows import Window

NARROW = 8  # channels


@dataclass(frozen=True)
class Factors:
    """``delta`` [N, groups, filters, *outer] or [N, L, K] rows; ``x`` [N, groups, channels, *inner] or [N, L, C] rows.

    ``window`` is None for rows. ``transposed``: filters lie along channels.
    """

    weight: str
    delta: str
    x: str
    groups: int
    filters: int
    channels: int
    pixels: int
    window: Window | None
    transposed: bool = False

    @property
    def inner(self) -> int:
        """Pixels of x."""
        return self.pixels if self.window is None else prod(self.window.inner)

    @property
    def taps(self) -> int:
        """T."""
        return 1 if self.window is None else prod(self.window.kernel)

    @property
    def depthwise(self) -> bool:
        """Whether every filter reads one channel of its own, through several taps."""
        return self.channels == self.filters == 1 and self.taps > 1

    @property
    def narrow(self) -> bool:
        """Whether the product of one tap would be too thin to be worth a call."""
        return self.channels <= NARROW and not (self.direct or self.depthwise or self.transposed)

    @property
    def direct(self) -> bool:
        """Whether U is x itself."""
        return self.window is None or self.window.pointwise


def factors(t: Tape, use: Use, grad: str) -> Factors:
    """Factors of the weight gradient of ``use``, ``grad`` being the gradient of its node's output.

    Where the use is turned, filters lie along what the node contracts: delta and x change places.

    Raises:
        GradientError: the node's input does not hold the samples one after the other along its first axis.
    """
    if use.turned:
        f = factors(t, replace(use, turned=False), grad)
        if f.window is not None:
            return replace(f, transposed=not f.transposed)
        return replace(f, delta=f.x, x=f.delta, filters=f.channels, channels=f.filters)
    if use.node.op_type in ("Gemm", "MatMul"):
        return _rows(t, use, grad)
    if use.node.op_type == "Gather":
        return _gathered(t, use, grad)
    node, weight = use.node, t.value(use.node, 1)
    assert weight is not None
    require_samples(t, node, node.input[0])
    if node.op_type == "ConvTranspose":
        w = adjoint_window(t, node, weight.shape[2:])
        x, delta = grad, node.input[0]
    else:
        w = window(t, node, weight.shape[2:], node.input[0], node.output[0])
        x, delta = node.input[0], grad
    filters, channels = weight.shape[0] // w.group, weight.shape[1]
    if set(w.kernel) == {1} and not any(w.begin):
        x, w = _thinned(t, x, w)
    shape = (-1, w.group, filters, prod(w.outer)), (-1, w.group, channels, *w.inner)
    return Factors(
        use.weight,
        t.reshape(delta, *shape[0]),
        t.reshape(x, *shape[1]),
        w.group,
        filters,
        channels,
        prod(w.outer),
        w,
        transposed=node.op_type == "ConvTranspose",
    )


def by_sample(t: Tape, use: Use, f: Factors, x: str) -> str:
    """``x``, which has the shape of what a node of rows gives, as [N, pixels, what it gives a pixel]."""
    index, own = (1, f.channels if use.axis == 0 else f.filters) if use.node.op_type == "Gather" else (0, f.filters)
    name = use.node.input[index]
    leading = len(t.dims(name)) - (1 - index)
    _, (moved,) = _samples_first(t, use.node, name, leading, [(x, (own,))])
    return t.reshape(moved, -1, f.pixels, own)


def _samples_first(
    t: Tape, node: onnx.NodeProto, name: str, leading: int, tensors: Sequence[tuple[str, Dims]]
) -> tuple[int, list[str]]:
    """Rows per sample, and ``tensors`` with samples first: their axes are the ``leading`` ones of ``name``, and own."""
    place, dims = t.traced.elsewhere.get(name), t.dims(name)
    if place is None or place.axis >= leading:
        rows = require_samples(t, node, name)
        return rows * prod(t.static(node, name, range(1, leading))), [tensor for tensor, _ in tensors]
    count = prod(t.static(node, name, [axis for axis in range(leading) if axis != place.axis]))
    moved = [samples_first(t, tensor, (*dims[:leading], *own), place) for tensor, own in tensors]
    return count * place.outer * place.inner, moved


def _rows(t: Tape, use: Use, grad: str) -> Factors:
    node, x = use.node, use.node.input[0]
    shape = t.static(node, node.input[1])
    channels, filters = shape if use.axis == 1 else shape[::-1]
    if node.op_type == "Gemm" and number(node, "transA", 0):
        raise refuse(node, "has no per-sample gradient where transA is 1")
    alpha = number(node, "alpha", 1.0)
    if alpha != 1:
        grad = t.mul(grad, t.scalar(alpha, x))
    leading = len(t.dims(x)) - 1
    count, (x, grad) = _samples_first(t, node, x, leading, ((x, t.dims(x)[-1:]), (grad, (filters,))))
    return Factors(
        use.weight,
        t.reshape(grad, -1, count, filters),
        t.reshape(x, -1, count, channels),
        1,
        filters,
        channels,
        count,
        None,
    )


def _gathered(t: Tape, use: Use, grad: str) -> Factors:
    """W[indices] = onehot(indices) W."""
    node, weight = use.node, t.value(use.node, 0)
    if weight is None or weight.ndim != 2:
        raise refuse(node, f"reads rows of weight '{use.weight}', which is no matrix")
    indices, (rows, columns) = node.input[1], weight.shape
    leading = len(t.dims(indices))
    count, (indices, grad) = _samples_first(t, node, indices, leading, ((indices, ()), (grad, (columns,))))
    onehot = t.onehot(t.reshape(indices, -1, count), rows, weight.dtype)
    grad = t.reshape(grad, -1, count, columns)
    if use.axis:
        return Factors(use.weight, grad, onehot, 1, columns, rows, count, None)
    return Factors(use.weight, onehot, grad, 1, rows, columns, count, None)


def joined(t: Tape, parts: Sequence[Factors]) -> Factors:
    """The sum of products of rows as one product, of all the rows."""
    first = parts[0]
    delta, x = (t.op("Concat", *names, axis=1) for names in ([p.delta for p in parts], [p.x for p in parts]))
    return replace(first, delta=delta, x=x, pixels=sum(p.pixels for p in parts))


def _thinned(t: Tape, x: str, w: Window) -> tuple[str, Window]:
    """The pixels that a 1x1 kernel reads, and the window that then reads them all."""
    axes = range(2, 2 + len(w.inner))
    if w.inner != w.outer:
        ends = [(n - 1) * s + 1 for n, s in zip(w.outer, w.stride, strict=True)]
        x = t.op("Slice", x, t.ints(*[0] * len(axes)), t.ints(*ends), t.ints(*axes), t.ints(*w.stride))
    ones = (1,) * len(axes)
    return x, Window(w.kernel, ones, ones, w.begin, w.outer, w.outer, w.group)
