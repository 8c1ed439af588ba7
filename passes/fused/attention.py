"""Attention: softmax(scale Q K^T + bias) V, for each head.

    [batch, length, heads * size] -> [batch, heads, length, size]           where every head has keys of its own
                                  -> [batch, shared, group, length, size]   where a group of heads shares its keys

Heads and what is inside them stay axes of their own, so that channel rules see them. The factor, 1 / sqrt(size) if none
is stated, is that of the original size: a constant before anything is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.passes.fused.body import Body, Results, body
from hqp_onnx.passes.fused.rotary import turn

Sides: TypeAlias = "Sequence[gs.Tensor]"
"""Queries, keys, values."""
Term: TypeAlias = "gs.Tensor | None"
"""What is added to the scores."""


@body("com.microsoft::Attention")
def _packed(b: Body) -> Results:
    """One weight for queries, keys and values; past and present as [2, batch, heads, length, size]."""
    data, weight, bias, mask, past, added, shared = (b.input(i) for i in range(7))
    if shared is not None or b.attribute("do_rotary", 0) or not isinstance(weight, gs.Constant):
        return None
    sizes = list(b.attribute("qkv_hidden_sizes", None) or [weight.shape[1] // 3] * 3)
    parts = b.ops("Split", 3, b.add(b.op("MatMul", data, weight), bias), np.array(sizes), axis=-1)
    before = (None, None) if past is None else tuple(b.op("Gather", past, np.array(i), axis=0) for i in range(2))
    sides, length = _with_past(b, [_split(b, t, b.attribute("num_heads")) for t in parts], before)
    hidden = _masks(b, sides, mask, length)
    if hidden is None:
        return None
    present = [b.op("Concat", *(b.unsqueeze(t, 0) for t in sides[1:]), axis=0)] if b.wants(1) else []
    return [_merge(b, _attend(b, sides, [*hidden, added])), *present]


@body("com.microsoft::MultiHeadAttention")
def _multi_head(b: Body) -> Results:
    """Queries, keys and values apart, their biases in one; what has four axes is split already."""
    query, key, value, bias, mask, added, *before = (b.input(i) for i in range(8))
    if b.input(8) is not None or b.wants(3) or query is None:
        return None
    if b.rank(query) == 5 and key is None and bias is None:  # [batch, length, heads, 3, size]
        parts = [b.op("Squeeze", t, np.array([3])) for t in b.ops("Split", 3, query, np.array([1, 1, 1]), axis=3)]
        split = [b.transpose(t, 0, 2, 1, 3) for t in parts]
    elif key is None or value is None or b.rank(key) == 5 or b.rank(query) != 3:
        return None
    else:
        given = _biased(b, [query, key, value], bias)
        if given is None:
            return None
        whole = [b.rank(t) == 4 for t in (query, key, value)]
        split = [t if apart else _split(b, t, b.attribute("num_heads")) for t, apart in zip(given, whole, strict=True)]
    sides, length = _with_past(b, split, before)
    hidden = _masks(b, sides, mask, length)
    present = sides[1:] if b.wants(1) or b.wants(2) else []
    return None if hidden is None else [_merge(b, _attend(b, sides, [*hidden, added])), *present]


@body("com.microsoft::GroupQueryAttention")
def _group_query(b: Body) -> Results:
    """That of a prompt, where token s is at place s; what is computed for padding behind it is no one's.

    A cache may be a buffer of any length, so with one the node stays, as it does with sinks, norms and given places.
    """
    query, key, value, *others = (b.input(i) for i in range(17))
    cos, sin, bias = others[4], others[5], others[7]
    stated = [others[i] for i in (0, 1, 6, 8, 9, 10, 11, 12, 13)]
    heads, shared = b.attribute("num_heads"), b.attribute("kv_num_heads")
    plain = b.attribute("causal", 1) and not b.attribute("smooth_softmax", 0) and not b.wants(3)
    if query is None or not plain or any(t is not None for t in stated) or (key is None) != (value is None):
        return None
    size = b.shape(query)[-1] // (heads if key is not None else heads + 2 * shared)
    if key is None or value is None:
        query, key, value = b.ops("Split", 3, query, size * np.array([heads, shared, shared]), axis=-1)
    sides = [_split(b, t, n) for t, n in ((query, heads), (key, shared), (value, shared))]
    if b.attribute("do_rotary", 0):
        half = None if cos is None or sin is None else b.proven(cos, -1)
        if half is None:
            return None
        rows = b.range(b.size(sides[0], 2))
        angles = [b.op("Gather", t, rows, axis=0) for t in (cos, sin)]
        sides[:2] = [turn(b, t, angles, half, 2 * half < size, b.attribute("rotary_interleaved", 0)) for t in sides[:2]]
    if bias is not None and b.shape(bias)[1] > 1:
        return None
    terms = [
        _causal(b, sides, None, b.attribute("local_window_size", -1)),
        bias if bias is None else b.unsqueeze(bias, 2),
    ]
    result = _attend_in_groups(b, sides, terms, (heads, shared))
    return [_merge(b, result), *sides[1:]]


@body("Attention")
def _standard(b: Body) -> Results:
    """That of opset 23; a mask of truth values says what takes part."""
    query, key, value, mask, *before, lengths = (b.input(i) for i in range(7))
    if query is None or key is None or value is None or lengths is not None or b.wants(3):
        return None
    flat, counts = b.rank(query) == 3, _counts(b, query, key)
    if counts is None or b.attribute("softmax_precision", 1) != 1:
        return None
    given = [query, key, value]
    split = [_split(b, t, n) for t, n in zip(given, (counts[0], counts[1], counts[1]), strict=True)] if flat else given
    sides, length = _with_past(b, split, before)
    boolean, grouped = mask is not None and b.is_boolean(mask), counts[0] != counts[1]
    if grouped and mask is not None and b.rank(mask) > 2:
        if b.shape(mask)[-3] > 1:
            return None
        mask = b.unsqueeze(mask, -3)
    causal = _before(b, sides, length) if b.attribute("is_causal", 0) else None
    terms: list[Term] = [None if causal is None else _hidden(b, causal)]
    seen = None
    if boolean and mask is not None:
        allowed = mask if causal is None else b.op("And", mask, causal)
        terms = [_hidden(b, allowed)]
        seen = b.op("ReduceMax", b.number(allowed), np.array([-1]), keepdims=1)  # a query that sees no key gives 0
    elif mask is not None:
        terms.append(mask)
    present = sides[1:] if b.wants(1) or b.wants(2) else []
    result = _attend_in_groups(b, sides, terms, counts, seen) if grouped else _attend(b, sides, terms, seen)
    return [_merge(b, result) if flat else result, *present]


def _counts(b: Body, query: gs.Tensor, key: gs.Tensor) -> tuple[int, int] | None:
    """Heads of queries, and of keys and values; None if they are not the same in all runs."""
    if b.rank(query) == 3:
        return b.attribute("q_num_heads"), b.attribute("kv_num_heads")
    first, second = b.proven(query, 1), b.proven(key, 1)
    return None if first is None or second is None else (first, second)


def _biased(b: Body, sides: Sides, bias: gs.Tensor | None) -> Sides | None:
    """With the bias of all three in one, cut apart."""
    if bias is None or any(b.rank(t) != 3 for t in sides):
        return None if bias is not None else sides
    parts = b.ops("Split", 3, bias, np.array([b.shape(t)[-1] for t in sides]), axis=0)
    return [b.add(t, part) for t, part in zip(sides, parts, strict=True)]


def _with_past(b: Body, sides: Sides, before: Sequence[gs.Tensor | None]) -> tuple[Sides, gs.Tensor | None]:
    """Keys and values behind those of the past, and its length, int64 [1]; None without one."""
    if before[0] is None or before[1] is None:
        return sides, None
    joined = [b.op("Concat", old, new, axis=2) for old, new in zip(before, sides[1:], strict=True)]
    return [sides[0], *joined], b.size(before[0], 2)


def _split(b: Body, tensor: gs.Tensor, heads: int) -> gs.Variable:
    return b.transpose(b.reshape(tensor, 0, 0, heads, -1), 0, 2, 1, 3)


def _merge(b: Body, tensor: gs.Tensor) -> gs.Variable:
    return b.reshape(b.transpose(tensor, 0, 2, 1, 3), 0, 0, -1)


def _attend(b: Body, sides: Sides, terms: Sequence[Term], seen: gs.Tensor | None = None) -> gs.Variable:
    """``seen``: 1, and 0 for queries that give 0."""
    query, key, value = sides
    return b.op("MatMul", _weights(b, query, b.transpose(key, 0, 1, 3, 2), terms, seen), value)


def _attend_in_groups(
    b: Body, sides: Sides, terms: Sequence[Term], counts: Sequence[int], seen: gs.Tensor | None = None
) -> gs.Variable:
    """``counts``: heads of queries, and of the keys and values that groups of them share."""
    query, shared = sides[0], counts[1]
    batch, length = b.size(query, 0), b.size(query, 2)
    grouped = b.reshape_to(query, batch, shared, counts[0] // shared, length, b.size(query, 3))
    key, value = (b.unsqueeze(t, 2) for t in sides[1:])
    result = b.op("MatMul", _weights(b, grouped, b.transpose(key, 0, 1, 2, 4, 3), terms, seen), value)
    return b.reshape_to(result, batch, counts[0], length, b.size(sides[2], 3))


def _weights(b: Body, query: gs.Tensor, key: gs.Tensor, terms: Sequence[Term], seen: gs.Tensor | None) -> gs.Variable:
    """How much each query takes of each key."""
    scores = b.op("Mul", b.op("MatMul", query, key), _factor(b, query))
    if limit := float(b.attribute("softcap", 0.0)):
        scores = b.op("Mul", b.op("Tanh", b.op("Div", scores, limit)), limit)
    weights = b.op("Softmax", b.add(scores, *terms), axis=-1)
    return weights if seen is None else b.op("Mul", weights, seen)


def _factor(b: Body, query: gs.Tensor) -> gs.Tensor:
    stated = b.attribute("scale") or 0.0
    return b.tensor(float(stated)) if stated else b.op("Div", 1.0, b.op("Sqrt", b.number(b.size(query, -1))))


def _masks(b: Body, sides: Sides, mask: gs.Tensor | None, past: gs.Tensor | None) -> list[Term] | None:
    """What onnxruntime's masks add: [batch], lengths; [batch, keys]; [batch, queries, keys]. None for other forms.

    One of [batch, 1] hides nothing: where there are more keys, onnxruntime takes no notice of it.
    """
    terms: list[Term] = [_causal(b, sides, past)] if b.attribute("unidirectional", 0) else []
    if mask is None:
        return terms
    value = float(b.attribute("mask_filter_value", -10000.0))
    rank = b.rank(mask)
    if rank == 1:
        if b.shape(mask)[0] != b.shape(b.node.inputs[0])[0]:
            return None
        places = b.op("Cast", b.range(b.size(sides[1], 2)), to=6)  # int32
        allowed = b.op("Less", places, b.unsqueeze(mask, 1, 2, 3))
    elif rank == 2 and b.proven(mask, 1) == 1:
        return terms
    elif rank in (2, 3):
        allowed = b.op("Greater", b.unsqueeze(mask, *([1, 2] if rank == 2 else [1])), np.array(0, np.int32))
    else:
        return None
    return [*terms, b.op("Where", allowed, 0.0, value)]


def _hidden(b: Body, allowed: gs.Tensor) -> gs.Variable:
    return b.op("Where", allowed, 0.0, float(np.finfo(b.kind).min))


def _causal(b: Body, sides: Sides, past: gs.Tensor | None, window: int = -1) -> gs.Variable:
    return _hidden(b, _before(b, sides, past, window))


def _before(b: Body, sides: Sides, past: gs.Tensor | None, window: int = -1) -> gs.Variable:
    """[queries, keys]: a query takes what is not behind it; of that the last ``window`` keys, if it is not negative."""
    queries, keys = b.size(sides[0], 2), b.range(b.size(sides[1], 2))
    rows = b.unsqueeze(b.range(queries) if past is None else b.range(b.op("Add", past, queries), past), 1)
    allowed = b.op("GreaterOrEqual", rows, keys)
    if window >= 0:
        allowed = b.op("And", allowed, b.op("Less", b.op("Sub", rows, keys), np.array(window)))
    return allowed
