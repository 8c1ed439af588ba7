"""The branch of a constant condition computes what the If computed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from oracle import run

from hqp_onnx.channels.walk import analyze
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.take_branches import take_branches

RNG = np.random.default_rng(0)
W = RNG.standard_normal((8, 8)).astype(np.float32)
TWO_TENSORS = """h = MatMul(x, w) b = Relu(h)
  y = If(no) <then_branch = p () => (float[n,8] t) { k = Neg(b) t = Add(k, x) },
              else_branch = q () => (float[n,8] e) { k = Abs(h) e = MatMul(k, w) }>"""
CAPTURED = """h = MatMul(x, w)
  z = If(yes) <then_branch = p () => (float[n,8] h) { }, else_branch = q () => (float[n,8] e) { e = Neg(h) }>
  y = Add(z, h)"""
STORED = """k = Neg(x)
  z = If(yes) <then_branch = p () => (float[8,8] r) { r = Identity(w) }, else_branch = q () => (float[8,8] e)
    { e = Neg(w) }> y = MatMul(k, z)"""
CLASH = """k = Neg(x)
  z = If(yes) <then_branch = p () => (float[n,8] t) { m = Abs(k) t = MatMul(m, w) },
               else_branch = q () => (float[n,8] e) { e = Neg(k) }>
  y = If(yes) <then_branch = p () => (float[n,8] t2) { m = Exp(z) t2 = Add(m, k) },
               else_branch = q () => (float[n,8] e2) { e2 = Neg(k) }>"""
NESTED = """y = If(yes) <then_branch = p () => (float[n,8] t) {
    t = If(no) <then_branch = r () => (float[n,8] tt) { tt = Neg(x) },
                else_branch = s () => (float[n,8] ee) { k = MatMul(x, w) ee = Abs(k) }> },
  else_branch = q () => (float[n,8] e) { e = Neg(x) }>"""
ON_A_RANK = """s = Shape(x) r = Size(s) q = Equal(r, two)
  h = MatMul(x, w) y = If(q) <then_branch = p () => (float[n,8] t) { b = Relu(h) t = MatMul(b, w2) },
                              else_branch = q () => (float[n,8] e) { e = Neg(h) }>"""


def parse(body: str) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[n,8] x) => (float[n,8] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    arrays = {"w": W, "w2": W.T.copy(), "yes": np.array(True), "no": np.array(False), "two": np.array(2)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in arrays.items())
    return model


@pytest.mark.parametrize("body", [TWO_TENSORS, STORED, CLASH, NESTED])
def test_taken(body: str) -> None:
    model = parse(body)
    result = take_branches(to_graph(model))
    after, feeds = to_proto(result.graph), {"x": RNG.standard_normal((3, 8)).astype(np.float32)}
    onnx.checker.check_model(after)
    assert result.modified and "If" not in [node.op for node in result.graph.nodes]
    assert np.allclose(run(model, feeds)[0], run(after, feeds)[0], rtol=1e-6)
    assert np.array_equal(result.graph.tensors()["w"].values, W)
    assert not take_branches(result.graph).modified


def test_a_condition_on_a_rank_is_constant_and_units_lie_behind_it() -> None:
    model = parse(ON_A_RANK)
    graph = canonicalize(to_graph(model)).graph
    assert not canonicalize(graph).modified
    assert len(analyze(graph).prunable) == 8
    feeds = {"x": RNG.standard_normal((3, 8)).astype(np.float32)}
    assert np.allclose(run(model, feeds)[0], run(to_proto(graph), feeds)[0], rtol=1e-5)
