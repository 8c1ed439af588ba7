"""Models with Q/DQ: integers stay integers, and what they stand for is what onnxruntime computes, within few steps."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from tflite_operators import kinds

import hqp_onnx
from hqp_onnx.runtimes.litert.convert import convert
from hqp_onnx.runtimes.litert.library import schema
from hqp_onnx.runtimes.litert.session import LiteRtSession, compiled
from hqp_onnx.runtimes.session import Session

pytest.importorskip("ai_edge_litert")

NETWORK = """<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3, 12, 12] x) => (float[n, 5] y)
<float[8, 3, 3, 3] w = {W216}, float[8] b = {W8}, float[8, 1, 3, 3] d = {W72}, float[8, 8, 1, 1] v = {W64},
 float[8, 8, 1, 1] s = {W64}, float[5, 8] f = {W40}, float[5] c = {W5}> {
  c1 = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w, b)
  a1 = ACTIVATION(c1)
  c2 = Conv<group = 8, pads = [1, 1, 1, 1]>(a1, d)
  r2 = Relu(c2)
  p = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(r2)
  g = GlobalAveragePool(p)
  e = Conv(g, s)
  h = HardSigmoid<alpha = 0.16666667, beta = 0.5>(e)
  m = Mul(p, h)
  c3 = Conv(m, v)
  t = Add(c3, p)
  j = Concat<axis = 1>(t, c3)
  q, z = Split<axis = 1>(j)
  k = Add(q, z)
  o = GlobalAveragePool(k)
  l = Flatten(o)
  y = Gemm<transB = 1>(l, f, c)
}"""


def quantized(activation: str) -> tuple[onnx.ModelProto, np.ndarray]:
    rng, text = np.random.default_rng(0), NETWORK.replace("ACTIVATION", activation)
    for count in (216, 8, 72, 64, 40, 5):
        while f"{{W{count}}}" in text:
            values = (rng.standard_normal(count) * (1.5 / count**0.25)).round(3)
            text = text.replace(f"{{W{count}}}", "{" + ", ".join(map(str, values)) + "}", 1)
    x = rng.standard_normal((64, 3, 12, 12)).astype(np.float32)
    return hqp_onnx.quantize(onnx.parser.parse_model(text), data={"x": x}, target="litert"), x


@pytest.mark.parametrize("activation", ["Relu", "HardSwish", "Sigmoid", "Tanh"])
def test_integers_from_end_to_end(activation: str) -> None:
    model, x = quantized(activation)
    found = kinds(compiled(model, {"x": x[:1]}))
    assert {kind for kind, int8 in found if not int8} == {"DEQUANTIZE"}  # of the result
    assert found["DEQUANTIZE", False] == 1
    wanted, got = Session(model).run({"x": x})["y"], LiteRtSession(model).run({"x": x})["y"]
    noise = np.square(got - wanted).mean() / np.square(wanted).mean()
    assert noise < 10**-2.5  # of rounding in other places; a scale or zero-point gone wrong is 100 times that
    exact = Session(model, integer_kernels=False).run({"x": x})["y"]
    assert np.abs(got - exact).max() <= np.abs(wanted).max() / 8


def drawn(text: str) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(text)
    for value in model.graph.value_info:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        values = rng.standard_normal(shape).astype(np.float32) / np.sqrt(
            np.prod(shape) / shape[-1 if len(shape) < 3 else 0]
        )
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), value.name))
    del model.graph.value_info[:]
    return model


def require_integers(model: onnx.ModelProto, x: np.ndarray) -> None:
    found = kinds(compiled(model, {"x": x[:1]}))
    assert {kind for kind, int8 in found if not int8} == {"DEQUANTIZE"}  # of the result
    wanted, got = Session(model).run({"x": x})["y"], LiteRtSession(model).run({"x": x})["y"]
    assert np.square(got - wanted).mean() < 10**-2.5 * np.square(wanted).mean()


DECODER = """<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3, 5, 5] x) => (float[n, 2, 40, 40] y)
<float[8, 3, 3, 3] w, float[8, 8, 3, 3] u, float[8] b, float[8, 8, 2, 2] v, float[2, 2, 3, 3] e,
 float[4] s = {1, 1, 2, 2}> {
  c = Conv<pads = [1, 1, 1, 1]>(x, w)
  t = ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]>(c, u, b)
  r = Relu(t)
  d = DepthToSpace<blocksize = 2, mode = "CRD">(r)
  z = Resize<mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel">(d, , s)
  y = Conv<pads = [1, 1, 1, 1]>(z, e)
}"""


def test_a_decoder_stays_in_integers() -> None:
    x = np.random.default_rng(1).standard_normal((16, 3, 5, 5)).astype(np.float32)
    require_integers(hqp_onnx.quantize(drawn(DECODER), data={"x": x}, target="litert"), x)


TOKENS = """<ir_version: 8, opset_import: ["" : 17]> g (float[n, 5, 12] x) => (float[n, 5, 6] y)
<float[12, 32] w, float[32] b, float[32, 6] v, float[6] c> {
  m = MatMul(x, w) a = Add(b, m) r = Relu(a) p = MatMul(r, v) y = Add(p, c) }"""


def test_products_take_in_their_biases() -> None:
    x = np.random.default_rng(1).standard_normal((16, 5, 12)).astype(np.float32)
    model = drawn(TOKENS)
    quantized = hqp_onnx.quantize(model, data={"x": x}, target="litert")
    require_integers(quantized, x)
    assert kinds(compiled(quantized, {"x": x[:1]})) == {
        ("QUANTIZE", True): 1,
        ("FULLY_CONNECTED", True): 2,
        ("DEQUANTIZE", False): 1,
    }


def test_products_are_assumed_to_take_in_their_biases() -> None:
    x = np.random.default_rng(1).standard_normal((1, 5, 12)).astype(np.float32)
    found = kinds(convert(drawn(TOKENS), {"x": x}, assume=True).content)
    assert found == {("QUANTIZE", True): 1, ("FULLY_CONNECTED", True): 2, ("DEQUANTIZE", False): 1}


def test_a_bias_that_int32_cannot_hold_is_added_in_float() -> None:
    x = np.random.default_rng(1).standard_normal((16, 5, 12)).astype(np.float32)
    model = drawn(TOKENS)
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[:, 3] *= 1e-8
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    quantized = hqp_onnx.quantize(model, data={"x": x}, target="litert")
    assert kinds(compiled(quantized, {"x": x[:1]}))["FULLY_CONNECTED", False] == 1
    wanted, got = Session(quantized).run({"x": x})["y"], LiteRtSession(quantized).run({"x": x})["y"]
    assert np.square(got - wanted).mean() < 10**-2.5 * np.square(wanted).mean()


def test_products_of_two_activations_stay_in_float() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n, 5, 12] x) => (float[n, 5, 5] y) <float[12, 12] w> {
      q = MatMul(x, w) t = Transpose<perm = [0, 2, 1]>(q) y = MatMul(q, t) }"""
    x = np.random.default_rng(1).standard_normal((16, 5, 12)).astype(np.float32)
    found = kinds(compiled(hqp_onnx.quantize(drawn(text), data={"x": x}, target="litert"), {"x": x[:1]}))
    assert (found["FULLY_CONNECTED", True], found["BATCH_MATMUL", False]) == (1, 1)


def test_weights_are_stored_once_and_as_integers() -> None:
    model, x = quantized("Relu")
    s = schema()
    file = s.ModelT.InitFromPackedBuf(compiled(model, {"x": x[:1]}))
    tensors = {t.name.decode(): t for t in file.subgraphs[0].tensors if file.buffers[t.buffer].data is not None}
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    weight = next(name for name in stored if stored[name].shape == (8, 3, 3, 3))
    own = next(t for t in tensors.values() if list(t.shape) == [8, 3, 3, 3])
    np.testing.assert_array_equal(
        np.frombuffer(bytes(bytearray(file.buffers[own.buffer].data)), np.int8).reshape(8, 3, 3, 3),
        stored[weight].transpose(0, 2, 3, 1),
    )
    assert len(own.quantization.scale) == 8


def test_a_clip_of_other_limits_stays_in_float() -> None:
    model, x = quantized("Sigmoid")
    text = model.SerializeToString()  # a Clip, in place of the operator that the pairs were put around
    clipped = onnx.ModelProto.FromString(text)
    node = next(node for node in clipped.graph.node if node.op_type == "Sigmoid")
    node.op_type = "Clip"
    clipped.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.125, np.float32), "low"))
    node.input.append("low")
    assert kinds(compiled(clipped, {"x": x[:1]}))["MAXIMUM", False] == 1
    wanted, got = Session(clipped).run({"x": x})["y"], LiteRtSession(clipped).run({"x": x})["y"]
    assert np.square(got - wanted).mean() < 10**-2.5 * np.square(wanted).mean()


def test_what_all_samples_share_is_given_once() -> None:
    model, x = quantized("Relu")
    weight = next(
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear" and "w/" in node.output[0]
    )
    names = [weight, "y"]
    wanted, got = (kind(model, names).run({"x": x[:3]}) for kind in (Session, LiteRtSession))
    assert [got[name].shape for name in names] == [wanted[name].shape for name in names]
    np.testing.assert_allclose(got[weight], wanted[weight], rtol=1e-6)


def test_a_node_left_in_float_stands_between_its_own_conversions() -> None:
    model, x = quantized("Elu")
    found = kinds(compiled(model, {"x": x[:1]}))
    assert found["ELU", False] == 1
    assert found["DEQUANTIZE", False] == 2  # in front of it, and of the result
    assert found["QUANTIZE", True] >= 2
