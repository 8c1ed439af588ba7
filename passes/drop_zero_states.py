"""Initial states of LSTM, GRU and RNN that are zero for all inputs are left out, which says the same.

Exporters write them as zeros of the batch's size: a ConstantOfShape or an Expand of a shape that counts hidden units,
cut into the states of each layer.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.recurrent import GATES, INITIAL_C, INITIAL_H
from hqp_onnx.passes.base import PassResult

__all__ = ["drop_zero_states"]

_MOVING = frozenset(
    ["Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"]
)


def drop_zero_states(graph: gs.Graph) -> PassResult:
    """A copy of ``graph`` in this form."""
    changed, modified = graph.copy(), False
    for node in changed.nodes:
        for index in (INITIAL_H, INITIAL_C) if operator(node) in GATES else ():
            if len(node.inputs) > index and node.inputs[index].name and _is_zero(node.inputs[index]):
                node.inputs[index] = gs.Variable.empty()
                modified = True
    if not modified:
        return PassResult(graph, False)
    for node in changed.nodes:
        while operator(node) in GATES and node.inputs[-1].is_empty():
            node.inputs.pop()
    return PassResult(changed.cleanup().toposort(), True)


def _is_zero(tensor: gs.Tensor) -> bool:
    """Whether every element is zero, whatever is fed."""
    if isinstance(tensor, gs.Constant):
        return not tensor.values.any()
    if not tensor.inputs:
        return False
    node = tensor.inputs[0]
    if operator(node) == "ConstantOfShape":
        value = node.attrs.get("value")
        return value is None or not value.values.any()
    if operator(node) == "Concat":
        return all(map(_is_zero, node.inputs))
    return operator(node) in _MOVING and _is_zero(node.inputs[0])
