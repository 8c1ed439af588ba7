"""Initial states that are zero for all inputs are absent; any other stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from oracle import run

from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.drop_zero_states import drop_zero_states

VALUES = {
    "w": np.ones((1, 9, 2), np.float32),
    "r": np.ones((1, 9, 3), np.float32),
    "zeros": np.zeros((1, 4, 3), np.float32),
    "ones": np.ones((1, 4, 3), np.float32),
    "size": np.array([2, 4, 3]),
    "first": np.array([0]),
    "last": np.array([1]),
    "nil": np.zeros((), np.float32),
    "one": np.ones((), np.float32),
}


@pytest.mark.parametrize(
    ("state", "absent"),
    [
        ("z = Identity(zeros)", True),
        ("a = ConstantOfShape(size)\n z = Slice(a, first, last, first)", True),
        ("a = Expand(nil, size)\n b = Gather<axis=0>(a, first)\n z = Cast<to=1>(b)", True),
        ("a = ConstantOfShape<value = float[1] {1.0}>(size)\n z = Slice(a, first, last, first)", False),
        ("a = Expand(one, size)\n z = Slice(a, first, last, first)", False),
        ("a = Concat<axis=1>(zeros, ones)\n z, y2 = Split<axis=1>(a)", False),
        ("a = Concat<axis=1>(zeros, zeros)\n z, y2 = Split<axis=1>(a)", True),
        ("z = Add(zeros, ones)", False),
    ],
)
def test_states(state: str, absent: bool) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[5,4,2] x) => (float[1,4,3] h) {{
      {state}
      y, h = GRU<hidden_size=3>(x, w, r, , , z)
    }}"""
    model = onnx.parser.parse_model(text)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in VALUES.items() if k in used)
    result = drop_zero_states(to_graph(model))
    node = next(node for node in result.graph.nodes if node.op == "GRU")
    assert (result.modified, len(node.inputs)) == (absent, 3 if absent else 6)
    feeds = {"x": np.random.default_rng(0).uniform(-1, 1, (5, 4, 2)).astype(np.float32)}
    np.testing.assert_array_equal(run(to_proto(result.graph), feeds)[0], run(model, feeds)[0])


def test_a_state_that_may_be_fed_stays() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[5,4,2] x, float[1,4,3] z) => (float[1,4,3] h) {
      y, h = GRU<hidden_size=3>(x, w, r, , , z)
    }"""
    model = onnx.parser.parse_model(text)
    values = {**{name: VALUES[name] for name in "wr"}, "z": VALUES["zeros"]}  # an initializer that is an input too
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items())
    assert not drop_zero_states(to_graph(model)).modified
