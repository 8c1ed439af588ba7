"""What a model costs: parameters, multiply-accumulates per sample.

A weight is used once per output position (Conv), input position (ConvTranspose) or row (Gemm, MatMul), and
these counts do not change when channels leave; so MACs = sum over nodes of weight size times positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channel_map import ChannelMap, ParamAxis
from hqp_onnx.shapes import Shapes


def positions(graph: gs.Graph, shapes: Shapes) -> dict[str, int]:
    """How often each node's weight is used per sample, by node name; data x data products count whole."""
    counts = {}
    for node in graph.nodes:
        if node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        tensor = node.outputs[0] if node.op != "ConvTranspose" else node.inputs[0]
        size = shapes.sizes.get(tensor.name, ())
        if node.op in ("Conv", "ConvTranspose"):
            counts[node.name] = prod(size[2:])
            continue
        rows = prod(size[:-1]) // (size[0] if size else 1)
        inner = not any(isinstance(t, gs.Constant) for t in node.inputs[:2])
        left = shapes.sizes.get(node.inputs[0].name, (1,))
        counts[node.name] = rows * (left[-1] * size[-1] if inner and size else 1)
    return counts


def macs(graph: gs.Graph, counts: Mapping[str, int]) -> int:
    """Multiply-accumulates per sample, given ``positions`` of the graph or of the one that it was pruned from."""
    total = 0
    for node in graph.nodes:
        weight = next((t for t in node.inputs[:2] if isinstance(t, gs.Constant)), None)
        if node.name in counts:
            total += counts[node.name] * (prod(weight.shape) if weight is not None else 1)
    return total


def prunable(graph: gs.Graph, channels: ChannelMap, counts: Mapping[str, int]) -> tuple[int, int]:
    """Parameters, and MACs per sample, in slices that some prunable unit owns; ``counts`` as for ``macs``."""
    free = np.zeros(channels.units + 1, bool)  # the last entry is for label -1
    free[channels.prunable] = True
    touched = {}
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant) and np.issubdtype(tensor.dtype, np.floating):
            stays = list(tensor.shape)
            for axis in range(len(stays)):
                labels = channels.members.get(ParamAxis(tensor.name, axis))
                stays[axis] -= 0 if labels is None else int(free[labels].sum())
            touched[tensor.name] = prod(tensor.shape) - prod(stays)
    products = 0
    for node in graph.nodes:
        weight = next((t for t in node.inputs[:2] if isinstance(t, gs.Constant)), None)
        products += counts.get(node.name, 0) * (touched.get(weight.name, 0) if weight is not None else 0)
    return sum(touched.values()), products


def params(graph: gs.Graph) -> int:
    """Floating-point values in initializers."""
    constants = [t for t in graph.tensors().values() if isinstance(t, gs.Constant)]
    return sum(prod(t.shape) for t in constants if np.issubdtype(t.dtype, np.floating))
