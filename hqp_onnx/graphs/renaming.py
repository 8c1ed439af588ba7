"""Other names for the tensors and nodes of a graph, and of the graphs inside its nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx

Rename = Callable[[str], str]


def rename(graph: onnx.GraphProto, tensor: Rename, node_name: Rename) -> None:
    """Give every tensor and node of ``graph`` another name, in place; "" too, which is an input left out."""
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = tensor(value.name)
    for node in graph.node:
        node.name = node_name(node.name)
        node.input[:] = map(tensor, node.input)
        node.output[:] = map(tensor, node.output)
        for inner in graphs_inside(node):
            rename(inner, tensor, node_name)


def graphs_inside(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies of If, Loop, Scan."""
    for entry in node.attribute:
        yield from entry.graphs
        if entry.HasField("g"):
            yield entry.g
