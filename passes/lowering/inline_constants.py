"""Constant nodes become initializers; what reads an Identity of an initializer reads the initializer."""

from __future__ import annotations

import onnx

from hqp_onnx.graphs.nodes import attribute, reads

__all__ = ["inline_constants"]


def inline_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` in this form; constants of text, sparse ones and those that subgraphs or outputs name stay nodes."""
    if all(node.op_type not in ("Constant", "Identity") for node in model.graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    names = {tensor.name for tensor in graph.initializer}
    kept_names = {value.name for value in graph.output}
    kept_names.update(name for node in graph.node for name in reads(node)[len(node.input) :])
    alias: dict[str, str] = {}
    kept = []
    for node in graph.node:
        node.input[:] = [alias.get(name, name) for name in node.input]
        value = attribute(node, "value") if node.op_type == "Constant" else None
        if isinstance(value, onnx.TensorProto):
            graph.initializer.add().CopyFrom(value)
            graph.initializer[-1].name = node.output[0]
            names.add(node.output[0])
        elif node.op_type == "Identity" and node.input[0] in names and node.output[0] not in kept_names:
            alias[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    if len(kept) == len(graph.node):
        return model
    del graph.node[:]
    graph.node.extend(kept)
    return copy
