"""Files for other tools: read back by onnxruntime's own reader; byte for byte as the schema of its table demands."""

from __future__ import annotations

import json
from pathlib import Path

import flatbuffers
import numpy as np
import onnx
import pytest
from command import hqp
from conftest import MODELS
from onnxruntime.quantization.CalTableFlatBuffers.TrtTable import TrtTable
from oracle import run
from small_model import small_data, small_model

from hqp_onnx.errors import UsageError
from hqp_onnx.quantization.calibration_export import onnxruntime_table, tensorrt_number, write_calibration
from hqp_onnx.statistics.calibration import Calibration, Range
from hqp_onnx.statistics.histogram import Histogram
from hqp_onnx.statistics.thresholds import method

RANGES = {"b:0": Range(-1.5, 2.25, 1.25), "a": Range(0.0, 6.0, 5.75), "ü": Range(-3.0, 0.1, 0.125)}
CALIBRATION = Calibration(RANGES, "entropy")
MODEL = MODELS / "resnet18.onnx"


def read(table: bytes) -> dict[str, float]:
    found = TrtTable.GetRootAsTrtTable(table, 0)
    entries = [found.Dict(i) for i in range(found.DictLength())]
    return {entry.Key().decode(): float(entry.Value()) for entry in entries}


def test_onnxruntime_reads_the_table() -> None:
    assert read(onnxruntime_table(CALIBRATION)) == {name: r.threshold for name, r in RANGES.items()}


def by_hand(limits: dict[str, float]) -> bytes:
    """``table KeyValue { key: string; value: string; }  table TrtTable { dict: [KeyValue]; }``, in order of names."""
    builder = flatbuffers.Builder(1024)
    entries = []
    for name, limit in sorted(limits.items()):
        strings = [builder.CreateString(name), builder.CreateString(str(limit))]
        builder.StartObject(2)
        for slot, string in enumerate(strings):
            builder.PrependUOffsetTRelativeSlot(slot, string, 0)
        entries.append(builder.EndObject())
    builder.StartVector(4, len(entries), 4)
    for entry in entries:
        builder.PrependUOffsetTRelative(entry)
    items = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, items, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def test_the_table_is_a_flatbuffer_of_the_thresholds() -> None:
    assert onnxruntime_table(CALIBRATION) == by_hand({name: r.threshold for name, r in RANGES.items()})
    tenth = Calibration({"x": Range(-0.05, 0.1, 0.1)}, "mse")  # no float32
    assert onnxruntime_table(tenth) == by_hand({"x": float(np.float32(0.1))})


def test_all_files(tmp_path: Path) -> None:
    write_calibration(CALIBRATION, tmp_path / "new" / "folder", "8.6.3")
    folder = tmp_path / "new" / "folder"
    assert sorted(p.name for p in folder.iterdir()) == [
        "calibration.json",
        "onnxruntime.flatbuffers",
        "tensorrt.cache",
    ]
    assert Calibration.from_json((folder / "calibration.json").read_text()) == CALIBRATION
    lines = (folder / "tensorrt.cache").read_text().splitlines()
    assert lines[0] == "TRT-8603-EntropyCalibration2"
    scales = dict(line.rsplit(": ", 1) for line in lines[1:])
    assert np.frombuffer(bytes.fromhex(scales["b:0"]), ">f4")[0] == np.float32(1.25 / 127)
    assert read((folder / "onnxruntime.flatbuffers").read_bytes()).keys() == RANGES.keys()


@pytest.mark.parametrize(("version", "number"), [("8.6.3", "8603"), ("10.3.0", "100300"), ("10.16.1", "101601")])
def test_version_numbers(version: str, number: str) -> None:
    assert tensorrt_number(version) == number


@pytest.mark.parametrize("version", ["8603", "8.6", "10.x.0", ""])
def test_what_is_no_version(version: str) -> None:
    with pytest.raises(UsageError, match=r"expected three numbers, as 10\.3\.0"):
        tensorrt_number(version)


def test_quantize_writes_the_ranges_of_its_scales(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    few, int8, folder = tmp_path / "few.npz", tmp_path / "int8.onnx", tmp_path / "ranges"
    with np.load(MODELS / "fashion_mnist_calib.npz") as data:
        np.savez(few, input=data["input"][:32])
    arguments = ("--data", str(few), "--target", "tensorrt", "--calibration-out", str(folder), "-o", str(int8))
    assert hqp(monkeypatch, "quantize", str(MODEL), *arguments) == 0
    assert "TensorsData" not in "".join(capfd.readouterr())  # onnxruntime's tool talks
    ranges = json.loads((folder / "calibration.json").read_text())["ranges"]
    model = onnx.load(int8)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    scales = {n.input[0]: float(stored[n.input[1]]) for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert scales.keys() == ranges.keys()
    assert all(scales[name] == pytest.approx(ranges[name]["threshold"] / 127, rel=1e-6) for name in scales)
    table = read((folder / "onnxruntime.flatbuffers").read_bytes())
    assert table == {name: found["threshold"] for name, found in ranges.items()}


def test_ranges_for_other_tools_are_those_of_the_model_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, arrays = small_model(), small_data()
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor).copy()
        if tensor.name in ("g2", "b2"):  # three channels of r2, 200 times as large
            values[:3] *= 200
        if tensor.name == "w3":
            values[:, :3] /= 200
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "uneven.onnx")
    np.savez(tmp_path / "data.npz", **arrays)
    data = ("--data", str(tmp_path / "data.npz"))
    scales = {}
    for name, more in (("own", ("--calibration-out", str(tmp_path / "ranges"))), ("even", ())):
        arguments = (*data, *more, "-o", str(tmp_path / f"{name}.onnx"))
        assert hqp(monkeypatch, "quantize", str(tmp_path / "uneven.onnx"), *arguments) == 0
        stored = {t.name: t for t in onnx.load(tmp_path / f"{name}.onnx").graph.initializer}
        scales[name] = float(onnx.numpy_helper.to_array(stored["r2/scale"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("r2", onnx.TensorProto.FLOAT, None))
    histogram = Histogram()
    histogram.add(run(model, {"input": arrays["input"]})[1])
    want = method("entropy")(histogram)
    ranges = json.loads((tmp_path / "ranges" / "calibration.json").read_text())["ranges"]
    assert ranges["r2"]["threshold"] == pytest.approx(want, rel=1e-5)
    assert scales["own"] == pytest.approx(want / 255, rel=1e-5)
    assert scales["even"] != pytest.approx(want / 255, rel=0.01)  # the model was equalized


def test_quantize_converts_to_float16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "fp16.onnx"
    assert hqp(monkeypatch, "quantize", str(MODEL), "--precision", "fp16", "-o", str(half)) == 0
    assert "half the size, and no faster" in capfd.readouterr().out
    assert half.stat().st_size < 0.51 * MODEL.stat().st_size
    ranges = ("--precision", "fp16", "--calibration-out", "d")
    assert hqp(monkeypatch, "quantize", str(MODEL), *ranges, "-o", str(tmp_path / "x.onnx")) == 2
    assert "take no ranges" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fp16.onnx"]
