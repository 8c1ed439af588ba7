"""Write fused operators out as standard ones, which every other part knows (``passes.fused``).

onnxruntime fuses again what it has kernels for when it loads a model. Operators for which an installed package has
rules are left to these.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channels.rules import RULES
from hqp_onnx.gradients.tape import RULES as GRADIENTS
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.shapes import Shapes, probe
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.fused import BODIES, Body
from hqp_onnx.passes.raise_opset import raise_opset
from hqp_onnx.registry import Registry

__all__ = ["expand_fused"]

OPSET = 17  # has LayerNormalization
_PLAIN = frozenset(["Einsum"])
"""What needs no newer opset."""


def expand_fused(graph: gs.Graph) -> PassResult:
    """``graph`` with its fused operators written out, as a copy; those of forms that are unknown stay.

    Raises:
        ModelError: the graph is older than opset 17 and onnx cannot convert it.
    """
    found = {operator(node) for node in graph.nodes}
    fused = {name for name in found & BODIES.keys() if not (_is_known(RULES, name) or _is_known(GRADIENTS, name))}
    old = graph.opset < OPSET and (bool(fused - _PLAIN) or "LayerNormalization" in found)
    if not fused and not old:
        return PassResult(graph.copy(), False)
    raised = raise_opset(graph, OPSET if old else graph.opset)
    graph, names = raised.graph.toposort(), UniqueNames(raised.graph)
    shapes = probe(graph)
    kind = _kind(graph)
    expanded = [_expand(graph, node, shapes, kind, names) for node in list(graph.nodes) if operator(node) in fused]
    graph.cleanup().toposort()
    return PassResult(graph, any(expanded), (*raised.notes, f"{sum(expanded)} fused operators written out"))


def _is_known(rules: Registry[Any], name: str) -> bool:
    """Whether an installed package has a rule for an operator."""
    return name not in rules.own and rules.find(name) is not None


def _expand(graph: gs.Graph, node: gs.Node, shapes: Shapes, kind: np.dtype[Any], names: UniqueNames) -> bool:
    if any(t.name and not isinstance(t, gs.Constant) and t.name not in shapes.sizes for t in node.inputs):
        return False
    body = Body(node, shapes, kind, graph.opset, names)
    results = BODIES[operator(node)](body)
    if results is None:
        return False
    outputs = list(node.outputs)
    node.outputs.clear()
    for output, result in zip(outputs, results, strict=False):
        if not output.is_empty():
            _name(body.nodes, result, output, names)
    place = next(i for i, other in enumerate(graph.nodes) if other is node)
    node.inputs.clear()
    graph.nodes[place : place + 1] = body.nodes
    return True


def _name(nodes: list[gs.Node], result: gs.Tensor, output: gs.Variable, names: UniqueNames) -> None:
    """Let what made ``result``, if that is one of ``nodes``, make ``output``."""
    makers = [node for node in nodes if any(t is result for t in node.outputs)]
    for node in nodes:
        node.outputs = [output if t is result else t for t in node.outputs]
        node.inputs = [output if makers and t is result else t for t in node.inputs]
    if not makers:
        nodes.append(gs.Node("Identity", names.node(f"{output.name}/Identity"), {}, [result], [output]))


def _kind(graph: gs.Graph) -> np.dtype[Any]:
    """The type of most weights."""
    sizes: dict[np.dtype[Any], int] = {}
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant) and np.issubdtype(tensor.dtype, np.floating):
            kind = np.dtype(tensor.dtype)
            sizes[kind] = sizes.get(kind, 0) + tensor.values.size
    return max(sizes, key=lambda kind: sizes[kind], default=np.dtype(np.float32))
