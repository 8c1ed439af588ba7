"""Attention whose heads can lose dimensions: where projections meet in products of activations, and nowhere else.

    q = x Wq + bq  ─► heads ─┐
    k = x Wk + bk  ─► heads ─┴► scores = q k^T ─► ... ─► A ─┐
    v = x Wv + bv  ─► heads ────────────────────────────────┴► A v ─► side by side ─► y = (A v) Wo

With an invertible matrix T for each head, q T and k T^-T give the same scores, and v T and T^-1 Wo the same y: the
dimensions inside a head have no axes of their own, and ``passes.turn_heads`` chooses them. That holds if only reshapes,
transposes, a bias and factors lie between weights and products, and nothing else reads what lies between them: a rotary
embedding, a cache or a norm of q and k fixes the axes, and then units are whole heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import BoolArray, IntArray
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.weight_axes import weight_axes

_MOVING = frozenset(
    ["Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Split", "Slice", "Gather", "Expand", "Identity"]
)
_BETWEEN = frozenset(["Add", "Sub", "Mul", "Div", "Softmax", "Where", "Cast", "Dropout", "IsNaN", "Reshape"])
"""What may lie between scores and the product with values."""


@dataclass(frozen=True, eq=False)
class Projection:
    """A product by a constant matrix; ``bias`` is added to its output by the same node or the one behind it."""

    node: gs.Node
    bias: gs.Constant | None

    @property
    def weight(self) -> gs.Constant:
        """The matrix."""
        return self.node.inputs[1]


@dataclass(frozen=True, eq=False)
class Attention:
    """The two products of an attention, what they multiply, and what reads the second."""

    scores: gs.Node
    values: gs.Node
    query: Projection
    key: Projection
    value: Projection
    reader: Projection


@dataclass(frozen=True, eq=False)
class Factor:
    """A weight of a ``HeadProduct``: ``index`` [heads, times, dimensions] along ``axis``, and its bias, if it has one.

    A head that serves several others (grouped queries) occurs once, beside ``times`` of these.
    """

    weight: str
    axis: int
    index: IntArray
    bias: str | None = None

    def where(self, stays: BoolArray) -> Factor:
        """The factor on the weight whose positions along the axis that do not stay were removed, alike in all heads."""
        index = (np.cumsum(stays) - 1)[self.index][stays[self.index]]
        return replace(self, index=index.reshape(*self.index.shape[:2], -1))


@dataclass(frozen=True, eq=False)
class HeadProduct:
    """Two weights that are multiplied head by head, summed over the dimensions of each head.

    ``right`` makes the factor of ``left`` (keys), or reads it (the output projection, ``reads``).
    """

    left: Factor
    right: Factor
    reads: bool


def find_attentions(graph: gs.Graph) -> list[Attention]:
    """Attentions of a canonical graph whose dimensions inside heads may be chosen."""
    outputs = {id(tensor) for tensor in graph.outputs}
    found = []
    for node in graph.nodes:
        if node.op != "MatMul" or any(isinstance(t, gs.Constant) for t in node.inputs):
            continue
        query, key = (_projection(tensor) for tensor in node.inputs)
        values = _next_product(node)
        if query is None or key is None or values is None:
            continue
        value, reader = _projection(values.inputs[1]), _reader(values, outputs)
        if value is None or reader is None:
            continue
        attention = Attention(node, values, query, key, value, reader)
        if _alone(attention, outputs):
            found.append(attention)
    return found


def _projection(tensor: gs.Tensor) -> Projection | None:
    """Where ``tensor`` comes from, if it is a projection that is moved and multiplied by numbers."""
    bias = None
    while len(tensor.inputs) == 1:
        node = tensor.inputs[0]
        if node.op in ("MatMul", "Gemm") and _multiplies(node):
            own = node.inputs[2] if len(node.inputs) > 2 else None
            known = own is None or (bias is None and isinstance(own, gs.Constant))
            return Projection(node, bias if own is None else own) if known else None
        step = _through(node)
        if step is None or bias is not None:
            return None
        tensor, added = step
        if added is not None:
            bias = added
    return None


def _through(node: gs.Node) -> tuple[gs.Tensor, gs.Constant | None] | None:
    """The tensor that a node moves, scales or adds a bias to, and that bias; None for any other node."""
    if operator(node) in _MOVING:
        return node.inputs[0], None
    constants = [t for t in node.inputs if isinstance(t, gs.Constant)]
    others = [t for t in node.inputs if not isinstance(t, gs.Constant)]
    if len(others) != 1 or len(constants) != 1:
        return None
    if constants[0].values.size == 1 and (node.op == "Mul" or (node.op == "Div" and node.inputs[0] is others[0])):
        return others[0], None
    behind = others[0].inputs[0] if others[0].inputs else None
    if node.op != "Add" or behind is None or behind.op != "MatMul" or not _multiplies(behind):
        return None
    fits = constants[0].values.shape == (behind.inputs[1].shape[1],) and len(constants[0].outputs) == 1
    return (others[0], constants[0]) if fits else None


def _multiplies(node: gs.Node) -> bool:
    """Whether a node multiplies an activation by a matrix that nothing else reads."""
    weight = node.inputs[1]
    if not isinstance(weight, gs.Constant) or isinstance(node.inputs[0], gs.Constant) or len(weight.shape) != 2:
        return False
    plain = all(
        node.attrs.get(name, default) == default for name, default in (("alpha", 1), ("beta", 1), ("transA", 0))
    )
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    filters = weight.shape[weight_axes(node, 2).output]
    alone = not isinstance(bias, gs.Constant) or (bias.values.shape == (filters,) and len(bias.outputs) == 1)
    return plain and alone and len(weight.outputs) == 1 and weight.values.dtype.kind == "f"


def _next_product(scores: gs.Node) -> gs.Node | None:
    """The only product of activations that scores end in, as its left factor."""
    waiting, found = list(scores.outputs), dict[int, gs.Node]()
    for tensor in waiting:
        for node in _reading(tensor):
            if node.op == "MatMul" and node.inputs[0] is tensor and not isinstance(node.inputs[1], gs.Constant):
                found[id(node)] = node
            elif operator(node) in _BETWEEN:
                waiting += [t for t in node.outputs if not any(t is known for known in waiting)]
            else:
                return None
    return next(iter(found.values())) if len(found) == 1 else None


def _reading(tensor: gs.Tensor) -> list[gs.Node]:
    """What reads the values of a tensor, not its shape alone."""
    return [node for node in tensor.outputs if operator(node) not in ("Shape", "Size")]


def _reader(values: gs.Node, outputs: set[int]) -> Projection | None:
    """The projection that alone reads what ``values`` computes."""
    tensor = values.outputs[0]
    while len(_reading(tensor)) == 1 and id(tensor) not in outputs:
        node = _reading(tensor)[0]
        if node.op in ("MatMul", "Gemm"):
            return Projection(node, None) if node.inputs[0] is tensor and _multiplies(node) else None
        if operator(node) not in _MOVING or len(node.outputs) != 1:
            return None
        tensor = node.outputs[0]
    return None


def _alone(attention: Attention, outputs: set[int]) -> bool:
    """Whether the projections end in the two products, once in each place, and nowhere else."""
    roles = (attention.query, attention.key, attention.value)
    wanted = [
        (id(attention.scores), 0, id(attention.query.node)),
        (id(attention.scores), 1, id(attention.key.node)),
        (id(attention.values), 1, id(attention.value.node)),
    ]
    found = [
        (*end, id(node))
        for node in {id(role.node): role.node for role in roles}.values()
        for end in _ends(node.outputs[0], outputs)
    ]
    return sorted(found) == sorted(wanted)


def _ends(tensor: gs.Tensor, outputs: set[int]) -> Iterator[tuple[int, int]]:
    """Nodes that do more than move, scale or shift what is in ``tensor``, and as which input they take it."""
    if id(tensor) in outputs:
        yield 0, -1
    for node in _reading(tensor):
        step = _through(node)
        if step is not None and step[0] is tensor:
            for output in node.outputs:
                yield from _ends(output, outputs)
        else:
            yield from ((id(node), number) for number, t in enumerate(node.inputs) if t is tensor)


def lines(projection: Projection) -> list[tuple[gs.Constant, int]]:
    """Where the dimensions of its heads lie: an axis of the weight, and that of the bias."""
    weight = projection.weight, weight_axes(projection.node, 2).output
    return [weight] if projection.bias is None else [weight, (projection.bias, 0)]


def projected(projection: Projection, index: IntArray) -> Factor:
    """The factor whose filters are ``index``."""
    bias = None if projection.bias is None else projection.bias.name
    return Factor(projection.weight.name, weight_axes(projection.node, 2).output, index, bias)


def head_product(query: Projection, left: IntArray, key: Projection, right: IntArray) -> HeadProduct | None:
    """The product of filters ``left`` and ``right``, head by head, int64 [pairs, dimensions].

    None where a left head occurs twice, or right ones serve unequal numbers of them.
    """
    left, right = np.split(np.unique(np.concatenate([left, right], 1), axis=0), 2, 1)  # batches hold the same heads
    heads, number = np.unique(right, axis=0, return_inverse=True)
    times = np.bincount(number.ravel())
    if len(np.unique(left)) != left.size or len(np.unique(heads)) != heads.size or len(set(times.tolist())) != 1:
        return None
    order = np.argsort(number.ravel(), kind="stable")
    served = left[order].reshape(len(heads), times[0], -1)
    return HeadProduct(projected(query, served), projected(key, heads[:, None]), False)


def read_product(value: Projection, filters: IntArray, reader: Projection, read: IntArray) -> HeadProduct | None:
    """The product of filters [..., dimensions] with the rows of ``reader`` that read them: row i reads ``read[i]``.

    None where filters are not all read equally often.
    """
    heads = np.unique(filters.reshape(-1, filters.shape[-1]), axis=0)
    times = np.bincount(read, minlength=heads.max() + 1)[heads]
    if len(np.unique(heads)) != heads.size or times.size * times.flat[0] != len(read) or len(set(times.flat)) != 1:
        return None
    rows = np.argsort(read, kind="stable").reshape(-1, times.flat[0])  # of each filter, in their order
    index = rows[np.searchsorted(np.unique(read), heads)].transpose(0, 2, 1)
    rows_of = Factor(reader.weight.name, weight_axes(reader.node, 2).input, index)
    return HeadProduct(projected(value, heads[:, None]), rows_of, True)
