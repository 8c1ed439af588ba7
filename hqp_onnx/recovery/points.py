"""Where the features of two models are compared: tensors of one name through which all that the model knows must pass.

A cut of the original is a tensor after which no other tensor is waited for: the sums of a residual network, the
activations of a plain chain. Some of them, spread evenly over the depth, are enough to lead the way. A pruned model
has some of their channels; ``kept`` says which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from hqp_onnx.arrays import Array, BoolArray, IntArray
from hqp_onnx.channels.channel_map import ChannelMap
from hqp_onnx.gradients.trace import Dims, Trace
from hqp_onnx.graphs.nodes import reads

Kept = Mapping[str, Mapping[int, IntArray]]
"""Activation of the original -> axis -> positions that the changed model still has; all of the rest."""


@dataclass(frozen=True, eq=False)
class Point:
    """The tensor ``name`` of the original, what of it is compared, and the student's tensor ``mine``."""

    name: str
    mine: str
    kept: Mapping[int, IntArray]

    def cut(self, values: Array) -> Array:
        """The original's values, without what the other model lacks."""
        for axis, positions in self.kept.items():
            values = values.take(positions, axis)
        return values


def kept_positions(channels: ChannelMap, gone: BoolArray) -> Kept:
    """What remains of each activation without the units of the mask ``gone`` (``ChannelMap.removed``)."""
    kept: dict[str, dict[int, IntArray]] = {}
    for name, labels in channels.tensors.items():
        for axis in np.flatnonzero(np.array(labels.shape) > 1).tolist():
            lines = np.moveaxis(gone[labels], axis, 0).reshape(labels.shape[axis], -1)
            if lines.all(1).any():
                kept.setdefault(name, {})[axis] = np.flatnonzero(~lines.all(1))
    return kept


def cuts(model: onnx.ModelProto, traced: Trace) -> list[str]:
    """Float activations, in graph order, each of which is all that the rest of the model depends on."""
    constants = {tensor.name for tensor in model.graph.initializer}
    waiting = Counter(name for node in model.graph.node for name in reads(node))
    live = {value.name for value in model.graph.input} - constants
    active, names = set(live), []
    for node in model.graph.node:
        inputs = reads(node)
        for name in inputs:
            waiting[name] -= 1
        if active.isdisjoint(inputs):
            continue
        floats = [x for x in node.output if x in traced.types and np.issubdtype(traced.types[x], np.floating)]
        active.update(floats)
        live = {name for name in {*live, *floats} if waiting[name] > 0}
        names += [name for name in floats if live == {name}]
    return names


def choose(candidates: Sequence[str], student: Trace, teacher: Trace, kept: Kept, count: int) -> list[Point]:
    """At most ``count`` points that both models have in the same shape, spread evenly."""
    fitting = []
    for name in candidates:
        point = Point(name, name, kept.get(name, {}))
        apart = student.rows.get(name) == teacher.rows.get(name) == 1
        if apart and student.dims[name] == _cut_dims(teacher.dims[name], point):
            fitting.append(point)
    at = {round((i + 1) * len(fitting) / count) - 1 for i in range(count)} if fitting else set()
    return [fitting[i] for i in sorted(at) if i >= 0]


def _cut_dims(dims: Dims, point: Point) -> Dims | None:
    """Shape after the cut; None where a size that grows with the batch is in it."""
    if None in dims[1:]:
        return None
    return tuple(len(point.kept[axis]) if axis in point.kept else n for axis, n in enumerate(dims))
