"""What a model ends in: the operator that makes each output what it is, behind those that only move values."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

_MOVING = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast")


def ends_of(graph: onnx.GraphProto) -> Mapping[str, str]:
    """The operator of every output that a node computes, as {"y": "Softmax"}."""
    producers = {name: node for node in graph.node for name in node.output}
    return {value.name: op for value in graph.output if (op := _end(producers, value.name))}


def _end(producers: Mapping[str, onnx.NodeProto], name: str) -> str:
    node = producers.get(name)
    while node is not None and node.op_type in _MOVING and node.input:
        node = producers.get(node.input[0])
    return node.op_type if node is not None else ""
