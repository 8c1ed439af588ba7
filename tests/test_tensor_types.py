from __future__ import annotations

import numpy as np
import onnx.parser

from hqp_onnx.model_io import to_graph
from hqp_onnx.tensor_types import element_types, float_activations

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 512] x) => (float[N, 512] y) {
 h = MatMul(x, w)  s = Shape(h)  b = Greater(h, x)  y = Where(b, h, x) }"""


def test_types_of_inputs_weights_and_results() -> None:
    model = onnx.parser.parse_model(TEXT)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((512, 512), np.float32), "w"))
    graph = to_graph(model)
    types = element_types(graph)
    kind = onnx.TensorProto
    wanted = {"x": kind.FLOAT, "w": kind.FLOAT, "h": kind.FLOAT, "s": kind.INT64, "b": kind.BOOL, "y": kind.FLOAT}
    assert {name: types[name] for name in wanted} == wanted
    assert float_activations(graph) == ["x", "h", "y"]
