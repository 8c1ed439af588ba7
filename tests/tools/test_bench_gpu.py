"""tools/bench_gpu.py on a small model, on the CPU: it fills its tables, and stops when its seconds are over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from conftest import MODELS
from small_model import small_model

from hqp_onnx.runtimes.session import CPU


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(MODELS.parent / "tools")
        import bench_gpu

        yield bench_gpu


def ran(
    tool: ModuleType, folder: Path, patch: pytest.MonkeyPatch, *arguments: str
) -> dict[str, list[dict[str, object]]]:
    onnx.save(small_model(), folder / "small.onnx")
    words = [str(folder / "small.onnx"), "--provider", CPU, "--json", str(folder / "found.json"), *arguments]
    patch.setattr(sys, "argv", ["bench_gpu.py", *words])
    patch.setattr(tool, "RUN_SECONDS", 0.01)
    patch.setattr(tool, "BUNDLED", [])
    assert tool.main() == 0
    return json.loads((folder / "found.json").read_text())


def test_tables_are_filled(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ran(tool, tmp_path, monkeypatch, "--sections", "work,latency", "--batch", "1,4")
    assert [row["work"] for row in found["work"]] == ["fisher", "moments", "recovery"]
    assert all(row["error"] == 0 for row in found["work"])  # the CPU against itself
    variants = ["FP32", "FP16", "pruned", "pruned FP16", "Q8"]
    assert [(row["batch"], row["variant"]) for row in found["latency"]] == [(n, v) for n in (1, 4) for v in variants]
    assert all(row["milliseconds"]["run"] > 0 for row in found["latency"])
    assert found["left out"] == [] and "| small | 4 | Q8 |" in capsys.readouterr().out


def test_what_does_not_fit_is_named(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ran(tool, tmp_path, monkeypatch, "--seconds", "0")
    assert found["work"] == found["latency"] == found["allocation"] == []
    assert {"work of small", "latency of small"} < set(found["left out"])


def test_an_allocation_ends_with_the_seconds() -> None:
    """In a process of its own, which alone the signal is for."""
    code = """
import time, bench_gpu

try:
    with bench_gpu.Limit(0.0).alarm():
        time.sleep(20)
except TimeoutError:
    time.sleep(0.01)  # and nothing rings later
    print("over")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(MODELS.parent / "tools"), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.strip() == "over", done.stderr
