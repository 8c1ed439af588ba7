"""Models with axes of size 0: what has no values has no saliency, no rounding and no work, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from command import hqp
from oracle import run

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[{batch},4] x) => (float[{batch},4] y) {{
  a = MatMul(x, w)  none = MatMul(x, v)  c = Concat<axis=1>(a, none)  b = Relu(c)  y = MatMul(b, u)
}}"""


def _saved(path: Path, batch: str) -> onnx.ModelProto:
    model, rng = onnx.parser.parse_model(TEXT.format(batch=batch)), np.random.default_rng(0)
    for name, shape in {"w": (4, 8), "v": (4, 0), "u": (8, 4)}.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, path)
    return model


@pytest.mark.parametrize(
    "command",
    [
        ("prune", "--sparsity", "0.3"),
        ("prune", "--sparsity", "0.3", "--saliency", "l2", "--data", "d.npz"),
        ("quantize",),
    ],
)
def test_a_weight_without_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    path, x = tmp_path / "m.onnx", {"x": np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32)}
    model = _saved(path, "n")
    np.savez(tmp_path / "d.npz", **x)
    monkeypatch.chdir(tmp_path)
    assert hqp(monkeypatch, *command, path, "-o", tmp_path / "out.onnx", "--quiet") == 0
    (expected,), (found,) = run(model, x), run(onnx.load(tmp_path / "out.onnx"), x)
    assert found.shape == expected.shape
    assert command[0] == "prune" or np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_a_batch_of_no_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _saved(tmp_path / "m.onnx", "0")
    assert hqp(monkeypatch, "inspect", tmp_path / "m.onnx") == 0
