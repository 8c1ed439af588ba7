"""Remove channels for good: one ``numpy.take`` per (initializer, axis), then restated shape constants.

For every plan the result computes what the original computes with the removed slices set to zero. What reads nothing
but removed channels computes its bias: a constant takes its place, and the branch that it ended is gone
(``branches``).
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import BoolArray
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis, PruningPlan
from hqp_onnx.channels.rules import REWRITES
from hqp_onnx.channels.survivors import Survivors
from hqp_onnx.errors import UsageError
from hqp_onnx.graphs.bodies import constants
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.unique_names import UniqueNames, tensor_names, unused
from hqp_onnx.passes.base import PassResult
from hqp_onnx.statistics.moments import contractions

__all__ = ["prune_channels"]


def prune_channels(graph: gs.Graph, channels: ChannelMap, plan: PruningPlan) -> PassResult:
    """A copy of ``graph`` without the units of ``plan``; names, inputs and outputs stay.

    Args:
        graph: the canonical graph that ``channels`` was made from.
        channels: its units.
        plan: units to remove.

    Raises:
        UsageError: the plan removes a frozen unit, or every channel of a tensor outside the branches.
    """
    _check(channels, plan)
    pruned = graph.copy()
    if not len(plan):
        return PassResult(pruned, False)
    gone = channels.removed(plan)
    _end_branches(pruned, channels, gone)
    survivors = Survivors(channels, gone, UniqueNames(pruned, more=tensor_names(graph)))
    graphs = [pruned, *pruned.subgraphs(recursive=True)]
    added = [_restate(survivors, inner, inner is pruned) for inner in graphs]
    if any(added):
        pruned.cleanup().toposort()  # a last state may be put back that nothing reads
    tensors = constants(pruned)
    for name, axes in channels.removed_slices(plan).items():
        for tensor in tensors.get(name, ()):  # none where its branch is gone
            values = tensor.values
            for axis, slices in axes.items():
                values = np.delete(values, slices, axis)
            tensor.values = np.ascontiguousarray(values)
    return PassResult(pruned, True)


def _restate(survivors: Survivors, graph: gs.Graph, whole: bool) -> bool:
    """Restate what nodes say of channels, forget shapes, and say whether nodes were added.

    ``graph`` is the ``whole`` one, or one inside a node.
    """
    for node in graph.nodes:
        if rewrite := REWRITES.find(operator(node)):
            rewrite(survivors, node)
        for tensor in node.outputs:
            if not (whole and tensor in graph.outputs):
                tensor.shape = None
    for tensor in () if whole else (*graph.inputs, *graph.outputs):
        if survivors.counts(tensor):  # that of a Loop's count of passes must be stated
            tensor.shape = None
    graph.nodes.extend(survivors.added)
    added = bool(survivors.added)
    survivors.added.clear()
    return added


def constant_name(reader: gs.Node, taken: Container[str]) -> str:
    """Name of the constant [1, C, 1, ...] that takes the place of what a Conv, Gemm or MatMul computed.

    ``taken`` are the tensors of the graph before pruning (``tensor_names``): with them, the name is always the same.
    """
    return unused(f"{reader.outputs[0].name}.constant", taken)


def _end_branches(graph: gs.Graph, channels: ChannelMap, gone: BoolArray) -> None:
    """Put constants in place of nodes that read nothing but removed units."""
    ended, tensors, taken = False, graph.tensors(), tensor_names(graph)
    for name, use in contractions(graph).items():
        labels = channels.members.get(ParamAxis(name, use.axis))
        if labels is None or not gone[labels].all():
            continue
        weight = tensors[name]
        reader, axis = weight.outputs[0], 1 - use.axis
        values = reader.inputs[2].values.reshape(-1) if len(reader.inputs) > 2 else np.zeros(weight.shape[axis])
        outputs = channels.members.get(ParamAxis(name, axis))
        values = values if outputs is None else values[~gone[outputs]]
        shape = (1, -1, *[1] * (len(weight.shape) - 2))
        constant = gs.Constant(constant_name(reader, taken), values.reshape(shape).astype(weight.dtype))
        for node in list(reader.outputs[0].outputs):
            node.inputs = [constant if t is reader.outputs[0] else t for t in node.inputs]
        ended = True
    if ended:
        graph.cleanup()


def _check(channels: ChannelMap, plan: PruningPlan) -> None:
    if frozen := [unit for unit in plan.removed.tolist() if unit in channels.frozen]:
        raise UsageError(f"unit {frozen[0]} cannot be removed: {channels.frozen[frozen[0]]}")
    removed = channels.removed(plan)
    if any(removed[line].all() for line in channels.lines if channels.branch_of[line[0]] < 0):
        raise UsageError("the plan removes every channel of a tensor: leave at least one of each axis")
