"""A small classifier with what the bundled ones have: Conv, BatchNormalization, a residual Add, a Constant node."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser

_TEXT = """
<ir_version: 8, opset_import: ["" : 17]> small (float[n,1,8,8] input) => (float[n,4] logits) {
  half = Constant<value_float=0.5>()
  scaled = Mul(input, half)
  c1 = Conv<pads=[1,1,1,1]>(scaled, w1)
  n1 = BatchNormalization(c1, g1, b1, m1, v1)
  r1 = Relu(n1)
  c2 = Conv<pads=[1,1,1,1]>(r1, w2)
  n2 = BatchNormalization(c2, g2, b2, m2, v2)
  r2 = Relu(n2)
  c3 = Conv<pads=[1,1,1,1]>(r2, w3, d3)
  sum = Add(c3, r1)
  mean = GlobalAveragePool(sum)
  flat = Flatten(mean)
  logits = Gemm<transB=1>(flat, w4, d4)
}
"""


def small_model() -> onnx.ModelProto:
    """Seeded weights; input [n, 1, 8, 8], logits [n, 4]."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(_TEXT)
    shapes = {"w1": (16, 1, 3, 3), "w2": (24, 16, 3, 3), "w3": (16, 24, 3, 3), "d3": (16,), "w4": (4, 16), "d4": (4,)}
    values = {name: rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])) for name, shape in shapes.items()}
    for layer, width in (("1", 16), ("2", 24)):
        values |= {f"{kind}{layer}": rng.uniform(0.5, 1.5, width) for kind in "gbmv"}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items())
    return model


def small_data(count: int = 24) -> dict[str, np.ndarray]:
    """Seeded images, float32, and labels."""
    rng = np.random.default_rng(1)
    return {
        "input": rng.standard_normal((count, 1, 8, 8)).astype(np.float32),
        "labels": rng.integers(0, 4, count),
    }
