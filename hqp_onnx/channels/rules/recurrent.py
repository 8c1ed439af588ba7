"""LSTM, GRU, RNN: input features may be removed with their columns of W; the state feeds itself and stays."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from hqp_onnx.channels.rules.lines import axis_labels
from hqp_onnx.channels.rules.registry import rule
from hqp_onnx.channels.walk_state import Walk


@rule("LSTM", "GRU", "RNN")
def _recurrent(walk: Walk, node: gs.Node) -> None:
    data, weight, *others = node.inputs
    if not isinstance(weight, gs.Constant):
        return walk.refuse(node, f"{node.op} '{node.name}' has a computed weight")
    reason = f"{node.op} '{node.name}' reads channels that stay"
    walk.tie(walk.param(weight, 2), axis_labels(walk, node, data, 2), reason)
    for tensor in others:
        walk.freeze(walk.labels(tensor), f"state of {node.op} '{node.name}'")
    return None
