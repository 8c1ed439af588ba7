"""Shapes are found in one run that gives no values but those that are the same for all inputs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from hqp_onnx.graphs.model_io import to_graph
from hqp_onnx.graphs.shapes import probe
from hqp_onnx.graphs.symbolic.propagation import propagate

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,12,48] x) => (float[p,q,r] y, float[n,12,48] z) {
  s = Shape(x)  a = Gather(s, one)  b = Mul(a, two)  d = Gather(s, zero)  e = Concat<axis=0>(d, b, two, rest)
  w = Cast<to=1>(a)  f = Sqrt(w)  z = Div(x, f)  y = Reshape(x, e)
}"""


def model() -> onnx.ModelProto:
    made = onnx.parser.parse_model(TEXT)
    for name, value in {"one": [1], "zero": [0], "two": [2], "rest": [12]}.items():
        made.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    made.graph.output[0].type.tensor_type.shape.dim.add(dim_param="t")
    return made


def test_sizes_and_constants_of_a_run() -> None:
    found = probe(to_graph(model()))
    assert found.sizes["y"] == (2, 24, 2, 12) and found.sizes["x"] == (2, 12, 48)
    assert [dim.value for dim in found.known.dims["y"]] == [None, 24, 2, 12]
    assert found.known.constants["f"] == pytest.approx(np.sqrt([12.0]))


def test_integers_are_proven_without_a_run() -> None:
    known = propagate(model(), {})
    assert known.integers("b") is not None and known.integers("b").tolist() == [24]
    assert known.constants["f"] is None
