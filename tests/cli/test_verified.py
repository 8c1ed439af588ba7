"""Commands write what loads and runs, say how near it is to the original, and warn; ``--strict`` makes that exit 3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command import hqp
from small_model import small_data, small_model

from hqp_onnx.errors import ModelError
from hqp_onnx.evaluation import verification

COMMANDS = {
    "prune": ("prune", "model.onnx", "--sparsity", "0.3"),
    "quantize": ("quantize", "model.onnx", "--data", "data.npz"),
    "fp16": ("quantize", "model.onnx", "--precision", "fp16"),
    "int4": ("quantize", "model.onnx", "--int4-weights", "1", "--data", "data.npz"),
    "recover": ("recover", "model.onnx", "--teacher", "model.onnx", "--data", "data.npz", "--epochs", "0"),
    "build": ("build", "model.onnx", "--for", "10.3.0"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(small_model(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **small_data())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_what_does_not_load_is_one_line_and_no_file(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ModelError("cannot load the model")

    monkeypatch.setattr(verification, "open_runner", fails)
    before = sorted(folder.iterdir())
    assert hqp(monkeypatch, *COMMANDS[command], "--quiet", "-o", "new.onnx") == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert "is not written, since it would be of no use: cannot load the model" in line
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_every_writing_command_says_what_its_model_computes(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert hqp(monkeypatch, *COMMANDS[command], "--quiet", "-o", "new.onnx", "--json", "-") == 0
    shown = capfd.readouterr()
    found = json.loads(shown.out)
    output = found["verified"]["outputs"]["logits"]
    assert output["equal"] == 1 or output["sqnr_db"] is not None
    assert [f"warning: {words}" for words in found["warnings"]] == shown.err.splitlines()


def test_strict_makes_a_warning_exit_3_and_the_file_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("prune", "model.onnx", "--sparsity", "0.8", "--quiet", "-o", "new.onnx")
    assert hqp(monkeypatch, *words) == 0
    (warning,) = capfd.readouterr().err.splitlines()
    assert warning.startswith("warning: new.onnx: output 'logits' is at ")
    Path("new.onnx").unlink()
    assert hqp(monkeypatch, *words, "--strict") == 3
    assert capfd.readouterr().err.splitlines() == [warning, "error: 1 warning, and --strict was given"]
    assert Path("new.onnx").is_file()
    assert hqp(monkeypatch, "prune", "model.onnx", "--sparsity", "0", "--quiet", "-o", "same.onnx", "--strict") == 0
