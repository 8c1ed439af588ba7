"""Element types and sizes of the tensors of a graph, by ONNX inference; weights of any size cost nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.graphs.model_io import to_proto

FLOAT = onnx.TensorProto.FLOAT
_LARGE = 1 << 16  # elements; inference reads the values of smaller tensors only (shapes, axes)


@dataclass(frozen=True, slots=True)
class TensorType:
    """ONNX element type (``FLOAT``, ...); sizes, None where unknown, or None for an unknown number of axes."""

    element: int
    sizes: tuple[int | None, ...] | None


def tensor_types(graph: gs.Graph) -> Mapping[str, TensorType]:
    """Type by tensor name; tensors that inference misses are absent."""
    model = onnx.ModelProto()
    model.CopyFrom(to_proto(graph))
    values = model.graph.initializer
    types = {t.name: TensorType(t.data_type, tuple(t.dims)) for t in values}
    for tensor in [t for t in values if math.prod(t.dims) >= _LARGE]:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        values.remove(tensor)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        kind = value.type.tensor_type
        sizes = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
        types[value.name] = TensorType(kind.elem_type, sizes if kind.HasField("shape") else None)
    return types


def float_activations(graph: gs.Graph) -> list[str]:
    """Names of the float32 inputs and results of nodes, in graph order."""
    types = tensor_types(graph)
    tensors = [*graph.inputs, *(t for node in graph.nodes for t in node.outputs)]
    return [t.name for t in tensors if t.name in types and types[t.name].element == FLOAT]
