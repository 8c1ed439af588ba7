"""Scan and Loop, unrolled: what onnxruntime computes of them, and gradients beside differences in float64."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from hqp_onnx import score
from hqp_onnx.arrays import Array
from hqp_onnx.gradients.per_sample import PerSample
from hqp_onnx.passes.lowering.unroll_loops import LARGEST, unroll_loops
from hqp_onnx.runtimes.session import Session

RNG = np.random.default_rng(0)
WEIGHTS = {
    name: 0.4 * RNG.standard_normal(shape)
    for name, shape in {"v": (6, 8), "p": (8, 8), "r": (8, 8), "u": (8, 3)}.items()
}
X = RNG.standard_normal((3, 5, 6)).astype(np.float32)
LABELS = np.arange(3)

STEP = "a = MatMul (xi, p) c = MatMul (s, r) d = Add (a, c) s2 = Tanh (d)"
SCAN = """h = MatMul (x, v) t = Transpose <perm = [1, 0, 2]> (h) z = ReduceMean <axes = [0], keepdims = 0> (t)
    f, ys = Scan <num_scan_inputs = 1, {more} body = b (float[m,8] s, float[m,8] xi) =>
        (float[m,8] s2, float[m,8] o) {{ {step} o = Sigmoid (d) }}> (z, {read})
    q = ReduceMean <axes = [{axis}], keepdims = 0> (ys) w = Mul (q, f) y = MatMul (w, u)"""
LOOP = """h = MatMul (x, v) t = Transpose <perm = [1, 0, 2]> (h) z = ReduceMean <axes = [0], keepdims = 0> (t)
    n = Constant <value = int64 {{{count}}}> () go = Constant <value = bool {{1}}> ()
    f, ys = Loop ({n}, {go}, z) <body = b (int64 i, bool k, float[m,8] s) =>
        (bool k2, float[m,8] s2, float[m,8] o) {{ {end} xi = Gather <axis = 0> (t, i) {step} o = Sigmoid (d) }}>
    q = ReduceMean <axes = [0], keepdims = 0> (ys) w = Mul (q, f) y = MatMul (w, u)"""
IF = """e = ReduceSum <keepdims = 0> (i) one = Constant <value = int64 {1}> () less = Less (i, one)
    s2 = If (less) <then_branch = l () => (float[m,8] s3) { s3 = MatMul (d, r) },
                    else_branch = g () => (float[m,8] s4) { s4 = Tanh (d) }>"""
INNER = """xi2, l = Scan <num_scan_inputs = 1, body = j (float[m] q1, float[m] q2) => (float[m] q3, float[m] q4) {
        q3 = Add (q1, q2) q4 = Mul (q3, q2) }, scan_input_axes = [1], scan_output_axes = [1]> (zero, s)
    a = MatMul (l, p) d = Add (a, xi) s2 = Tanh (d)"""


def scan(step: str = STEP, more: str = "", read: str = "t", axis: int = 0) -> str:
    return SCAN.format(step=step, more=more, read=read, axis=axis)


def loop(step: str = STEP, count: int = 4, n: str = "n", go: str = "go", end: str = "k2 = Identity (k)") -> str:
    return LOOP.format(step=step, count=count, n=n, go=go, end=end)


CASES = {
    "scan": scan(),
    "against the order of steps": scan(more="scan_input_directions = [1],"),
    "written against it": scan(more="scan_output_directions = [1],"),
    "along other axes": scan(more="scan_input_axes = [1], scan_output_axes = [-2],", read="h", axis=1),
    "loop": loop(),
    "without a condition": loop(go=""),
    "the constant condition": loop(end="k2 = Constant <value = bool {1}> ()"),
    "a branch in a loop": loop("a = MatMul (xi, p) d = Add (a, s)" + IF),
    "a scan in a scan": "zero0 = ReduceMean <axes = [1, 2], keepdims = 0> (x) zero = Mul (zero0, zero0) " + scan(INNER),
    "what no pass changes": scan("a = Relu (p) c = MatMul (xi, a) d = Add (c, s) s2 = Tanh (d)"),
}


def build(body: str, opset: int = 17, kind: type[np.floating] = np.float32) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g (float[n,5,6] x) => (float[n,3] y) {{ {body} }}'
    if kind is np.float64:
        text = text.replace("float[", "double[")
    model = onnx.parser.parse_model(text)
    used = {name for name in WEIGHTS if f" {name})" in body or f"({name})" in body}
    model.graph.initializer.extend(numpy_helper.from_array(WEIGHTS[name].astype(kind), name) for name in sorted(used))
    return model


def kinds(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def losses(model: onnx.ModelProto) -> Array:
    """Cross-entropy of each sample."""
    logits = Session(model).run({"x": X.astype(np.float64)})["y"]
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(X)), LABELS]


def differences(body: str, name: str) -> Array:
    """Squared norms of the gradients of each filter, [samples, filters], by central differences of the given model."""
    model, step = build(body, kind=np.float64), 1e-5
    tensor = next(t for t in model.graph.initializer if t.name == name)
    value, gradient = numpy_helper.to_array(tensor).copy(), np.zeros((len(X), *WEIGHTS[name].shape))
    for place in np.ndindex(*value.shape):
        ends = []
        for sign in (1, -1):
            moved = value.copy()
            moved[place] += sign * step
            tensor.CopyFrom(numpy_helper.from_array(moved, name))
            ends.append(losses(model))
        gradient[(slice(None), *place)] = (ends[0] - ends[1]) / (2 * step)
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    return np.square(gradient).sum(1)


@pytest.mark.parametrize("name", CASES)
def test_unrolled_loops_compute_the_same(name: str) -> None:
    model = build(CASES[name])
    unrolled = unroll_loops(model, {"x": X[:1]})
    assert kinds(unrolled).isdisjoint(("Scan", "Loop"))
    onnx.checker.check_model(unrolled)
    want, have = (Session(each).run({"x": X})["y"] for each in (model, unrolled))
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("body", [loop(count=0), loop(count=-3), loop().replace("bool {1}", "bool {0}", 1)])
def test_a_loop_of_no_passes_gives_its_states(body: str) -> None:
    model = build(body.split(" q = ")[0] + " y = MatMul (f, u)")
    unrolled = unroll_loops(model, {"x": X[:1]})
    assert "Loop" not in kinds(unrolled)
    want, have = (Session(each).run({"x": X})["y"] for each in (model, unrolled))
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)


def test_a_loop_of_no_passes_whose_results_are_stacked_stays() -> None:
    """They are empty, of a size that only its body knows."""
    body = loop(count=0).split(" q = ")[0] + " s0 = ReduceSum <keepdims = 0> (ys) w = Add (f, s0) y = MatMul (w, u)"
    assert "Loop" in kinds(unroll_loops(build(body), {"x": X[:1]}))


def test_forms_of_older_opsets() -> None:
    model = build(scan(), opset=11)
    unrolled = unroll_loops(model, {"x": X[:1]})
    want, have = (Session(each).run({"x": X})["y"] for each in (model, unrolled))
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["scan", "against the order of steps", "loop", "a branch in a loop", "a scan in a scan"]
)
def test_gradients_are_those_of_differences(name: str) -> None:
    model = build(CASES[name])
    have = PerSample(model, {"x": X[:1]})({"x": X}, LABELS)
    assert have.keys() == {tensor.name for tensor in model.graph.initializer}
    for weight in have.keys() & {"p", "r", "v"}:
        want = differences(CASES[name], weight)
        np.testing.assert_allclose(have[weight], want, rtol=2e-4, atol=1e-5 * want.max())


def test_weights_of_a_body_are_scored_once() -> None:
    scores = score(build(scan()), {"x": X, "labels": LABELS}).filters
    assert {"p", "r", "v", "u"} <= scores.keys() and all(scores[name].min() > 0 for name in ("p", "r", "v"))


STAY = {
    "a condition that is computed": loop(
        end="m0 = ReduceMax <keepdims = 0> (s) z0 = Constant <value_float = 0.0> () k2 = Greater (m0, z0)"
    ),
    "a count that is computed": loop(n="n2").replace(
        "n = Const", "n1 = ReduceMax <axes = [0, 1, 2], keepdims = 0> (x) n2 = Cast <to = 7> (n1) n = Const"
    ),
    "too many nodes": loop(count=LARGEST // 6 + 1),
    "no pass": loop(count=0),
}


@pytest.mark.parametrize("name", STAY)
def test_what_is_not_proven_or_too_long_stays(name: str) -> None:
    model = build(STAY[name])
    assert unroll_loops(model, {"x": X[:1]}) is model


def test_one_pass_for_each_sample_stays() -> None:
    """The number of samples is no constant, but in a model of a fixed batch."""
    model = build(scan(read="h"))
    assert unroll_loops(model, {"x": X[:1]}) is model
    assert unroll_loops(model, {"x": X}, batch=3) is not model


def test_what_draws_is_drawn_in_each_pass() -> None:
    model = build(scan("c = RandomNormalLike (s) d = Mul (xi, c) s2 = Tanh (d)"))
    unrolled = unroll_loops(model, {"x": X[:1]})
    assert [node.op_type for node in unrolled.graph.node].count("RandomNormalLike") == X.shape[1]
