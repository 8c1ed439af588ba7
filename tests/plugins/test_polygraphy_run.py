"""``polygraphy run`` with the variants, as a subprocess: onnxruntime runs them, TensorRT is scripted."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from oracle import masked, run
from polygraphy.comparator import RunResults
from polygraphy_host import host_environment, sh
from small_model import small_data, small_model

from hqp_onnx.plugins.data_loader import write_script
from hqp_onnx.steps.prune import Pruning, prune_file

RUN = "polygraphy run m.onnx --onnxrt"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("host")
    onnx.save(small_model(), folder / "m.onnx")
    np.savez(folder / "d.npz", **small_data())
    write_script(str(folder / "d.npz"), folder / "m.onnx", folder / "loader.py", batch=8)
    return folder, host_environment(folder / "metadata")


def outputs(results: RunResults, name: str) -> np.ndarray:
    return np.concatenate([np.asarray(iteration["logits"]) for iteration in results[name]])


def test_variants_take_part_in_a_comparison(host: tuple[Path, dict[str, str]]) -> None:
    folder, environment = host
    variants = "--hqp-pruned --hqp-int8 --hqp --hqp-saliency l2 --no-hqp-compensate"
    shares = "--hqp-sparsity 25% --hqp-min-width 10% --hqp-multiple-of 2"
    command = f"{RUN} {variants} {shares} --data-loader-script loader.py --save-outputs out.json --atol 10"
    done = sh(command, folder, environment)
    assert done.returncode == 0, done.stdout
    assert "vs. hqp-pruned | Passed: 3/3" in done.stdout
    assert "hqp-pruned vs. hqp-int8 | Passed: 3/3" in done.stdout
    assert "hqp-int8 vs. hqp | Passed: 3/3" in done.stdout

    model, feeds = small_model(), {"input": small_data()["input"]}
    prune_file(folder / "m.onnx", folder / "p.onnx", Pruning(0.25, multiple_of=2), ledger=folder / "ledger.json")
    removed = json.loads((folder / "ledger.json").read_text())["removed"]
    original, pruned = run(model, feeds)[0], run(masked(model, removed), feeds)[0]
    results = RunResults.load(str(folder / "out.json"))
    for name, want, tolerance in (
        ("hqp-pruned", pruned, 1e-5),
        ("hqp-int8", original, 0.05),
        ("hqp", pruned, 0.05),
    ):
        error = np.abs(outputs(results, name) - want).max()
        assert error <= tolerance * np.abs(want).max(), name
        assert name == "hqp-pruned" or error > 1e-4 * np.abs(want).max(), name


def test_a_comparison_that_fails_says_so(host: tuple[Path, dict[str, str]]) -> None:
    folder, environment = host
    done = sh(f"{RUN} --hqp-pruned --hqp-sparsity 0.5 --atol 1e-6", folder, environment)
    assert done.returncode == 1
    assert "vs. hqp-pruned | Passed: 0/1" in done.stdout


def test_tensorrt_runs_the_same_loaders(host: tuple[Path, dict[str, str]]) -> None:
    folder, environment = host
    options = "--hqp --hqp-data d.npz --hqp-runtime trt --strongly-typed --hqp-keep 'w1*' --gen-script s.py"
    done = sh(f"{RUN} {options}", folder, environment)
    assert done.returncode == 0, done.stdout
    calls = {
        node.func.id: {argument.arg: ast.unparse(argument.value) for argument in node.keywords}
        for node in ast.walk(ast.parse((folder / "s.py").read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert calls["PruneOnnx"]["keep"] == "('w1*',)"
    assert calls["QuantizeOnnx"]["target"] == "'tensorrt'"
    assert calls["NetworkFromOnnxBytes"] == {"strongly_typed": "True"}
    assert calls["TrtRunner"] == {"name": "'hqp'"}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ("--hqp-pruned --hqp-sparsity 1.5", "--hqp-sparsity 1.5: expected"),
        ("--hqp-int8", "--hqp-data DATA or --data-loader-script"),
        ("--hqp-int8 --hqp-data none.npz", "none.npz: no such file"),
        ("--hqp-pruned --hqp-saliency fisher", "saliency fisher needs data"),
        ("--hqp-int8 --hqp-target abacus --hqp-data d.npz", "unknown target 'abacus'"),
    ],
)
def test_bad_options_are_one_line(options: str, part: str, host: tuple[Path, dict[str, str]]) -> None:
    folder, environment = host
    done = sh(f"{RUN} {options}", folder, environment)
    assert done.returncode == 1
    assert len([line for line in done.stdout.splitlines() if line.startswith("[!] ") and part in line]) == 1
    assert "Traceback" not in done.stdout
