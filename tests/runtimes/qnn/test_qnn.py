"""Qualcomm HTP: the contract with a stand-in for onnxruntime-qnn, and the provider itself where it is installed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import fake_qnn
import numpy as np
import onnx
import pytest
from command import hqp
from small_model import small_data, small_model

import hqp_onnx
from hqp_onnx.errors import MissingRuntimeError, ModelError, UsageError
from hqp_onnx.job.results import Report
from hqp_onnx.report.reading import read_report
from hqp_onnx.report.words import result
from hqp_onnx.runtimes.qnn import context
from hqp_onnx.runtimes.qnn.chips import Chip, chip_of
from hqp_onnx.runtimes.runners import open_runner
from hqp_onnx.runtimes.targets import target
from hqp_onnx.steps.doctor import examine

FEEDS = {"input": small_data()["input"]}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    here = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(context, "_MODULE", fake_qnn.__name__)
    for module in (context, "hqp_onnx.runtimes.qnn.runtime"):
        name = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{name}.qnn_version", lambda: "0")
    context._compiled.cache_clear()


@pytest.fixture(scope="module")
def int8() -> onnx.ModelProto:
    """Laid out for the HTP; that takes no provider."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hqp_onnx.runtimes.qnn.runtime.qnn_version", lambda: "0")
        return hqp_onnx.quantize(small_model(), data=small_data(), target="qnn")


def test_names_of_chips() -> None:
    assert chip_of("qnn") == chip_of("qnn-v75") == Chip("75", "57")
    assert chip_of("qnn-v73") == Chip("73", "43") and chip_of("qnn-v73:60") == Chip("73", "60")
    assert target("qnn-v79").channel_multiple == 32  # not among the registered ones
    for name in ("qnn-v74", "qnn-75", "qnn:v75", "qnn-v73:", "qnn-v73:60:1"):
        with pytest.raises(UsageError, match=r"' is no HTP: expected qnn or one of qnn-v68, |'qnn:v75'"):
            target(name)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(context, "find_spec", lambda name: None)
    with pytest.raises(MissingRuntimeError, match=r"onnxruntime-qnn is not installed: pip install 'hqp-onnx\[qnn\]'"):
        open_runner(small_model(), target("qnn"))
    state = next(state for state in examine().targets if state.name == "qnn")
    assert not state.ready and "onnxruntime-qnn is not installed" in state.needs


def test_every_product_has_pairs_around_it(int8: onnx.ModelProto) -> None:
    """The provider's rule for integers: all that a node reads is dequantized, and what it gives is quantized."""
    made = {name: node.op_type for node in int8.graph.node for name in node.output}
    for node in int8.graph.node:
        if node.op_type in ("Conv", "Gemm", "Add", "GlobalAveragePool"):
            assert all(made[name] == "DequantizeLinear" for name in node.input)
            readers = [other for other in int8.graph.node if node.output[0] in other.input]
            while [other.op_type for other in readers] == ["Relu"]:
                readers = [other for other in int8.graph.node if readers[0].output[0] in other.input]
            assert [other.op_type for other in readers] == ["QuantizeLinear"]
    zeros = {node.input[2] for node in int8.graph.node if node.op_type == "QuantizeLinear"}
    kinds = {tensor.name: tensor.data_type for tensor in int8.graph.initializer}
    assert {kinds[name] for name in zeros} == {onnx.TensorProto.UINT8}


@pytest.mark.usefixtures("fake")
def test_a_context_is_emulated_and_tells_what_is_left(int8: onnx.ModelProto, tmp_path: Path) -> None:
    htp = target("qnn").runtime
    (tmp_path / "a.ctx.onnx").write_bytes(htp.compile(int8, FEEDS))
    runner = open_runner(tmp_path / "a.ctx.onnx", target("qnn"))
    assert open_runner(onnx.load(tmp_path / "a.ctx.onnx"), target("qnn")).batch == 1  # as other processes get it
    assert runner.batch == 1 and runner.inputs[0].shape == (1, 1, 8, 8)
    gave = [runner.run({"input": one[None]})["logits"] for one in FEEDS["input"][:3]]
    wanted = open_runner(int8, target("qnn")).run(FEEDS)["logits"][:3]
    np.testing.assert_allclose(np.concatenate(gave), wanted, atol=0.02 * np.abs(wanted).max())
    share, left = htp.notes(int8, FEEDS)
    count = len(int8.graph.node)
    assert share == f"{count - 1} of {count} nodes are in the context for HTP v75, soc_model 57"
    gemm = next(node.name for node in int8.graph.node if node.op_type == "Gemm")
    assert left == f"left to the CPU in the middle of the model: Gemm '{gemm}' (Failed to add node.)"


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("soc", "words"),
    [
        (fake_qnn.NOTHING, "QNN takes no node of the model for HTP v75, soc_model 404: it would run on the CPU"),
        (fake_qnn.CRASHES, "QNN ended by signal 11.*, for HTP v75, soc_model 139"),
        (fake_qnn.WRONG, "the context for HTP v75, soc_model 500 computes something else than onnxruntime: .* dB"),
    ],
)
def test_what_cannot_be_shipped_is_one_line(int8: onnx.ModelProto, soc: str, words: str) -> None:
    with pytest.raises(ModelError, match=words) as e:
        target(f"qnn-v75:{soc}").runtime.compile(int8, FEEDS)
    assert "\n" not in str(e.value)


@pytest.mark.usefixtures("fake")
def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hqp_onnx.job.rows.SECONDS", 0.1)
    Path("model.onnx").write_bytes(small_model().SerializeToString())
    np.savez("data.npz", **small_data())
    data = ("--calib", "data.npz", "--val", "data.npz", "-o", "out")
    job = ("--max-drop", "0.5", "--no-compensate", "--quiet")
    assert hqp(monkeypatch, "optimize", "model.onnx", *data, *job, "--target", "qnn") == 0
    said, report = "".join(capfd.readouterr()), read_report(Path("out"))
    _speaks_of_no_time(report, said)
    shipped = Path("out", Path(report.shipped).name)
    assert shipped.name == "int8.ctx.onnx" and report.rows[report.ships].bytes == shipped.stat().st_size
    assert any(note.startswith("int8.ctx.onnx: emulated on the first 24 of 24 samples") for note in report.notes)
    assert "register_execution_provider_library" in Path("out/report.html").read_text()
    assert hqp(monkeypatch, "evaluate", shipped, "--target", "qnn", "--data", "data.npz", "--json", "a.json") == 0
    assert json.loads(Path("a.json").read_text())["value"] == pytest.approx(report.rows[report.ships].metric, abs=0.1)
    assert hqp(monkeypatch, "compare", "out/int8.onnx", f"{shipped}@qnn", "--data", "data.npz") == 0
    for words in (
        ("benchmark", "out/int8.onnx", "--target", "qnn"),
        ("check", "out", "--min-speedup", "1"),
        ("optimize", "model.onnx", *data, "--target", "qnn", "--pareto", "--force"),
        ("optimize", "model.onnx", *data, "--target", "qnn", "--speedup", "2", "--force"),
    ):
        assert hqp(monkeypatch, *words) == 2
    assert hqp(monkeypatch, "inspect", "out/int8.onnx", "--target", "qnn", "--json", "b.json") == 0
    assert [one["op"] for one in json.loads(Path("b.json").read_text())["refused"]] == ["Gemm"]
    assert hqp(monkeypatch, "export", "out", "--format", "qnn-v73", "-o", "b.onnx") == 0
    assert context.is_context(Path("b.onnx")) and not context.is_context(Path("model.onnx"))


def _speaks_of_no_time(report: Report, said: str) -> None:
    assert report.counted and "multiply-accumulates" in result(report) and "times as fast" not in said
    assert not {"latency ms", "speedup"} & set(report.table.head)
    assert "ms" not in Path("out/report.html").read_text().split("Latency")[0].split()
    assert "the fewest multiply-accumulates of" in report.why
    rows = [row for name, row in report.rows.items() if name in report.files]
    assert report.rows[report.ships].macs == min(row.macs for row in rows)


def test_the_provider_itself(int8: onnx.ModelProto) -> None:
    pytest.importorskip("onnxruntime_qnn")
    htp = target("qnn-v73").runtime
    assert htp.compile(int8, FEEDS)
    notes = htp.notes(int8, FEEDS)
    assert len(notes) == 1 and "for HTP v73, soc_model 43; " in notes[0]
