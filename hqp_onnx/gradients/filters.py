"""Which weights of a model have filters: slices along the output axis, see ``graphs.weight_axes``."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from hqp_onnx.errors import GradientError
from hqp_onnx.graphs.weight_axes import weight_axes
from hqp_onnx.passes.lowering.inline_constants import inline_constants


@dataclass(frozen=True)
class Use:
    """``node`` reads ``weight`` (an initializer) as its input 1; filters lie along ``axis``."""

    node: onnx.NodeProto
    weight: str
    axis: int


def filter_weights(model: onnx.ModelProto) -> dict[str, int]:
    """Filter axis of every initializer that is the weight of a Conv, ConvTranspose, Gemm or MatMul.

    Raises:
        GradientError: two nodes read one weight along different axes.
    """
    axes: dict[str, int] = {}
    for use in weight_uses(inline_constants(model).graph):
        if axes.setdefault(use.weight, use.axis) != use.axis:
            raise GradientError(f"weight '{use.weight}' has its filters along two axes (node '{use.node.name}')")
    return axes


def weight_uses(graph: onnx.GraphProto) -> list[Use]:
    """Every node that reads an initializer as its weight, in graph order; of a MatMul, a matrix only."""
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    uses = []
    for node in graph.node:
        name = node.input[1] if len(node.input) > 1 else ""
        axes = weight_axes(node, ranks.get(name, 0))
        if axes is not None and (node.op_type != "MatMul" or ranks[name] == 2):
            uses.append(Use(node, name, axes.output))
    return uses
