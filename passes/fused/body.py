"""The body of a fused operator: standard nodes that compute the same, appended one by one.

    @body("com.microsoft::BiasGelu")
    def f(b: Body) -> Results

A body reads the node's inputs (``b.input``) and attributes (``b.attribute``), appends nodes (``b.op``), and returns the
node's outputs in order; trailing ones may be left out if nothing reads them. None means that it does not know this form
of the operator, and the node stays. Sizes are computed in the graph, and folded later where they are proven to be
constant; numbers of axes are those of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import Array
from hqp_onnx.graphs.nodes import attribute
from hqp_onnx.graphs.shapes import Shapes
from hqp_onnx.graphs.unique_names import UniqueNames

Results: TypeAlias = "Sequence[gs.Tensor] | None"
BODIES: dict[str, Callable[[Body], Results]] = {}


def body(*ops: str) -> Callable[[Callable[[Body], Results]], Callable[[Body], Results]]:
    """Register what operators compute."""

    def register(function: Callable[[Body], Results]) -> Callable[[Body], Results]:
        BODIES.update(dict.fromkeys(ops, function))
        return function

    return register


class Body:
    """The nodes that take the place of one.

    Args:
        node: the fused one.
        shapes: of the graph.
        kind: type of its numbers.
        opset: of the graph.
        names: that are free.
    """

    def __init__(self, node: gs.Node, shapes: Shapes, kind: np.dtype[Any], opset: int, names: UniqueNames) -> None:
        self.node, self.kind, self.opset = node, kind, opset
        self.nodes: list[gs.Node] = []
        self._shapes, self._names = shapes, names

    def input(self, index: int) -> gs.Tensor | None:
        """An input; None if it is absent."""
        given = index < len(self.node.inputs) and not self.node.inputs[index].is_empty()
        return self.node.inputs[index] if given else None

    def wants(self, index: int) -> bool:
        """Whether an output is asked for."""
        return index < len(self.node.outputs) and not self.node.outputs[index].is_empty()

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute; text as str."""
        return attribute(self.node, name, default)

    def shape(self, tensor: gs.Tensor) -> tuple[int, ...]:
        """Of an input, in some run."""
        return tuple(tensor.shape) if isinstance(tensor, gs.Constant) else self._shapes.sizes[tensor.name]

    def rank(self, tensor: gs.Tensor) -> int:
        """Axes of an input."""
        return len(self.shape(tensor))

    def proven(self, tensor: gs.Tensor, axis: int) -> int | None:
        """A size of an input if it is the same in all runs."""
        if isinstance(tensor, gs.Constant):
            return int(tensor.shape[axis])
        return None if self._shapes.varying(tensor.name)[axis] else self.shape(tensor)[axis]

    def is_boolean(self, tensor: gs.Tensor) -> bool:
        """Whether an input holds truth values."""
        kind = self._shapes.known.types.get(tensor.name)
        return kind == onnx.TensorProto.BOOL or tensor.dtype == bool

    def op(self, kind: str, *inputs: gs.Tensor | Array | float | None, **attrs: Any) -> gs.Variable:
        """The first output of a new node. Arrays become constants, floats constants of the node's type."""
        return self.ops(kind, 1, *inputs, **attrs)[0]

    def ops(self, kind: str, count: int, *inputs: gs.Tensor | Array | float | None, **attrs: Any) -> list[gs.Variable]:
        """All outputs of a new node."""
        name = self._names.node(f"{self.node.name}/{kind}")
        outputs = [gs.Variable(self._names.tensor(f"{self.node.name}/{kind}")) for _ in range(count)]
        tensors = [gs.Variable.empty() if x is None else self.tensor(x) for x in inputs]
        self.nodes.append(gs.Node(kind, name, attrs, tensors, outputs))
        return outputs

    def tensor(self, value: gs.Tensor | Array | float) -> gs.Tensor:
        """``value``, or a constant that holds it."""
        if isinstance(value, gs.Tensor):
            return value
        array = np.asarray(value, self.kind) if isinstance(value, float) else np.asarray(value)
        return gs.Constant(self._names.tensor(f"{self.node.name}/constant"), array)

    def add(self, tensor: gs.Tensor, *terms: gs.Tensor | None) -> gs.Tensor:
        """The sum of those that are there."""
        for term in terms:
            tensor = tensor if term is None else self.op("Add", tensor, term)
        return tensor

    def reshape(self, tensor: gs.Tensor, *sizes: int) -> gs.Variable:
        """0 copies a size, -1 is what is left."""
        return self.op("Reshape", tensor, np.array(sizes))

    def reshape_to(self, tensor: gs.Tensor, *sizes: int | gs.Tensor) -> gs.Variable:
        """Sizes that are computed, int64 [1], among them."""
        entries = [np.array([size]) if isinstance(size, int) else size for size in sizes]
        return self.op("Reshape", tensor, self.op("Concat", *entries, axis=0))

    def transpose(self, tensor: gs.Tensor, *perm: int) -> gs.Variable:
        """Axes in another order."""
        return self.op("Transpose", tensor, perm=list(perm))

    def unsqueeze(self, tensor: gs.Tensor, *axes: int) -> gs.Variable:
        """New axes of size 1."""
        return self.op("Unsqueeze", tensor, np.array(axes))

    def size(self, tensor: gs.Tensor, axis: int) -> gs.Variable:
        """A size, int64 [1]."""
        return self.op("Gather", self.op("Shape", tensor), np.array([axis]))

    def range(self, end: gs.Tensor, start: gs.Tensor | None = None) -> gs.Variable:
        """start, ..., end - 1, of int64 [1]."""
        first = np.array(0) if start is None else self.op("Squeeze", start)
        return self.op("Range", first, self.op("Squeeze", end), np.array(1))

    def number(self, tensor: gs.Tensor) -> gs.Variable:
        """``tensor`` in the node's type."""
        return self.op("Cast", tensor, to=onnx.helper.np_dtype_to_tensor_dtype(self.kind))
