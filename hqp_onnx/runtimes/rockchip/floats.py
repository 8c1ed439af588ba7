"""A model with pairs as a float one, for a toolkit that quantizes by itself.

Pairs of activations are passed by, and weights are what their integers stand for, so they fall on the same steps again.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from hqp_onnx.arrays import Array


def has_pairs(model: onnx.ModelProto) -> bool:
    """Whether activations are quantized."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def without_pairs(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that computes in float."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    source = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    nodes = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in source:
            nodes.append(onnx.helper.make_node("Identity", [source[node.input[0]]], [node.output[0]], node.name))
        elif node.op_type == "DequantizeLinear" and all(name in stored for name in node.input if name):
            graph.initializer.append(numpy_helper.from_array(_real(node, stored), node.output[0]))
        else:
            nodes.append(node)
    read = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    kept = [node for node in nodes if node.op_type != "QuantizeLinear" or node.output[0] in read]
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input} | {value.name for value in graph.output}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    return copy


def _real(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> Array:
    """Scale * (q - zero), scales along an axis."""
    q, scale, *zero = (numpy_helper.to_array(stored[name]) for name in node.input if name)
    axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
    shape = [1] * q.ndim
    if scale.size > 1:
        shape[axis] = scale.size
    offset = zero[0].astype(np.float64).reshape(shape) if zero else 0.0
    real: Array = ((q.astype(np.float64) - offset) * scale.reshape(shape)).astype(np.float32)
    return real
