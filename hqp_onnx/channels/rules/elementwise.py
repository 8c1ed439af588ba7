"""Operators that work position by position: operands are tied where they meet.

An axis of size 1 that is broadcast ties nothing. A constant that varies along the labelled axis becomes a
member of those units. Where labels vary along several axes, only the one along which units are removed matters
to a constant or to data without labels: what they must follow is decided at the end of the walk.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.labels import aligned, along, varied
from hqp_onnx.channels.rules.registry import rule
from hqp_onnx.channels.rules.residues import ZERO_TO_ZERO, apply
from hqp_onnx.channels.walk_state import Walk

UNARY = (
    *ZERO_TO_ZERO,
    *("Sigmoid", "HardSigmoid", "Softplus", "Exp", "Cos", "Cosh", "Not", "Clip", "IsNaN", "IsInf", "Shrink"),
)
BINARY = (
    *("Add", "Sub", "Max", "Min", "Sum", "Mean", "Mul", "PRelu", "Where"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor"),
)


@rule(*UNARY)
def _unary(walk: Walk, node: gs.Node) -> None:
    """Further inputs (bounds, ratios) are scalars; every output has the first input's labels."""
    data, *further = node.inputs
    operands = [walk.residue(data)]
    if node.op == "Cast":
        operands.append(node.attrs["to"])
    elif node.op == "Clip":
        operands += [walk.residue(t) if t.name else end for t, end in zip(further, (-np.inf, np.inf), strict=False)]
    for tensor in node.outputs:
        if tensor.name:
            walk.set(tensor, walk.labels(data), apply(node.op, operands))


@rule("Reciprocal", "Log")
def _unary_from_positive(walk: Walk, node: gs.Node) -> None:
    """Not defined at zero: removed channels that leave another value behind may pass."""
    _unary(walk, node)
    labels = walk.labels(node.outputs[0])
    if apply(node.op, [walk.residue(node.inputs[0])]) is None:
        walk.freeze(labels, f"{node.op} '{node.name}' of what may be zero")


@rule(*BINARY)
def _binary(walk: Walk, node: gs.Node) -> None:
    meet(walk, node)


@rule("Div", "Pow")
def _divide(walk: Walk, node: gs.Node) -> None:
    """Dividing by zero has no result: channels stay unless removal leaves no zero in the divisor; Pow likewise."""
    result, second = node.outputs[0], node.inputs[1]
    residues = meet(walk, node)
    labels = walk.labels(result)
    size = _extent(walk, second, labels.ndim)
    spans = any(size[axis] > 1 for axis in varied(labels))
    if node.op == "Div":
        safe = not spans or bool(residues[1])
    else:
        safe = not spans and isinstance(second, gs.Constant) and (second.values > 0).all()
    if not safe and (node.op == "Div" or apply("Pow", residues) is None):
        walk.freeze(labels, f"{node.op} '{node.name}' by a value per channel, or one that may not be positive")


def meet(walk: Walk, node: gs.Node) -> list[float | None]:
    """Tie the operands under broadcasting and label the result; what removed channels leave in each operand."""
    result, operands = node.outputs[0], node.inputs
    rank = len(walk.sizes(result))
    data = [aligned(walk.labels(t), rank) for t in operands if not isinstance(t, gs.Constant)]
    axes = varied(np.broadcast_to(0, np.broadcast_shapes(*(labels.shape for labels in data), (1,) * rank)))
    reason = f"{node.op} '{node.name}' meets channels that stay"
    met, residues, later = [], [], []
    for tensor in operands:
        own, residue = _own(walk, tensor, axes, rank)
        residues.append(residue)
        if own is None:
            later.append(tensor)
        elif (own >= 0).any() or any(_extent(walk, tensor, rank)[axis] > 1 for axis in axes):
            met.append(own)
    labels = np.full((1,) * rank, -1)
    for own in met:
        labels = np.where(labels >= 0, labels, own)
    for own in met:
        walk.tie(own, labels, reason)
    spans = sorted((set(varied(own)) for own in met), key=len)
    if any(not small <= large for small, large in itertools.pairwise(spans)):  # rows meet columns
        for own in met:
            walk.freeze(own, reason)
        labels = np.full((1,) * rank, -1)
    for tensor in later:
        walk.follow(tensor, labels, reason)
    walk.set(result, labels, apply(node.op, residues))
    return residues


def _own(walk: Walk, tensor: gs.Tensor, axes: list[int], rank: int) -> tuple[IntArray | None, float | None]:
    """Labels that an operand brings, and what removed channels leave in it; no labels = known later."""
    if not isinstance(tensor, gs.Constant):
        labels = aligned(walk.labels(tensor), rank)
        waits = len(axes) > 1 and not varied(labels) and any(_extent(walk, tensor, rank)[axis] > 1 for axis in axes)
        return (None if waits else labels), walk.residue(tensor)
    spanned = [axis for axis in axes if _extent(walk, tensor, rank)[axis] > 1]
    if not spanned:
        return np.full((1,) * rank, -1), walk.residue(tensor)
    if len(axes) > 1:
        return None, 0.0 if spanned == axes else None
    return along(walk.param(tensor, spanned[0] - rank + len(tensor.shape)), spanned[0], rank), 0.0


def _extent(walk: Walk, tensor: gs.Tensor, rank: int) -> tuple[int, ...]:
    size = walk.sizes(tensor)
    return (1,) * (rank - len(size)) + size
