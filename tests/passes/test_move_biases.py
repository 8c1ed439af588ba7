"""Biases before heads are split: the same function, numpy's sum is the oracle."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from oracle import run

from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.move_biases import move_biases

RNG = np.random.default_rng(0)
X, W = (RNG.standard_normal(shape).astype(np.float32) for shape in ((2, 5, 7), (7, 24)))


def model(shape: tuple[int, ...], add: str, more: str = "") -> tuple[onnx.ModelProto, np.ndarray]:
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n,5,7] x) => (float[n,5,4,6] y) {{ p = MatMul(x, w) h = Reshape(p, to) {add} {more} }}""")
    bias = RNG.standard_normal(shape).astype(np.float32)
    values = {"w": W, "b": bias, "to": np.array([0, 0, 4, 6])}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())
    return proto, bias


@pytest.mark.parametrize("shape", [(4, 6), (1, 1, 4, 6)])
@pytest.mark.parametrize("add", ["y = Add(h, b)", "y = Add(b, h)"])
def test_a_bias_per_head_is_added_to_the_product(shape: tuple[int, ...], add: str) -> None:
    proto, bias = model(shape, add)
    result = move_biases(to_graph(proto))
    assert result.modified
    assert [node.op for node in result.graph.nodes if node.op != "Reshape"] == ["MatMul", "Add"]
    assert result.graph.outputs[0].inputs[0].op == "Reshape"
    np.testing.assert_allclose(run(to_proto(result.graph), {"x": X})[0], (X @ W).reshape(2, 5, 4, 6) + bias, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "add", "more"),
    [
        ((6,), "y = Add(h, b)", ""),
        ((4, 1), "y = Add(h, b)", ""),
        ((5, 4, 6), "y = Add(h, b)", ""),
        ((4, 6), "t = Add(h, b)", "y = Mul(t, h)"),
        ((4, 6), "y = Sub(h, b)", ""),
    ],
)
def test_other_sums_stay(shape: tuple[int, ...], add: str, more: str) -> None:
    assert not move_biases(to_graph(model(shape, add, more)[0])).modified


def test_a_product_with_a_line_has_no_columns() -> None:
    """Its sums over 24 channels are not what the bias of 24 is added to."""
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,48,24] x) => (float[m,4,6] y) { p = MatMul(x, w) h = Reshape(p, to) y = Add(h, b) }""")
    values = {"w": W[0], "b": np.ones((4, 6), np.float32), "to": np.array([-1, 4, 6])}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())
    assert not move_biases(to_graph(proto)).modified
