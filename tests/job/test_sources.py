"""The main job on data as people have them: one source for all, inputs that all samples share, loaders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from small_model import small_data, small_model

from hqp_onnx import Options, Reading, evaluate, optimize
from hqp_onnx.data import stream
from hqp_onnx.errors import UsageError

SMALL = {"max_drop": 0.2, "objective": "macs", "precision": "fp32", "threads": 1}
SHARED = """
<ir_version: 8, opset_import: ["" : 17]> shared (float[n,6] x, int64 rate, float[3] bias) => (float[n,3] logits) {
  real = Cast<to=1>(rate)
  scaled = Mul(x, real)
  hidden = Gemm(scaled, a)
  positive = Relu(hidden)
  sums = MatMul(positive, b)
  logits = Add(sums, bias)
}
"""


def answers(model: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    logits = ort.InferenceSession(str(model)).run(None, feeds)[0]
    return np.asarray(logits.argmax(1))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(small_model(), path)
    return path


def labeled(model: Path, count: int = 120) -> dict[str, np.ndarray]:
    data = small_data(count)
    return {**data, "labels": answers(model, {"input": data["input"]})}


def test_one_source_serves_all_three_and_says_how(tmp_path: Path, model: Path) -> None:
    data = labeled(model)
    np.savez(tmp_path / "d.npz", **data)
    report = optimize(
        Options(model, data=str(tmp_path / "d.npz"), output=tmp_path / "out", shares=(0.5, 0.25, 0.25), **SMALL)
    )
    split = json.loads((tmp_path / "out" / "split.json").read_text())
    assert [len(split[part]) for part in ("calib", "val", "test")] == [60, 30, 30]
    assert report.samples == 30 and report.data.endswith("d.npz (test)")
    assert any("was split by seed 0 and class: 60 calib, 30 val, 30 test" in note for note in report.notes)
    shipped = tmp_path / "out" / "pruned.onnx"
    for part, metric in (("test", report.pruned.metric), ("val", report.pruned.val_metric)):
        numbers = split[part]
        hits = answers(shipped, {"input": data["input"][numbers]}) == data["labels"][numbers]
        assert metric == pytest.approx(hits.mean())
        chosen = Reading(str(tmp_path / "d.npz"), part=f"{tmp_path / 'out' / 'split.json'}:{part}")
        assert evaluate(shipped, chosen, metric="top1").metric == pytest.approx(hits.mean())


def test_one_source_or_three(tmp_path: Path, model: Path) -> None:
    for chosen, message in (
        ({"data": {}, "val": {}}, "data is split into calibration, validation and test: leave out val"),
        ({"calib": {}}, "^missing: val$"),  # for --data goes with neither
        ({}, r"^missing: data \(or calib and val\)$"),
        ({"model": "", "output": ""}, r"^missing: model, data \(or calib and val\), output, the folder to write$"),
        ({"data": {}, "shares": (1, 0, 0)}, "expected three shares above 0"),
        ({"data": {}, "output": ""}, "^missing: output, the folder to write$"),
    ):
        with pytest.raises(UsageError, match=message):
            Options(**{"model": model, "output": tmp_path / "out", **chosen})


def test_inputs_that_all_samples_share(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(SHARED)
    weights = {"a": rng.standard_normal((6, 12)), "b": rng.standard_normal((12, 3))}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(x.astype(np.float32), k) for k, x in weights.items())
    onnx.save(proto, tmp_path / "m.onnx")
    shared = {"rate": np.array(2), "bias": np.array([0.5, 0, -0.5], np.float32)}
    x = rng.standard_normal((100, 6)).astype(np.float32)
    labels = answers(tmp_path / "m.onnx", {"x": x, **shared})
    np.savez(tmp_path / "with.npz", x=x, labels=labels, **shared)
    given = Reading({"x": x, "labels": labels}, constants={"rate": 2, "bias": [0.5, 0, -0.5]})
    reports = [
        optimize(Options(tmp_path / "m.onnx", data=data, output=tmp_path / f"out{number}", recover=1, **SMALL))
        for number, data in enumerate((str(tmp_path / "with.npz"), given))
    ]
    assert reports[0].pruned.val_metric == reports[1].pruned.val_metric
    first, second = ((tmp_path / f"out{number}" / "pruned.onnx").read_bytes() for number in range(2))
    assert first == second and reports[0].pruned.macs < reports[0].baseline.macs
    split = json.loads((tmp_path / "out0" / "split.json").read_text())["test"]
    hits = answers(tmp_path / "out0" / "pruned.onnx", {"x": x[split], **shared}) == labels[split]
    assert reports[0].pruned.metric == pytest.approx(hits.mean())


def test_a_loader_that_does_not_fit_into_memory_gives_the_same_model(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = labeled(model)

    def load():
        for start in range(0, 120, 7):
            part = slice(start, start + 7)
            yield {"input": data["input"][part]}, data["labels"][part]

    optimize(Options(model, data, data, tmp_path / "a", **SMALL))
    monkeypatch.setattr(stream, "SMALL", 1024)
    optimize(Options(model, load, load, tmp_path / "b", **SMALL))
    assert (tmp_path / "a" / "pruned.onnx").read_bytes() == (tmp_path / "b" / "pruned.onnx").read_bytes()
