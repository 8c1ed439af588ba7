"""Where the sizes that were found leave an activation without values, labels would be lost on it: all is frozen."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser

from hqp_onnx.channels.walk import analyze
from hqp_onnx.graphs.model_io import to_graph
from hqp_onnx.graphs.shapes import Shapes
from hqp_onnx.graphs.symbolic.known import Known

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,h,w] x) => (float[1,4,o,p] y) {
  a = Conv(x, v)  b = Elu(a)  c = MaxPool<kernel_shape=[1,1]>(b)  y = Conv(c, u)
}"""


def test_no_unit_is_prunable_through_an_empty_activation() -> None:
    model, rng = onnx.parser.parse_model(TEXT), np.random.default_rng(0)
    for name, shape in {"v": (8, 3, 3, 3), "u": (4, 8, 1, 1)}.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    full = {"x": (1, 3, 5, 5), "a": (1, 8, 3, 3), "b": (1, 8, 3, 3), "c": (1, 8, 3, 3), "y": (1, 4, 3, 3)}
    empty = {name: (*shape[:2], 0, shape[3]) for name, shape in full.items()}
    graph = to_graph(model)
    assert len(analyze(graph, Shapes(full, Known())).prunable) == 8
    assert not len(analyze(graph, Shapes({**full, **{n: empty[n] for n in "abc"}}, Known())).prunable)
