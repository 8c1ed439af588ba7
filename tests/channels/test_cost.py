"""MACs and parameters against numbers counted by hand."""

from __future__ import annotations

import numpy as np
import onnx.parser

from hqp_onnx.channels import cost
from hqp_onnx.channels.walk import analyze
from hqp_onnx.graphs.model_io import to_graph
from hqp_onnx.graphs.shapes import probe

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,4,8,8] x) => (float[n,5] y) {
  a = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w1, b1)
  b = Conv<group=6>(a, w2)
  c = ConvTranspose(b, w3)
  p = GlobalAveragePool(c)
  f = Flatten(p)
  t = MatMul(f, w4)
  y = Gemm(t, w5, b5)
}"""
SHAPES = {
    "w1": (6, 4, 3, 3),
    "b1": (6,),
    "w2": (6, 1, 3, 3),
    "w3": (6, 7, 2, 2),
    "w4": (7, 3),
    "w5": (3, 5),
    "b5": (5,),
}


def test_counts_by_hand() -> None:
    model = onnx.parser.parse_model(TEXT)
    arrays = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in arrays.items())
    graph = to_graph(model)
    conv, depthwise, transposed = 16 * 6 * 4 * 9, 4 * 6 * 9, 4 * 6 * 7 * 4
    positions = cost.positions(graph, probe(graph))
    assert cost.macs(graph, positions) == conv + depthwise + transposed + 7 * 3 + 3 * 5
    channels = analyze(graph)  # all but the five outputs, whose bias therefore stays
    assert cost.prunable(graph, channels, positions) == (cost.params(graph) - 5, cost.macs(graph, positions))
    tail = channels.restricted(only=["w4"])  # what w4 reads and makes: all of w3, w4 and w5
    assert cost.prunable(graph, tail, positions) == (168 + 21 + 15, transposed + 21 + 15)
    assert cost.params(graph) == sum(int(np.prod(shape)) for shape in SHAPES.values())


def test_recurrent_weights_count_once_a_step() -> None:
    """Seven steps of two directions: four gates of 5 hidden units, which read 3 inputs and each other."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[7,n,3] x) => (float[n,2] y) {
      a, h, c = LSTM<hidden_size=5, direction="bidirectional">(x, w, r, b)
      s = ReduceMean<axes=[0, 1], keepdims=0>(h)
      y = MatMul(s, m)
    }"""
    model = onnx.parser.parse_model(text.replace("float[7,n,3] x", "float[7,2,3] x"))
    shapes = {"w": (2, 20, 3), "r": (2, 20, 5), "b": (2, 40), "m": (5, 2)}
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in arrays.items())
    graph = to_graph(model)
    nodes = cost.node_macs(graph, cost.positions(graph, probe(graph)))
    name = next(node.name for node in graph.nodes if node.op == "LSTM")
    assert nodes[name] == 7 * 2 * 20 * (3 + 5)
    assert cost.node_params(graph)[name] == 2 * 20 * (3 + 5)


def test_what_goes_with_a_unit_by_hand() -> None:
    """Conv of 2 to 3 channels, depthwise, Relu, Gemm of 3 to 2: MACs as counted, other costs by channels."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,2,4,4] x) => (float[n,2] y) {
      a = Conv(x, w1)  b = Conv<group=3>(a, w2)  r = Relu(b)  p = GlobalAveragePool(r)  f = Flatten(p)
      y = MatMul(f, w3)
    }"""
    model = onnx.parser.parse_model(text)
    shapes = {"w1": (3, 2, 1, 1), "w2": (3, 1, 3, 3), "w3": (3, 2)}
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in arrays.items())
    graph = to_graph(model)
    for number, node in enumerate(graph.nodes):
        node.name = f"n{number}"
    channels = analyze(graph)
    units = channels.prunable
    macs = cost.unit_costs(graph, channels, cost.node_macs(graph, cost.positions(graph, probe(graph))))
    np.testing.assert_allclose(macs[units], 16 * 2 + 4 * 9 + 2)
    times = cost.unit_costs(graph, channels, {"n0": 3.0, "n2": 6.0})
    np.testing.assert_allclose(times[units], (3 + 6) / 3)
    assert (cost.unit_costs(graph, channels, {}) > 0).all()


def test_parameters_of_nodes_by_hand() -> None:
    """A weight that two nodes read counts half for each."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,2,4,4] x) => (float[n,3,4,4] y) {
      a = Conv(x, w)  b = Relu(x)  c = Conv(b, w)  y = Add(a, c)
    }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((3, 2, 1, 1), np.float32), "w"))
    graph = to_graph(model)
    counts = cost.node_params(graph)
    assert sorted(counts.values()) == [3, 3] and sum(counts.values()) == cost.params(graph)
