"""float16 graphs: valid, half as large, close to float32 on the zoo's architectures, refused where they must be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from conftest import MODELS
from onnx.reference import ReferenceEvaluator
from oracle import require_runtime, run

from hqp_onnx.errors import MissingRuntimeError, ModelError
from hqp_onnx.graphs.model_io import load, to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.convert_fp16 import convert_fp16
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.insert_qdq import insert_qdq
from hqp_onnx.runtimes.targets import target
from hqp_onnx.statistics.calibration import Calibration, Range

ZOO = Path(__file__).parents[1] / "zoo"
HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
OPERATORS = {  # body, and what it needs beside x
    "sizes of Resize are float32": 'y = Resize<mode="linear">(x, , s)',
    "a filled tensor": "d = Shape(x)  o = ConstantOfShape<value = float[1] {2.0}>(d)  y = Mul(x, o)",
    "a tensor filled by default": "d = Shape(x)  o = ConstantOfShape(d)  y = Add(x, o)",
    "a constant": "c = Constant<value_float = 0.5>()  y = Mul(x, c)",
    "a cast to float": "i = Cast<to=7>(x)  f = Cast<to=1>(i)  y = Add(x, f)",
    "an optional input left out": "y = Clip(x, , h)",
    "an input that is an output's only source": "y = Identity(x)",
    "an operator without float16": 'b = BitShift<direction="LEFT">(n, n)  f = Cast<to=1>(b)  y = Mul(x, f)',
    "a window": "k = Constant<value_int = 4>()  w = HannWindow(k)  y = Mul(x, w)",
}
REFUSED = {  # whose float16 form is
    "a mean of LayerNormalization": "[norm] l, m, v = LayerNormalization(x, ones)  a = Mul(l, v)  y = Add(a, m)",
    "a function with constants": "e = Neg(x)  [norm] y = MeanVarianceNormalization<axes = [0, 2, 3]>(e)",
    "an operator that onnxruntime has not": "[norm] r = RandomNormal<shape = [1], scale = 1e-7>()  y = Add(x, r)",
}
TOLERANCE = 2e-3  # float16 has 11 bits: 5e-4 per rounding, which deep graphs add up


def with_body(body: str, opset: int = 17) -> onnx.ModelProto:
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[1, 2, 4, 4] x) => (float[N, C, H, W] y) {{ {body} }}'
    )
    model = onnx.parser.parse_model(text)
    constants = {
        "s": np.float32([1, 1, 2, 2]),
        "h": np.float32(0.25),
        "n": np.ones((4,), np.uint8),
        "ones": np.ones((4,), np.float32),
    }
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in constants.items() if k in used)
    return model


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(HEADER + text)


def converted(model: onnx.ModelProto) -> onnx.ModelProto:
    return to_proto(convert_fp16(canonicalize(to_graph(model)).graph).graph)


def types(model: onnx.ModelProto) -> list[tuple[str, int]]:
    return [(v.name, v.type.tensor_type.elem_type) for v in (*model.graph.input, *model.graph.output)]


def zoo_model(name: str) -> onnx.ModelProto:
    """A graph of the zoo, weights drawn as wide as their fan-in allows."""
    model = onnx.parser.parse_model((ZOO / f"{name}.onnxtxt").read_text())
    rng = np.random.default_rng(0)
    for value in model.graph.value_info:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        values = rng.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 1)) if len(shape) > 1 else np.ones(shape)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(dtype), value.name))
    del model.graph.value_info[:]
    return model


@pytest.mark.parametrize("name", sorted(path.stem for path in ZOO.glob("*.onnxtxt")))
def test_the_zoo_in_float16(name: str) -> None:
    model = zoo_model(name)
    rng = np.random.default_rng(1)
    feeds = {}
    for value in model.graph.input:
        shape = [d.dim_value or (32 if i else 2) for i, d in enumerate(value.type.tensor_type.shape.dim)]
        integers = value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT
        feeds[value.name] = rng.integers(0, 50, shape) if integers else rng.standard_normal(shape, np.float32)
    require_runtime(model, feeds)
    half = converted(model)
    assert types(half) == types(model)
    assert not any(t.data_type == onnx.TensorProto.FLOAT for t in half.graph.initializer)
    for want, found in zip(run(model, feeds), run(half, feeds), strict=True):
        assert np.abs(found - want).max() <= TOLERANCE * np.abs(want).max()


def test_bundled_models_halve_and_keep_their_answers(bundled: Path) -> None:
    graph = fold_batchnorm(canonicalize(to_graph(load(bundled))).graph).graph
    half = to_proto(convert_fp16(graph).graph)
    with np.load(MODELS / "fashion_mnist_val.npz") as data:
        feeds = {"input": data["input"][:300].astype(np.float32)}
    want, found = run(to_proto(graph), feeds)[0], run(half, feeds)[0]
    assert (want.argmax(1) == found.argmax(1)).mean() >= 0.99
    assert half.ByteSize() <= 0.51 * to_proto(graph).ByteSize()


def test_operators_without_float16_stay_in_float32_and_nodes_are_sorted() -> None:
    text = "g (float[n,4] x) => (float[n,2] y, int64[n,2] i) <int64[1] k = {2}> { h = Relu(x) y, i = TopK(h, k) }"
    half = converted(parsed(text))
    casts = [node.attribute[0].i for node in half.graph.node if node.op_type == "Cast"]
    assert onnx.TensorProto.FLOAT in casts
    x = np.random.default_rng(0).standard_normal((3, 4), np.float32)
    values, indices = ReferenceEvaluator(half).run(None, {"x": x})
    assert values.dtype == np.float32
    assert np.abs(values - np.sort(np.maximum(x, 0), 1)[:, :-3:-1]).max() <= 2e-3
    assert indices.shape == (3, 2)


def test_constants_stay_finite_and_above_zero() -> None:
    text = (
        "g (float[n] x) => (float[n] y) <float big = {3e38}, float tiny = {1e-12}> { a = OP(x, big) y = Add(a, tiny) }"
    )
    results = [convert_fp16(canonicalize(to_graph(parsed(text.replace("OP", op)))).graph) for op in ("Add", "Min")]
    added, compared = (
        {t.name: float(onnx.numpy_helper.to_array(t)) for t in to_proto(r.graph).graph.initializer} for r in results
    )
    assert added == {"big": 65504, "tiny": pytest.approx(5.96e-8, rel=1e-2)}
    assert compared["big"] == np.float32(3e38)  # Min is computed in float32
    assert [r.notes for r in results] == [("'big' has finite values beyond 65504, cut to it",), ()]


@pytest.mark.parametrize("name", [*OPERATORS, *REFUSED])
def test_operators(name: str) -> None:
    model = with_body((OPERATORS | REFUSED)[name])
    x = np.random.default_rng(0).uniform(-2, 2, (1, 2, 4, 4)).astype(np.float32)
    result = convert_fp16(to_graph(model))
    half = to_proto(result.graph)
    onnx.checker.check_model(half, full_check=True)
    assert result.notes == (("'norm' stays in float32: its float16 form is refused",) if name in REFUSED else ())
    expected, found = run(model, {"x": x})[0], run(half, {"x": x})[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=4e-3)  # |values| <= 4: two roundings of 2^-11


def test_types_that_inference_does_not_reach() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[n,6] x) => (float[n,3] v, int64[n,3] i)
      <int64[1] k = {3}> { e = Exp(x) l = LpNormalization<axis=1>(e) f = Flatten(l) v, i = TopK(f, k) }"""
    model, x = onnx.parser.parse_model(text), np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    wanted, found = (run(m, {"x": x}) for m in (model, to_proto(convert_fp16(to_graph(model)).graph)))
    np.testing.assert_allclose(found[0], wanted[0], atol=2e-3)
    np.testing.assert_array_equal(found[1], wanted[1])


def test_what_the_checker_refuses_in_float32_too_is_no_reason() -> None:
    model = with_body("e = Neg(x)  y = MeanVarianceNormalization(e)")
    with pytest.raises(onnx.shape_inference.InferenceError):  # onnx leaves out the attribute's default
        onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(0).uniform(-2, 2, (1, 2, 4, 4)).astype(np.float32)
    half = to_proto(convert_fp16(to_graph(model)).graph)
    np.testing.assert_allclose(run(half, {"x": x})[0], run(model, {"x": x})[0], atol=4e-3)


def test_outputs_that_no_node_makes() -> None:
    model = parsed(
        "g (float[n,2] x, float[n] s) => (float[2] c, float[n,2] y, float[n,2] x, float[n] s)"
        " <float[2] c = {0.1, 3.3}> { y = Mul(x, c) }"
    )
    half = to_proto(convert_fp16(to_graph(model)).graph)
    onnx.checker.check_model(half, full_check=True)
    assert types(half) == types(model)
    x, s = np.float32([[0.1, 2]]), np.float32([1 / 3])
    constant, found, *same = run(half, {"x": x, "s": s})
    for got, wanted in zip((constant, *same), (np.float32([0.1, 3.3]), x, s), strict=True):
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_allclose(found, x * np.float32([0.1, 3.3]), rtol=2e-3)


def test_an_output_that_is_named_twice() -> None:
    model = parsed("g (float[n,2] x) => (float[n,2] y, float[n,2] z, float[n,2] y) { y = Relu(x)  z = Mul(y, x) }")
    half = to_proto(convert_fp16(to_graph(model)).graph)
    assert types(half) == types(model)
    x = np.float32([[0.5, -2]])
    for got, wanted in zip(run(half, {"x": x}), run(model, {"x": x}), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_operators_without_float16_are_computed_in_float32() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1, 6, 4] b, float[1, 1, 6] s) => (int64[N, 3] y) {
     a = Neg(b)  c = Neg(a)  y = NonMaxSuppression(c, s, m, t, t) }"""
    model = onnx.parser.parse_model(text)
    for name, value in (("m", np.int64([3])), ("t", np.float32([0.5]))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    half = to_proto(convert_fp16(to_graph(model)).graph)
    onnx.checker.check_model(half, full_check=True)
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 8, (1, 6, 2))
    feeds = {
        "b": np.concatenate([corner, corner + 4], 2).astype(np.float32),
        "s": np.float32(rng.integers(0, 64, (1, 1, 6))),
    }
    np.testing.assert_array_equal(run(half, feeds)[0], run(model, feeds)[0])
    (nms,) = (node for node in half.graph.node if node.op_type == "NonMaxSuppression")
    assert list(nms.input[2:]) == ["m", "t", "t"]


def test_qdq_becomes_float16_at_opset_19() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, 4, 4] x) => (float[N, 2, 4, 4] y) {
         h = Conv(x, w)  y = Relu(h) }"""
    )
    weight = np.random.default_rng(0).normal(size=(2, 3, 1, 1)).astype(np.float32)
    weight[1] *= 1e-7  # a scale below the smallest float16
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    quantized = insert_qdq(to_graph(model), Calibration({"x": Range(-2, 2, 2)}, "minmax"), target("tensorrt")).graph
    half = to_proto(convert_fp16(quantized).graph)
    onnx.checker.check_model(half, full_check=True)
    assert half.opset_import[0].version == 19
    kinds = {t.name: t.data_type for t in half.graph.initializer}
    assert set(kinds.values()) == {onnx.TensorProto.INT8, onnx.TensorProto.FLOAT16}
    scales = next(onnx.numpy_helper.to_array(t) for t in half.graph.initializer if t.name.startswith("w/axis0/scale"))
    assert (scales > 0).all()
    x = np.random.default_rng(1).uniform(-2, 2, (2, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(run(half, {"x": x})[0], run(to_proto(quantized), {"x": x})[0], atol=1e-2)


def test_float_weights_behind_a_pair_keep_their_signs() -> None:
    text = """<ir_version: 9, opset_import: ["" : 19]> g (float[N, 3] x) => (float[N, 3] y)
     <float[3] w = {-1.0, 0.5, -0.25}, float s = {0.0078125}, int8 z = {0}> {
     q = QuantizeLinear(w, s, z)  d = DequantizeLinear(q, s, z)  y = Mul(x, d) }"""
    model = onnx.parser.parse_model(text)
    half = to_proto(convert_fp16(to_graph(model)).graph)
    x = np.float32([[1, 2, 4]])
    np.testing.assert_array_equal(run(half, {"x": x})[0], [[-1, 1, -1]])


def test_subgraphs_become_float16_too() -> None:
    model = parsed(
        """g (float[n] x, bool c) => (float[n] y) <float[1] w = {0.5}> {
         h = Mul(x, w)
         y = If(c) <then_branch = t () => (float[n] a) { a = Neg(h) },
                    else_branch = e () => (float[n] b) <float[1] v = {3.0}> { b = Mul(h, v) }> }"""
    )
    half = to_proto(convert_fp16(to_graph(model)).graph)
    branch = next(node for node in half.graph.node if node.op_type == "If").attribute[1].g
    assert [t.data_type for t in branch.initializer] == [onnx.TensorProto.FLOAT16]
    for chosen in (True, False):
        feeds = {"x": np.float32([1, -2, 4]), "c": np.array(chosen)}
        np.testing.assert_array_equal(run(half, feeds)[0], run(model, feeds)[0])  # powers of two and small integers


def test_what_has_no_float16_form_is_refused() -> None:
    with pytest.raises(ModelError, match="no float32 tensors"):
        converted(parsed("g (int64[n] x) => (int64[n] y) { y = Neg(x) }"))
    unknown = parsed("g (float[n] x) => (float[n] y) { h = Relu(x) y = Neg(h) }")
    graph = to_graph(unknown)
    graph.nodes[1].op = "Nonsense"
    with pytest.raises(ModelError, match="no float16 form"):
        convert_fp16(graph)


@pytest.mark.parametrize("kind", ["input", "output"])
def test_sequences_cannot_be_cast(kind: str) -> None:
    text = {
        "input": "g (seq(float[n,4]) x, int64 i) => (float[n,4] y) { a = SequenceAt(x, i)  y = Relu(a) }",
        "output": "g (float[n,4] x) => (seq(float[n,4]) y) { a = Relu(x)  y = SequenceConstruct(a) }",
    }[kind]
    graph = to_graph(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'))
    with pytest.raises(ModelError, match=f"{kind} '.' is a sequence of float32, which cannot be cast"):
        convert_fp16(graph)


def test_without_onnxruntime_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingRuntimeError, match=r"hqp-onnx\[onnxruntime\]"):
        convert_fp16(to_graph(parsed("g (float[n] x) => (float[n] y) { y = Neg(x) }")))


def test_inputs_and_outputs_may_have_names_of_the_converter() -> None:
    text = "g (float[n,4] graph_input_cast_1, float[n,4] x) => (float[n,4] graph_output_cast_1, float[n,4] y) {"
    text += "[graph_input_cast0] y = Mul(graph_input_cast_1, x) graph_output_cast_1 = Add(y, x) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    converted = to_proto(convert_fp16(to_graph(model)).graph)
    for own, ends in ((converted.graph.input, model.graph.input), (converted.graph.output, model.graph.output)):
        assert [value.name for value in own] == [value.name for value in ends]
    feeds = {name: np.full((2, 4), k, np.float32) for k, name in enumerate(("graph_input_cast_1", "x"), 2)}
    np.testing.assert_array_equal(run(converted, feeds)[0], np.full((2, 4), 9.0))


BATCHES = [  # what onnxruntime takes for a transposed batch t by constants, and the shape of the product
    ("y = MatMul(square, t)", "2, 5, 4"),
    ("y = MatMul(t, vector)", "2, 5"),
    ("k = Identity(t)  y = MatMul(k, w)", "2, 5, 7"),
    ("k = Mul(c, t)  y = MatMul(k, w)", "2, 5, 7"),
    ("k = Div(t, c)  i = Add(k, zero)  y = MatMul(i, w)", "2, 5, 7"),
    ("k = Reshape(t, shape)  y = MatMul(k, w)", "2, 5, 7"),
    ("k = Transpose<perm = [1, 0]>(turned)  y = MatMul(t, k)", "2, 5, 7"),
    ("k = Gather(rows, first)  y = MatMul(t, k)", "2, 5, 7"),
    ("k = Transpose<perm = [0, 2, 1]>(t)  y = MatMul(k, square)", "2, 4, 5"),
]


def test_an_output_that_an_if_reads_in_float16_is_refused() -> None:
    then, other = "a () => (u) { u = MatMul(x, w) }", "e () => (v) { t = Neg(x)  v = MatMul(t, w) }"
    made = parsed(
        f"g (float[n, 6] x, bool b) => (float[6, 4] w, float[n, 4] y) {{ "
        f"y = If(b) <then_branch = {then}, else_branch = {other}> }}"
    )
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((6, 4), np.float32), "w"))
    onnx.checker.check_model(made, full_check=True)
    with pytest.raises(ModelError, match="no float16 form"):
        convert_fp16(to_graph(made))


def test_a_transposed_batch_times_a_matrix_opens(tmp_path: Path) -> None:
    """In a process of its own, which would die where onnxruntime fuses the two."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((4, 7)).astype(np.float32)
    for number, perm in enumerate([(1, 0, 2), (1, 2, 0), (1, 2, 0, 3), (1, 2, 3, 0)]):
        sizes = [4 if axis == perm[-1] else 2 + axis for axis in range(len(perm))]
        given, found = f"float{sizes} x", f"float[{', '.join('abcd'[: len(perm)])}] y"
        made = parsed(f"g ({given}) => ({found}) {{ t = Transpose<perm = {list(perm)}>(x)  y = MatMul(t, w) }}")
        made.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
        half, x = converted(made), {"x": rng.standard_normal(sizes).astype(np.float32)}
        onnx.save(half, tmp_path / f"{number}.onnx")
        np.testing.assert_allclose(ReferenceEvaluator(half).run(None, x)[0], run(made, x)[0], atol=0.02)
    for number, (body, shape) in enumerate(BATCHES, 4):
        made = parsed(f"g (float[5, 2, 4] x) => (float[{shape}] y) {{ t = Transpose<perm = [1, 0, 2]>(x)  {body} }}")
        arrays = {"w": weights, "turned": weights.T, "square": rng.standard_normal((5, 5)).astype(np.float32)}
        arrays |= {"c": np.float32(0.5), "zero": np.float32(0), "shape": np.array([2, 5, 4])}
        arrays |= {"vector": weights[:, 0], "rows": np.tile(weights, (3, 1)), "first": np.array([0, 1, 2, 3])}
        for name, values in arrays.items():
            made.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))
        half, x = converted(made), {"x": rng.standard_normal((5, 2, 4)).astype(np.float32)}
        onnx.save(half, tmp_path / f"{number}.onnx")
        np.testing.assert_allclose(ReferenceEvaluator(half).run(None, x)[0], run(made, x)[0], atol=0.05)
    body = "t = Transpose<perm = [1, 0, 2]>(x)  y = MatMul(t, w)"
    original = parsed(f"g (float16[2, 3, 4] x) => (float16[a, b, c] y) {{ {body} }}")
    original.graph.initializer.append(onnx.numpy_helper.from_array(weights.astype(np.float16), "w"))
    onnx.save(original, tmp_path / "given.onnx")
    code = """
import pathlib, sys, onnxruntime
from hqp_onnx.runtimes.session import Session
for file in sorted(pathlib.Path(sys.argv[1]).glob("[0-9]*.onnx")):
    onnxruntime.InferenceSession(file)
Session(pathlib.Path(sys.argv[1]) / "given.onnx")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment)


def test_a_node_of_a_branch_stays_in_float32() -> None:
    """HannWindow states no type, CumSum has no float16 form; they stay, also in a branch, and the rest converts."""
    made = onnx.parser.parse_model(
        f"""{HEADER}
        g (float[n,8] x, bool flag) => (float[n,8] y) {{
            h = Relu (x)
            y = If (flag) <
                then_branch = t () => (float[n,8] a) {{
                    size = Constant <value_int = 8> ()
                    w = HannWindow (size)
                    m = Mul (h, w)
                    a = Relu (m)
                }}, else_branch = e () => (float[n,8] b) {{
                    axis = Constant <value_int = 1> ()
                    m = Sqrt (h)
                    w = CumSum (m, axis)
                    b = Relu (w)
                }}>
        }}"""
    )
    half = to_proto(convert_fp16(to_graph(made)).graph)
    x = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    for flag in (True, False):
        feeds = {"x": x, "flag": np.array(flag)}
        assert np.allclose(run(made, feeds)[0], run(half, feeds)[0], atol=5e-3)
