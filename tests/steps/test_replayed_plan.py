"""A plan of one export, carried out on another export of the same network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command import hqp
from onnx import numpy_helper
from small_model import small_data, small_model

from hqp_onnx import prune
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.steps.prune import Pruning


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(small_model(), tmp_path / "first.onnx")
    again = small_model()
    for tensor in again.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.5), tensor.name))
    onnx.save(again, tmp_path / "again.onnx")
    np.savez(tmp_path / "data.npz", **small_data(60))
    return tmp_path


def shapes(path: Path) -> dict[str, list[int]]:
    return {tensor.name: list(tensor.dims) for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("data", [[], ["--data", "data.npz"]])
def test_the_same_channels_of_weights_trained_again(
    folder: Path, data: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    words = ["--sparsity", "0.4", "--ledger", "ledger.json", "-o", "pruned.onnx"]
    assert hqp(monkeypatch, "prune", "first.onnx", *words) == 0
    words = ["--plan", "ledger.json", "--ledger", "same.json", "-o", "replayed.onnx", *data]
    assert hqp(monkeypatch, "prune", "again.onnx", *words) == 0
    first, second = (json.loads((folder / name).read_text()) for name in ("ledger.json", "same.json"))
    assert first["removed"] == second["removed"] and first["model_sha256"] != second["model_sha256"]
    assert shapes(folder / "pruned.onnx").items() <= shapes(folder / "replayed.onnx").items()
    kept = np.delete(np.arange(24), first["removed"]["w2"]["0"])
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(folder / "replayed.onnx").graph.initializer}
    source = {t.name: numpy_helper.to_array(t) for t in onnx.load(folder / "again.onnx").graph.initializer}
    assert np.array_equal(tensors["w2"], source["w2"][kept])  # it reads what it did, so no refit changes it


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nothing": {"0": [1]}}, "no such channels of 'nothing'"),
        ({"w1": {"0": [99]}}, "no such channels of 'w1'"),
        ({"w1": {"x": [1]}}, "no such channels of 'w1'"),
        ({"w1": {"0": [1]}}, "do not go together"),
        ({"w4": {"0": [1]}, "d4": {"0": [1]}}, "must stay"),
    ],
)
def test_a_plan_of_something_else(folder: Path, change: dict[str, Any], words: str) -> None:
    (folder / "ledger.json").write_text(json.dumps({"model_sha256": "0", "removed": change}))
    with pytest.raises(DataError, match=words):
        prune(folder / "again.onnx", plan=folder / "ledger.json")


def test_a_share_or_a_plan() -> None:
    for options in ({}, {"sparsity": 0.5, "plan": "ledger.json"}):
        with pytest.raises(UsageError, match="expected one of them"):
            Pruning(**options)
