"""Express a graph in a newer opset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import Array
from hqp_onnx.errors import ModelError, one_line
from hqp_onnx.graphs.foreign_names import names_apart
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.graphs.runtime_operators import put_aside, put_back
from hqp_onnx.graphs.unique_names import tensor_names, unused
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
    for old, new in zip(before.graph.output, model.graph.output, strict=True):
        new.type.CopyFrom(old.type)  # the converter writes the sizes that it infers over those that are declared
    if graph.opset < _COORDINATES:
        _state_coordinates(model.graph, tensor_names(model.graph), {})
    return PassResult(
        to_graph(model, getattr(graph, "origin", None)), True, (f"converted from opset {graph.opset} to {opset}",)
    )


def _state_coordinates(graph: onnx.GraphProto, names: set[str], known: Mapping[str, Array]) -> None:
    """What Resize and Upsample meant before they could say it; onnx's converter leaves them the newer default."""
    known = {**known, **_constants(graph)}
    written: list[onnx.NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                _state_coordinates(inner, names, known)
        is_unsaid = node.op_type == "Resize" and not any(entry.name == _MODE for entry in node.attribute)
        written += _stated(node, names, known.get(node.input[2])) if is_unsaid else [node]
    del graph.node[:]
    graph.node.extend(written)


def _constants(graph: onnx.GraphProto) -> dict[str, Array]:
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    values = [(node.output[0], node.attribute[0]) for node in graph.node if node.op_type == "Constant"]
    return known | {name: onnx.numpy_helper.to_array(value.t) for name, value in values if value.name == "value"}


def _stated(node: onnx.NodeProto, names: set[str], scales: Array | None) -> Iterator[onnx.NodeProto]:
    """onnxruntime, and so whoever exported to it, took the pixel above where an axis shrinks, else that below.

    One operator has one way of rounding, so that axes of both kinds, or scales that are computed, take two.
    """
    node.attribute.append(onnx.helper.make_attribute(_MODE, "asymmetric"))
    if not any(entry.name == "mode" and entry.s != b"nearest" for entry in node.attribute):
        if scales is None or (scales.min() < 1 < scales.max()):
            yield from _apart(node, names)
            return
        node.attribute.append(onnx.helper.make_attribute("nearest_mode", "ceil" if scales.min() < 1 else "floor"))
    yield node


def _apart(node: onnx.NodeProto, names: set[str]) -> Iterator[onnx.NodeProto]:
    """``node`` as what shrinks, and what grows."""
    result, scales = node.output[0], node.input[2]
    one, less, more, middle = (_added(f"{result}_{part}", names) for part in ("one", "less", "more", "shrunk"))
    shrinks = onnx.NodeProto()
    shrinks.CopyFrom(node)
    shrinks.name, shrinks.input[2], shrinks.output[0] = "", less, middle
    node.input[0], node.input[2] = middle, more
    for part, rounding in ((shrinks, "ceil"), (node, "floor")):
        part.attribute.append(onnx.helper.make_attribute("nearest_mode", rounding))
    yield onnx.helper.make_node("Constant", [], [one], value=onnx.numpy_helper.from_array(np.ones(1, np.float32)))
    yield onnx.helper.make_node("Min", [scales, one], [less])
    yield onnx.helper.make_node("Max", [scales, one], [more])
    yield from (shrinks, node)


def _added(wish: str, names: set[str]) -> str:
    name = unused(wish, names)
    names.add(name)
    return name
