"""An If becomes the nodes of both branches, and a choice between their results, which has a gradient.

    y = If(c, then: a, else: b)   ->   a = Where(c, ..., 0), b = Where(not c, ..., 0), y = Where(c, a, b)

What the branch that is not taken computes has no influence, so the gradients of its weights are zero on these data. Its
roots and logarithms of whatever the other branch was for may be NaN or infinite, and zero times that is NaN, so every
float tensor inside a branch is zero where the branch is not taken, and so are the gradients that go through it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, MutableMapping

import onnx
from onnx import helper

from hqp_onnx.graphs.nodes import attribute, operator
from hqp_onnx.graphs.shape_only import shape_only
from hqp_onnx.graphs.unique_names import tensor_names, unused

__all__ = ["open_branches"]

_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE})


def open_branches(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` without Ifs whose branches share no names and give tensors."""
    if all(operator(node) != "If" for node in model.graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph, conditions = copy.graph, dict[str, str]()
    while (place := next((i for i, node in enumerate(graph.node) if _is_open(graph, node)), None)) is not None:
        nodes = list(graph.node)
        nodes[place : place + 1] = _opened(graph, nodes[place], conditions)
        del graph.node[:]
        graph.node.extend(nodes)
    _hold(copy, conditions)
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


def _opened(graph: onnx.GraphProto, node: onnx.NodeProto, conditions: MutableMapping[str, str]) -> list[onnx.NodeProto]:
    """The nodes in place of an If; constants are added to ``graph``, and to ``conditions`` when tensors are taken."""
    then, other = _branches(node)
    first, taken = next(filter(None, node.output)), tensor_names(graph)
    shape, condition, opposite = (unused(f"{first}/{part}", taken) for part in ("scalar", "condition", "opposite"))
    graph.initializer.append(helper.make_tensor(shape, onnx.TensorProto.INT64, [0], []))
    graph.initializer.extend([*then.initializer, *other.initializer])
    nodes = [helper.make_node("Reshape", [node.input[0], shape], [condition])]
    nodes.append(helper.make_node("Not", [condition], [opposite]))
    for body, when in ((then, condition), (other, opposite)):
        if first in conditions:  # itself inside a branch
            outer, inner = conditions[first], when
            when = unused(f"{inner}/both", taken)
            nodes.append(helper.make_node("And", [outer, inner], [when]))
        conditions.update((name, when) for inside in body.node for name in inside.output if name)
    choices = [
        helper.make_node("Where", [condition, a.name, b.name], [result])
        for result, a, b in zip(node.output, then.output, other.output, strict=True)
        if result
    ]
    return [*nodes, *then.node, *other.node, *choices]


def _hold(model: onnx.ModelProto, conditions: Mapping[str, str]) -> None:
    """Make float tensors zero but under their ``conditions``, in place; sizes that are computed in float stay."""
    graph, nodes = model.graph, list[onnx.NodeProto]()
    taken, sizes = tensor_names(graph), shape_only(graph)
    known = onnx.shape_inference.infer_shapes(model).graph.value_info
    kinds = {value.name: value.type.tensor_type.elem_type for value in known}
    zeros = {kind: unused(f"zero/{kind}", taken) for kind in sorted(_FLOATS & set(kinds.values()))}
    graph.initializer.extend(helper.make_tensor(name, kind, [], [0.0]) for kind, name in zeros.items())
    for node in graph.node:
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in conditions and name not in sizes and kinds.get(name) in zeros:
                node.output[place] = unused(f"{name}/any", taken)
                nodes.append(
                    helper.make_node("Where", [conditions[name], node.output[place], zeros[kinds[name]]], [name])
                )
    del graph.node[:]
    graph.node.extend(nodes)
