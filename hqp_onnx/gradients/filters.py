"""Which weights of a model have filters: slices along the output axis, see ``graphs.weight_axes``."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from hqp_onnx.errors import GradientError
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.weight_axes import WEIGHTED, weight_axes
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
        if operator(node) not in WEIGHTED or node.input[1] not in ranks:
            continue
        name, rank = node.input[1], ranks[node.input[1]]
        if operator(node) != "MatMul" or rank == 2:
            uses.append(Use(node, name, weight_axes(node, rank).output))
    return uses
