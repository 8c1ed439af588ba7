"""Poolings, reductions and scans over an axis: labels along that axis must stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channel_rules.lines import across, along, axis_labels, varied
from hqp_onnx.channel_rules.registry import rule

if TYPE_CHECKING:
    from hqp_onnx.channels import Walk

ZERO_TO_ZERO = tuple(f"Reduce{name}" for name in ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare"))
REDUCTIONS = (*ZERO_TO_ZERO, "ReduceLogSum", "ReduceLogSumExp")


@rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _pool(walk: Walk, node: gs.Node) -> None:
    data = node.inputs[0]
    labels = axis_labels(walk, node, data, 1)
    if len(node.outputs) > 1:
        walk.freeze(labels, f"{node.op} '{node.name}' gives indices")
    walk.set(node.outputs[0], along(labels, 1, len(walk.sizes(data))), walk.zero(data))


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
    axes = [axis % labels.ndim for axis in axes]
    labels = across(walk, labels, axes, f"{node.op} '{node.name}' reduces over channels")
    if not node.attrs.get("keepdims", 1):
        labels = np.squeeze(labels, tuple(axes))
    walk.set(node.outputs[0], labels, walk.zero(data) and node.op in ZERO_TO_ZERO)
    return None


@rule("ArgMax", "ArgMin")
def _position(walk: Walk, node: gs.Node) -> None:
    labels = walk.labels(node.inputs[0])
    axis = node.attrs.get("axis", 0) % labels.ndim
    labels = across(walk, labels, [axis], f"{node.op} '{node.name}' gives positions among channels")
    walk.set(node.outputs[0], labels if node.attrs.get("keepdims", 1) else np.squeeze(labels, axis))


@rule("CumSum")
def _running(walk: Walk, node: gs.Node) -> None:
    data, axis = node.inputs
    labels = walk.labels(data)
    axes = [axis.values.item() % labels.ndim] if isinstance(axis, gs.Constant) else varied(labels)
    labels = across(walk, labels, axes, f"{node.op} '{node.name}' sums along channels")
    walk.set(node.outputs[0], labels, walk.zero(data))


@rule("Trilu")
def _triangle(walk: Walk, node: gs.Node) -> None:
    """Rows and columns are numbered, so they stay."""
    labels = walk.labels(node.inputs[0])
    plane = [labels.ndim - 2, labels.ndim - 1]
    labels = across(walk, labels, plane, f"{node.op} '{node.name}' cuts along channels")
    walk.set(node.outputs[0], labels, walk.zero(node.inputs[0]))
