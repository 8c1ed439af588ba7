"""Rockchip's toolkit, by one that is played: what is asked of it, and what becomes of its failures; the real one
where it is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner
from small_model import small_data, small_model

import hqp_onnx
from hqp_onnx.cli import environment as commands
from hqp_onnx.errors import MissingRuntimeError, ModelError, UsageError
from hqp_onnx.evaluation.latency import measure
from hqp_onnx.model import calibrated, open_data, open_model
from hqp_onnx.runtimes.rockchip import install as installation
from hqp_onnx.runtimes.rockchip.runtime import CHIPS, Samples, stated
from hqp_onnx.runtimes.rockchip.table import Row, notes_of, rows_of
from hqp_onnx.runtimes.runners import open_runner
from hqp_onnx.runtimes.session import Session
from hqp_onnx.runtimes.targets import target

# A toolkit that computes by onnxruntime, imports torch as the real one does, and fails as it is told to.
_PLAYED = """
import os, signal, sys
import torch
from torch.nn import Module
import numpy as np
import onnx
import onnxruntime

@torch.no_grad()
def unchanged(x):
    return x

class Layer(Module):
    pass

def fault(kind):
    return os.environ.get("PLAYED_FAULT") == kind

class RKNN:
    def __init__(self, verbose):
        assert verbose
    def config(self, target_platform):
        self.chip = target_platform
    def load_onnx(self, model):
        self.session, self.graph = onnxruntime.InferenceSession(model), onnx.load(model).graph
        assert all(isinstance(size, int) for x in self.session.get_inputs() for size in x.shape)
    def build(self, do_quantization, dataset=None):
        assert do_quantization is (dataset is not None)
        if dataset is not None:
            assert not any(node.op_type.endswith("QuantizeLinear") for node in self.graph.node)
            files = [os.path.join(os.path.dirname(dataset), line.strip()) for line in open(dataset)]
            shape, samples = tuple(self.session.get_inputs()[0].shape), [np.load(file) for file in files]
            assert {x.shape for x in samples} == {shape}
            print(f"E build: {sum(len(x) for x in samples)} samples", flush=True)
        if fault("crash"):
            os.kill(os.getpid(), signal.SIGILL)
        if fault("torch"):
            assert torch.arange(3) == [0, 1, 2] and "real" in torch.nn.kinds
        if fault("refusal"):
            red = "\\033[1;31m"
            print(f"{red}E\\033[0m {red}build: Unsupport CPU op: Det in this librknnrt.so\\033[0m", flush=True)
            return -1
        print("D RKNN: [19:04:53.010] 1    ConvRelu           INT8     NPU    (1,8),(2)         "
              "(1,8)                 834/1872/1872            13           Conv:r1")
        print("D RKNN: [19:04:53.010] 2    Reshape            INT8     CPU    (1,10,1,1),(2)    "
              "(1,10)                0/0/0                    0            Reshape:flat")
    def export_rknn(self, path):
        open(path, "w").write(f"for {self.chip}")
    def init_runtime(self):
        return 0
    def inference(self, inputs, data_format):
        assert data_format == ["nchw"] * len(inputs)
        names = [x.name for x in self.session.get_inputs()]
        found = self.session.run(None, dict(zip(names, inputs)))
        return [unchanged(-x if fault("wrong") else x) for x in found]
"""
real = pytest.mark.skipif(installation.find() is None, reason="rknn-toolkit2 is not installed")


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "environment"
    packages = place / "lib" / "python3" / "site-packages"
    (packages / "rknn" / "api").mkdir(parents=True)
    (packages / "rknn_toolkit2-2.5.0.dist-info").mkdir()
    (packages / "rknn" / "__init__.py").touch()
    (packages / "rknn" / "api" / "__init__.py").write_text(_PLAYED)
    (packages / "torch").mkdir()
    (packages / "torch" / "__init__.py").write_text("def arange(count):\n    return list(range(count))\n")
    (packages / "torch" / "nn.py").write_text("kinds = 'real'\n")
    python = place / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nshift\nPYTHONPATH="{packages}" exec "{sys.executable}" "$@"\n')  # without -I
    python.chmod(0o755)
    monkeypatch.setenv("HQP_RKNN", str(place))
    return place


@pytest.fixture(scope="module")
def int8() -> onnx.ModelProto:
    return hqp_onnx.quantize(small_model(), data=small_data(), target="rk3588")


def exact(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return Session(model, integer_kernels=False).run({"input": x})["logits"]


def test_any_number_of_samples_is_simulated_some_at_a_time(played: Path, int8: onnx.ModelProto) -> None:
    x = small_data(20)["input"]
    runner = open_runner(int8, target("rk3588"))
    np.testing.assert_allclose(runner.run({"input": x})["logits"], exact(int8, x), atol=1e-6)
    np.testing.assert_allclose(runner.run({"input": x[:3]})["logits"], exact(int8, x[:3]), atol=1e-6)
    inner = open_runner(int8, target("rk3588"), ["r1", "logits"]).run({"input": x[:2]})
    assert {name: value.shape for name, value in inner.items()} == {"r1": (2, 16, 8, 8), "logits": (2, 4)}
    found = measure({"int8": runner, "float": open_runner(small_model(), target("rk3588"))}, {"input": x[:1]}, 0.1)
    assert 0 < found["int8"].median_ms < 50  # onnxruntime's


def test_a_file_is_for_one_sample_and_the_chip_that_is_named(played: Path, int8: onnx.ModelProto) -> None:
    runtime = target("rv1106").runtime
    assert runtime.compile(int8, small_data(4)) == b"for rv1106"
    assert runtime.notes(int8, small_data(4)) == (
        "quantized by the pairs of the .onnx",
        "at least 1872 cycles of the NPU, as its compiler estimates",
        "left to the CPU of the chip: 1 Reshape ('flat')",
    )
    assert runtime.placed(int8, small_data(4)) == (2, (("flat", "Reshape", "its compiler gives no reason"),))
    fixed = onnx.ModelProto.FromString(stated(int8, {"input": small_data(1)["input"]}, {"logits": np.zeros((1, 4))}))
    assert [d.dim_value for d in fixed.graph.input[0].type.tensor_type.shape.dim] == [1, 1, 8, 8]


def test_the_toolkit_quantizes_by_the_samples_that_it_is_given(played: Path, int8: onnx.ModelProto) -> None:
    data = small_data(40)
    place = calibrated(target("rk3588"), open_data(open_model(small_model()), data))
    got = open_runner(int8, place).run({"input": data["input"]})["logits"]
    floats = exact(small_model(), data["input"])  # but for the weights
    assert np.abs(got - floats).max() < np.abs(exact(int8, data["input"]) - floats).max()
    assert place.runtime.compile(int8, data) == b"for rk3588"
    assert place.runtime.notes(int8, data)[0] == "quantized by the toolkit, of the calibration data"
    assert calibrated(target("litert"), None) == target("litert")
    samples = Samples({"x": np.arange(5), "shared": np.array(7)})
    assert [run[0].tolist() for run in samples.runs({"x": (2,), "shared": ()})] == [[0, 1], [2, 3]]
    assert samples.runs({"x": (7,)})[0][0].tolist() == [0, 1, 2, 3, 4, 0, 1]


def test_torch_is_there_once_it_is_used(played: Path, int8: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYED_FAULT", "torch")
    assert target("rk3588").runtime.compile(int8, small_data(5)) == b"for rk3588"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("crash", r"^rknn-toolkit2 crashed, signal 4, on this model for rk3588: it gave no reason$"),
        ("refusal", r"^rknn-toolkit2 cannot take the model for rk3588: Unsupport CPU op: Det in this librknnrt\.so$"),
        ("wrong", r"computes something else than onnxruntime: output 'logits' has -6\.0 dB"),
    ],
)
def test_a_failure_is_one_line(
    fault: str, words: str, played: Path, int8: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAYED_FAULT", fault)
    runner = open_runner(int8, target("rk3588"))
    with pytest.raises(ModelError, match=words):
        runner.run({"input": small_data(2)["input"]})
    x = small_data(2)["input"]
    float_model = open_runner(small_model(), target("rk3588"))  # which the simulator has no part in
    np.testing.assert_allclose(float_model.run({"input": x})["logits"], exact(small_model(), x), atol=1e-5)


def test_cycles_are_a_lower_bound() -> None:
    log = (
        "D RKNN: [1:2:3.0] 0    InputOperator      INT8     NPU  \\  (1,1,28,28)  0/0/0  0  InputOperator:x\n"
        "D RKNN: [1:2:3.0] 1    Conv               INT8     NPU  (1,1),(1)  (1,1,28,28)  571/3136/3136   0\n"
        "D RKNN: [1:2:3.0] 2    Add                INT8     NPU  (1,1),(1)  (1,1,28,28)  0/0/0  12  Add:/Sub_2add\n"
        "D RKNN: [1:2:3.0] 3    ConvAddRelu        INT8     NPU  (1,1),...  (1,48,7,7)  535/512/535  10  Conv:a/b:0\n"
        "D RKNN: [1:2:3.0] 4    Conv               INT8     NPU  (1,1),(1)  (1,10)  71/64/71    0%    0    Conv:last\n"
        "D RKNN: [1:2:3.0] 5    InputOperator      INT8     CPU  \\  (1,1,8,8)  0/0/0          0   InputOperator:y\n"
        "D RKNN: [1:2:3.0] 1   Conv   input   INT8  NC1HWC2  (1,1,28,28)  (1,1,28,28,1)  | 0x000 0x380 0x380\n"
    )
    rows = rows_of(log)
    assert rows == (
        Row("Conv", "", "NPU", 3136),
        Row("Add", "/Sub_2add", "NPU", 0),
        Row("ConvAddRelu", "a/b:0", "NPU", 535),
        Row("Conv", "last", "NPU", 71),
    )
    assert notes_of(rows, "rk3588") == (
        "at least 3742 cycles of the NPU, as its compiler estimates, those of 1 Add not counted",
    )
    assert notes_of((), "rv1106") == ("the compiler says no cycles for rv1106",)


def test_names_of_chips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HQP_RKNN", str(tmp_path))
    assert {target(chip).channel_multiple for chip in CHIPS} == {16}
    with pytest.raises(UsageError, match=r"rk3588, .*rv1106"):
        target("rk3399")
    with pytest.raises(MissingRuntimeError, match="run `hqp setup rknn`"):
        open_runner(small_model(), target("rk3566"))


def test_it_is_installed_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place, asked, fails = tmp_path / "rknn", list[list[str]](), [True]

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        (place / "bin").mkdir(parents=True, exist_ok=True)
        if "rknn-toolkit2==2.5.0" in command:
            (place / "bin" / "python").touch()
            (place / "lib/python3.11/site-packages/rknn_toolkit2-2.5.0.dist-info").mkdir(parents=True)
            return subprocess.CompletedProcess(command, fails[0], "", "ERROR: No matching distribution\nsee above\n")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("HQP_RKNN", str(place))
    monkeypatch.setattr(installation.subprocess, "run", run)
    monkeypatch.setattr(installation, "_MACHINES", (installation.platform.machine(),))
    monkeypatch.setattr(installation, "_PYTHONS", (sys.version_info[:2], sys.version_info[:2]))
    with pytest.raises(MissingRuntimeError, match=r"cannot be installed on this machine: ERROR: No matching"):
        installation.install()
    assert not place.exists()
    fails[0] = False
    done = CliRunner().invoke(commands.setup, ["rknn"])
    assert (done.exit_code, installation.find()) == (0, place / "bin" / "python")
    assert all("--no-deps" in command for command in asked if "pip" in command)
    torches = [argument for command in asked for argument in command if argument.startswith("torch")]
    assert set(torches) == {"torch==2.13.0+cpu"}
    count = len(asked)
    installation.install()
    assert len(asked) == count
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(MissingRuntimeError, match="holds something else"):
        installation.install(tmp_path / "other")
    monkeypatch.setattr(installation, "_PYTHONS", ((3, 6), (3, 7)))
    with pytest.raises(MissingRuntimeError, match=r"has no wheel for Python .* expected 3\.6 to 3\.7 on Linux"):
        installation.install(tmp_path / "new")


@real
def test_the_simulator_gives_what_onnxruntime_gives(int8: onnx.ModelProto) -> None:
    x = small_data()["input"]
    got = open_runner(int8, target("rk3588")).run({"input": x})["logits"]
    wanted = exact(int8, x)
    assert np.abs(got - wanted).max() < 0.1 * np.abs(wanted).max()
    (by, cycles, *_) = target("rk3588").runtime.notes(int8, {"input": x})
    assert (by, cycles[:9]) == ("quantized by the pairs of the .onnx", "at least ")
