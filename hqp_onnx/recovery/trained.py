"""Which constants of a graph are trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.recurrent import BIAS, GATES, WEIGHTS

PRODUCTS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "Einsum": (0, 1, 2, 3),
    **dict.fromkeys(GATES, (*WEIGHTS, BIAS)),
}
"""Operator -> inputs that hold weights or biases."""
OTHERS: Mapping[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "RMSNormalization": (1,),
    "PRelu": (1,),
    "Gather": (0,),
    "QuantizeLinear": (0,),
}
BEHIND: Mapping[str, tuple[int, ...]] = {"Add": (0, 1), "Sub": (0, 1), "Mul": (0, 1)}
"""The same behind a product only: in front of all products they are the preprocessing of the data."""


def trained_constants(graph: gs.Graph) -> list[str]:
    """Names of the float constants that every reader reads as a weight, a bias or a scale, in graph order.

    Args:
        graph: canonical, sorted; see ``passes.expose_masters`` for a quantized one.
    """
    behind: set[str] = set()
    reads: dict[str, list[bool]] = {}
    constants: dict[str, gs.Constant] = {}
    for node in graph.nodes:
        inside = any(tensor.name in behind for tensor in node.inputs)
        op = operator(node)
        if inside or op in PRODUCTS:
            behind.update(tensor.name for tensor in node.outputs)
        slots = PRODUCTS.get(op) or OTHERS.get(op) or (BEHIND.get(op, ()) if inside else ())
        for i, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant) and not tensor.is_empty():
                reads.setdefault(tensor.name, []).append(i in slots)
                constants[tensor.name] = tensor
    exposed = {tensor.name for tensor in graph.outputs}
    return [
        name
        for name, tensor in constants.items()
        if tensor.dtype == np.float32
        and tensor.values.ndim > 0
        and tensor.values.size > (tensor.outputs[0].op in BEHIND)
        and all(reads[name])
        and len(reads[name]) == len(tensor.outputs)
        and name not in exposed
    ]
