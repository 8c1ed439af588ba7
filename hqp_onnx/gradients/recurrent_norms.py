"""What ``PerSample`` gives of the weights of LSTM, GRU and RNN: of every row of a gate, both directions together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx

from hqp_onnx.gradients.factors import Factors
from hqp_onnx.gradients.filters import Use
from hqp_onnx.gradients.norms import norms_of
from hqp_onnx.gradients.recurrence import Product, recurrence
from hqp_onnx.gradients.tape import Grads, Tape, refuse
from hqp_onnx.gradients.trace import Samples


def recurrent_values(
    t: Tape, kind: Literal["fisher", "taylor", "output"], uses: Sequence[tuple[Use, Grads]], form: str | None = None
) -> tuple[str, int]:
    """Append what ``PerSample`` gives of one weight, [N, rows], both directions together.

    Args:
        t: tape of the model.
        kind: of ``PerSample``.
        uses: the nodes that read the weight, each with the gradients of its outputs.
        form: see ``norms.squared_norms``.

    Returns:
        Its name, and the elements per sample that it needs at work.

    Raises:
        GradientError: a node's data do not hold the samples apart along axis 1.
    """
    blocks: dict[tuple[int, int], list[tuple[Use, Product]]] = {}
    for use, outer in uses:
        _require_samples(t, use.node)
        for product in recurrence(t, use.node, outer).products:
            if product.index == use.index:
                blocks.setdefault((product.direction, product.start), []).append((use, product))
    work = max(_work(t, use.node) for use, _ in uses)
    by_direction: dict[int, list[str]] = {}
    for (direction, _), parts in sorted(blocks.items()):
        if kind == "fisher":
            values, needed = norms_of(t, [_factors(t, *part) for part in parts], form)
            work = max(work, needed)
        else:
            each = [_sums(t, kind, *part) for part in parts]
            values = each[0] if len(each) == 1 else t.op("Sum", *each)
        by_direction.setdefault(direction, []).append(values)
    rows = [own[0] if len(own) == 1 else t.op("Concat", *own, axis=1) for own in by_direction.values()]
    total = rows[0] if len(rows) == 1 else t.op("Sum", *rows)
    return t.mul(total, total) if kind == "taylor" else total, work


def _work(t: Tape, node: onnx.NodeProto) -> int:
    """Elements per sample of what gates take in and give, their slopes and gradients, in one direction."""
    (steps,) = t.static(node, node.input[0], [0])
    return 6 * steps * t.static(node, node.input[1], [1])[0]


def _require_samples(t: Tape, node: onnx.NodeProto) -> None:
    name = node.input[0]
    place = t.traced.elsewhere.get(name)
    one = t.dims(name)[1] == t.traced.rows.get(name, 0) // max(t.dims(name)[0] or 0, 1) == 1
    if not one and place != Samples(1, 1, 1):
        raise refuse(node, f"reads '{name}', which does not hold samples along axis 1, after its steps")


def _factors(t: Tape, use: Use, p: Product) -> Factors:
    (steps,) = t.static(use.node, use.node.input[0], [0])
    delta, x = (t.op("Transpose", tensor, perm=[1, 0, 2]) for tensor in (p.delta, p.x))
    return Factors(use.weight, delta, x, 1, p.rows, p.columns, steps, None)


def _sums(t: Tape, kind: str, use: Use, p: Product) -> str:
    """<W_f, dL_i/dW_f> as the product times its gradient, or ||dL_i/dy_f||^2; over steps."""
    if kind == "output":
        return t.reduce("ReduceSumSquare", p.delta, [0])
    weight = t.op("Gather", use.weight, t.const(np.array(p.direction)), axis=0)
    rows = t.op("Slice", weight, t.ints(p.start), t.ints(p.start + p.rows), t.ints(0))
    product = t.op("MatMul", p.x, t.op("Transpose", rows, perm=[1, 0]))
    return t.reduce("ReduceSum", t.mul(p.delta, product), [0])
