"""Labels as lines: along one axis of a tensor, or collapsed across some of its axes."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.labels import varied
from hqp_onnx.channels.walk_state import Walk


def collapse(walk: Walk, labels: IntArray, axes: Collection[int], reason: str) -> IntArray:
    """Tie labels along ``axes``, which become of size 1: whole lines are removed together."""
    for axis in axes:
        if labels.shape[axis] > 1:
            first = labels.take([0], axis)
            walk.tie(labels, first, reason)
            labels = first
    return labels


def across(walk: Walk, labels: IntArray, axes: Collection[int], reason: str) -> IntArray:
    """Labels of what is computed across ``axes``: size 1 there.

    Where labels vary along other axes too (heads), whole lines are removed together. Otherwise they must stay.
    """
    if set(varied(labels)) - set(axes):
        return collapse(walk, labels, axes, reason)
    if set(varied(labels)) & set(axes):
        walk.freeze(labels, reason)
        return np.full((1,) * labels.ndim, -1)
    return labels


def axis_labels(walk: Walk, node: gs.Node, tensor: gs.Tensor, axis: int) -> IntArray:
    """Labels along one axis, [size]; labels that vary along others are tied along these."""
    labels = walk.labels(tensor)
    others = set(range(labels.ndim)) - {axis % labels.ndim}
    labels = collapse(walk, labels, others, f"{node.op} '{node.name}' reads channels that stay beside them")
    return np.broadcast_to(labels.ravel(), (walk.sizes(tensor)[axis],))


def constant_input(node: gs.Node, index: int) -> IntArray | None:
    """Values of an optional constant input; None if it is absent."""
    if len(node.inputs) <= index or not node.inputs[index].name:
        return None
    return np.asarray(node.inputs[index].values)


def computed(walk: Walk, node: gs.Node, first: int = 1) -> bool:
    """Refuse a node whose shape inputs are computed in the graph, unless no labels pass."""
    if all(isinstance(t, gs.Constant) for t in node.inputs[first:] if t.name):
        return False
    if (walk.labels(node.inputs[0]) >= 0).any():
        walk.refuse(node, f"{node.op} '{node.name}' computes its shape in the graph")
    return True


def keep_open(walk: Walk, node: gs.Node) -> None:
    """Freeze labels along an axis whose size is open: which of them a position has differs from size to size."""
    labels = walk.labels(node.inputs[0])
    if any(walk.dynamic(node.inputs[0])[axis] for axis in varied(labels)):
        walk.freeze(labels, f"{node.op} '{node.name}' picks positions along an axis whose size is open")
