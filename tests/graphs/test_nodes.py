"""What NodeProtos and onnx-graphsurgeon's nodes say of themselves."""

from __future__ import annotations

import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest

from hqp_onnx.graphs.nodes import attribute, operator, opset, reads

MODEL = onnx.parser.parse_model(
    """<ir_version: 8, opset_import: ["acme" : 3, "" : 17]> g (float[n,3] x, bool c) => (float[n,3] y) {
    a = acme.Relu <mode = "soft", size = 2> (x)
    b = Relu(a)
    y = If (c) <then_branch = t () => (float[n,3] p) { p = Neg(b) },
                else_branch = e () => (float[n,3] q) { q = Abs(a) }>
    }"""
)


@pytest.mark.parametrize("nodes", [list(MODEL.graph.node), gs.import_onnx(MODEL).nodes])
def test_operators_and_attributes(nodes: list[onnx.NodeProto] | list[gs.Node]) -> None:
    assert [operator(node) for node in nodes] == ["acme::Relu", "Relu", "If"]
    assert attribute(nodes[0], "mode") == "soft"
    assert attribute(nodes[0], "size") == 2
    assert attribute(nodes[1], "size", 7) == 7


def test_reads_include_those_of_subgraphs() -> None:
    assert [reads(node) for node in MODEL.graph.node] == [["x"], ["a"], ["c", "b", "a"]]


def test_opset_is_that_of_the_standard_domain() -> None:
    assert opset(MODEL) == 17
    assert opset(onnx.ModelProto()) == 0
