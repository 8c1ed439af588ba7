"""Weights inside the graphs of nodes are counted once, and belong to units."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper
from oracle import run

import hqp_onnx


def model() -> onnx.ModelProto:
    """y = If(flag, relu(x v) w, relu(x v) u), both branches with a weight of their own and a shared bias outside."""
    rng = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    def branch(name: str) -> onnx.GraphProto:
        made = helper.make_tensor_value_info(f"{name}/y", TensorProto.FLOAT, None)
        product = helper.make_node("MatMul", ["h", name], [f"{name}/p"])
        total = helper.make_node("Add", [f"{name}/p", "b"], [f"{name}/y"])
        return helper.make_graph([product, total], name, [], [made], [constant(name, 32, 16)])

    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["a"]),
        helper.make_node("Relu", ["a"], ["h"]),
        helper.make_node("If", ["flag"], ["y"], "choice", then_branch=branch("w"), else_branch=branch("u")),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])]
    inputs.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [constant("v", 8, 32), constant("b", 16)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_inner_weights_are_counted() -> None:
    found = hqp_onnx.inspect(model())
    assert found.params == 8 * 32 + 16 + 2 * 32 * 16
    assert found.inner_params == {"If 'choice'": 2 * 32 * 16}
    assert found.prunable == 32
    assert found.prunable_params == 8 * 32 + 2 * 32 * 16
    assert found.macs == 8 * 32 + 2 * 32 * 16


def test_inner_weights_are_stored_as_integers() -> None:
    made = model()
    x = np.random.default_rng(1).standard_normal((64, 8)).astype(np.float32)
    data = [{"x": x[i : i + 16]} for i in range(0, 64, 16)]
    reading = hqp_onnx.Reading(data, constants={"flag": np.array(True)})
    small = hqp_onnx.quantize(made, reading)
    assert small.ByteSize() < 0.9 * made.ByteSize()
    for flag in (True, False):
        feeds = {"x": x, "flag": np.array(flag)}
        want, have = run(made, feeds)[0], run(small, feeds)[0]
        assert np.abs(want - have).max() < 0.05 * np.abs(want).max()
