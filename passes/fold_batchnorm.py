"""Fold inference BatchNormalization into the Conv, ConvTranspose or Gemm before it.

    BN(z) = s (z - mean) + B,  s = gamma / sqrt(var + epsilon),  per output channel
    z = W x + b   =>   BN(z) = (s W) x + s (b - mean) + B

Computed in float64, rounded once. Only where the contraction's output has no other use, since its value changes.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import FloatArray
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.graphs.weight_axes import WEIGHTED, weight_axes
from hqp_onnx.passes.base import PassResult

__all__ = ["fold_batchnorm"]

_FOLDING = WEIGHTED - {"MatMul"}


def fold_batchnorm(graph: gs.Graph) -> PassResult:
    """``graph`` without the BatchNormalization nodes that can be folded; notes say why others stay."""
    graph = graph.copy()
    exposed, names = {tensor.name for tensor in graph.outputs}, UniqueNames(graph)
    notes: list[str] = []
    folded = 0
    for node in [n for n in graph.nodes if n.op == "BatchNormalization"]:
        if reason := _refusal(node, exposed):
            notes.append(f"BatchNormalization '{node.name}' stays: {reason}")
        else:
            _fold(node, names)
            folded += 1
    if folded:
        graph.cleanup().toposort()
        notes.insert(0, f"folded {folded} BatchNormalization into the operator before it")
    return PassResult(graph, bool(folded), tuple(notes))


def _refusal(bn: gs.Node, exposed: set[str]) -> str:
    """Why ``bn`` cannot be folded; empty if it can."""
    if bn.attrs.get("training_mode", 0) or len(bn.outputs) != 1:
        return "it is in training mode"
    if not all(isinstance(tensor, gs.Constant) for tensor in bn.inputs[1:5]):
        return "its parameters are not constant"
    if not (np.asarray(bn.inputs[4].values) + bn.attrs.get("epsilon", 1e-5) > 0).all():
        return "variance plus epsilon is not above 0"
    source = bn.inputs[0]
    if not source.inputs or operator(source.inputs[0]) not in _FOLDING:
        return "no Conv, ConvTranspose or Gemm before it"
    if len(source.outputs) != 1 or source.name in exposed:
        return f"'{source.name}' has other uses"
    if not all(isinstance(tensor, gs.Constant) or tensor.is_empty() for tensor in source.inputs[0].inputs[1:3]):
        return f"weight or bias of '{source.inputs[0].name}' is not constant"
    return ""


def _fold(bn: gs.Node, names: UniqueNames) -> None:
    gamma, beta, mean, variance = (np.asarray(t.values, np.float64) for t in bn.inputs[1:5])
    scale = gamma / np.sqrt(variance + bn.attrs.get("epsilon", 1e-5))
    node, output = bn.inputs[0].inputs[0], bn.outputs[0]
    weight = node.inputs[1].values
    bias = (
        node.inputs[2].values if len(node.inputs) > 2 and not node.inputs[2].is_empty() else np.zeros(1, weight.dtype)
    )
    bias64 = bias.astype(np.float64) * (node.attrs.pop("beta", 1.0) if node.op == "Gemm" else 1.0)
    new_weight = _scaled(node, weight.astype(np.float64), scale)
    new_bias = scale * (bias64 - mean) + beta
    node.inputs = [
        node.inputs[0],
        gs.Constant(names.tensor(f"{output.name}/folded_weight"), new_weight.astype(weight.dtype)),
        gs.Constant(names.tensor(f"{output.name}/folded_bias"), new_bias.astype(weight.dtype)),
    ]
    bn.outputs.clear()
    node.outputs = [output]


def _scaled(node: gs.Node, weight: FloatArray, scale: FloatArray) -> FloatArray:
    """Each filter times its channel's factor; the filters of a ConvTranspose are those of its groups in turn."""
    axis, groups = weight_axes(node, weight.ndim).output, 1
    if node.op == "ConvTranspose":
        groups = node.attrs.get("group", 1)
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    factors = scale.reshape(groups, *[-1 if i == axis else 1 for i in range(weight.ndim)])
    return np.reshape(grouped * factors, weight.shape)
