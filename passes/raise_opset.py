"""Express a graph in a newer opset."""

from __future__ import annotations

from functools import partial

import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.errors import ModelError, one_line
from hqp_onnx.graphs.foreign_names import names_apart
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.graphs.runtime_operators import put_aside, put_back
from hqp_onnx.passes.base import PassResult

__all__ = ["raise_opset"]


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
    return PassResult(
        to_graph(model, getattr(graph, "origin", None)), True, (f"converted from opset {graph.opset} to {opset}",)
    )
