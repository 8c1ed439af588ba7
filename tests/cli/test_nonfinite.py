"""A model whose outputs are not finite for some samples, by every command that measures one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from command import hqp

RNG = np.random.default_rng(0)
TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,3] y) {
    h = MatMul(x, v) r = Relu(h) a = MatMul(r, w)
    s = Slice(x, zero, one, one) n = Sqrt(s) z = Mul(n, zeros) y = Add(a, z)
}"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``model.onnx`` is NaN where its first input is negative: in 12 of 40 samples; labels are its answers."""
    monkeypatch.chdir(tmp_path)
    x = np.abs(RNG.standard_normal((40, 6))).astype(np.float32)
    v, w = (RNG.standard_normal(shape).astype(np.float32) for shape in ((6, 8), (8, 3)))
    arrays = {"v": v, "w": w, "zeros": np.zeros((1, 1), np.float32), "zero": np.array([0]), "one": np.array([1])}
    model = onnx.parser.parse_model(TEXT)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in arrays.items())
    onnx.save(model, tmp_path / "model.onnx")
    x[:12, 0] *= -1
    np.savez(tmp_path / "data.npz", x=x, labels=(np.maximum(x @ v, 0) @ w).argmax(1))
    return tmp_path


def test_evaluate_counts_and_names_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "model.onnx", "--data", "data.npz", "--quiet"]
    assert hqp(monkeypatch, *arguments, "--json", "-") == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["value"], found["samples"], found["nonfinite"]) == (28 / 40, 40, 12)
    assert hqp(monkeypatch, *arguments) == 0
    assert "12 of 40 samples have NaN or infinities in output 'y': these score nothing" in capfd.readouterr().out


@pytest.mark.parametrize("metric", ["top1", "agreement"])
def test_optimize_refuses_the_model(
    metric: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data = ["--calib", "data.npz", "--val", "data.npz", "--metric", metric, "--quiet"]
    assert hqp(monkeypatch, "optimize", "model.onnx", *data, "-o", "out") == 2
    assert "12 of 40 samples have NaN or infinities in output 'y'" in capfd.readouterr().err


def test_compare_says_so_in_place_of_figures(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    onnx.save(onnx.load("model.onnx"), "copy.onnx")
    arguments = ["compare", "model.onnx", "copy.onnx", "--data", "data.npz", "--quiet", "--json", "c.json"]
    assert hqp(monkeypatch, *arguments) == 0
    shown = capfd.readouterr().out
    for name in ("model", "copy"):
        assert f"{name}.onnx: 12 of 40 samples have NaN or infinities in output 'y'" in shown
    assert "not finite" in shown and "1.00000" not in shown
    model = json.loads((folder / "c.json").read_text())["models"][1]
    assert (model["accuracy"], model["nonfinite"], model["outputs"]["y"]["agreement"]) == (28 / 40, 12, 28 / 40)
    assert model["outputs"]["y"]["cosine"] is None and model["outputs"]["y"]["undefined"] == 36
