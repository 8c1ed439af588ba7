"""Turn int8 weights behind DequantizeLinear into float weights behind a QuantizeLinear/DequantizeLinear pair.

    DQ(q, s)   =>   DQ(Q(W, s), s),   W = s q

Q gives back q exactly: s q / s differs from the integer q by less than one part in 2^22. Parsers of TensorRT 8 take
this form only; those of TensorRT 10 and 11 take both.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult

__all__ = ["restore_float_weights"]


def restore_float_weights(graph: gs.Graph) -> PassResult:
    """``graph`` (symmetric Q/DQ) with float32 weights; the integers that its nodes compute with do not change."""
    graph = graph.copy()
    names = UniqueNames(graph)
    stored = [node for node in graph.nodes if node.op == "DequantizeLinear" and isinstance(node.inputs[0], gs.Constant)]
    for node in stored:
        integers, scale = node.inputs[0], node.inputs[1].values
        axis = node.attrs.get("axis", 1)
        shape = [-1 if i == axis % integers.values.ndim else 1 for i in range(integers.values.ndim)]
        column = scale.reshape(shape) if scale.size > 1 else scale
        weight = gs.Constant(names.tensor(f"{integers.name}/float"), (integers.values * column).astype(np.float32))
        quantized = gs.Variable(names.tensor(f"{integers.name}/restored"), integers.values.dtype, integers.shape)
        name, inputs = names.node(f"{node.name}/Q"), [weight, *node.inputs[1:]]
        graph.nodes.append(gs.Node("QuantizeLinear", name, dict(node.attrs), inputs, [quantized]))
        node.inputs[0] = quantized
    graph.cleanup().toposort()
    return PassResult(graph, bool(stored), (f"{len(stored)} int8 weights as float behind Q/DQ pairs",))
