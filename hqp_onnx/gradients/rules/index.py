"""Rules of the operators that gather, scatter, order and accumulate.

Gathering at given positions and adding at these positions are adjoint; the positions themselves have no gradient.
Running sums are adjoint to running sums from the other end.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from hqp_onnx.gradients.rules.movement import put_back
from hqp_onnx.gradients.tape import Grads, Tape, refuse, rule
from hqp_onnx.graphs.nodes import attribute, number


@rule("Gather")
def gather(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """The axes of the indices become one; then a take, or a scatter where the indices are not constant."""
    axis, dims, index = t.axis(n, 0), t.dims(n.input[0]), n.input[1]
    lead, tail, within = dims[:axis], dims[axis + 1 :], t.dims(index)
    count = int(np.prod(t.static(n, index))) if None not in within else None
    if [*lead, count, *tail].count(None) > 1:
        raise refuse(n, "has no gradient rule where two axes grow with the batch")
    grad = str(g[0])
    if len(within) != 1:
        grad = t.reshape(grad, *(-1 if m is None else m for m in (*lead, count, *tail)))
    if index in t.traced.values:
        size = t.static(n, n.input[0], [axis])[0]
        return put_back(t, n, grad, t.traced.values[index].reshape(-1) % size, axis)
    column = t.reshape(index, *[1] * axis, -1, *[1] * len(tail))
    return _scatter(t, n, t.op("Expand", column, t.op("Shape", grad)), grad, axis)


@rule("GatherElements")
def gather_elements(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """ScatterElements that adds."""
    return _scatter(t, n, n.input[1], str(g[0]), t.axis(n, 0))


@rule("TopK")
def top_k(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Back to where the values were found."""
    return _scatter(t, n, n.output[1], str(g[0]), t.axis(n, -1))


@rule("GatherND")
def gather_nd(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """ScatterND that adds."""
    if number(n, "batch_dims", 0):
        raise refuse(n, "has no gradient rule with batch_dims")
    return t.op("ScatterND", _zeros(t, n.input[0]), n.input[1], str(g[0]), reduction="add")


@rule("ScatterElements", "ScatterND")
def scatter(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Data keep the gradient, except where they were overwritten; updates gather theirs."""
    mode, grad, index = attribute(n, "reduction", "none"), str(g[0]), n.input[1]
    if mode not in ("none", "add"):
        raise refuse(n, f"has no gradient rule for reduction '{mode}'")
    axis = {"axis": t.axis(n, 0)} if n.op_type == "ScatterElements" else {}
    if i == 2:
        return t.op(n.op_type.replace("Scatter", "Gather"), grad, index, **axis)
    return grad if mode == "add" else t.op(n.op_type, grad, index, _zeros(t, n.input[2]), **axis)


@rule("Compress")
def compress(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """A take of the positions that are true, along an axis or of the flattened input."""
    condition = t.value(n, 1)
    assert condition is not None
    if attribute(n, "axis") is None:
        raise refuse(n, "has no gradient rule without an axis")
    return put_back(t, n, str(g[0]), np.flatnonzero(condition), t.axis(n, 0))


@rule("Trilu")
def trilu(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """The same triangle."""
    return t.op("Trilu", str(g[0]), *n.input[1:], upper=int(number(n, "upper", 1)))


@rule("CumSum")
def cum_sum(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """From the other end."""
    exclusive, reverse = int(number(n, "exclusive", 0)), int(number(n, "reverse", 0))
    return t.op("CumSum", str(g[0]), n.input[1], exclusive=exclusive, reverse=1 - reverse)


@rule("ReverseSequence")
def reverse_sequence(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Its own inverse."""
    return t.op("ReverseSequence", str(g[0]), n.input[1], **_attributes(n))


def _scatter(t: Tape, n: onnx.NodeProto, index: str, g: str, axis: int) -> str:
    return t.op("ScatterElements", _zeros(t, n.input[0]), index, g, axis=axis, reduction="add")


def _zeros(t: Tape, like: str) -> str:
    return t.op("Expand", t.scalar(0, like), t.op("Shape", like))


def _attributes(n: onnx.NodeProto) -> dict[str, object]:
    return {entry.name: helper.get_attribute_value(entry) for entry in n.attribute}
