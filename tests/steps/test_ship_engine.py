"""``hqp optimize --build`` with a stand-in for TensorRT: its engine is the model that it parsed, in onnxruntime."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from small_model import small_data, small_model
from steady import steady

from hqp_onnx import cli
from hqp_onnx.engine import Capability, Device, EngineLatency, acceptance
from hqp_onnx.engine.library import TENSORRT, TENSORRT_RTX, Library
from hqp_onnx.engine.plan import Plan
from hqp_onnx.errors import MissingRuntimeError, UsageError
from hqp_onnx.job.options import Options
from hqp_onnx.runtimes.session import Session
from hqp_onnx.steps import build
from hqp_onnx.steps import ship_engine as parity
from hqp_onnx.steps.optimize import budget_error, optimize

ORIN, NANO = Device("Orin", (8, 7)), Device("Nano", (5, 3))


class FakeEngine(Session):
    """The stored model; ``sign`` -1 makes an engine that answers wrongly."""

    sign = 1.0

    def __init__(self, path: Path) -> None:
        super().__init__(path.read_bytes())

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: self.sign * value for name, value in super().run(feeds).items()}


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """TensorRT 10.3 on an Orin; the plans of the engines that were built."""
    found: list[Plan] = []

    def fake_build(model: Path, plan: Plan, settings: Any, source: Any, able: Capability) -> SimpleNamespace:
        assert source is None
        assert {name: profile.high for name, profile in settings.shapes.items()} == {"input": (1, 1, 8, 8)}
        found.append(plan)
        return SimpleNamespace(plan=model.read_bytes(), layers=[], weights_bytes=None)

    for module in (build, parity):
        monkeypatch.setattr(module, "detect", lambda library: replace(Capability.of_version("10.3.0"), device=ORIN))
    monkeypatch.setattr(acceptance, "present", lambda target: None)
    monkeypatch.setattr(build.builder, "build", fake_build)
    monkeypatch.setattr(parity, "EngineSession", FakeEngine)
    monkeypatch.setattr(parity, "measure", lambda path: EngineLatency(1, 50, 0.25, 0.5))
    return found


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    steady(monkeypatch)
    onnx.save(small_model(), tmp_path / "small.onnx")
    data = small_data(96)["input"]
    for part, rows in (("calib", data[:32]), ("val", data[32:64]), ("test", data[64:])):
        np.savez(tmp_path / f"{part}.npz", input=rows)
    calib, val, test = (str(tmp_path / f"{part}.npz") for part in ("calib", "val", "test"))
    job = Options(
        tmp_path / "small.onnx",
        calib,
        val,
        tmp_path / "out",
        test=test,
        metric="agreement",
        objective="sparsity",
        saliency="fisher",
    )
    chosen = {"precision": "int8", "target": "tensorrt", "multiple_of": 1, "saliency": "l2", "compensate": False}
    return replace(job, max_drop=0.2, step=0.1, build=True, **chosen)


def agreement(options: Options, model: Path, data: str) -> float:
    images = {"input": np.load(data)["input"]}
    want, found = (Session(path.read_bytes()).run(images)["logits"].argmax(1) for path in (options.model, model))
    return float((want == found).mean())


def test_an_engine_inside_the_budget_ships(options: Options, plans: list[Plan]) -> None:
    report = optimize(options)
    out, row = options.output, report.engine
    assert report.budget_met and report.shipped == str(out / "model.engine")
    assert row is not None and row.admitted and options.test is not None
    assert [plan.scales for plan in plans] == ["model"]
    assert row.metric == agreement(options, out / "int8.onnx", options.test)
    assert row.val_metric == agreement(options, out / "int8.onnx", options.val)
    assert row.val_drop == pytest.approx(1 - row.val_metric)
    assert row.bytes == (out / "model.engine").stat().st_size
    assert (row.latency_ms, row.latency_p99_ms, row.batch) == (0.25, 0.5, 1)
    assert (row.macs, row.sparsity) == (report.rows["hqp"].macs, report.rows["hqp"].sparsity)
    written = json.loads((out / "report.json").read_text())
    assert written["engine"] == vars(row)
    assert written["shipped"] == report.shipped and "engine" in written["seconds"]
    assert sum(written["budget_spent"].values()) == pytest.approx(options.max_drop)
    assert json.loads((out / "model.engine.json").read_text())["engine"] == "model.engine"
    files = (out / "int8.onnx").read_bytes()
    again = optimize(replace(options, build=False, resume=True))  # not a setting that decides the search
    assert again.engine is None and again.shipped == str(out / "int8.onnx")
    assert (out / "int8.onnx").read_bytes() == files
    assert not (out / "model.engine").exists()


def test_an_engine_outside_the_budget_does_not(
    options: Options, plans: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEngine, "sign", -1.0)
    report = optimize(options)
    assert report.engine is not None and not report.engine.admitted
    assert report.engine.val_drop > options.max_drop >= report.rows["hqp"].val_drop
    assert not report.budget_met and report.shipped == str(options.output / "int8.onnx")
    assert report.budget_spent["left"] == pytest.approx(options.max_drop - report.rows["hqp"].val_drop)
    assert any("outside the budget, so " in note for note in report.notes)
    assert not (options.output / "model.engine").exists()
    assert (options.output / ".cache" / "model.engine").is_file()
    error = budget_error(report)
    assert error.exit_code == 3
    assert "int8.onnx" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_float_engines_are_built_from_float32(options: Options, plans: list[Plan], precision: str) -> None:
    report = optimize(replace(options, precision=precision))
    assert [(plan.precision, plan.path) for plan in plans] == [(precision, None)]
    weights = onnx.load(options.output / "model.engine", format="protobuf").graph.initializer
    assert onnx.TensorProto.FLOAT in {tensor.data_type for tensor in weights}
    assert onnx.TensorProto.FLOAT16 not in {tensor.data_type for tensor in weights}
    assert report.engine is not None and report.budget_met


def test_fp16_is_a_candidate_of_its_own(options: Options) -> None:
    report = optimize(replace(options, precision="fp16", target="onnxruntime", build=False))
    file = options.output / "fp16.onnx"
    assert report.shipped == str(file) and report.budget_met
    assert list(report.rows) == ["baseline", "pruned", "hqp"]
    kinds = {tensor.data_type for tensor in onnx.load(file).graph.initializer if len(tensor.dims) > 1}
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert options.test is not None
    assert report.rows["hqp"].metric == agreement(options, file, options.test)
    assert [trial for trial in report.trials if trial.precision == "fp16" and trial.accepted]
    assert any("no faster" in note for note in report.notes)


@pytest.mark.engines
@pytest.mark.skipif(not TENSORRT_RTX.installed, reason="TensorRT for RTX is not installed")
@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt-rtx", "tensorrt"])
def test_the_tensorrt_that_is_installed_builds_an_engine(options: Options, target: str) -> None:
    report = optimize(replace(options, precision="mixed", target=target, build=None))
    out = Path(options.output)
    assert (out / "model.engine").read_bytes()[:4] == b"vtrt"
    built = json.loads((out / "model.engine.json").read_text())
    assert (built["library"], built["precision"], built["built"]) == ("TensorRT for RTX", "fp16", True)
    assert report.shipped.endswith(".onnx") and report.budget_met
    (note,) = (note for note in report.notes if note.startswith("model.engine"))
    assert "neither judged nor timed here" in note
    precisions = {trial.precision for trial in report.trials}
    assert ("fp16" in precisions) == (target == "tensorrt-rtx") and ("int8" in precisions) == (target != "tensorrt-rtx")
    assert optimize(replace(options, precision="mixed", target=target, build=False, resume=True)).notes != report.notes
    assert not (out / "model.engine").exists()


def test_an_engine_that_nobody_asked_for_may_fail(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(library: Library) -> Capability:
        raise MissingRuntimeError("no usable GPU")

    monkeypatch.setattr(parity, "installed", lambda: TENSORRT)
    monkeypatch.setattr(parity, "detect", refuses)
    report = optimize(replace(options, target="onnxruntime", build=None))
    assert "no engine by TensorRT: no usable GPU" in report.notes and report.budget_met
    assert not (Path(options.output) / "model.engine").exists()


def test_what_no_engine_can_be_built_for_ends_before_any_work(
    options: Options, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--calib", options.calib, "--val", options.val, "--target", "tensorrt", "--build"]
    monkeypatch.setattr("sys.argv", ["hqp", "optimize", str(options.model), *words, "-o", str(options.output)])
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capfd.readouterr().err.strip()
    assert ended.value.code == 2
    assert error.startswith("error: TensorRT's Python bindings") and "\n" not in error
    monkeypatch.setattr(build, "detect", lambda library: replace(Capability.of_version("10.3.0"), device=NANO))
    with pytest.raises(UsageError, match="has no INT8"):
        optimize(options)
    assert not options.output.exists()
