"""Scales moved from activations to weights: the same function, and less noise in INT8 where channels are uneven."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from oracle import run

from hqp_onnx.data.batch import Batch
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.quantize_dynamic import quantize_dynamic
from hqp_onnx.passes.smooth_products import smooth_products
from hqp_onnx.runtimes.targets import target

RNG = np.random.default_rng(0)
ORT = target("onnxruntime", reduced_range=False)
UNEVEN = np.where(np.arange(16) % 8 == 3, 40.0, 1.0)
ARRAYS = {
    "g": (RNG.uniform(0.5, 1.5, 16) * UNEVEN).astype(np.float32),
    "b": RNG.standard_normal(16).astype(np.float32),
    "w": (RNG.standard_normal((16, 12)) / UNEVEN[:, None]).astype(np.float32),
    "v": (RNG.standard_normal((16, 5)) / UNEVEN[:, None]).astype(np.float32),
}
NORM = "n = LayerNormalization (x, g, b)"
FORMS = {
    "two products read it": (f"{NORM} p = MatMul (n, w) q = MatMul (n, v) y = Concat <axis = -1> (p, q)", 0),
    "a sum reads it, too": (f"{NORM} p = MatMul (n, w) s = ReduceMean <axes = [-1]> (n) y = Add (p, s)", 1),
    "a factor per channel makes it": ("t = Tanh (x) n = Mul (t, g) y = MatMul (n, w)", 0),
    "nothing takes the scale in": ("t = Tanh (x) u = Mul (t, t) n = Mul (u, g) r = Relu (n) y = MatMul (r, w)", 1),
}


def model(body: str) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,16] x) => (float[N,4,?] y) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    read = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(numpy_helper.from_array(x, name) for name, x in ARRAYS.items() if name in read)
    return proto


@pytest.mark.parametrize("form", FORMS)
def test_the_same_function_with_less_noise(form: str) -> None:
    body, added = FORMS[form]
    proto, feeds = model(body), {"x": RNG.standard_normal((50, 4, 16)).astype(np.float32)}
    smooth = smooth_products(to_graph(proto), [Batch(feeds)])
    assert smooth.modified
    assert len(smooth.graph.nodes) == len(proto.graph.node) + added
    want = run(proto, feeds)[0]
    np.testing.assert_allclose(run(to_proto(smooth.graph), feeds)[0], want, rtol=1e-3, atol=1e-4)
    plain, even = (
        run(to_proto(quantize_dynamic(g, None, ORT).graph), feeds)[0] for g in (to_graph(proto), smooth.graph)
    )
    assert np.square(even - want).mean() < 0.5 * np.square(plain - want).mean()


def test_even_channels_stay_as_they_are() -> None:
    proto = model(FORMS["two products read it"][0])
    for tensor in proto.graph.initializer:
        if tensor.name == "g":
            tensor.CopyFrom(numpy_helper.from_array(np.ones(16, np.float32), "g"))
    assert not smooth_products(
        to_graph(proto), [Batch({"x": RNG.standard_normal((50, 4, 16)).astype(np.float32)})]
    ).modified
