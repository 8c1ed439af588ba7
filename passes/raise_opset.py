"""Express a graph in a newer opset."""

from __future__ import annotations

from functools import partial

import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.errors import ModelError, one_line
from hqp_onnx.graphs.foreign_names import names_apart
from hqp_onnx.graphs.model_io import nodes, to_graph, to_proto
from hqp_onnx.graphs.runtime_operators import put_aside, put_back
from hqp_onnx.passes.base import PassResult

__all__ = ["raise_opset"]

_COORDINATES, _MODE = 11, "coordinate_transformation_mode"  # the opset from which on Resize states it


def raise_opset(graph: gs.Graph, opset: int) -> PassResult:
    """``graph`` at ``opset``, as a copy; one that is there or above stays as it is.

    Raises:
        ModelError: onnx cannot convert it.
    """
    if graph.opset >= opset:
        return PassResult(graph.copy(), False)
    before = to_proto(graph)
    try:
        put_aside(before)
        model = names_apart(partial(onnx.version_converter.convert_version, target_version=opset))(before)
        put_back(model)
    except Exception as e:  # the converter raises bare RuntimeError and its own types
        raise ModelError(
            f"opset {graph.opset} cannot be converted to {opset}: {one_line(e)}. Export the model with opset {opset}"
        ) from e
    if graph.opset < _COORDINATES:
        _state_coordinates(model.graph)
    return PassResult(
        to_graph(model, getattr(graph, "origin", None)), True, (f"converted from opset {graph.opset} to {opset}",)
    )


def _state_coordinates(graph: onnx.GraphProto) -> None:
    """What Resize and Upsample meant before they could say it; onnx's converter leaves them the newer default."""
    for node in nodes(graph):
        if node.op_type == "Resize" and not any(entry.name == _MODE for entry in node.attribute):
            node.attribute.append(onnx.helper.make_attribute(_MODE, "asymmetric"))
            node.attribute.append(onnx.helper.make_attribute("nearest_mode", "floor"))
