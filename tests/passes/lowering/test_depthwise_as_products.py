"""Depthwise convolutions as matrix products compute the same; gradients are in test_objective and test_rules."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from hqp_onnx.gradients.trace import trace
from hqp_onnx.passes.lowering.depthwise_as_products import depthwise_as_products
from hqp_onnx.runtimes.session import Session

RNG = np.random.default_rng(0)


def model(attributes, kernel, bias=True, channels=3):
    text = f"y = Conv <group = {channels}, {attributes}> (x, w{', b' if bias else ''})"
    made = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[n,{channels},7,6] x) => (float y) {{ {text} }}'
    )
    made.graph.output[0].type.tensor_type.ClearField("shape")
    weight = RNG.standard_normal((channels, 1, *kernel)).astype(np.float32)
    made.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    made.graph.initializer.append(numpy_helper.from_array(RNG.standard_normal(channels).astype(np.float32), "b"))
    return made


@pytest.mark.parametrize(
    ("attributes", "kernel", "bias"),
    [
        ("pads = [1, 1, 1, 1]", (3, 3), True),
        ("pads = [2, 2, 2, 2], strides = [2, 2]", (5, 5), False),
        ("pads = [0, 1, 2, 0], strides = [1, 2], dilations = [2, 1]", (3, 2), True),
        ('auto_pad = "SAME_UPPER", strides = [2, 2]', (3, 3), True),
    ],
)
def test_it_computes_the_same(attributes, kernel, bias):
    before, x = model(attributes, kernel, bias), RNG.standard_normal((4, 3, 7, 6)).astype(np.float32)
    traced = trace(before, {"x": x[:1]}, None)
    after = depthwise_as_products(before, traced.dims, traced.types)
    assert "Conv" not in {node.op_type for node in after.graph.node}
    want, found = (Session(each, ["y"]).run({"x": x})["y"] for each in (before, after))
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_other_convolutions_stay():
    plain = model("pads = [0, 0, 0, 0]", (1, 1))
    x = RNG.standard_normal((1, 3, 7, 6)).astype(np.float32)
    traced = trace(plain, {"x": x}, None)
    assert depthwise_as_products(plain, traced.dims, traced.types) is plain
