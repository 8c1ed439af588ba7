"""Conv, ConvTranspose, Gemm, MatMul: the weight's input axis is tied to the data, its output axis labels the result.

A depthwise convolution ties input to output. In any other grouped convolution column j of every group is one
unit, so that groups stay equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channel_map import IntArray
from hqp_onnx.channel_rules.registry import Survivors, rewrite, rule

if TYPE_CHECKING:
    from hqp_onnx.channels import Walk


def axis_labels(walk: Walk, node: gs.Node, tensor: gs.Tensor, axis: int) -> IntArray:
    """Labels along one axis, [size]; labels that vary along others are tied along these."""
    labels = walk.labels(tensor)
    for other, size in enumerate(labels.shape):
        if size > 1 and other != axis % labels.ndim:
            first = labels.take([0], other)
            walk.tie(labels, first, f"{node.op} '{node.name}' reads channels that stay beside them")
            labels = first
    return np.broadcast_to(labels.ravel(), (walk.sizes(tensor)[axis],))


def along(labels: IntArray, axis: int, rank: int) -> IntArray:
    """A line of labels laid along one axis of a tensor of ``rank``."""
    return labels.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def _untouched(node: gs.Node) -> str:
    return f"{node.op} '{node.name}' reads channels that stay"


@rule("Conv", "ConvTranspose")
def _conv(walk: Walk, node: gs.Node) -> None:
    data, weight = node.inputs[:2]
    if not isinstance(weight, gs.Constant):
        return walk.refuse(node, f"{node.op} '{node.name}' has a computed weight")
    groups = node.attrs.get("group", 1)
    inputs = axis_labels(walk, node, data, 1)
    result = node.outputs[0]
    out_axis, in_axis = (0, 1) if node.op == "Conv" else (1, 0)
    channels, outputs = len(inputs), walk.sizes(result)[1]
    if groups == 1:
        walk.tie(walk.param(weight, in_axis), inputs, _untouched(node))
        labels = walk.param(weight, out_axis)
    elif groups == channels:
        labels = inputs.repeat(outputs // groups)
        if node.op == "Conv":
            walk.tie(walk.param(weight, 0), labels, _untouched(node))
        else:
            walk.tie(walk.param(weight, 0), inputs, _untouched(node))
            if outputs > groups:  # the weight holds only the columns of a group
                walk.freeze(labels, f"ConvTranspose '{node.name}' widens each group")
    else:
        labels = _grouped(walk, node, weight, inputs, outputs)
    if len(node.inputs) > 2:
        _bias(walk, node, node.inputs[2], labels)
    walk.set(result, along(labels, 1, len(walk.sizes(result))))
    return None


def _grouped(walk: Walk, node: gs.Node, weight: gs.Constant, inputs: IntArray, outputs: int) -> IntArray:
    """Tie column j of every group, on either side; output labels."""
    groups = node.attrs["group"]
    reason = f"a column of the groups of '{node.name}' is fixed"
    rows = inputs.reshape(groups, -1)
    walk.tie(rows, rows[:1], reason)
    if node.op == "Conv":
        walk.tie(walk.param(weight, 1), rows[0], reason)
        labels = walk.param(weight, 0)
        columns = labels.reshape(groups, -1)
        walk.tie(columns, columns[:1], reason)
        return labels
    walk.tie(walk.param(weight, 0), inputs, reason)
    return np.tile(walk.param(weight, 1), groups) if outputs > groups else np.full(outputs, -1)


def _bias(walk: Walk, node: gs.Node, bias: gs.Tensor, labels: IntArray) -> None:
    if isinstance(bias, gs.Constant):
        walk.tie(walk.param(bias, 0), labels, f"bias of '{node.name}' is shared with channels that stay")
    else:
        walk.freeze(labels, f"{node.op} '{node.name}' has a computed bias")


@rewrite("Conv", "ConvTranspose")
def _group_count(survivors: Survivors, node: gs.Node) -> None:
    """A depthwise convolution has as many groups as channels."""
    kept = survivors.mask(node.inputs[0], 1)
    if kept is not None and node.attrs.get("group", 1) == len(kept):
        node.attrs["group"] = int(kept.sum())


@rule("Gemm")
def _gemm(walk: Walk, node: gs.Node) -> None:
    data, weight = node.inputs[:2]
    if not isinstance(weight, gs.Constant) or isinstance(data, gs.Constant):
        return walk.refuse(node, f"Gemm '{node.name}' has no constant weight")
    transposed = node.attrs.get("transB", 0)
    inputs = axis_labels(walk, node, data, 0 if node.attrs.get("transA", 0) else 1)
    walk.tie(walk.param(weight, 1 if transposed else 0), inputs, _untouched(node))
    labels = walk.param(weight, 0 if transposed else 1)
    if len(node.inputs) > 2:
        addend = node.inputs[2]
        if not isinstance(addend, gs.Constant):
            walk.tie(labels[None], walk.labels(addend), _untouched(node))
        elif addend.shape and addend.shape[-1] == len(labels):
            walk.tie(walk.param(addend, len(addend.shape) - 1), labels, _untouched(node))
    walk.set(node.outputs[0], labels[None])
    return None


@rule("MatMul")
def _matmul(walk: Walk, node: gs.Node) -> None:
    left, right = node.inputs
    weight, data = (right, left) if isinstance(right, gs.Constant) else (left, right)
    if not isinstance(weight, gs.Constant) or len(weight.shape) != 2 or len(walk.sizes(data)) < 2:
        return walk.refuse(node, f"MatMul '{node.name}' has no constant matrix")
    contracted, in_axis, out_axis = (-1, 0, 1) if weight is right else (-2, 1, 0)
    rank = len(walk.sizes(data))
    carried = walk.labels(data)
    if carried.shape[contracted] == 1 and (carried >= 0).any():  # labels of rows or of a batch pass through
        for axis in (in_axis, out_axis):
            walk.freeze(walk.param(weight, axis), f"MatMul '{node.name}' carries labels along another axis")
        walk.set(node.outputs[0], carried)
        return None
    inputs = axis_labels(walk, node, data, contracted)
    walk.tie(walk.param(weight, in_axis), inputs, _untouched(node))
    walk.set(node.outputs[0], along(walk.param(weight, out_axis), contracted, rank))
    return None
