"""Gradients of Q/DQ pairs against torch's fake quantization."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from hqp_onnx.errors import GradientError
from hqp_onnx.gradients.reverse import backward
from hqp_onnx.gradients.tape import Tape
from hqp_onnx.gradients.trace import trace
from hqp_onnx.passes.lowering.prepare_for_gradients import prepare_for_gradients
from hqp_onnx.runtimes.session import Session

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(3)
X = (3 * RNG.standard_normal((6, 4, 5))).astype(np.float32)
G = RNG.standard_normal((6, 4, 5)).astype(np.float32)


def gradient(attributes, scale, zero):
    text = f"q = QuantizeLinear {attributes} (x, s, z) y = DequantizeLinear {attributes} (q, s, z)"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> net (float[n, 4, 5] x) => (float[n, 4, 5] y) {{ {text} }}'
    )
    model.graph.initializer.extend([numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero, "z")])
    ready = prepare_for_gradients(model)
    tape = Tape(ready, trace(ready, {"x": X}, None))
    found = backward(tape, {"y": tape.const(G)}, ["x"])
    session = Session(tape.model, ["y", found["x"]], integer_kernels=False)
    return session.run({"x": X}).values()


@pytest.mark.parametrize(
    ("zero", "low", "high"), [(np.uint8(131), 0, 255), (np.int8(0), -128, 127), (np.uint8(0), 0, 255)]
)
def test_per_tensor(zero, low, high):
    scale = np.float32(0.021)
    x = torch.from_numpy(X).requires_grad_()
    want = torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero), low, high)
    want.backward(torch.from_numpy(G))
    y, dx = gradient("", scale, zero)
    assert 0.2 < (x.grad.numpy() != 0).mean() < 0.99  # some are clipped, some are not
    np.testing.assert_allclose(y, want.detach().numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(dx, x.grad.numpy())


def test_per_channel():
    scale = np.array([0.01, 0.02, 0.04, 0.001], np.float32)
    x = torch.from_numpy(X).requires_grad_()
    zeros = torch.zeros(4, dtype=torch.int32)
    want = torch.fake_quantize_per_channel_affine(x, torch.from_numpy(scale), zeros, 1, -128, 127)
    want.backward(torch.from_numpy(G))
    y, dx = gradient("<axis = 1>", scale, np.zeros(4, np.int8))
    np.testing.assert_allclose(y, want.detach().numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(dx, x.grad.numpy())
    assert (dx == 0).any()
    assert (dx != 0).any()


def test_a_scale_that_is_computed_is_refused():
    text = "s = ReduceMax <keepdims = 0> (x) q = QuantizeLinear (x, s) y = DequantizeLinear (q, s)"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> net (float[n, 4] x) => (float[n, 4] y) {{ {text} }}'
    )
    ready = prepare_for_gradients(model)
    tape = Tape(ready, trace(ready, {"x": X[:, 0, :4]}, None))
    with pytest.raises(GradientError, match="DequantizeLinear node 'y' has no gradient rule for its scale"):
        backward(tape, {"y": tape.const(X[:, 0, :4])}, ["x"])
