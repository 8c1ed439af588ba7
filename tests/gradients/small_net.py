"""Small networks written as ONNX text, with seeded weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper


def array(*shape):
    """Normal values scaled by the fan-in; the same for the same shape."""
    rng = np.random.default_rng(sum(shape))
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def build(body, shape, weights, batch="N", opset=17):
    """A network whose body ends in `z`."""
    dims = ", ".join(map(str, shape))
    text = f'<ir_version: 8, opset_import: ["": {opset}]> net (float[{batch}, {dims}] x) => (float z) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(x), name) for name, x in weights.items())
    return model
