"""Channel analysis: every channel carries an integer label, and labels flow through the graph as the data does.

A tensor carries an int64 array that broadcasts against its shape: the label of each position, size 1 on axes
along which labels do not vary, -1 where there is no channel. Rules (``channel_rules``, one per operator)
apply data movement to the labels themselves, tie labels that must stay together, and freeze those that must
stay. Labels connected by ties are one unit. A tensor whose labels vary along several axes must stay a
rectangle when units leave, so labels are tied along all of these axes but the one that leaves most units.
Operators without a rule freeze what they touch: nothing is assumed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channel_map import ChannelMap, IntArray, ParamAxis
from hqp_onnx.channel_rules import RULES
from hqp_onnx.shapes import Shapes, probe


def analyze(graph: gs.Graph, shapes: Shapes | None = None) -> ChannelMap:
    """The units of a canonical graph.

    Args:
        graph: canonical (``passes.canonicalize``), nodes in topological order.
        shapes: its shapes, if known already.
    """
    walk = Walk(shapes or probe(graph))
    for node in graph.nodes:
        _visit(walk, node)
    for tensor in graph.outputs:
        walk.freeze(walk.labels(tensor), f"graph output '{tensor.name}'")
    return walk.resolve()


def _visit(walk: Walk, node: gs.Node) -> None:
    rule = RULES.get(node.op) if node.domain in (None, "", "ai.onnx") else None
    unknown = [t.name for t in [*node.inputs, *node.outputs] if t.name and walk.shape(t) is None]
    if rule is None or unknown:
        where = f"{node.op} node '{node.name}'"
        walk.refuse(node, f"no rule for {where}" if rule is None else f"unknown shape of '{unknown[0]}' at {where}")
    else:
        rule(walk, node)


class Walk:
    """State of one analysis: labels by tensor, and what was said of them."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._labels: dict[str, IntArray] = {}
        self._params: dict[ParamAxis, IntArray] = {}
        self._next = 0
        self._ties: list[tuple[IntArray, IntArray]] = []
        self._frozen: list[tuple[IntArray, str]] = []

    def shape(self, tensor: gs.Tensor) -> tuple[int, ...] | None:
        """Concrete shape, batch included; None if unknown."""
        if isinstance(tensor, gs.Constant):
            return tuple(tensor.shape)
        return self._shapes.sizes.get(tensor.name)

    def sizes(self, tensor: gs.Tensor) -> tuple[int, ...]:
        """Concrete shape of a tensor that has one (rules are only called on such)."""
        shape = self.shape(tensor)
        assert shape is not None, tensor.name
        return shape

    def labels(self, tensor: gs.Tensor) -> IntArray:
        """Labels of an activation, -1 everywhere if it has none."""
        return self._labels.get(tensor.name, np.full((1,) * len(self.shape(tensor) or ()), -1))

    def set(self, tensor: gs.Tensor, labels: IntArray) -> None:
        """Give an activation its labels, of the tensor's rank."""
        self._labels[tensor.name] = compress(labels)

    def fresh(self, count: int) -> IntArray:
        """New labels; a single channel cannot leave, so it gets none."""
        if count == 1:
            return np.array([-1])
        self._next += count
        return np.arange(self._next - count, self._next)

    def param(self, tensor: gs.Tensor, axis: int) -> IntArray:
        """Labels along one axis of an initializer: the same for every node that uses it."""
        key = ParamAxis(tensor.name, axis)
        if key not in self._params:
            self._params[key] = self.fresh(tensor.shape[axis])
        return self._params[key]

    def tie(self, a: IntArray, b: IntArray, reason: str) -> None:
        """Positions leave together (broadcasting); a label that meets -1 is frozen for ``reason``."""
        a, b = (x.ravel() for x in np.broadcast_arrays(a, b))
        both = (a >= 0) & (b >= 0)
        self._ties.append((a[both], b[both]))
        self.freeze(np.where(both, -1, np.maximum(a, b)), reason)

    def freeze(self, labels: IntArray, reason: str) -> None:
        """These labels must stay; the first reason is kept."""
        if (labels := np.unique(labels[labels >= 0])).size:
            self._frozen.append((labels, reason))

    def refuse(self, node: gs.Node, reason: str) -> None:
        """Freeze everything that ``node`` touches, captured tensors and parameters included."""
        for tensor in [*node.inputs, *_captured(node)]:
            if isinstance(tensor, gs.Constant):
                for axis in range(len(tensor.shape)):
                    self.freeze(self.param(tensor, axis), reason)
            else:
                self.freeze(self.labels(tensor), reason)

    def resolve(self) -> ChannelMap:
        """Units, numbered in order of the parameters."""
        roots = self._rectangular_roots()
        members = {key: _look_up(roots, labels) for key, labels in sorted(self._params.items())}
        members = {key: labels for key, labels in members.items() if (labels >= 0).any()}
        number = np.full(self._next + 1, -1)
        used = _first_seen(np.concatenate([*members.values(), np.zeros(0, int)]))
        number[used] = np.arange(len(used))
        members = {key: number[labels] for key, labels in members.items()}
        tensors = {name: compress(number[_look_up(roots, labels)]) for name, labels in self._labels.items()}
        tensors = {name: labels for name, labels in tensors.items() if (labels >= 0).any()}
        frozen = [(number[roots[labels]], reason) for labels, reason in self._frozen]
        for name, line in [(key.tensor, line) for key, line in members.items()] + list(tensors.items()):
            if (line == line.flat[0]).all():
                frozen.append((line, f"the only channel of '{name}'"))
        return ChannelMap(len(used), members, _reasons(frozen), tensors)

    def _rectangular_roots(self) -> IntArray:
        """Root of every label, after tying until labels vary along one axis of each tensor at most."""
        candidates = [labels for labels in self._labels.values() if sum(n > 1 for n in labels.shape) > 1]
        while True:
            roots = components(self._next, self._ties)
            for labels in candidates:
                resolved = compress(_look_up(roots, labels))
                axes = [axis for axis, size in enumerate(resolved.shape) if size > 1]
                if len(axes) > 1:
                    keep = max(axes, key=lambda axis: _freedom(resolved, axis))
                    for axis in set(axes) - {keep}:
                        self.tie(resolved, resolved.take([0], axis), "its tensor would not stay rectangular")
            if np.array_equal(roots, components(self._next, self._ties)):
                return roots


def compress(labels: IntArray) -> IntArray:
    """``labels`` with size 1 on every axis along which they do not vary."""
    for axis, size in enumerate(labels.shape):
        if size > 1 and (labels == labels.take([0], axis)).all():
            labels = labels.take([0], axis)
    return labels


def components(count: int, ties: Iterable[tuple[IntArray, IntArray]]) -> IntArray:
    """Smallest label of each label's connected component, int64 [count], by pointer jumping."""
    roots = np.arange(count)
    pairs = [np.concatenate(side) for side in zip(*ties, strict=True)]
    if not pairs:
        return roots
    left, right = pairs
    while True:
        low = np.minimum(roots[left], roots[right])
        before = roots.copy()
        for side in (roots[left], roots[right]):
            np.minimum.at(roots, side, low)
        while not np.array_equal(roots, jumped := roots[roots]):
            roots = jumped
        if np.array_equal(roots, before):
            return roots


def _look_up(roots: IntArray, labels: IntArray) -> IntArray:
    return np.where(labels >= 0, roots[labels] if len(roots) else -1, -1)


def _reasons(frozen: Iterable[tuple[IntArray, str]]) -> dict[int, str]:
    """The first reason of every unit."""
    reasons: dict[int, str] = {}
    for units, reason in frozen:
        for unit in np.unique(units[units >= 0]):
            reasons.setdefault(int(unit), reason)
    return reasons


def _freedom(labels: IntArray, axis: int) -> int:
    """Units that remain when labels are tied along every axis but ``axis``."""
    lines = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)
    ties = [(lines[:, :1].repeat(lines.shape[1], 1).ravel(), lines.ravel())]
    if (lines < 0).any():
        return 0
    return len(np.unique(components(int(lines.max()) + 1, ties)[lines]))


def _first_seen(labels: IntArray) -> IntArray:
    distinct, first = np.unique(labels[labels >= 0], return_index=True)
    return distinct[np.argsort(first)]


def _captured(node: gs.Node) -> list[gs.Tensor]:
    """Tensors that the graphs inside ``node`` read, whoever made them."""
    inner = [value for value in node.attrs.values() if isinstance(value, gs.Graph)]
    inner_nodes = [n for graph in inner for n in graph.nodes]
    outputs = [t for graph in inner for t in graph.outputs]
    return [t for n in inner_nodes for t in [*n.inputs, *_captured(n)]] + outputs
