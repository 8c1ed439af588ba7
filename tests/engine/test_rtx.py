"""Engines of the real TensorRT for RTX, which needs no GPU to build them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from conftest import MODELS

from hqp_onnx import cli
from hqp_onnx.comparison.contenders import open_contenders
from hqp_onnx.engine import BuildOptions, BuildReport, Capability, measure
from hqp_onnx.engine.device import device_if_any
from hqp_onnx.engine.library import TENSORRT_RTX
from hqp_onnx.errors import MissingRuntimeError, ModelError, UsageError
from hqp_onnx.progress import silent
from hqp_onnx.steps.build import build_file
from hqp_onnx.steps.quantize import quantize_file

RESNET, MOBILENET = MODELS / "resnet18.onnx", MODELS / "mobilenet_v3_small.onnx"
needs_no_gpu = pytest.mark.skipif(device_if_any() is not None, reason="there is a GPU")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("data") / "few.npz"
    with np.load(MODELS / "fashion_mnist_calib.npz") as arrays:
        np.savez(file, input=arrays["input"][:24])
    return str(file)


def built(model: Path, output: Path, **options: Any) -> BuildReport:
    return build_file(BuildOptions(model, output, target="tensorrt-rtx", **options))


def test_what_its_bindings_offer(rtx: Capability) -> None:
    assert {(8, 6), (8, 9), (12, 0)} <= set(rtx.ahead) and (9, 0) not in rtx.ahead
    assert rtx.weight_only and rtx.strong and rtx.int8_weights and rtx.weight_streaming
    assert not (rtx.weak or rtx.implicit or rtx.timing_cache or rtx.version_compatible or rtx.hardware_compatible)


@pytest.mark.parametrize("model", [RESNET, MOBILENET])
def test_weights_shrink_with_the_precision(rtx: Capability, model: Path, data: str, tmp_path: Path) -> None:
    chosen = {"fp32": {"precision": "fp32"}, "default": {"data": data}, "int8": {"data": data, "precision": "int8"}}
    reports = {name: built(model, tmp_path / f"{name}.engine", **options) for name, options in chosen.items()}
    assert [report.precision for report in reports.values()] == ["fp32", "fp16", "int8"]
    sizes = [report.weights_bytes for report in reports.values()]
    assert sizes[0] is not None and abs(sizes[0] - model.stat().st_size) < 0.01 * sizes[0]
    assert sizes[0] > 1.9 * sizes[1] > 2.9 * sizes[2]
    for name, report in reports.items():
        engine = (tmp_path / f"{name}.engine").read_bytes()
        assert engine[:4] == b"vtrt" and len(engine) == report.bytes
        said = json.loads((tmp_path / f"{name}.engine.json").read_text())
        assert (said["library"], said["built"], said["for_gpu"]) == ("TensorRT for RTX", True, [])


def test_gpus_shapes_and_flags_reach_the_engine(rtx: Capability, tmp_path: Path) -> None:
    shapes = ("input:1x1x28x28,8x1x28x28,32x1x28x28",)
    options = {"for_gpu": ("RTX 4090", "8.6"), "weight_streaming": True, "workspace": 64, "shapes": shapes}
    report = built(RESNET, tmp_path / "m.engine", **options)
    assert report.for_gpu == ("8.6", "8.9") and report.weight_streaming
    assert report.shapes["input"].max == (32, 1, 28, 28)
    other = built(RESNET, tmp_path / "n.engine", for_gpu="8.6")
    assert other.for_gpu == ("8.6",) and (tmp_path / "n.engine").read_bytes() != (tmp_path / "m.engine").read_bytes()


def test_float8_is_for_gpus_that_have_it(rtx: Capability, data: str, tmp_path: Path) -> None:
    report = built(RESNET, tmp_path / "m.engine", data=data, precision="fp8")
    assert (report.precision, report.for_gpu) == ("fp8", ("8.9", "12.0", "12.1"))
    assert report.weights_bytes is not None and 3.9 * report.weights_bytes < RESNET.stat().st_size
    quantize_file(RESNET, tmp_path / "fp8.onnx", data, "tensorrt-rtx", "minmax", None, silent, precision="fp8")
    again = built(tmp_path / "fp8.onnx", tmp_path / "n.engine", for_gpu="ada")
    assert (again.precision, again.for_gpu, again.weights_bytes) == ("fp8", ("8.9",), report.weights_bytes)
    with pytest.raises(UsageError, match=r"capability 8\.6 have none"):
        built(tmp_path / "fp8.onnx", tmp_path / "o.engine", for_gpu=("8.6", "12.0"))


def test_it_is_what_builds_where_it_alone_is_installed(
    rtx: Capability, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hqp_onnx.engine.options.installed", lambda: TENSORRT_RTX)
    monkeypatch.setattr("sys.argv", ["hqp", "build", str(RESNET), "-o", str(tmp_path / "m.engine"), "--quiet"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capfd.readouterr()
    assert ended.value.code == 0 and printed.err == ""
    assert "TensorRT for RTX" in printed.out and "for compute capability 8.0 and later" in printed.out


@needs_no_gpu
def test_what_needs_a_gpu_is_one_line(rtx: Capability, tmp_path: Path) -> None:
    built(RESNET, tmp_path / "m.engine")
    with pytest.raises(MissingRuntimeError, match=r"no usable GPU|needs a machine with a GPU"):
        measure(tmp_path / "m.engine")
    with pytest.raises(MissingRuntimeError, match="an engine runs on its GPU, and there is none here"):
        open_contenders([str(RESNET), str(tmp_path / "m.engine")])
    with pytest.raises(UsageError, match="with a GPU only"):
        built(RESNET, tmp_path / "m.engine", refit=True)


def test_what_it_refuses_is_one_line_that_names_the_node(rtx: Capability, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2,3,3] x) => (float[2] y) { r = Relu(x) y = Det(r) }'
    )
    model.graph.node[1].name = "the_determinant"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"refuses node 'the_determinant' \(Det\): TensorRT has no Det$") as e:
        built(tmp_path / "m.onnx", tmp_path / "m.engine")
    assert "\n" not in str(e.value) and not (tmp_path / "m.engine").exists()


def test_polygraphy_reads_what_was_built(rtx: Capability, tmp_path: Path) -> None:
    """The same library builds by Polygraphy's own command, and our process leaves its choice to it."""
    command = [str(Path(sys.executable).with_name("polygraphy")), "convert", str(RESNET), "--convert-to", "trt"]
    command += ["--compute-capabilities", "8.6", "12.0", "-o", str(tmp_path / "p.engine")]
    environment = {**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "p.engine").read_bytes()[:4] == b"vtrt"
