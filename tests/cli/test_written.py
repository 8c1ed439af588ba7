"""Only what is needed is asked for, and no more than memory holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from command import hqp
from small_model import small_model


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(small_model(), "m.onnx")
    return Path("m.onnx")


def test_scores_of_weights_need_no_data(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert hqp(monkeypatch, "score", model, "--saliency", "l2", "-o", "s.npz") == 0
    assert set(np.load("s.npz")) == {"unit", *(f"filter/w{number}" for number in range(1, 5))}
    assert hqp(monkeypatch, "score", model, "-o", "s.npz") == 2
    assert "--saliency fisher needs --data: give some, or take l2" in capfd.readouterr().err


def test_sizes_that_no_memory_holds(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert hqp(monkeypatch, "benchmark", model, "--batch", 2_000_000_000, "--threads", 1) == 2
    assert "--batch 2000000000: input 'input' of shape" in (err := capfd.readouterr().err)
    assert "Give a smaller one" in err
    assert hqp(monkeypatch, "score", model, "--data", "d.npz", "--draws", 10**12, "-o", "s.npz") == 2
    assert "--draws 1000000000000: expected 1 to 10000" in capfd.readouterr().err
