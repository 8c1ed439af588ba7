"""Depthwise convolutions of small images as one batched matrix product, for weights that change from run to run.

    y_c [N, L] = x_c [N, P] M_c,  M_c [P, L] = sum over taps t of w_ct S_t,  S_t[p, l] = 1 where output l reads pixel p

onnxruntime's fast depthwise kernel wants constant weights; without them it makes a matrix product of one row for every
channel of every sample. The matrix costs more multiplications, but few calls; gradients follow by the chain rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.helper import make_node

from hqp_onnx.arrays import Array
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.unique_names import tensor_names, unused_prefix
from hqp_onnx.graphs.windows import Window, window_of

__all__ = ["depthwise_as_products"]

Dims = Mapping[str, tuple[int | None, ...]]

LARGEST = 64  # pixels of the input


def depthwise_as_products(
    model: onnx.ModelProto, dims: Dims, types: Mapping[str, np.dtype[np.generic]]
) -> onnx.ModelProto:
    """``model`` in this form.

    Args:
        model: float.
        dims: shape of each tensor, with None for sizes that are not fixed.
        types: numpy dtype of each tensor.
    """
    windows = {}
    for node in model.graph.node:
        sizes = _sizes(dims, node) if operator(node) == "Conv" else None
        if sizes is not None and prod(sizes[1]) <= LARGEST:
            windows[node.output[0]] = window_of(node, *sizes)
    if not windows:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    prefix = unused_prefix("hqp.", tensor_names(model.graph))
    nodes = [new for node in model.graph.node for new in _written(copy.graph, node, windows, types, prefix)]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _sizes(dims: Dims, node: onnx.NodeProto) -> tuple[tuple[int, ...], ...] | None:
    """Kernel, input and output pixels, if every channel has one kernel of several taps, over axes of known sizes."""
    data, weight, result = (dims[name] for name in (*node.input[:2], node.output[0]))
    sizes = weight[2:], data[2:], result[2:]
    if weight[1] != 1 or weight[0] != data[1] or set(weight[2:]) == {1} or any(None in some for some in sizes):
        return None
    return tuple(tuple(int(n or 0) for n in some) for some in sizes)


def _written(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    windows: dict[str, Window],
    types: Mapping[str, np.dtype[np.generic]],
    prefix: str,
) -> list[onnx.NodeProto]:
    """The nodes that take the place of ``node``; their constants go into ``graph``."""
    output = node.output[0]
    if output not in windows:
        return [node]
    w, rank = windows[output], len(windows[output].inner)
    channels, pixels, outer = w.group, prod(w.inner), prod(w.outer)
    stem = f"{prefix}depthwise.{output}."

    def constant(name: str, values: Array) -> str:
        graph.initializer.append(numpy_helper.from_array(values, stem + name))
        return stem + name

    def op(kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(make_node(kind, inputs, [stem + name], stem + name, **attributes))
        return stem + name

    nodes: list[onnx.NodeProto] = []
    turn = [1, 0, *range(2, 2 + rank)]
    table = selection(w).reshape(-1, pixels * outer).astype(types[node.input[1]])
    flat = op("Reshape", "kernel", node.input[1], constant("taps", np.array([channels, -1])))
    matrix = op("MatMul", "spread", flat, constant("selection", table))
    matrix = op("Reshape", "matrix", matrix, constant("square", np.array([channels, pixels, outer])))
    rows = op("Transpose", "turned", node.input[0], perm=turn)
    rows = op("Reshape", "rows", rows, constant("pixels", np.array([channels, -1, pixels])))
    image = op("MatMul", "product", rows, matrix)
    image = op("Reshape", "image", image, constant("outer", np.array([channels, -1, *w.outer])))
    if len(node.input) > 2:
        column = op("Reshape", "bias", node.input[2], constant("column", np.array([channels, 1, *[1] * rank])))
        image = op("Add", "biased", image, column)
    op("Transpose", "result", image, perm=turn)
    nodes[-1].output[0] = output
    return nodes


def selection(w: Window) -> Array:
    """S [taps, inner pixels, outer pixels]."""
    table = np.zeros((*w.kernel, *w.inner, *w.outer))
    for tap, pixel in product(np.ndindex(*w.kernel), np.ndindex(*w.outer)):
        geometry = zip(tap, pixel, w.stride, w.dilation, w.begin, strict=True)
        read = tuple(p * s + t * d - b for t, p, s, d, b in geometry)
        if all(0 <= r < n for r, n in zip(read, w.inner, strict=True)):
            table[tap + read + pixel] = 1
    return table.reshape(prod(w.kernel), prod(w.inner), prod(w.outer))
