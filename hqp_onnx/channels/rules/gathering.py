"""Gather: constant indices pick labels as they pick values, and are renumbered when channels are removed."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channels.labels import along, varied
from hqp_onnx.channels.rules.lines import keep_open
from hqp_onnx.channels.rules.registry import rewrite, rule
from hqp_onnx.channels.survivors import Survivors
from hqp_onnx.channels.walk_state import Walk


@rule("Gather")
def _gather(walk: Walk, node: gs.Node) -> None:
    """Indices along an axis without labels do not change the labels of the other axes."""
    data, indices = node.inputs
    if isinstance(data, gs.Constant):
        return _table(walk, node)
    keep_open(walk, node)
    labels = walk.labels(data)
    axis = node.attrs.get("axis", 0) % labels.ndim
    rank = len(walk.sizes(indices))
    if axis not in varied(labels):
        labels = labels.reshape(labels.shape[:axis] + (1,) * rank + labels.shape[axis + 1 :])
    elif isinstance(indices, gs.Constant):
        labels = labels.take(indices.values, axis)
    else:
        return walk.refuse(node, f"Gather '{node.name}' picks channels by computed indices")
    walk.set(node.outputs[0], labels, walk.residue(data))
    return None


def _table(walk: Walk, node: gs.Node) -> None:
    """Rows of an embedding: their columns are channels. Anything else stays as it is."""
    table, result = node.inputs[0], node.outputs[0]
    if len(table.shape) == 2 and node.attrs.get("axis", 0) % 2 == 0:
        rank = len(walk.sizes(result))
        walk.set(result, along(walk.param(table, 1), -1, rank), residue=0.0)


@rewrite("Gather")
def _indices(survivors: Survivors, node: gs.Node) -> None:
    """Positions that remain, renumbered, of every axis of the indices."""
    data, indices = node.inputs
    if isinstance(data, gs.Constant) or not (rank := survivors.rank(data)):
        return
    axis = node.attrs.get("axis", 0) % rank
    kept = survivors.mask(data, axis)
    if kept is None or kept.all():
        return
    values = (np.cumsum(kept) - 1)[indices.values]
    for i in range(indices.values.ndim):
        if (rows := survivors.mask(node.outputs[0], axis + i)) is not None:
            values = values.compress(rows, i)
    survivors.replace_input(node, 1, values)
