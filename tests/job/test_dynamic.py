"""Dynamic INT8 in the main job: as the precision that is asked for, and beside static in mixed precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from hqp_onnx import Options, optimize, quantize
from hqp_onnx.errors import UsageError
from hqp_onnx.job import precision
from hqp_onnx.job.results import Report
from hqp_onnx.runtimes.session import Session

RNG = np.random.default_rng(0)
SHAPES = {"w": (12, 48), "b": (48,), "o": (16, 32), "g": (32,), "h": (32,), "u": (32, 64), "d": (64, 5)}
WEIGHTS = {name: 0.3 * RNG.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
TEXT = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[N,6,12] x) => (float[N,5] y) {
    a = com.microsoft.Attention <num_heads = 4> (x, w, b)
    p = MatMul (a, o) n = LayerNormalization (p, g, h) k = MatMul (n, u) r = Relu (k)
    m = ReduceMean <axes = [1], keepdims = 0> (r) y = MatMul (m, d)
}"""


def model() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in WEIGHTS.items())
    return proto


def data(seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((60, 6, 12)).astype(np.float32)}


def job(folder: Path, **options: Any) -> Report:
    chosen: dict[str, Any] = {"metric": "fidelity", "max_drop": 0.1, "saliency": "l2", "objective": "sparsity"}
    chosen |= {"multiple_of": 1, "threads": 1, "step": 0.2, **options}
    return optimize(Options(model(), data(1), data(2), folder / "out", **chosen))


def products(path: str | Path) -> int:
    return [node.op_type for node in onnx.load(path).graph.node].count("MatMulInteger")


def test_it_ships_where_it_is_asked_for(tmp_path: Path) -> None:
    report = job(tmp_path, precision="dynamic")
    assert report.budget_met and Path(report.shipped).name in ("int8.onnx", "q8_only.onnx")
    assert products(report.shipped) >= 3
    assert {trial.precision for trial in report.trials} == {"fp32", "dynamic"}
    got, want = (Session(m).run(data(2))["y"] for m in (Path(report.shipped), model()))
    kept = 1 - np.square(got - want).sum(1) / np.square(want).sum(1)
    assert report.rows[report.ships].metric == pytest.approx(kept.mean(), abs=0.01)


@pytest.mark.parametrize("dynamic", [True, False])
def test_in_mixed_precision_the_faster_of_static_and_dynamic_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dynamic: bool
) -> None:
    monkeypatch.setattr(precision, "_fastest", lambda setup, models, candidates, threads: int(dynamic))
    monkeypatch.setattr(precision, "_faster_in_float", lambda *_: [])
    report = job(tmp_path)
    assert {trial.precision for trial in report.trials} == {"fp32", "int8", "dynamic"}
    assert (products(tmp_path / "out" / "int8.onnx") > 0) == dynamic


def test_it_needs_no_data_and_a_target_with_kernels() -> None:
    integers = quantize(model(), precision="dynamic")
    assert [node.op_type for node in integers.graph.node].count("MatMulInteger") == 4
    with pytest.raises(UsageError, match="openvino"):
        quantize(model(), precision="dynamic", target="openvino")
    with pytest.raises(UsageError, match="openvino"):
        Options(model(), data(1), data(2), "out", precision="dynamic", target="openvino")
