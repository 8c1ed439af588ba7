"""Write LayerNormalization in the parts that every runtime knows, as TensorRT before 8.6 needs it.

    m = mean(x)   d = x - m   y = d / sqrt(mean(d d) + epsilon) * scale [+ bias]

``join_layer_norms`` is the other way round.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult

__all__ = ["split_layer_norms"]


def split_layer_norms(graph: gs.Graph) -> PassResult:
    """``graph`` without LayerNormalization over the last axis, as a copy; where its mean is read, too, it stays."""
    graph = graph.copy()
    found = [node for node in graph.nodes if _is_plain(node)]
    names = UniqueNames(graph)
    for node in found:
        parts = _Parts(graph, names, node)
        data, scale, *bias = [t for t in node.inputs if t.name]
        centred = parts.op("Sub", data, parts.mean(data))
        total = parts.op("Add", parts.mean(parts.op("Mul", centred, centred)), parts.epsilon())
        made = parts.op("Mul", parts.op("Div", centred, parts.op("Sqrt", total)), scale)
        made = parts.op("Add", made, bias[0]) if bias else made
        (result,) = [t for t in node.outputs if t.name]
        node.outputs.clear()
        made.inputs[0].outputs = [result]
    if found:
        graph.cleanup().toposort()
    return PassResult(graph, bool(found), (f"{len(found)} layer normalizations in parts",) if found else ())


def _is_plain(node: gs.Node) -> bool:
    return node.op == "LayerNormalization" and node.attrs.get("axis", -1) == -1 and len(node.outputs) == 1


class _Parts:
    """Adds the nodes that stand for one."""

    def __init__(self, graph: gs.Graph, names: UniqueNames, node: gs.Node) -> None:
        self._graph, self._names, self._stem = graph, names, node.outputs[0].name
        self._kind = node.inputs[1].dtype
        self._epsilon = node.attrs.get("epsilon", 1e-5)

    def op(self, op: str, *inputs: gs.Tensor, **attributes: Any) -> gs.Variable:
        """The result of a new node."""
        made = gs.Variable(self._names.tensor(f"{self._stem}/{op}"), self._kind)
        name = self._names.node(f"{self._stem}/{op}")
        self._graph.nodes.append(gs.Node(op, name, attributes, list(inputs), [made]))
        return made

    def mean(self, data: gs.Tensor) -> gs.Variable:
        """Over the last axis, which stays; axes are an input from opset 18 on."""
        if self._graph.opset < 18:
            return self.op("ReduceMean", data, axes=[-1], keepdims=1)
        axes = gs.Constant(self._names.tensor(f"{self._stem}/axes"), np.array([-1]))
        return self.op("ReduceMean", data, axes, keepdims=1)

    def epsilon(self) -> gs.Constant:
        """As a constant."""
        return gs.Constant(self._names.tensor(f"{self._stem}/epsilon"), np.array(self._epsilon, self._kind))
