"""Element types of the tensors of a graph, by ONNX type inference; weights of any size cost nothing."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.model_io import to_proto

FLOAT = onnx.TensorProto.FLOAT
_LARGE = 1 << 16  # elements; inference reads the values of smaller tensors only (shapes, axes)


def element_types(graph: gs.Graph) -> Mapping[str, int]:
    """ONNX element type (``onnx.TensorProto.FLOAT``, ...) by tensor name; tensors that inference misses are absent."""
    model = onnx.ModelProto()
    model.CopyFrom(to_proto(graph))
    values = model.graph.initializer
    types: dict[str, int] = {t.name: t.data_type for t in values}
    for tensor in [t for t in values if _elements(t) >= _LARGE]:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        values.remove(tensor)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def float_activations(graph: gs.Graph) -> list[str]:
    """Names of the float32 inputs and results of nodes, in graph order."""
    types = element_types(graph)
    tensors = [*graph.inputs, *(t for node in graph.nodes for t in node.outputs)]
    return [t.name for t in tensors if t.name and types.get(t.name) == FLOAT]


def _elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count
