"""The restated model computes the same numbers in onnxruntime, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import MODELS

from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.make_symmetric import make_symmetric
from hqp_onnx.progress import silent
from hqp_onnx.runtimes.session import Session
from hqp_onnx.steps.quantize import quantize_file

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g (float[n,4,5,5] x) => (float[n,6,5,5] y)'
RNG = np.random.default_rng(0)
X = RNG.normal(0, 2, (3, 4, 5, 5)).astype(np.float32)


def model(body: str, **constants: np.ndarray) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f"{HEAD} {{ {body} }}")
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    return proto


def conv(**changed: np.ndarray) -> onnx.ModelProto:
    """A Conv of onnxruntime's layout, its activation and weight of zero-point 128."""
    constants = {
        "s": np.float32(0.05),
        "z": np.array(128, np.uint8),
        "w": RNG.integers(0, 256, (6, 4, 1, 1)).astype(np.uint8),
        "ws": RNG.uniform(0.001, 0.1, 6).astype(np.float32),
        "wz": np.full(6, 128, np.uint8),
        "b": RNG.integers(-(10**6), 10**6, 6).astype(np.int32),
        "bs": RNG.uniform(1e-6, 1e-4, 6).astype(np.float32),
        "bz": np.zeros(6, np.int32),
    }
    body = """q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) wd = DequantizeLinear<axis=0>(w, ws, wz)
        bd = DequantizeLinear<axis=0>(b, bs, bz) y = Conv(d, wd, bd)"""
    return model(body, **{**constants, **changed})


def exactly(proto: onnx.ModelProto) -> np.ndarray:
    return Session(proto, optimize=False, integer_kernels=False).run({"x": X})["y"]


def test_int32_biases_and_zero_points_of_128() -> None:
    before = conv()
    result = make_symmetric(to_graph(before))
    after = to_proto(result.graph)
    onnx.checker.check_model(after, full_check=True)
    np.testing.assert_array_equal(exactly(after), exactly(before))
    assert np.abs(exactly(before)).max() > 1
    kinds = {tensor.data_type for tensor in after.graph.initializer}
    assert kinds == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT8}
    assert result.notes == ("1 int32 biases as float", "2 uint8 tensors of zero-point 128 as int8")
    assert not make_symmetric(result.graph).modified


@pytest.mark.parametrize("zero", [0, 7, 127])
def test_other_zero_points_are_left_as_they_are(zero: int) -> None:
    before = conv(z=np.array(zero, np.uint8))
    after = to_proto(make_symmetric(to_graph(before)).graph)
    np.testing.assert_array_equal(exactly(after), exactly(before))
    (quantize,) = (node for node in after.graph.node if node.op_type == "QuantizeLinear")
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in after.graph.initializer}
    assert values[quantize.input[2]] == zero and values[quantize.input[2]].dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_weights_around_other_zero_points_become_float(dtype: type) -> None:
    stored, zeros = RNG.integers(0, 128, (6, 4, 1, 1)).astype(dtype), np.array([0, 3, 127, 1, 64, 9], dtype)
    before = conv(w=stored, wz=zeros)
    result = make_symmetric(to_graph(before))
    after = to_proto(result.graph)
    np.testing.assert_array_equal(exactly(after), exactly(before))
    assert "1 weights around other zero-points as float" in result.notes
    assert len([node for node in after.graph.node if node.op_type == "DequantizeLinear"]) == 1


def test_readers_that_disagree_stop_it() -> None:
    body = """q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) e = DequantizeLinear(q, s, other)
        a = Add(d, e) y = Conv(a, w)"""
    constants = {"s": np.float32(0.05), "z": np.array(128, np.uint8), "other": np.array(3, np.uint8)}
    before = model(body, w=np.ones((6, 4, 1, 1), np.float32), **constants)
    result = make_symmetric(to_graph(before))
    assert not result.modified
    np.testing.assert_array_equal(exactly(to_proto(result.graph)), exactly(before))


def test_a_zero_point_that_is_left_out_is_written() -> None:
    body = "wd = DequantizeLinear<axis=0>(w, ws) y = Conv(x, wd)"
    weights = {"w": RNG.integers(-127, 128, (6, 4, 1, 1)).astype(np.int8), "ws": np.full(6, 0.01, np.float32)}
    before = model(body, **weights)
    result = make_symmetric(to_graph(before))
    assert result.modified and len(result.graph.nodes[0].inputs) == 3
    np.testing.assert_array_equal(exactly(to_proto(result.graph)), exactly(before))


def test_a_model_for_onnxruntime_keeps_its_answers(tmp_path: Path) -> None:
    images = np.load(MODELS / "fashion_mnist_calib.npz")["input"][:24]
    np.savez(tmp_path / "few.npz", input=images)
    resnet = MODELS / "resnet18.onnx"
    quantize_file(resnet, tmp_path / "int8.onnx", str(tmp_path / "few.npz"), "onnxruntime", "entropy", None, silent)
    before = onnx.load(tmp_path / "int8.onnx")
    after = to_proto(make_symmetric(to_graph(before)).graph)
    assert onnx.TensorProto.INT32 not in {tensor.data_type for tensor in after.graph.initializer}
    feeds = {"input": images.astype(np.float32)}
    found = [Session(m, optimize=False, integer_kernels=False).run(feeds)["logits"] for m in (before, after)]
    np.testing.assert_array_equal(*found)
