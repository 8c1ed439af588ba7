"""Folding computes the same, draws nothing, and never makes the file larger."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from oracle import run

from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.fold_constants import fold_constants
from hqp_onnx.runtimes.session import Session

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((64, 64)).astype(np.float32)
INTS = {"big": [400, 64], "one": [1], "rows": [200, 1], "zero": 0, "thousands": 4000, "step": 1, "ax": [0]}


def parse(body: str, opset: int = 17) -> onnx.ModelProto:
    """A model of x [n, 64] and the constants that ``body`` names."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[n,64] x) => (float[a,64] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    arrays: dict[str, np.ndarray] = {name: np.asarray(value, np.int64) for name, value in INTS.items()}
    arrays |= {"w": WEIGHT, "h": WEIGHT.astype(np.float16), "v": WEIGHT[:1], "half": np.float32(0.5)}
    arrays |= {"yes": np.array(True), "wq": (WEIGHT * 20).astype(np.int8), "share": np.float32(0.5)}
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in arrays.items() if k in used)
    return model


def ops(graph: gs.Graph) -> list[str]:
    return [node.op for node in graph.nodes]


SAME = [
    ("t = Transpose(w) y = MatMul(x, t)", ["MatMul"]),
    ("t = Transpose(w) u = Neg(t) k = Mul(u, half) y = MatMul(x, k)", ["MatMul"]),
    ("t = Transpose(w) a = MatMul(x, w) y = MatMul(a, t)", ["Transpose", "MatMul", "MatMul"]),
    ("t = Transpose(w) u = Transpose(w) a = MatMul(x, t) y = MatMul(a, u)", ["MatMul", "MatMul"]),
    ("i = Identity(w) j = Identity(w) a = MatMul(x, i) y = MatMul(a, j)", ["MatMul", "MatMul"]),
    ("c = Cast<to=1>(h) y = MatMul(x, c)", ["MatMul"]),
    ("c = Cast<to=1>(wq) s = Mul(c, half) y = MatMul(x, s)", ["MatMul"]),
    ("z = ConstantOfShape(big) m = ReduceMax<keepdims=0>(z) y = Add(x, m)", ["Add"]),
    ("z = ConstantOfShape(big) k = Mul(z, half) y = Concat<axis=0>(x, k)", ["ConstantOfShape", "Mul", "Concat"]),
    ("e = Expand(v, big) y = Concat<axis=0>(x, e)", ["Expand", "Concat"]),
    ("e = Tile(v, rows) y = Concat<axis=0>(x, e)", ["Tile", "Concat"]),
    (
        "r = Range(zero, thousands, step) f = Cast<to=1>(r) m = ReduceMax<keepdims=0>(f) y = Add(x, m)",
        ["Add"],
    ),
]


@pytest.mark.parametrize(("body", "left"), SAME)
def test_folded(body: str, left: list[str]) -> None:
    model = parse(body)
    result = fold_constants(to_graph(model))
    feeds = {"x": RNG.standard_normal((3, 64)).astype(np.float32)}
    after = to_proto(result.graph)
    assert np.allclose(run(model, feeds)[0], run(after, feeds)[0], rtol=1e-5, atol=1e-5)
    assert ops(result.graph) == left
    assert result.modified == (len(left) != len(model.graph.node))
    weights = [sum(int(np.prod(t.dims)) for t in m.graph.initializer) for m in (model, after)]
    assert weights[1] <= weights[0]


def test_what_grows_stays_through_every_fold() -> None:
    model = parse("e = Expand(v, big) k = Mul(e, half) y = Concat<axis=0>(x, k)")
    twice = canonicalize(canonicalize(to_graph(model)).graph).graph
    assert ops(twice) == ["Expand", "Mul", "Concat"]


RANDOM = [
    "r = RandomNormal<shape=[1, 64]>() y = Add(x, r)",
    "r = RandomUniform<shape=[1, 64]>() k = Mul(r, half) y = Add(x, k)",
    "r = RandomNormalLike(v) y = Add(x, r)",
    "r = RandomUniformLike(v) y = Add(x, r)",
    "a = Abs(v) m = ReduceMax<keepdims=0>(a) p = Div(a, m) b = Bernoulli(p) y = Mul(x, b)",
    "i = Multinomial<sample_size=64>(v) f = Cast<to=1>(i) y = Add(x, f)",
    "d, m = Dropout(v, share, yes) y = Add(x, d)",
]


@pytest.mark.parametrize("body", RANDOM)
def test_what_is_drawn_is_drawn_again(body: str) -> None:
    graph = canonicalize(to_graph(parse(body))).graph
    session, feeds = Session(to_proto(graph)), {"x": np.ones((2, 64), np.float32)}
    first, second = (session.run(feeds)["y"] for _ in range(2))
    assert first.shape == (2, 64) and not np.array_equal(first, second)


def test_draws_inside_branches_and_functions_stay() -> None:
    body = """m = ReduceMax<keepdims=0>(x) q = Greater(m, half)
      y = If(q) <then_branch = a () => (float[n,64] t) { r = RandomNormal<shape=[1, 64]>() t = Add(x, r) },
                 else_branch = b () => (float[n,64] e) { s = RandomNormal<shape=[1, 64]>() e = Sub(x, s) }>"""
    graph = canonicalize(to_graph(parse(body))).graph
    branches = next(node for node in graph.nodes if node.op == "If").attrs
    assert [ops(branches[name])[0] for name in ("then_branch", "else_branch")] == ["RandomNormal"] * 2
    function = '<opset_import: ["" : 17], domain: "loc"> noisy (p) => (o) { r = RandomNormalLike(p) o = Add(p, r) }'
    model = parse("y = loc.noisy(x)")
    model.functions.append(onnx.parser.parse_function(function))
    model.opset_import.add(domain="loc", version=1)
    assert ops(canonicalize(to_graph(model)).graph) == ["RandomNormalLike", "Add"]


def test_a_random_size_is_no_constant() -> None:
    body = """r = RandomUniform<shape=[64]>() z = NonZero(r) c = Greater(r, half) k = Compress<axis=1>(x, c)
      s = Shape(k) f = Cast<to=1>(s) m = ReduceMin<keepdims=0>(f) y = Add(x, m)"""
    assert "Shape" in ops(canonicalize(to_graph(parse(body))).graph)


def test_many_small_tables_stay_computed() -> None:
    """As those of a spectrogram: 2 kB each, 60 kB of them beside 100 kB of weights."""
    count = 30
    steps = [f"t{i} = Range(zero, far, step{i})  a{i + 1} = Add(a{i}, t{i})" for i in range(count)]
    body = f"a0 = MatMul(x, w) {' '.join(steps)} y = Relu(a{count})"
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[n,50] x) => (float[n,512] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    weights = {"w": np.ones((50, 512)), "zero": np.zeros(()), "far": np.array(512.0)}
    weights |= {f"step{i}": np.array(1.0) for i in range(count)}
    tensors = [onnx.numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()]
    model.graph.initializer.extend(tensors)
    folded = to_proto(fold_constants(fold_constants(to_graph(model)).graph).graph)
    assert folded.ByteSize() < 1.05 * model.ByteSize()
    x = {"x": np.ones((2, 50), np.float32)}
    np.testing.assert_array_equal(run(folded, x)[0], run(model, x)[0])
