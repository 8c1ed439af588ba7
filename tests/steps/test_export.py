"""Other formats: run by their runtimes alone, equal to the ONNX model, and not written where they are not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from command import hqp
from small_model import small_data, small_model

import hqp_onnx
from hqp_onnx.errors import ModelError, UsageError
from hqp_onnx.runtimes import exports
from hqp_onnx.steps.export import export


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    onnx.save(small_model(), folder / "fp32.onnx")
    onnx.save(hqp_onnx.quantize(small_model(), data=small_data()), folder / "int8.onnx")
    return folder


def run_ir(file: Path, images: np.ndarray) -> np.ndarray:
    ov = pytest.importorskip("openvino")
    found: np.ndarray = ov.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([images])[0]
    return found


def run_ort(file: Path, images: np.ndarray) -> np.ndarray:
    found: np.ndarray = ort.InferenceSession(str(file)).run(None, {"input": images})[0]
    return found


def run_tflite(file: Path, images: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    interpreter, found = Interpreter(model_path=str(file)), []
    interpreter.allocate_tensors()
    for image in images:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None].transpose(0, 2, 3, 1))
        interpreter.invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    return np.concatenate(found)


@pytest.mark.parametrize("name", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("form", "suffix", "run"), [("openvino", "xml", run_ir), ("litert", "tflite", run_tflite), ("ort", "ort", run_ort)]
)
def test_a_file_gives_what_the_model_gives(
    models: Path, tmp_path: Path, name: str, form: str, suffix: str, run: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form != "ort":
        pytest.importorskip({"openvino": "openvino", "litert": "ai_edge_litert"}[form])
    made = tmp_path / "made"
    file, images = made / f"a.{suffix}", small_data()["input"]
    command = ("export", models / f"{name}.onnx", "--format", form, "-o", file, "--json", tmp_path / "said.json")
    assert hqp(monkeypatch, *command) == 0
    said = json.loads((tmp_path / "said.json").read_text())
    assert sorted(said["files"]) == sorted(str(path) for path in made.glob("a.*"))
    assert said["bytes"] == sum(path.stat().st_size for path in made.glob("a.*"))
    wanted = run_ort(models / f"{name}.onnx", images)
    near = 1e-5 if name == "fp32" or form == "ort" else 0.05  # others' INT8 kernels are not onnxruntime's
    assert np.abs(run(file, images) - wanted).max() < near * np.abs(wanted).max()  # type: ignore[operator]
    assert not list(made.glob(".hqp-*"))


def test_a_file_that_computes_something_else_is_not_written(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = exports.FORMATS["ort"]
    wrong = replace(ours, run=lambda file, feeds: [1.01 * value for value in ours.run(file, feeds)])
    monkeypatch.setitem(exports.FORMATS, "ort", wrong)
    with pytest.raises(ModelError, match=r"output 'logits' differs from that of the ONNX model by 1\.00%"):
        export(models / "fp32.onnx", tmp_path / "a.ort", "ort")
    assert not list(tmp_path.iterdir())


NO_DEVICE = 77


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_what_a_provider_compiled_runs_on_that_provider_alone(models: Path, tmp_path: Path, name: str) -> None:
    """In a process of its own: the plug-in brings another OpenVINO than the one that other tests load."""
    pytest.importorskip("onnxruntime_ep_openvino")
    np.save(tmp_path / "x.npy", small_data()["input"])
    (tmp_path / "made.py").write_text(
        "import sys, numpy as np, onnxruntime as ort\n"
        "from hqp_onnx.errors import MissingRuntimeError\n"
        "from hqp_onnx.steps.export import export\n"
        "model, file, images = sys.argv[1], sys.argv[2], np.load(sys.argv[3])\n"
        "try:\n"
        "    export(model, file, 'epcontext', 'OpenVINOExecutionProvider')\n"
        "except MissingRuntimeError as e:\n"
        "    print(e)\n"
        f"    sys.exit({NO_DEVICE} * ('finds no device here' in str(e)) or 1)\n"
        "options = ort.SessionOptions()\n"
        "options.add_provider_for_devices([d for d in ort.get_ep_devices() if d.ep_name[:8] == 'OpenVINO'][:1], {})\n"
        "np.save(sys.argv[4], ort.InferenceSession(file, options).run(None, {'input': images})[0])\n"
    )
    words = [models / f"{name}.onnx", tmp_path / "a.onnx", tmp_path / "x.npy", tmp_path / "y.npy"]
    done = subprocess.run([sys.executable, tmp_path / "made.py", *words], check=False)
    if done.returncode == NO_DEVICE:
        pytest.skip("the plug-in takes processors of Intel only")
    assert not done.returncode
    assert {node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node} == {"EPContext"}
    wanted = run_ort(models / f"{name}.onnx", small_data()["input"])
    assert (
        np.abs(np.load(tmp_path / "y.npy") - wanted).max() < 0.05 * np.abs(wanted).max()
    )  # it may compute in bfloat16


def test_a_provider_that_compiles_nothing_writes_nothing(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="compiles nothing of this model ahead of time"):
        export(models / "fp32.onnx", tmp_path / "a.onnx", "epcontext", "CPUExecutionProvider")
    assert not list(tmp_path.iterdir())


def test_what_makes_no_sense_is_said(models: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a file \.xml"):
        export(models / "fp32.onnx", tmp_path / "a.onnx", "openvino")
    with pytest.raises(UsageError, match="expected one of openvino, litert, qnn, ort, epcontext"):
        export(models / "fp32.onnx", tmp_path / "a.ort", "tflite")
    for form, provider in (("epcontext", None), ("ort", "OpenVINOExecutionProvider")):
        with pytest.raises(UsageError, match="expected provider NAMEExecutionProvider"):
            export(models / "fp32.onnx", tmp_path / "a.onnx", form, provider)
    with pytest.raises(ModelError):
        export(tmp_path / "none.onnx", tmp_path / "a.ort", "ort")
