"""Cast a float32 graph to float16; inputs and outputs keep their type.

Every float32 weight and activation becomes float16, rounded to nearest; finite weights stay finite (|w| <= 65504).
Where the ONNX schema of an operator's input or output has no float16 (sizes of Resize, boxes of NonMaxSuppression,
operators of unknown domains), it keeps float32, with a Cast where the value is an activation. A graph with
QuantizeLinear is brought to opset 19 first: from there on scales and what surrounds the integers may be float16, which
is what a strongly typed TensorRT network needs to run the layers between them in float16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hqp_onnx.errors import ModelError, one_line
from hqp_onnx.model_io import is_quantized, to_graph, to_proto
from hqp_onnx.passes.base import PassResult
from hqp_onnx.tensor_types import FLOAT, element_types

__all__ = ["cast_float16"]

HALF = onnx.TensorProto.FLOAT16
_QDQ_OPSET = 19
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = 2.0**-24  # of positive float16 values
_TYPED = {  # operators whose result is float32 unless this attribute says otherwise
    **dict.fromkeys(("RandomNormal", "RandomUniform"), "dtype"),
    **dict.fromkeys(("HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix"), "output_datatype"),
}

Array = NDArray[Any]


def cast_float16(graph: gs.Graph) -> PassResult:
    """``graph`` (float32, or symmetric Q/DQ) in float16.

    Raises:
        ModelError: a node holds a subgraph (If, Loop, Scan), or the opset of a Q/DQ graph cannot be raised to 19.
    """
    graph = _with_opset(graph)
    if node := next((n for n in graph.nodes if any(isinstance(v, gs.Graph) for v in n.attrs.values())), None):
        raise ModelError(
            f"node '{node.name}' ({node.op}) holds a subgraph, which stays in float32: use --precision fp32"
        )
    return _Caster(graph).cast()


def _with_opset(graph: gs.Graph) -> gs.Graph:
    """A copy, at opset 19 or above where it holds Q/DQ."""
    if graph.opset >= _QDQ_OPSET or not any(is_quantized(node.op) for node in graph.nodes):
        return graph.copy()
    try:
        return to_graph(onnx.version_converter.convert_version(to_proto(graph), _QDQ_OPSET))
    except Exception as e:  # the converter raises bare RuntimeError and its own types
        raise ModelError(
            f"opset {graph.opset} cannot be converted to {_QDQ_OPSET}: {one_line(e)}. Export it anew"
        ) from e


class _Caster:
    """The graph being cast, the types that its tensors had, and the casts already made."""

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        types = element_types(graph)
        self.floats = {name for name, kind in types.items() if kind == FLOAT}
        self.versions = {domain or "": version for domain, version in _imports(graph).items()}
        self.made: dict[tuple[str, bool], gs.Tensor] = {}
        self.casts: list[gs.Node] = []
        self.clipped = 0

    def cast(self) -> PassResult:
        """Rewrite every node, then the borders of the graph."""
        nodes = list(self.graph.nodes)
        for node in nodes:
            schema = self.schema(node)
            self.attributes(node)
            for i, tensor in enumerate(node.inputs):
                if tensor.name in self.floats:
                    kind = HALF if _takes(schema, "inputs", i) else FLOAT
                    node.inputs[i] = self.as_type(tensor, kind, i == 1 and is_quantized(node.op))
            for i, tensor in enumerate(node.outputs):
                if tensor.name in self.floats and not _takes(schema, "outputs", i):
                    node.outputs[i] = self.widened(tensor)
        self.borders()
        self.graph.nodes += self.casts
        self.graph.cleanup().toposort()
        notes = [f"{len(nodes)} nodes in float16, {len(self.casts)} casts"]
        if self.clipped:
            notes.append(f"{self.clipped} weights beyond {_LARGEST:.0f} were clipped")
        return PassResult(self.graph, True, tuple(notes))

    def schema(self, node: gs.Node) -> onnx.defs.OpSchema | None:
        """The operator's schema; None for one that onnx does not know."""
        domain = node.domain or ""
        try:
            return onnx.defs.get_schema(node.op, self.versions.get(domain, 1), domain)
        except onnx.defs.SchemaError:
            return None

    def attributes(self, node: gs.Node) -> None:
        """Types and values that a node states itself, or by default."""
        if node.op in _TYPED:
            node.attrs.setdefault(_TYPED[node.op], FLOAT)
        for key in ("to", "dtype", "output_datatype"):
            if node.attrs.get(key) in (FLOAT, np.float32):
                node.attrs[key] = HALF
        if node.op == "ConstantOfShape":
            node.attrs.setdefault("value", gs.Constant(f"{node.name}/value", np.zeros(1, np.float32)))
        for key in ("value_float", "value_floats"):
            if key in node.attrs:
                node.attrs["value"] = gs.Constant(f"{node.name}/value", np.asarray(node.attrs.pop(key), np.float32))
        value = node.attrs.get("value")
        if isinstance(value, gs.Constant) and value.values.dtype == np.float32:
            node.attrs["value"] = gs.Constant(value.name, self.half(value.values))

    def as_type(self, tensor: gs.Tensor, kind: int, scale: bool) -> gs.Tensor:
        """What a node that wants ``kind`` reads in place of ``tensor``, made once; ``scale`` must not become zero."""
        wide = isinstance(tensor, gs.Constant) or self.is_input(tensor)  # float32 still; the others are float16 now
        if wide == (kind == FLOAT):
            return tensor
        if (tensor.name, scale) not in self.made:
            self.made[tensor.name, scale] = self.converted(tensor, kind, scale)
        return self.made[tensor.name, scale]

    def converted(self, tensor: gs.Tensor, kind: int, scale: bool) -> gs.Tensor:
        """A float16 copy of a constant, or a Cast of an activation."""
        if isinstance(tensor, gs.Constant):
            least = np.float16(_SMALLEST if scale else -np.inf)
            name = f"{tensor.name}/scale16" if scale else f"{tensor.name}/float16"
            return gs.Constant(name, np.asarray(np.maximum(self.half(tensor.values), least)))
        suffix, dtype = ("float16", np.float16) if kind == HALF else ("float32", np.float32)
        output = gs.Variable(f"{tensor.name}/{suffix}", dtype, tensor.shape)
        self.casts.append(gs.Node("Cast", f"{tensor.name}/to_{suffix}", {"to": kind}, [tensor], [output]))
        return output

    def widened(self, tensor: gs.Tensor) -> gs.Variable:
        """A float32 result, cast to the float16 that its readers expect."""
        result = gs.Variable(f"{tensor.name}/wide", np.float32, tensor.shape)
        self.casts.append(gs.Node("Cast", f"{tensor.name}/narrowed", {"to": HALF}, [result], [tensor]))
        return result

    def borders(self) -> None:
        """Outputs keep name and type, behind a Cast; every other float32 activation is float16 now."""
        for i, tensor in enumerate(self.graph.outputs):
            if tensor.name in self.floats and not self.is_input(tensor):
                output = gs.Variable(tensor.name, np.float32, tensor.shape)
                tensor.name = f"{tensor.name}/float16"
                tensor.dtype = np.float16
                self.casts.append(gs.Node("Cast", f"{output.name}/to_float32", {"to": FLOAT}, [tensor], [output]))
                self.graph.outputs[i] = output
        for tensor in self.graph.tensors().values():
            if isinstance(tensor, gs.Variable) and tensor.name in self.floats and not self.is_border(tensor):
                tensor.dtype = np.float16

    def is_input(self, tensor: gs.Tensor) -> bool:
        """Whether ``tensor`` is an input of the graph."""
        return any(tensor is t for t in self.graph.inputs)

    def is_border(self, tensor: gs.Tensor) -> bool:
        """Whether ``tensor`` is an input or output of the graph."""
        return any(tensor is t for t in (*self.graph.inputs, *self.graph.outputs))

    def half(self, values: Array) -> Array:
        """Rounded to float16; finite values stay finite."""
        beyond = np.isfinite(values) & (np.abs(values) > _LARGEST)
        self.clipped += int(beyond.sum())
        return np.where(beyond, np.copysign(_LARGEST, values), values).astype(np.float16)


def _takes(schema: onnx.defs.OpSchema | None, side: str, index: int) -> bool:
    """Whether an input or output of an operator may be float16; the last one stands for all of a variadic list."""
    if schema is None:
        return False
    formal = getattr(schema, side)
    return "tensor(float16)" in formal[min(index, len(formal) - 1)].types


def _imports(graph: gs.Graph) -> dict[str, int]:
    return {"": graph.opset} | {
        o.domain: o.version for o in graph.import_domains or [] if o.domain not in ("", "ai.onnx")
    }
