"""What a model costs: parameters, multiply-accumulates per sample.

A weight is used once per output position (Conv), input position (ConvTranspose), row (Gemm, MatMul) or step (both
weights of LSTM, GRU, RNN), and these counts do not change when channels are removed, so MACs = sum over nodes of
weight size times positions. What stands inside a Scan counts once a pass, inside a Loop of unknown length once, and
both branches of an If count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import FloatArray
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis
from hqp_onnx.graphs.bodies import bodies, constants, every_node
from hqp_onnx.graphs.body_shapes import scan_axes
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.origin import CarryingGraph
from hqp_onnx.graphs.recurrent import GATES
from hqp_onnx.graphs.shapes import Shapes
from hqp_onnx.graphs.weight_axes import CONVOLUTIONS, WEIGHTED

_MOST_PASSES = 1 << 20  # of a Loop that counts to the largest number
_LEAST = 1e-9  # of all costs: a unit that costs nothing has some gain, so that it can be ranked


def positions(graph: gs.Graph, shapes: Shapes) -> dict[str, int]:
    """How often each node's weight is used per sample, by node name; data x data products count whole."""
    return {node.name: times * count for node, times in _runs(graph, shapes) if (count := _uses(node, shapes)) >= 0}


def _runs(graph: gs.Graph, shapes: Shapes) -> Iterator[tuple[gs.Node, int]]:
    """Every node, those of graphs inside nodes too, and how often it runs."""
    for node in graph.nodes:
        yield node, 1
        whole = shapes.sizes.get(node.inputs[-1].name, ()) if operator(node) == "Scan" else ()
        passes = whole[scan_axes(node)[-1]] if whole else _passes(node)
        for body in bodies(node):
            yield from ((inner, passes * times) for inner, times in _runs(body, shapes))


def _passes(node: gs.Node) -> int:
    trips = node.inputs[0] if operator(node) == "Loop" else None
    return min(int(trips.values.item()), _MOST_PASSES) if isinstance(trips, gs.Constant) else 1


def _uses(node: gs.Node, shapes: Shapes) -> int:
    """How often a node uses its weight each time that it runs; -1 of one that has none."""
    if operator(node) in GATES:
        size = shapes.sizes.get(node.inputs[0].name, (0, 0))
        return size[1 if node.attrs.get("layout", 0) else 0]
    if operator(node) not in WEIGHTED:
        return -1
    tensor = node.outputs[0] if node.op != "ConvTranspose" else node.inputs[0]
    size = shapes.sizes.get(tensor.name, ())
    if node.op in CONVOLUTIONS:
        return prod(size[2:])
    rows = prod(size[1:-1])
    inner = not any(isinstance(t, gs.Constant) for t in node.inputs[:2])
    left = shapes.sizes.get(node.inputs[0].name, (1,))
    return rows * (left[-1] * size[-1] if inner and size else 1)


def macs(graph: gs.Graph, counts: Mapping[str, int]) -> int:
    """Multiply-accumulates per sample, given ``positions`` of the graph or of the one that it was pruned from."""
    weights = _weights(graph)
    names = [node.name for node in every_node(graph) if node.name in counts]
    return sum(counts[name] * (_size(weights[name]) if name in weights else 1) for name in names)


def prunable(graph: gs.Graph, channels: ChannelMap, counts: Mapping[str, int]) -> tuple[int, int]:
    """Parameters, and MACs per sample, in slices that some prunable unit owns; ``counts`` as for ``macs``."""
    free = np.zeros(channels.units + 1, bool)  # the last entry is for label -1
    free[channels.prunable] = True
    touched = {}
    for tensor, *_ in constants(graph).values():
        if np.issubdtype(tensor.dtype, np.floating):
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
    for node in every_node(graph):
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
    weights = {node.name: _own_weights(node) for node in every_node(graph)}
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
    return _floats(constants(graph), set())


def inner_params(graph: gs.Graph) -> dict[str, int]:
    """Floating-point values that only the graphs inside a node hold, by the node, as "If 'name'"."""
    own = graph.origin.weights if isinstance(graph, CarryingGraph) else frozenset[str]()
    known, counts = own | set(graph.tensors()), dict[str, int]()
    for node in graph.nodes:
        inner = {name: same for body in bodies(node) for name, same in constants(body).items()}
        if count := _floats(inner, known):
            counts[f"{node.op} '{node.name}'"] = count
    return counts


def _floats(found: Mapping[str, list[gs.Constant]], known: Collection[str]) -> int:
    """Floating-point values in constants but those of names that are ``known``."""
    others = [tensor for name, (tensor, *_) in found.items() if name not in known]
    return sum(prod(tensor.shape) for tensor in others if np.issubdtype(tensor.dtype, np.floating))
