"""Spell the mean over all positions as GlobalAveragePool, which kernels of blocked layouts and of INT8 know.

    ReduceMean(x, axes = all spatial axes)  ->  GlobalAveragePool(x) [-> Flatten, without keepdims]

A runtime that keeps activations in a blocked layout reorders them before every ReduceMean. Where there is one axis
behind the second, it holds the channels of a transformer as often as positions: such means are left alone.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult

__all__ = ["pool_spatial_means"]


def pool_spatial_means(graph: gs.Graph, ranks: dict[str, int]) -> PassResult:
    """``graph`` with its spatial means as poolings, as a copy.

    Args:
        graph: float32.
        ranks: number of axes of the activations; those that are absent keep their ReduceMean.
    """
    graph = graph.copy()
    names = UniqueNames(graph)
    means = [node for node in graph.nodes if node.op == "ReduceMean" and _is_spatial(node, ranks)]
    for node in means:
        data, (output,) = node.inputs[0], node.outputs
        node.op, node.inputs = "GlobalAveragePool", [data]
        if not node.attrs.get("keepdims", 1):
            pooled = gs.Variable(names.tensor(f"{output.name}/pooled"), output.dtype)
            node.outputs = [pooled]
            graph.nodes.append(gs.Node("Flatten", names.node(f"{node.name}/flat"), {}, [pooled], [output]))
        node.attrs = {}
    graph.cleanup().toposort()
    return PassResult(graph, bool(means), (f"{len(means)} spatial means as GlobalAveragePool",))


def _is_spatial(node: gs.Node, ranks: dict[str, int]) -> bool:
    data, rank = node.inputs[0], ranks.get(node.inputs[0].name, 0)
    axes = node.attrs.get("axes")
    if len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant):
        axes = node.inputs[1].values.tolist()
    if axes is None or rank < 4 or isinstance(data, gs.Constant) or data.dtype not in (None, np.float32):
        return False
    return sorted(axis % rank for axis in axes) == list(range(2, rank))
