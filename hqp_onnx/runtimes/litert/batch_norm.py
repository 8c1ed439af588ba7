"""Batch normalization behind a convolution that nothing else reads, in its weight and bias.

s (W x + b - m) + t  =  (s W) x + s (b - m) + t,     s = scale / sqrt(variance + epsilon)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from hqp_onnx.runtimes.litert.facts import Facts

_FOLDED = "/folded"


def fold_norms(nodes: Sequence[onnx.NodeProto], facts: Facts, outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """``nodes`` with convolutions that give what the normalization behind them gave; their weights join ``facts``."""
    values = facts.values
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    folded = {}
    for conv in nodes:
        norm = (readers.get(conv.output[0], [None]) if conv.output else [None])[0]
        if conv.op_type != "Conv" or norm is None or norm.op_type != "BatchNormalization":
            continue
        parameters = [*conv.input[1:], *norm.input[1:]]
        if len(readers[conv.output[0]]) > 1 or conv.output[0] in outputs or any(p not in values for p in parameters):
            continue
        folded[norm.output[0]] = _folded(conv, norm, facts)
    return [folded.get(node.output[0], node) if node.output else node for node in nodes]


def _folded(conv: onnx.NodeProto, norm: onnx.NodeProto, facts: Facts) -> onnx.NodeProto:
    values = facts.values
    epsilon = next((entry.f for entry in norm.attribute if entry.name == "epsilon"), 1e-5)
    scale, shift, mean, variance = (values[name].astype(np.float64) for name in norm.input[1:5])
    weight = values[conv.input[1]]
    bias = values[conv.input[2]] if len(conv.input) > 2 else np.zeros(len(weight))
    factor = scale / np.sqrt(variance + epsilon)
    made = {
        f"{norm.output[0]}{_FOLDED}/weight": weight * factor.reshape([-1] + [1] * (weight.ndim - 1)),
        f"{norm.output[0]}{_FOLDED}/bias": (bias - mean) * factor + shift,
    }
    for name, value in made.items():
        facts.add(name, value.astype(np.float32))
    node = onnx.NodeProto()
    node.CopyFrom(conv)
    del node.input[1:], node.output[:]
    node.input.extend(made)
    node.output.append(norm.output[0])
    return node
