"""The form of a model that gradients work on, and which of its weights have filters.

A filter f is one slice of a weight along its output axis: axis 0 of Conv; 1 of ConvTranspose (one index covers that
column of every group); 0 of Gemm's B if transB, else 1; the last of MatMul's B.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import inliner, version_converter

from hqp_onnx.errors import GradientError, one_line
from hqp_onnx.passes.lowering.expand_functions import lower

OLDEST_OPSET = 17  # the appended nodes are written in this opset; their form is the same in all later ones


@dataclass(frozen=True)
class Use:
    """``node`` reads ``weight`` (an initializer) as its input 1; filters lie along ``axis``."""

    node: onnx.NodeProto
    weight: str
    axis: int


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """Value of an attribute; text as str."""
    for entry in node.attribute:
        if entry.name == name:
            value = onnx.helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default


def reads(node: onnx.NodeProto) -> list[str]:
    """The inputs of a node, then the names that its subgraphs read."""
    graphs = [graph for entry in node.attribute for graph in (*entry.graphs, entry.g)]
    return [*node.input, *(name for graph in graphs for inner in graph.node for name in reads(inner))]


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without functions, Constant nodes and Identity of constants, of opset 17 or later.

    Raises:
        GradientError: the model does not convert to opset 17, or one of its operators does not expand.
    """
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    copy = onnx.ModelProto()
    copy.CopyFrom(inliner.inline_local_functions(model) if model.functions else model)
    if opset < OLDEST_OPSET:
        try:
            copy = version_converter.convert_version(copy, OLDEST_OPSET)
        except (RuntimeError, ValueError) as e:
            raise GradientError(
                f"gradients need opset {OLDEST_OPSET}, the model has {opset} and does not convert: {one_line(e)}"
            ) from e
    copy = lower(copy)
    _fold_constants(copy.graph)
    del copy.graph.value_info[:]
    return copy


def filter_weights(model: onnx.ModelProto) -> dict[str, int]:
    """Filter axis of every initializer that is the weight of a Conv, ConvTranspose, Gemm or MatMul.

    Raises:
        GradientError: two nodes read one weight along different axes.
    """
    axes: dict[str, int] = {}
    for use in weight_uses(folded(model)):
        if axes.setdefault(use.weight, use.axis) != use.axis:
            raise GradientError(f"weight '{use.weight}' has its filters along two axes (node '{use.node.name}')")
    return axes


def folded(model: onnx.ModelProto) -> onnx.GraphProto:
    """A copy of the graph in which constants are initializers, read under their own names."""
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    _fold_constants(graph)
    return graph


def weight_uses(graph: onnx.GraphProto) -> list[Use]:
    """Every node that reads an initializer as its weight, in graph order."""
    rank = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    uses = []
    for node in graph.node:
        if len(node.input) < 2 or node.input[1] not in rank or node.domain not in ("", "ai.onnx"):
            continue
        axis = _filter_axis(node, rank[node.input[1]])
        if axis is not None:
            uses.append(Use(node, node.input[1], axis))
    return uses


def _filter_axis(node: onnx.NodeProto, rank: int) -> int | None:
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    if node.op_type == "MatMul":
        return 1 if rank == 2 else None
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type)


def _fold_constants(graph: onnx.GraphProto) -> None:
    """Constant nodes become initializers; readers of Identity(initializer) read the initializer."""
    names = {tensor.name for tensor in graph.initializer}
    kept_names = {value.name for value in graph.output}
    kept_names.update(name for node in graph.node for name in reads(node)[len(node.input) :])
    alias: dict[str, str] = {}
    kept = []
    for node in graph.node:
        node.input[:] = [alias.get(name, name) for name in node.input]
        value = attribute(node, "value") if node.op_type == "Constant" else None
        if isinstance(value, onnx.TensorProto):
            graph.initializer.add().CopyFrom(value)
            graph.initializer[-1].name = node.output[0]
            names.add(node.output[0])
        elif node.op_type == "Identity" and node.input[0] in names and node.output[0] not in kept_names:
            alias[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
