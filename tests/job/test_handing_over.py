"""A target whose models are handed over in a file that is not ONNX: it lies beside each .onnx, and is what ships."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import hqp
from small_model import small_data, small_model

MINE = """
from dataclasses import dataclass, replace
from pathlib import Path

from hqp_onnx.runtimes.runtime import OnnxRuntime
from hqp_onnx.runtimes.targets import target


@dataclass(frozen=True)
class Compiler(OnnxRuntime):
    suffix: str = ".chip"

    def compile(self, model, feeds):
        return f"{Path(model).name} for {feeds['input'].shape}".encode()

    def notes(self, model, feeds):
        return ("7 cycles",)


chip = replace(target("onnxruntime"), name="chip", runtime=Compiler())
integers = replace(chip, name="integers", integers_only=True)
"""
JOB = ("--saliency", "l2", "--no-compensate", "--max-drop", "1", "--step", "0.5", "--objective", "macs", "--quiet")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("hqp_onnx.job.rows.SECONDS", 0.1)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "model.onnx").write_bytes(small_model().SerializeToString())
    np.savez(tmp_path / "data.npz", **small_data())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def optimize(monkeypatch: pytest.MonkeyPatch, target: str, *more: str) -> int:
    data = ("--calib", "data.npz", "--val", "data.npz", "-o", "out")
    return hqp(monkeypatch, "optimize", "model.onnx", *data, *JOB, "--target", target, *more)


def test_what_is_compiled_ships(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert optimize(monkeypatch, "mine.py:chip", "--precision", "int8") == 0
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["shipped"] == "out/int8.chip"
    assert "int8.chip: 7 cycles" in report["notes"]
    for row, name in report["files"].items():
        content = (folder / "out" / name).with_suffix(".chip").read_bytes()
        assert content.decode() == f"{name} for (1, 1, 8, 8)"
        assert report[row]["bytes"] == len(content)
    manifest = [json.loads(line) for line in (folder / "out" / ".hqp.jsonl").read_text().splitlines()]
    assert "int8.chip" in json.dumps(manifest)  # ours, so a later run may replace it
    assert optimize(monkeypatch, "mine.py:chip", "--precision", "fp32") == 0
    assert not (folder / "out" / "int8.chip").exists()


def test_what_computes_in_integers_alone_ships_no_floats(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert optimize(monkeypatch, "mine.py:integers", "--precision", "fp32") == 2
    assert "--precision fp32: models for mine.py:integers are in INT8 alone" in capfd.readouterr().err
    assert optimize(monkeypatch, "mine.py:integers") == 0
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["shipped"] == "out/int8.chip" and not report["floats"]
    assert sorted(file.name for file in (folder / "out").glob("*.chip")) == ["int8.chip", "q8_only.chip"]
    assert (folder / "out" / "pruned.onnx").is_file()  # in float32, which the chip has no use for
    assert report["files"] == {"q8_only": "q8_only.onnx", "hqp": "int8.onnx"}
