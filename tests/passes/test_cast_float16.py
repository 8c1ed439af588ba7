from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from conftest import MODELS

from hqp_onnx.errors import ModelError
from hqp_onnx.model_io import to_graph, to_proto
from hqp_onnx.passes.cast_float16 import cast_float16
from hqp_onnx.passes.insert_qdq import insert_qdq
from hqp_onnx.runtime import Session
from hqp_onnx.targets import target

OPERATORS = {  # body, and what it needs beside x
    "sizes of Resize are float32": 'y = Resize<mode="linear">(x, , s)',
    "a filled tensor": "d = Shape(x)  o = ConstantOfShape<value = float[1] {2.0}>(d)  y = Mul(x, o)",
    "a tensor filled by default": "d = Shape(x)  o = ConstantOfShape(d)  y = Add(x, o)",
    "a constant": "c = Constant<value_float = 0.5>()  y = Mul(x, c)",
    "a cast to float": "i = Cast<to=7>(x)  f = Cast<to=1>(i)  y = Add(x, f)",
    "an optional input left out": "y = Clip(x, , h)",
    "an input that is an output's only source": "y = Identity(x)",
    "an operator without float16": 'b = BitShift<direction="LEFT">(n, n)  f = Cast<to=1>(b)  y = Mul(x, f)',
    "a window": "k = Constant<value_int = 4>()  w = HannWindow(k)  y = Mul(x, w)",
}


def graph(body: str, opset: int = 17) -> onnx.ModelProto:
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[1, 2, 4, 4] x) => (float[N, C, H, W] y) {{ {body} }}'
    )
    model = onnx.parser.parse_model(text)
    constants = {
        "s": np.float32([1, 1, 2, 2]),
        "h": np.float32(0.25),
        "n": np.ones((4,), np.uint8),
        "big": np.float32([1e30]),
    }
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in constants.items() if k in used)
    return model


def run(model: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    return Session(model).run({Session(model).inputs[0].name: x})


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name: str) -> None:
    model = graph(OPERATORS[name])
    x = np.random.default_rng(0).uniform(-2, 2, (1, 2, 4, 4)).astype(np.float32)
    half = to_proto(cast_float16(to_graph(model)).graph)
    onnx.checker.check_model(half, full_check=True)
    expected, found = run(model, x)["y"], run(half, x)["y"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=4e-3)  # |values| <= 4: two roundings of 2^-11


def test_bundled_models(bundled: Path) -> None:
    images = np.load(MODELS / "fashion_mnist_calib.npz")["input"][:64].astype(np.float32)
    result = cast_float16(to_graph(onnx.load(bundled)))
    half = to_proto(result.graph)
    onnx.checker.check_model(half, full_check=True)
    kinds = {t.name: t.data_type for t in half.graph.initializer}
    for tensor in onnx.load(bundled).graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            assert f"{tensor.name}/float16" in kinds and tensor.name not in kinds
    assert sum(node.op_type == "Cast" for node in half.graph.node) == 2
    expected, found = run(onnx.load(bundled), images)["logits"], run(half, images)["logits"]
    assert np.abs(found - expected).max() <= 0.01 * np.abs(expected).max()
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.98
    assert half.ByteSize() < 0.55 * bundled.stat().st_size


def test_operators_without_float16_are_computed_in_float32() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1, 6, 4] b, float[1, 1, 6] s) => (int64[N, 3] y) {
     a = Neg(b)  c = Neg(a)  y = NonMaxSuppression(c, s, m, t, t) }"""
    model = onnx.parser.parse_model(text)
    for name, value in (("m", np.int64([3])), ("t", np.float32([0.5]))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    half = to_proto(cast_float16(to_graph(model)).graph)
    onnx.checker.check_model(half, full_check=True)
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 8, (1, 6, 2))
    feeds = {
        "b": np.concatenate([corner, corner + 4], 2).astype(np.float32),
        "s": np.float32(rng.integers(0, 64, (1, 1, 6))),
    }
    np.testing.assert_array_equal(Session(half).run(feeds)["y"], Session(model).run(feeds)["y"])
    (nms,) = (node for node in half.graph.node if node.op_type == "NonMaxSuppression")
    assert list(nms.input[2:]) == ["m", "t", "t"]


def test_qdq_becomes_float16_at_opset_19() -> None:
    from hqp_onnx.calibration import Calibration, Range

    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, 4, 4] x) => (float[N, 2, 4, 4] y) {
         h = Conv(x, w)  y = Relu(h) }"""
    )
    weight = np.random.default_rng(0).normal(size=(2, 3, 1, 1)).astype(np.float32)
    weight[1] *= 1e-7  # a scale below the smallest float16
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    quantized = insert_qdq(to_graph(model), Calibration({"x": Range(-2, 2, 2)}, "minmax"), target("tensorrt")).graph
    half = to_proto(cast_float16(quantized).graph)
    onnx.checker.check_model(half, full_check=True)
    assert half.opset_import[0].version == 19
    kinds = {t.name: t.data_type for t in half.graph.initializer}
    assert set(kinds.values()) == {onnx.TensorProto.INT8, onnx.TensorProto.FLOAT16}
    scales = next(onnx.numpy_helper.to_array(t) for t in half.graph.initializer if t.name.startswith("w/axis0/scale"))
    assert (scales > 0).all()
    x = np.random.default_rng(1).uniform(-2, 2, (2, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(run(half, x)["y"], run(to_proto(quantized), x)["y"], atol=1e-2)


def test_float_weights_behind_a_pair_keep_their_signs() -> None:
    text = """<ir_version: 9, opset_import: ["" : 19]> g (float[N, 3] x) => (float[N, 3] y)
     <float[3] w = {-1.0, 0.5, -0.25}, float s = {0.0078125}, int8 z = {0}> {
     q = QuantizeLinear(w, s, z)  d = DequantizeLinear(q, s, z)  y = Mul(x, d) }"""
    model = onnx.parser.parse_model(text)
    half = to_proto(cast_float16(to_graph(model)).graph)
    x = np.float32([[1, 2, 4]])
    np.testing.assert_array_equal(run(half, x)["y"], [[-1, 1, -1]])


def test_weights_beyond_float16_stay_finite_and_are_counted() -> None:
    result = cast_float16(to_graph(graph("y = Mul(x, big)")))
    (weight,) = (onnx.numpy_helper.to_array(t) for t in to_proto(result.graph).graph.initializer)
    assert weight == 65504
    assert "1 weights beyond 65504 were clipped" in result.notes


def test_subgraphs_are_refused_by_name() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N] x, bool c) => (float[N] y) {
     y = If(c) <then_branch = t () => (float[N] a) { a = Neg(x) },
                else_branch = e () => (float[N] b) { b = Abs(x) }> }"""
    with pytest.raises(ModelError, match=r"If.*subgraph"):
        cast_float16(to_graph(onnx.parser.parse_model(text)))
