"""A package from outside the repository, installed by pip: each of its extensions is used from the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from oracle import worst_error
from small_model import small_data, small_model

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, data, and site/, where the package is installed."""
    made = tmp_path_factory.mktemp("outside")
    source = shutil.copytree(ROOT / "tests" / "outside", made / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", made / "site", source], check=True)
    onnx.save(small_model(), made / "model.onnx")
    np.savez(made / "data.npz", **small_data(60))
    return made


def hqp(folder: Path, *arguments: str) -> str:
    """What a command says, in a process of its own that knows the package."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(ROOT)])}
    command = [sys.executable, "-m", "hqp_onnx", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def scores(folder: Path, model: str, *options: str) -> dict[str, np.ndarray]:
    hqp(folder, "score", model, "--data", "data.npz", "-o", "scores.npz", "--quiet", *options)
    with np.load(folder / "scores.npz") as arrays:
        return dict(arrays)


def test_it_has_one_of_each_kind() -> None:
    """A registry that is added needs an extension in tests/outside."""
    code = "\n".join(path.read_text() for path in (ROOT / "hqp_onnx").rglob("*.py"))
    described = (ROOT / "tests" / "outside" / "pyproject.toml").read_text()
    groups = re.findall(r'Registry\(\s*"[a-z ]+",\s*"(hqp_onnx\.[a-z_]+)"', code)
    assert len(groups) >= 9
    for group in groups:
        assert f'[project.entry-points."{group}"]' in described, group


def test_saliency_search_metric_and_target(folder: Path) -> None:
    data = ["--calib", "data.npz", "--val", "data.npz", "--max-drop", "0.9", "--step", "0.2", "--quiet"]
    names = ["--saliency", "outside-peak", "--search", "outside-first", "--metric", "outside-near"]
    rest = ["--target", "outside-chip", "--calibration", "outside-share:0.9", "--precision", "int8", "-o", "out"]
    hqp(folder, "optimize", "model.onnx", *data, *names, *rest)
    report = json.loads((folder / "out" / "report.json").read_text())
    chosen = {name: report["settings"][name] for name in ("saliency", "search", "metric", "target", "calibration")}
    assert chosen == {
        "saliency": "outside-peak",
        "search": "outside-first",
        "metric": "outside-near",
        "target": "outside-chip",
        "calibration": "outside-share:0.9",
    }
    tried = [trial for trial in report["trials"] if trial["precision"] == "fp32"]
    assert len(tried) <= 2 and all(trial["removed"] for trial in tried)  # the first of the path, and of what is around
    assert report["settings"]["multiple_of"] == 4 and report["budget_met"]
    images = small_data(60)["input"]
    logits = onnx_run(folder / "model.onnx", images)
    assert report["baseline"]["metric"] == pytest.approx(np.exp(-np.abs(logits).mean(1)).mean(), abs=1e-6)
    int8 = onnx.load(folder / "out" / "int8.onnx").graph
    kinds = {tensor.data_type for tensor in int8.initializer if tensor.name.endswith("zero_point")}
    assert onnx.TensorProto.UINT8 not in kinds  # the chip is symmetric


def onnx_run(model: Path, images: np.ndarray) -> np.ndarray:
    """Outputs by plain onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"input": images})[0]
    return found


def test_device(folder: Path) -> None:
    said = hqp(folder, "benchmark", "model.onnx", "--device", f"outside-folder://{folder / 'board'}", "--json", "-")
    assert "on a folder (" in json.loads(said)["runtime"]


def test_workers(folder: Path) -> None:
    said = [
        hqp(folder, "evaluate", "model.onnx", "--data", "data.npz", "--json", "-", *options)
        for options in ((), ("--workers", "outside-threads://2"))
    ]
    assert said[0] == said[1]


def test_gradient_engine(folder: Path) -> None:
    plain, double = scores(folder, "model.onnx"), scores(folder, "model.onnx", "--gradients", "outside-double")
    for name, values in plain.items():
        np.testing.assert_allclose(double[name], 2 * values, rtol=1e-6)


def test_rules_of_another_domain(folder: Path) -> None:
    """com.microsoft's QuickGelu and FusedConv stand for anyone's operators: onnxruntime runs them."""
    rng = np.random.default_rng(0)
    constants = {"w": (8, 1, 3, 3), "each": (8, 1, 3, 3), "v": (5, 8, 1, 1)}
    text = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[N,1,8,8] input) => (float[N,5] y) {
        c = Conv (input, w) a = com.microsoft.QuickGelu <alpha = 1.0> (c)
        f = com.microsoft.FusedConv <group = 8, kernel_shape = [3, 3], activation = "Relu"> (a, each)
        d = Conv (f, v) p = GlobalAveragePool (d) y = Flatten (p) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in constants.items()
    )
    onnx.save(model, folder / "domain.onnx")
    options = ["--sparsity", "0.5", "--saliency", "l2", "--ledger", "ledger.json", "-o", "pruned.onnx", "--quiet"]
    hqp(folder, "prune", "domain.onnx", *options)
    removed = json.loads((folder / "ledger.json").read_text())["removed"]
    assert len(removed["w"]["0"]) == len(removed["each"]["0"]) == 4
    pruned = onnx.load(folder / "pruned.onnx")
    assert worst_error(model, pruned, removed, {"input": small_data(8)["input"]}) <= 1e-5
    without = model.graph.node[2]  # no gradient rule for FusedConv: a model of QuickGelu alone is scored
    without.domain, without.op_type = "", "Conv"
    del without.attribute[:]
    without.attribute.append(onnx.helper.make_attribute("group", 8))
    onnx.save(model, folder / "gelu.onnx")
    found = scores(folder, "gelu.onnx", "--loss", "gauss-newton")["filter/w"]
    model.graph.node[1].domain, model.graph.node[1].op_type = "", "Sigmoid"
    del model.graph.node[1].attribute[:]
    model.graph.node[1].output[0] = "s"
    model.graph.node.insert(2, onnx.helper.make_node("Mul", ["c", "s"], ["a"], "product"))
    onnx.save(model, folder / "plain.onnx")
    np.testing.assert_allclose(found, scores(folder, "plain.onnx", "--loss", "gauss-newton")["filter/w"], rtol=1e-4)
