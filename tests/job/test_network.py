"""Steps of a network: what a node belongs to, what a step reads, and what it computes in."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from hqp_onnx.job.network import traced, with_precisions
from hqp_onnx.model import open_model

_GATED = """
<ir_version: 8, opset_import: ["" : 17]> gated (float[n,3,8,8] x) => (float[n,4] y) {
  a = Conv<pads=[1,1,1,1]>(x, w1)
  s = Sigmoid(a)
  silu = Mul(a, s)
  mean = GlobalAveragePool(silu)
  squeezed = Conv(mean, w2)
  r = Relu(squeezed)
  excited = Conv(r, w3)
  gate = Sigmoid(excited)
  gated = Mul(silu, gate)
  end = GlobalAveragePool(gated)
  shape = Shape(x)
  zero = Constant<value_ints=[0]>()
  batch = Gather(shape, zero)
  rest = Constant<value_ints=[-1]>()
  sizes = Concat<axis=0>(batch, rest)
  flat = Reshape(end, sizes)
  y = Gemm(flat, w4)
}
"""


def _gated() -> onnx.ModelProto:
    model = onnx.parser.parse_model(_GATED)
    shapes = {"w1": (8, 3, 3, 3), "w2": (4, 8, 1, 1), "w3": (8, 4, 1, 1), "w4": (8, 4)}
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items())
    return model


def test_only_ways_that_meet_are_steps() -> None:
    """A product of one step with itself is none; a gate is; shape arithmetic reads nothing."""
    model = open_model(_gated())
    steps, places = traced(model.graph, model.channels())
    assert [(step.op, step.weight, step.reads) for step in steps] == [
        ("input", "", ()),
        ("Conv", "w1", (0,)),
        ("Conv", "w2", (1,)),
        ("Conv", "w3", (2,)),
        ("Mul", "", (1, 3)),
        ("Gemm", "w4", (4,)),
        ("output", "", (5,)),
    ]
    assert places["silu"] == places["s"] == 1
    assert places["gate"] == 3
    assert [step.group for step in steps] == [None, 0, None, 0, None, None, None]


@pytest.mark.parametrize("weight", [np.float32, np.float16])
def test_what_a_step_computes_in_is_read_from_the_file(weight: type) -> None:
    model = open_model(_gated())
    steps, _ = traced(model.graph, model.channels())
    conv, gemm = (next(s.name for s in steps if s.weight == name) for name in ("w1", "w4"))
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["q", "scale"], ["d"]),
        onnx.helper.make_node("Conv", ["x", "d"], ["a"], conv),
        onnx.helper.make_node("Gemm", ["a", "w4"], ["y"], gemm),
    ]
    tensors = [onnx.numpy_helper.from_array(np.ones((8, 4), weight), "w4")]
    graph = onnx.helper.make_graph(nodes, "shipped", [], [], tensors)
    found = {step.name: step.precision for step in with_precisions(steps, onnx.helper.make_model(graph))}
    others = {step.precision for step in with_precisions(steps, onnx.helper.make_model(graph)) if step.weight == "w2"}
    assert found[conv] == "int8"
    assert found[gemm] == ("float" if weight is np.float32 else "fp16")
    assert others == {"removed"}
    assert found["x"] == found["y"] == ""
