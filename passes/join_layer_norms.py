"""Write a layer normalization that an exporter took apart as the one operator that it is.

    m = ReduceMean(x)   d = x - m   v = ReduceMean(d d)   s = Sqrt(v + epsilon)
    y = d / s * scale [+ bias]                             as of torch, paddle
    y = x * (scale / s) + (bias - m * (scale / s))         as of keras
    ->  y = LayerNormalization(x, scale, bias)

over the last axis, from opset 17 on. In parts, the mean that is subtracted leaves channels that nothing may remove: a
removed channel would be -m, not 0. ``d`` may be computed twice, squared by Pow or Mul, and divided by s or multiplied
by its Reciprocal; sums and products may be written either way round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.graphs.symbolic.expressions import Expression
from hqp_onnx.passes.base import PassResult

__all__ = ["OPSET", "join_layer_norms", "layer_norms"]

OPSET = 17  # that has LayerNormalization


@dataclass(frozen=True)
class LayerNorm:
    """What is normalised, by what, and the tensor that it makes."""

    data: gs.Tensor
    scale: gs.Constant
    bias: gs.Constant | None
    epsilon: float
    result: gs.Tensor


def join_layer_norms(graph: gs.Graph, dims: Mapping[str, Sequence[Expression]]) -> PassResult:
    """``graph`` with its layer normalizations as one node each, as a copy.

    Args:
        graph: opset 17 or newer; others come back as they are.
        dims: sizes of the activations; those that are absent are left alone.
    """
    graph = graph.copy()
    found = list(layer_norms(graph, dims)) if graph.opset >= OPSET else []
    for norm in found:
        last = norm.result.inputs[0]
        last.outputs = []
        params = [norm.scale] if norm.bias is None else [norm.scale, norm.bias]
        attributes = {"axis": -1, "epsilon": norm.epsilon}
        graph.nodes.append(gs.Node("LayerNormalization", last.name, attributes, [norm.data, *params], [norm.result]))
    if found:
        graph.cleanup().toposort()
    return PassResult(graph, bool(found), (f"{len(found)} layer normalizations joined",) if found else ())


def layer_norms(graph: gs.Graph, dims: Mapping[str, Sequence[Expression]]) -> Iterator[LayerNorm]:
    """The layer normalizations that are written in parts."""
    for node in graph.nodes:
        if node.op == "Sqrt" and (norm := _matched(node, dims)) is not None:
            yield norm


def _matched(root: gs.Node, dims: Mapping[str, Sequence[Expression]]) -> LayerNorm | None:
    """The normalization whose standard deviation ``root`` computes."""
    total = _made(root.inputs[0], "Add")
    epsilon, variance = _split(total, _is_scalar) or (None, None)
    square = _mean_of(variance, dims)
    centred = _squared(square)
    difference = _made(centred, "Sub")
    if epsilon is None or difference is None:
        return None
    data, mean = difference.inputs
    averaged = _mean_of(mean, dims)
    if averaged is None or averaged is not data:
        return None
    deviation, channels = root.outputs[0], dims[averaged.name][-1].value
    for result, scale, bias in (_plain(deviation, data, mean), _folded(deviation, data, mean)):
        if result is not None and scale is not None and scale.shape[0] == channels:
            return LayerNorm(data, scale, bias, float(epsilon.values.item()), result)
    return None


_Found = tuple[gs.Tensor | None, gs.Constant | None, gs.Constant | None]
_NOT_FOUND: _Found = (None, None, None)


def _plain(deviation: gs.Tensor, data: gs.Tensor, mean: gs.Tensor) -> _Found:
    """D / s * scale [+ bias]."""
    inverse = _only(deviation, "Reciprocal")
    node = _only(deviation, "Div") if inverse is None else _only(inverse.outputs[0], "Mul")
    if node is None or (inverse is None and node.inputs[1] is not deviation):
        return _NOT_FOUND
    factor = deviation if inverse is None else inverse.outputs[0]
    centred = _made(next((t for t in node.inputs if t is not factor), None), "Sub")
    if centred is None or centred.inputs[0] is not data or centred.inputs[1] is not mean:
        return _NOT_FOUND
    scaled = _only(node.outputs[0], "Mul")
    scale = _line(scaled, node.outputs[0])
    if scaled is None or scale is None:
        return _NOT_FOUND
    shifted = _only(scaled.outputs[0], "Add")
    bias = _line(shifted, scaled.outputs[0], scale)
    return (scaled.outputs[0], scale, None) if shifted is None or bias is None else (shifted.outputs[0], scale, bias)


def _folded(deviation: gs.Tensor, data: gs.Tensor, mean: gs.Tensor) -> _Found:
    """X (scale / s) + (bias - m (scale / s))."""
    inverse = _only(deviation, "Reciprocal")
    product = None if inverse is None else _only(inverse.outputs[0], "Mul")
    scale = None if inverse is None else _line(product, inverse.outputs[0])
    if product is None or scale is None:
        return _NOT_FOUND
    factor = product.outputs[0]
    parts = {id(t): node for node in factor.outputs if node.op == "Mul" for t in node.inputs if t is not factor}
    if len(factor.outputs) != 2 or parts.keys() != {id(data), id(mean)}:
        return _NOT_FOUND
    scaled, offset = parts[id(data)].outputs[0], _only(parts[id(mean)].outputs[0], "Sub")
    end = _only(scaled, "Add")
    if offset is None or end is None or not any(t is offset.outputs[0] for t in end.inputs):
        return _NOT_FOUND
    bias = offset.inputs[0]
    return (end.outputs[0], scale, bias) if _fits(bias, scale) else _NOT_FOUND


def _made(tensor: gs.Tensor | None, op: str) -> gs.Node | None:
    """The node that makes ``tensor``, if it is of this operator."""
    return tensor.inputs[0] if tensor is not None and tensor.inputs and tensor.inputs[0].op == op else None


def _only(tensor: gs.Tensor, op: str) -> gs.Node | None:
    """The only reader of ``tensor``, if it is of this operator."""
    return tensor.outputs[0] if len(tensor.outputs) == 1 and tensor.outputs[0].op == op else None


def _split(node: gs.Node | None, wanted: Callable[[gs.Tensor], bool]) -> tuple[gs.Tensor, gs.Tensor] | None:
    """The input of a node of two that is ``wanted``, and the other."""
    if node is None:
        return None
    a, b = node.inputs
    return (a, b) if wanted(a) else (b, a) if wanted(b) else None


def _is_scalar(tensor: gs.Tensor) -> bool:
    """Whether ``tensor`` is one number, which adds no axis to what it is combined with."""
    return isinstance(tensor, gs.Constant) and tensor.values.size == 1 and tensor.values.ndim <= 1


def _squared(tensor: gs.Tensor | None) -> gs.Tensor | None:
    """What ``tensor`` is the square of."""
    power, product = _made(tensor, "Pow"), _made(tensor, "Mul")
    if power is not None and _is_scalar(power.inputs[1]) and power.inputs[1].values.item() == 2:
        return power.inputs[0]
    return product.inputs[0] if product is not None and product.inputs[0] is product.inputs[1] else None


def _mean_of(tensor: gs.Tensor | None, dims: Mapping[str, Sequence[Expression]]) -> gs.Tensor | None:
    """What ``tensor`` is the mean of over the last axis, which it keeps."""
    node = _made(tensor, "ReduceMean")
    if node is None or not node.attrs.get("keepdims", 1) or node.inputs[0].name not in dims:
        return None
    axes = node.attrs.get("axes")
    if len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant):
        axes = node.inputs[1].values.tolist()
    rank = len(dims[node.inputs[0].name])
    return node.inputs[0] if axes and [axis % rank for axis in axes] == [rank - 1] else None


def _line(node: gs.Node | None, other: gs.Tensor, like: gs.Constant | None = None) -> gs.Constant | None:
    """The constant line that ``node`` puts to ``other``, as long as ``like``."""
    constant = None if node is None else next((t for t in node.inputs if t is not other), None)
    return constant if _fits(constant, like) else None


def _fits(tensor: gs.Tensor | None, like: gs.Constant | None = None) -> bool:
    if not isinstance(tensor, gs.Constant) or len(tensor.shape) != 1 or tensor.shape[0] == 1:
        return False
    return np.issubdtype(tensor.dtype, np.floating) and (like is None or list(tensor.shape) == list(like.shape))
