"""What onnx's version converter adds takes no name of the model, of an initializer, a result, a node or an output."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from oracle import run

from hqp_onnx.graphs.foreign_names import names_apart
from hqp_onnx.graphs.unique_names import tensor_names

TEXT = """<ir_version: 7, opset_import: ["" : 11]> g (float[2,3,1] x) => (float[2,3] y) {
    a = Squeeze<axes=[2]>(x)  s = Softmax<axis=0>(a)  r = ReduceSum<axes=[1], keepdims=1>(s)  y = Mul(s, r) }"""
X = np.random.default_rng(0).random((2, 3, 1)).astype(np.float32)


def raised(model: onnx.ModelProto) -> onnx.ModelProto:
    return names_apart(lambda each: onnx.version_converter.convert_version(each, 18))(model)


def test_free_names_are_those_of_the_converter() -> None:
    model = onnx.parser.parse_model(TEXT)
    plain = onnx.version_converter.convert_version(model, 18)
    assert raised(model).SerializeToString() == plain.SerializeToString()
    assert "s_intermediate" in tensor_names(plain.graph)


@pytest.mark.parametrize("kind", ["initializer", "result", "output"])
def test_names_that_happen_to_exist_do_no_harm(kind: str) -> None:
    model = onnx.parser.parse_model(TEXT)
    added = sorted(tensor_names(raised(model).graph) - tensor_names(model.graph))
    total = "y"
    for number, name in enumerate(added):
        constant, result = (name, f"z{number}") if kind == "initializer" else (f"z{number}", name)
        model.graph.initializer.append(numpy_helper.from_array(np.float32(number + 0.5), constant))
        model.graph.node.append(onnx.helper.make_node("Add", [total, constant], [result]))
        total = result
        if kind == "output":
            model.graph.output.append(onnx.helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, [2, 3]))
    if kind != "output":
        model.graph.output.append(onnx.helper.make_tensor_value_info(total, onnx.TensorProto.FLOAT, [2, 3]))
    again = raised(model)
    assert [value.name for value in again.graph.output] == [value.name for value in model.graph.output]
    for found, wanted in zip(run(again, {"x": X}), run(model, {"x": X}), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
