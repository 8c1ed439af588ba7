"""Nodes in an order in which each reads only what is there, as the standard asks and not every exporter writes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from hqp_onnx.graphs.nodes import reads


def sort_nodes(model: onnx.ModelProto) -> None:
    """Sort, in place, the nodes of the graph, of the graphs inside nodes and of functions; what is sorted stays so.

    Where nodes read one another in a circle, they stay as they are, and onnx's checker says so.
    """
    for body in [model.graph, *model.functions]:
        _sort(body)


def _sort(body: onnx.GraphProto | onnx.FunctionProto) -> None:
    for node in body.node:
        for entry in node.attribute:
            for inner in [*entry.graphs, *([entry.g] if entry.HasField("g") else [])]:
                _sort(inner)
    nodes = list(body.node)
    makers = {name: number for number, node in enumerate(nodes) for name in node.output if name}
    needs = [[makers[name] for name in _read(node) if name in makers] for node in nodes]
    if all(maker < number for number, found in enumerate(needs) for maker in found):
        return
    if (order := _order(needs)) is not None:
        copies = [onnx.NodeProto.FromString(nodes[number].SerializeToString()) for number in order]
        del body.node[:]
        body.node.extend(copies)


def _read(node: onnx.NodeProto) -> list[str]:
    """What a node reads, the graphs inside it included."""
    graphs = [graph for entry in node.attribute for graph in (*entry.graphs, entry.g)]
    return [*reads(node), *(value.name for graph in graphs for value in graph.output)]


def _order(needs: Sequence[Sequence[int]]) -> list[int] | None:
    """Numbers in an order in which those that each needs come first, else as they are; None in a circle."""
    order: list[int] = []
    state = [0] * len(needs)  # 1: its needs are being placed; 2: placed
    for root in range(len(needs)):
        waiting = [root]
        while waiting:
            number = waiting[-1]
            missing = [other for other in needs[number] if state[other] < 2] if state[number] < 2 else []
            if any(state[other] == 1 for other in missing):
                return None
            if missing:
                state[number] = 1
                waiting += reversed(missing)
                continue
            waiting.pop()
            if state[number] < 2:
                state[number] = 2
                order.append(number)
    return order
