"""Normalisations. Statistics per channel follow it; statistics over channels would change if one were removed.

Groups are normalised apart, so a whole group may be removed. What is normalised along the labelled axis itself keeps
its channels, unless labels vary along another axis too, or the zeros of removed channels can be put back for the
statistics and cut off again (LayerNormalization of channels that are zero once removed).
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channels.labels import along, varied
from hqp_onnx.channels.rules.lines import across, axis_labels, collapse
from hqp_onnx.channels.rules.registry import rewrite, rule
from hqp_onnx.channels.survivors import Survivors
from hqp_onnx.channels.walk_state import Walk


@rule("BatchNormalization", "InstanceNormalization")
def _per_channel(walk: Walk, node: gs.Node) -> None:
    labels = axis_labels(walk, node, node.inputs[0], 1)
    if node.attrs.get("training_mode", 0) or not all(isinstance(t, gs.Constant) for t in node.inputs[1:]):
        return walk.refuse(node, f"{node.op} '{node.name}' computes its parameters")
    if (labels >= 0).any():
        for tensor in node.inputs[1:]:
            walk.tie(walk.param(tensor, 0), labels, f"{node.op} '{node.name}' follows channels that stay")
    for tensor in node.outputs:
        if tensor.name:
            walk.set(tensor, along(labels, 1, len(walk.sizes(node.inputs[0]))), residue=0.0)
    return None


@rule("GroupNormalization")
def _per_group(walk: Walk, node: gs.Node) -> None:
    """Parameters have one value per group (opset 18) or per channel (opset 21)."""
    data, *params = node.inputs
    labels = axis_labels(walk, node, data, 1)
    if not all(isinstance(t, gs.Constant) for t in params):
        return walk.refuse(node, f"{node.op} '{node.name}' computes its parameters")
    reason = f"{node.op} '{node.name}' normalises a group over channels"
    groups = collapse(walk, labels.reshape(node.attrs["num_groups"], -1), [1], reason).ravel()
    if (labels >= 0).any():
        for tensor in params:
            walk.tie(walk.param(tensor, 0), labels if tensor.shape[0] == len(labels) else groups, reason)
    walk.set(node.outputs[0], along(labels, 1, len(walk.sizes(data))), residue=0.0)
    return None


@rewrite("GroupNormalization")
def _group_count(survivors: Survivors, node: gs.Node) -> None:
    kept = survivors.mask(node.inputs[0], 1)
    if kept is not None:
        node.attrs["num_groups"] = int(kept.reshape(node.attrs["num_groups"], -1).any(axis=1).sum())


@rule("LayerNormalization", "RMSNormalization")
def _over_last_axes(walk: Walk, node: gs.Node) -> None:
    data, *params = node.inputs
    rank = len(walk.sizes(data))
    axes = range(node.attrs.get("axis", -1) % rank, rank)
    params = [tensor for tensor in params if tensor.name]
    if any(len(walk.sizes(t)) > len(axes) for t in params):
        return walk.refuse(node, f"{node.op} '{node.name}' has parameters for other axes than it normalises")
    labels = walk.labels(data)
    reason = f"{node.op} '{node.name}' normalises over channels"
    if walk.zero(data) and len(axes) == 1 and varied(labels) == [rank - 1] and _are_lines(params, labels.size):
        for tensor in params:
            walk.tie(walk.param(tensor, 0), labels.ravel(), reason)
        walk.set(node.outputs[0], labels, residue=0.0)
        return None
    labels = across(walk, labels, axes, reason)
    for tensor in node.outputs:
        if tensor.name:
            walk.set(tensor, labels)
    return None


def _are_lines(params: list[gs.Tensor], size: int) -> bool:
    return all(isinstance(tensor, gs.Constant) and list(tensor.shape) == [size] for tensor in params)


@rewrite("LayerNormalization", "RMSNormalization")
def _normalise_with_zeros(survivors: Survivors, node: gs.Node) -> None:
    """Zeros stand for the removed channels, so the statistics are those of the zeroed original."""
    data = node.inputs[0]
    last = survivors.rank(data) - 1
    lost = survivors.losses(data).get(last, 0)
    if not lost:
        return
    kept = survivors.counts(data)[last]
    for index, tensor in enumerate(node.inputs):
        if tensor.name:
            before = last if index == 0 else 0
            survivors.insert(node, index, "Pad", [tensor, np.array([0] * (2 * before + 1) + [lost])])
    survivors.cut(node, 0, last, kept)


@rule("Softmax", "LogSoftmax", "Hardmax")
def _softmax(walk: Walk, node: gs.Node) -> None:
    labels = walk.labels(node.inputs[0])
    axis = np.arange(labels.ndim)[node.attrs.get("axis", -1)]
    reason = f"{node.op} '{node.name}' normalises over channels"
    walk.set(node.outputs[0], across(walk, labels, [int(axis)], reason))
