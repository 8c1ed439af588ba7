"""What a graph computes from the sizes of its inputs and from constants, whatever the values that it is fed."""

from __future__ import annotations

import onnx

from hqp_onnx.graphs.draws import draws


def shape_only(graph: onnx.GraphProto) -> set[str]:
    """Node outputs that no value of a graph input reaches, except through Shape and Size."""
    variable: set[str] = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    free: set[str] = set()
    for node in graph.node:
        random = draws(node.op_type, node.input) or node.op_type in ("If", "Loop", "Scan")
        reads = node.op_type not in ("Shape", "Size") and not variable.isdisjoint(node.input)
        (variable if random or reads else free).update(node.output)
    return free
