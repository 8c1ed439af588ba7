"""Appends nodes to a traced model: the small language that gradient rules are written in."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hqp_onnx.arrays import Array
from hqp_onnx.errors import GradientError
from hqp_onnx.gradients.trace import Dims, Trace
from hqp_onnx.graphs.nodes import number, operator, opset
from hqp_onnx.graphs.unique_names import tensor_names, unused_prefix
from hqp_onnx.registry import Registry

Grads = Sequence[str | None]
Rule = Callable[["Tape", onnx.NodeProto, Grads, int], str | None]
"""A rule takes the tape, the node, the gradients of the node's outputs (None where it is zero) and the index i of an
input. It appends nodes to the tape and returns the name of the gradient of that input, in the input's shape, or None if
that is zero; what it cannot differentiate it refuses (``raise refuse(node, why)``)."""
RULES: Registry[Rule] = Registry("gradient rule", "hqp_onnx.gradient_rules", files=False)
"""By operator: ``Conv``, ``com.acme::Foo``; an installed package supplies a rule by an entry point of that name."""
rule = RULES.register
INSTEAD = "use {--saliency} l1, l2 or random, which need no gradient"


def refuse(node: onnx.NodeProto, why: str) -> GradientError:
    """The error for a node that cannot be differentiated."""
    return GradientError(f"{operator(node)} node '{node.name or node.output[0]}' {why}", INSTEAD)


class Tape:
    """A copy of ``model`` that grows. Tensor names are strings; new ones begin with ``prefix``, which is unused.

    Args:
        model: as ``passes.lowering.prepare_for_gradients`` returns it.
        traced: its trace.
    """

    def __init__(self, model: onnx.ModelProto, traced: Trace) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.traced = traced
        self.prefix = unused_prefix("hqp.", tensor_names(model.graph))
        self.memo: dict[Hashable, object] = {}  # what rules append once for several gradients
        self._constants: dict[tuple[Any, ...], str] = {}
        self._count = 0
        self._opset = opset(model)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; returns its name."""
        return self.outputs(kind, inputs, 1, **attributes)[0]

    def outputs(self, kind: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """Append a node with several outputs; returns their names."""
        names = [self.new_name() for _ in range(count)]
        self.model.graph.node.append(helper.make_node(kind, inputs, names, name=names[0], **attributes))
        return names

    def ints(self, *values: int) -> str:
        """A constant int64 vector."""
        return self.const(np.array(values, np.int64))

    def const(self, value: Array) -> str:
        """A constant; equal ones are stored once."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = name = self.new_name()
            self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return self._constants[key]

    def scalar(self, value: float, like: str) -> str:
        """A constant of rank 0 and the type of the traced tensor ``like``."""
        return self.const(np.array(value, self.traced.types[like]))

    def dims(self, name: str) -> Dims:
        """Traced shape."""
        return self.traced.dims[name]

    def static(self, node: onnx.NodeProto, name: str, axes: Sequence[int] | None = None) -> tuple[int, ...]:
        """Sizes along ``axes`` (all if None); refused if one of them grows with the batch."""
        dims = self.dims(name)
        sizes = tuple(n for n in (dims if axes is None else [dims[axis] for axis in axes]) if n is not None)
        if len(sizes) != len(dims if axes is None else axes):
            raise refuse(node, f"works along an axis of '{name}' that grows with the batch")
        return sizes

    def value(self, node: onnx.NodeProto, index: int) -> Array | None:
        """Constant value of an input; None where the input is absent."""
        if len(node.input) <= index or not node.input[index]:
            return None
        if node.input[index] not in self.traced.values:
            raise refuse(node, f"has no gradient rule where input {index} ('{node.input[index]}') is not constant")
        return self.traced.values[node.input[index]]

    def axis(self, node: onnx.NodeProto, default: int) -> int:
        """The attribute ``axis`` of a node, as an axis of its input 0."""
        return int(number(node, "axis", default)) % len(self.dims(node.input[0]))

    def add(self, a: str, b: str) -> str:
        """= a + b."""
        return self.op("Add", a, b)

    def mul(self, a: str, b: str) -> str:
        """= a * b."""
        return self.op("Mul", a, b)

    def mask(self, condition: str, like: str) -> str:
        """1 where ``condition``, else 0, in the type of the traced tensor ``like``."""
        return self.op("Cast", condition, to=helper.np_dtype_to_tensor_dtype(self.traced.types[like]))

    def onehot(self, indices: str, count: int, kind: np.dtype[Any]) -> str:
        """[..., count] of the type ``kind``; made in float32, which onnxruntime has for all types of indices."""
        ones = self.op("OneHot", indices, self.ints(count), self.const(np.array([0, 1], np.float32)))
        return ones if kind == np.float32 else self.op("Cast", ones, to=helper.np_dtype_to_tensor_dtype(kind))

    def compare(self, kind: str, a: str, b: float, like: str) -> str:
        """Mask of ``a kind b``, for instance Greater."""
        return self.mask(self.op(kind, a, self.scalar(b, like)), like)

    def inverse(self, x: str, like: str) -> str:
        """1 / x, and 0 where x = 0, in the type of the traced tensor ``like``."""
        is_zero = self.op("Equal", x, self.scalar(0, like))
        return self.op("Where", is_zero, self.scalar(0, like), self.op("Reciprocal", x))

    def reduce(self, kind: str, x: str, axes: Sequence[int], keepdims: bool = False) -> str:
        """ReduceSum, ReduceSumSquare, ReduceMax ... in the spelling of the model's opset."""
        if kind == "ReduceSum" or self._opset >= 18:
            return self.op(kind, x, self.ints(*axes), keepdims=int(keepdims))
        return self.op(kind, x, axes=list(axes), keepdims=int(keepdims))

    def reshape(self, x: str, *sizes: int) -> str:
        """Reshape to constant sizes, one of which may be -1."""
        return self.op("Reshape", x, self.ints(*sizes))

    def reshape_like(self, x: str, name: str) -> str:
        """``x`` in the shape of the traced tensor ``name``."""
        dims = self.dims(name)
        if dims.count(None) > 1 or 0 in dims:
            return self.op("Reshape", x, self.op("Shape", name))
        return self.reshape(x, *(-1 if n is None else n for n in dims))

    def reduce_to(self, x: str, dims: Dims, name: str) -> str:
        """Sum ``x`` of shape ``dims`` over the axes along which the traced tensor ``name`` was broadcast."""
        target = self.dims(name)
        extra = len(dims) - len(target)
        axes = [*range(extra), *(extra + i for i, n in enumerate(target) if n == 1 and dims[extra + i] != 1)]
        if not axes:
            return x
        summed = self.reduce("ReduceSum", x, axes, keepdims=True)
        return self.reshape_like(summed, name) if extra else summed

    def new_name(self) -> str:
        """Of a tensor, unused."""
        self._count += 1
        return f"{self.prefix}{self._count}"
