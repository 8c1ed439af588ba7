"""New names are free in every scope; a wish that is free is granted."""

from __future__ import annotations

import onnx
import onnx.parser
import onnx_graphsurgeon as gs

from hqp_onnx.graphs.unique_names import UniqueNames, tensor_names, unused, unused_prefix

MODEL = onnx.parser.parse_model(
    """<ir_version: 8, opset_import: ["" : 17]> g (float[n,3] x, bool c) => (float[n,3] y)
    <float w = {1.0}, float unread = {2.0}> {
    [first] a = Mul(x, w)
    [choice] y = If (c) <then_branch = t () => (float[n,3] p) { [inner] q = Neg(a) p = Neg(q) },
                         else_branch = e () => (float[n,3] r) { r = Abs(a) }>
    }"""
)


def test_names_of_all_scopes_are_taken() -> None:
    assert tensor_names(MODEL.graph) == {"x", "c", "y", "w", "unread", "a", "p", "q", "r"}
    assert tensor_names(gs.import_onnx(MODEL)) == tensor_names(MODEL.graph) - {"unread"}  # which the graph lacks


def test_a_free_wish_is_granted_once() -> None:
    names = UniqueNames(gs.import_onnx(MODEL), more=["extra"])
    assert [names.tensor("q/scale") for _ in range(3)] == ["q/scale", "q/scale_1", "q/scale_2"]
    assert [names.tensor(taken) for taken in ("q", "x", "extra")] == ["q_1", "x_1", "extra_1"]
    assert [names.node(name) for name in ("q", "first", "inner", "inner")] == ["q", "first_1", "inner_1", "inner_2"]
    assert unused("a", {"a", "a_1"}) == "a_2"


def test_no_name_begins_with_an_unused_prefix() -> None:
    assert unused_prefix("hqp.", ["x", "hqp"]) == "hqp."
    assert unused_prefix("hqp.", (name for name in ["hqp.1", "hqp._2"])) == "hqp.__"
