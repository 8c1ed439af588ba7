"""How LSTM, GRU and RNN lay out their tensors, for H hidden units, D directions and gates stacked in blocks of H.

    W [D, gates H, inputs]     R [D, gates H, H]     B [D, 2 gates H]     P [D, 3 H]     initial states [D, N, H]
    X [T, N, inputs]           Y [T, D, N, H]        Y_h, Y_c [D, N, H]
    layout 1: X [N, T, inputs], Y [N, T, D, H], states [N, D, H]

Gates: LSTM input, output, forget, cell; GRU update, reset, hidden; RNN one. Hidden units lie along the last axis of
every activation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_graphsurgeon as gs

from hqp_onnx.graphs.nodes import Node, attribute

GATES: Mapping[str, int] = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Blocks of H rows in the weights of each operator."""
WEIGHTS = {1: "W", 2: "R"}
"""Inputs that are multiplied by data, by index."""
MOVING = frozenset(["Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"])
"""What a state may pass through and still be handed on as it is."""
BIAS, LENGTHS, INITIAL_H, INITIAL_C, PEEPHOLES = 3, 4, 5, 6, 7
CARRIED: Mapping[str, int] = {"LSTM": INITIAL_C, "GRU": INITIAL_H, "RNN": INITIAL_H}
"""The input whose value at a unit is what the last state holds of it, where all else of the unit is zero."""
_DEFAULTS: Mapping[str, Sequence[str]] = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}


def directions(node: Node) -> tuple[bool, ...]:
    """Per direction, whether it runs from the last step to the first."""
    return {"forward": (False,), "reverse": (True,)}.get(str(attribute(node, "direction", "forward")), (False, True))


def activations(node: Node, op: str) -> list[tuple[str, ...]]:
    """Per direction, the activations of LSTM (f, g, h), GRU (f, g) or RNN (f)."""
    default = _DEFAULTS[op]
    given = attribute(node, "activations")
    names = [n.decode() if isinstance(n, bytes) else str(n) for n in given] if isinstance(given, Sequence) else []
    names = names or list(default) * len(directions(node))
    return [tuple(names[i : i + len(default)]) for i in range(0, len(names), len(default))]


def given(node: gs.Node, index: int) -> gs.Tensor | None:
    """An optional input; None where it is absent."""
    return node.inputs[index] if len(node.inputs) > index and node.inputs[index].name else None


def is_handed_on(tensor: gs.Tensor) -> bool:
    """Whether nothing computes with a tensor before it leaves the graph."""
    return all(reader.op in MOVING and all(map(is_handed_on, reader.outputs)) for reader in tensor.outputs)
