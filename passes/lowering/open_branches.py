"""An If becomes the nodes of both branches, and a choice between their results, which has a gradient.

    y = If(c, then: a, else: b)   ->   a = ..., b = ..., y = Where(c, a, b)

What the branch that is not taken computes has no influence, so the gradients of its weights are zero on these data.
"""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import helper

from hqp_onnx.graphs.nodes import attribute, operator
from hqp_onnx.graphs.unique_names import tensor_names, unused

__all__ = ["open_branches"]


def open_branches(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` without Ifs whose branches share no names and give tensors."""
    if all(operator(node) != "If" for node in model.graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    while (place := next((i for i, node in enumerate(graph.node) if _is_open(graph, node)), None)) is not None:
        nodes = list(graph.node)
        nodes[place : place + 1] = _opened(graph, nodes[place])
        del graph.node[:]
        graph.node.extend(nodes)
    return copy


def _is_open(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    if operator(node) != "If":
        return False
    branches = _branches(node)
    made = Counter(name for inner in (graph, *branches) for name in _made(inner))
    tensors = all(value.type.WhichOneof("value") in (None, "tensor_type") for body in branches for value in body.output)
    return tensors and max(made.values()) == 1


def _made(graph: onnx.GraphProto) -> list[str]:
    return [
        *(tensor.name for tensor in graph.initializer),
        *(name for node in graph.node for name in node.output if name),
    ]


def _branches(node: onnx.NodeProto) -> tuple[onnx.GraphProto, onnx.GraphProto]:
    then, other = attribute(node, "then_branch"), attribute(node, "else_branch")
    assert isinstance(then, onnx.GraphProto) and isinstance(other, onnx.GraphProto)
    return then, other


def _opened(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes in place of an If; constants are added to ``graph``."""
    then, other = _branches(node)
    taken = tensor_names(graph)
    shape, condition = (unused(f"{node.output[0]}/{part}", taken) for part in ("scalar", "condition"))
    graph.initializer.append(helper.make_tensor(shape, onnx.TensorProto.INT64, [0], []))
    graph.initializer.extend([*then.initializer, *other.initializer])
    choices = [
        helper.make_node("Where", [condition, a.name, b.name], [result])
        for result, a, b in zip(node.output, then.output, other.output, strict=True)
        if result
    ]
    return [*then.node, *other.node, helper.make_node("Reshape", [node.input[0], shape], [condition]), *choices]
