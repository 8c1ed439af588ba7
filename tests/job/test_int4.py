"""INT4 weights in the main job: what ships, what a tight budget leaves in INT8, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from oracle import runs

from hqp_onnx import Options, optimize
from hqp_onnx.errors import UsageError
from hqp_onnx.job import precision
from hqp_onnx.runtimes.session import Session

pytestmark = pytest.mark.skipif(not runs(21), reason="INT4 needs opset 21")
RNG = np.random.default_rng(0)
SHAPES = {"w": (32, 48), "b": (48,), "u": (48, 40), "c": (40,), "o": (40, 6)}  # o is smaller in INT8 than in INT4
WEIGHTS = {name: 0.2 * RNG.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
TEXT = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,32] x) => (float[N,6] y) {
    h = Gemm (x, w, b) r = Relu (h) k = Gemm (r, u, c) s = Relu (k) y = MatMul (s, o)
}"""


def model() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(values, name) for name, values in WEIGHTS.items())
    return proto


def data(seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((96, 32)).astype(np.float32)}


def options(folder: Path, max_drop: float, **chosen: Any) -> Options:
    common: dict[str, Any] = {"metric": "fidelity", "max_drop": max_drop, "saliency": "l2", "multiple_of": 1}
    common |= {"threads": 1, "step": 0.05, "precision": "int4", "objective": "size", **chosen}
    return Options(model(), data(1), data(2), folder / "out", **common)


def integers(file: Path) -> tuple[int, int]:
    """Weights in INT4 and in INT8."""
    kinds = [tensor.data_type for tensor in onnx.load(file).graph.initializer if len(tensor.dims) > 1]
    return kinds.count(onnx.TensorProto.INT4), kinds.count(onnx.TensorProto.INT8)


def test_the_smallest_file_inside_the_budget_has_weights_in_4_bits(tmp_path: Path) -> None:
    report = optimize(options(tmp_path, 0.1))
    file = tmp_path / "out" / "int4.onnx"
    assert report.budget_met and report.files["hqp"] == file.name and report.shipped == str(file)
    assert integers(file)[0] and report.hqp.sparsity and report.hqp.bytes < report.pruned.bytes
    assert {entry.key: entry.value for entry in onnx.load(file).metadata_props}["hqp.precision"] == "int4"
    got, want = (next(iter(Session(m).run(data(2)).values())) for m in (file, model()))
    kept = 1 - np.square(got - want).sum(1) / np.square(want).sum(1)
    assert report.hqp.metric == pytest.approx(kept.mean(), abs=1e-4) and report.hqp.drop <= 0.1
    content = file.read_bytes()
    again = optimize(options(tmp_path, 0.1, resume=True))
    assert again.trials == report.trials and file.read_bytes() == content


def test_a_tight_budget_leaves_the_most_harmful_weights_in_int8(tmp_path: Path) -> None:
    report = optimize(options(tmp_path, 0.01))
    assert report.budget_met and report.hqp.val_drop <= 0.01 and not report.floats
    tried = [(trial.floats, trial.accepted) for trial in report.trials if trial.precision == "int4"]
    assert sorted(tried) == [(0, False), (1, False), (2, True)]  # as few as possible
    assert integers(tmp_path / "out" / "int4.onnx") == (0, 3)
    assert any(note.startswith("in INT8, since INT4 costs too much there: ") for note in report.notes)


def test_weights_of_a_recovered_model_are_rounded_after_its_training(tmp_path: Path) -> None:
    report = optimize(options(tmp_path, 0.1, recover=2))
    assert {trial.kind for trial in report.trials if trial.trained} == {"fp32, recovered", "int4, recovered"}
    assert integers(tmp_path / "out" / "recovered" / "int4.onnx")[0]


@pytest.mark.parametrize("objective", ["size", "macs"])
def test_of_two_ways_back_the_smaller_one_is_taken_where_size_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    """Fewer units removed, or more weights in INT8; 1 stands for the second as the faster one."""
    monkeypatch.setattr(precision, "_fastest", lambda setup, models, candidates, threads: 1)
    report = optimize(options(tmp_path, 0.085, objective=objective))
    ways = {(trial.removed, trial.floats) for trial in report.trials if trial.precision == "int4" and trial.accepted}
    assert ways == {(0, 0), (4, 1)}
    assert (report.hqp.sparsity > 0) == (objective == "macs")


def test_it_takes_a_runtime_that_restores_weights_as_it_loads_them() -> None:
    asked = options(Path(), 0.1)
    with pytest.raises(UsageError, match="int4 with target tensorrt"):
        replace(asked, target="tensorrt")
