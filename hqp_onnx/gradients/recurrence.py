"""Backward passes of LSTM, GRU and RNN: the gradient of what each gate takes in, for all steps, by one Scan.

The node gives its states h_t, so what the gates took in, a_t = W x_t + R h_{t-1} + b, and what they gave is one product
for all steps; an LSTM's cells c_t = f c_{t-1} + i g are one Scan of products and sums. Backward, with dh and dc from
step t+1 and the gradient y_t of what left step t,

    LSTM   dh += y_t;  dc += dh o h'(c);  da = (dc g i', dh h(c) o', dc c_{t-1} f', dc i g');  dc <- dc f
    GRU    dh += y_t;  da = (dh (h_{t-1} - n) z', dr r', dh (1 - z) n');                        dh <- dh z + ...
    RNN    dh += y_t;  da = dh f'(a);                                                           dh <- R^T da

and dh <- R^T da for each. All factors but dh and dc are known beforehand, so the Scan has a dozen nodes, however many
steps there are. Weights are then linear maps over steps, as those of a MatMul are: dW = sum over t of da_t x_t^T and
dR = sum over t of da_t h_{t-1}^T (of a GRU's n, r h_{t-1}; or r da_n and h_{t-1} with ``linear_before_reset``).

Where samples have lengths, steps beyond pass states on: their factors are zero, and those of dh and dc one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from hqp_onnx.gradients.tape import Grads, Tape, refuse
from hqp_onnx.graphs.nodes import number, operator
from hqp_onnx.graphs.recurrent import BIAS, GATES, INITIAL_C, INITIAL_H, LENGTHS, PEEPHOLES, activations, directions

ACTIVATIONS = frozenset({"Sigmoid", "Tanh", "Relu"})
"""Those that are differentiated."""


@dataclass(frozen=True)
class Product:
    """Rows ``start`` .. ``start + rows`` of one direction of W (``index`` 1) or R (2), as they are multiplied.

    ``delta`` [T, N, rows] is the gradient of the product and ``x`` [T, N, columns] what is multiplied.
    """

    index: int
    direction: int
    start: int
    rows: int
    columns: int
    delta: str
    x: str


@dataclass(frozen=True)
class Backward:
    """Of one node: its products, and the gradients of data, biases and initial states, by direction."""

    products: Sequence[Product]
    data: Sequence[str]
    biases: Sequence[tuple[str, str]]  # what is summed over steps and samples, for W's half and for R's
    states: Sequence[tuple[str, ...]]  # [N, H], h and, of an LSTM, c


def recurrence(t: Tape, node: onnx.NodeProto, outer: Grads) -> Backward:
    """Append the backward pass of a node, ``outer`` being the gradients of its outputs; once for all that ask.

    Raises:
        GradientError: the node has peepholes, clips, or has an activation without a derivative here.
    """
    key = ("recurrence", *node.output, *outer)
    if key not in t.memo:
        _require(node)
        parts = [_Direction(t, node, outer, d).backward() for d in range(len(directions(node)))]
        t.memo[key] = Backward(
            [product for part in parts for product in part.products],
            [part.data[0] for part in parts],
            [part.biases[0] for part in parts],
            [part.states[0] for part in parts],
        )
    found = t.memo[key]
    assert isinstance(found, Backward)
    return found


def _require(node: onnx.NodeProto) -> None:
    named = {name for names in activations(node, operator(node)) for name in names}
    if number(node, "layout", 0):
        raise refuse(node, "has batches first (layout 1), which onnxruntime does not run")
    if len(node.input) > PEEPHOLES and node.input[PEEPHOLES]:
        raise refuse(node, "has peepholes, which have no gradient rule")
    if number(node, "clip", 0) or number(node, "input_forget", 0):
        raise refuse(node, "has no gradient rule with clip or input_forget")
    if other := sorted(named - ACTIVATIONS):
        raise refuse(node, f"has no gradient rule with the activation {other[0]}")


class _Direction:
    """One direction of a node on a tape: tensors are [T, N, size], those of one step [N, size]."""

    def __init__(self, t: Tape, node: onnx.NodeProto, outer: Grads, direction: int) -> None:
        self.t, self.node, self.outer, self.direction = t, node, outer, direction
        self.op, self.like = operator(node), node.output[0]
        self.reverse = directions(node)[direction]
        self.activations = activations(node, self.op)[direction]
        _, rows, self.inputs = t.static(node, node.input[1])
        self.hidden = rows // GATES[self.op]
        self.w, self.r = (self.own(name) for name in node.input[1:3])
        self.states = self.own(self.like, 1)
        self.zero = t.mul(t.op("Gather", self.states, t.const(np.array(0)), axis=0), t.scalar(0, self.like))
        self.alive = self.lengths()

    def own(self, name: str, axis: int = 0) -> str:
        """What belongs to this direction."""
        return self.t.op("Gather", name, self.t.const(np.array(self.direction)), axis=axis)

    def input(self, index: int) -> str:
        return self.node.input[index] if len(self.node.input) > index else ""

    def lengths(self) -> str:
        """[T, N, 1], one at the steps that samples have; "" if they have all."""
        if not (lengths := self.input(LENGTHS)):
            return ""
        (steps,) = self.t.static(self.node, self.node.input[0], [0])
        numbers = self.t.const(np.arange(steps, dtype=np.int32).reshape(-1, 1, 1))
        return self.t.mask(self.t.op("Less", numbers, self.t.reshape(lengths, 1, -1, 1)), self.like)

    def masked(self, x: str) -> str:
        """Zero at steps that samples do not have."""
        return self.t.mul(x, self.alive) if self.alive else x

    def passing(self, x: str) -> str:
        """One there."""
        return self.t.add(self.masked(x), self.idle()) if self.alive else x

    def idle(self) -> str:
        return self.one_minus(self.alive)

    def one_minus(self, x: str) -> str:
        return self.t.op("Sub", self.t.scalar(1, self.like), x)

    def initial(self, index: int) -> str:
        """[N, H]."""
        return self.own(self.input(index)) if self.input(index) else self.zero

    def previous(self) -> str:
        """h_{t-1} of every step: the initial state, then the states, in the order of the steps."""
        t, first, states = self.t, _as_step(self.t, self.initial(INITIAL_H)), self.states
        if self.reverse and self.alive and self.input(INITIAL_H):  # the last step that a sample has follows others
            states = t.add(states, t.mul(self.idle(), first))
        ends = (t.ints(1), t.ints(np.iinfo(np.int64).max)) if self.reverse else (t.ints(0), t.ints(-1))
        rest = t.op("Slice", states, *ends, t.ints(0))
        return t.op("Concat", *((rest, first) if self.reverse else (first, rest)), axis=0)

    def product(self, x: str, weight: str) -> str:
        """X W^T."""
        return self.t.op("MatMul", x, self.t.op("Transpose", weight, perm=[1, 0]))

    def rows(self, x: str, start: int, stop: int, axis: int) -> str:
        """Gates ``start`` to ``stop``."""
        ends = self.t.ints(start * self.hidden), self.t.ints(stop * self.hidden)
        return self.t.op("Slice", x, *ends, self.t.ints(axis))

    def bias(self, half: int) -> str:
        """Of W (0) or R (1), [gates H]; "" without."""
        if not self.input(BIAS):
            return ""
        gates = GATES[self.op]
        return self.rows(self.own(self.input(BIAS)), half * gates, (half + 1) * gates, 0)

    def with_bias(self, x: str, *biases: str) -> str:
        for bias in filter(None, biases):
            x = self.t.add(x, bias)
        return x

    def activated(self, which: int, x: str) -> tuple[str, str]:
        """f(x) and f'(x)."""
        t, kind = self.t, self.activations[which]
        y = t.op(kind, x)
        if kind == "Relu":
            return y, t.compare("Greater", y, 0, self.like)
        return y, t.mul(y, self.one_minus(y)) if kind == "Sigmoid" else self.one_minus(t.mul(y, y))

    def arriving(self) -> tuple[list[str], tuple[str, ...]]:
        """The gradients of what leaves each step, at most one tensor, and of the final states."""
        outer = [*self.outer, None, None, None]
        each = [self.masked(self.own(outer[0], 1))] if outer[0] else []
        return each, tuple(self.own(grad) if grad else self.zero for grad in outer[1:3])

    def backward(self) -> Backward:
        return {"LSTM": self.lstm, "GRU": self.gru, "RNN": self.rnn}[self.op]()

    def result(self, delta: str, products: Sequence[Product], second: str, states: tuple[str, ...]) -> Backward:
        """``delta`` of all gates, what multiplies R, the gradient of R's biases."""
        gates = GATES[self.op] * self.hidden
        first = Product(1, self.direction, 0, gates, self.inputs, delta, self.node.input[0])
        return Backward([first, *products], [self.t.op("MatMul", delta, self.w)], [(delta, second)], [states])

    def recurrent(self, start: int, gates: int, delta: str, x: str) -> Product:
        hidden = self.hidden
        return Product(2, self.direction, start * hidden, gates * hidden, hidden, delta, x)

    def scan(
        self, states: Sequence[str], inputs: Sequence[str], step: Callable[..., Sequence[str]], ahead: bool
    ) -> list[str]:
        """A Scan in the order of the steps (``ahead``) or against it: final states, then what each step gives."""
        t, backwards = self.t, int(self.reverse == ahead)
        body = _Body(t, t.traced.types[self.like])
        names = [body.name() for _ in (*states, *inputs)]
        given = step(body, *names)
        outputs = len(given) - len(states)
        return t.outputs(
            "Scan",
            [*states, *inputs],
            len(given),
            body=body.graph(names, given),
            num_scan_inputs=len(inputs),
            scan_input_directions=[backwards] * len(inputs),
            scan_output_directions=[backwards] * outputs,
        )

    def rnn(self) -> Backward:
        (arriving, (last, _)), before = self.arriving(), self.previous()
        _, slope = self.activated(0, self.taken_in(before))
        idle = [self.idle()] if self.alive else []

        def step(b: _Body, dh: str, *rest: str) -> list[str]:
            each, factor, passing = _parted(rest, arriving, 1)
            dh = b.op("Add", dh, each[0]) if each else dh
            da = b.op("Mul", dh, factor[0])
            back = b.op("MatMul", da, self.r)
            return [b.op("Add", back, b.op("Mul", dh, passing[0])) if passing else back, da]

        state, delta = self.scan([last], [*arriving, self.masked(slope), *idle], step, ahead=False)
        return self.result(delta, [self.recurrent(0, 1, delta, before)], delta, (state,))

    def taken_in(self, before: str) -> str:
        """What all gates take in, where each reads h_{t-1}, ``before``, itself."""
        both = self.t.add(self.product(self.node.input[0], self.w), self.product(before, self.r))
        return self.with_bias(both, self.bias(0), self.bias(1))

    def lstm(self) -> Backward:
        t, before = self.t, self.previous()
        arriving, ends = self.arriving()
        taken = self.taken_in(before)
        (i, i1), (o, o1), (f, f1) = (self.activated(0, self.rows(taken, n, n + 1, 2)) for n in range(3))
        g, g1 = self.activated(1, self.rows(taken, 3, 4, 2))
        keep, new = self.passing(f), self.masked(t.mul(i, g))
        _, cells_before = self.scan([self.initial(INITIAL_C)], [keep, new], _cell, ahead=True)
        h, h1 = self.activated(2, t.add(t.mul(keep, cells_before), new))
        slopes = [t.mul(g, i1), t.mul(h, o1), t.mul(cells_before, f1), t.mul(i, g1), t.mul(o, h1)]
        idle = [self.idle()] if self.alive else []

        def step(b: _Body, dh: str, dc: str, *rest: str) -> list[str]:
            each, (keep, ki, ko, kf, kg, kc), passing = _parted(rest, arriving, 6)
            dh = b.op("Add", dh, each[0]) if each else dh
            dc = b.op("Add", dc, b.op("Mul", dh, kc))
            gates = [b.op("Mul", *pair) for pair in ((dc, ki), (dh, ko), (dc, kf), (dc, kg))]
            da = b.op("Concat", *gates, axis=1)
            back = b.op("MatMul", da, self.r)
            back = b.op("Add", back, b.op("Mul", dh, passing[0])) if passing else back
            return [back, b.op("Mul", dc, keep), da]

        inputs = [*arriving, keep, *map(self.masked, slopes), *idle]
        dh, dc, delta = self.scan(ends, inputs, step, ahead=False)
        return self.result(delta, [self.recurrent(0, 4, delta, before)], delta, (dh, dc))

    def gru(self) -> Backward:
        t, before = self.t, self.previous()
        arriving, (last, _) = self.arriving()
        after = bool(number(self.node, "linear_before_reset", 0))
        x = self.with_bias(self.product(self.node.input[0], self.w), self.bias(0))
        gates, cell = self.rows(self.r, 0, 2, 0), self.rows(self.r, 2, 3, 0)
        bias = self.bias(1)
        own = [self.rows(bias, 0, 2, 0), self.rows(bias, 2, 3, 0)] if bias else ["", ""]
        both = self.with_bias(t.add(self.rows(x, 0, 2, 2), self.product(before, gates)), own[0])
        (z, z1), (r, r1) = (self.activated(0, self.rows(both, n, n + 1, 2)) for n in range(2))
        reset = before if after else t.mul(r, before)
        inner = self.with_bias(self.product(reset, cell), own[1])
        n, n1 = self.activated(1, t.add(self.rows(x, 2, 3, 2), t.mul(r, inner) if after else inner))
        slopes = [
            t.mul(t.op("Sub", before, n), z1),
            t.mul(self.one_minus(z), n1),
            t.mul(inner if after else before, r1),
        ]

        def step(b: _Body, dh: str, *rest: str) -> list[str]:
            each, (keep, r, kz, kn, kr), _ = _parted(rest, arriving, 5)
            dh = b.op("Add", dh, each[0]) if each else dh
            dz, dn = b.op("Mul", dh, kz), b.op("Mul", dh, kn)
            inner = b.op("Mul", dn, r) if after else b.op("MatMul", dn, cell)
            dr = b.op("Mul", dn if after else inner, kr)
            read = b.op("MatMul", b.op("Concat", dz, dr, axis=1), gates)
            own = b.op("MatMul", inner, cell) if after else b.op("Mul", inner, r)
            return [b.op("Sum", b.op("Mul", dh, keep), read, own), b.op("Concat", dz, dr, dn, axis=1)]

        inputs = [*arriving, self.passing(z), r, *map(self.masked, slopes)]
        state, delta = self.scan([last], inputs, step, ahead=False)
        two, third = self.rows(delta, 0, 2, 2), self.rows(delta, 2, 3, 2)
        third = t.mul(third, r) if after else third
        second = t.op("Concat", two, third, axis=2)
        parts = (
            [self.recurrent(0, 3, second, before)]
            if after
            else [
                self.recurrent(0, 2, two, before),
                self.recurrent(2, 1, third, reset),
            ]
        )
        return self.result(delta, parts, second, (state,))


def _cell(b: _Body, cell: str, keep: str, new: str) -> list[str]:
    return [b.op("Add", b.op("Mul", keep, cell), new), b.op("Identity", cell)]


def _parted(rest: Sequence[str], arriving: Sequence[str], factors: int) -> tuple[list[str], list[str], list[str]]:
    """What a step reads: the gradient that arrives, factors, and what passes states on."""
    count = len(arriving)
    return list(rest[:count]), list(rest[count : count + factors]), list(rest[count + factors :])


def _as_step(t: Tape, x: str) -> str:
    """[N, H] as one step."""
    return t.op("Unsqueeze", x, t.ints(0))


@dataclass
class _Body:
    """The graph inside a Scan."""

    t: Tape
    kind: np.dtype[np.generic]
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def name(self) -> str:
        return self.t.new_name()

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = self.name()
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def graph(self, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.GraphProto:
        element = helper.np_dtype_to_tensor_dtype(self.kind)
        read, given = ([helper.make_tensor_value_info(x, element, None) for x in names] for names in (inputs, outputs))
        return helper.make_graph(self.nodes, "step", read, given)
