"""What a model costs: parameters, multiply-accumulates per sample.

A weight is used once per output position (Conv), input position (ConvTranspose), row (Gemm, MatMul) or step (both
weights of LSTM, GRU, RNN), and these counts do not change when channels are removed, so MACs = sum over nodes of
weight size times positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import FloatArray
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.origin import CarryingGraph
from hqp_onnx.graphs.recurrent import GATES
from hqp_onnx.graphs.shapes import Shapes
from hqp_onnx.graphs.weight_axes import CONVOLUTIONS, WEIGHTED

_LEAST = 1e-9  # of all costs: a unit that costs nothing has some gain, so that it can be ranked


def positions(graph: gs.Graph, shapes: Shapes) -> dict[str, int]:
    """How often each node's weight is used per sample, by node name; data x data products count whole."""
    counts = {}
    for node in graph.nodes:
        if operator(node) in GATES:
            size = shapes.sizes.get(node.inputs[0].name, (0, 0))
            counts[node.name] = size[1 if node.attrs.get("layout", 0) else 0]
            continue
        if operator(node) not in WEIGHTED:
            continue
        tensor = node.outputs[0] if node.op != "ConvTranspose" else node.inputs[0]
        size = shapes.sizes.get(tensor.name, ())
        if node.op in CONVOLUTIONS:
            counts[node.name] = prod(size[2:])
            continue
        rows = prod(size[:-1]) // (size[0] if size else 1)
        inner = not any(isinstance(t, gs.Constant) for t in node.inputs[:2])
        left = shapes.sizes.get(node.inputs[0].name, (1,))
        counts[node.name] = rows * (left[-1] * size[-1] if inner and size else 1)
    return counts


def macs(graph: gs.Graph, counts: Mapping[str, int]) -> int:
    """Multiply-accumulates per sample, given ``positions`` of the graph or of the one that it was pruned from."""
    weights = _weights(graph)
    names = [node.name for node in graph.nodes if node.name in counts]
    return sum(counts[name] * (_size(weights[name]) if name in weights else 1) for name in names)


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
    weights = _weights(graph).items()
    products = sum(counts.get(name, 0) * touched.get(weight.name, 0) for name, own in weights for weight in own)
    return sum(touched.values()), products


def unit_costs(graph: gs.Graph, channels: ChannelMap, costs: Mapping[str, float]) -> FloatArray:
    """What each unit accounts for: of each node, the share of its weights, or else of its output, that the unit owns.

    Args:
        graph: canonical.
        channels: its units.
        costs: node name -> any measure, such as MACs or seconds.

    Returns:
        float64 [units], above 0, in the unit of ``costs``.
    """
    totals = np.zeros(channels.units + 1)  # the last entry is for label -1
    for node in graph.nodes:
        own = [weight for weight in _own_weights(node) if len(weight.shape) > 1]
        for weight in own:
            axes = (channels.members.get(ParamAxis(weight.name, axis)) for axis in range(len(weight.shape)))
            cost = costs.get(node.name, 0.0) * (prod(weight.shape) / max(_size(own), 1))
            for labels in (labels for labels in axes if labels is not None):
                np.add.at(totals, labels, cost / len(labels))
        for tensor in node.outputs[:1] if not own else ():
            if tensor.name in channels.tensors:
                labels = channels.tensors[tensor.name].ravel()
                np.add.at(totals, labels, costs.get(node.name, 0.0) / len(labels))
    costs_of: FloatArray = np.maximum(totals[:-1], _LEAST * totals.sum() + np.finfo(np.float64).tiny)
    return costs_of


def node_macs(graph: gs.Graph, counts: Mapping[str, int]) -> dict[str, float]:
    """Multiply-accumulates per sample of each node with a weight."""
    return {name: float(counts[name] * _size(own)) for name, own in _weights(graph).items() if name in counts}


def node_params(graph: gs.Graph) -> dict[str, float]:
    """Values in the weights of each node that has some; of a weight that several nodes read, each has its share."""
    weights = _weights(graph)
    readers = Counter(weight.name for own in weights.values() for weight in own)
    return {name: sum(prod(weight.shape) / readers[weight.name] for weight in own) for name, own in weights.items()}


def weight_shapes(graph: gs.Graph) -> dict[str, tuple[int, ...]]:
    """The shape of the first weight of each node that has one."""
    return {name: tuple(own[0].shape) for name, own in _weights(graph).items()}


def _weights(graph: gs.Graph) -> dict[str, list[gs.Constant]]:
    weights = {node.name: _own_weights(node) for node in graph.nodes}
    return {name: own for name, own in weights.items() if own}


def _own_weights(node: gs.Node) -> list[gs.Constant]:
    """The constants that a node multiplies: both of a recurrent one."""
    if operator(node) in GATES:
        return [t for t in node.inputs[1:3] if isinstance(t, gs.Constant)]
    return [t for t in node.inputs[:2] if isinstance(t, gs.Constant)][:1]


def _size(weights: list[gs.Constant]) -> int:
    return sum(prod(weight.shape) for weight in weights)


def params(graph: gs.Graph) -> int:
    """Floating-point values in initializers, those of graphs inside nodes included; a shared one counts once."""
    return _floats([graph, *graph.subgraphs(recursive=True)], set())


def inner_params(graph: gs.Graph) -> dict[str, int]:
    """Floating-point values that only the graphs inside a node hold, by the node, as "If 'name'"."""
    own = graph.origin.weights if isinstance(graph, CarryingGraph) else frozenset[str]()
    known, counts = own | set(graph.tensors()), dict[str, int]()
    for node in graph.nodes:
        inner = [each for body in node.subgraphs() for each in [body, *body.subgraphs(recursive=True)]]
        if count := _floats(inner, known):
            counts[f"{node.op} '{node.name}'"] = count
    return counts


def _floats(graphs: Iterable[gs.Graph], known: Collection[str]) -> int:
    """Floating-point values in the initializers of ``graphs`` but those of names that are ``known``."""
    found = {name: t for graph in graphs for name, t in graph.tensors().items() if isinstance(t, gs.Constant)}
    shapes = [t.shape for name, t in found.items() if name not in known and np.issubdtype(t.dtype, np.floating)]
    return sum(prod(shape) for shape in shapes)
