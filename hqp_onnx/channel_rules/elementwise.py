"""Operators that work position by position: operands are tied where they meet.

An axis of size 1 that is broadcast ties nothing. A constant that varies along the labelled axis becomes a
member of those units. Where labels vary along several axes, only the one that will leave matters to a constant
or to data without labels: what they must follow is decided at the end of the walk.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channel_map import IntArray
from hqp_onnx.channel_rules.lines import aligned, along, varied
from hqp_onnx.channel_rules.registry import rule

if TYPE_CHECKING:
    from hqp_onnx.channels import Walk

ZERO_TO_ZERO = (
    *("Relu", "LeakyRelu", "ThresholdedRelu", "Elu", "Celu", "Selu", "HardSwish", "Tanh", "Softsign", "Gelu", "Mish"),
    *("Swish", "Erf", "Abs", "Neg", "Sqrt", "Sin", "Ceil", "Floor", "Round", "Sign", "Identity", "Cast", "Dropout"),
    *("Atan", "Sinh", "Asinh"),
)
UNARY = (
    *ZERO_TO_ZERO,
    *("Sigmoid", "HardSigmoid", "Softplus", "Exp", "Cos", "Cosh", "Not", "Clip", "IsNaN", "IsInf", "Shrink"),
)
SUMS = ("Add", "Sub", "Max", "Min", "Sum", "Mean")
BINARY = (
    *SUMS,
    *("Mul", "PRelu", "Where", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor"),
)


@rule(*UNARY)
def _unary(walk: Walk, node: gs.Node) -> None:
    """Further inputs (bounds, ratios) are scalars; every output has the first input's labels."""
    data = node.inputs[0]
    for tensor in node.outputs:
        if tensor.name:
            walk.set(tensor, walk.labels(data), walk.zero(data) and node.op in ZERO_TO_ZERO)


@rule(*BINARY)
def _binary(walk: Walk, node: gs.Node) -> None:
    meet(walk, node)


@rule("Div", "Pow")
def _divide(walk: Walk, node: gs.Node) -> None:
    """A removed channel counts as zero, and zero divisors and exponents do not give zeros: such channels stay."""
    divisor = node.inputs[1]
    meet(walk, node)
    labels = walk.labels(node.outputs[0])
    size = _extent(walk, divisor, labels.ndim)
    negative = node.op == "Pow" and not (isinstance(divisor, gs.Constant) and (divisor.values > 0).all())
    if negative or any(size[axis] > 1 for axis in varied(labels)):
        walk.freeze(labels, f"{node.op} '{node.name}' by a value per channel, or one that may not be positive")


def meet(walk: Walk, node: gs.Node) -> None:
    """Tie the operands under broadcasting and label the result."""
    result, operands = node.outputs[0], node.inputs
    rank = len(walk.sizes(result))
    data = [aligned(walk.labels(t), rank) for t in operands if not isinstance(t, gs.Constant)]
    axes = varied(np.broadcast_to(0, np.broadcast_shapes(*(labels.shape for labels in data), (1,) * rank)))
    reason = f"{node.op} '{node.name}' meets channels that stay"
    met, zeros, later = [], [], []
    for tensor in operands:
        own, zero = _own(walk, tensor, axes, rank)
        zeros.append(zero)
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
    walk.set(result, labels, _vanishes(node.op, zeros))


def _own(walk: Walk, tensor: gs.Tensor, axes: list[int], rank: int) -> tuple[IntArray | None, bool]:
    """Labels that an operand brings, and whether it is zero where channels leave; None = known later."""
    if not isinstance(tensor, gs.Constant):
        labels = aligned(walk.labels(tensor), rank)
        waits = len(axes) > 1 and not varied(labels) and any(_extent(walk, tensor, rank)[axis] > 1 for axis in axes)
        return (None if waits else labels), walk.zero(tensor) and bool(varied(labels))
    spanned = [axis for axis in axes if _extent(walk, tensor, rank)[axis] > 1]
    if not spanned:
        return np.full((1,) * rank, -1), not np.any(tensor.values)
    if len(axes) > 1:
        return None, spanned == axes
    return along(walk.param(tensor, spanned[0] - rank + len(tensor.shape)), spanned[0], rank), True


def _extent(walk: Walk, tensor: gs.Tensor, rank: int) -> tuple[int, ...]:
    size = walk.sizes(tensor)
    return (1,) * (rank - len(size)) + size


def _vanishes(op: str, zeros: list[bool]) -> bool:
    """Whether removed channels of the result are zero."""
    if op in SUMS:
        return all(zeros)
    return any(zeros) if op == "Mul" else op in ("Div", "Pow", "PRelu") and zeros[0]
