"""LSTM, GRU, RNN: what ``recurrence`` gives, summed over steps and samples for weights and biases."""

from __future__ import annotations

import onnx

from hqp_onnx.gradients.recurrence import Product, recurrence
from hqp_onnx.gradients.tape import Grads, Tape, rule
from hqp_onnx.graphs.recurrent import BIAS, INITIAL_C, INITIAL_H, WEIGHTS


@rule("LSTM", "GRU", "RNN")
def recurrent(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Directions add up in the data, and lie one after the other in everything else."""
    back = recurrence(t, n, g)
    if i == 0:
        return back.data[0] if len(back.data) == 1 else t.add(*back.data)
    if i in (INITIAL_H, INITIAL_C):
        return _stacked(t, [states[i - INITIAL_H] for states in back.states])
    if i == BIAS:
        halves = [[t.reduce("ReduceSum", half, [0, 1]) for half in both] for both in back.biases]
        return _stacked(t, [t.op("Concat", *both, axis=0) for both in halves])
    assert i in WEIGHTS, i
    own = [product for product in back.products if product.index == i]
    rows = [[_summed(t, p) for p in own if p.direction == d] for d in range(len(back.data))]
    return _stacked(t, [parts[0] if len(parts) == 1 else t.op("Concat", *parts, axis=0) for parts in rows])


def _summed(t: Tape, p: Product) -> str:
    return t.op("Gemm", t.reshape(p.delta, -1, p.rows), t.reshape(p.x, -1, p.columns), transA=1)


def _stacked(t: Tape, parts: list[str]) -> str:
    """Along a new first axis."""
    wide = [t.op("Unsqueeze", part, t.ints(0)) for part in parts]
    return wide[0] if len(wide) == 1 else t.op("Concat", *wide, axis=0)
