"""A loss that lacks a gradient is found before anything else is paid for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

import hqp_onnx
from hqp_onnx.errors import GradientError
from hqp_onnx.job.options import Options
from hqp_onnx.steps.optimize import optimize

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,6] x) => (float[n,4] y) {
  h = MatMul(x, u)  r = Relu(h)  a = MatMul(r, w)  b = Mod<fmod=1>(a, two)  y = MatMul(b, v)
}"""
MESSAGE = "Mod node .* has no gradient rule; use saliency l1, l2 or random"


def model() -> onnx.ModelProto:
    made = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in {"u": (6, 16), "w": (16, 8), "v": (8, 4), "two": ()}.items():
        values = np.asarray(rng.standard_normal(shape), np.float32)
        made.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return made


def samples() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((50, 6)).astype(np.float32)}


@pytest.mark.parametrize("saliency", [None, "obs", "taylor"])
def test_prune_says_so_at_once(saliency: str | None) -> None:
    stages: list[str] = []
    with pytest.raises(GradientError, match=MESSAGE):
        hqp_onnx.prune(model(), 0.3, data=samples(), saliency=saliency, progress=lambda stage, *_: stages.append(stage))
    assert not stages
    hqp_onnx.prune(model(), 0.3, data=samples(), saliency="l2", progress=lambda stage, *_: stages.append(stage))
    assert "input moments" in stages


def test_optimize_says_so_before_the_baseline(tmp_path: Path) -> None:
    path, stages = tmp_path / "m.onnx", list[str]()
    onnx.save(model(), path)
    np.savez(tmp_path / "data.npz", **samples())
    options = Options(path, str(tmp_path / "data.npz"), str(tmp_path / "data.npz"), tmp_path / "out")
    with pytest.raises(GradientError, match=MESSAGE):
        optimize(options, lambda stage, *_: stages.append(stage))
    assert set(stages) <= {"checking calib", "checking val"}
