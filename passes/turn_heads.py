"""Turn the dimensions inside heads to their principal axes: the same function, and the last of them matter least.

The scores of a head are q k^T, with q = x Wq + bq and k = x Wk + bk; with an invertible T, q T and k T^-T have the same
product. Of all products of rank r, the one of least squared error keeps the first r dimensions of

    G_q = E[q^T q] = L_q L_q^T,   G_k = E[k^T k] = L_k L_k^T,   L_q^T L_k = U S V^T      (Cholesky; singular values)
    T = L_q^-T U S^1/2,   T^-T = L_k^-T V S^1/2:   then   E[(q T)^T (q T)] = E[(k T^-T)^T (k T^-T)] = S

where q and k are of independent positions. The same holds of what a head gives, a = A v, and of what reads it,
y = a Wo, with Wo Wo^T in the place of G_k: v T and T^-1 Wo. Of the original weights, any choice of dimensions is worse:
those that are removed take a share of every direction with them. So this is the refit of both factors in closed form:
``cut`` turns heads that lose dimensions before it removes these, and those that stay span the best subspace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import BoolArray, FloatArray, IntArray
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis
from hqp_onnx.channels.heads import Factor, HeadProduct
from hqp_onnx.graphs.nonfinite_weights import is_finite
from hqp_onnx.passes.base import PassResult
from hqp_onnx.statistics.moment_halves import Halves, joined
from hqp_onnx.statistics.moments import Moments

__all__ = ["Turned", "turn_halves", "turn_heads"]

_FLOOR = 1e-6
"""Of the mean of a diagonal: smaller directions count as that large, so that turns stay well-conditioned in float32."""


@dataclass(frozen=True)
class Turned(PassResult):
    """The graph, and the moments of what its weights read."""

    moments: Mapping[str, Moments] = field(default_factory=dict)


def turn_heads(
    graph: gs.Graph, channels: ChannelMap, moments: Mapping[str, Moments], gone: BoolArray | None = None
) -> Turned:
    """A copy of ``graph`` with turned heads.

    Args:
        graph: canonical.
        channels: its units.
        moments: of the inputs of its weights; heads whose weights have none stay as they are.
        gone: units to be removed (``ChannelMap.removed``): the directions that matter least become theirs, and only
            heads that lose dimensions are turned. None turns all, the directions in descending order.
    """
    return _turned(graph, _turns(graph, channels, moments, gone), moments)


def turn_halves(graph: gs.Graph, channels: ChannelMap, halves: Halves) -> tuple[gs.Graph, Halves]:
    """The same of all heads, with moments of two halves of the data: both are turned by what they say together."""
    turns = _turns(graph, channels, joined(*halves), None)
    first, second = (_turned(graph, turns, moments) for moments in halves)
    return first.graph, (first.moments, second.moments)


_Turns = list[tuple[HeadProduct, FloatArray, FloatArray]]
"""Products, and what their left and right factors are multiplied by: [heads, dimensions, dimensions] each."""


def _turns(graph: gs.Graph, channels: ChannelMap, moments: Mapping[str, Moments], gone: BoolArray | None) -> _Turns:
    tensors, turns = graph.tensors(), _Turns()
    for product in channels.products:
        left, right = product.left, product.right
        removed = None if gone is None else gone[_units(channels, left)]
        needed = [left.weight, right.weight] if not product.reads else [right.weight]
        if removed is not None and not removed.any():
            continue
        if not all(name in moments and is_finite(tensors[name]) for name in (*needed, left.weight)):
            continue
        first = _read_gram(right, moments) if product.reads else _made_gram(left, tensors, moments)
        second = _weight_gram(right, tensors) if product.reads else _made_gram(right, tensors, moments)
        pairs = [_balanced(one, other) for one, other in zip(first, second, strict=True)]
        factors = [np.stack(side) for side in zip(*pairs, strict=True)]
        if removed is not None:
            places = np.argsort(removed, axis=-1, kind="stable")[:, 0]
            factors = [np.take_along_axis(f, np.argsort(places, axis=-1)[:, None], 2) for f in factors]
        turns.append((product, factors[0], factors[1]))
    return turns


def _units(channels: ChannelMap, factor: Factor) -> IntArray:
    """The unit of each dimension of each head, [heads, times, dimensions]."""
    return channels.members[ParamAxis(factor.weight, factor.axis)][factor.index]


def _turned(graph: gs.Graph, turns: _Turns, moments: Mapping[str, Moments]) -> Turned:
    turned, changed = graph.copy(), dict(moments)
    tensors = turned.tensors()
    for product, left, right in turns:
        _multiply(product.left, tensors, left)
        _multiply(product.right, tensors, right)
        if product.reads:
            changed[product.right.weight] = _moments_of(moments[product.right.weight], product.right.index, left)
    return Turned(turned, bool(turns), moments=changed)


def _multiply(factor: Factor, tensors: Mapping[str, gs.Tensor], turns: FloatArray) -> None:
    """Multiply the dimensions of each head by its matrix."""
    named = [(factor.weight, factor.axis)] + ([(factor.bias, 0)] if factor.bias else [])
    for name, axis in named:
        values = np.moveaxis(tensors[name].values, axis, -1).astype(np.float64)
        values[..., factor.index] = np.einsum("...gtd,gde->...gte", values[..., factor.index], turns)
        tensors[name].values = np.ascontiguousarray(np.moveaxis(values, -1, axis), tensors[name].values.dtype)


def _moments_of(moments: Moments, index: IntArray, turns: FloatArray) -> Moments:
    """Moments of features whose heads are multiplied by matrices."""
    whole = np.eye(len(moments.mean))
    for head, turn in zip(index, turns, strict=True):
        for rows in head:
            whole[np.ix_(rows, rows)] = turn
    return Moments(whole.T @ moments.gram @ whole, moments.mean @ whole, moments.count)


def _made_gram(factor: Factor, tensors: Mapping[str, gs.Tensor], moments: Mapping[str, Moments]) -> FloatArray:
    """E[y^T y] of the filters of each head, summed over those that it serves, [heads, dimensions, dimensions]."""
    weight = np.moveaxis(tensors[factor.weight].values, factor.axis, 1).astype(np.float64)[:, factor.index]
    known = moments[factor.weight]
    bias = tensors[factor.bias].values.astype(np.float64)[factor.index] if factor.bias else np.zeros(factor.index.shape)
    gram = np.einsum("igtd,ij,jgte->gde", weight, known.gram, weight, optimize=True)
    cross = np.einsum("i,igtd,gte->gde", known.mean, weight, bias)
    return np.asarray(gram + cross + cross.transpose(0, 2, 1) + np.einsum("gtd,gte->gde", bias, bias), np.float64)


def _read_gram(factor: Factor, moments: Mapping[str, Moments]) -> FloatArray:
    """E[x^T x] of what each head gives to its reader, likewise."""
    gram = moments[factor.weight].gram
    blocks = gram[factor.index[..., :, None], factor.index[..., None, :]]
    return np.asarray(blocks.sum(1), np.float64)


def _weight_gram(factor: Factor, tensors: Mapping[str, gs.Tensor]) -> FloatArray:
    """W W^T of the rows that read each head, likewise."""
    rows = np.moveaxis(tensors[factor.weight].values, factor.axis, 0).astype(np.float64)[factor.index]
    return np.asarray(np.einsum("gtdo,gteo->gde", rows, rows), np.float64)


def _balanced(left: FloatArray, right: FloatArray) -> tuple[FloatArray, FloatArray]:
    """T and T^-T for which both Gram matrices become the same diagonal, descending."""
    one, other = _root(left), _root(right)
    u, values, v = np.linalg.svd(one.T @ other)
    scale = np.sqrt(np.maximum(values, np.finfo(np.float64).tiny))
    return np.linalg.solve(one.T, u) * scale, np.linalg.solve(other.T, v.T) * scale


def _root(gram: FloatArray) -> FloatArray:
    """Lower triangular, L L^T = ``gram``, none of whose directions is taken for too small."""
    values, vectors = np.linalg.eigh(gram)
    least = _FLOOR * max(float(values.mean()), np.finfo(np.float64).tiny)
    return np.asarray(np.linalg.cholesky((vectors * np.maximum(values, least)) @ vectors.T), np.float64)
