"""What remains of each activation under a plan, and how a node restates a channel count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import Array, BoolArray, IntArray
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis
from hqp_onnx.graphs.unique_names import UniqueNames


class Survivors:
    """Which positions of each activation remain under a plan.

    ``added`` are nodes that rewrites put in, ``names`` names what they add.
    """

    def __init__(self, channels: ChannelMap, removed: BoolArray, names: UniqueNames) -> None:
        self._channels = channels
        self._removed = removed
        self.names = names
        self.added: list[gs.Node] = []

    def mask(self, tensor: gs.Tensor, axis: int) -> BoolArray | None:
        """Positions kept along ``axis``, bool [size]; None if labels do not vary there."""
        labels = self._channels.tensors.get(tensor.name)
        if labels is None or labels.shape[axis] == 1:
            return None
        lines = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)
        kept: BoolArray = np.any(~self._removed[lines], axis=1)
        return kept

    def line(self, weight: gs.Constant, axis: int) -> BoolArray | None:
        """Positions kept along an axis of an initializer, bool [size]; None if it names no channels."""
        labels = self._channels.members.get(ParamAxis(weight.name, axis))
        return None if labels is None else ~self._removed[labels]

    def rank(self, tensor: gs.Tensor) -> int:
        """Axes of a tensor with labels; 0 without."""
        labels = self._channels.tensors.get(tensor.name)
        return 0 if labels is None else labels.ndim

    def counts(self, tensor: gs.Tensor) -> dict[int, int]:
        """Positions kept along each axis that loses some."""
        return {axis: int(kept.sum()) for axis, kept in self._cut(tensor).items()}

    def losses(self, tensor: gs.Tensor) -> dict[int, int]:
        """Positions removed along each axis that loses some."""
        return {axis: int((~kept).sum()) for axis, kept in self._cut(tensor).items()}

    def _cut(self, tensor: gs.Tensor) -> dict[int, BoolArray]:
        masks = {axis: self.mask(tensor, axis) for axis in range(self.rank(tensor))}
        return {axis: kept for axis, kept in masks.items() if kept is not None and not kept.all()}

    def constant(self, wish: str, values: Array) -> gs.Constant:
        """A new constant, called ``wish`` if nothing else is."""
        return gs.Constant(self.names.tensor(wish), values)

    def replace_input(self, node: gs.Node, index: int, values: IntArray) -> None:
        """Give ``node`` its own constant with new values; other users of the old one keep it."""
        old = node.inputs[index]
        if not np.array_equal(old.values, values):
            node.inputs[index] = self.constant(f"{old.name}_{node.name}_pruned", values.astype(old.values.dtype))

    def restate(self, node: gs.Node, index: int, entries: Mapping[int, int], size: int) -> None:
        """Set entries of a shape input of ``size`` entries; one computed in the graph passes a new Where node."""
        if not entries:
            return None
        where = np.zeros(size, bool)
        values = np.zeros(size, np.int64)
        where[list(entries)], values[list(entries)] = True, list(entries.values())
        target = node.inputs[index]
        if isinstance(target, gs.Constant):
            return self.replace_input(node, index, np.where(where, values, target.values))
        self.insert(node, index, "Where", [where, values, target])
        return None

    def insert(
        self, node: gs.Node, index: int, op: str, operands: Sequence[gs.Tensor | IntArray | BoolArray], **attrs: object
    ) -> None:
        """Put a new node before an input of ``node``; arrays among its operands become constants."""
        old = node.inputs[index]
        stem = f"{old.name}_{node.name}_{index}_pruned"
        inputs = [t if isinstance(t, gs.Tensor) else self.constant(f"{stem}_{i}", t) for i, t in enumerate(operands)]
        node.inputs[index] = self.variable(stem, old.dtype)
        name = self.names.node(f"{stem}_{op}")
        self.added.append(gs.Node(op, name, attrs, inputs, [node.inputs[index]]))

    def add(
        self, wish: str, op: str, operands: Sequence[gs.Tensor | Array], into: gs.Tensor | None, **attrs: object
    ) -> gs.Tensor:
        """The result of a new node, in ``into`` if that is given; arrays among its operands become constants."""
        inputs = [
            t if isinstance(t, gs.Tensor) else self.constant(f"{wish}_{i}", np.asarray(t))
            for i, t in enumerate(operands)
        ]
        result = self.variable(wish, None) if into is None else into
        self.added.append(gs.Node(op, self.names.node(wish), attrs, inputs, [result]))
        return result

    def variable(self, wish: str, dtype: object) -> gs.Variable:
        """A new tensor, called ``wish`` if nothing else is."""
        return gs.Variable(self.names.tensor(wish), dtype)

    def cut(self, node: gs.Node, index: int, axis: int, size: int) -> None:
        """Put a Slice behind an output of ``node`` that keeps the first ``size`` positions along ``axis``."""
        old = node.outputs[index]
        stem = f"{old.name}_{node.name}_pruned"
        bounds = [self.constant(f"{stem}_{i}", np.array([n])) for i, n in enumerate((0, size, axis))]
        node.outputs[index], old.shape = gs.Variable(self.names.tensor(stem), old.dtype), None
        self.added.append(gs.Node("Slice", self.names.node(f"{stem}_Slice"), {}, [node.outputs[index], *bounds], [old]))
