"""OpenVINO: the same answers as onnxruntime, layouts that it computes in INT8, one-line errors."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from conftest import MODELS
from oracle import run

from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import MissingRuntimeError, ModelError
from hqp_onnx.graphs.model_io import load, to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.quantize import quantize
from hqp_onnx.quantization.placement import place
from hqp_onnx.runtimes.openvino_session import OpenVinoSession
from hqp_onnx.runtimes.session import Session, TensorSpec
from hqp_onnx.runtimes.targets import target

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
TEXT = HEADER + "g (float[{n},3] x, int64[m] unused) => (float[{n},3] y, float s) {{ BODY }}"
TEXT = TEXT.replace("BODY", "h = Neg(x)\n y = Relu(h)\n s = ReduceSum<keepdims=0>(x)")
X = np.arange(6, dtype=np.float32).reshape(2, 3) - 3


@pytest.fixture
def needs_openvino() -> None:
    pytest.importorskip("openvino")


def model(batch: str = "n") -> onnx.ModelProto:
    return onnx.parser.parse_model(TEXT.format(n=batch))


def images(count: int) -> np.ndarray:
    with np.load(MODELS / "fashion_mnist_calib.npz") as data:
        return data["input"][:count].astype(np.float32)


@pytest.mark.usefixtures("needs_openvino")
def test_inputs_and_outputs_are_those_of_onnxruntime() -> None:
    session, other = OpenVinoSession(model()), Session(model())
    assert session.inputs == other.inputs
    assert session.outputs == other.outputs
    assert session.batch is None
    for rows in (1, 2):  # two sets of shapes
        values = session.run({"x": X[:rows]})
        assert values["y"].tolist() == np.maximum(-X[:rows], 0).tolist()
        assert values["s"] == X[:rows].sum()


@pytest.mark.usefixtures("needs_openvino")
@pytest.mark.parametrize("source", ["proto", "bytes", "path"])
def test_any_tensor_can_be_fetched_from_any_form(source: str, tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    forms = {"proto": model(), "bytes": model().SerializeToString(), "path": tmp_path / "m.onnx"}
    session = OpenVinoSession(forms[source], outputs=["y", "h"])
    assert [spec.name for spec in session.outputs] == ["y", "h"]
    assert session.run({"x": X})["h"].tolist() == (-X).tolist()


@pytest.mark.usefixtures("needs_openvino")
def test_a_short_batch_of_a_fixed_one_is_padded_and_cut() -> None:
    text = f"{HEADER} g (float[4,3] x) => (float[4,3] y) {{ y = Relu(x) }}"
    session = OpenVinoSession(onnx.parser.parse_model(text), threads=1)
    assert session.batch == 4
    assert session.run({"x": X})["y"].tolist() == np.maximum(X, 0).tolist()


@pytest.mark.usefixtures("needs_openvino")
def test_float_models_are_computed_in_float32(bundled: Path) -> None:
    feeds = {"input": images(4)}
    want = run(onnx.load(bundled), feeds)[0]
    session = OpenVinoSession(bundled)
    assert np.abs(session.run(feeds)["logits"] - want).max() <= 2e-5 * np.abs(want).max()
    assert not any(precision in ("bf16", "f16") for _, _, precision in session.executed(feeds))


@pytest.mark.usefixtures("needs_openvino")
def test_the_layout_is_computed_in_integers_without_steps_between(bundled: Path) -> None:
    feeds = {"input": images(64)}
    float_model = canonicalize(to_graph(load(bundled))).graph
    graph = quantize(float_model, [Batch(feeds, None)], target("openvino"), "minmax").graph
    session = OpenVinoSession(to_proto(graph))
    layers = session.executed({"input": feeds["input"][:1]})
    kinds = Counter(kind for _, kind, _ in layers)
    weighted = [node for node in float_model.nodes if node.op in ("Conv", "Gemm", "MatMul")]
    integers = {precision for _, kind, precision in layers if kind in ("Convolution", "FullyConnected")}
    assert kinds["Convolution"] + kinds["FullyConnected"] == len(weighted)
    assert integers == {"u8"}
    beside = sum(node.op in ("Mul", "Sub", "Div", "GlobalAveragePool") for node in float_model.nodes)
    assert kinds["Subgraph"] + kinds["FakeQuantize"] <= beside + 1  # gates, the first input: no sum, no activation
    want = run(onnx.load(bundled), feeds)[0]
    found = session.run(feeds)["logits"]
    assert (found.argmax(1) == want.argmax(1)).mean() >= 0.95


def test_only_sums_that_a_convolution_takes_in_carry_pairs() -> None:
    text = """g (float[n,4,8,8] x, float[n,4,8,8] z) => (float[n,4,8,8] y) {
        a = Conv(x, w) b = Add(a, x) c = Relu(b) d = Sigmoid(z) e = Add(c, d) y = Softmax(e) }"""
    graph = onnx.parser.parse_model(HEADER + text)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w"))
    assert set(place(to_graph(graph), target("openvino")).tensors) == {"x", "a"}
    assert set(place(to_graph(graph), target("tensorrt")).tensors) == {"x", "c", "d"}  # its kernel of a adds x itself


@pytest.mark.usefixtures("needs_openvino")
def test_two_pairs_in_a_row_are_not_written() -> None:
    """OpenVINO takes out an Identity, and 2026.4 ends the process where two pairs then follow a Concat."""
    body = "k = Concat<axis=1>(x, x) i = Identity(k) y = Conv(i, w)"
    proto = onnx.parser.parse_model(f"{HEADER} g (float[n,4,h,v] x) => (float[n,8,h,v] y) {{ {body} }}")
    rng = np.random.default_rng(0)
    proto.graph.initializer.append(
        onnx.numpy_helper.from_array(rng.standard_normal((8, 8, 1, 1)).astype(np.float32), "w")
    )
    feeds = {"x": rng.standard_normal((4, 4, 8, 8)).astype(np.float32)}
    result = quantize(canonicalize(to_graph(proto)).graph, [Batch(feeds)], target("openvino"), "minmax")
    assert sum(node.op == "QuantizeLinear" for node in result.graph.nodes) == 1
    want = run(proto, feeds)[0]
    error = OpenVinoSession(to_proto(result.graph)).run(feeds)["y"] - want
    assert np.square(error).sum() < 1e-3 * np.square(want).sum()  # 30 dB


MAXIMA = {
    "ReduceMax": "ReduceMax<axes=[3], keepdims=0>(x)",
    "ReduceMin, turned": "ReduceMin<axes=[1], keepdims=0>(x) m = Transpose<perm=[0, 2, 1]>(l)",
    "ReduceMax, in a Relu": "ReduceMax<axes=[3], keepdims=0>(x) m = Relu(l)",
    "joined": "ReduceMax<axes=[3], keepdims=0>(x) o = ReduceMean<axes=[3], keepdims=0>(x) m = Concat<axis=1>(l, o)",
}


@pytest.mark.usefixtures("needs_openvino")
@pytest.mark.parametrize("name", MAXIMA)
def test_what_is_computed_wrongly_behind_a_maximum_stays_in_float(name: str) -> None:
    """OpenVINO 2026.4 merges ReduceMax and ReduceMin with a pair behind them, and gives some other value."""
    maximum = MAXIMA[name]
    body = (
        f"l = {maximum} {'' if ' m = ' in maximum else 'm = Identity(l)'} a = MatMul(m, w) r = Relu(a) y = MatMul(r, v)"
    )
    proto = onnx.parser.parse_model(f"{HEADER} g (float[n,6,16,16] x) => (float[n,k,5] y) {{ {body} }}")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    rng = np.random.default_rng(0)
    for weight, shape in (("w", (16, 20)), ("v", (20, 5))):
        values = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, weight))
    feeds = {"x": rng.standard_normal((4, 6, 16, 16)).astype(np.float32)}
    result = quantize(canonicalize(to_graph(proto)).graph, [Batch(feeds)], target("openvino"), "minmax")
    assert any("openvino merges Reduce" in note for note in result.notes)
    assert sum(node.op == "QuantizeLinear" for node in result.graph.nodes) == 1  # of the second product
    want = run(proto, feeds)[0]
    error = OpenVinoSession(to_proto(result.graph)).run(feeds)["y"] - want
    assert np.square(error).sum() < 1e-3 * np.square(want).sum()  # 30 dB


@pytest.mark.usefixtures("needs_openvino")
def test_what_cannot_be_loaded_or_run_is_one_line() -> None:
    unknown = HEADER.replace('"" : 17', '"" : 17, "ours" : 1') + "g (float[n] x) => (float[n] y) { y = ours.Op(x) }"
    with pytest.raises(ModelError, match=r"OpenVINO cannot load the model: .*operations: ours\.Op$"):
        OpenVinoSession(onnx.parser.parse_model(unknown))
    with pytest.raises(ModelError, match="OpenVINO cannot load the model: "):
        OpenVinoSession(b"nonsense")
    session = OpenVinoSession(model("2"))
    for wrong, said in (({"x": X[:, :2]}, r"float32\[2, 2\]"), ({"x": X.astype(int)}, "int64"), ({}, "missing")):
        with pytest.raises(ModelError, match=rf"input 'x' is {said}.*, expected float32\[2, 3\]"):
            session.run(wrong)


def test_without_openvino_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingRuntimeError, match=r"pip install 'hqp-onnx\[openvino\]'"):
        OpenVinoSession(model())
    assert TensorSpec("x", np.dtype(np.float32), (None, 3)) == Session(model()).inputs[0]
