"""Poolings, reductions and scans over an axis: labels along that axis must stay.

Reductions over channels that are zero once removed are the exception: sums do without them, and other reductions are
padded with zeros in place of removed channels, so a mean still divides by the original count.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channels.labels import along, varied
from hqp_onnx.channels.rules.lines import across, axis_labels
from hqp_onnx.channels.rules.registry import rewrite, rule
from hqp_onnx.channels.rules.residues import apply
from hqp_onnx.channels.survivors import Survivors
from hqp_onnx.channels.walk_state import Walk

SUMS = ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum")
REDUCTIONS = (*SUMS, "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp")


@rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _pool(walk: Walk, node: gs.Node) -> None:
    data = node.inputs[0]
    labels = axis_labels(walk, node, data, 1)
    if len(node.outputs) > 1:
        walk.freeze(labels, f"{node.op} '{node.name}' gives indices")
    walk.set(node.outputs[0], along(labels, 1, len(walk.sizes(data))), 0.0 if walk.zero(data) else None)


@rule(*REDUCTIONS)
def _reduce(walk: Walk, node: gs.Node) -> None:
    data = node.inputs[0]
    labels = walk.labels(data)
    if len(node.inputs) > 1 and node.inputs[1].name and not isinstance(node.inputs[1], gs.Constant):
        return walk.refuse(node, f"{node.op} '{node.name}' computes its axes")
    axes = _axes(node, labels.ndim)
    if walk.zero(data) and set(varied(labels)) <= set(axes):
        labels = np.full((1,) * labels.ndim, -1)
    labels = across(walk, labels, axes, f"{node.op} '{node.name}' reduces over channels")
    if not node.attrs.get("keepdims", 1):
        labels = np.squeeze(labels, tuple(axes))
    walk.set(node.outputs[0], labels, apply(node.op, [walk.residue(data)]))
    return None


def _axes(node: gs.Node, rank: int) -> list[int]:
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1].name:
        axes = node.inputs[1].values.tolist()
    if not axes:
        axes = [] if node.attrs.get("noop_with_empty_axes", 0) else range(rank)
    return [axis % rank for axis in axes]


@rewrite(*sorted(set(REDUCTIONS) - set(SUMS)))
def _put_zeros_back(survivors: Survivors, node: gs.Node) -> None:
    """As many zeros as channels were removed along a reduced axis: the result is that of the zeroed original."""
    data = node.inputs[0]
    rank = survivors.rank(data)
    pads = np.zeros(2 * rank, np.int64)
    for axis, lost in survivors.losses(data).items():
        pads[rank + axis] = lost if axis in _axes(node, rank) else 0
    if pads.any():
        survivors.insert(node, 0, "Pad", [data, pads])


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
    walk.set(node.outputs[0], labels, 0.0 if walk.zero(data) else None)


@rule("Trilu")
def _triangle(walk: Walk, node: gs.Node) -> None:
    """Rows and columns are numbered, so they stay."""
    labels = walk.labels(node.inputs[0])
    plane = [labels.ndim - 2, labels.ndim - 1]
    labels = across(walk, labels, plane, f"{node.op} '{node.name}' cuts along channels")
    walk.set(node.outputs[0], labels, 0.0 if walk.zero(node.inputs[0]) else None)
