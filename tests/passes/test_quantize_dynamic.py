"""Dynamic INT8: against arithmetic in numpy, and beside onnxruntime's own dynamic quantization."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization import quantize_dynamic as of_onnxruntime
from oracle import run

from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import UsageError
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.quantize_dynamic import (
    check_dynamic,
    dynamic_nodes,
    finish_dynamic,
    prepare_dynamic,
    quantize_dynamic,
)
from hqp_onnx.runtimes.targets import target

RNG = np.random.default_rng(0)
ORT = target("onnxruntime", reduced_range=False)
TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 24] x) => (float[n, 5] y) {
  a = MatMul(x, w)
  b = Add(a, c)
  r = Relu(b)
  s = Gemm <transB = 1> (r, u, d)
  t = Gemm <alpha = 0.5> (r, v)
  e = Add(s, t)
  y = Add(e, k)
}"""
SHAPES = {"w": (24, 16), "c": (16,), "u": (5, 16), "d": (5,), "v": (16, 5), "k": (5,)}
WEIGHTS = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def correlated(count: int) -> np.ndarray:
    return (RNG.standard_normal((count, 3)) @ MIX + 0.1 * RNG.standard_normal((count, 24))).astype(np.float32)


MIX = RNG.standard_normal((3, 24))


def model() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in WEIGHTS.items())
    return proto


def product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x w as the definition of DynamicQuantizeLinear and weights rounded to nearest have it; w [inputs, outputs]."""
    low, high = min(x.min(), 0), max(x.max(), 0)
    scale = np.float32((high - low) / 255)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    integers = np.clip(np.rint(x / scale) + zero, 0, 255) - zero
    steps = np.abs(w).max(0) / 127
    return (integers @ np.rint(w / steps)) * scale * steps


def test_it_computes_what_its_definition_says() -> None:
    x = correlated(40)
    made = quantize_dynamic(to_graph(model()), None, ORT)
    hidden = np.maximum(product(x, WEIGHTS["w"]) + WEIGHTS["c"], 0).astype(np.float32)
    stored = np.abs(WEIGHTS["v"]).max(0) / 127
    halved = 0.5 * hidden @ (np.rint(WEIGHTS["v"] / stored) * stored)  # in float, its weight as int8
    wanted = product(hidden, WEIGHTS["u"].T) + WEIGHTS["d"] + halved + WEIGHTS["k"]
    proto = to_proto(made.graph)
    onnx.checker.check_model(proto)
    np.testing.assert_allclose(run(proto, {"x": x})[0], wanted, rtol=1e-3, atol=1e-3)
    assert [node.op_type for node in proto.graph.node].count("MatMulInteger") == 2


def test_rounded_by_what_it_reads_it_is_nearer_than_onnxruntime_s(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "float.onnx")
    of_onnxruntime(tmp_path / "float.onnx", tmp_path / "theirs.onnx", weight_type=QuantType.QInt8, per_channel=True)
    said: list[tuple[str, int, int]] = []
    data = [Batch({"x": correlated(200)})]
    made = quantize_dynamic(to_graph(model()), data, ORT, progress=lambda *report: said.append(report))
    assert {stage for stage, *_ in said} == {"moments for rounding", "rounding"}
    feeds = {"x": correlated(300)}
    exact, theirs, ours = (
        run(proto, feeds)[0] for proto in (model(), onnx.load(tmp_path / "theirs.onnx"), to_proto(made.graph))
    )
    assert np.square(ours - exact).mean() < 0.9 * np.square(theirs - exact).mean()


def test_nodes_that_stay_in_float() -> None:
    graph = to_graph(model())
    assert dynamic_nodes(graph) == ["a", "s"]
    made = finish_dynamic(prepare_dynamic(graph, None, ORT), ORT, ["a"])
    assert [node.op for node in made.graph.nodes].count("MatMulInteger") == 1


def test_only_where_there_are_kernels() -> None:
    check_dynamic("dynamic", ORT)
    check_dynamic("int8", target("tensorrt"))
    with pytest.raises(UsageError, match="dynamic"):
        check_dynamic("dynamic", target("tensorrt"))
