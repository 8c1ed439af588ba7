"""The two products of an attention whose heads can lose dimensions (``channels.heads``).

Dimension d of all heads is one unit, so heads stay equally wide: of queries and keys, since scores sum over it, and of
values, since what reads them does. Scores have no channels. As everywhere, the axis with most units stays free: where
there are as many heads as dimensions, or more, units are whole heads.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.heads import Attention, HeadProduct, Projection, head_product, lines, read_product
from hqp_onnx.channels.rules.lines import axis_labels
from hqp_onnx.channels.walk_state import Walk


def inside_heads(walk: Walk, node: gs.Node) -> bool:
    """Label what ``node`` computes, if it is such a product and its operands are heads of projections."""
    attention = walk.attentions.get(id(node))
    if attention is None:
        return False
    return _scores(walk, attention) if attention.scores is node else _values(walk, attention)


def _scores(walk: Walk, attention: Attention) -> bool:
    node = attention.scores
    query, key = node.inputs
    left, right = _filters(walk, query, -1, attention.query), _filters(walk, key, -2, attention.key)
    if left is None or right is None or not walk.zero(query):
        return False
    left, right = (x.reshape(-1, x.shape[-1]) for x in np.broadcast_arrays(left, right))
    product = head_product(attention.query, left, attention.key, right)
    if product is None or right.shape[1] <= len(product.right.index):
        return False
    first, second = axis_labels(walk, node, query, -1), axis_labels(walk, node, key, -2)
    walk.tie(first, second, f"{node.op} '{node.name}' sums dimensions that stay")
    walk.set(node.outputs[0], np.full((1,) * len(walk.sizes(node.outputs[0])), -1))
    walk.inside[id(node)] = product
    return True


def _values(walk: Walk, attention: Attention) -> bool:
    node = attention.values
    weights, value = node.inputs
    if id(attention.scores) not in walk.inside or _filters(walk, value, -1, attention.value) is None:
        return False
    walk.freeze(walk.labels(weights), f"{node.op} '{node.name}' keeps its heads")  # of a bias per head, from a table
    axis_labels(walk, node, value, -1)
    labels = walk.labels(value)
    rank = len(walk.sizes(node.outputs[0]))
    walk.set(node.outputs[0], labels.reshape((1,) * (rank - labels.ndim) + labels.shape), walk.residue(value))
    walk.inside[id(node)] = None
    return True


def head_products(walk: Walk) -> tuple[HeadProduct, ...]:
    """What is known of the products that were labelled, once the walk is at its end.

    A filter that is in two places, as where keys are values, too, cannot be turned for both: these are left out.
    """
    found = []
    for attention in {id(a): a for a in walk.attentions.values()}.values():
        found.append(walk.inside.get(id(attention.scores)))
        if id(attention.values) in walk.inside:
            found.append(_read(walk, attention))
    known = [product for product in found if product is not None]
    places = Counter(filter_ for product in known for filter_ in _made(product))
    return tuple(product for product in known if all(places[filter_] == 1 for filter_ in _made(product)))


def _read(walk: Walk, attention: Attention) -> HeadProduct | None:
    """The product of values with what reads them."""
    tensor = attention.reader.node.inputs[0]
    filters = _filters(walk, attention.values.inputs[1], -1, attention.value)
    if filters is None or walk.labels(tensor).size != walk.sizes(tensor)[-1]:
        return None
    read = _origin(walk, walk.labels(tensor).ravel(), attention.value)
    return None if read is None else read_product(attention.value, filters, attention.reader, read)


def _made(product: HeadProduct) -> list[tuple[str, int]]:
    """The filters of projections that a product holds."""
    sides = [product.left] if product.reads else [product.left, product.right]
    return [(side.weight, int(index)) for side in sides for index in side.index.flat]


def _filters(walk: Walk, tensor: gs.Tensor, axis: int, projection: Projection) -> IntArray | None:
    """Filters of ``projection`` that make each dimension of each head, [..., heads, dimensions], along ``axis``."""
    labels, other = walk.labels(tensor), -3 - axis
    if labels.shape[axis] < 2 or labels.shape[axis] != walk.sizes(tensor)[axis] or labels.shape[other] != 1:
        return None
    return _origin(walk, labels.take([0], other).squeeze(other), projection)


def _origin(walk: Walk, labels: IntArray, projection: Projection) -> IntArray | None:
    """Filters with these labels, as they were given; None where others are among them."""
    for tensor, axis in lines(projection):
        line = walk.param(tensor, axis)
        index: IntArray = labels - line[0]
        if line[0] >= 0 and index.min() >= 0 and index.max() < len(line):
            return index
    return None
