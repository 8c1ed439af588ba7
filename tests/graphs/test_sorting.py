"""Nodes in any order: sorted, they compute what onnxruntime computes of the file."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from oracle import run

import hqp_onnx
from hqp_onnx.errors import ModelError
from hqp_onnx.graphs.sorting import sort_nodes

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,16] x, bool flag) => (float[n,8] y) {
  c = MatMul(x, w1)
  r = Relu(c)
  s = If (flag) <
    then_branch = a () => (float[n,64] t) { h = Neg(r)  t = Exp(h) },
    else_branch = b () => (float[n,64] e) { e = Identity(c) }
  >
  y = MatMul(s, w2)
}"""


def model() -> onnx.ModelProto:
    made, rng = onnx.parser.parse_model(TEXT), np.random.default_rng(0)
    for name, shape in {"w1": (16, 64), "w2": (64, 8)}.items():
        values = rng.standard_normal(shape).astype(np.float32)
        made.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return made


def reordered(made: onnx.ModelProto, order: tuple[int, ...]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    del copy.graph.node[:]
    copy.graph.node.extend(made.graph.node[number] for number in order)
    branch = copy.graph.node[order.index(2)].attribute[0].g
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in branch.node][::-1]
    del branch.node[:]
    branch.node.extend(nodes)
    return copy


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_any_order_is_sorted(order: tuple[int, ...]) -> None:
    shuffled = reordered(model(), order)
    sort_nodes(shuffled)
    onnx.checker.check_model(shuffled)
    for flag in (True, False):
        feeds = {"x": np.random.default_rng(1).standard_normal((3, 16)).astype(np.float32), "flag": np.array(flag)}
        np.testing.assert_array_equal(run(shuffled, feeds)[0], run(model(), feeds)[0])


def test_what_is_sorted_stays_as_it_is() -> None:
    made = model()
    before = made.SerializeToString(deterministic=True)
    sort_nodes(made)
    assert made.SerializeToString(deterministic=True) == before


def test_a_file_is_taken_in_any_order(tmp_path: Path) -> None:
    plain = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n,16] x) => (float[n,8] y) { y = MatMul(r, w2) r = Relu(c) '
        "c = MatMul(x, w1) }"
    )
    plain.graph.initializer.extend(model().graph.initializer)
    onnx.save(plain, tmp_path / "m.onnx")
    assert hqp_onnx.inspect(tmp_path / "m.onnx").prunable == 64
    assert len(hqp_onnx.prune(plain, 0.5).graph.node) == 3


def test_a_circle_is_refused() -> None:
    made = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n] x) => (float[n] y) '
        "{ a = Add(x, b) b = Neg(a) y = Exp(b) }"
    )
    with pytest.raises(ModelError, match="sorted"):
        hqp_onnx.inspect(made)
