"""What two runs showed is taken for a constant only if it holds for all batches."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from hqp_onnx.gradients.trace import trace

BODIES = {
    "two": ("s = Shape(x) n = Gather(s, zero) c = Min(n, two) y = Add(x, f)", False),
    "not one": ("s = Shape(x) n = Gather(s, zero) c = Greater(n, one) y = Add(x, f)", False),
    "width": ("s = Shape(x) c = Gather(s, one) y = Add(x, f)", True),
    "root of width": ("s = Shape(x) w = Gather(s, one) d = Cast<to=1>(w) c = Sqrt(d) y = Add(x, f)", True),
    "elements of a row": ("s = Shape(x) n = Gather(s, zero) k = Size(x) c = Div(k, n) y = Add(x, f)", True),
    "drawn": ("c = Bernoulli(f) y = Add(x, c)", False),
}


@pytest.mark.parametrize("name", BODIES)
def test_constants(name: str) -> None:
    body, constant = BODIES[name]
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[n,5] x) => (float[n,5] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    arrays = {"zero": np.array(0), "one": np.array(1), "two": np.array(2), "f": np.ones(1, np.float32)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, key) for key, value in arrays.items())
    traced = trace(model, {"x": np.ones((1, 5), np.float32)}, None)
    assert ("c" in traced.values) == constant
