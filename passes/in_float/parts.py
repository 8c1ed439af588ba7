"""What rewrites of quantized operators share: steps of integers, and a graph to add nodes to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import Array
from hqp_onnx.graphs.homes import at_home, chosen
from hqp_onnx.graphs.origin import CarryingGraph
from hqp_onnx.graphs.unique_names import UniqueNames


@dataclass(frozen=True)
class Steps:
    """What turns integers into numbers, s (q - z): of all, of each slice along ``axis``, or of blocks of these.

    ``kind`` is the type of the integers where there is no zero-point.
    """

    scale: gs.Tensor
    zero: gs.Tensor | None = None
    axis: int = 1
    block: int = 0
    kind: Any = np.uint8

    @property
    def known(self) -> bool:
        """Whether they are constants."""
        return isinstance(self.scale, gs.Constant) and (self.zero is None or isinstance(self.zero, gs.Constant))

    @property
    def inputs(self) -> list[gs.Tensor]:
        """As QuantizeLinear and DequantizeLinear take them."""
        return [self.scale] if self.zero is None else [self.scale, self.zero]

    def same(self, other: Steps) -> bool:
        """Whether they are surely those of ``other``."""
        alone = isinstance(self.scale, gs.Constant) and self.scale.values.size == 1
        alike = alone or (self.axis, self.block) == (other.axis, other.block)
        return alike and _equal(self.scale, other.scale) and _equal(self.zero, other.zero)

    def of(self, integers: Array) -> Array:
        """The numbers of ``integers``, float32, where the steps are known."""
        zero = 0 if self.zero is None else self._along(self.zero.values.astype(np.float32), integers)
        scale = self._along(self.scale.values.astype(np.float32), integers)
        return np.asarray((integers.astype(np.float32) - zero) * scale, self.scale.values.dtype)

    def _along(self, part: Array, whole: Array) -> Array:
        if part.size == 1:
            return part.reshape(())
        if self.block:
            return np.repeat(part, self.block, self.axis)[tuple(slice(n) for n in whole.shape)]
        if part.ndim > 1:  # of QLinearMatMul: it broadcasts
            return part
        return part.reshape([-1 if i == self.axis % whole.ndim else 1 for i in range(whole.ndim)])


def _equal(a: gs.Tensor | None, b: gs.Tensor | None) -> bool:
    if isinstance(a, gs.Constant) and isinstance(b, gs.Constant):
        return bool(np.array_equal(a.values, b.values))
    return a is b


class Work:
    """The graph that is rewritten, and names that are free in it."""

    def __init__(self, graph: gs.Graph) -> None:
        self.graph, self.names = graph, UniqueNames(graph)

    def op(
        self, kind: str, inputs: Sequence[gs.Tensor], wish: str, result: gs.Tensor | None = None, **attrs: Any
    ) -> gs.Tensor:
        """The output of a new node: ``result``, or a new tensor."""
        output = gs.Variable(self.names.tensor(wish)) if result is None else result
        self.graph.nodes.append(gs.Node(kind, self.names.node(wish), attrs, list(inputs), [output]))
        return output

    def constant(self, values: Array, wish: str) -> gs.Constant:
        """A new constant."""
        return gs.Constant(self.names.tensor(wish), np.array(values, order="C"))

    def floats(self, q: gs.Tensor, steps: Steps) -> gs.Tensor | None:
        """``q`` in float: a constant, or behind DequantizeLinear; None where a constant's steps are computed."""
        if not isinstance(q, gs.Constant):
            return self.op("DequantizeLinear", [q, *steps.inputs], f"{q.name}/float", axis=steps.axis)
        if not steps.known:
            return None
        return self.numbers(q, steps.of(q.values), range(len(q.shape)))

    def numbers(self, q: gs.Constant, values: Array, axes: Sequence[int]) -> gs.Constant:
        """A constant of the numbers that ``q`` stands for, its axes in another order: ``q`` is its home."""
        numbers = self.constant(values, f"{q.name}/float")
        if isinstance(self.graph, CarryingGraph):
            homes = self.graph.origin.homes
            if (home := homes.get(q.name) or at_home(q)) is not None:
                homes[numbers.name] = chosen(home, axes)
        return numbers


Rewrite = Callable[[Work, gs.Node], None]
"""Puts nodes in float in place of a node; one that it does not know stays."""


def input_of(node: gs.Node, index: int) -> gs.Tensor | None:
    """An input; None if it is absent."""
    given = index < len(node.inputs) and not node.inputs[index].is_empty()
    return node.inputs[index] if given else None


def steps_of(node: gs.Node, index: int, axis: int = 1) -> Steps:
    """The scale at an input and the zero-point behind it."""
    return Steps(node.inputs[index], input_of(node, index + 1), axis)


def name_of(node: gs.Node) -> str:
    """The name of a node, or that of its result."""
    return str(node.name or node.outputs[0].name)
