"""``hqp evaluate`` without --metric: where no metric follows from the targets, the error says what they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from command import hqp
from small_model import small_data, small_model

CASES = {
    "floats": (lambda y: y.astype(np.float64), "if these are classes, convert them to integers"),
    "words": (lambda y: y.astype(str), "expected one class number"),
    "a column": (lambda y: y[:, None], "flatten it to [samples]"),
    "nothing": (None, "no targets. Add an array 'labels', or --targets"),
    "one-hot rows": (lambda y: np.eye(4, dtype=np.float32)[y], "a --metric of targets, as f1"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_targets_hold_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, part = CASES[name]
    onnx.save(small_model(), tmp_path / "m.onnx")
    data = small_data(8)
    labels = data.pop("labels")
    if change is not None:
        data["labels"] = change(labels)
    np.savez(tmp_path / "d.npz", **data)
    assert hqp(monkeypatch, "evaluate", tmp_path / "m.onnx", "--data", tmp_path / "d.npz", "--quiet") == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert part in error and "--reference" in error
