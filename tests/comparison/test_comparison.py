"""`hqp compare` as a user runs it: figures as of plain onnxruntime, the damaged layer, bad input in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from command import hqp

from hqp_onnx.cli.tables.comparison import layers_table, models_table, step_line
from hqp_onnx.comparison import Comparison, compare
from hqp_onnx.comparison.found import short_names
from hqp_onnx.evaluation.latency import Latency


def logits(model: str, data: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(data) as arrays:
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        return session.run(None, {"x": arrays["x"]})[0].astype(np.float64), arrays["labels"]


@pytest.fixture(scope="module")
def found(chain: dict[str, str]) -> Comparison:
    models = [chain[name] for name in ("original", "pruned", "int8")]
    return compare(models, chain["data"], seconds=0.05)


def test_figures_are_those_of_plain_runs(chain: dict[str, str], found: Comparison) -> None:
    x, labels = logits(chain["original"], chain["data"])
    for model, name in zip(found.models, ("original", "pruned", "int8"), strict=True):
        y, _ = logits(chain[name], chain["data"])
        assert model.accuracy == pytest.approx(np.mean(y.argmax(1) == labels), abs=0.02)  # batches differ
        assert model.bytes == Path(chain[name]).stat().st_size
        assert model.latency.median_ms > 0
        if name != "original":
            assert model.outputs["y"].relative == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x), rel=1e-3)
            assert model.agreement["y"] == pytest.approx(np.mean(y.argmax(1) == x.argmax(1)), abs=0.02)
    assert [(Path(s.reference).stem, Path(s.model).stem) for s in found.steps] == [
        ("original", "pruned"),
        ("pruned", "int8"),
    ]


def test_tables_say_what_was_found(found: Comparison) -> None:
    assert models_table(found).row_count == 3
    shown = found._repr_html_()
    assert all(name in shown for name in ("original.onnx", "pruned.onnx", "int8.onnx", "speedup"))
    line = step_line(found, found.steps[0])
    assert line.startswith("original.onnx -> pruned.onnx: 7 tensors on 60 samples; no own error above")
    assert found.steps[0].trace is not None
    assert layers_table(found.steps[0].trace).row_count == 5
    assert short_names(["a/m.onnx", "b/m.onnx"]) == {"a/m.onnx": "a/m.onnx", "b/m.onnx": "b/m.onnx"}


def test_the_command_names_the_damaged_layer(
    chain: dict[str, str],
    damaged: Callable[[str, str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong, output = damaged(chain["pruned"], "w2"), tmp_path / "c.json"
    ledger = str(Path(chain["pruned"]).parent / "ledger.json")
    arguments = ["compare", chain["original"], wrong, "--data", chain["data"], "--ledger", ledger, "--quiet"]
    fixed = Latency(1.0, 1.0, 1.0, 1, 1.0)
    monkeypatch.setattr("hqp_onnx.comparison.comparison.measure", lambda sessions, *_: dict.fromkeys(sessions, fixed))
    assert hqp(monkeypatch, *arguments, "--json", str(output)) == 0
    shown = capsys.readouterr().out
    assert "the first is 'c2' of Conv" in shown
    values = json.loads(output.read_text())
    assert set(values) == {
        "data",
        "samples",
        "metric",
        "unit",
        "higher_is_better",
        "batch",
        "tolerance",
        "models",
        "steps",
    }
    (step,) = values["steps"]
    assert step["first_divergent"] == "c2"
    assert next(t for t in step["tensors"] if t["divergent"])["tensor"] == "c2"
    assert values["models"][0]["outputs"] == {}
    figures = {"max_abs", "mean_abs", "relative", "cosine", "psnr_db", "broken", "undefined", "agreement"}
    assert set(values["models"][1]["outputs"]["y"]) == figures


def test_outputs_without_labels_or_classes(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[n,2,3] x) => (float[n,2,3] y, float[n,2,3] z) {{ {} }}'
    models = []
    for name, op in (("a", "Identity"), ("b", "Relu")):
        path = tmp_path / f"{name}.onnx"
        onnx.save(onnx.parser.parse_model(text.format(f"y = {op}(x) z = Neg(x)")), path)
        models.append(str(path))
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32))
    found = compare(models, str(tmp_path / "d.npz"), seconds=0.01)
    assert found.models[1].accuracy is None
    assert found.models[1].agreement == {}
    assert found.models[1].outputs["z"].max_abs == 0 < found.models[1].outputs["y"].max_abs
    trace = found.steps[0].trace
    assert trace is not None
    assert trace.first is not None
    assert trace.first.tensor == "y"
    assert models_table(found).row_count == 3  # a, and both outputs of b
    assert found.json()["metric"] == ""


def test_bad_inputs_are_one_line(
    chain: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    a, b, data = chain["original"], chain["pruned"], ["--data", chain["data"]]
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[n,9] {x}) => (float[n,9] y) {{ y = Relu({x}) }}'
    for name in ("x", "k"):
        onnx.save(onnx.parser.parse_model(text.format(x=name)), tmp_path / f"{name}.onnx")
    other = tmp_path / "ledger.json"
    (tmp_path / "broken.json").write_text("{")
    other.write_text('{"model_sha256": "0", "removed": {}}')
    (tmp_path / "metric.py").write_text("def score(outputs, labels): return [2.0] * len(outputs['y'])\n")
    cases = [
        ([a, *data], "two models or more"),
        ([a, a, *data], "is given twice"),
        ([a, str(tmp_path / "none.onnx"), *data], "no such file"),
        ([a, f"{b}@abacus", *data], "unknown target 'abacus'"),
        ([a, str(tmp_path / "x.onnx"), *data], "takes 'x' float32[?, 9], but"),
        ([a, str(tmp_path / "k.onnx"), *data], "takes 'k' float32[?, 9], but"),
        ([a, b, "--data", str(tmp_path / "none.npz")], "no such file"),
        ([a, b, *data, "--metric", "agreement"], "always given"),
        ([a, b, *data, "--metric", "best"], "unknown metric"),
        ([a, b, *data, "--metric", f"{tmp_path}/metric.py:score"], "one score in 0..1"),
        ([a, b, *data, "--ledger", str(tmp_path / "broken.json")], "not a ledger"),
        ([a, b, *data, "--ledger", str(other)], "not a ledger of any of the models"),
        ([a, b, *data, "--tolerance", "0"], "must be above 0"),
        ([a, b, *data, "--tolerance", "nan"], "must be above 0"),
        ([a, b, *data, "--samples", "0"], "at least 1"),
    ]
    for arguments, part in cases:
        code = hqp(monkeypatch, "compare", *arguments, "--quiet")
        (error,) = capfd.readouterr().err.strip().splitlines()
        assert code == 2, arguments
        assert error.startswith("error: "), arguments
        assert part in error, (arguments, error)
