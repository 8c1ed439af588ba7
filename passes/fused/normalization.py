"""Normalizations behind a residual sum, and of embeddings.

LayerNormalization is standard from opset 17 on; onnxruntime has it under that name in every opset. Without a mean,
y = x / sqrt(mean(x^2) + eps) scale, which is standard from opset 23 on and is written out before.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.passes.fused.body import Body, Results, body

_OWN_RMS = 23  # the opset that has one


@body("com.microsoft::SkipLayerNormalization")
def _skip_layer(b: Body) -> Results:
    data, skip, scale, *_ = b.node.inputs
    total = b.add(data, skip, b.input(4))
    return _with_sum(b, layer_normalization(b, total, scale, b.input(3), 1e-12), total)


@body("com.microsoft::SkipSimplifiedLayerNormalization")
def _skip_rms(b: Body) -> Results:
    data, skip, scale, *_ = b.node.inputs
    total = b.add(data, skip, b.input(3))
    return _with_sum(b, rms_normalization(b, total, scale, 1e-12), total)


@body("SimplifiedLayerNormalization", "com.microsoft::SimplifiedLayerNormalization")
def _rms(b: Body) -> Results:
    data, scale = b.node.inputs[:2]
    axis, rank = b.attribute("axis", -1), b.rank(data)
    if axis % rank != rank - 1 or b.wants(1):
        return None
    return [rms_normalization(b, data, scale, 1e-5)]


@body("com.microsoft::EmbedLayerNormalization")
def _embed(b: Body) -> Results:
    """Rows for words, positions and, if there are any, segments; lengths count the ones of the mask."""
    ids, segments, words, positions, kinds, scale, bias = (b.input(i) for i in range(7))
    mask, places = b.input(7), b.input(8)
    rows = [b.op("Gather", words, ids)]
    rows.append(b.op("Gather", positions, b.range(b.size(ids, 1)) if places is None else places))
    if segments is not None:
        rows.append(b.op("Gather", kinds, segments))
    total = b.add(*rows)
    if not b.wants(1):
        lengths = None
    elif mask is None:
        zeros = np.zeros(1, np.int32)
        lengths = b.op("ConstantOfShape", b.size(ids, 0), value=gs.Constant(f"{b.node.name}/zero", zeros))
    else:
        ones = b.op("Cast", b.op("Equal", mask, np.array(1, np.int32)), to=6)  # int32
        lengths = b.op("ReduceSum", ones, np.array([1]), keepdims=0)
    normal = layer_normalization(b, total, scale, bias, 1e-12)
    return [normal, lengths, total] if b.wants(2) else [normal, lengths] if lengths is not None else [normal]


def layer_normalization(b: Body, x: gs.Tensor, scale: gs.Tensor, bias: gs.Tensor | None, default: float) -> gs.Tensor:
    """Over the last axis, with the node's epsilon."""
    inputs = [x, scale] if bias is None else [x, scale, bias]
    return b.op("LayerNormalization", *inputs, axis=-1, epsilon=float(b.attribute("epsilon", default)))


def rms_normalization(b: Body, x: gs.Tensor, scale: gs.Tensor, default: float) -> gs.Tensor:
    """Over the last axis, with the node's epsilon."""
    epsilon = float(b.attribute("epsilon", default))
    if b.opset >= _OWN_RMS:
        return b.op("RMSNormalization", x, scale, axis=-1, epsilon=epsilon)
    axes = {"axes": [-1]} if b.opset < 18 else {}
    mean = b.op("ReduceMean", b.op("Pow", x, 2.0), *([] if axes else [np.array([-1])]), **axes)
    return b.op("Mul", b.op("Div", x, b.op("Sqrt", b.op("Add", mean, epsilon))), scale)


def _with_sum(b: Body, normal: gs.Tensor, total: gs.Tensor) -> Results:
    if b.wants(1) or b.wants(2):
        return None
    return [normal, gs.Variable.empty(), gs.Variable.empty(), total] if b.wants(3) else [normal]
