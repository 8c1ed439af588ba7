"""The command line: bad input is one line and exit code 2; every command does its work on a bundled model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from bad_inputs import bad_inputs
from command import hqp
from conftest import MODELS
from oracle import worst_error
from small_model import small_model

from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.model import open_model

CALIB = str(MODELS / "fashion_mnist_calib.npz")
MODEL = MODELS / "resnet18.onnx"


def test_bad_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    seen = 0
    for wrong, arguments, part in bad_inputs(tmp_path):
        code = hqp(monkeypatch, *arguments)
        *progress, error = capfd.readouterr().err.strip().splitlines()
        assert code == 2, (wrong, error)
        assert all(line.startswith(("checking ", "metric ", "step ")) for line in progress), (wrong, progress)
        assert error.startswith("error: "), wrong
        assert part in error, (wrong, error)
        assert not (tmp_path / "out").exists(), wrong
        seen += 1
    assert seen >= 40


def test_inspect_gives_every_unit_and_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hqp(monkeypatch, "inspect", str(MODEL), "--json", str(tmp_path / "i.json")) == 0
    found = json.loads((tmp_path / "i.json").read_text())
    assert sum(group["units"] for group in found["groups"]) == found["units"]
    assert sum(group["prunable"] for group in found["groups"]) == found["prunable"]
    frozen = [reason for group in found["groups"] for reason in group["frozen"].values()]
    assert frozen == ["graph output 'logits'"] * 10
    assert sum(group["branch"] for group in found["groups"]) == 8  # a residual branch of each block


def test_prune_writes_a_ledger_that_explains_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned, ledger = tmp_path / "pruned.onnx", tmp_path / "ledger.json"
    assert hqp(monkeypatch, "prune", str(MODEL), "--sparsity", "0.3", "-o", str(pruned), "--ledger", str(ledger)) == 0
    removed = json.loads(ledger.read_text())["removed"]
    images = np.load(CALIB)["input"][:4].astype(np.float32)
    assert worst_error(onnx.load(MODEL), onnx.load(pruned), removed, {"input": images}) <= 1e-5
    assert pruned.stat().st_size < 0.8 * MODEL.stat().st_size
    again = tmp_path / "again.onnx"
    assert hqp(monkeypatch, "prune", str(pruned), "--sparsity", "0.3", "-o", str(again)) == 0
    assert to_proto(open_model(again).graph).graph.output[0].name == "logits"


def test_prune_removes_branches_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned, ledger = tmp_path / "pruned.onnx", tmp_path / "ledger.json"
    model = MODEL.with_name("mobilenet_v3_small.onnx")
    options = ("--sparsity", "0.6", "--branches", "-o", str(pruned), "--ledger", str(ledger))
    assert hqp(monkeypatch, "prune", str(model), *options) == 0
    removed = json.loads(ledger.read_text())["removed"]
    images = np.load(CALIB)["input"][:4].astype(np.float32)
    assert worst_error(onnx.load(model), onnx.load(pruned), removed, {"input": images}) <= 1e-5
    gates = [sum(node.op_type == "HardSigmoid" for node in onnx.load(file).graph.node) for file in (model, pruned)]
    assert gates[0] == 9 and gates[1] < 9


def test_score_writes_filters_and_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = tmp_path / "few.npz"
    with np.load(CALIB) as data:
        np.savez(few, input=data["input"][:16], labels=data["labels"][:16])
    assert hqp(monkeypatch, "score", str(MODEL), "--data", str(few), "-o", str(tmp_path / "s.npz")) == 0
    with np.load(tmp_path / "s.npz") as scores:
        weights = [name for name in scores.files if name.startswith("filter/")]
        assert len(weights) == 21
        assert scores["unit"].dtype == np.float64
        assert all((scores[name] >= 0).all() and scores[name].any() for name in weights)


def test_quantize_stores_weights_in_int4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    few, small = tmp_path / "few.npz", tmp_path / "int4.onnx"
    with np.load(CALIB) as data:
        np.savez(few, input=data["input"][:16], labels=data["labels"][:16])
    arguments = ("quantize", str(MODEL), "--data", str(few), "--int4-weights", "1")
    assert hqp(monkeypatch, *arguments, "-o", str(small)) == 0
    kinds = [tensor.data_type for tensor in onnx.load(small).graph.initializer]
    assert kinds.count(onnx.TensorProto.INT4) == 1
    assert (
        hqp(monkeypatch, "quantize", str(MODEL), "--int4-convs", "-o", str(tmp_path / "x.onnx"), "--data", str(few))
        == 2
    )
    assert "--int4-weights SHARE" in capfd.readouterr().err
    capfd.readouterr()
    for wrong, part in (
        (("--precision", "fp16"), "leave one out"),
        (("--calibration-out", "d"), "INT4 weights take no"),
    ):
        assert hqp(monkeypatch, *arguments, *wrong, "-o", str(tmp_path / "x.onnx")) == 2
        assert part in capfd.readouterr().err


def test_quantize_without_data_says_how_far_it_is_to_be_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    known, unknown = tmp_path / "known.onnx", tmp_path / "unknown.onnx"
    onnx.save(small_model(), known)
    onnx.save(onnx.load(Path(__file__).parents[2] / "models/tasks/tags.onnx"), unknown)
    given = ("-o", str(tmp_path / "int8.onnx"), "--strict")
    monkeypatch.setattr("hqp_onnx.synthesis.inputs.NEAR", 9.0)  # its random statistics are those of no images
    assert hqp(monkeypatch, "quantize", str(known), *given) == 0
    said = capfd.readouterr()
    assert "64 inputs were made up" in said.out and "warning" not in said.err
    assert hqp(monkeypatch, "quantize", str(unknown), *given) == 3
    assert "nothing in the model says what 'input' holds" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--data", str(CALIB)), "only TensorRT computes in it"),
        (("--target", "tensorrt", "--preprocess", "imagenet"), "is for --data"),
        (("--target", "tensorrt", "--data", str(CALIB), "--int4-weights", "1"), "leave one out"),
        (("--target", "tensorrt", "--data", str(CALIB), "--calibration-out", "d"), "needs static INT8"),
    ],
)
def test_float8_says_what_it_needs(
    arguments: tuple[str, ...],
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    given = ("quantize", str(MODEL), "--precision", "fp8", *arguments, "-o", str(tmp_path / "x.onnx"))
    assert hqp(monkeypatch, *given) == 2
    assert part in capfd.readouterr().err


def test_quantize_keeps_in_float_what_is_faster_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few, mixed = tmp_path / "few.npz", tmp_path / "mixed.onnx"
    with np.load(CALIB) as data:
        np.savez(few, input=data["input"][:16], labels=data["labels"][:16])

    def first_is_faster(nodes, opened, feeds, progress):
        assert opened(nodes[:1]).run(feeds)["logits"].shape == (1, 10)
        return nodes[:1]

    monkeypatch.setattr("hqp_onnx.steps.quantize.faster_in_float", first_is_faster)
    arguments = ("quantize", str(MODEL), "--data", str(few), "--precision", "mixed")
    assert hqp(monkeypatch, *arguments, "-o", str(mixed)) == 0
    nodes = onnx.load(mixed).graph.node
    made = {name: node for node in nodes for name in node.output}
    weights = [made[node.input[1]].op_type for node in nodes if node.op_type in ("Conv", "Gemm")]
    assert (weights.count("Mul"), weights.count("DequantizeLinear")) == (1, len(weights) - 1)


def test_quantize_evaluate_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few, int8 = tmp_path / "few.npz", tmp_path / "int8.onnx"
    with np.load(MODELS / "fashion_mnist_val.npz") as data:
        np.savez(few, input=data["input"][:400], labels=data["labels"][:400])
    assert hqp(monkeypatch, "quantize", str(MODEL), "--data", str(few), "-o", str(int8)) == 0
    values = {}
    for path in (MODEL, int8):
        result = tmp_path / f"{path.stem}.json"
        assert hqp(monkeypatch, "evaluate", str(path), "--data", str(few), "--json", str(result)) == 0
        values[path] = json.loads(result.read_text())["value"]
    assert abs(values[MODEL] - values[int8]) <= 0.02
    agreement = tmp_path / "agreement.json"
    arguments = ("--metric", "agreement", "--reference", str(MODEL), "--json", str(agreement))
    assert hqp(monkeypatch, "evaluate", str(int8), "--data", str(few), *arguments) == 0
    assert json.loads(agreement.read_text())["value"] >= 0.95
    assert hqp(monkeypatch, "benchmark", str(MODEL), str(int8), "--json", str(tmp_path / "b.json")) == 0
    rows = json.loads((tmp_path / "b.json").read_text())["models"]
    assert [row["model"] for row in rows] == [str(MODEL), str(int8)]
    assert rows[0]["speedup"] == 1
    assert all(row["median_ms"] > 0 and row["runs"] >= 20 for row in rows)
