"""Prove shapes and values node by node.

onnx's inference of a single node carries expressions that it need not understand, as names of dimensions. Where an
operator computes with sizes, a rule says how (``shape_rules``), and small integer tensors have a value, an expression
for each element (``value_rules``): Shape reads sizes, Reshape and its kin make sizes of values. What neither proves is
a symbol of its own. Names of dimensions mean what ONNX says: one name, one size; without a name, any size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, TypeProto, helper, numpy_helper, shape_inference

from hqp_onnx.arrays import Array
from hqp_onnx.graphs.draws import draws
from hqp_onnx.graphs.nodes import opset
from hqp_onnx.graphs.symbolic.expressions import Expression, integer, symbol
from hqp_onnx.graphs.symbolic.known import LARGEST_VALUE, Known, Reading, Value, each
from hqp_onnx.graphs.symbolic.shape_rules import SHAPES
from hqp_onnx.graphs.symbolic.value_rules import VALUES

_INTEGERS = frozenset([TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL])
_LARGE = 1 << 16  # elements of an initializer whose values inference does not need
_STANDARD = ("", "ai.onnx")


def propagate(
    model: onnx.ModelProto, measured: Mapping[str, Array], sizes: Mapping[str, int] = MappingProxyType({})
) -> Known:
    """Prove what can be proven of every tensor of ``model``.

    Args:
        model: nodes in topological order.
        measured: values in some run; they are taken for tensors that depend on constants alone.
        sizes: of open dimensions of inputs, by the text of their symbol (see ``demands``).
    """
    walk = _Walk(model, measured, sizes)
    for node in model.graph.node:
        walk.visit(node)
    return walk.known


def input_symbols(model: onnx.ModelProto) -> list[tuple[str, int]]:
    """The text of the symbol of every open dimension of an input, and its axis."""
    return [
        (dim_symbol(value.name, axis, dim.dim_param or None), axis)
        for value in model.graph.input
        for axis, dim in enumerate(value.type.tensor_type.shape.dim)
        if not dim.HasField("dim_value") or dim.dim_value < 0
    ]


def dim_symbol(tensor: str, axis: int, name: str | None) -> str:
    """The text of the symbol of a dimension of that ``name``, or without one."""
    return repr(name) if name else f"{tensor!r}[{axis}]"


class _Walk:
    """State of one propagation."""

    def __init__(self, model: onnx.ModelProto, measured: Mapping[str, Array], sizes: Mapping[str, int]) -> None:
        self.known = Known()
        self._measured, self._model = measured, model
        self._named: dict[str, Expression] = {}
        self._opset = opset(model)
        self._whole = _whole_model(model)
        for value in model.graph.input:
            dims = value.type.tensor_type.shape.dim
            names = [dim.dim_param for dim in dims if dim.dim_param]
            self._named.update({name: symbol(repr(name)) for name in names})
            self._settle(value.name, value.type)
            texts = [dim_symbol(value.name, axis, dim.dim_param) for axis, dim in enumerate(dims)]
            self._refine(value.name, [integer(sizes[text]) if text in sizes else None for text in texts])
        self._named.clear()  # from here on, names are texts of expressions
        for tensor in model.graph.initializer:
            if tensor.name not in self.known.dims:  # else it is the default value of an input
                self.known.types[tensor.name] = tensor.data_type
                self.known.dims[tensor.name] = tuple(map(integer, tensor.dims))
                self._learn(tensor.name, numpy_helper.to_array(tensor) if _count(tensor) <= LARGEST_VALUE else None)

    def visit(self, node: onnx.NodeProto) -> None:
        """Shapes, then values, of what a node makes."""
        standard, reading = node.domain in _STANDARD, Reading(node, self.known)
        found = self._inferred(node) if standard else {}
        for name in filter(None, node.output):
            self._settle(name, found.get(name), self._whole.get(name))
        if not standard:
            return
        if node.op_type in SHAPES:
            for name, told in zip(node.output, SHAPES[node.op_type](reading), strict=False):
                self._refine(name, told)
        if self._fixed(node):
            for name in filter(None, node.output):
                self._learn(name, self._measured.get(name))
            if node.output[0] in self._measured:
                return
        if node.op_type in VALUES and self.known.types.get(node.output[0]) in _INTEGERS:
            for name, value in zip(node.output, VALUES[node.op_type](reading), strict=False):
                if value is not None and np.size(value) <= LARGEST_VALUE:
                    self._know(name, np.asarray(value, object))

    def _learn(self, name: str, value: Array | None) -> None:
        """``name`` is a constant, of this value if that is known and small."""
        small = value is not None and value.size <= LARGEST_VALUE and value.dtype != object
        self.known.constants[name] = value if small else None
        if value is not None and small and value.dtype.kind in "iub":
            self.known.values[name] = each(value)

    def _know(self, name: str, value: Value) -> None:
        """Elements of ``name``; a constant if they are the same for all sizes."""
        self.known.values[name] = value
        if (found := self.known.integers(name)) is not None:
            self.known.constants[name] = found.astype(helper.tensor_dtype_to_np_dtype(self.known.types[name]))

    def _fixed(self, node: onnx.NodeProto) -> bool:
        """Whether all that a node reads is constant."""
        if draws(node.op_type, node.input) or any(entry.HasField("g") or entry.graphs for entry in node.attribute):
            return False
        return all(name in self.known.constants for name in node.input if name)

    def _settle(self, name: str, *stated: TypeProto | None) -> None:
        """Type and shape, of each dimension the first that is stated, else a symbol of its own."""
        kinds = [kind.tensor_type for kind in stated if kind is not None and kind.HasField("tensor_type")]
        for kind in kinds:
            if kind.elem_type:
                self.known.types.setdefault(name, kind.elem_type)
            if kind.HasField("shape"):
                self._refine(name, [self._expression(dim) for dim in kind.shape.dim])

    def _expression(self, dim: Any) -> Expression | None:
        if dim.HasField("dim_value"):
            return integer(dim.dim_value) if dim.dim_value >= 0 else None
        return self._named.get(dim.dim_param)

    def _refine(self, name: str, told: Sequence[Expression | None] | None) -> None:
        """Put what was told in the place of symbols that stand for nothing else; constants in the place of any."""
        if told is None or not name:
            return
        own = [symbol(dim_symbol(name, axis, None)) for axis in range(len(told))]
        known = self.known.dims.get(name, tuple(own))
        if len(known) == len(told):
            self.known.dims[name] = tuple(
                new if new is not None and (old == mine or (old.value is None and new.value is not None)) else old
                for old, new, mine in zip(known, told, own, strict=True)
            )

    def _inferred(self, node: onnx.NodeProto) -> dict[str, TypeProto]:
        """What onnx infers of one node, expressions standing in as names; nothing where it cannot."""
        names = [name for name in dict.fromkeys(node.input) if name]
        values = {name: value for name in names if (value := self.known.constants.get(name)) is not None}
        try:
            found: dict[str, TypeProto] = shape_inference.infer_node_outputs(
                onnx.defs.get_schema(node.op_type, self._opset, ""),
                node,
                {name: self._type(name) for name in names},
                {name: numpy_helper.from_array(value, name) for name, value in values.items()},
                opset_imports=list(self._model.opset_import),
                ir_version=self._model.ir_version,
            )
        except Exception:  # noqa: BLE001 - inference raises types of its own where a node is not what it expects
            return {}
        return found

    def _type(self, name: str) -> TypeProto:
        shape = self.known.dims.get(name)
        stated = None if shape is None else [self._stated(dim) for dim in shape]
        return helper.make_tensor_type_proto(self.known.types.get(name, TensorProto.UNDEFINED), stated)

    def _stated(self, dim: Expression) -> int | str:
        """A dimension as onnx's inference takes it."""
        if dim.value is not None:
            return dim.value
        self._named[str(dim)] = dim
        return str(dim)


def _whole_model(model: onnx.ModelProto) -> dict[str, TypeProto]:
    """What onnx infers of the whole model, as of nodes that hold graphs; shapes that the file claims are no proof."""
    small = onnx.ModelProto()
    small.CopyFrom(model)
    graph, values = small.graph, small.graph.initializer
    for tensor in [t for t in values if _count(t) > _LARGE]:
        graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        values.remove(tensor)
    for value in graph.input:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")
    _drop_claims(graph)
    try:
        inferred = shape_inference.infer_shapes(small, data_prop=True).graph
    except Exception:  # noqa: BLE001 - as above
        return {}
    found = [*inferred.value_info, *inferred.output]
    for value in found:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")  # inference makes names up
    return {value.name: value.type for value in found}


def _drop_claims(graph: onnx.GraphProto) -> None:
    """Forget the shapes that a file states of results, here and in the graphs of nodes."""
    for claim in [*graph.value_info, *graph.output]:
        if claim.type.HasField("tensor_type"):
            claim.type.tensor_type.ClearField("shape")
    for node in graph.node:
        for entry in node.attribute:
            for inner in [*entry.graphs, *([entry.g] if entry.HasField("g") else [])]:
                _drop_claims(inner)


def _count(tensor: TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))
