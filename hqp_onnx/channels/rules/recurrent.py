"""LSTM, GRU, RNN: hidden unit j is one unit: row j of every gate of W, R, B and P, column j of R, its initial state.

A tensor has one line of labels per axis and ``hidden_size`` is one number, so unit j of both directions of a
bidirectional node is removed together. What reads Y, Y_h or Y_c sees the unit along the last axis.

Zeros in its slices leave state j alone with itself: the column of R that reads it is zero, and so are its inputs.
An LSTM's cell becomes f c + i g(0), a GRU's state z h + (1 - z) g(0), an RNN's f(0). From an initial state of zero
that is zero for Tanh and its like, with ``clip``, ``input_forget``, ``linear_before_reset`` and peepholes too. With
other activations the state is some value that differs from step to step, so only weights may read it.

A state that is fed, or computed by what stays, keeps its size: the node reads the units that remain of it (Gather).
From it, a removed unit's state fades, since a gate of zeros is half open: after T steps h = h0 / 2^T in a GRU,
c = c0 / 2^T and h = tanh(c) / 2 in an LSTM, 0 in an RNN. So where the last state is handed on as it is, that is put
back behind the node, and the interface stays. Other readers of the states read those that remain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import Array, BoolArray, IntArray
from hqp_onnx.channels.labels import along
from hqp_onnx.channels.rules.lines import axis_labels
from hqp_onnx.channels.rules.registry import rewrite, rule
from hqp_onnx.channels.survivors import Survivors
from hqp_onnx.channels.walk_state import Walk
from hqp_onnx.graphs.recurrent import (
    BIAS,
    CARRIED,
    GATES,
    INITIAL_C,
    INITIAL_H,
    LENGTHS,
    PEEPHOLES,
    activations,
    given,
    is_handed_on,
)

_FADING: Mapping[str, Sequence[tuple[str, ...]]] = {
    "LSTM": [("Sigmoid", "Tanh", "Tanh")],
    "GRU": [("Sigmoid", "Tanh")],
    "RNN": [("Tanh",), ("Relu",)],
}
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
        if (tensor := given(node, index)) is not None:
            _own(walk, node, tensor, 1, np.tile(hidden, repeats))
    states = {index: tensor for index in (INITIAL_H, INITIAL_C) if (tensor := given(node, index)) is not None}
    fed = {index for index, tensor in states.items() if _is_fed(walk, node, tensor)}
    for index, tensor in states.items():
        if index not in fed:
            _own(walk, node, tensor, 2, hidden)
    if (lengths := given(node, LENGTHS)) is not None:
        walk.freeze(walk.labels(lengths), f"{node.op} '{node.name}' counts steps by channels")
    first = 0 if node.op == "RNN" else 1  # what f gives only weighs states
    settles = all(name in _ZERO_AT_ZERO for names in activations(node, node.op) for name in names[first:])
    starts = node.op == "RNN" or all(isinstance(tensor, gs.Constant) or walk.zero(tensor) for tensor in states.values())
    for number, tensor in enumerate(node.outputs):
        if CARRIED[node.op] in fed:
            walk.leave_whole(_completed(node, number))
        if tensor.name:
            walk.set(tensor, along(hidden, -1, len(walk.sizes(tensor))), 0.0 if settles and starts else None)
    return None


def _is_fed(walk: Walk, node: gs.Node, tensor: gs.Tensor) -> bool:
    """Whether a state has no channels of its own, so whatever units remain are looked up in it."""
    return not isinstance(tensor, gs.Constant) and bool((walk.labels(tensor) < 0).all())


def _completed(node: gs.Node, number: int) -> list[gs.Variable]:
    """What holds an output that is a last state, goes on as it is, and of which is known what removed units leave."""
    if number == 0 or not node.outputs[number].name or given(node, LENGTHS) is not None or node.attrs.get("clip"):
        return []
    if any(names not in _FADING[node.op] for names in activations(node, node.op)):
        return []
    state = node.outputs[number]
    whole = [state, *(reader.outputs[0] for reader in state.outputs if reader.op == "Identity")]  # see part_states
    return list(filter(is_handed_on, whole))[:1]


def _own(walk: Walk, node: gs.Node, tensor: gs.Tensor, axis: int, labels: IntArray) -> None:
    """Tie ``labels`` to a parameter, or to what computes a state."""
    constant = isinstance(tensor, gs.Constant)
    line = walk.param(tensor, axis) if constant else axis_labels(walk, node, tensor, axis)
    walk.tie(line, labels, f"'{tensor.name}' of {node.op} '{node.name}' stays as it is")


@rewrite("LSTM", "GRU", "RNN")
def _hidden_size(survivors: Survivors, node: gs.Node) -> None:
    kept = survivors.line(node.inputs[2], 2)
    if kept is None or kept.all():
        return
    node.attrs["hidden_size"] = int(kept.sum())
    fed = {}
    for index in (INITIAL_H, INITIAL_C):
        state = given(node, index)
        if state is not None and not isinstance(state, gs.Constant) and not survivors.rank(state):
            fed[index] = state
            survivors.insert(node, index, "Gather", [state, np.flatnonzero(kept)], axis=-1)
    completed = {
        number: whole
        for number in range(len(node.outputs))
        for whole in _completed(node, number)
        if CARRIED[node.op] in fed
    }
    if completed:
        _complete(survivors, node, kept, completed, fed)


def _complete(
    survivors: Survivors,
    node: gs.Node,
    kept: BoolArray,
    states: Mapping[int, gs.Variable],
    fed: Mapping[int, gs.Tensor],
) -> None:
    """Put what removed units would leave back into last states, by the number of the output."""
    stem, gone = f"{node.name}_removed", np.flatnonzero(~kept)
    order = np.argsort(np.concatenate([np.flatnonzero(kept), gone]))

    def add(op: str, *inputs: gs.Tensor | Array, into: gs.Tensor | None = None, **attrs: object) -> gs.Tensor:
        return survivors.add(f"{stem}_{op}", op, inputs, into, **attrs)

    kind = node.inputs[2].dtype
    if node.op != "RNN":
        steps = add("Gather", add("Shape", node.inputs[0]), np.array(node.attrs.get("layout", 0)), axis=0)
        fading = add("Pow", np.array(0.5, kind), add("Cast", steps, to=onnx.helper.np_dtype_to_tensor_dtype(kind)))
        faded = add("Mul", add("Gather", fed[CARRIED[node.op]], gone, axis=-1), fading)
    for number, whole in states.items():
        narrow = node.outputs[number]
        if whole is narrow:
            node.outputs[number] = narrow = survivors.variable(f"{stem}_{number}", kind)
        whole.inputs.clear()
        if node.op == "RNN":
            both = add("Pad", narrow, np.array([0] * 5 + [len(gone)]))
        elif node.op == "LSTM" and number == 1:
            both = add("Concat", narrow, add("Mul", add("Tanh", faded), np.array(0.5, kind)), axis=-1)
        else:
            both = add("Concat", narrow, faded, axis=-1)
        add("Gather", both, order, into=whole, axis=-1)
