"""A workflow of Microsoft Olive runs the passes, from the Python API and from the command line."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from oracle import run
from polygraphy_host import host_environment, sh
from small_model import small_data, small_model

import hqp_onnx

if find_spec("olive") is None:
    pytest.skip("Olive is not installed", allow_module_level=True)

BAD = [
    ({"type": "HqpPrune", "sparsity": 1.5}, "sparsity 1.5: expected"),
    ({"type": "HqpPrune", "compensate": True}, "compensate needs calibration data"),
    ({"type": "HqpQuantize", "data": "none.npz"}, "none.npz: no such file"),
    ({"type": "HqpQuantize"}, "Field required"),
]
SCRIPT = f"""
import json, pathlib
from hqp_onnx.plugins.olive import HqpPrune, package_config
from olive.hardware import DEFAULT_CPU_ACCELERATOR
from olive.workflows import run

space = HqpPrune.get_config_params(DEFAULT_CPU_ACCELERATOR, {{"sparsity": [0.1, 0.25]}})[2]
print("search space", {{name: values.get_support() for name, values in space.items()}})
packages = package_config()
pathlib.Path("packages.json").write_text(json.dumps(packages))
for number, passes in enumerate({[passes for passes, _ in BAD]!r}):
    model = {{"type": "ONNXModel", "model_path": "m.onnx"}}
    workflow = {{"input_model": model, "passes": {{"one": passes}}, "output_dir": "bad", "cache_dir": f"bad{{number}}"}}
    print("\\ncase", flush=True)
    try:
        run(workflow, package_config=packages)
    except ValueError as e:
        print(e, flush=True)
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], str]:
    """A folder after ``SCRIPT``, its environment, and what it printed. Olive runs apart: it warns when imported."""
    folder = tmp_path_factory.mktemp("olive")
    onnx.save(small_model(), folder / "m.onnx")
    np.savez(folder / "d.npz", **small_data())
    (folder / "script.py").write_text(SCRIPT)
    environment = host_environment(folder / "metadata")
    done = sh("python script.py", folder, environment)
    assert done.returncode == 0, done.stdout[-2000:]
    return folder, environment, done.stdout


@pytest.mark.slow
def test_sparsity_can_be_searched(host: tuple[Path, dict[str, str], str]) -> None:
    assert "search space {'sparsity': [0.1, 0.25]}" in host[2]


def test_bad_parameters_are_named(host: tuple[Path, dict[str, str], str]) -> None:
    folder, _, printed = host
    for section, (_, part) in zip(printed.split("\ncase\n")[1:], BAD, strict=True):
        assert part in section
    assert not list((folder / "bad").rglob("*.onnx"))


def test_workflow(host: tuple[Path, dict[str, str], str]) -> None:
    folder, environment, _ = host
    prune = {"type": "HqpPrune", "sparsity": 0.25, "saliency": "fisher", "compensate": True, "data": "d.npz"}
    quantize = {"type": "HqpQuantize", "data": "d.npz", "calibration": "minmax"}
    workflow = {
        "input_model": {"type": "ONNXModel", "model_path": "m.onnx"},
        "passes": {"prune": {**prune, "keep": ["w1*"]}, "quantize": quantize},
        "output_dir": "both",
        "cache_dir": "both-cache",
    }
    (folder / "workflow.json").write_text(json.dumps(workflow))
    done = sh("olive run --config workflow.json --package-config packages.json", folder, environment)
    found = list((folder / "both").rglob("*.onnx"))
    assert done.returncode == 0 and len(found) == 1, done.stdout[-2000:]
    data = small_data()
    pruned = hqp_onnx.prune(small_model(), 0.25, saliency="fisher", compensate=True, data=data, keep=("w1*",))
    want = run(hqp_onnx.quantize(pruned, data, calibration="minmax"), {"input": data["input"]})[0]
    assert np.array_equal(run(onnx.load(found[0]), {"input": data["input"]})[0], want)
