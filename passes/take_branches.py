"""Put the branch that is taken in the place of an If whose condition is a constant."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

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
    outer = {id(tensor) for tensor in graph.tensors().values()}
    taken = {tensor.name for tensor in _tensors(graph)}
    for tensor in _tensors(branch):
        if id(tensor) not in outer and tensor.name in taken:
            tensor.name = _unused(tensor.name, taken)
        taken.add(tensor.name)
    ends = [
        gs.Node("Identity", f"{node.name}_{i}", inputs=[made], outputs=[result])
        for i, (made, result) in enumerate(zip(branch.outputs, results, strict=True))
    ]
    graph.nodes[place : place + 1] = [*branch.nodes, *ends]
    names: set[str] = set()
    for other in graph.nodes:
        other.name = _unused(other.name, names) if other.name in names else other.name
        names.add(other.name)


def _tensors(graph: gs.Graph) -> Iterator[gs.Tensor]:
    """Tensors of a graph and of the graphs inside its nodes."""
    for inner in [graph, *graph.subgraphs(recursive=True)]:
        yield from inner.tensors().values()


def _unused(name: str, taken: set[str]) -> str:
    count = 1
    while f"{name}_{count}" in taken:
        count += 1
    return f"{name}_{count}"
