"""Random attention, as exporters and model authors write it: graph N is made by seed N alone.

How projections are made and cut into heads, where the factor is, what norms, rotary embeddings, biases and masks lie
between, how keys are shared, how the two products are written and what reads them are drawn one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LENGTH, WIDTH, BATCH = 5, 12, 2


class Writer:
    """Nodes and weights, written one by one; ``notes`` says what was drawn."""

    def __init__(self, seed: int) -> None:
        self.dice = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.notes: dict[str, Any] = {}

    def draw(self, what: str, options: Sequence[Any]) -> Any:
        """One of ``options``, noted."""
        self.notes[what] = options[int(self.dice.integers(len(options)))]
        return self.notes[what]

    def op(self, kind: str, *inputs: str, **attrs: Any) -> str:
        """The output of a new node."""
        return self.ops(kind, 1, *inputs, **attrs)[0]

    def ops(self, kind: str, count: int, *inputs: str, domain: str = "", **attrs: Any) -> list[str]:
        """The outputs of a new node."""
        outputs = [f"t{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, outputs, f"{kind}{len(self.nodes)}", domain=domain, **attrs))
        return outputs

    def constant(self, values: Any, kind: Any = np.int64) -> str:
        """A constant; numbers of the graph are float32."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def weight(self, *shape: int, scale: float = 0.4) -> str:
        """Random numbers."""
        return self.constant(scale * self.dice.standard_normal(shape), np.float32)

    def reshape(self, data: str, *shape: int) -> str:
        """0 copies a size, -1 is what is left."""
        return self.op("Reshape", data, self.constant(shape))

    def transpose(self, data: str, *perm: int) -> str:
        """Axes in another order."""
        return self.op("Transpose", data, perm=list(perm))

    def slice(self, data: str, start: int, stop: int, axis: int) -> str:
        """Positions along an axis."""
        return self.op("Slice", data, *(self.constant([n]) for n in (start, stop, axis)))

    def linear(self, data: str, before: int, after: int) -> str:
        """[batch, length, before] -> [batch, length, after], written in one of four ways."""
        way = self.draw("linear", ["plain", "bias", "bias first", "gemm", "gemm transposed"])
        if way.startswith("gemm"):
            turned = way.endswith("transposed")
            shape = (after, before) if turned else (before, after)
            rows = self.reshape(data, -1, before)
            product = self.op("Gemm", rows, self.weight(*shape), self.weight(after), transB=int(turned))
            return self.reshape(product, -1, LENGTH, after)
        product = self.op("MatMul", data, self.weight(before, after))
        if way == "plain":
            return product
        terms = (product, self.weight(after)) if way == "bias" else (self.weight(after), product)
        return self.op("Add", *terms)

    def model(self, inputs: dict[str, list[Any]], output: str, width: int) -> onnx.ModelProto:
        """The graph; ``output`` is [batch, length, width]."""
        graph = helper.make_graph(
            self.nodes,
            "attention",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", LENGTH, width])],
            self.constants,
        )
        domains = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, ir_version=9, opset_imports=domains)


def attention_graph(seed: int) -> tuple[onnx.ModelProto, dict[str, Any], dict[str, np.ndarray]]:
    """A model, what was drawn for it, and data."""
    w = Writer(seed)
    heads = w.draw("heads", [2, 3, 4])
    shared = w.draw("shared", [heads, heads, heads, 2 if heads == 4 else heads, 1])
    size = w.draw("size", [2, 4, 6])
    data = w.op("LayerNormalization", "x", w.weight(WIDTH), w.weight(WIDTH)) if w.draw("norm", [0, 1]) else "x"
    sides = _projected(w, data, heads, shared, size)
    sides = _within(w, sides, size)
    mixed = _attend(w, sides, heads, shared, size)
    if w.draw("gate", [0, 0, 0, 1]):
        mixed = w.op("Mul", mixed, w.op("Sigmoid", w.linear(data, WIDTH, heads * size)))
    hidden = (
        w.op("Add", _joined(w, mixed, heads, size), "x") if w.draw("trunk", [0, 1]) else _joined(w, mixed, heads, size)
    )
    hidden = w.op("LayerNormalization", hidden, w.weight(WIDTH), w.weight(WIDTH))
    inner = w.op("Relu", w.linear(hidden, WIDTH, 10))
    result = w.op("MatMul", w.op("Add", hidden, w.linear(inner, 10, WIDTH)), w.weight(WIDTH, 3))
    inputs: dict[str, list[Any]] = {"x": ["batch", LENGTH, WIDTH]}
    feeds = {"x": w.dice.standard_normal((BATCH, LENGTH, WIDTH)).astype(np.float32)}
    if w.notes["bias"] == "mask":
        inputs["mask"] = ["batch", LENGTH]
        feeds["mask"] = (np.arange(LENGTH) < np.array([[LENGTH], [3]])).astype(np.float32)
    return w.model(inputs, result, 3), w.notes, feeds


def _projected(w: Writer, data: str, heads: int, shared: int, size: int) -> list[str]:
    """Queries, keys and values, [batch, length, heads, size] each."""
    counts = (heads, shared, shared)
    ways = ["apart", "apart", "einsum", "split", "slice", "heads of three"]
    way = w.draw("projection", ways if shared != heads else [*ways, "axis", "axis split", "torch", "mixed"])
    widths = [n * size for n in counts]
    if way == "apart":
        return [w.reshape(w.linear(data, WIDTH, width), 0, 0, n, size) for width, n in zip(widths, counts, strict=True)]
    if way == "einsum":
        return [
            w.op("Add", w.op("Einsum", data, w.weight(WIDTH, n, size), equation="abc,cde->abde"), w.weight(n, size))
            for n in counts
        ]
    whole = w.linear(data, WIDTH, sum(widths))
    ends = np.cumsum([0, *widths]).tolist()
    if way == "split":
        parts = w.ops("Split", 3, whole, w.constant(widths), axis=-1)
        return [w.reshape(part, 0, 0, n, size) for part, n in zip(parts, counts, strict=True)]
    if way == "slice":
        return [w.reshape(w.slice(whole, ends[i], ends[i + 1], 2), 0, 0, n, size) for i, n in enumerate(counts)]
    if way == "heads of three":  # a group of queries, its key, its value: as GPT-NeoX, and Falcon with groups
        group = heads // shared
        split = w.reshape(whole, 0, 0, shared, (group + 2) * size)
        parts = w.ops("Split", 3, split, w.constant([group * size, size, size]), axis=-1)
        return [w.reshape(part, 0, 0, n, size) for part, n in zip(parts, counts, strict=True)]
    return _one_axis(w, whole, heads, size)


def _one_axis(w: Writer, whole: str, heads: int, size: int) -> list[str]:
    """Queries, keys and values along an axis of their own."""
    way = w.notes["projection"]
    if way == "torch":  # nn.MultiheadAttention
        split = w.op("Unsqueeze", w.reshape(whole, 0, 0, 3, heads * size), w.constant([0]))
        first = w.op("Squeeze", w.transpose(split, 3, 1, 2, 0, 4), w.constant([3]))
        parts = [w.op("Gather", first, w.constant(i), axis=0) for i in range(3)]
        return [w.reshape(part, 0, 0, heads, size) for part in parts]
    order = ["three", "heads", "size"]
    if way == "mixed":
        order = [order[i] for i in w.draw("order", [(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])]
    sizes = {"three": 3, "heads": heads, "size": size}
    split = w.reshape(whole, 0, 0, *(sizes[name] for name in order))
    place = {name: 2 + order.index(name) for name in order}
    first = w.transpose(split, place["three"], 0, 1, place["heads"], place["size"])
    if way == "axis split":
        parts = w.ops("Split", 3, first, axis=0, num_outputs=3)
        return [w.op("Squeeze", part, w.constant([0])) for part in parts]
    return [w.op("Gather", first, w.constant(i), axis=0) for i in range(3)]


def _within(w: Writer, sides: list[str], size: int) -> list[str]:
    """Norms and rotary embeddings of queries and keys."""
    norm = w.draw("q, k norm", ["none"] * 4 + ["layer", "rms", "l2"])
    turn = w.draw("rotary", ["none"] * 4 + ["halves", "pairs", "part"])
    query, key, value = sides
    for kind in (norm, turn):
        if kind != "none":
            query, key = (_WITHIN[kind](w, t, size) for t in (query, key))
    return [query, key, value]


def _layer(w: Writer, data: str, size: int) -> str:
    return w.op("LayerNormalization", data, w.weight(size), w.weight(size), axis=-1)


def _rms(w: Writer, data: str, size: int) -> str:
    square = w.op("Pow", data, w.constant(2, np.float32))
    mean = w.op("ReduceMean", square, w.constant([-1]), keepdims=1)
    root = w.op("Sqrt", w.op("Add", mean, w.constant(1e-6, np.float32)))
    return w.op("Mul", w.op("Mul", data, w.op("Reciprocal", root)), w.weight(size))


def _l2(w: Writer, data: str, size: int) -> str:
    norm = w.op("ReduceL2", data, w.constant([-1]), keepdims=1)
    return w.op("Div", data, w.op("Clip", norm, w.constant(1e-12, np.float32)))


def _halves(w: Writer, data: str, size: int) -> str:
    left, right = w.slice(data, 0, size // 2, 3), w.slice(data, size // 2, 1 << 62, 3)
    turned = w.op("Concat", w.op("Neg", right), left, axis=-1)
    cos, sin = (w.weight(LENGTH, 1, size) for _ in range(2))
    return w.op("Add", w.op("Mul", data, cos), w.op("Mul", turned, sin))


def _pairs(w: Writer, data: str, size: int) -> str:
    pairs = w.reshape(data, 0, 0, 0, size // 2, 2)
    u, v = (w.op("Gather", pairs, w.constant(i), axis=-1) for i in range(2))
    cos, sin = (w.weight(LENGTH, 1, size // 2) for _ in range(2))
    first = w.op("Sub", w.op("Mul", u, cos), w.op("Mul", v, sin))
    second = w.op("Add", w.op("Mul", u, sin), w.op("Mul", v, cos))
    both = w.op("Concat", *(w.op("Unsqueeze", t, w.constant([-1])) for t in (first, second)), axis=-1)
    return w.reshape(both, 0, 0, 0, size)


def _part(w: Writer, data: str, size: int) -> str:
    half = max(2, size // 2)
    turned = _halves(w, w.slice(data, 0, half, 3), half)
    return turned if half == size else w.op("Concat", turned, w.slice(data, half, size, 3), axis=-1)


_WITHIN = {"layer": _layer, "rms": _rms, "l2": _l2, "halves": _halves, "pairs": _pairs, "part": _part}


def _attend(w: Writer, sides: list[str], heads: int, shared: int, size: int) -> str:
    """[batch, length, heads * size], from sides of [batch, length, heads, size]."""
    factor = w.draw("factor", ["scores", "divided", "query", "both", "none"])
    scale = w.constant(size**-0.5, np.float32)
    if factor == "query":
        sides[0] = w.op("Mul", sides[0], scale)
    if factor == "both":
        root = w.constant(size**-0.25, np.float32)
        sides[:2] = [w.op("Mul", side, root) for side in sides[:2]]
    ways = ["matmul", "matmul", "matmul", "einsum", "einsum last", "values first", "in batch", "linear"]
    if shared < heads:
        ways = ["matmul", "grouped", "grouped einsum", "repeat einsum"]
    way = w.draw("products", ways)
    if way == "grouped":
        return _grouped(w, sides, heads, shared, size)
    if way == "grouped einsum":
        query = w.reshape(sides[0], 0, 0, shared, heads // shared, size)
        scores = _weights(w, w.op("Einsum", query, sides[1], equation="bqgrd,bkgd->bgrqk"), size, 5, heads)
        return w.reshape(w.op("Einsum", scores, sides[2], equation="bgrqk,bkgd->bqgrd"), 0, 0, heads * size)
    if shared < heads:
        sides[1:] = [_repeated(w, side, heads, shared, size) for side in sides[1:]]
    query, key, value = sides
    if way in ("einsum", "repeat einsum"):
        scores = _weights(w, w.op("Einsum", query, key, equation="bqhd,bkhd->bhqk"), size, 4, heads)
        return w.reshape(w.op("Einsum", scores, value, equation="bhqk,bkhd->bqhd"), 0, 0, heads * size)
    if way == "einsum last":  # as keras: keys before queries
        scores = w.op("Einsum", key, query, equation="aecd,abcd->acbe")
        weights = _weights(w, scores, size, 4, heads)
        return w.reshape(w.op("Einsum", weights, value, equation="acbe,aecd->abcd"), 0, 0, heads * size)
    query, value = (w.transpose(t, 0, 2, 1, 3) for t in (query, value))
    if way == "linear":
        query, key = (w.op("Elu", t) for t in (query, w.transpose(key, 0, 2, 3, 1)))
        mixed = w.op("MatMul", query, w.op("MatMul", key, value))
        w.notes["bias"] = "none"
    elif way == "values first":  # v^T A^T, as convolutional networks write it
        scores = w.op("MatMul", query, w.transpose(key, 0, 2, 3, 1))
        weights = w.transpose(_weights(w, scores, size, 4, heads), 0, 1, 3, 2)
        mixed = w.transpose(w.op("MatMul", w.transpose(value, 0, 1, 3, 2), weights), 0, 1, 3, 2)
    elif way == "in batch":
        query, value = (w.reshape(t, -1, LENGTH, size) for t in (query, value))
        key = w.transpose(w.reshape(w.transpose(key, 0, 2, 1, 3), -1, LENGTH, size), 0, 2, 1)
        weights = _weights(w, w.op("MatMul", query, key), size, 3, heads)
        mixed = w.reshape(w.op("MatMul", weights, value), -1, heads, LENGTH, size)
    else:
        key = w.transpose(key, 0, 2, 3, 1)
        mixed = w.op("MatMul", _weights(w, w.op("MatMul", query, key), size, 4, heads), value)
    return w.reshape(w.transpose(mixed, 0, 2, 1, 3), 0, 0, heads * size)


def _grouped(w: Writer, sides: list[str], heads: int, shared: int, size: int) -> str:
    """Queries of a group along an axis of their own."""
    group = heads // shared
    query = w.transpose(w.reshape(sides[0], 0, 0, shared, group, size), 0, 2, 3, 1, 4)
    key, value = (w.op("Unsqueeze", w.transpose(t, 0, 2, 1, 3), w.constant([2])) for t in sides[1:])
    scores = _weights(w, w.op("MatMul", query, w.transpose(key, 0, 1, 2, 4, 3)), size, 5, heads)
    mixed = w.op("MatMul", scores, value)
    return w.reshape(w.transpose(mixed, 0, 3, 1, 2, 4), 0, 0, heads * size)


def _repeated(w: Writer, side: str, heads: int, shared: int, size: int) -> str:
    """Shared heads, once for each query head."""
    group = heads // shared
    way = w.draw("repeat", ["expand", "tile", "concat", "gather"])
    if way == "gather":
        return w.op("Gather", side, w.constant(np.repeat(np.arange(shared), group)), axis=2)
    apart = w.op("Unsqueeze", side, w.constant([3]))
    if way == "expand":
        apart = w.op("Expand", apart, w.constant([1, 1, 1, group, 1]))
    elif way == "tile":
        apart = w.op("Tile", apart, w.constant([1, 1, 1, group, 1]))
    else:
        apart = w.op("Concat", *[apart] * group, axis=3)
    return w.reshape(apart, 0, 0, heads, size)


def _weights(w: Writer, scores: str, size: int, rank: int, heads: int) -> str:
    """Softmax of scores, with the factor, biases and masks that belong there."""
    factor = w.notes["factor"]
    if factor == "scores":
        scores = w.op("Mul", scores, w.constant(size**-0.5, np.float32))
    if factor == "divided":
        scores = w.op("Div", scores, w.constant(size**0.5, np.float32))
    biases = ["none", "none", "plane", "soft", "hidden"]
    kind = w.draw(
        "bias", biases if rank != 4 else [*biases, "per head", "line per head", "table", "mask", "mixed heads"]
    )
    if kind == "plane":
        scores = w.op("Add", scores, w.weight(LENGTH, LENGTH))
    elif kind == "soft":
        limit = w.constant(5, np.float32)
        scores = w.op("Mul", w.op("Tanh", w.op("Div", scores, limit)), limit)
    elif kind == "hidden":
        lower = w.constant(np.tril(np.ones((LENGTH, LENGTH))), bool)
        scores = w.op("Where", lower, scores, w.constant(-1e9, np.float32))
    elif kind == "per head":
        scores = w.op("Add", scores, w.weight(1, heads, LENGTH, LENGTH))
    elif kind == "line per head":
        scores = w.op("Mul", scores, w.weight(heads, 1, 1))
    elif kind == "table":
        places = w.constant(np.abs(np.subtract.outer(np.arange(LENGTH), np.arange(LENGTH))))
        rows = w.op("Gather", w.weight(LENGTH, heads), places)
        scores = w.op("Add", scores, w.op("Unsqueeze", w.transpose(rows, 2, 0, 1), w.constant([0])))
    elif kind == "mask":
        hidden = w.op("Mul", w.op("Sub", w.constant(1, np.float32), "mask"), w.constant(-1e4, np.float32))
        scores = w.op("Add", scores, w.op("Unsqueeze", hidden, w.constant([1, 2])))
    elif kind == "mixed heads":
        moved = w.transpose(scores, 0, 2, 3, 1)
        scores = w.transpose(w.op("MatMul", moved, w.weight(heads, heads)), 0, 3, 1, 2)
    return w.op("Softmax", scores, axis=-1)


def _joined(w: Writer, mixed: str, heads: int, size: int) -> str:
    """What reads all heads."""
    if w.draw("reader", ["linear", "linear", "einsum"]) == "linear":
        return w.linear(mixed, heads * size, WIDTH)
    weight = w.weight(heads, size, WIDTH, scale=1 / math.sqrt(heads * size))
    split = w.reshape(mixed, 0, 0, heads, size)
    return w.op("Add", w.op("Einsum", split, weight, equation="abcd,cde->abe"), w.weight(WIDTH))
