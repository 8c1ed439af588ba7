"""Targets open in their runtimes; a runtime that is not there is one line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from command import hqp
from conftest import MODELS

from hqp_onnx.errors import MissingRuntimeError, ModelError
from hqp_onnx.job.options import Options
from hqp_onnx.runtimes.runners import open_runner, remarks, runtime_name, stand_in, timing
from hqp_onnx.runtimes.targets import target
from hqp_onnx.steps.optimize import optimize

MODEL = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> g (float[n,3] x) => (float[n,3] y) { h = Neg(x) y = Relu(h) }'
)
X = np.arange(6, dtype=np.float32).reshape(2, 3) - 3
NVIDIA = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
VAL = MODELS / "fashion_mnist_val.npz"
RESNET = MODELS / "resnet18.onnx"


@pytest.mark.parametrize("provider", [p for p in ort.get_available_providers() if p not in NVIDIA])
def test_every_provider_of_onnxruntime_can_be_named(provider: str) -> None:
    wanted = target(f"onnxruntime:{provider}")
    runner = open_runner(MODEL, wanted, ["h"], threads=1)
    assert runner.run({"x": X})["h"].tolist() == (-X).tolist()
    assert ort.__version__ in runtime_name(wanted)
    assert provider == "CPUExecutionProvider" or provider in runtime_name(wanted)


@pytest.mark.parametrize("name", ["cuda", "onnxruntime:TensorrtExecutionProvider", "onnxruntime:NoExecutionProvider"])
def test_a_provider_that_is_not_there_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingRuntimeError, match=r"only CPUExecutionProvider: (pip )?install ") as found:
        open_runner(MODEL, target(name))
    assert ("onnxruntime-gpu" in str(found.value)) is ("No" not in name)


def test_a_provider_that_does_not_start_is_no_silent_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    # the GPU build lists its providers on machines without a driver, and then runs on the CPU
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    real = ort.InferenceSession
    monkeypatch.setattr(
        ort, "InferenceSession", lambda *a, **k: real(*a, **{**k, "providers": ["CPUExecutionProvider"]})
    )
    with pytest.raises(MissingRuntimeError, match="CUDAExecutionProvider does not start"):
        open_runner(MODEL, target("cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cuda", "onnxruntime:TensorrtExecutionProvider"])
def test_a_gpu_gives_the_same_answers(name: str) -> None:
    with np.load(VAL) as data:
        feeds = {"input": data["input"][:8].astype(np.float32)}
    want = open_runner(RESNET, target("onnxruntime")).run(feeds)["logits"]
    wanted = target(name)
    if wanted.runtime.provider not in ort.get_available_providers() or shutil.which("nvidia-smi") is None:
        pytest.skip(f"no {wanted.runtime.provider}")
    try:
        found = open_runner(RESNET, wanted).run(feeds)["logits"]
    except ModelError as e:
        if "install TensorRT" not in str(e):
            raise
        pytest.skip(str(e))
    assert np.abs(found - want).max() <= 1e-3 * np.abs(want).max()


def test_what_stands_in_for_another_runtime_is_said() -> None:
    assert "onnxruntime's on the CPU" in stand_in(target("tensorrt"))[0]
    assert stand_in(target("openvino")) == stand_in(target("onnxruntime:TensorrtExecutionProvider")) == ()
    assert "TensorRT" in remarks(target("cuda"), "int8")[0]
    assert "IO binding" in timing(target("cuda"))[0] and timing(target("openvino")) == ()
    assert "half the size" in remarks(target("openvino"), "fp16")[0]
    assert remarks(target("openvino"), "fp16") == remarks(target("tensorrt"), "fp16")  # judged on the CPU
    assert (
        remarks(target("cuda"), "fp16") == remarks(target("cuda"), "fp32") == remarks(target("openvino"), "int8") == ()
    )


def few(path: Path, count: int) -> str:
    with np.load(VAL) as data:
        np.savez(path, input=data["input"][:count], labels=data["labels"][:count])
    return str(path)


@pytest.mark.slow
def test_commands_run_on_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ov = pytest.importorskip("openvino")
    data, int8 = few(tmp_path / "few.npz", 300), tmp_path / "int8.onnx"
    on = ("--target", "openvino")
    assert hqp(monkeypatch, "quantize", str(RESNET), "--data", data, *on, "-o", str(int8)) == 0
    values = {}
    for path in (RESNET, int8):
        result = tmp_path / f"{path.stem}.json"
        assert hqp(monkeypatch, "evaluate", str(path), "--data", data, *on, "--json", str(result)) == 0
        values[path] = json.loads(result.read_text())
    assert abs(values[RESNET]["value"] - values[int8]["value"]) <= 0.03
    assert values[int8]["runtime"] == f"OpenVINO {ov.__version__.partition('-')[0]}"
    assert hqp(monkeypatch, "benchmark", str(RESNET), str(int8), *on, "--json", str(tmp_path / "b.json")) == 0
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["runtime"] == values[int8]["runtime"]
    assert all(row["median_ms"] > 0 for row in found["models"])


def test_without_openvino_a_command_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert hqp(monkeypatch, "benchmark", str(RESNET), "--target", "openvino") == 2
    assert capfd.readouterr().err.strip() == "error: openvino is not installed: pip install 'hqp-onnx[openvino]'"


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["macs", "latency"])
def test_the_main_job_runs_on_openvino(tmp_path: Path, objective: str) -> None:
    pytest.importorskip("openvino")
    calib, val = few(tmp_path / "calib.npz", 50), few(tmp_path / "val.npz", 200)
    chosen = {"target": "openvino", "saliency": "l2", "compensate": False, "step": 0.2, "max_drop": 0.1}
    options = Options(RESNET, calib, val, tmp_path / "out", objective=objective, **chosen)
    report = optimize(options)
    assert report.machine.runtime.startswith("OpenVINO ")
    session = open_runner(Path(report.shipped), target("openvino"))
    with np.load(val) as data:
        found = session.run({"input": data["input"].astype(np.float32)})["logits"].argmax(1)
        assert report.rows[report.ships].val_metric == pytest.approx((found == data["labels"]).mean())
