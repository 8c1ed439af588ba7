"""float16 graphs in float32: inputs, outputs and values stay, and INT8 has something to work on."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from oracle import run

from hqp_onnx.data.batch import Batch
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.quantize import quantize
from hqp_onnx.passes.widen_float16 import widen_float16
from hqp_onnx.runtimes.targets import target

RNG = np.random.default_rng(0)
X = RNG.standard_normal((32, 3, 6, 6)).astype(np.float16)


def model(body: str, ends: str = "(float16[n,3,6,6] x) => (float16[n,4] y)") -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {ends} {{ {body} }}')
    weights = {"w1": RNG.standard_normal((8, 3, 3, 3)) / 5, "w2": RNG.standard_normal((8, 4)) / 3}
    proto.graph.initializer.extend(numpy_helper.from_array(w.astype(np.float16), name) for name, w in weights.items())
    return proto


NET = "a = Conv(x, w1) b = Relu(a) c = ReduceMean<axes=[2,3], keepdims=0>(b) y = MatMul(c, w2)"


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    assert found.dtype == wanted.dtype == np.float16
    gap = np.abs(found.astype(np.float64) - wanted).max()
    assert gap <= tolerance * np.abs(wanted.astype(np.float64)).max()


@pytest.mark.parametrize(
    "body",
    [
        NET,
        "h = Cast<to=10>(x) a = Conv(h, w1) c = ReduceMean<axes=[2,3], keepdims=0>(a) y = MatMul(c, w2)",
        "a = Conv(x, w1) c = ReduceMean<axes=[2,3], keepdims=0>(a) s = Shape(c) "
        "z = ConstantOfShape<value = float16[1] {14336}>(s) d = Add(c, z) y = MatMul(d, w2)",
        "a = Conv(x, w1) c = ReduceMean<axes=[2,3], keepdims=0>(a) m = ReduceMax<keepdims=0>(x) z = Sub(m, m) "
        "t = Equal(m, m) e = If(t) <then_branch = g () => (float16[n,8] p) { p = Add(c, z) }, "
        "else_branch = h () => (float16[n,8] q) { q = Neg(c) }> y = MatMul(e, w2)",
    ],
)
def test_widened_graphs_compute_the_same(body: str) -> None:
    proto = model(body)
    result = widen_float16(to_graph(proto))
    widened = to_proto(result.graph)
    onnx.checker.check_model(widened, full_check=True)
    assert result.modified and not any(t.data_type == onnx.TensorProto.FLOAT16 for t in widened.graph.initializer)
    close(run(widened, {"x": X})[0], run(proto, {"x": X})[0], 5e-3)


def test_float32_graphs_stay() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n] x) => (float[n] y) {y=Neg(x)}'
    )
    assert not widen_float16(to_graph(proto)).modified


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "tensorrt"])
def test_a_float16_model_is_quantized(name: str) -> None:
    proto = model(NET)
    result = quantize(canonicalize(to_graph(proto)).graph, [Batch({"x": X})], target(name), "minmax")
    quantized = to_proto(result.graph)
    assert sum(node.op_type == "QuantizeLinear" for node in quantized.graph.node) >= 2 and not result.warnings
    close(run(quantized, {"x": X})[0], run(proto, {"x": X})[0], 0.05)
