"""Factors that move into weights, against the graph before."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from oracle import worst_error

from hqp_onnx.channels.channel_map import ParamAxis, PruningPlan
from hqp_onnx.channels.walk import analyze
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.absorb_scales import absorb_scales
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.cut import cut

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 4, 5, 5)).astype(np.float32)
SHAPES = {
    "w": (6, 4, 3, 3),
    "v": (4, 6, 2, 2),
    "d": (4, 1, 3, 3),
    "m": (5, 3),
    "f": (3, 100),
    "s": (1, 4, 1, 1),
    "c": (4, 1, 1),
    "one": (),
    "row": (5,),
    "wide": (1, 4, 5, 5),
    "flat": (1, 100),
}
ABSORBED = {
    "convolution": "a = Mul(x, s) y = Conv<pads = [1,1,1,1]>(a, w)",
    "factor first": "a = Mul(c, x) y = Conv(a, w)",
    "a gate over constants": "h = HardSigmoid(s) a = Mul(x, h) y = Conv(a, w)",
    "two readers": "a = Mul(x, s) b = Conv(a, w) e = ConvTranspose(a, v) y = Concat<axis = 1>(p, q) "
    "p = GlobalAveragePool(b) q = GlobalAveragePool(e)",
    "a scalar": "a = Mul(x, one) y = Conv(a, w)",
    "MatMul": "a = Mul(x, row) y = MatMul(a, m)",
    "Gemm": "b = Flatten(x) a = Mul(b, flat) y = Gemm<transB = 1>(a, f)",
}
LEFT = {
    "depthwise": "a = Mul(x, s) y = Conv<group = 4, pads = [1,1,1,1]>(a, d)",
    "a factor of every position": "a = Mul(x, wide) y = Conv(a, w)",
    "another reader": "a = Mul(x, s) b = Conv<pads = [1,1,1,1]>(a, w) e = Relu(a) y = Concat<axis = 1>(b, e)",
    "channels elsewhere": "a = Mul(x, c) y = MatMul(a, m)",
    "data times data": "b = Relu(x) a = Mul(x, b) y = Conv(a, w)",
    "an output": "y = Mul(x, s)",
    "a weight that is read twice": "a = Mul(x, s) b = Conv(a, w) e = Conv(x, w) y = Add(b, e)",
}


def model_of(body: str) -> onnx.ModelProto:
    if body.endswith("GlobalAveragePool(e)"):  # in the order of execution
        body = body.replace("y = Concat<axis = 1>(p, q) ", "") + " y = Concat<axis = 1>(p, q)"
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,5,5] x) => (float[] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    used = {name for node in model.graph.node for name in node.input}
    values = {k: RNG.normal(size=shape).astype(np.float32) for k, shape in SHAPES.items() if k in used}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items())
    return model


@pytest.mark.parametrize("name", ABSORBED)
def test_the_product_is_gone_and_the_output_stays(name: str) -> None:
    model = model_of(ABSORBED[name])
    result = absorb_scales(to_graph(model))
    assert result.modified and "Mul" not in {node.op for node in result.graph.nodes}
    assert worst_error(model, to_proto(result.graph), {}, {"x": X}) <= 1e-5


@pytest.mark.parametrize("name", LEFT)
def test_what_no_weight_can_take_stays(name: str) -> None:
    model = model_of(LEFT[name])
    result = absorb_scales(to_graph(model))
    assert not result.modified and not result.notes
    assert worst_error(model, to_proto(result.graph), {}, {"x": X}) == 0


def test_numbers_of_the_file_stay_with_their_activation() -> None:
    result = absorb_scales(to_graph(model_of(ABSORBED["a scalar"])), {"one"})
    assert not result.modified and [node.op for node in result.graph.nodes] == ["Mul", "Conv"]


def test_a_cut_that_ends_a_branch_leaves_gelu_to_the_runtime() -> None:
    """onnxruntime computes Div, Erf, Add, Mul, Mul as one Gelu, for which it needs the last Mul."""
    body = """a = MatMul(x, p) b = Relu(a) c = MatMul(b, q) h = Add(x, c) d = MatMul(h, r) e = Div(d, root) f = Erf(e)
        g = Add(f, unit) i = Mul(d, g) j = Mul(i, half) y = MatMul(j, t)"""
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,6] x) => (float[N,3,2] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    sizes = {"p": (6, 4), "q": (4, 6), "r": (6, 8), "t": (8, 2)}
    values = {name: RNG.normal(size=size) for name, size in sizes.items()} | {"root": 2**0.5, "unit": 1, "half": 0.5}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.float32(v), k) for k, v in values.items())
    graph = canonicalize(to_graph(model)).graph
    channels = analyze(graph)
    branch = np.unique(channels.members[ParamAxis("p", 1)])
    cut_graph = cut(graph, channels, PruningPlan(branch)).graph
    assert [node.op for node in cut_graph.nodes] == ["MatMul", "Div", "Erf", "Add", "Mul", "Mul", "MatMul"]
