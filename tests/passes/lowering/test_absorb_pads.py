"""A Pad of zeros joins the Conv that reads it, and nothing else does."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from hqp_onnx.passes.lowering.absorb_pads import absorb_pads
from hqp_onnx.runtimes.session import Session

PADS = np.array([0, 0, 1, 0, 0, 0, 2, 1], np.int64)
# body, constants, Pad nodes that stay
CASES = {
    "before one Conv": ("p = Pad (x, pads) z = Conv (p, w)", {}, 0),
    "beside the Conv's own": ("p = Pad (x, pads) z = Conv <pads = [1, 2, 0, 1]> (p, w)", {}, 0),
    "before two": ("p = Pad (x, pads) a = Conv (p, w) b = Conv (p, w) z = Add (a, b)", {}, 0),
    "zero stated": ('p = Pad (x, pads, v) z = Conv <auto_pad = "VALID"> (p, w)', {"v": np.float32(0)}, 0),
    "read elsewhere": ("p = Pad (x, pads) a = Conv (p, w) m = ReduceMax (p) z = Mul (a, m)", {}, 1),
    "of ones": ("p = Pad (x, pads, v) z = Conv (p, w)", {"v": np.float32(1)}, 1),
    "reflected": ('p = Pad <mode = "reflect"> (x, pads) z = Conv (p, w)', {}, 1),
    "of channels": ("p = Pad (x, pads) z = Conv (p, w)", {"pads": np.array([0, 1, 0, 0, 0, 0, 0, 0])}, 1),
    "negative": ("p = Pad (x, pads) z = Conv (p, w)", {"pads": np.array([0, 0, -1, 0, 0, 0, 1, 0])}, 1),
    "automatic": ('p = Pad (x, pads) z = Conv <auto_pad = "SAME_UPPER"> (p, w)', {}, 1),
    "before MaxPool": ("p = Pad (x, pads) m = MaxPool <kernel_shape = [3, 3]> (p) z = Conv (m, w)", {}, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_stay(name):
    body, constants, left = CASES[name]
    text = f'<ir_version: 8, opset_import: ["": 17]> net (float[N, 2, 5, 6] x) => (float z) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    rng = np.random.default_rng(0)
    channels = 3 if name == "of channels" else 2
    values = {"w": rng.standard_normal((4, channels, 3, 3)).astype(np.float32), "pads": PADS, **constants}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(x), key) for key, x in values.items())
    feeds = {"x": rng.standard_normal((2, 2, 5, 6)).astype(np.float32)}
    want = Session(model).run(feeds)["z"]
    absorbed = absorb_pads(model)
    assert sum(node.op_type == "Pad" for node in absorbed.graph.node) == left
    np.testing.assert_allclose(Session(absorbed).run(feeds)["z"], want, rtol=1e-5, atol=1e-5)
