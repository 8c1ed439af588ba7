"""Cross-layer equalization: let the channels of an activation share its INT8 range evenly, in the same function.

For f with f(s x) = s f(x), s > 0 (Relu, LeakyRelu, pooling, a residual sum, nothing at all), and any s_i > 0,

    W2 f(W1 x + b1)  ==  (W2 diag(s)) f(diag(1/s) (W1 x + b1))

All tensors that such operators tie together form a group with one s (Nagel et al. 2019, arXiv:1906.04721, for two
layers in a row; here for whole residual trunks and depthwise chains). With one scale per output channel, dividing the
rows of W1 costs nothing, and what s trades is

    noise of the activation   sum_i min(d^2 / 12, E[x_i^2] / s_i^2) s_i^2 |W2_i|^2,  d = max_i (max |x_i| / s_i) / 255
    noise of the weight       sum_o (max_i |W2_oi| s_i / 127)^2 / 12 * sum_i E[x_i^2] / s_i^2

both relative to sum_i |W2_i|^2 E[x_i^2]. Of s_i = (a_i / max a)^p, a_i = max |x_i|, the p in 0, 1/4 .. 1 of least noise
is taken, if that halves the noise at least: the model of the noise is rough, and small gains in it were none on real
networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import FloatArray
from hqp_onnx.data.batch import Batch
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.nonfinite_weights import is_finite
from hqp_onnx.graphs.tensor_types import tensor_types
from hqp_onnx.graphs.weight_axes import weight_axes
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.insert_qdq import along
from hqp_onnx.statistics.channel_stats import ChannelStats, channel_stats

__all__ = ["GAIN", "POWERS", "Reading", "base", "equalize", "noise"]

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
_TINY = float(np.finfo(np.float64).tiny)
GAIN = 0.5
_LEAST = 2.0**-8  # a channel that is smaller than this share of the largest is treated as being of this share
_POOLING = frozenset(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"])
_MOVING = frozenset(["Flatten", "Reshape", "Squeeze"])
_HOMOGENEOUS = _POOLING | _MOVING | frozenset(["Relu", "LeakyRelu", "Identity", "Pad"])


@dataclass
class _Group:
    """Tensors of one scaling, and the nodes that make and read them."""

    tensors: list[str]
    frozen: bool = False
    producers: list[gs.Node] = field(default_factory=list)
    consumers: list[gs.Node] = field(default_factory=list)

    def merge(self, other: _Group) -> None:
        """Take over what ``other`` holds."""
        self.frozen |= other.frozen
        self.tensors += other.tensors
        self.producers += other.producers
        self.consumers += other.consumers


@dataclass(frozen=True)
class Reading:
    """What a weight reads, and the weight as [inputs, outputs, taps], or [channels, 1, taps] if depthwise."""

    seen: ChannelStats
    weight: FloatArray
    depthwise: bool = False


@dataclass(frozen=True)
class Equalized(PassResult):
    """``scaled`` are the tensors that hold other values than before."""

    scaled: frozenset[str] = frozenset()


def equalize(graph: gs.Graph, data: Iterable[Batch], *, threads: int = 0) -> Equalized:
    """A copy of ``graph`` that computes the same, with weights rescaled; notes name each group that was.

    Args:
        graph: float32, canonical, sorted, BatchNormalization folded.
        data: calibration batches, read once.
        threads: as for ``Session``.

    Raises:
        DataError: no batch.
        ModelError: onnxruntime cannot run the graph.
    """
    graph = graph.copy()
    groups = [group for group in _Groups(graph).found() if group.producers and group.consumers]
    measured = {name: 0 for group in groups for name in _read(group)}
    stats = channel_stats(to_proto(graph), measured, data, threads=threads)
    notes, scaled = [], set[str]()
    for group in groups:
        if not all(stats[name].is_finite for name in _read(group)):
            continue
        tops = base([stats[name] for name in _read(group)])
        consumers = [
            Reading(stats[node.inputs[0].name], _by_input(node), _is_depthwise(node)) for node in group.consumers
        ]
        left = {power: noise(consumers, tops**power) for power in POWERS}
        best = min(left, key=left.__getitem__)
        if left[best] < GAIN * left[0]:
            _apply(group, tops**best)
            scaled.update(group.tensors)
            notes.append(f"{group.tensors[0]}: equalized, {left[best] / left[0]:.0%} of its noise power is left")
    return Equalized(graph, bool(notes), tuple(notes), scaled=frozenset(scaled))


class _Groups:
    """The growing partition of a graph's tensors."""

    def __init__(self, graph: gs.Graph) -> None:
        self.sizes = {name: kind.sizes or () for name, kind in tensor_types(graph).items()}
        self.groups = {name: _Group([name]) for name, t in graph.tensors().items() if isinstance(t, gs.Variable)}
        self.graph = graph

    def found(self) -> list[_Group]:
        """Groups that may be scaled, in graph order."""
        if any(isinstance(value, gs.Graph) for node in self.graph.nodes for value in node.attrs.values()):
            return []  # an inner graph may read any tensor
        for node in self.graph.nodes:
            if not self.visit(node):
                self.freeze([*node.inputs, *node.outputs])
        self.freeze([*self.graph.inputs, *self.graph.outputs])
        return [group for group in {id(g): g for g in self.groups.values()}.values() if not group.frozen]

    def freeze(self, tensors: Iterable[gs.Tensor]) -> None:
        for tensor in tensors:
            if tensor.name in self.groups:
                self.groups[tensor.name].frozen = True

    def visit(self, node: gs.Node) -> bool:
        """Record what ``node`` requires of its tensors; False if it allows no scaling."""
        if operator(node) != node.op or len(node.outputs) != 1:  # of another domain
            return False
        source, output = node.inputs[0].name, node.outputs[0].name
        if source not in self.groups:  # a constant, such as a weight behind an Identity
            return False
        if _is_linear(node):
            self.groups[source].consumers.append(node)
            self.groups[output].producers.append(node)
            return True
        if node.op in _HOMOGENEOUS and (node.op != "Pad" or _pads_zeros(node)):
            return self.tie(source, output, node.op in _MOVING)
        if node.op not in ("Add", "Mul") or not all(t.name in self.groups for t in node.inputs):
            return False
        if node.op == "Add":
            return self.tie(source, output) and self.tie(node.inputs[1].name, output)
        gated, gate = sorted(node.inputs, key=lambda tensor: self.groups[tensor.name].frozen)
        self.freeze([gate])
        return self.tie(gated.name, output)

    def tie(self, first: str, second: str, moved: bool = False) -> bool:
        """Give both tensors one scaling, if axis 1 is the same channels in both; ``moved`` values keep their order."""
        a, b = self.sizes.get(first, ()), self.sizes.get(second, ())
        if len(a) < 2 or len(b) < 2 or a[1] is None or a[1] != b[1]:
            return False
        if _count(a[2:]) != _count(b[2:]) if moved else len(a) != len(b):
            return False
        one, other = self.groups[first], self.groups[second]
        if one is not other:
            one.merge(other)
            self.groups.update(dict.fromkeys(other.tensors, one))
        return True


def _count(sizes: Sequence[int | None]) -> float:
    """Product of ``sizes``; NaN, which equals nothing, if one is unknown."""
    return math.prod(math.nan if size is None else size for size in sizes)


def _is_linear(node: gs.Node) -> bool:
    """Whether ``node`` is a Conv (of one group, or depthwise) or Gemm whose parameters it alone reads."""
    parameters = [t for t in node.inputs[1:] if not t.is_empty()]
    if not all(isinstance(t, gs.Constant) and len(t.outputs) == 1 and is_finite(t) for t in parameters):
        return False
    if not isinstance(node.inputs[0], gs.Variable) or node.op not in ("Conv", "Gemm"):
        return False
    shape = parameters[0].shape
    if node.op == "Conv":
        return node.attrs.get("group", 1) == 1 or _is_depthwise(node)
    factors = [node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0), node.attrs.get("transA", 0)]
    outputs = shape[_output_axis(node)]
    return factors == [1.0, 1.0, 0] and all(t.shape == [outputs] or t.shape == (outputs,) for t in parameters[1:])


def _is_depthwise(node: gs.Node) -> bool:
    """Whether every output channel of a Conv reads the input channel of its own number alone."""
    shape = node.inputs[1].shape
    return bool(shape[1] == 1 and shape[0] == node.attrs.get("group", 1) > 1)


def _pads_zeros(node: gs.Node) -> bool:
    value = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    zero = value is None or (isinstance(value, gs.Constant) and not value.values.any())
    return node.attrs.get("mode", "constant") == "constant" and zero


def _read(group: _Group) -> list[str]:
    return [node.inputs[0].name for node in group.consumers]


def base(seen: Sequence[ChannelStats]) -> FloatArray:
    """Each channel's largest magnitude as a share of its tensor's, the most of several; 1 where it is never used."""
    tops = [stats.top / max(stats.top.max(), _TINY) for stats in seen]
    top = np.max(tops, axis=0)
    return np.where(top > 0, np.maximum(top, _LEAST), 1.0)


def noise(consumers: Sequence[Reading], scale: FloatArray) -> float:
    """Sum over consumers of the output noise, as a share of the output, that INT8 inputs and weights make."""
    total = 0.0
    for reading in consumers:
        seen, weight = reading.seen, reading.weight
        energy = np.square(weight).sum((1, 2))
        step = (seen.top / scale).max() / 255
        made = (np.minimum(step**2 / 12, seen.power / np.square(scale)) * np.square(scale) * energy).sum()
        if not reading.depthwise:
            steps = (np.abs(weight) * scale[:, None, None]).max((0, 2)) / 127
            made += np.square(steps).sum() / 12 * weight.shape[2] * (seen.power / np.square(scale)).sum()
        total += float(made / max((energy * seen.power).sum(), _TINY))
    return total


def _by_input(node: gs.Node) -> FloatArray:
    """The weight as [inputs, outputs, taps]; a depthwise one as [channels, 1, taps]."""
    weight: FloatArray = node.inputs[1].values.astype(np.float64)
    weight = weight.reshape(*weight.shape[:2], -1)
    return weight if _is_depthwise(node) else np.moveaxis(weight, _output_axis(node), 1)


def _apply(group: _Group, scale: FloatArray) -> None:
    for node in group.producers:
        _rescale(node.inputs[1], _output_axis(node), 1 / scale)
        if len(node.inputs) > 2 and not node.inputs[2].is_empty():
            _rescale(node.inputs[2], 0, 1 / scale)
    for node in group.consumers:
        _rescale(node.inputs[1], 0 if _is_depthwise(node) else 1 - _output_axis(node), scale)


def _output_axis(node: gs.Node) -> int:
    return weight_axes(node, len(node.inputs[1].shape)).output


def _rescale(tensor: gs.Constant, axis: int, factors: FloatArray) -> None:
    tensor.values = (tensor.values * along(factors, axis, len(tensor.shape))).astype(tensor.values.dtype)
