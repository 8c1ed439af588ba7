from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from oracle import run, runs

from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import UsageError
from hqp_onnx.graphs.model_io import to_graph
from hqp_onnx.passes.quantize_int4 import quantize_int4
from hqp_onnx.statistics.moments import input_moments

RNG = np.random.default_rng(0)
SHAPES = {"w1": (64, 80), "w2": (40, 80), "w3": (40, 8)}
pytestmark = pytest.mark.skipif(not runs(21), reason="INT4 needs opset 21")


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


BASIS = normal(12, 64) / 8
ARRAYS = {**{name: normal(*shape) for name, shape in SHAPES.items()}, "b": normal(40)}


def graph() -> gs.Graph:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 17]> g (float[N,64] x) => (float[N,8] y)
           { h = MatMul(x, w1) r = Tanh(h) k = Gemm<transB=1>(r, w2, b) y = MatMul(k, w3) }"""
    )
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in ARRAYS.items())
    return to_graph(proto)


def fisher(**values: float) -> dict[str, np.ndarray]:
    outputs = {"w1": 80, "w2": 40, "w3": 8}
    return {name: np.full(outputs[name], value) for name, value in values.items()}


def fake(weight: np.ndarray) -> np.ndarray:
    """Blocks of 32 rows of [K, N], one at a time."""
    parts = []
    for start in range(0, len(weight), 32):
        part = weight[start : start + 32]
        scale = np.float32(np.maximum(part.max(0) / 7.0, -part.min(0) / 8.0))
        parts.append(np.clip(np.rint(part / scale), -8, 7) * scale)
    return np.concatenate(parts)


def test_blocks_are_fake_quantization() -> None:
    x = normal(5, 64) / 8
    result = quantize_int4(graph(), fisher(w1=1, w2=1, w3=1), 1.0)
    model = gs.export_onnx(result.graph)
    onnx.checker.check_model(model)
    hidden = np.tanh(x @ fake(ARRAYS["w1"])) @ fake(ARRAYS["w2"].T) + ARRAYS["b"]
    expected = hidden @ fake(ARRAYS["w3"])
    options = ort.SessionOptions()  # the fused operator rounds activations, too
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    stored = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT4]
    assert len(stored) == 3 and stored[0].ByteSize() < 64 * 80 // 2 + 50


def test_the_least_sensitive_weights_go_first() -> None:
    share = SHAPES["w2"][0] * SHAPES["w2"][1] / sum(a * b for a, b in SHAPES.values())
    result = quantize_int4(graph(), fisher(w1=1, w2=1e-3, w3=1), share)
    assert len(result.notes) == 1 and result.notes[0].startswith("w2: INT4")
    assert not quantize_int4(graph(), fisher(w1=1, w2=1, w3=1), 0.0).modified
    with pytest.raises(UsageError, match="int4_weights 2"):
        quantize_int4(graph(), fisher(w1=1), 2)


def test_a_share_that_is_less_than_the_first_weight_is_named() -> None:
    (warning,) = quantize_int4(graph(), fisher(w1=1, w2=1e-3, w3=1), 0.01).warnings
    assert "'w2', has 3200 of 8640 parameters, more than the share of 0.01 allows" in warning


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_weights_too_small_for_a_scale_become_zero(kind: type) -> None:
    tiny = graph()
    for name in SHAPES:
        values = np.full(SHAPES[name], np.finfo(kind).smallest_subnormal, kind)
        values[:, 0] = 1
        tiny.tensors()[name].values = values
    made = quantize_int4(tiny, fisher(w1=1, w2=1, w3=1), 1.0).graph
    scales = [t.values for name, t in made.tensors().items() if name.endswith("/scale")]
    assert len(scales) == 3 and all(scale.min() > 0.1 for scale in scales)


def test_scales_of_float16_may_be_smaller_than_its_normal_numbers() -> None:
    small = graph()
    for name in SHAPES:
        small.tensors()[name].values = (ARRAYS[name] * 1e-4).astype(np.float16)
    made = quantize_int4(small, fisher(w1=1, w2=1, w3=1), 1.0).graph
    scales = [t.values for name, t in made.tensors().items() if name.endswith("/scale")]
    assert len(scales) == 3 and all(0 < scale.min() < scale.max() < 1e-4 for scale in scales)


def test_moments_lower_the_error_of_the_output() -> None:
    x = (normal(300, 8) @ normal(8, 64)).astype(np.float32)
    before = graph()
    moments = input_moments(gs.export_onnx(before), None, [Batch({"x": x})])
    want = run(gs.export_onnx(before), {"x": x})[0]
    errors = [
        np.square(
            run(gs.export_onnx(quantize_int4(before, fisher(w1=1, w2=1, w3=1), 1.0, m).graph), {"x": x})[0] - want
        )
        for m in (moments, None)
    ]
    assert errors[0].mean() < 0.5 * errors[1].mean()


def test_in_order_each_weight_makes_up_for_those_before_it() -> None:
    x, unseen = ((normal(400, 12) @ BASIS / 4).astype(np.float32) for _ in range(2))
    before, scores = graph(), fisher(w1=1, w2=1, w3=1)
    data = [Batch({"x": x})]
    moments = input_moments(gs.export_onnx(before), None, data)
    want = run(gs.export_onnx(before), {"x": unseen})[0]

    def error(data: list[Batch] | None) -> float:
        result = quantize_int4(before, scores, 1.0, moments, data)
        assert len(result.notes) == 3
        return float(np.square(run(gs.export_onnx(result.graph), {"x": unseen})[0] - want).mean())

    assert error(data) < 0.8 * error(None)


def test_weights_of_conv_are_blocks_that_are_computed_at_load(tmp_path: Path) -> None:
    body = "h = Conv<pads=[1,1,1,1]>(x, w1, b) r = Relu(h) d = Conv<group=7>(r, w2) y = Conv(d, w3)"
    arrays = {"w1": normal(7, 5, 3, 3), "b": normal(7), "w2": normal(7, 1, 3, 3), "w3": normal(7, 7, 1, 1)}
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 17]> g (float[N,5,6,6] x) => (float[N,7,4,4] y) {{ {body} }}'
    )
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    scores = {name: np.ones(7) for name in ("w1", "w2", "w3")}
    assert not quantize_int4(to_graph(proto), scores, 1.0).modified
    result = quantize_int4(to_graph(proto), scores, 1.0, convolutions=True)
    model = gs.export_onnx(result.graph)
    onnx.checker.check_model(model, full_check=True)
    assert [t.dims for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT4] == [[7, 1, 45], [7, 1, 7]]
    for name in ("w1", "w3"):
        rows = arrays[name].reshape(len(arrays[name]), -1)
        scale = np.float32(np.maximum(rows.max(1, keepdims=True) / 7.0, -rows.min(1, keepdims=True) / 8.0))
        arrays[name] = (np.clip(np.rint(rows / scale), -8, 7) * scale).reshape(arrays[name].shape)
    expected = onnx.ModelProto()
    expected.CopyFrom(proto)
    del expected.graph.initializer[:]
    expected.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    x = normal(3, 5, 6, 6)
    np.testing.assert_allclose(run(model, {"x": x})[0], run(expected, {"x": x})[0], atol=1e-4)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert not {"Cast", "Mul"} & {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}


@pytest.mark.parametrize(("channels", "block"), [(1031, 1031), (2018, 1009), (64, 32), (3, 3)])
def test_scales_of_a_conv_are_fewer_than_its_integers(channels: int, block: int) -> None:
    proto = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21]> g (float[N,{channels},2,2] x) => (float[N,2,2,2] y)
           {{ y = Conv(x, w) }}"""
    )
    proto.graph.initializer.append(numpy_helper.from_array(normal(2, channels, 1, 1), "w"))
    made = quantize_int4(to_graph(proto), {"w": np.ones(2)}, 1.0, convolutions=True).graph
    assert made.tensors()["w/scale"].values.size == 2 * channels // block


def test_a_product_that_onnxruntime_does_not_fuse_stays_in_float() -> None:
    before = graph()
    next(node for node in before.nodes if node.op == "Tanh").op = "Relu"
    notes = quantize_int4(before, fisher(w1=1, w2=1, w3=1), 1.0).notes
    assert sorted(note.split(":")[0] for note in notes) == ["w2", "w3"]


def test_onnxruntime_multiplies_by_the_blocks(tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    model = gs.export_onnx(quantize_int4(graph(), fisher(w1=1, w2=1, w3=1), 1.0).graph)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert operators.count("MatMulNBits") == 3
