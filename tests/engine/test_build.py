"""``hqp build`` for machines elsewhere, which needs no TensorRT; builds with it are in test_contract.py."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from conftest import MODELS

from hqp_onnx import cli
from hqp_onnx.engine import BuildOptions, BuildReport
from hqp_onnx.errors import ModelError, UsageError
from hqp_onnx.progress import silent
from hqp_onnx.runtimes.session import Session
from hqp_onnx.steps.build import build_file
from hqp_onnx.steps.quantize import quantize_file

MODEL = MODELS / "mobilenet_v3_small.onnx"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("data") / "few.npz"
    with np.load(MODELS / "fashion_mnist_calib.npz") as arrays:
        np.savez(file, input=arrays["input"][:24])
    return str(file)


def images(data: str) -> dict[str, np.ndarray]:
    return {"input": np.load(data)["input"].astype(np.float32)}


def script(output: Path) -> list[str]:
    """The words of the written command, checked by the shell."""
    file = output.with_name(output.name + ".sh")
    subprocess.run(["sh", "-n", file], check=True)
    return file.read_text().replace("\\\n", " ").splitlines()[-1].split()


def beside(output: Path, suffix: str) -> Path:
    return output.with_name(output.name + suffix)


def logits(model: Path, data: str) -> np.ndarray:
    return Session(model).run(images(data))["logits"]


def test_a_script_for_jetson_nano(tmp_path: Path, data: str) -> None:
    output = tmp_path / "nano" / "m.engine"
    report = build_file(BuildOptions(MODEL, output, precision="fp16", elsewhere="8.2.1", workspace=512))
    words = script(output)
    assert {"--onnx=m.engine.onnx", "--saveEngine=m.engine", "--fp16", "--workspace=512"} <= set(words)
    assert not any(word.startswith(("--int8", "--calib", "--stronglyTyped")) for word in words)
    assert "--optShapes=input:1x1x28x28" in words
    assert sorted(p.name for p in output.parent.iterdir()) == ["m.engine.json", "m.engine.onnx", "m.engine.sh"]
    assert msgspec.json.decode(beside(output, ".json").read_bytes(), type=BuildReport) == report
    assert (report.tensorrt, report.built, report.flags) == ("8.2.1", False, ("FP16",))
    np.testing.assert_allclose(logits(beside(output, ".onnx"), data), logits(MODEL, data), atol=1e-4)


def test_our_ranges_become_a_cache_of_every_float_tensor(tmp_path: Path, data: str) -> None:
    output, named = tmp_path / "m.engine", tmp_path / "kept.cache"
    options = BuildOptions(MODEL, output, data, calibration="minmax", calibration_cache=named, elsewhere="8.5.2")
    assert build_file(options).scales == "own"
    first, *lines = beside(output, ".cache").read_text().splitlines()
    assert first == "TRT-8502-EntropyCalibration2"  # trtexec reads no other
    assert named.read_text() == beside(output, ".cache").read_text()
    scales = {name: struct.unpack(">f", bytes.fromhex(scale))[0] for name, scale in (x.split(": ") for x in lines)}
    prepared = onnx.load(beside(output, ".onnx"))
    names = [name for node in prepared.graph.node for name in node.output]
    values = images(data) | Session(prepared, outputs=names).run(images(data))
    floats = {name: x for name, x in values.items() if x.dtype == np.float32}
    assert scales.keys() == floats.keys() and len(scales) > 100
    for name, x in floats.items():
        assert scales[name] == pytest.approx(np.abs(x).max() / 127, rel=1e-5), name
    assert {"--int8", "--fp16", "--calib=m.engine.cache"} <= set(script(output))
    again = build_file(BuildOptions(MODEL, output, calibration_cache=named, elsewhere="8.5.2"))
    assert again.scales == "cache" and beside(output, ".cache").read_text() == named.read_text()
    named.write_text(named.read_text().replace("EntropyCalibration2", "MinMaxCalibration"))
    with pytest.raises(UsageError, match="entropy calibrator only"):
        build_file(BuildOptions(MODEL, output, calibration_cache=named, elsewhere="8.5.2"))


@pytest.mark.slow
def test_explicit_models_compute_alike_for_every_version(tmp_path: Path, data: str) -> None:
    found, stored = {}, {}
    for version in ("8.6.1", "10.3.0", "11.4.0"):
        output = tmp_path / version / "m.engine"
        build_file(BuildOptions(MODEL, output, data, path="explicit", elsewhere=version))
        found[version] = logits(beside(output, ".onnx"), data)
        weights = onnx.load(beside(output, ".onnx")).graph.initializer
        stored[version] = {t.data_type for t in weights if len(t.dims) == 4}
    float_, half, int8 = (getattr(onnx.TensorProto, name) for name in ("FLOAT", "FLOAT16", "INT8"))
    assert stored["8.6.1"] == {float_}
    assert stored["10.3.0"] == stored["11.4.0"] == {int8}
    assert half not in stored["11.4.0"]
    np.testing.assert_allclose(found["8.6.1"], found["10.3.0"], atol=1e-5)
    top = np.abs(found["10.3.0"]).max()
    assert np.abs(found["11.4.0"] - found["10.3.0"]).max() <= 0.1 * top  # float16 between the integers
    assert (found["11.4.0"].argmax(1) == found["10.3.0"].argmax(1)).mean() >= 0.9


def test_options_of_the_command_reach_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "m.engine"
    options = "--precision fp16 --for 10.3.0 --strongly-typed --workspace 64 --version-compatible --hardware-compatible"
    shapes = "input:1x1x28x28,8x1x28x28,32x1x28x28"
    arguments = [*options.split(), "--shapes", shapes, "--timing-cache", "t.cache"]
    monkeypatch.setattr("sys.argv", ["hqp", "build", str(MODEL), *arguments, "-o", str(output), "--quiet"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    words = script(output)
    assert {"--stronglyTyped", "--memPoolSize=workspace:64", "--timingCacheFile=t.cache"} <= set(words)
    assert {"--versionCompatible", "--hardwareCompatibilityLevel=ampere+"} <= set(words)
    batches = dict(zip(("min", "opt", "max"), (1, 8, 32), strict=True))
    assert {f"--{name}Shapes=input:{n}x1x28x28" for name, n in batches.items()} <= set(words)
    assert "--fp16" not in words


def test_a_quantized_model_brings_its_scales(tmp_path: Path, data: str) -> None:
    int8 = tmp_path / "int8.onnx"
    quantize_file(MODEL, int8, data, "tensorrt", "entropy", None, silent)
    report = build_file(BuildOptions(int8, tmp_path / "m.engine", data, elsewhere="10.3.0"))
    assert (report.precision, report.path, report.scales) == ("int8", "explicit", "model")
    assert "the calibration data were not used" in report.notes
    np.testing.assert_allclose(logits(tmp_path / "m.engine.onnx", data), logits(int8, data), atol=1e-5)
    with pytest.raises(UsageError, match="INT8 already"):
        build_file(BuildOptions(int8, tmp_path / "m.engine", precision="fp16", elsewhere="10.3.0"))
    quantize_file(MODEL, int8, data, "onnxruntime", "entropy", None, silent)
    with pytest.raises(ModelError, match="--target tensorrt"):
        build_file(BuildOptions(int8, tmp_path / "m.engine", elsewhere="10.3.0"))


def test_a_dla_gets_one_shape_and_our_scales(tmp_path: Path, data: str) -> None:
    output = tmp_path / "m.engine"
    report = build_file(BuildOptions(MODEL, output, data, dla=1, shapes=("input:8x1x28x28",), elsewhere="10.3.0"))
    assert (report.path, report.scales) == ("implicit", "own")
    assert {"--useDLACore=1", "--allowGPUFallback", "--calib=m.engine.cache"} <= set(script(output))
    assert beside(output, ".cache").read_text().startswith("TRT-100300-EntropyCalibration2\n")


@pytest.mark.parametrize("wrong", [{"precision": "int4"}, {"path": "both"}, {"scales": "none"}, {"dla": -1}])
def test_values_that_no_option_has(wrong: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected"):
        BuildOptions(MODEL, tmp_path / "m.engine", **wrong)
