"""No command writes over what it reads, under any name, and what it cannot write is one line before any work."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import hqp
from small_model import small_data, small_model

OUTPUT = ("--data", "data.npz", "-o", "new")
CASES = {
    "prune -o": ("prune", "model.onnx", "--sparsity", "0.3", "-o", "{}"),
    "prune --ledger": ("prune", "model.onnx", "--sparsity", "0.3", "-o", "new", "--ledger", "{}"),
    "score -o": ("score", "model.onnx", "--data", "data.npz", "-o", "{}"),
    "quantize -o": ("quantize", "model.onnx", "--data", "data.npz", "-o", "{}"),
    "quantize fp16 -o": ("quantize", "model.onnx", "--precision", "fp16", "-o", "{}"),
    "recover -o": ("recover", "student.onnx", "--teacher", "model.onnx", "--data", "data.npz", "-o", "{}"),
    "recover --checkpoint": ("recover", "student.onnx", "--teacher", "model.onnx", *OUTPUT, "--checkpoint", "{}"),
    "build -o": ("build", "model.onnx", "--for", "10.3.0", "-o", "{}"),
    "data-loader -o": ("data-loader", "data.npz", "--model", "model.onnx", "-o", "{}"),
    **{
        f"{name} --json": (name, *words, "--json", "{}")
        for name, words in {
            "inspect": ("model.onnx",),
            "prune": ("model.onnx", "--sparsity", "0.3", "-o", "new"),
            "score": ("model.onnx", *OUTPUT),
            "quantize": ("model.onnx", *OUTPUT),
            "recover": ("student.onnx", "--teacher", "model.onnx", *OUTPUT),
            "build": ("model.onnx", "--for", "10.3.0", "-o", "new"),
            "evaluate": ("model.onnx", "--data", "data.npz"),
            "benchmark": ("student.onnx", "model.onnx"),
            "compare": ("student.onnx", "model.onnx@onnxruntime", "--data", "data.npz"),
            "data-loader": ("data.npz", "--model", "model.onnx", "-o", "new"),
            "optimize": ("model.onnx", "--calib", "data.npz", "--val", "data.npz", "-o", "new"),
        }.items()
    },
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with models, external data, data, and other names of the model."""
    onnx.save_model(
        small_model(), tmp_path / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    onnx.save(small_model(), tmp_path / "student.onnx")
    np.savez(tmp_path / "data.npz", **small_data())
    (tmp_path / "hard.onnx").hardlink_to(tmp_path / "model.onnx")
    (tmp_path / "soft.onnx").symlink_to("model.onnx")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def state(folder: Path) -> dict[str, object]:
    """Every file and what it holds."""
    return {
        str(path): (path.lstat().st_mode, hashlib.sha256(path.read_bytes()).digest() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("name", CASES)
def test_an_output_that_is_an_input_or_no_file_is_one_line(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before, option = state(folder), name.rpartition(" ")[2]
    read = ["model.onnx", "w.bin", "hard.onnx", "soft.onnx", "./directory/../model.onnx"]
    read += ["data.npz"] if "data.npz" in CASES[name] else []
    for path in (*read, "pipe", "directory"):
        assert hqp(monkeypatch, *(word.format(path) for word in CASES[name])) == 2
        (line,) = capfd.readouterr().err.splitlines()
        ending = ": choose another file" if path in read else "which is not overwritten. Name another file"
        assert line.startswith("error: ") and line.endswith(ending), line
        assert option in line or path not in read
        assert state(folder) == before


def test_outputs_are_not_each_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = state(folder)
    for words in (
        ("prune", "model.onnx", "--sparsity", "0.3", "-o", "new", "--ledger", "./new"),
        ("recover", "student.onnx", "--teacher", "model.onnx", *OUTPUT, "--checkpoint", "directory/../new"),
        ("quantize", "model.onnx", "--data", "data.npz", "--calibration-out", ".", "-o", "calibration.json"),
        ("score", "model.onnx", *OUTPUT, "--json", "./new"),
        ("prune", "model.onnx", "--sparsity", "0.3", "-o", "new", "--ledger", "l.json", "--json", "l.json"),
        ("quantize", "model.onnx", "--data", "data.npz", "--calibration-out", "new", "-o", "new"),
        ("build", "model.onnx", "--for", "10.3.0", "-o", "new", "--timing-cache", "new.json"),
        *(
            ("optimize", "model.onnx", "--calib", "data.npz", "--val", "data.npz", "-o", "new", "--json", f"new/{name}")
            for name in ("report.json", "../new/int8.onnx", ".hqp.jsonl", "ledger.jsonl")
        ),
    ):
        assert hqp(monkeypatch, *words) == 2
        assert capfd.readouterr().err.endswith("too: choose another file\n")
        assert state(folder) == before


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("--json")] + ["prune --ledger"])
def test_the_folder_of_an_output_is_looked_for_before_any_work(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = state(folder)
    assert hqp(monkeypatch, *(word.format("no/such/x.json") for word in CASES[name])) == 2
    assert "no/such/x.json: there is no folder no/such. " in capfd.readouterr().err
    assert state(folder) == before


def test_working_state_is_no_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("optimize", "model.onnx", "--calib", "data.npz", "--val", "data.npz", "-o", "new", "--json")
    for path in ("new/.cache", "new/.cache/x"):
        assert hqp(monkeypatch, *words, path) == 2
        assert f"error: --json {path}" in capfd.readouterr().err
        assert not (folder / "new").exists()
    (folder / "new" / ".cache" / "deep").mkdir(parents=True)
    for path in ("new/.cache/x", "./new/.cache/deep/x"):
        assert hqp(monkeypatch, *words, path) == 2
        assert "is working state of --output: choose another file" in capfd.readouterr().err


def test_a_report_is_not_written_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "directory" / "report.json").write_text("{}")
    assert hqp(monkeypatch, "report", "directory", "--json", "directory/report.json") == 2
    assert "--json directory/report.json is the report: choose another file" in capfd.readouterr().err


@pytest.mark.parametrize("options", [("-o", "mine.py"), ("-o", "new", "--json", "mine.py")])
def test_the_code_of_an_extension_is_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(small_model(), "model.onnx")
    Path("mine.py").write_text("def rank(model, data):\n    return {}\n")
    assert hqp(monkeypatch, "prune", "model.onnx", "--sparsity", "0.2", "--saliency", "mine.py:rank", *options) == 2
    assert capsys.readouterr().err.strip().endswith("mine.py is the file of --saliency: choose another file")
    assert Path("mine.py").read_text().startswith("def rank")


@pytest.mark.parametrize("option", ["--output", "--ledger"])
def test_only_json_goes_to_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    onnx.save(small_model(), tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    named = {"--output": "p.onnx", "--ledger": "l.json", option: "-"}
    words = [word for pair in named.items() for word in pair]
    assert hqp(monkeypatch, "prune", "m.onnx", "--sparsity", "0.1", *words, "--quiet") == 2
    assert "only --json writes to stdout" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx"}
