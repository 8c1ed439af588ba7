"""Operators that work position by position: operands are tied where they meet.

An axis of size 1 that is broadcast ties nothing. A constant that varies along the labelled axis becomes a
member of those units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channel_map import IntArray
from hqp_onnx.channel_rules.contraction import along, axis_labels
from hqp_onnx.channel_rules.registry import rule

if TYPE_CHECKING:
    from hqp_onnx.channels import Walk

UNARY = (
    *("Relu", "LeakyRelu", "ThresholdedRelu", "Elu", "Celu", "Selu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh"),
    *("Softplus", "Softsign", "Gelu", "Mish", "Swish", "Erf", "Abs", "Neg", "Exp", "Sqrt"),
    *("Sin", "Cos", "Ceil", "Floor", "Round", "Sign", "Not", "Identity", "Cast", "Clip", "Dropout", "IsNaN", "Shrink"),
)
BINARY = ("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean", "PRelu", "Where", "Equal", "Greater", "Less", "And", "Or")


@rule(*UNARY)
def _unary(walk: Walk, node: gs.Node) -> None:
    """Further inputs (bounds, ratios) are scalars; every output has the first input's labels."""
    for tensor in node.outputs:
        if tensor.name:
            walk.set(tensor, walk.labels(node.inputs[0]))


@rule(*BINARY)
def _binary(walk: Walk, node: gs.Node) -> None:
    meet(walk, node, list(node.inputs))


@rule("Div", "Pow")
def _divide(walk: Walk, node: gs.Node) -> None:
    """A removed channel counts as zero, and zero divisors and exponents do not give zeros: such channels stay."""
    divisor = node.inputs[1]
    meet(walk, node, list(node.inputs))
    labels = walk.labels(node.outputs[0])
    size = _aligned(np.zeros(walk.sizes(divisor), bool), labels.ndim).shape
    negative = node.op == "Pow" and not (isinstance(divisor, gs.Constant) and (divisor.values > 0).all())
    if negative or any(n > 1 and size[axis] > 1 for axis, n in enumerate(labels.shape)):
        walk.freeze(labels, f"{node.op} '{node.name}' by a value per channel, or one that may not be positive")


def meet(walk: Walk, node: gs.Node, operands: list[gs.Tensor]) -> None:
    """Tie ``operands`` under broadcasting and label the result."""
    result = node.outputs[0]
    shape = walk.sizes(result)
    varied = [_aligned(walk.labels(t), len(shape)) for t in operands if not isinstance(t, gs.Constant)]
    spread = np.broadcast_shapes(*(labels.shape for labels in varied), (1,) * len(shape))
    axes = [axis for axis, size in enumerate(spread) if size > 1]
    labels = np.full(spread, -1)
    reason = f"{node.op} '{node.name}' meets channels that stay"
    met = []
    for tensor in operands:
        size = _aligned(np.zeros(walk.sizes(tensor), bool), len(shape)).shape
        if all(size[axis] == 1 for axis in axes) and not (walk_labels(walk, tensor) >= 0).any():
            continue
        if isinstance(tensor, gs.Constant):
            own = _constant(walk, node, tensor, axes, len(shape))
        else:
            own = _aligned(walk.labels(tensor), len(shape))
        met.append(own)
        labels = np.where(labels >= 0, labels, own)
    for own in met:
        walk.tie(own, labels, reason)
    walk.set(result, labels)


def walk_labels(walk: Walk, tensor: gs.Tensor) -> IntArray:
    """Labels of an activation; a constant has none of its own."""
    return np.array(-1) if isinstance(tensor, gs.Constant) else walk.labels(tensor)


def _aligned(labels: IntArray, rank: int) -> IntArray:
    return labels.reshape((1,) * (rank - labels.ndim) + labels.shape)


def _constant(walk: Walk, node: gs.Node, tensor: gs.Constant, axes: list[int], rank: int) -> IntArray:
    """Labels of a constant that varies along the labelled axis; along several it can follow none."""
    offset = rank - len(tensor.shape)
    own = [axis for axis in axes if axis >= offset and tensor.shape[axis - offset] > 1]
    if len(own) == 1:
        return along(walk.param(tensor, own[0] - offset), own[0], rank)
    return np.full((1,) * rank, -1)


@rule("BatchNormalization", "InstanceNormalization")
def _norm(walk: Walk, node: gs.Node) -> None:
    labels = axis_labels(walk, node, node.inputs[0], 1)
    if node.attrs.get("training_mode", 0) or not all(isinstance(t, gs.Constant) for t in node.inputs[1:]):
        return walk.refuse(node, f"{node.op} '{node.name}' computes its parameters")
    for tensor in node.inputs[1:]:
        walk.tie(walk.param(tensor, 0), labels, f"{node.op} '{node.name}' follows channels that stay")
    for tensor in node.outputs:
        if tensor.name:
            walk.set(tensor, along(labels, 1, len(walk.sizes(node.inputs[0]))))
    return None
