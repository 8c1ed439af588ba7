"""Pads that became part of a convolution: the same function; other Pads stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from oracle import run

from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.fold_pads import fold_pads

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 6, 7)).astype(np.float32)
ARRAYS = {
    "w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "even": np.array([0, 0, 1, 2, 0, 0, 0, 1]),
    "channel": np.array([0, 1, 0, 0, 0, 0, 0, 0]),
    "crop": np.array([0, 0, -1, 0, 0, 0, 0, 0]),
    "zero": np.float32(0),
    "one": np.float32(1),
    "two_axes": np.array([1, 2, 0, 1]),
    "axes": np.array([2, 3]),
}


def model(body: str) -> onnx.ModelProto:
    made = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> g (float[N, 3, 6, 7] x) => (float y) {{ {body} }}'
    )
    made.graph.output[0].type.tensor_type.ClearField("shape")
    used = {name for node in made.graph.node for name in node.input}
    made.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in ARRAYS.items() if n in used)
    return made


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        ("p = Pad(x, even) y = Conv(p, w)", ["Conv"]),
        ("p = Pad(x, even, zero) y = Conv<pads = [2, 0, 0, 1], strides = [2, 2]>(p, w)", ["Conv"]),
        ("p = Pad(x, even) c = Conv(p, w) d = Conv(p, w) y = Add(c, d)", ["Conv", "Conv", "Add"]),
        (
            "p = Pad(x, even) c = Conv(p, w) m = ReduceMax<keepdims = 1>(p) y = Add(c, m)",
            ["Pad", "Conv", "ReduceMax", "Add"],
        ),
        ("p = Pad(x, even, one) y = Conv(p, w)", ["Pad", "Conv"]),
        ("p = Pad<mode = 'reflect'>(x, even) y = Conv(p, w)".replace("'", '"'), ["Pad", "Conv"]),
        ("p = Pad(x, crop) y = Conv(p, w)", ["Pad", "Conv"]),
        ("p = Pad(x, two_axes, zero, axes) y = Conv(p, w)", ["Pad", "Conv"]),
        ('p = Pad(x, even) y = Conv<auto_pad = "SAME_UPPER">(p, w)', ["Pad", "Conv"]),
        ("p = Pad(x, even) y = MaxPool<kernel_shape = [3, 3]>(p)", ["Pad", "MaxPool"]),
        ("p = Pad(x, channel) s = Slice(p, zeros, three, first) y = Conv(s, w)", ["Pad", "Slice", "Conv"]),
    ],
)
def test_zeros_around_an_image_are_padding_of_its_convolution(body: str, ops: list[str]) -> None:
    made = model(body)
    for name, value in (("zeros", 0), ("three", 3), ("first", 1)):
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
    result = fold_pads(to_graph(made))
    assert sorted(node.op for node in result.graph.nodes) == sorted(ops)
    assert result.modified == (ops.count("Pad") < body.count("Pad(") or "m = ReduceMax" in body)
    np.testing.assert_allclose(run(to_proto(result.graph), {"x": X})[0], run(made, {"x": X})[0], rtol=1e-5, atol=1e-5)


def test_channels_that_are_padded_stay() -> None:
    made = model("p = Pad(x, channel) y = Conv(p, w4)")
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 4, 1, 1), np.float32), "w4"))
    assert not fold_pads(to_graph(made)).modified
