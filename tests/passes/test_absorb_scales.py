"""Factors that move into weights, against the graph before."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from oracle import worst_error

from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.absorb_scales import absorb_scales

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
