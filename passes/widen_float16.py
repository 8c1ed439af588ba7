"""Compute a float16 graph in float32: what is quantized next to integers, and runs on any CPU.

    x: float16  ->  Cast  ->  float32 graph  ->  Cast  ->  y: float16

Inputs and outputs keep their types. Every float16 value is a float32 value, so constants stay what they are; results
differ from the float16 graph's by the rounding that float16 would do, and are the more exact ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult

__all__ = ["widen_float16"]

_HALF, _FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
_TYPES = frozenset({"to", "dtype", "output_datatype"})  # attributes that state a type


def widen_float16(graph: gs.Graph) -> PassResult:
    """``graph`` in float32 behind its inputs and before its outputs; one without float16 comes back as a copy."""
    graph = graph.copy()
    inside = [graph, *graph.subgraphs(recursive=True)]
    tensors = {id(tensor): tensor for inner in inside for tensor in inner.tensors().values()}.values()
    halves = [tensor for tensor in tensors if tensor.dtype == np.float16]
    if not halves:
        return PassResult(graph, False)
    names = UniqueNames(graph)
    ends = [tensor for tensor in (*graph.inputs, *graph.outputs) if tensor.dtype == np.float16]
    wide = {id(t): gs.Constant(t.name, t.values.astype(np.float32)) for t in halves if isinstance(t, gs.Constant)}
    for tensor in halves:
        if id(tensor) not in wide and not any(tensor is end for end in ends):
            tensor.dtype = np.float32
    for inner in inside:
        for node in inner.nodes:
            node.inputs = [wide.get(id(tensor), tensor) for tensor in node.inputs]
            node.attrs.update({key: _widened(key, value) for key, value in node.attrs.items()})
        inner.outputs = [wide.get(id(tensor), tensor) for tensor in inner.outputs]
    for tensor in ends:
        _cast(graph, inside, tensor, names)
    return PassResult(graph.toposort(), True, ("the model is float16: it is computed in float32 from here on",))


def _widened(key: str, value: Any) -> Any:
    """An attribute that states float32 where it stated float16."""
    if key in _TYPES and value in (_HALF, np.float16):
        return _FLOAT
    if isinstance(value, gs.Constant) and value.dtype == np.float16:
        return gs.Constant(value.name, value.values.astype(np.float32))
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float16 else value


def _cast(graph: gs.Graph, inside: list[gs.Graph], end: gs.Variable, names: UniqueNames) -> None:
    """Put a Cast between a float16 input or output and the rest."""
    wide = gs.Variable(names.tensor(f"{end.name}/float32"), np.float32, end.shape)
    for inner in inside:
        for node in inner.nodes:
            node.inputs = [wide if tensor is end else tensor for tensor in node.inputs]
        if inner is not graph:
            inner.outputs = [wide if tensor is end else tensor for tensor in inner.outputs]
    made = bool(end.inputs)
    if made:
        maker = end.inputs[0]
        maker.outputs = [wide if tensor is end else tensor for tensor in maker.outputs]
    source, result, kind = (wide, end, _HALF) if made else (end, wide, _FLOAT)
    graph.nodes.append(gs.Node("Cast", names.node(f"{end.name}/cast"), {"to": kind}, [source], [result]))
