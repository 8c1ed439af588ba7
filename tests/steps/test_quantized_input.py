"""Models that another tool quantized, pruned in one step: in float, and beside the file that was given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime import quantization
from oracle import run
from small_model import small_data, small_model
from steady import steady

import hqp_onnx
from hqp_onnx.cli import cli
from hqp_onnx.graphs.model_io import is_quantized

IMAGES = 4 * small_data(800)["input"]


class Reader(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self.feeds = iter([{"input": IMAGES[:64]}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def balanced() -> onnx.ModelProto:
    """A small classifier that chooses every class."""
    model = small_model()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "d4")
    values = onnx.numpy_helper.to_array(bias) - run(model, {"input": IMAGES})[0].mean(0)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, "d4"))
    return model


def static(folder: Path) -> Path:
    onnx.save(balanced(), folder / "float.onnx")
    quantization.quantize_static(folder / "float.onnx", folder / "given.onnx", Reader(), per_channel=True)
    return folder / "given.onnx"


def dynamic(folder: Path) -> Path:
    onnx.save(balanced(), folder / "float.onnx")
    given = folder / "given.onnx"
    quantization.quantize_dynamic(folder / "float.onnx", given, weight_type=quantization.QuantType.QInt8)
    return given


def by_nncf(folder: Path) -> Path:
    nncf = pytest.importorskip("nncf")
    images = nncf.Dataset([{"input": image[None]} for image in IMAGES[:32]])
    onnx.save(nncf.quantize(small_model(), images, subset_size=32), folder / "given.onnx")
    return folder / "given.onnx"


def by_us(folder: Path) -> Path:
    onnx.save(hqp_onnx.quantize(small_model(), {"input": IMAGES[:64]}), folder / "given.onnx")
    return folder / "given.onnx"


@pytest.mark.parametrize("make", [static, dynamic, by_nncf, by_us], ids=["onnxruntime", "dynamic", "nncf", "hqp"])
def test_what_is_removed_is_zero_in_the_file_that_was_given(tmp_path: Path, make) -> None:
    given, pruned, ledger = make(tmp_path), tmp_path / "pruned.onnx", tmp_path / "ledger.json"
    said = tmp_path / "said.json"
    words = ["prune", given, "--sparsity", "0.4", "-o", pruned, "--ledger", ledger, "--json", said]
    cli.main([str(word) for word in words], standalone_mode=False)
    assert "quantized" in json.loads(said.read_text())["notes"][0]
    masked, removed = onnx.load(given), json.loads(ledger.read_text())["removed"]
    stored = {tensor.name: tensor for tensor in masked.graph.initializer}
    assert removed and removed.keys() <= stored.keys()
    for name, axes in removed.items():
        values = onnx.numpy_helper.to_array(stored[name]).copy()
        for axis, gone in axes.items():
            values[(slice(None),) * int(axis) + (gone,)] = 0
        stored[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
    (want,), (have,) = (run(m, {"input": IMAGES[:32]}) for m in (hqp_onnx.dequantize(masked), onnx.load(pruned)))
    assert np.abs(want - have).max() <= 1e-5 * np.abs(want).max()
    assert not any(is_quantized(node.op_type) for node in onnx.load(pruned).graph.node)


def test_an_optimization_is_held_to_the_file_that_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steady(monkeypatch)
    given = static(tmp_path)
    answers = run(balanced(), {"input": IMAGES})[0].argmax(1)
    data = {"input": IMAGES, "labels": answers}
    options = hqp_onnx.Options(given, data, data, tmp_path / "out", precision="int8", objective="sparsity", step=0.25)
    report = hqp_onnx.optimize(options)
    right = ort.InferenceSession(given).run(None, {"input": IMAGES})[0].argmax(1) == answers
    assert (
        report.baseline.metric == pytest.approx(right.mean()) and right.mean() < 1
    )  # as the float model gets all of them
    assert report.baseline.bytes == given.stat().st_size
    assert "quantized" in report.notes[0] and report.budget_met
    assert all(step.ms_before is None for step in report.network)
    shipped = ort.InferenceSession(report.shipped).run(None, {"input": IMAGES})[0].argmax(1) == answers
    assert right.mean() - shipped.mean() == pytest.approx(report.rows[report.ships].drop, abs=1e-9)
    removed = json.loads((tmp_path / "out" / "ledger.json").read_text())["removed"]
    assert removed.keys() <= {tensor.name for tensor in onnx.load(given).graph.initializer}


@pytest.mark.parametrize("objective", ["macs", "latency"])
def test_the_file_that_was_given_ships_where_its_float_model_is_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    """Its own answers are right by definition, and no answer may be lost; its float model gives some others."""
    steady(monkeypatch)
    given = static(tmp_path)
    answers = ort.InferenceSession(given).run(None, {"input": IMAGES})[0].argmax(1)
    assert (run(balanced(), {"input": IMAGES})[0].argmax(1) != answers).any()
    data = {"input": IMAGES, "labels": answers}
    report = hqp_onnx.optimize(
        hqp_onnx.Options(given, data, data, tmp_path / "out", precision="fp32", objective=objective, max_drop=0.0)
    )
    assert report.ships == "baseline" and Path(report.shipped).name == "baseline.onnx"
    shipped = ort.InferenceSession(report.shipped).run(None, {"input": IMAGES})[0].argmax(1)
    assert (shipped == answers).all()


def test_ledgers_of_quantized_models_are_read_by_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, pruned = static(tmp_path), tmp_path / "pruned.onnx"
    words = ["prune", given, "--sparsity", "0.4", "-o", pruned, "--ledger", tmp_path / "ledger.json"]
    cli.main([str(word) for word in words], standalone_mode=False)
    found = hqp_onnx.compare([given, pruned], {"input": IMAGES[:8]}, ledgers=[tmp_path / "ledger.json"])
    want, have = (ort.InferenceSession(model).run(None, {"input": IMAGES[:8]})[0] for model in (given, pruned))
    (departs,) = found.steps
    assert found.models[1].agreement["logits"] == pytest.approx((want.argmax(1) == have.argmax(1)).mean())
    assert departs.trace is not None or departs.why
