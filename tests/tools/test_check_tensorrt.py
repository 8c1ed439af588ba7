"""What tools/check_tensorrt.py counts and compares with."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from layouts import layouts

from hqp_onnx.graphs.model_io import to_graph
from hqp_onnx.quantization.placement import place
from hqp_onnx.runtimes.targets import target

TOOL = Path(__file__).parents[2] / "tools" / "check_tensorrt.py"
spec = importlib.util.spec_from_file_location("check_tensorrt", TOOL)
assert spec is not None and spec.loader is not None
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def test_weights_and_scales_are_counted_and_zeros_are_not() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,2] y)
        <float s = {0.1}, int8 z = {0}, float[2] ws = {0.1, 0.2}, int8[2] wz = {0, 0}, float[2] b = {1, 2}>
        { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear<axis=1>(w, ws, wz)
          m = MatMul(d, v) y = Add(m, b) }"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 2), np.int8), "w"))
    assert tool.stored(model) == 4 + 4 * 2 + 4 * 2 + 8


@pytest.mark.parametrize("name", layouts())
def test_pairs_everywhere_are_never_fewer(name: str) -> None:
    graph, ours = to_graph(layouts()[name]), target("tensorrt-rtx")
    few, many = place(graph, ours), place(graph, tool.everywhere(ours))
    assert few.tensors.keys() <= many.tensors.keys() and few.weighted <= many.weighted
    assert len(few.tensors) < len(many.tensors)
