from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from hqp_onnx.graphs.model_io import to_graph
from hqp_onnx.graphs.tensor_types import TensorType, float_activations, tensor_types

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 512] x) => (float[N, 512] y) {
 h = MatMul(x, w)  s = Shape(h)  b = Greater(h, x)  y = Where(b, h, x) }"""


@pytest.mark.parametrize("width", [512, 8])  # a large weight, whose values inference is not given; a small one
def test_types_and_sizes_of_inputs_weights_and_results(width: int) -> None:
    model = onnx.parser.parse_model(TEXT.replace("512", str(width)))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((width, width), np.float32), "w"))
    graph = to_graph(model)
    kind = onnx.TensorProto
    matrix = TensorType(kind.FLOAT, (None, width))
    assert tensor_types(graph) == {
        "x": matrix,
        "w": TensorType(kind.FLOAT, (width, width)),
        "h": matrix,
        "s": TensorType(kind.INT64, (2,)),
        "b": TensorType(kind.BOOL, (None, width)),
        "y": matrix,
    }
    assert float_activations(graph) == ["x", "h", "y"]


def test_unknown_operators_leave_their_results_without_a_type() -> None:
    header = '<ir_version: 8, opset_import: ["" : 17, "far" : 1]>'
    text = header + "g (float[3] x) => (float[3] y) { h = far.Away(x) y = Neg(h) }"
    assert "h" not in tensor_types(to_graph(onnx.parser.parse_model(text)))
