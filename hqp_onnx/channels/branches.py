"""Branches: units that can all be removed, since whatever reads them then computes a constant.

A Conv, Gemm or MatMul without input channels computes its bias, the same at every position. Where that constant only
meets full tensors, as the gate of a squeeze-and-excite block and the end of a residual branch do, no part of the
branch needs to run:

    branch    units whose tensors carry no others, none of them frozen
    region    these tensors, and the nodes that make them: they are removed with the units
    reader    a Conv, Gemm or MatMul that multiplies the region's channels: its output becomes its bias
    join      an elementwise node where that constant, or what unary operators make of it, meets a full tensor

A reader whose output only flows back into the region (the first layer of a gate inside it) is removed with it. A join
takes a constant on one side only, so all branches of a graph can be removed together.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis
from hqp_onnx.channels.rules.elementwise import UNARY
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.shapes import Shapes
from hqp_onnx.statistics.moments import contractions, takes_bias

JOINS = frozenset(["Add", "Sub", "Mul", "Max", "Min"])
PASSING = JOINS | {*UNARY, "BatchNormalization"}


def find_branches(graph: gs.Graph, channels: ChannelMap, shapes: Shapes) -> tuple[IntArray, ...]:
    """The units of each branch of a canonical graph, int64, sorted."""
    search = _Search(graph, channels, shapes)
    return tuple(units for units in _apart(channels) if search.separable(units))


def _apart(channels: ChannelMap) -> list[IntArray]:
    """Sets of prunable units that fill every parameter axis and tensor in which one of them occurs."""
    sets = [np.unique(labels) for labels in [*channels.members.values(), *channels.tensors.values()]]
    distinct = {units.tobytes(): units for units in sets}
    times = np.zeros(channels.units + 1, int)  # the last entry is for label -1
    for units in distinct.values():
        times[units] += 1
    times[list(channels.frozen)], times[-1] = 0, 0
    return sorted((units for units in distinct.values() if (times[units] == 1).all()), key=lambda units: int(units[0]))


class _Search:
    """What is known of a graph, and the joins that branches have taken."""

    def __init__(self, graph: gs.Graph, channels: ChannelMap, shapes: Shapes) -> None:
        self.channels, self.shapes, self.nodes = channels, shapes, graph.nodes
        self.index = {id(node): number for number, node in enumerate(graph.nodes)}
        self.exposed = {tensor.name for tensor in graph.outputs}
        self.axes = {name: use.axis for name, use in contractions(graph).items()}
        self.first = {name: int(labels.flat[0]) for name, labels in channels.tensors.items()}
        self.joins: dict[int, str] = {}

    def separable(self, units: IntArray) -> bool:
        """Whether the graph runs on without ``units``; if so, their joins are taken."""
        branch = _Branch(self, units)
        if not all(branch.dispensable(node) for node in branch.readers):
            return False
        self.joins.update(branch.joins)
        return True


class _Branch:
    """One set of units: its region, what reads it, and where constants meet full tensors."""

    def __init__(self, search: _Search, units: IntArray) -> None:
        self.search, self.units = search, set(units.tolist())
        self.region = {name for name, unit in search.first.items() if unit in self.units}
        self.made = {id(node) for node in search.nodes if any(t.name in self.region for t in node.outputs)}
        self.last = max((search.index[node] for node in self.made), default=-1)
        self.readers = [
            node
            for node in search.nodes
            if id(node) not in self.made and any(t.name in self.region for t in node.inputs)
        ]
        self.joins: dict[int, str] = {}

    def dispensable(self, node: gs.Node) -> bool:
        """Whether a node that reads the region can be a constant, or is removed as well."""
        if self.lost(node):
            return True
        if operator(node) not in ("Conv", "Gemm", "MatMul") or node.inputs[0].name not in self.region:
            return False
        weight, output = node.inputs[1], node.outputs[0]
        labels = self.search.channels.members.get(ParamAxis(weight.name, self.search.axes.get(weight.name, -1)))
        if labels is None or not self.units.issuperset(labels.tolist()):
            return False
        alone = len(weight.outputs) == 1 and (node.op == "MatMul" or takes_bias(weight))
        return alone and len(self.search.shapes.sizes.get(output.name, ())) > 1 and self.absorbed(output)

    def lost(self, node: gs.Node) -> bool:
        """Whether all that a node computes flows into the region, or nowhere."""
        number = self.search.index.get(id(node), self.last + 1)
        if number > self.last or any(t.name in self.search.exposed for t in node.outputs):
            return False
        readers = [reader for tensor in node.outputs for reader in tensor.outputs]
        return all(id(reader) in self.made or self.lost(reader) for reader in readers)

    def absorbed(self, tensor: gs.Tensor) -> bool:
        """Whether every reader of ``tensor``, now a constant, is lost, makes a constant of it or joins it."""
        if tensor.name in self.search.exposed:
            return False
        return all(self.takes(node, tensor) for node in tensor.outputs)

    def takes(self, node: gs.Node, constant: gs.Tensor) -> bool:
        """Whether one reader of a constant still runs, or is removed."""
        if id(node) in self.made or self.lost(node):
            return True
        if id(node) not in self.search.index or operator(node) not in PASSING:
            return False
        others = [t for t in node.inputs if isinstance(t, gs.Variable) and not t.is_empty() and t is not constant]
        if not others:
            return all(self.absorbed(tensor) for tensor in node.outputs)
        full = len(others) == 1 and self.search.shapes.same(others[0].name, node.outputs[0].name)
        taken = {**self.search.joins, **self.joins}.get(id(node), constant.name)
        self.joins[id(node)] = constant.name
        return full and node.op in JOINS and taken == constant.name
