"""Weights stored as integers, against rounding written down anew; onnxruntime folds them when it loads the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from oracle import run

from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.graphs.recurrent import GATES
from hqp_onnx.passes.compress_weights import compress_weights
from hqp_onnx.runtimes.targets import target

RNG = np.random.default_rng(0)
MODELS = {  # body, weight, axis of output channels, input
    "Conv": ("y = Conv<pads = [1, 1, 1, 1]>(x, w)", (8, 4, 3, 3), 0, (2, 4, 5, 5)),
    "depthwise": ("y = Conv<group = 8>(x, w)", (8, 1, 3, 3), 0, (2, 8, 5, 5)),
    "ConvTranspose": ("y = ConvTranspose(x, w)", (4, 8, 3, 3), 1, (2, 4, 5, 5)),
    "Gemm": ("y = Gemm(x, w)", (12, 8), 1, (3, 12)),
    "Gemm transB": ("y = Gemm<transB = 1>(x, w)", (8, 12), 0, (3, 12)),
    "MatMul": ("y = MatMul(x, w)", (12, 8), 1, (3, 12)),
    "stacked MatMul": ("y = MatMul(x, w)", (2, 12, 8), 2, (2, 3, 12)),
}


def model(body: str, weight: np.ndarray, shape: tuple[int, ...], kind: str = "float") -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({kind}{list(shape)} x) => (float y) {{ {body} }}'
    made = onnx.parser.parse_model(text)
    made.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    del made.graph.output[0].type.tensor_type.shape.dim[:]
    made.graph.output[0].type.tensor_type.ClearField("shape")
    return made


def rounded(weight: np.ndarray, axis: int) -> np.ndarray:
    """127 steps to the largest magnitude of every channel, in float32 as a runtime computes it."""
    result = np.zeros_like(weight)
    for channel in range(weight.shape[axis]):
        at = (slice(None),) * axis + (channel,)
        step = np.float32(np.abs(weight[at].astype(np.float64)).max() / 127) or np.float32(1)
        result[at] = np.round(weight[at].astype(np.float64) / step).astype(np.float32) * step
    return result


@pytest.mark.parametrize("name", MODELS)
def test_each_channel_keeps_its_own_scale(name: str) -> None:
    body, size, axis, shape = MODELS[name]
    weight = (
        RNG.standard_normal(size)
        * 10.0 ** RNG.integers(-3, 3, size[axis]).reshape([-1 if i == axis else 1 for i in range(len(size))])
    ).astype(np.float32)
    feeds = {"x": RNG.standard_normal(shape).astype(np.float32)}
    result = compress_weights(to_graph(model(body, weight, shape)))
    want = run(model(body, rounded(weight, axis), shape), feeds)[0]
    np.testing.assert_allclose(run(to_proto(result.graph), feeds)[0], want, rtol=1e-5, atol=1e-6 * np.abs(want).max())
    stored = {t.name: t.data_type for t in to_proto(result.graph).graph.initializer}
    assert result.modified
    assert onnx.TensorProto.INT8 in stored.values()
    assert "w" not in stored


def test_a_table_of_embeddings_is_stored_by_row() -> None:
    table = RNG.standard_normal((20, 6)).astype(np.float32)
    feeds = {"x": np.array([3, 0, 19])}
    result = compress_weights(to_graph(model("y = Gather(w, x)", table, (3,), "int64")))
    np.testing.assert_allclose(run(to_proto(result.graph), feeds)[0], rounded(table, 0)[[3, 0, 19]], rtol=1e-6)


@pytest.mark.parametrize("op", GATES)
def test_both_weights_of_steps_are_stored_by_row(op: str, tmp_path: Path) -> None:
    shapes = {"w": (2, 8 * GATES[op], 5), "r": (2, 8 * GATES[op], 8)}
    values = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    body = f'y = {op}<hidden_size = 8, direction = "bidirectional">(x, w, r)'
    feeds = {"x": RNG.standard_normal((6, 2, 5)).astype(np.float32)}
    made, wanted = (model(body, change(values["w"], 1), (6, 2, 5)) for change in (lambda x, _: x, rounded))
    made.graph.initializer.append(numpy_helper.from_array(values["r"], "r"))
    wanted.graph.initializer.append(numpy_helper.from_array(rounded(values["r"], 1), "r"))
    result = compress_weights(to_graph(made)).graph
    np.testing.assert_allclose(run(to_proto(result), feeds)[0], run(wanted, feeds)[0], rtol=1e-5, atol=1e-6)
    assert [node.op for node in result.nodes].count("Cast") == 2
    assert loaded(to_proto(result), tmp_path) == [op]


def test_a_dead_channel_stays_zero() -> None:
    weight = RNG.standard_normal((8, 12)).astype(np.float32)
    weight[3] = 0
    result = compress_weights(to_graph(model("y = Gemm<transB = 1>(x, w)", weight, (3, 12))))
    got = run(to_proto(result.graph), {"x": RNG.standard_normal((3, 12)).astype(np.float32)})[0]
    assert (got[:, 3] == 0).all()
    assert np.isfinite(got).all()


def test_small_and_half_precision_weights_stay() -> None:
    small = model("y = MatMul(x, w)", RNG.standard_normal((3, 4)).astype(np.float32), (2, 3))
    result = compress_weights(to_graph(small))
    assert not result.modified
    half = model(
        "y = Cast<to = 1>(z) z = MatMul(x, w)", RNG.standard_normal((16, 16)).astype(np.float16), (2, 16), "float16"
    )
    assert not compress_weights(to_graph(half)).modified


def test_a_shared_weight_is_stored_once() -> None:
    weight = RNG.standard_normal((12, 12)).astype(np.float32)
    result = compress_weights(to_graph(model("a = MatMul(x, w) y = MatMul(a, w)", weight, (3, 12))))
    assert [node.op for node in result.graph.nodes].count("Cast") == 1


def test_the_runtime_computes_them_at_load(tmp_path: Path) -> None:
    """Its optimized graph has the product alone."""
    made = model("y = Conv(x, w)", RNG.standard_normal((16, 8, 3, 3)).astype(np.float32), (1, 8, 9, 9))
    assert loaded(to_proto(compress_weights(to_graph(made)).graph), tmp_path) == ["Conv"]


def loaded(made: onnx.ModelProto, folder: Path) -> list[str]:
    """Operators of a model as onnxruntime loads it."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    ort.InferenceSession(made.SerializeToString(), options)
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


def test_weights_of_gates_stay_where_the_target_wants_constants() -> None:
    weights = {"w": (1, 32, 12), "r": (1, 32, 8)}
    made = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> agraph (float[3, N, 12] x) => (float[1, N, 8] y)'
        "{ ignored, y = LSTM <hidden_size = 8> (x, w, r) }"
    )
    for name, shape in weights.items():
        made.graph.initializer.append(numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name))
    assert compress_weights(to_graph(made)).modified
    assert not compress_weights(to_graph(made), gates=target("openvino").stores_gates).modified
