"""Shapes change, values keep their order: labels are reshaped, transposed, repeated as the values are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.labels import aligned, along, varied
from hqp_onnx.channels.rules.contraction import turns_weight
from hqp_onnx.channels.rules.lines import computed
from hqp_onnx.channels.rules.registry import rewrite, rule
from hqp_onnx.channels.survivors import Survivors
from hqp_onnx.channels.walk_state import Walk


@rule("Flatten", "Squeeze", "Unsqueeze")
def _reshape(walk: Walk, node: gs.Node) -> None:
    if not computed(walk, node):
        _set_reshaped(walk, node)


@rule("Reshape")
def _reshape_to(walk: Walk, node: gs.Node) -> None:
    """A computed target can be restated where the size of every labelled axis is known."""
    result = node.outputs[0]
    _set_reshaped(walk, node)
    labels = walk.labels(result)
    if not isinstance(node.inputs[1], gs.Constant) and any(walk.dynamic(result)[axis] for axis in varied(labels)):
        computed(walk, node)


def _set_reshaped(walk: Walk, node: gs.Node) -> None:
    data, result = node.inputs[0], node.outputs[0]
    walk.set(result, reshape(walk.labels(data), walk.sizes(data), walk.sizes(result)), walk.residue(data))


def reshape(labels: IntArray, size: Sequence[int], target: Sequence[int]) -> IntArray:
    """Labels of a tensor of ``size`` reshaped to ``target``, of size 1 on axes that only mix unlabelled ones."""
    if (labels < 0).all() or 0 in size:
        return np.full((1,) * len(target), -1)
    wide: list[int] = []
    shape: list[int] = []
    i = j = 0
    while i < len(size) or j < len(target):
        first_i, first_j, inner, outer = i, j, 1, 1
        while inner != outer or (i, j) == (first_i, first_j):
            if inner <= outer and i < len(size):
                inner, i = inner * size[i], i + 1
            else:
                outer, j = outer * target[j], j + 1
        mixes = any(n > 1 for n in labels.shape[first_i:i])
        wide += size[first_i:i] if mixes else [1] * (i - first_i)
        shape += target[first_j:j] if mixes else [1] * (j - first_j)
    return np.broadcast_to(labels, wide).reshape(shape)


@rewrite("Reshape")
def _reshape_target(survivors: Survivors, node: gs.Node) -> None:
    """Entries 0 (copied) and -1 (inferred) stay true."""
    result, target = node.outputs[0], node.inputs[1]
    counts = survivors.counts(result)
    if isinstance(target, gs.Constant):
        counts = {axis: count for axis, count in counts.items() if target.values[axis] > 0}
    survivors.restate(node, 1, counts, survivors.rank(result))


@rule("Transpose")
def _transpose(walk: Walk, node: gs.Node) -> None:
    data = node.inputs[0]
    if turns_weight(node):
        for axis in range(len(data.shape)):
            walk.param(data, axis)  # which the products label
        return
    labels = walk.labels(data)
    walk.set(node.outputs[0], labels.transpose(node.attrs.get("perm") or range(labels.ndim)[::-1]), walk.residue(data))


@rule("Expand")
def _expand(walk: Walk, node: gs.Node) -> None:
    """A constant (a class token) with one axis of channels brings these."""
    data, result = node.inputs[0], node.outputs[0]
    rank = len(walk.sizes(result))
    labels, residue = walk.labels(data), walk.residue(data)
    if isinstance(data, gs.Constant):
        wide = [axis for axis, size in enumerate(data.shape) if size > 1]
        if len(wide) == 1:
            labels, residue = along(walk.param(data, wide[0]), wide[0], len(data.shape)), 0.0
    labels = aligned(labels, rank)
    if not isinstance(node.inputs[1], gs.Constant) and (
        walk.sizes(node.inputs[1]) != (rank,) or any(walk.dynamic(result)[axis] for axis in varied(labels))
    ):
        walk.freeze(labels, f"Expand '{node.name}' computes its shape in the graph")
    walk.set(result, labels, residue)


@rewrite("Expand")
def _expand_shape(survivors: Survivors, node: gs.Node) -> None:
    """The shape may be shorter than the result's rank, and then names its last axes."""
    result, shape = node.outputs[0], node.inputs[1]
    if not (counts := survivors.counts(result)):
        return
    size = len(shape.values) if isinstance(shape, gs.Constant) else survivors.rank(result)
    offset = survivors.rank(result) - size
    survivors.restate(node, 1, {axis - offset: n for axis, n in counts.items() if axis >= offset}, size)


@rule("Tile")
def _tile(walk: Walk, node: gs.Node) -> None:
    data, result = node.inputs[0], node.outputs[0]
    labels = walk.labels(data)
    repeats = np.asarray(walk.sizes(result)) // np.maximum(walk.sizes(data), 1)
    if any(repeats[axis] > 1 for axis in varied(labels)) and computed(walk, node):
        return
    labels = np.tile(labels, [int(n) if size > 1 else 1 for n, size in zip(repeats, labels.shape, strict=True)])
    walk.set(result, labels, walk.residue(data))
