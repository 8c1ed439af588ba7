"""A .tflite file in the commands that take models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import hqp
from small_model import small_data, small_model

from hqp_onnx.runtimes.litert.session import compiled

pytest.importorskip("ai_edge_litert")


def test_files_are_evaluated_timed_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(small_model().SerializeToString())
    data = small_data()
    Path("model.tflite").write_bytes(compiled(small_model(), {"input": data["input"][:1].astype(np.float32)}))
    np.savez("data.npz", **data)
    values = []
    for words in (("model.onnx",), ("model.tflite", "--target", "litert")):
        assert hqp(monkeypatch, "evaluate", *words, "--data", "data.npz", "--json", "found.json") == 0
        values.append(json.loads(Path("found.json").read_text())["value"])
    assert values[0] == values[1]
    files = ("model.tflite", "model.onnx")
    assert hqp(monkeypatch, "benchmark", *files, "--target", "litert", "--json", "timed.json", "--quiet") == 0
    timed = json.loads(Path("timed.json").read_text())["models"]
    assert [row["model"] for row in timed] == [*files] and all(row["median_ms"] > 0 for row in timed)
    compared = ("model.onnx", "model.onnx@litert", "model.tflite")
    assert (
        hqp(
            monkeypatch,
            "compare",
            *compared,
            "--data",
            "data.npz",
            "--samples",
            "2",
            "--json",
            "beside.json",
            "--quiet",
        )
        == 0
    )
    assert "model.tflite" in Path("beside.json").read_text()
