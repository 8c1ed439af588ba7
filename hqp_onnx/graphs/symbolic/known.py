"""What is proven of a model's tensors so far, as rules ask for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from hqp_onnx.arrays import Array
from hqp_onnx.graphs.nodes import attribute
from hqp_onnx.graphs.symbolic.expressions import Expression, integer

Dims: TypeAlias = "tuple[Expression, ...]"
Value: TypeAlias = "NDArray[Any]"  # of Expressions
LARGEST_VALUE = 512  # elements


@dataclass(frozen=True)
class Known:
    """What is proven of a model's tensors.

    Attributes:
        dims: shape, of tensors whose number of axes is known.
        types: element types, as ``onnx.TensorProto`` numbers them.
        values: elements of small tensors of integers or truth values.
        constants: values of tensors that are the same for all inputs, None of large ones.
    """

    dims: dict[str, Dims] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    constants: dict[str, Array | None] = field(default_factory=dict)

    def integers(self, name: str) -> Array | None:
        """The value that a small tensor of integers has for all sizes, as int64, or None."""
        found = [entry.value for entry in self.values[name].flat] if name in self.values else [None]
        return None if None in found else np.array(found, np.int64).reshape(self.values[name].shape)


@dataclass(frozen=True)
class Reading:
    """One node, and what is known of what it reads."""

    node: onnx.NodeProto
    known: Known

    def has(self, index: int) -> bool:
        """Whether an input is given."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def dims(self, index: int = 0) -> Dims | None:
        """Shape of an input."""
        return self.known.dims.get(self.node.input[index]) if self.has(index) else None

    def value(self, index: int) -> Value | None:
        """Elements of an input."""
        return self.known.values.get(self.node.input[index]) if self.has(index) else None

    def numbers(self, index: int, default: Sequence[int] | None = None) -> list[int] | None:
        """Elements of an input, if they are known; ``default`` if it is not given."""
        if not self.has(index):
            return None if default is None else list(default)
        found = self.known.integers(self.node.input[index])
        return None if found is None else [int(n) for n in found.flat]

    def result(self, index: int = 0) -> Dims | None:
        """Shape of an output, as far as it was found."""
        return self.known.dims.get(self.node.output[index])

    def attribute(self, name: str, default: Any = None) -> Any:
        """Value of an attribute; text as str."""
        return attribute(self.node, name, default)


ShapeRule: TypeAlias = "Callable[[Reading], Sequence[Sequence[Expression | None] | None]]"
"""Shapes of a node's outputs, in order; None for what the rule does not say."""
ValueRule: TypeAlias = "Callable[[Reading], Sequence[Value | None]]"
"""Elements of a node's outputs, in order."""


def each(value: Array) -> Value:
    """An array of numbers as one of expressions."""
    found = np.empty(value.size, object)
    found[:] = [integer(int(n)) for n in value.flat]
    return found.reshape(value.shape)
