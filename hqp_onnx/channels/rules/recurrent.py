"""LSTM, GRU, RNN: hidden unit j is one unit: row j of every gate of W, R, B and P, column j of R, its initial state.

A tensor has one line of labels per axis and ``hidden_size`` is one number, so unit j of both directions of a
bidirectional node is removed together. What reads Y, Y_h or Y_c sees the unit along the last axis.

Zeros in its slices leave state j alone with itself: the column of R that reads it is zero, and so are its inputs.
An LSTM's cell becomes f c + i g(0), a GRU's state z h + (1 - z) g(0), an RNN's f(0). From an initial state of zero
that is zero for Tanh and its like, with ``clip``, ``input_forget``, ``linear_before_reset`` and peepholes too. With
other activations the state is some value that differs from step to step, so only weights may read it.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.labels import along
from hqp_onnx.channels.rules.lines import axis_labels
from hqp_onnx.channels.rules.registry import rewrite, rule
from hqp_onnx.channels.survivors import Survivors
from hqp_onnx.channels.walk_state import Walk
from hqp_onnx.graphs.recurrent import BIAS, GATES, INITIAL_C, INITIAL_H, LENGTHS, PEEPHOLES, activations

_ZERO_AT_ZERO = frozenset(["Tanh", "Relu", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "Elu", "Softsign"])


@rule("LSTM", "GRU", "RNN")
def _recurrent(walk: Walk, node: gs.Node) -> None:
    data, weight, recurrence = node.inputs[:3]
    if not isinstance(weight, gs.Constant) or not isinstance(recurrence, gs.Constant):
        return walk.refuse(node, f"{node.op} '{node.name}' has a computed weight")
    gates = GATES[node.op]
    hidden = walk.param(recurrence, 2)
    inputs = axis_labels(walk, node, data, 2)
    walk.tie(walk.param(weight, 2), inputs, f"{node.op} '{node.name}' reads channels that stay")
    for tensor in (weight, recurrence):
        _own(walk, node, tensor, 1, np.tile(hidden, gates))
    for index, repeats in ((BIAS, 2 * gates), (PEEPHOLES, 3)):
        if (tensor := _input(node, index)) is not None:
            _own(walk, node, tensor, 1, np.tile(hidden, repeats))
    states = [tensor for index in (INITIAL_H, INITIAL_C) if (tensor := _input(node, index)) is not None]
    for tensor in states:
        _own(walk, node, tensor, 2, hidden)
    if (lengths := _input(node, LENGTHS)) is not None:
        walk.freeze(walk.labels(lengths), f"{node.op} '{node.name}' counts steps by channels")
    first = 0 if node.op == "RNN" else 1  # what f gives only weighs states
    settles = all(name in _ZERO_AT_ZERO for names in activations(node, node.op) for name in names[first:])
    starts = all(isinstance(tensor, gs.Constant) or walk.zero(tensor) for tensor in states)
    for tensor in node.outputs:
        if tensor.name:
            walk.set(tensor, along(hidden, -1, len(walk.sizes(tensor))), 0.0 if settles and starts else None)
    return None


def _input(node: gs.Node, index: int) -> gs.Tensor | None:
    return node.inputs[index] if len(node.inputs) > index and node.inputs[index].name else None


def _own(walk: Walk, node: gs.Node, tensor: gs.Tensor, axis: int, labels: IntArray) -> None:
    """Tie ``labels`` to a parameter, or to what computes a state; one that is fed has none, so units must stay."""
    constant = isinstance(tensor, gs.Constant)
    line = walk.param(tensor, axis) if constant else axis_labels(walk, node, tensor, axis)
    walk.tie(line, labels, f"'{tensor.name}' of {node.op} '{node.name}' stays as it is")


@rewrite("LSTM", "GRU", "RNN")
def _hidden_size(survivors: Survivors, node: gs.Node) -> None:
    tensor = next(t for t in node.outputs if t.name)
    if (rank := survivors.rank(tensor)) and (kept := survivors.mask(tensor, rank - 1)) is not None:
        node.attrs["hidden_size"] = int(kept.sum())
