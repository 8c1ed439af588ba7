"""Conv, ConvTranspose: the weight's input axis is tied to the data, its output axis labels the result.

A depthwise convolution ties input to output. In any other grouped convolution column j of every group is one
unit, so groups stay equal.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.labels import along
from hqp_onnx.channels.rules.lines import axis_labels
from hqp_onnx.channels.rules.registry import rewrite, rule
from hqp_onnx.channels.survivors import Survivors
from hqp_onnx.channels.walk_state import Walk
from hqp_onnx.graphs.weight_axes import weight_axes


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
    axes = weight_axes(node, len(weight.shape))
    channels, outputs = len(inputs), walk.sizes(result)[1]
    if groups == 1:
        walk.tie(walk.param(weight, axes.input), inputs, _untouched(node))
        labels = walk.param(weight, axes.output)
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
    walk.set(result, along(labels, 1, len(walk.sizes(result))), residue=0.0)
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
