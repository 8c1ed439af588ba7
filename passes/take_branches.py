"""Put the branch that is taken in the place of an If whose condition is a constant."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.graphs.model_io import name_nodes
from hqp_onnx.graphs.unique_names import unused
from hqp_onnx.passes.base import PassResult

__all__ = ["take_branches"]


def take_branches(graph: gs.Graph) -> PassResult:
    """``graph`` without If nodes of constant condition, as a copy; results of a branch pass an Identity."""
    graph = graph.copy()
    taken = 0
    while (node := next((n for n in graph.nodes if _decided(n)), None)) is not None:
        _splice(graph, node, node.attrs["then_branch" if node.inputs[0].values.item() else "else_branch"])
        taken += 1
    if taken:
        graph.cleanup().toposort()
    return PassResult(graph, bool(taken), (f"{taken} branches taken",) if taken else ())


def _decided(node: gs.Node) -> bool:
    return node.op == "If" and isinstance(node.inputs[0], gs.Constant)


def _splice(graph: gs.Graph, node: gs.Node, branch: gs.Graph) -> None:
    place = next(i for i, other in enumerate(graph.nodes) if other is node)
    results = list(node.outputs)
    node.attrs.clear()
    node.inputs.clear()
    node.outputs.clear()
    _settle_names(graph, branch)
    ends = [
        gs.Node("Identity", f"{node.name}_{i}", inputs=[made], outputs=[result])
        for i, (made, result) in enumerate(zip(branch.outputs, results, strict=True))
    ]
    graph.nodes[place : place + 1] = [*branch.nodes, *ends]
    name_nodes(graph)


def _settle_names(graph: gs.Graph, branch: gs.Graph) -> None:
    """Let ``branch`` read the constants of ``graph``, of which it may hold copies, and rename what is its own."""
    outer = {tensor.name: tensor for tensor in _tensors(graph)}
    for tensor in list(_tensors(branch)):
        other = outer.setdefault(tensor.name, tensor)
        if other is tensor:
            continue
        if _equal(tensor, other):
            for reader in list(tensor.outputs):
                for index in [i for i, read in enumerate(reader.inputs) if read is tensor]:
                    reader.inputs[index] = other
            branch.outputs = [other if made is tensor else made for made in branch.outputs]
        else:
            tensor.name = unused(tensor.name, outer)
            outer[tensor.name] = tensor


def _equal(a: gs.Tensor, b: gs.Tensor) -> bool:
    if not (isinstance(a, gs.Constant) and isinstance(b, gs.Constant)):
        return False
    return a._values is b._values or np.array_equal(a.values, b.values)


def _tensors(graph: gs.Graph) -> Iterator[gs.Tensor]:
    """Tensors of a graph and of the graphs inside its nodes."""
    for inner in [graph, *graph.subgraphs(recursive=True)]:
        yield from inner.tensors().values()
