"""Which weights of a model have filters: slices along the output axis, see ``graphs.weight_axes``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx

from hqp_onnx.graphs.model_io import nodes
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.recurrent import GATES, WEIGHTS
from hqp_onnx.graphs.weight_axes import WEIGHTED, weight_axes
from hqp_onnx.passes.lowering.inline_constants import inline_constants


@dataclass(frozen=True)
class Use:
    """``node`` reads ``weight`` (an initializer) as its input ``index``; what it gives lies along ``axis`` of that.

    ``turned``: filters of the weight, as of the node that reads it first, lie along what this node contracts.
    """

    node: onnx.NodeProto
    weight: str
    axis: int
    index: int = 1
    turned: bool = False


def filter_weights(model: onnx.ModelProto) -> dict[str, int]:
    """Filter axis of every initializer that is a weight of a Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU or RNN.

    Those in the graphs inside nodes are among them. Where nodes read one weight along two axes, the first counts.
    """
    graph = inline_constants(model).graph
    return filter_axes(_uses(nodes(graph), _ranks(stored(graph))))


def filter_axes(uses: Iterable[Use]) -> dict[str, int]:
    """By weight, the axis of the use that comes first."""
    axes: dict[str, int] = {}
    for use in uses:
        axes.setdefault(use.weight, use.axis)
    return axes


def weight_uses(graph: onnx.GraphProto) -> list[Use]:
    """Every node that reads an initializer as its weight, in graph order; of a MatMul, a matrix only.

    Filters of recurrent nodes are the rows of their gates, of both directions together.
    """
    return _uses(graph.node, _ranks(graph.initializer))


def stored(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers of a graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for entry in node.attribute:
            for inner in (entry.g, *entry.graphs):
                yield from stored(inner)


def _ranks(tensors: Iterable[onnx.TensorProto]) -> dict[str, int]:
    """Of tensors that have values, which a weight needs."""
    return {tensor.name: len(tensor.dims) for tensor in tensors if 0 not in tensor.dims}


def _uses(found: Iterable[onnx.NodeProto], ranks: Mapping[str, int]) -> list[Use]:
    uses = []
    for node in found:
        if operator(node) in GATES:
            uses += [Use(node, node.input[i], 1, i) for i in WEIGHTS if node.input[i] in ranks]
            continue
        if operator(node) not in WEIGHTED or node.input[1] not in ranks:
            continue
        name, rank = node.input[1], ranks[node.input[1]]
        if operator(node) != "MatMul" or rank == 2:
            uses.append(Use(node, name, weight_axes(node, rank).output))
    return uses


def made_by(use: Use) -> list[str]:
    """What a node makes of a weight: all outputs of a recurrent one, else the first."""
    return [name for name in use.node.output if name] if operator(use.node) in GATES else list(use.node.output[:1])
