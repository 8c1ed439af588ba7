"""What one analysis knows so far: labels by tensor and parameter axis, ties, frozen labels; and the units they make.

A tensor whose labels vary along several axes must stay a rectangle when units are removed, so labels are tied along all
of these axes but the one along which most units remain.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis
from hqp_onnx.channels.heads import Attention, HeadProduct
from hqp_onnx.channels.labels import compress, varied
from hqp_onnx.channels.unions import components, find, first_seen, freedom, merge
from hqp_onnx.graphs.shapes import Shapes


class Walk:
    """State of one analysis: labels by tensor, and what was said of them.

    Args:
        shapes: of every tensor.
        attentions: those whose heads can lose dimensions.

    Attributes:
        attentions: by the identity of either product.
        inside: what is known of those products that were labelled so, by their identity.
    """

    def __init__(self, shapes: Shapes, attentions: Iterable[Attention] = ()) -> None:
        self.attentions = {id(node): each for each in attentions for node in (each.scores, each.values)}
        self.inside: dict[int, HeadProduct | None] = {}
        self._shapes = shapes
        self._labels: dict[str, IntArray] = {}
        self._residues: dict[str, float | None] = {}
        self._params: dict[ParamAxis, IntArray] = {}
        self._claimed: set[ParamAxis] = set()
        self._whole: list[tuple[ParamAxis, str]] = []
        self._followers: list[tuple[gs.Tensor, IntArray, str]] = []
        self._counts: dict[str, list[IntArray]] = {}
        self._named: list[tuple[gs.Tensor, int, IntArray, str]] = []
        self._left_whole: set[str] = set()
        self._next = 0
        self._ties: list[tuple[IntArray, IntArray]] = []
        self._known = np.array([-1])
        self._applied = 0
        self._frozen: list[tuple[IntArray, str]] = []

    def shape(self, tensor: gs.Tensor) -> tuple[int, ...] | None:
        """Concrete shape, batch included; None if unknown, or of an activation without values, which has no labels."""
        if isinstance(tensor, gs.Constant):
            return tuple(tensor.shape)
        shape = self._shapes.sizes.get(tensor.name)
        return None if shape is None or 0 in shape else shape

    def dynamic(self, tensor: gs.Tensor) -> tuple[bool, ...]:
        """Per axis of an activation, whether its size differs from run to run."""
        return self._shapes.varying(tensor.name) if isinstance(tensor, gs.Variable) else (False,) * len(tensor.shape)

    def sizes(self, tensor: gs.Tensor) -> tuple[int, ...]:
        """Concrete shape of a tensor that has one (rules are only called on such)."""
        shape = self.shape(tensor)
        assert shape is not None, tensor.name
        return shape

    def labels(self, tensor: gs.Tensor) -> IntArray:
        """Labels of an activation, -1 everywhere if it has none."""
        return self._labels.get(tensor.name, np.full((1,) * len(self.shape(tensor) or ()), -1))

    def residue(self, tensor: gs.Tensor) -> float | None:
        """The value that channels take everywhere when their parameters are zero; None if it is not certain."""
        if not isinstance(tensor, gs.Constant):
            return self._residues.get(tensor.name) if varied(self.labels(tensor)) else None
        values = tensor.values
        return values.flat[0] if values.size and (values == values.flat[0]).all() else None

    def zero(self, tensor: gs.Tensor) -> bool:
        """Whether channels of ``tensor`` whose parameters are zero are zero themselves."""
        return self.residue(tensor) == 0

    def set(self, tensor: gs.Tensor, labels: IntArray, residue: float | None = None) -> None:
        """Give an activation its labels, of the tensor's rank, and its ``residue``; none if it stays whole."""
        if tensor.name in self._left_whole:
            return
        self._labels[tensor.name] = compress(labels)
        self._residues[tensor.name] = residue

    def leave_whole(self, tensors: Iterable[gs.Tensor]) -> None:
        """These tensors keep their sizes: pruning completes them."""
        self._left_whole.update(tensor.name for tensor in tensors)

    def fresh(self, count: int) -> IntArray:
        """New labels; a single channel cannot be removed, so it gets none."""
        if count == 1:
            return np.array([-1])
        self._next += count
        return np.arange(self._next - count, self._next)

    def param(self, tensor: gs.Tensor, axis: int) -> IntArray:
        """Labels along one axis of an initializer: the same for every node that uses it; integers have none."""
        key = ParamAxis(tensor.name, axis)
        self._claimed.add(key)
        if key not in self._params:
            size = tensor.shape[axis]
            self._params[key] = np.full(size, -1) if tensor.dtype.kind in "biu" else self.fresh(size)
        return self._params[key]

    def follow(self, tensor: gs.Tensor, labels: IntArray, reason: str) -> None:
        """``tensor`` meets labels that vary along several axes: decide which it follows once only one remains."""
        self._followers.append((tensor, labels, reason))
        self._claimed.update(ParamAxis(tensor.name, axis) for axis in range(len(self.sizes(tensor))))

    def count(self, tensor: gs.Tensor, counts: list[IntArray]) -> None:
        """Say which labels each entry of a shape vector counts."""
        if any(labels.size for labels in counts):
            self._counts[tensor.name] = counts

    def counts(self, tensor: gs.Tensor) -> list[IntArray]:
        """Labels that each entry of ``tensor`` counts; empty if none does."""
        return self._counts.get(tensor.name, [])

    def name_size(self, tensor: gs.Tensor, axis: int, labels: IntArray, reason: str) -> None:
        """A count of ``labels`` becomes the size of an axis: if they are removed, so must those along that axis be."""
        if labels.size:
            self._named.append((tensor, axis, labels, reason))

    def keep_unclaimed(self, inputs: Iterable[gs.Tensor], reason: str) -> None:
        """Axes of initializers that the last rule did not label must stay, whatever labels other nodes give them."""
        self.keep_unlabelled(inputs, reason)
        self._claimed.clear()

    def keep_unlabelled(self, inputs: Iterable[gs.Tensor], reason: str) -> None:
        """The same, while the rule goes on: for what it reads beside the inputs of its node."""
        for tensor in inputs:
            if isinstance(tensor, gs.Constant):
                keys = {ParamAxis(tensor.name, axis) for axis, size in enumerate(tensor.shape) if size > 1}
                self._whole += [(key, reason) for key in sorted(keys - self._claimed)]

    def tie(self, a: IntArray, b: IntArray, reason: str) -> None:
        """Positions are removed together (broadcasting); a label that meets -1 is frozen for ``reason``."""
        a, b = (x.ravel() for x in np.broadcast_arrays(a, b))
        both = (a >= 0) & (b >= 0)
        self._ties.append((a[both], b[both]))
        self.freeze(np.where(both, -1, np.maximum(a, b)), reason)

    def freeze(self, labels: IntArray, reason: str) -> None:
        """These labels must stay; the first reason is kept."""
        if (labels := np.unique(labels[labels >= 0])).size:
            self._frozen.append((labels, reason))

    def free_along(self, labels: IntArray, axis: int) -> int:
        """Units that may be removed along one axis of ``labels``, under the ties so far."""
        added = np.arange(len(self._known) - 1, self._next)
        self._known = np.concatenate([self._known[:-1], added, [-1]])
        for left, right in self._ties[self._applied :]:
            merge(self._known, left, right)
        self._applied = len(self._ties)
        return freedom(find(self._known, labels), axis)

    def refuse(self, node: gs.Node, reason: str) -> None:
        """Freeze everything that ``node`` touches: parameters, and what the graphs inside it read or hold."""
        self._keep([*node.inputs, *_captured(node)], reason)

    def refuse_graph(self, graph: gs.Graph, reason: str) -> None:
        """Freeze everything that a graph inside a node reads or holds."""
        self._keep([*_read(graph)], reason)

    def _keep(self, tensors: Iterable[gs.Tensor], reason: str) -> None:
        for tensor in tensors:
            if isinstance(tensor, gs.Constant):
                for axis in range(len(tensor.shape)):
                    self.freeze(self.param(tensor, axis), reason)
            else:
                for labels in [self.labels(tensor), *self.counts(tensor)]:
                    self.freeze(labels, reason)

    def resolve(self) -> ChannelMap:
        """Units, numbered in order of the parameters."""
        self._make_rectangular()
        self._let_follow(self._roots())
        self._keep_whole()
        roots = self._roots()
        self._keep_named(roots)
        members = {key: roots[labels] for key, labels in sorted(self._params.items())}
        members = {key: labels for key, labels in members.items() if (labels >= 0).any()}
        number = np.full(self._next + 1, -1)
        used = first_seen(np.concatenate([*members.values(), np.zeros(0, int)]))
        number[used] = np.arange(len(used))
        members = {key: number[labels] for key, labels in members.items()}
        tensors = {name: compress(number[roots[labels]]) for name, labels in self._labels.items()}
        tensors = {name: labels for name, labels in tensors.items() if (labels >= 0).any()}
        frozen = [(number[roots[labels]], reason) for labels, reason in self._frozen]
        for name, line in [(key.tensor, line) for key, line in members.items()] + list(tensors.items()):
            if (line == line.flat[0]).all():
                frozen.append((line, f"the only channel of '{name}'"))
        return ChannelMap(len(used), members, _reasons(frozen), tensors)

    def _roots(self) -> IntArray:
        """Root of every label, and -1 for label -1: index it with labels."""
        return np.append(components(self._next, self._ties), -1)

    def _make_rectangular(self) -> None:
        """Tie until labels vary along one axis of each tensor at most: the axis with most units stays free.

        Tensors are decided in order, each under the ties of those before, so tensors that share labels agree.
        """
        roots = self._roots()
        for labels in [labels for labels in self._labels.values() if len(varied(labels)) > 1]:
            labels = compress(find(roots, labels))
            axes = varied(labels)
            if len(axes) < 2:
                continue
            keep = max(axes, key=lambda axis: (freedom(labels, axis), labels.shape[axis]))
            for axis in set(axes) - {keep}:
                self.tie(labels, labels.take([0], axis), "its tensor would not stay rectangular")
                merge(roots, *self._ties[-1])

    def _let_follow(self, roots: IntArray) -> None:
        """Followers that vary along the remaining axis are tied, or freeze it if they have no labels."""
        for tensor, labels, reason in self._followers:
            labels = compress(roots[labels])
            size = (1,) * (labels.ndim - len(self.sizes(tensor))) + self.sizes(tensor)
            spanned = {axis for axis in varied(labels) if size[axis] > 1}
            if not isinstance(tensor, gs.Constant):
                self.freeze(labels if spanned else np.array(-1), reason)
                continue
            self._claimed.clear()
            for axis in spanned:
                line = self.param(tensor, axis - labels.ndim + len(tensor.shape))
                self.tie(line.reshape([-1 if i == axis else 1 for i in range(labels.ndim)]), labels, reason)
            self.keep_unclaimed([tensor], "another node reads it whole")

    def _keep_named(self, roots: IntArray) -> None:
        for tensor, axis, counted, reason in self._named:
            named, present = compress(roots[counted]), compress(roots[self.labels(tensor)])
            stays = named.shape[0] == 1
            if not stays and (present.shape[axis] == 1 or set(named.flat) != set(present.flat)):
                self.freeze(counted, reason)

    def _keep_whole(self) -> None:
        for key, reason in self._whole:
            if key in self._params:
                self.freeze(self._params[key], f"'{key.tensor}' is shared, and {reason}")


def _reasons(frozen: Iterable[tuple[IntArray, str]]) -> dict[int, str]:
    """The first reason of every unit."""
    reasons: dict[int, str] = {}
    for units, reason in frozen:
        for unit in np.unique(units[units >= 0]):
            reasons.setdefault(int(unit), reason)
    return reasons


def _captured(node: gs.Node) -> list[gs.Tensor]:
    """Tensors that the graphs inside ``node`` read, whatever node makes them."""
    return [t for graph in node.attrs.values() if isinstance(graph, gs.Graph) for t in _read(graph)]


def _read(graph: gs.Graph) -> list[gs.Tensor]:
    return [t for node in graph.nodes for t in [*node.inputs, *_captured(node)]] + list(graph.outputs)
