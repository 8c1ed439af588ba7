"""Poolings, reductions, normalisations over an axis: labels along the reduced axis must stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channel_rules.contraction import along, axis_labels
from hqp_onnx.channel_rules.registry import rule

if TYPE_CHECKING:
    from hqp_onnx.channels import Walk

REDUCTIONS = tuple(
    f"Reduce{name}" for name in ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")
)


@rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _pool(walk: Walk, node: gs.Node) -> None:
    data = node.inputs[0]
    labels = axis_labels(walk, node, data, 1)
    if len(node.outputs) > 1:
        walk.freeze(labels, f"{node.op} '{node.name}' gives indices")
    walk.set(node.outputs[0], along(labels, 1, len(walk.sizes(data))))


@rule(*REDUCTIONS)
def _reduce(walk: Walk, node: gs.Node) -> None:
    data = node.inputs[0]
    labels = walk.labels(data)
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1].name:
        if not isinstance(node.inputs[1], gs.Constant):
            return walk.refuse(node, f"{node.op} '{node.name}' computes its axes")
        axes = node.inputs[1].values.tolist()
    if not axes:
        axes = [] if node.attrs.get("noop_with_empty_axes", 0) else list(range(labels.ndim))
    for axis in axes:
        if labels.shape[axis] > 1:
            walk.freeze(labels, f"{node.op} '{node.name}' reduces over channels")
            labels = labels.take([0], axis) * 0 - 1
    if not node.attrs.get("keepdims", 1):
        labels = np.squeeze(labels, tuple(axis % labels.ndim for axis in axes))
    walk.set(node.outputs[0], labels)
    return None


@rule("Softmax", "LogSoftmax", "Hardmax")
def _softmax(walk: Walk, node: gs.Node) -> None:
    labels = walk.labels(node.inputs[0])
    if labels.shape[node.attrs.get("axis", -1)] > 1:
        walk.freeze(labels, f"{node.op} '{node.name}' normalises over channels")
    walk.set(node.outputs[0], labels)
