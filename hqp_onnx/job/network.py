"""The network as it is drawn: its layers and the nodes where ways meet, what each reads, shares, and why channels stay.

A node that reads the results of one step belongs to that step; one that reads several is a step of its own, and so is
every layer with a weight, every node that holds graphs, and every node of another domain than ONNX's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis
from hqp_onnx.gradients.filters import Use, weight_uses
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.model_io import is_quantized
from hqp_onnx.graphs.nodes import operator, reads
from hqp_onnx.job.results import Step

_OF_SHAPES = ("Shape", "Size")
_RECURRENT = ("GRU", "LSTM", "RNN")
_ENDS = ("input", "output")
Places = Mapping[str, int]
"""The step that each node, and each tensor, belongs to, by name."""


def traced(graph: gs.Graph, channels: ChannelMap) -> tuple[tuple[Step, ...], Places]:
    """The steps of a canonical graph in its order, without precisions and times; where its nodes and tensors belong."""
    proto = model_io.to_proto(graph).graph
    uses = {use.node.name: use for use in weight_uses(proto)}
    steps = [Step(x.name, "input") for x in proto.input]
    places = {step.name: number for number, step in enumerate(steps)}
    for node in proto.node:
        found = tuple(sorted({places[name] for name in reads(node) if name in places}))
        if not found or node.op_type in _OF_SHAPES:
            continue
        use, number = uses.get(node.name), found[0]
        if use is not None or len(found) > 1 or _stands_alone(node):
            number = len(steps)
            weight, stays = ("", {}) if use is None else (use.weight, _stays(use, channels))
            steps.append(Step(node.name, operator(node), found, weight, stays=stays))
        places |= dict.fromkeys((node.name, *filter(None, node.output)), number)
    ends = [Step(x.name, "output", (places[x.name],)) for x in proto.output if x.name in places]
    return _shared([*steps, *ends], channels, uses), places


def _stands_alone(node: onnx.NodeProto) -> bool:
    """Whether a node is drawn though it only goes on with what one step gave."""
    inner = any(entry.g.node or entry.graphs for entry in node.attribute)
    return inner or "::" in operator(node) or node.op_type in _RECURRENT


def _stays(use: Use, channels: ChannelMap) -> dict[str, int]:
    """Why output channels stay, and how many of them."""
    labels = channels.members.get(ParamAxis(use.weight, use.axis), np.zeros(0, np.int64)).tolist()
    return dict(Counter(channels.frozen[label] for label in labels if label in channels.frozen))


def _shared(steps: Sequence[Step], channels: ChannelMap, uses: Mapping[str, Use]) -> tuple[Step, ...]:
    """The same with the groups of layers that share output channels, numbered as they come."""
    of = {axis: number for number, axes in enumerate(channels.groups()) for axis in axes}
    layers = [uses[step.name] for step in steps if step.weight]
    found = {use.node.name: of.get(ParamAxis(use.weight, use.axis)) for use in layers}
    sizes = Counter(found.values())
    several = dict.fromkeys(group for group in found.values() if group is not None and sizes[group] > 1)
    numbers: dict[int | None, int] = {group: number for number, group in enumerate(several)}
    return tuple(replace(s, group=numbers.get(found.get(s.name))) for s in steps)


def with_precisions(steps: Sequence[Step], shipped: onnx.ModelProto) -> tuple[Step, ...]:
    """The steps with what each computes in, in the model that ships, whose nodes have the names of the original's."""
    graph = shipped.graph
    made = {name: node.op_type for node in graph.node for name in node.output}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    floats = "fp16" if onnx.TensorProto.FLOAT16 in types.values() else "float"
    found: dict[str, str] = {}
    for node in graph.node:
        integer = is_quantized(node.op_type) or any(is_quantized(made.get(name, "")) for name in node.input[:2])
        single = any(types.get(name) == onnx.TensorProto.FLOAT for name in node.input[:2])
        found[node.name] = "int8" if integer else "float" if single else floats
    return tuple(s if s.op in _ENDS else replace(s, precision=found.get(s.name, "removed")) for s in steps)
