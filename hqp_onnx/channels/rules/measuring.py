"""Shape arithmetic that stays in the graph: which channels each of its values counts.

A count that only becomes an entry of a shape input is harmless where that very axis of the result loses the
same channels: pruning restates the entry. Any other reader of a count freezes the channels.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.rules.lines import constant_input
from hqp_onnx.channels.rules.registry import rule
from hqp_onnx.channels.walk_state import Walk
from hqp_onnx.graphs.nodes import operator

Counts = list[IntArray]  # for each entry of a vector, the labels that it counts, along the first axis
SHAPE_INPUT = {"Reshape": 1, "Expand": 1, "Resize": 3}
NONE = np.zeros(0, np.int64)


@rule("Shape")
def _shape(walk: Walk, node: gs.Node) -> None:
    data = node.inputs[0]
    if isinstance(data, gs.Constant):
        return
    labels = walk.labels(data)
    axes = range(labels.ndim)[node.attrs.get("start", 0) : node.attrs.get("end", labels.ndim)]
    walk.count(node.outputs[0], [np.moveaxis(labels, axis, 0) if labels.shape[axis] > 1 else NONE for axis in axes])


@rule("Size", "ConstantOfShape", "Range")
def _size(walk: Walk, node: gs.Node) -> None:
    if not isinstance(node.inputs[0], gs.Constant):
        walk.freeze(walk.labels(node.inputs[0]), f"{node.op} '{node.name}' measures channels")


def pass_counts(walk: Walk, node: gs.Node) -> None:
    """Carry the counts that ``node`` reads to its result or into a shape, or freeze what they count."""
    counts = [walk.counts(tensor) for tensor in node.inputs]
    if not any(counts):
        return
    index = SHAPE_INPUT.get(operator(node))
    if (carried := _carried(walk, node, counts)) is not None:
        walk.count(node.outputs[0], carried)
    elif index is not None and not any(counts[:index]) and len(counts[index]) == len(walk.sizes(node.outputs[0])):
        for axis, labels in enumerate(counts[index]):
            walk.name_size(node.outputs[0], axis, labels, f"{node.op} '{node.name}' names the number of channels")
    else:
        for labels in (labels for entries in counts for labels in entries):
            walk.freeze(labels, f"{node.op} '{node.name}' computes with the number of channels")


def _carried(walk: Walk, node: gs.Node, counts: list[Counts]) -> Counts | None:
    """Counts of the result of an operator that moves entries of vectors; None for any other."""
    op = operator(node)
    if op in ("Squeeze", "Unsqueeze", "Cast", "Identity"):
        return None if any(counts[1:]) else counts[0]
    if op == "Concat":
        missing = [[NONE] * int(np.prod(walk.sizes(tensor))) for tensor in node.inputs]
        return [labels for own, none in zip(counts, missing, strict=True) for labels in own or none]
    if op == "Where" and isinstance(node.inputs[0], gs.Constant):
        size = walk.sizes(node.outputs[0])[0]
        yes, no = (own * (size // len(own)) if own else [NONE] * size for own in counts[1:])
        mask = np.broadcast_to(node.inputs[0].values, size)
        return [a if taken else b for taken, a, b in zip(mask, yes, no, strict=True)]
    if op not in ("Gather", "Slice") or not all(isinstance(t, gs.Constant) for t in node.inputs[1:] if t.name):
        return None
    numbers = np.arange(len(counts[0]))
    if op == "Gather":
        return [counts[0][i] for i in numbers.take(node.inputs[1].values).ravel()]
    steps = constant_input(node, 4)
    start, stop = int(node.inputs[1].values[0]), int(node.inputs[2].values[0])
    return counts[0][start : stop : 1 if steps is None else int(steps[0])]
