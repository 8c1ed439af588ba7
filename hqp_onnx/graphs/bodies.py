"""Graphs inside nodes: the branches of an If, the bodies of Loop and Scan."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.unique_names import tensor_names, unused

_BODIES = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}


def bodies(node: gs.Node) -> list[gs.Graph]:
    """The graphs inside an If, Loop or Scan; none of any other node."""
    return [node.attrs[name] for name in _BODIES.get(operator(node), ())]


def _graphs(graph: gs.Graph) -> list[gs.Graph]:
    """``graph``, and the graphs inside its nodes."""
    return [graph, *graph.subgraphs(recursive=True)]


def every_node(graph: gs.Graph) -> Iterator[gs.Node]:
    """Nodes of ``graph`` and of the graphs inside them."""
    return (node for inner in _graphs(graph) for node in inner.nodes)


def constants(graph: gs.Graph) -> dict[str, list[gs.Constant]]:
    """Constants by name, here and in the graphs inside nodes, which may hold copies of what they read outside."""
    found: dict[str, dict[int, gs.Constant]] = {}
    for inner in _graphs(graph):
        for tensor in inner.tensors().values():
            if isinstance(tensor, gs.Constant):
                found.setdefault(tensor.name, {})[id(tensor)] = tensor
    return {name: list(same.values()) for name, same in found.items()}


def name_apart(graph: gs.Graph) -> None:
    """Give tensors in the graphs inside nodes names that no other has, in place: branches may share names.

    Constants of one name that are equal are one weight. One that shares its name with results alone keeps it: ledgers
    name weights as the file does.
    """
    first, taken = dict[str, gs.Tensor](), tensor_names(graph)
    own = {id(tensor) for tensor in _tensors(graph)}
    every = [tensor for inner in _graphs(graph) for tensor in _tensors(inner) if not tensor.is_empty()]
    for tensor in sorted(every, key=lambda t: (id(t) not in own, not isinstance(t, gs.Constant))):
        if not _same(first.setdefault(tensor.name, tensor), tensor):
            tensor.name = unused(tensor.name, taken)
            taken.add(tensor.name)
            first[tensor.name] = tensor


def _tensors(graph: gs.Graph) -> list[gs.Tensor]:
    return [*graph.inputs, *graph.outputs, *graph.tensors().values()]


def _same(a: gs.Tensor, b: gs.Tensor) -> bool:
    both = isinstance(a, gs.Constant) and isinstance(b, gs.Constant)
    return a is b or (both and (a._values is b._values or np.array_equal(a.values, b.values)))
