"""The table against the operators: a filter alone makes its channel alone, and reads only along the input axis."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from oracle import run

from hqp_onnx.graphs.weight_axes import CONVOLUTIONS, WEIGHTED, weight_axes

RNG = np.random.default_rng(0)
# operator, attributes, weight, input
CASES = [
    ("Conv", {}, (4, 3, 2, 2), (2, 3, 5, 5)),
    ("Conv", {"group": 2}, (4, 3, 2), (2, 6, 5)),
    ("ConvTranspose", {}, (3, 4, 2, 2), (2, 3, 5, 5)),
    ("ConvTranspose", {"group": 2}, (6, 4, 2), (2, 6, 5)),
    ("Gemm", {}, (3, 4), (2, 3)),
    ("Gemm", {"transB": 1}, (4, 3), (2, 3)),
    ("MatMul", {}, (3, 4), (2, 5, 3)),
    ("MatMul", {}, (2, 3, 4), (2, 5, 3)),
]


def product(node: onnx.NodeProto, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xwy"]
    graph = helper.make_graph([node], "g", values[:2], values[2:])
    return run(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), {"x": x, "w": w})[0]


@pytest.mark.parametrize(("op", "attributes", "shape", "read"), CASES)
def test_axes(op: str, attributes: dict[str, int], shape: tuple[int, ...], read: tuple[int, ...]) -> None:
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    weight, x = (RNG.standard_normal(size).astype(np.float32) for size in (shape, read))
    axes, channel = weight_axes(node, len(shape)), 1 if op in CONVOLUTIONS else -1
    assert axes.output != axes.input
    alone = np.zeros_like(weight)
    index = (slice(None),) * axes.output + (1,)
    alone[index] = weight[index]
    made = np.moveaxis(product(node, x, alone), channel, 0)
    filters = weight.shape[axes.output]
    assert {int(c) % filters for c in np.flatnonzero(made.reshape(len(made), -1).any(1))} == {1}
    np.testing.assert_allclose(made[1], np.moveaxis(product(node, x, weight), channel, 0)[1], rtol=1e-4, atol=1e-5)
    if "group" not in attributes:
        first = np.zeros_like(x)
        np.moveaxis(first, channel, 0)[1] = np.moveaxis(x, channel, 0)[1]
        cut = np.zeros_like(weight)
        np.moveaxis(cut, axes.input, 0)[1] = np.moveaxis(weight, axes.input, 0)[1]
        np.testing.assert_allclose(product(node, first, weight), product(node, x, cut), rtol=1e-4, atol=1e-5)


def test_every_operator_has_a_case() -> None:
    assert {op for op, *_ in CASES} == WEIGHTED
