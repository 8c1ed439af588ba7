"""Models of other inputs and outputs are refused in one line that names the file and the tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

import hqp_onnx
from hqp_onnx.errors import DataError, ModelError, UsageError

BODY = "y = MatMul (x, w)"
DATA = {"x": np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)}
OTHERS = {
    "another name": ("float[n,8] q", "y = MatMul (q, w)", "takes 'q' float32"),
    "another size": ("float[n,9] x", BODY, r"takes 'x' float32\[\?, 9\]"),
    "another rank": ("float[n,3,8] x", BODY, r"takes 'x' float32\[\?, 3, 8\]"),
    "another type": ("double[n,8] x", "c = Cast <to = 1> (x) y = MatMul (c, w)", "takes 'x' float64"),
    "one more": ("float[n,8] x, float[n,4] z", "p = MatMul (x, w) y = Add (p, z)", "takes 'z' float32"),
}


def save(path: Path, inputs: str = "float[n,8] x", body: str = BODY, output: str = "float y") -> Path:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => ({output}) {{ {body} }}')
    rows = 9 if "9]" in inputs else 8
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((rows, 4), np.float32), "w"))
    onnx.save(model, path)
    return path


COMMANDS: dict[str, Callable[[Path, Path], object]] = {
    "benchmark": lambda good, other: hqp_onnx.benchmark([good, other]),
    "evaluate": lambda good, other: hqp_onnx.evaluate(good, DATA, reference=other),
    "compare": lambda good, other: hqp_onnx.compare([good, other], DATA),
    "recover": lambda good, other: hqp_onnx.recover(other, good, DATA),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", OTHERS)
def test_other_inputs(tmp_path: Path, name: str, command: str) -> None:
    good, (inputs, body, words) = save(tmp_path / "good.onnx"), OTHERS[name]
    other = save(tmp_path / "other.onnx", inputs, body)
    with pytest.raises(ModelError, match=words if command != "recover" else r"takes|its inputs") as refused:
        COMMANDS[command](good, other)
    assert "other.onnx" in str(refused.value) and "good.onnx" in str(refused.value)
    assert "ONNXRuntimeError" not in str(refused.value)


def test_an_input_that_is_missing(tmp_path: Path) -> None:
    inputs, body, _ = OTHERS["one more"]
    with pytest.raises(ModelError, match=r"good\.onnx: does not take 'z'"):
        hqp_onnx.benchmark([save(tmp_path / "two.onnx", inputs, body), save(tmp_path / "good.onnx")])


def test_a_smaller_batch(tmp_path: Path) -> None:
    models = [save(tmp_path / "good.onnx"), save(tmp_path / "four.onnx", "float[4,8] x")]
    with pytest.raises(UsageError, match=r"four.onnx: takes 4 samples a run, but batch is 16"):
        hqp_onnx.benchmark(models, batch=16)
    assert hqp_onnx.evaluate(models[0], DATA, reference=models[1]).metric == 1


def test_other_outputs(tmp_path: Path) -> None:
    other = save(tmp_path / "other.onnx", body="z = MatMul (x, w)", output="float z")
    with pytest.raises(DataError, match="the model gives y, and the original z"):
        hqp_onnx.evaluate(save(tmp_path / "good.onnx"), DATA, reference=other)


def test_outputs_that_are_no_tensors(tmp_path: Path) -> None:
    body, output = "p = MatMul (x, w) y = SequenceConstruct (p, p)", "seq(float) y"
    models = [save(tmp_path / f"{number}.onnx", body=body, output=output) for number in range(2)]
    for refused in (
        lambda: hqp_onnx.compare(models, DATA),
        lambda: hqp_onnx.evaluate(models[0], DATA, reference=models[1]),
        lambda: hqp_onnx.optimize(hqp_onnx.Options(models[0], DATA, DATA, tmp_path / "out", saliency="l2")),
    ):
        with pytest.raises(ModelError, match=r"output 'y' is no tensor: .* FILE\.py:function"):
            refused()
