"""Names that are free. What a pass adds never takes the name of anything that a model holds already.

All names count: inputs, outputs, initializers and results, those inside subgraphs too, since an inner scope sees the
outer one. Nodes have names of their own, apart from tensors. A wish that is free is granted, so models without
collisions keep the names that they always got.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

import onnx
import onnx_graphsurgeon as gs


class UniqueNames:
    """Grants names for new tensors and nodes of a graph, each once.

    Args:
        graph: its names, as they are now, are taken.
        more: tensor names that are taken too.
    """

    def __init__(self, graph: gs.Graph, more: Iterable[str] = ()) -> None:
        self._tensors = tensor_names(graph) | set(more)
        self._nodes = {node.name for inner in _graphs(graph) for node in inner.nodes}

    def tensor(self, wish: str) -> str:
        """``wish``, or that with a number behind it."""
        return _grant(wish, self._tensors)

    def node(self, wish: str) -> str:
        """The same for the name of a node."""
        return _grant(wish, self._nodes)


def unused(wish: str, taken: Container[str]) -> str:
    """``wish``, with a number behind it if it is taken."""
    name, count = wish, 0
    while name in taken:
        count += 1
        name = f"{wish}_{count}"
    return name


def unused_prefix(prefix: str, names: Iterable[str]) -> str:
    """``prefix``, with as many underscores behind it as it takes for no name to begin with it."""
    taken = list(names)
    while any(name.startswith(prefix) for name in taken):
        prefix += "_"
    return prefix


def tensor_names(graph: gs.Graph | onnx.GraphProto) -> set[str]:
    """Names of all tensors of a graph and of the graphs inside its nodes."""
    if isinstance(graph, onnx.GraphProto):
        return set(_written(graph))
    ends = (tensor.name for inner in _graphs(graph) for tensor in (*inner.inputs, *inner.outputs))
    return {name for inner in _graphs(graph) for name in inner.tensors()}.union(ends)


def _grant(wish: str, taken: set[str]) -> str:
    name = unused(wish, taken)
    taken.add(name)
    return name


def _graphs(graph: gs.Graph) -> Iterator[gs.Graph]:
    return iter([graph, *graph.subgraphs(recursive=True)])


def _written(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    for node in graph.node:
        yield from (*node.input, *node.output)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _written(inner)
