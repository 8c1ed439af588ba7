"""GroupQueryAttention with a cache, which ``passes.fused`` cannot write out: head j of every group is one unit.

Keys and values of the past are inputs, those to come are outputs, and their shapes name the heads that share them and
what is inside a head: these stay. As many query heads must remain in each group, so they are removed alike: columns of
the query's projection, rows of what reads the result. A removed head is a mean of values, not zero, so only
weights may read it.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channels.labels import along
from hqp_onnx.channels.rules.lines import axis_labels, collapse
from hqp_onnx.channels.rules.registry import rewrite, rule
from hqp_onnx.channels.survivors import Survivors
from hqp_onnx.channels.walk_state import Walk

_PER_HEAD = range(9, 14)
"""Inputs that say something of single heads: positions, a bias, sinks, norms."""


@rule("com.microsoft::GroupQueryAttention")
def _heads_of_groups(walk: Walk, node: gs.Node) -> None:
    query, others = node.inputs[0], [t for t in node.inputs[1:] if t.name and not isinstance(t, gs.Constant)]
    stated = [node.inputs[i] for i in _PER_HEAD if i < len(node.inputs) and node.inputs[i].name]
    packed = len(node.inputs) < 2 or not node.inputs[1].name
    if packed or stated or any(t.name for t in node.outputs[3:]):
        return walk.refuse(node, f"{node.op} '{node.name}' has a cache, and is of a form without a rule")
    heads, groups = node.attrs["num_heads"], node.attrs["kv_num_heads"]
    for tensor in others:
        walk.freeze(walk.labels(tensor), f"{node.op} '{node.name}' keeps what its cache holds")
    labels = axis_labels(walk, node, query, -1).reshape(groups, heads // groups, -1)
    units = collapse(walk, labels, [0, 2], f"{node.op} '{node.name}' keeps its heads")
    walk.set(node.outputs[0], along(np.broadcast_to(units, labels.shape).ravel(), -1, len(walk.sizes(query))))
    return None


@rewrite("com.microsoft::GroupQueryAttention")
def _number_of_heads(survivors: Survivors, node: gs.Node) -> None:
    query = node.inputs[0]
    if (rank := survivors.rank(query)) and (kept := survivors.mask(query, rank - 1)) is not None:
        node.attrs["num_heads"] = int(kept.sum()) * node.attrs["num_heads"] // len(kept)
