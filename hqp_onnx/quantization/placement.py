"""Which tensors and weights of a graph are quantized for a target, and why others are not.

A pair Q/DQ on a tensor serves all its consumers, the caller included where it is an output of the graph. Tensors that
only move values (MaxPool, Reshape, ...) take the range of the tensor they come from, so the runtime can move the
integers instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.nonfinite_weights import is_finite
from hqp_onnx.graphs.tensor_types import FLOAT, tensor_types
from hqp_onnx.graphs.weight_axes import CONVOLUTIONS, weight_axes
from hqp_onnx.runtimes.targets import Target


@dataclass(frozen=True)
class Placement:
    """Where pairs go.

    Attributes:
        tensors: activation -> the activation whose range it shares (itself, mostly), in graph order.
        weighted: names of the first outputs of the nodes whose weights become int8.
        notes: what stays in float, and why.
    """

    tensors: Mapping[str, str]
    weighted: frozenset[str]
    notes: tuple[str, ...]


def quantized_tensors(graph: gs.Graph, target: Target) -> list[str]:
    """Names of the activations whose ranges ``insert_qdq`` needs, whatever stays in float."""
    return list(dict.fromkeys(place(graph, target).tensors.values()))


def quantizable(graph: gs.Graph, target: Target) -> list[str]:
    """First outputs of the nodes whose weights can become int8, in graph order."""
    weighted = place(graph, target).weighted
    return [node.outputs[0].name for node in graph.nodes if node.outputs and node.outputs[0].name in weighted]


def place(graph: gs.Graph, target: Target, floats: Collection[str] = (), unbounded: Collection[str] = ()) -> Placement:
    """Placement of Q/DQ pairs in ``graph`` (float32, sorted, BatchNormalization folded).

    Args:
        graph: the model.
        target: its rules.
        floats: first outputs of nodes that stay in float though they could be quantized.
        unbounded: activations without a range, as they are not finite; of ``quantized_tensors``.
    """
    placer = _Placer(graph, target, frozenset(floats), frozenset(unbounded))
    placer.place_weighted()
    placer.place_followers()
    return Placement(placer.tensors, frozenset(placer.weighted), (*placer.refusals, *placer.summary()))


class _Placer:
    """The growing placement."""

    def __init__(self, graph: gs.Graph, target: Target, floats: frozenset[str], unbounded: frozenset[str]) -> None:
        self.graph, self.target, self.floats, self.unbounded = graph, target, floats, unbounded
        self.known = tensor_types(graph)
        self.exposed = {tensor.name for tensor in graph.outputs}
        self.tensors: dict[str, str] = {}
        self.weighted: set[str] = set()
        self.refusals: list[str] = []

    def place_weighted(self) -> None:
        """Pairs of weighted operators and of residual sums."""
        for node in self.graph.nodes:
            if operator(node) in self.target.weighted:
                if reason := self.refusal(node):
                    self.refusals.append(f"{node.op} '{node.name}' stays in float: {reason}")
                    continue
                self.weighted.add(node.outputs[0].name)
            elif not (node.op in self.target.residual and self.is_residual(node)):
                continue
            for tensor in _activations(node.inputs[:2]):
                if tensor is not self.fused(node):
                    self.add(tensor)
            if node.op in self.target.outputs:
                self.add(self.behind(node))

    def place_followers(self) -> None:
        """Pairs behind operators whose inputs all carry pairs; a result of the graph stays as precise as it is."""
        for node in self.graph.nodes:
            inputs = _activations(node.inputs)
            if not inputs or any(t.name not in self.tensors for t in inputs):
                continue
            if node.op in self.target.same_range:
                for tensor in node.outputs:
                    if tensor.outputs and self.is_float(tensor):
                        self.add(tensor)
            elif node.op in self.target.follows and len(inputs) == len(node.inputs) and self.is_read(node):
                self.add(self.behind(node))

    def add(self, tensor: gs.Variable) -> None:
        """Give a pair to ``tensor``, and to every tensor back to the one whose values it holds."""
        chain = self.chain(tensor)
        for member in reversed(chain):
            self.tensors.setdefault(member.name, chain[-1].name)

    def spoiler(self, tensor: gs.Tensor) -> str:
        """The operator that would be merged with the pair of ``tensor``, wrongly; "" for none.

        That is one of the target's, with nothing in between but what computes with single values, moves or joins them.
        """
        if not self.target.spoiled or not tensor.inputs:
            return ""
        maker = tensor.inputs[0]
        kind, sources = operator(maker), _activations(maker.inputs)
        if kind in self.target.spoiled:
            return kind
        if kind in self.target.weighted or not (len(sources) == 1 or kind == "Concat"):
            return ""
        return next(filter(None, map(self.spoiler, sources)), "")

    def chain(self, tensor: gs.Variable) -> list[gs.Variable]:
        """``tensor``, and what it is moved from, back to the one whose values it holds."""
        chain = [tensor]
        while (parent := self.moved(chain[-1])) is not None:
            chain.append(parent)
        return chain

    def is_read(self, node: gs.Node) -> bool:
        """Whether anything reads what ``node`` gives, and a range can be given to it."""
        return bool(node.outputs[0].outputs) and self.is_bounded(self.behind(node))

    def is_bounded(self, tensor: gs.Tensor) -> bool:
        """Whether a range can be given to ``tensor``."""
        return isinstance(tensor, gs.Constant) or self.chain(tensor)[-1].name not in self.unbounded

    def fused(self, node: gs.Node) -> gs.Variable | None:
        """The input of a residual sum that goes without a pair: the convolution that makes it takes in the sum.

        Whether that stays in float makes no difference, so the ranges that are needed do not depend on it.
        """
        if node.op not in self.target.residual or not self.target.fuses_sum:
            return None
        makers = CONVOLUTIONS & self.target.weighted
        for tensor in _activations(node.inputs):
            alone = len(tensor.outputs) == 1 and tensor.name not in self.exposed
            if alone and tensor.inputs and operator(tensor.inputs[0]) in makers:
                return tensor
        return None

    def moved(self, tensor: gs.Variable) -> gs.Variable | None:
        """The float activation of which ``tensor`` is a moved copy."""
        if not tensor.inputs or tensor.inputs[0].op not in self.target.same_range:
            return None
        source = tensor.inputs[0].inputs[0]
        return source if isinstance(source, gs.Variable) and self.is_float(source) else None

    def behind(self, node: gs.Node) -> gs.Variable:
        """Output of ``node``, or of the bias or absorbed activation that is its only use."""
        output = node.outputs[0]
        if self.target.fully_connected and node.op == "MatMul":
            reader = self.only_reader(output)
            if reader is not None and _is_bias(reader, node.inputs[1].shape[-1]):
                output = reader.outputs[0]
        reader = self.only_reader(output)
        return reader.outputs[0] if reader is not None and reader.op in self.target.absorbed else output

    def only_reader(self, tensor: gs.Tensor) -> gs.Node | None:
        """The node that alone reads ``tensor``, which is no output of the graph."""
        return tensor.outputs[0] if len(tensor.outputs) == 1 and tensor.name not in self.exposed else None

    def is_float(self, tensor: gs.Tensor) -> bool:
        """Whether ``tensor`` is float32, or of unknown type."""
        return tensor.name not in self.known or self.known[tensor.name].element == FLOAT

    def is_residual(self, node: gs.Node) -> bool:
        """Whether ``node`` joins two float activations of one shape, as a skip connection does."""
        inputs, behind = _activations(node.inputs), self.target.residual_behind
        if len(inputs) != 2 or not all(self.is_float(t) and self.is_bounded(t) for t in inputs):
            return False
        if any(map(self.spoiler, inputs)):
            return False
        if behind and not any(t.name in self.weighted and t.inputs[0].op in behind for t in inputs):
            return False
        first, second = (self.known[t.name].sizes if t.name in self.known else None for t in inputs)
        if first is None or second is None:
            return True
        unequal = any(a is not None and b is not None and a != b for a, b in zip(first, second, strict=False))
        return len(first) == len(second) and not unequal

    def refusal(self, node: gs.Node) -> str:
        """Why a node of a weighted operator is not quantized; empty if it is."""
        if node.outputs[0].name in self.floats:
            return "as chosen"
        data, weight = node.inputs[:2]
        if not isinstance(data, gs.Variable):
            return "its first input is constant"
        if not (self.is_float(data) and self.is_float(weight)):
            return "it is not float32"
        connected = self.target.fully_connected
        if isinstance(weight, gs.Variable) and (node.op != "MatMul" or connected):
            return "its weight is not constant"
        if node.op == "MatMul" and connected and len(weight.shape) != 2:
            return "its weight is not a matrix"
        if node.op == "Conv" and node.attrs.get("group", 1) > 1 and weight.shape[1] < self.target.group_channels:
            return "the INT8 kernel of groups so narrow enlarges its weights"
        if isinstance(weight, gs.Constant) and (len(weight.shape) < 2 or 0 in weight.shape):
            return "its weight is not a matrix"
        if not all(map(is_finite, node.inputs)):
            return "its weight or bias holds NaN or infinities"
        if not (self.is_bounded(data) and self.is_bounded(weight)):
            return "its input is NaN or infinite on calibration samples"
        if spoiler := next(filter(None, map(self.spoiler, (data, weight))), ""):
            return f"{self.target.name} merges {spoiler} with the pair behind it, and computes it wrongly"
        if node.op in self.target.outputs and not self.is_bounded(self.behind(node)):
            return "its output is NaN or infinite on calibration samples"
        if node.op == "Gemm" and (node.attrs.get("transA", 0) or node.attrs.get("alpha", 1.0) != 1.0):
            return "transA or alpha has no integer kernel"
        return self.bias_refusal(node) if self.target.int32_bias else ""

    def bias_refusal(self, node: gs.Node) -> str:
        """Why the bias of ``node`` cannot become int32; empty if it can."""
        if len(node.inputs) < 3 or node.inputs[2].is_empty():
            return ""
        bias, shape = node.inputs[2], node.inputs[1].shape
        channels = shape[weight_axes(node, len(shape)).output]
        if not isinstance(bias, gs.Constant) or node.attrs.get("beta", 1.0) != 1.0:
            return "its bias is not constant, or scaled"
        per_channel = bias.values.size == 1 or (bias.values.size == channels and bias.shape[-1] == channels)
        return "" if per_channel else "its bias is not one value per channel"

    def summary(self) -> list[str]:
        """Counts of the operators that read a float activation."""
        floats = Counter(
            node.op for node in self.graph.nodes if any(t.name not in self.tensors for t in _activations(node.inputs))
        )
        listed = ", ".join(f"{count} {op}" for op, count in sorted(floats.items()))
        return [f"without Q/DQ on all inputs: {listed}"] if listed else []


def _is_bias(node: gs.Node, channels: int) -> bool:
    """Whether ``node`` adds a constant for each of so many channels, which are the last axis."""
    return node.op == "Add" and any(isinstance(t, gs.Constant) and tuple(t.shape) == (channels,) for t in node.inputs)


def _activations(tensors: list[gs.Tensor]) -> list[gs.Variable]:
    return [t for t in tensors if isinstance(t, gs.Variable) and not t.is_empty()]
