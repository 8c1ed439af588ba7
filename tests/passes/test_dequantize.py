"""Quantized models in float: onnxruntime's quantizers make them of a model that is known, which is the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from command import hqp
from onnxruntime import quantization as ort
from oracle import run
from small_model import small_data, small_model

import hqp_onnx
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.channels.walk import analyze
from hqp_onnx.errors import ModelError
from hqp_onnx.graphs.model_io import is_quantized, nodes, to_graph, to_proto
from hqp_onnx.model import open_model
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.dequantize import dequantize
from hqp_onnx.passes.prune_channels import prune_channels

IMAGES = small_data()["input"]


class Reader(ort.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: dict[str, np.ndarray]) -> None:
        self.feeds = iter([feeds])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def in_float(model: onnx.ModelProto) -> onnx.ModelProto:
    result = dequantize(to_graph(model))
    assert result.modified
    made = to_proto(result.graph)
    onnx.checker.check_model(made)
    assert not any(is_quantized(node.op_type) or node.domain == "com.microsoft" for node in nodes(made.graph))
    return made


def near(a: np.ndarray, b: np.ndarray, share: float) -> bool:
    return bool(np.abs(a - b).max() <= share * np.abs(b).max())


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("channel", [False, True])
@pytest.mark.parametrize("kind", ["QInt8", "QUInt8"])
def test_static_models_of_onnxruntime(tmp_path: Path, form: str, channel: bool, kind: str) -> None:
    model = small_model()
    onnx.save(model, tmp_path / "a.onnx")
    kinds = {"activation_type": ort.QuantType[kind], "weight_type": ort.QuantType.QInt8}
    ort.quantize_static(
        tmp_path / "a.onnx",
        tmp_path / "q.onnx",
        Reader({"input": IMAGES}),
        quant_format=ort.QuantFormat[form],
        per_channel=channel,
        **kinds,
    )
    quantized = onnx.load(tmp_path / "q.onnx")
    wanted, rounded = (run(m, {"input": IMAGES})[0] for m in (model, quantized))
    got = run(in_float(quantized), {"input": IMAGES})[0]
    assert near(got, wanted, 0.03)  # weights are rounded
    assert np.square(got - wanted).mean() < np.square(rounded - wanted).mean()  # activations are not


@pytest.mark.parametrize("channel", [False, True])
def test_dynamic_models_of_onnxruntime(tmp_path: Path, channel: bool) -> None:
    model = small_model()
    onnx.save(model, tmp_path / "a.onnx")
    ort.quantize_dynamic(tmp_path / "a.onnx", tmp_path / "q.onnx", per_channel=channel)
    got = run(in_float(onnx.load(tmp_path / "q.onnx")), {"input": IMAGES})[0]
    assert near(got, run(model, {"input": IMAGES})[0], 0.03)


def test_a_recurrent_network(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[5,n,6] x) => (float[5,2,n,4] y) {
      y = LSTM<hidden_size=4, direction="bidirectional">(x, w, r, b) }"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    for name, shape in {"w": (2, 16, 6), "r": (2, 16, 4), "b": (2, 32)}.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, tmp_path / "a.onnx")
    ort.quantize_dynamic(tmp_path / "a.onnx", tmp_path / "q.onnx")
    quantized, x = onnx.load(tmp_path / "q.onnx"), rng.standard_normal((5, 3, 6)).astype(np.float32)
    assert [node.op_type for node in quantized.graph.node] == ["DynamicQuantizeLSTM"]
    assert near(run(in_float(quantized), {"x": x})[0], run(model, {"x": x})[0], 0.03)


def test_an_attention(tmp_path: Path) -> None:
    """QAttention, its activations quantized as they come."""
    node = onnx.helper.make_node("Attention", ["x", "w", "b"], ["y"], domain="com.microsoft", num_heads=2)
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 5, 8]) for name in "xy"]
    rng, domains = (
        np.random.default_rng(0),
        [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(node.domain, 1)],
    )
    weights = {"w": rng.standard_normal((8, 24)), "b": rng.standard_normal(24)}
    stored = [onnx.numpy_helper.from_array(x.astype(np.float32), name) for name, x in weights.items()]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], stored)
    model = onnx.helper.make_model(graph, opset_imports=domains, ir_version=8)
    onnx.save(model, tmp_path / "a.onnx")
    ort.quantize_dynamic(tmp_path / "a.onnx", tmp_path / "q.onnx", per_channel=True)
    quantized, x = onnx.load(tmp_path / "q.onnx"), rng.standard_normal((3, 5, 8)).astype(np.float32)
    assert "QAttention" in [node.op_type for node in quantized.graph.node]
    floats = to_proto(canonicalize(dequantize(to_graph(quantized)).graph).graph)
    assert all(not node.domain for node in floats.graph.node)
    assert near(run(floats, {"x": x})[0], run(model, {"x": x})[0], 0.05)


@pytest.mark.parametrize("kind", [ort.QuantType.QInt8, ort.QuantType.QUInt8])
def test_the_ledger_names_the_integers(tmp_path: Path, kind: ort.QuantType) -> None:
    """Removed slices of LSTM and MatMul: the integers of the file, whose zero is their zero-point."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[5,n,6] x) => (float[5,n,3] y) {
      l = LSTM<hidden_size=8>(x, w, r) s = Squeeze(l, one) y = MatMul(s, u) }"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    for name, shape in {"w": (1, 32, 6), "r": (1, 32, 8), "u": (8, 3)}.items():
        values = rng.uniform(-0.5, 1, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "one"))
    onnx.save(model, tmp_path / "a.onnx")
    ort.quantize_dynamic(tmp_path / "a.onnx", tmp_path / "q.onnx", weight_type=kind)
    found = open_model(tmp_path / "q.onnx", quantized=True)
    assert found.quantized == "dynamic"
    channels, plan = found.channels(), PruningPlan(np.array([1, 4]))
    pruned = to_proto(prune_channels(found.graph, channels, plan).graph)
    masked = onnx.load(tmp_path / "q.onnx")
    stored = {tensor.name: tensor for tensor in masked.graph.initializer}
    removed = channels.of_file().removed_slices(plan)
    assert len(removed) == 3 and removed.keys() <= stored.keys()
    for name, axes in removed.items():
        zero = onnx.numpy_helper.to_array(stored[name.removesuffix("_quantized") + "_zero_point"])
        values = onnx.numpy_helper.to_array(stored[name]).copy()
        for axis, indices in axes.items():
            values[(slice(None),) * axis + (indices,)] = zero.ravel()[0]
        stored[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
    x = rng.standard_normal((5, 3, 6)).astype(np.float32)
    np.testing.assert_allclose(run(pruned, {"x": x})[0], run(in_float(masked), {"x": x})[0], atol=1e-5)


@pytest.mark.parametrize("precision", ["int8", "dynamic"])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
def test_our_own_models_are_pruned_again(precision: str, target: str) -> None:
    if precision == "dynamic" and target != "onnxruntime":
        pytest.skip("for onnxruntime alone")
    quantized = hqp_onnx.quantize(small_model(), data=small_data(), precision=precision, target=target)
    restored = hqp_onnx.dequantize(quantized)
    wanted = run(small_model(), {"input": IMAGES})[0]
    assert near(run(restored, {"input": IMAGES})[0], wanted, 0.05)
    before, after = (len(analyze(canonicalize(to_graph(m)).graph).prunable) for m in (small_model(), restored))
    assert after == before
    assert near(run(hqp_onnx.prune(restored, 0.01), {"input": IMAGES})[0], wanted, 0.3)


BOUNDED = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,3] x) => (float[n,3] y)
  <float s = {{{scale}}}, uint8 z = {{{zero}}}> {{
    n = Neg(x) q = QuantizeLinear(n, s, z) d = DequantizeLinear(q, s, z) y = {end}(d) }}"""


@pytest.mark.parametrize(("zero", "low", "high"), [(0, 0.0, 6.0), (128, -9.0, 9.0)])
@pytest.mark.parametrize("end", ["Exp", "Identity"])
def test_a_range_that_begins_at_zero_was_an_activation(zero: int, low: float, high: float, end: str) -> None:
    model = onnx.parser.parse_model(BOUNDED.format(scale=6 / 255, zero=zero, end=end))
    x = np.linspace(-9, 9, 30, dtype=np.float32).reshape(10, 3)
    value = np.clip(-x, low, high)
    got = run(in_float(model), {"x": x})[0]
    np.testing.assert_allclose(got, np.exp(value) if end == "Exp" else value, rtol=1e-5)


def test_integers_between_pairs_are_moved_and_those_of_the_input_are_numbers() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (uint8[n,4] x) => (float[m,2] y)
      <float s = {0.5}, uint8 z = {3}, int64[2] shape = {-1, 2}> {
        d = DequantizeLinear(x, s, z) e = Tanh(d) q = QuantizeLinear(e, s, z) r = Reshape(q, shape)
        y = DequantizeLinear(r, s, z) }"""
    x = np.arange(8, dtype=np.uint8).reshape(2, 4)
    got = run(in_float(onnx.parser.parse_model(text)), {"x": x})[0]
    np.testing.assert_allclose(got, np.tanh(0.5 * (x.astype(np.float32) - 3)).reshape(4, 2), rtol=1e-6)


def compared(body: str, constants: str, x: np.ndarray, opset: int = 21, close: float = 0.02) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]> g (float[n,4] x) => (float[m,k] y)
      <{constants}> {{ {body} }}"""
    model = onnx.parser.parse_model(text)
    got, wanted = run(in_float(model), {"x": x})[0], run(model, {"x": x})[0]
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=close)


X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4)
STEPS = "float s = {0.01}, uint8 z = {128}, float[4] ss = {0.01, 0.02, 0.01, 0.02}, uint8[4] zz = {0, 0, 0, 0}"


@pytest.mark.parametrize(
    "body",
    [
        # no zero-point: the type is stated
        "q = QuantizeLinear<output_dtype = 3>(x, s) y = DequantizeLinear(q, s)",
        # channels whose ranges begin at 0
        "n = Neg(x) q = QuantizeLinear<axis = 1>(n, ss, zz) y = DequantizeLinear<axis = 1>(q, ss, zz)",
        # a constant beside what is joined
        "q = QuantizeLinear(x, s, z) c = Concat<axis = 0>(q, qc) y = DequantizeLinear(c, s, z)",
    ],
)
def test_forms_of_pairs(body: str) -> None:
    compared(body, STEPS + ", uint8[2,4] qc = {0, 100, 128, 200, 1, 2, 3, 255}", X)


MOVES = {
    "Resize": ('r = Resize<mode="linear">(q, none, twice)', [2, 3, 8]),
    "Resize outside": (
        'r = Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=200.0>'
        "(q, beyond, same)",
        [2, 3, 4],
    ),
    "Pad": ("r = Pad(q, pads)", [2, 3, 5]),
    "Pad by 0": ("r = Pad(q, pads, z)", [2, 3, 5]),
    "Pad at the edge": ('r = Pad<mode="edge">(q, pads)', [2, 3, 5]),
    "Pad by what is quantized": (
        "h = Constant<value_float=0.5>() o = QuantizeLinear(h, s, z) r = Pad(q, pads, o)",
        [2, 3, 5],
    ),
    "Where": ("r = Where(yes, q, qc)", [2, 3, 4]),
    "ScatterND": ("r = ScatterND(q, rows, qr)", [2, 3, 4]),
    "GatherElements": ("r = GatherElements<axis=2>(q, at)", [2, 3, 1]),
    "TopK": ("r, i = TopK(q, two)", [2, 3, 2]),
    "Max": ("r = Max(q, qc)", [2, 3, 4]),
    "ReduceMin": ("r = ReduceMin(q, two)", [2, 3, 1]),
    "MaxPool with places": ("r, i = MaxPool<kernel_shape=[2]>(q)", [2, 3, 3]),
    "a table": ("g = Gather(qc, first) r = Concat<axis=0>(q, g)", [3, 3, 4]),
}


@pytest.mark.parametrize("case", MOVES)
def test_what_moves_integers_moves_numbers(case: str) -> None:
    body, shape = MOVES[case]
    table = ", ".join(map(str, range(60, 180, 10)))
    text = f"""<ir_version: 8, opset_import: ["" : 18]> g (float[2,3,4] x) => (float[{",".join(map(str, shape))}] y)
      <float s = {{0.02}}, uint8 z = {{120}}, float[0] none = {{}}, float[3] twice = {{1, 1, 2}},
       int64[6] pads = {{0, 0, 1, 0, 0, 0}},
       float[6] beyond = {{0, 0, -0.5, 1, 1, 0.5}}, float[3] same = {{1, 1, 1}}, bool[4] yes = {{1, 0, 1, 0}},
       int64[1,2] rows = {{1, 0}}, uint8[1,4] qr = {{1, 100, 200, 255}}, int64[2,3,1] at = {{3, 0, 1, 2, 2, 2}},
       int64[1] two = {{2}}, int64[1] first = {{0}}, uint8[1,3,4] qc = {{{table}}}> {{
        q = QuantizeLinear(x, s, z) {body} y = DequantizeLinear(r, s, z) }}"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(1)
    x = 0.02 * rng.integers(-120, 136, (2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(
        run(in_float(model), {"x": x})[0], run(model, {"x": x})[0], atol=0.0201 if "Resize" in case else 1e-6
    )


def test_places_of_integers_are_places_of_numbers() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,4] x) => (int64[n,1] i, int64[2] k)
      <float s = {0.01}, uint8 z = {128}> { q = QuantizeLinear(x, s, z) i = ArgMax<axis=1>(q) k = Shape(q) }"""
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    for got, wanted in zip(
        run(in_float(onnx.parser.parse_model(text)), {"x": x}), (x.argmax(1)[:, None], [5, 4]), strict=True
    ):
        np.testing.assert_array_equal(got, wanted)


TABLES = {  # of int8: what is made of them, its shape, and the scales
    "transposed": ("t = Transpose<perm=[1,0]>(w) y = DequantizeLinear<axis=0>(t, s, z)", "c,4", 3),
    "another shape": ("t = Reshape(w, shape) y = DequantizeLinear<axis=0>(t, s, z)", "4,1,c", 4),
    "a part": ("t = Slice(w, one, three) y = DequantizeLinear<axis=0>(t, s, z)", "2,c", 2),
    "rows by two axes": ("t = Gather(w, i) y = DequantizeLinear<axis=2>(t, s, z)", "2,2,c", 3),
    "columns": ("t = Gather<axis=-1>(w, i) y = DequantizeLinear<axis=0>(t, s, z)", "4,2,2", 4),
    "one column": (
        "u = Gather<axis=1>(w, k) t = Gather<axis=1>(u, i) y = DequantizeLinear<axis=0>(t, s, z)",
        "4,2,2",
        4,
    ),
    "two scales": (
        "t = Gather(w, i) a = DequantizeLinear(t, p, o) b = DequantizeLinear(t, p2, o) y = Sub(a, b)",
        "2,2,c",
        1,
    ),
    "whole, too": (
        "t = Gather(w, one) a = DequantizeLinear(t, p, o) b = DequantizeLinear(w, p2, o) y = Sub(a, b)",
        "4,c",
        1,
    ),
    "integers, too": ("t = Gather(w, one) a = DequantizeLinear(t, p, o) b = Cast<to=1>(w) y = Sub(a, b)", "4,c", 1),
}


@pytest.mark.parametrize("case", TABLES)
@pytest.mark.parametrize("columns", [3, 4])
def test_each_reader_of_a_moved_table_has_its_own_steps(case: str, columns: int) -> None:
    body, shape, count = TABLES[case]
    count = columns if count == 3 else count
    rng = np.random.default_rng(2)
    arrays = {"w": rng.integers(-99, 99, (4, columns)).astype(np.int8), "shape": np.array([4, 1, columns])}
    arrays |= {"s": np.geomspace(0.1, 3, count, dtype=np.float32), "z": rng.integers(-9, 9, count).astype(np.int8)}
    arrays |= {"p": np.float32(0.5), "p2": np.float32(3), "o": np.int8(7), "one": np.array([1]), "three": np.array([3])}
    text = (
        f"""<ir_version: 8, opset_import: ["" : 17]> g (int64[2,2] i, int64[1] k) => (float[{shape}] y) {{ {body} }}"""
    )
    model = onnx.parser.parse_model(text)
    for name, values in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))
    feeds = {"i": np.array([[1, 2], [0, 0]]), "k": np.array([1])}
    if case == "one column":
        feeds["i"] = np.zeros((2, 2), np.int64)
    np.testing.assert_allclose(run(in_float(model), feeds)[0], run(model, feeds)[0], rtol=1e-6)


def test_steps_of_rows_that_are_gathered_are_refused() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (int64[4] i) => (float[4,2] y)
      <int8[4,2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[4] s = {1, 2, 3, 4}, int8[4] z = {0, 0, 0, 0}> {
        t = Gather(w, i) y = DequantizeLinear<axis=0>(t, s, z) }"""
    with pytest.raises(ModelError, match="of DequantizeLinear has no known meaning"):
        dequantize(to_graph(onnx.parser.parse_model(text)))


def test_a_choice_of_onnxruntime(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,4] x) => (float[n,4] y)
      <bool[4] c = {1, 0, 1, 0}> { r = Relu(x) t = Tanh(x) w = Where(c, r, t) p = Neg(w) y = Sigmoid(p) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "a.onnx")
    form, force = ort.QuantFormat.QOperator, {"ForceQuantizeNoInputCheck": True}
    ort.quantize_static(tmp_path / "a.onnx", tmp_path / "q.onnx", Reader({"x": X}), form, extra_options=force)
    quantized = onnx.load(tmp_path / "q.onnx")
    assert "QLinearWhere" in {node.op_type for node in quantized.graph.node}
    wanted = 1 / (1 + np.exp(np.where([True, False] * 2, np.maximum(X, 0), np.tanh(X))))
    np.testing.assert_allclose(run(in_float(quantized), {"x": X})[0], wanted, atol=1e-5)


def test_the_factor_of_a_product_is_part_of_the_steps_of_its_bias() -> None:
    constants = "float s = {0.01}, uint8 z = {128}, float t = {0.02}, int8 z8 = {0}, float r = {0.2}, "
    constants += "int8[4,3] w = {50, -20, 30, 7, 8, -90, 11, 12, 13, 40, 50, 60}, int32[3] c = {10000, -20000, 3000}"
    body = "q = QuantizeLinear(x, s, z) p = com.microsoft.QGemm<alpha = 2.0>(q, s, z, w, t, z8, c, r, z) "
    body += "y = DequantizeLinear(p, r, z)"
    compared(body, constants, X, close=0.15)


def test_two_outputs_of_one_value() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,4] x) => (float[n,4] y, float[n,4] z)
      <float s = {0.01}, uint8 o = {0}> {
        r = Relu(x) q = QuantizeLinear(r, s, o) y = DequantizeLinear(q, s, o) z = DequantizeLinear(q, s, o) }"""
    got = run(in_float(onnx.parser.parse_model(text)), {"x": X})
    assert len(got) == 2 and all(np.array_equal(y, np.maximum(X, 0)) for y in got)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("y = QuantizeLinear(x, s, z)", "output 'y' holds quantized integers"),
        ("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, t, z)", "of DequantizeLinear has no known meaning"),
        ("q = QuantizeLinear(x, s, z) a = Cast<to=1>(q) y = Neg(a)", "of Cast has no known meaning"),
        ("q = QuantizeLinear(x, ss) m = ReduceMax<axes=[1]>(q) y = DequantizeLinear(m, s)", "of ReduceMax has no"),
    ],
)
def test_what_has_no_meaning_in_float_is_refused_by_name(body: str, words: str) -> None:
    kind = "uint8" if "y = Quantize" in body else "float"
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[n,4] x) => ({kind}[n,4] y)
      <float s = {{0.5}}, float t = {{0.25}}, float[4] ss = {{1, 2, 3, 4}}, uint8 z = {{3}}> {{ {body} }}"""
    with pytest.raises(ModelError, match=words):
        dequantize(to_graph(onnx.parser.parse_model(text)))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(hqp_onnx.quantize(small_model(), data=small_data()), tmp_path / "q.onnx")
    assert hqp(monkeypatch, "dequantize", tmp_path / "q.onnx", "-o", tmp_path / "f.onnx") == 0
    assert "quantized nodes written in float" in capsys.readouterr().out
    assert hqp(monkeypatch, "dequantize", tmp_path / "f.onnx", "-o", tmp_path / "g.onnx") == 2
    assert "nothing in it is quantized" in capsys.readouterr().err
    assert hqp(monkeypatch, "quantize", tmp_path / "q.onnx", "--precision", "fp16", "-o", tmp_path / "h.onnx") == 2
    assert "hqp dequantize" in capsys.readouterr().err
