"""Remove channels for good: one ``numpy.take`` per (initializer, axis), then restated shape constants.

For every plan the result computes what the original computes with the removed slices set to zero.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channel_map import ChannelMap, PruningPlan
from hqp_onnx.channel_rules import REWRITES, Survivors
from hqp_onnx.errors import UsageError
from hqp_onnx.passes.base import PassResult

__all__ = ["prune_channels"]


def prune_channels(graph: gs.Graph, channels: ChannelMap, plan: PruningPlan) -> PassResult:
    """A copy of ``graph`` without the units of ``plan``; names, inputs and outputs stay.

    Args:
        graph: the canonical graph that ``channels`` was made of.
        channels: its units.
        plan: units to remove.

    Raises:
        UsageError: the plan removes a frozen unit, or every channel of a tensor.
    """
    _check(channels, plan)
    pruned = graph.copy()
    if not len(plan):
        return PassResult(pruned, False)
    survivors = Survivors(channels, channels.removed(plan))
    for node in pruned.nodes:
        if node.op in REWRITES and node.domain in (None, "", "ai.onnx"):
            REWRITES[node.op](survivors, node)
        for tensor in node.outputs:
            if tensor not in pruned.outputs:
                tensor.shape = None
    if survivors.added:
        pruned.nodes.extend(survivors.added)
        pruned.toposort()
    tensors = pruned.tensors()
    for name, axes in channels.removed_slices(plan).items():
        values = tensors[name].values
        for axis, gone in axes.items():
            values = np.delete(values, gone, axis)
        tensors[name].values = np.ascontiguousarray(values)
    return PassResult(pruned, True)


def _check(channels: ChannelMap, plan: PruningPlan) -> None:
    if frozen := [unit for unit in plan.removed.tolist() if unit in channels.frozen]:
        raise UsageError(f"unit {frozen[0]} cannot be removed: {channels.frozen[frozen[0]]}")
    removed = channels.removed(plan)
    if any(removed[line].all() for line in channels.lines):
        raise UsageError("the plan removes every channel of a tensor: leave at least one of each axis")
