"""Targets: what each is, and targets of others, by an entry point and from a file."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import hqp
from small_model import small_data, small_model

from hqp_onnx.errors import MissingRuntimeError, UsageError
from hqp_onnx.runtimes.machine import saturates
from hqp_onnx.runtimes.runtime import OnnxRuntime, OpenVino
from hqp_onnx.runtimes.targets import TARGETS, target
from hqp_onnx.steps.doctor import examine


def test_number_formats() -> None:
    ort, trt = target("onnxruntime", reduced_range=False), target("tensorrt")
    assert (ort.activation_type, trt.activation_type) == (np.uint8, np.int8)
    assert (ort.int32_bias, trt.int32_bias) == (True, False)
    assert (ort.weight_limit, trt.weight_limit) == (127, 127)
    assert trt.channel_multiple == 32


def test_reduced_weights_cannot_saturate_int16() -> None:
    limit = target("onnxruntime", reduced_range=True).weight_limit
    assert 2 * 255 * limit <= np.iinfo(np.int16).max < 2 * 255 * (limit + 1)


def test_an_unknown_target_lists_those_that_exist() -> None:
    with pytest.raises(
        UsageError,
        match=r"'tpu'.*onnxruntime, openvino, litert, ethos-u55-256, qnn, rk3588, cuda, .*, or FILE",
    ):
        target("tpu")
    with pytest.raises(UsageError, match="'onnxruntime:cuda'"):
        target("onnxruntime:cuda")


def test_a_target_is_a_layout_and_a_runtime() -> None:
    assert target("onnxruntime").runtime == target("tensorrt").runtime == OnnxRuntime("CPUExecutionProvider")
    assert target("openvino").runtime == OpenVino()
    assert target("cuda").runtime == OnnxRuntime("CUDAExecutionProvider")
    assert [name for name in TARGETS.names if target(name).engines] == ["tensorrt", "tensorrt-rtx"]
    on_trt, on_xnnpack = (target(f"onnxruntime:{name}ExecutionProvider") for name in ("Tensorrt", "Xnnpack"))
    assert on_trt.symmetric and not on_xnnpack.symmetric
    runtime = OnnxRuntime("XnnpackExecutionProvider")
    assert on_xnnpack == replace(target("onnxruntime"), name=on_xnnpack.name, runtime=runtime)


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "flags : sse2 avx2 fma", True),
        ("AMD64", "flags : avx2 avx512f avx512_vnni", False),
        ("x86_64", "flags : avx2 avx_vnni", False),
        ("x86_64", None, True),
        ("aarch64", None, False),
        ("arm64", "Features : asimd", False),
    ],
)
def test_saturation_is_read_from_the_processor(machine: str, flags: str | None, expected: bool, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(flags)
    assert saturates(machine, cpuinfo) is expected


def test_only_unsigned_activations_saturate() -> None:
    assert target("onnxruntime").reduced_range is target("openvino").reduced_range is saturates()
    assert target("tensorrt").reduced_range is False


MINE = """
from dataclasses import dataclass, replace

from hqp_onnx.errors import MissingRuntimeError
from hqp_onnx.runtimes.session import Session
from hqp_onnx.runtimes.targets import target

chip = replace(
    target("onnxruntime", reduced_range=True),
    name="chip",
    symmetric=True,
    int32_bias=False,
    outputs=frozenset(),
    channel_multiple=4,
    stand_in="times are this machine's, and the chip's are others",
)


@dataclass(frozen=True)
class Simulator:
    version: str

    def open(self, model, outputs, threads, spin):
        return Session(model, outputs, threads=1)

    def describe(self):
        if not self.version:
            raise MissingRuntimeError("the simulator is not installed")
        return f"a simulator {self.version}"

    def remarks(self, precision):
        return (f"{precision} is simulated",)


def simulated():
    return replace(chip, name="simulated", runtime=Simulator("7"))


def missing():
    return replace(chip, runtime=Simulator(""))


def broken():
    raise RuntimeError("no such chip")


def nothing():
    return 3


number = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file of targets, also those of an installed package; a model, and data."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "package_of_targets.py").write_text(MINE)
    (tmp_path / "model.onnx").write_bytes(small_model().SerializeToString())
    np.savez(tmp_path / "data.npz", **small_data())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    points = {
        name: [EntryPoint(name, f"package_of_targets:{name}", TARGETS.group)]
        for name in ("chip", "simulated", "missing", "broken")
    }
    monkeypatch.setitem(TARGETS.__dict__, "_installed", points)
    return tmp_path


@pytest.mark.parametrize("prefix", ["", "mine.py:"])
def test_a_target_of_others_decides_layout_and_runtime(
    prefix: str, mine: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert target(f"{prefix}chip").channel_multiple == 4
    assert target(f"{prefix}chip").reduced_range is True and target(f"{prefix}chip", False).reduced_range is False
    types = {}
    for name in ("onnxruntime", f"{prefix}simulated"):
        words = ("--data", "data.npz", "--target", name, "-o", "int8.onnx")
        assert hqp(monkeypatch, "quantize", "model.onnx", *words) == 0
        stored = {t.name: t.data_type for t in onnx.load(mine / "int8.onnx").graph.initializer}
        types[name] = {kind for tensor, kind in stored.items() if tensor.endswith("zero_point")}
    kinds = onnx.TensorProto.UINT8, onnx.TensorProto.INT8, onnx.TensorProto.INT32  # of activations, weights, biases
    assert types == {"onnxruntime": {*kinds}, f"{prefix}simulated": {onnx.TensorProto.INT8}}
    assert "int8 is simulated" in capfd.readouterr().out
    words = ("evaluate", "int8.onnx", "--data", "data.npz", "--json", "found.json")
    assert hqp(monkeypatch, *words, "--target", f"{prefix}simulated") == 0
    assert json.loads((mine / "found.json").read_text())["runtime"] == "a simulator 7"
    data = ("--calib", "data.npz", "--val", "data.npz", "-o", "out", "--saliency", "l2", "--no-compensate")
    words = ("--precision", "int8", "--max-drop", "1", "--step", "0.5", "--target", f"{prefix}chip", "--quiet")
    assert hqp(monkeypatch, "optimize", "model.onnx", *data, *words) == 0
    report = json.loads((mine / "out" / "report.json").read_text())
    assert "times are this machine's, and the chip's are others" in report["notes"]
    settings = json.loads((mine / "out" / "ledger.jsonl").read_text().partition("\n")[0])["settings"]
    assert settings["multiple_of"] == 4 and settings["target"] == f"{prefix}chip"
    assert ("target_file" in settings) is (prefix != "")


def test_what_is_no_target_is_one_line(mine: Path) -> None:
    for name, words in (
        ("broken", "target 'broken' fails: RuntimeError: no such chip"),
        ("mine.py:broken", "fails: RuntimeError: no such chip"),
        ("mine.py:nothing", "target 'mine.py:nothing' gives an int: expected a Target"),
        ("mine.py:number", "'mine.py:number' is no target: it is an int"),
        ("mine.py:none", "no function 'none'"),
    ):
        with pytest.raises(UsageError, match=words):
            target(name)
    with pytest.raises(MissingRuntimeError, match="the simulator is not installed"):
        target("missing").runtime.describe()


@pytest.mark.usefixtures("mine")
def test_doctor_looks_at_the_targets_of_others() -> None:
    states = {state.name: state for state in examine().targets}
    assert [name for name in states if not name.startswith("onnxruntime:")] == [  # but for plug-ins that are installed
        "onnxruntime",
        "openvino",
        "litert",
        "ethos-u55-256",
        "qnn",
        "rk3588",
        "cuda",
        "tensorrt",
        "tensorrt-rtx",
        "chip",
        "simulated",
        "missing",
        "broken",
    ]
    assert states["simulated"].ready and states["simulated"].runtime == "a simulator 7"
    assert not states["missing"].ready and states["missing"].needs == "the simulator is not installed"
    assert not states["broken"].ready and "no such chip" in states["broken"].needs
