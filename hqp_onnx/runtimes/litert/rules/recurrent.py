"""LSTM, GRU and RNN, written out step by step, since a file holds one number of steps.

With states of H hidden units, and what the input adds, p, computed at all steps at once:

    p = x W' + Wb                                 [T, N, gates H]
    LSTM    i, o, f, c~ = p + h R' + Rb           c = f c + i c~       h = o tanh c
    GRU     z, r = p + h R' + Rb                  h~ = p + (r h) R' + Rb, or p + r (h R' + Rb)
                                                  h = h~ + z (h - h~)
    RNN     h = p + h R' + Rb

The sums p + ... are behind their activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.litert.emitter import Emitter
from hqp_onnx.runtimes.litert.rules.registry import Step, rule

_BIAS, _LENGTHS, _H, _C, _PEEPHOLES = 3, 4, 5, 6, 7  # inputs, as ONNX counts them
_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_MOST_STEPS = 1024
_KINDS = {"Sigmoid": "LOGISTIC", "Tanh": "TANH", "Relu": "RELU"}
Advance = Callable[["_Direction", int, "_State"], "_State"]


@dataclass(frozen=True)
class _State:
    """Numbers of the tensors h and c [N, H]; c counts for LSTM alone."""

    h: int
    c: int


class _Direction:
    """One direction: its weights, and operators on tensors [N, H]."""

    def __init__(self, e: Emitter, step: Step, place: int, activations: Sequence[str]) -> None:
        self.e, self.step, self.activations = e, step, activations
        w, r = (np.asarray(e.value(step.inputs[k], "its weight"), np.float32)[place] for k in (1, 2))
        self.hidden, self.rows = r.shape[1], e.shape(step.inputs[0])[1]
        given = step.input(_BIAS)
        bias = np.asarray(e.value(given, "its bias"), np.float32)[place] if given else np.zeros(2 * len(w), np.float32)
        self.w, self.r, (self.wb, self.rb) = w, r, np.split(bias, 2)

    def made(self, kind: str, inputs: list[int], options: str = "", width: int = 0, **chosen: object) -> int:
        """What an operator gives, [N, width]; H where that is not said."""
        out = self.new(self.rows, width or self.hidden)
        self.e.file.operator(kind, inputs, [out], options, **chosen)
        return out

    def new(self, *shape: int) -> int:
        """A tensor in between."""
        return self.e.new(self.step.output, shape)

    def product(self, x: int, weight: Array, bias: Array) -> int:
        """X weight' + bias."""
        constants = [self.e.file.constant("weight", weight), self.e.file.constant("bias", bias)]
        return self.made("FULLY_CONNECTED", [x, *constants], "FullyConnectedOptions", len(weight))

    def add(self, x: int, y: int, width: int = 0) -> int:
        """X + y."""
        return self.made("ADD", [x, y], "AddOptions", width)

    def mul(self, x: int, y: int) -> int:
        """X y."""
        return self.made("MUL", [x, y], "MulOptions")

    def act(self, x: int, number: int) -> int:
        """The activation of that number."""
        return self.made(_KINDS[self.activations[number]], [x])

    def split(self, x: int, count: int) -> list[int]:
        """Blocks of H."""
        if count == 1:
            return [x]
        outs = [self.new(self.rows, self.hidden) for _ in range(count)]
        axis = self.e.file.constant("axis", np.array(1, np.int32))
        self.e.file.operator("SPLIT", [axis, x], outs, "SplitOptions", numSplits=count)
        return outs

    def inputs(self, steps: int) -> list[int]:
        """What the input adds at each step."""
        x, width = self.e.get(self.step.inputs[0]), len(self.w)
        constants = [self.e.file.constant("weight", self.w), self.e.file.constant("bias", self.wb)]
        whole, parts = self.new(steps, self.rows, width), [self.new(self.rows, width) for _ in range(steps)]
        self.e.file.operator("FULLY_CONNECTED", [x, *constants], [whole], "FullyConnectedOptions", keepNumDims=True)
        self.e.file.operator("UNPACK", [whole], parts, "UnpackOptions", num=steps, axis=0)
        return parts


def _lstm(d: _Direction, p: int, state: _State) -> _State:
    i, o, f, g = d.split(d.add(p, d.product(state.h, d.r, d.rb), len(d.r)), 4)
    c = d.add(d.mul(d.act(f, 0), state.c), d.mul(d.act(i, 0), d.act(g, 1)))
    return _State(d.mul(d.act(o, 0), d.act(c, 2)), c)


def _gru(d: _Direction, p: int, state: _State) -> _State:
    two, h = 2 * d.hidden, state.h
    pz, pr, ph = d.split(p, 3)
    rz, rr = d.split(d.product(h, d.r[:two], d.rb[:two]), 2)
    z, r = d.act(d.add(pz, rz), 0), d.act(d.add(pr, rr), 0)
    after = bool(d.step.attributes.get("linear_before_reset", 0))
    back = d.product(h if after else d.mul(r, h), d.r[two:], d.rb[two:])
    new = d.act(d.add(ph, d.mul(r, back) if after else back), 1)
    h = d.add(new, d.mul(z, d.made("SUB", [h, new], "SubOptions")))
    return _State(h, h)


def _rnn(d: _Direction, p: int, state: _State) -> _State:
    h = d.act(d.add(p, d.product(state.h, d.r, d.rb)), 0)
    return _State(h, h)


def _recurrent(advance: Advance, e: Emitter, step: Step) -> None:
    steps, rows, _ = e.shape(step.inputs[0])
    backwards, activations = _checked(e, step, steps)
    initial = [_initial(e, step, place, len(backwards)) for place in (_H, _C)]
    found, last = [], []
    for place, back in enumerate(backwards):
        d = _Direction(e, step, place, activations[place])
        state, states = _State(initial[0][place], initial[1][place]), []
        parts = d.inputs(steps)
        for p in reversed(parts) if back else parts:
            state = advance(d, p, state)
            states.append(state.h)
        found.append(_packed(e, states[::-1] if back else states, 0, d.new(steps, rows, d.hidden)))
        last.append(state)
    ends = [[state.h for state in last], [state.c for state in last]]
    for name in step.outputs:
        values, axis = (found, 1) if len(e.shape(name)) == 4 else (ends.pop(0), 0)
        _packed(e, values, axis, e.put(name))


def _checked(e: Emitter, step: Step, steps: int) -> tuple[tuple[bool, ...], list[tuple[str, ...]]]:
    """For each direction, whether it runs from the last step to the first, and its activations."""
    given = step.attributes
    lengths = step.input(_LENGTHS)
    if lengths and (e.value(lengths, "the list of its lengths") != steps).any():
        raise ModelError("its samples have different lengths")
    for what, asked in (
        ("a clip", given.get("clip")),
        ("input_forget", given.get("input_forget")),
        ("layout 1", given.get("layout")),
        ("peepholes", step.input(_PEEPHOLES)),
    ):
        if asked:
            raise ModelError(f"it has {what}, which is not written here")
    if steps > _MOST_STEPS:
        raise ModelError(f"{steps} steps, and it is written out step by step, {_MOST_STEPS} at most")
    direction = given.get("direction", b"forward").decode()
    backwards = {"forward": (False,), "reverse": (True,)}.get(direction, (False, True))
    default = _ACTIVATIONS[step.op]
    names = [name.decode() for name in given.get("activations", ())] or list(default) * len(backwards)
    if unknown := [name for name in names if name not in _KINDS]:
        raise ModelError(f"its activation {unknown[0]} has no counterpart")
    return backwards, [tuple(names[n : n + len(default)]) for n in range(0, len(names), len(default))]


def _initial(e: Emitter, step: Step, place: int, count: int) -> list[int]:
    """Numbers of the states [N, H] that the directions begin with."""
    rows, hidden = e.shape(step.inputs[0])[1], e.shape(step.inputs[2])[2]
    if not step.input(place):
        return [e.file.constant("zeros", np.zeros((rows, hidden), np.float32))] * count
    parts = [e.new(step.output, (rows, hidden)) for _ in range(count)]
    e.file.operator("UNPACK", [e.get(step.input(place))], parts, "UnpackOptions", num=count, axis=0)
    return parts


def _packed(e: Emitter, values: Sequence[int], axis: int, out: int) -> int:
    """``out``, side by side along a new axis."""
    e.file.operator("PACK", list(values), [out], "PackOptions", valuesCount=len(values), axis=axis)
    return out


for _op, _advance in {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}.items():
    rule(_op)(partial(_recurrent, _advance))
