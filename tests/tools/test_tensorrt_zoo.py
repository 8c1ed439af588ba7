"""What tools/tensorrt_zoo.py asks of a model, and how it counts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from hqp_onnx.engine.library import TENSORRT_RTX

sys.path.append(str(Path(__file__).parents[2] / "tools"))
import tensorrt_zoo as tool


def model() -> onnx.ModelProto:
    made = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[n,3,8,8] x) => (float[n,64,8,8] y)
        { c = Conv(x, w) y = Relu(c) }"""
    )
    values = np.random.default_rng(0).normal(0, 1, (64, 3, 1, 1)).astype(np.float32)
    made.graph.initializer.append(onnx.numpy_helper.from_array(values, "w"))
    return made


@pytest.mark.skipif(not TENSORRT_RTX.installed, reason="TensorRT for RTX is not installed")
@pytest.mark.parametrize("status", ["taken", "original refused", "worse"])
def test_a_model_is_pruned_quantized_and_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    path, why = tmp_path / "m.onnx", ["node 'y' (Relu): so"]
    if status == "original refused":
        monkeypatch.setattr(tool, "refusals", lambda *_: why)
    if status != "taken":
        monkeypatch.setattr(tool, "build", lambda file, shapes: {"refused": why if file != path else []})
    onnx.save(model(), path)
    found: dict[str, Any] = {}
    tool.check(path, tmp_path, lambda **values: found.update(values))
    assert (found["status"], found["stage"], found["convolutional"]) == (status, "done", True)
    assert bool(found["refused"]) == (status != "taken")


def test_kinds_take_turns_and_every_model_has_one(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        onnx.save(model(), tmp_path / f"{name}.onnx")
    jobs = tool.jobs(tmp_path / "zoo", tmp_path)
    assert len({job.name for job in jobs}) == len({job.path for job in jobs}) == len(jobs) > 250
    real = [place / len(jobs) for place, job in enumerate(jobs) if job.name.endswith("(real)")]
    assert np.allclose(real, [1 / 6, 3 / 6, 5 / 6], atol=0.02)
    assert {job.exporter for job in jobs[:40]} == {"torchscript", "dynamo", ""}


def test_what_is_beyond_the_file_is_counted_by_kind() -> None:
    sizes = {"near": (100, 104), "fair": (100, 110), "small": (1000, 1500), "large": (10**6, 2 * 10**6)}
    taken = {name: {"stored": file, "weights": weights} for name, (file, weights) in sizes.items()}
    ratios = {name: weights / file for name, (file, weights) in sizes.items()}
    assert tool._shares("all", list(sizes), ratios, taken) == "| all | 4 | 1 | 2 | 1 | 1 |"
