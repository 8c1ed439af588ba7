"""The real parser of TensorRT for RTX says which nodes it refuses."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import onnx
import onnx.parser
import pytest
from conftest import MODELS

from hqp_onnx import cli
from hqp_onnx.engine import Capability
from hqp_onnx.engine.acceptance import objections
from hqp_onnx.engine.library import TENSORRT_RTX
from hqp_onnx.engine.parsing import refusals
from hqp_onnx.errors import ModelError
from hqp_onnx.progress import silent
from hqp_onnx.runtimes.targets import target
from hqp_onnx.steps.quantize import quantize_file

RESNET = MODELS / "resnet18.onnx"


def parsed(body: str, outputs: str = "float[N,3,8,8] y", domain: str = "") -> onnx.ModelProto:
    head = f'<ir_version: 8, opset_import: ["" : 17{domain}]> g (float[N,3,8,8] x) => ({outputs})'
    return onnx.parser.parse_model(f"{head} {{ {body} }}")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("data") / "few.npz"
    with np.load(MODELS / "fashion_mnist_calib.npz") as arrays:
        np.savez(file, input=arrays["input"][:24])
    return str(file)


CASES = [
    (parsed("y = Relu(x)"), []),
    (parsed("y = Bernoulli(x)"), [("y", "Bernoulli", "TensorRT has no Bernoulli")]),
    (
        parsed("r = Relu(x) d = Det(r) a = my.Thing(r) y = Sigmoid(a)", "float[N,3] d, float[N,3,8,8] y", ', "my":1'),
        [("d", "Det", "TensorRT has no Det"), ("a", "Thing", "Plugin not found")],
    ),
    (
        parsed("c = Constant<value_floats=[1.0,2.0,3.0]>() a = Add(x,c) r = Relu(a) y = Mul(r,c)"),
        [("a", "Add", "broadcast dimensions must be conformable")],
    ),
    (parsed("s = Cast<to=8>(x) y = Cast<to=1>(s)"), [("s", "Cast", "Unsupported data type for the Cast operator!")]),
]


@pytest.mark.parametrize(("model", "expected"), CASES)
def test_nodes_and_reasons(
    rtx: Capability, model: onnx.ModelProto, expected: list[tuple[str, str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    found = refusals(model, TENSORRT_RTX)
    assert [(one.node, one.op) for one in found] == [(node, op) for node, op, _ in expected]
    assert all(one.reason.startswith(reason) for one, (_, _, reason) in zip(found, expected, strict=True))
    assert capfd.readouterr() == ("", "")


def pair(zero: np.ndarray) -> onnx.ModelProto:
    model = parsed("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)")
    scale = onnx.numpy_helper.from_array(np.float32(0.1), "s")
    model.graph.initializer.extend([scale, onnx.numpy_helper.from_array(zero, "z")])
    return model


def test_zero_points(rtx: Capability) -> None:
    assert refusals(pair(np.array(0, np.int8)), TENSORRT_RTX) == ()
    (first, *_) = refusals(pair(np.array(3, np.int8)), TENSORRT_RTX)
    assert first.reason.startswith("Non-zero zero point is not supported")
    both = refusals(pair(np.array(0, np.uint8)), TENSORRT_RTX)  # which the parser takes, and clips
    assert [one.op for one in both] == ["QuantizeLinear", "DequantizeLinear"]
    assert "clips what lies above 127" in both[0].reason


def test_every_bias_of_onnxruntimes_layout(rtx: Capability, data: str, tmp_path: Path) -> None:
    quantize_file(RESNET, tmp_path / "int8.onnx", data, "onnxruntime", "entropy", None, silent)
    model = onnx.load(tmp_path / "int8.onnx")
    biases = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT32}
    expected = {n.name for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in biases}
    found = {one.node for one in refusals(model, TENSORRT_RTX) if "Int32" in one.reason}
    assert found == expected and len(expected) > 15


def test_an_error_without_a_node_names_its_operator(rtx: Capability) -> None:
    model = parsed(
        's = Shape(x) c = ConstantOfShape(s) i = Cast<to=7>(c) y = ScatterElements<reduction="max">(x, i, x)'
    )
    model.opset_import[0].version = 18
    with pytest.raises(ModelError, match=r"cannot read a ScatterElements of the model: Unsupported reduction type$"):
        refusals(model, TENSORRT_RTX)


def test_a_file_that_is_no_model(rtx: Capability) -> None:
    with pytest.raises(ModelError, match="cannot read the model"):
        refusals(onnx.ModelProto(graph=onnx.GraphProto(input=[onnx.ValueInfoProto(name="x")])), TENSORRT_RTX)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_what_is_written_for_it_is_taken(rtx: Capability, data: str, tmp_path: Path, precision: str) -> None:
    written = quantize_file(
        RESNET, tmp_path / "m.onnx", data, "tensorrt-rtx", "entropy", None, silent, precision=precision
    )
    assert written.verified.warnings == ()
    assert quantize_file(RESNET, tmp_path / "n.onnx", data, "tensorrt-rtx", "entropy", None, silent).verified.bytes > (
        0.45 * RESNET.stat().st_size
    )  # float16 by default


def test_what_it_refuses_is_a_warning_that_names_the_node(rtx: Capability) -> None:
    feeds = {"x": np.zeros((2, 3, 8, 8), np.float32)}
    for name in ("tensorrt", "tensorrt-rtx"):
        (line,) = objections(parsed("y = Bernoulli(x)"), target(name), feeds)
        assert line == f"{rtx.name} refuses node 'y' (Bernoulli): TensorRT has no Bernoulli"
    assert objections(parsed("y = Bernoulli(x)"), target("openvino"), feeds) == ()
    many = parsed(
        " ".join(f"y{i} = Bernoulli(x)" for i in range(9)), ", ".join(f"float[N,3,8,8] y{i}" for i in range(9))
    )
    lines = objections(many, target("tensorrt"), feeds)
    assert len(lines) == 4 and lines[-1].startswith(f"{rtx.name} refuses 6 more nodes")


def test_inspect_lists_them(
    rtx: Capability, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(parsed("y = Bernoulli(x)"), tmp_path / "m.onnx")
    for model, words in ((tmp_path / "m.onnx", "takes 0 of 1 node"), (RESNET, "takes 76 of 76 nodes")):
        monkeypatch.setattr("sys.argv", ["hqp", "inspect", str(model), "--target", "tensorrt-rtx"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0 and words in " ".join(capsys.readouterr().out.split())


def test_what_its_compiler_prints_is_not_seen(rtx: Capability, capfd: pytest.CaptureFixture[str]) -> None:
    """Of a lower bound in float16 it writes a line to stdout by itself, which would be in the midst of our JSON."""
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float16[1,8] x) => (float16[1,8] y)'
    model = onnx.parser.parse_model(f"{head} {{ y = Clip(x, low) }}")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1e-6, np.float16), "low"))
    click.echo("before")
    assert objections(model, target("tensorrt-rtx"), {}) == ()
    click.echo("after")
    assert capfd.readouterr() == ("before\nafter\n", "")
