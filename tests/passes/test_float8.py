"""float8 Q/DQ against onnx's reference evaluator, and a loop that rounds every value."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx.reference
import onnx_graphsurgeon as gs
import pytest
from conftest import MODELS
from onnx import numpy_helper
from oracle import run

from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import UsageError
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.convert_fp16 import convert_fp16
from hqp_onnx.passes.dequantize import dequantize
from hqp_onnx.passes.quantize import Recipe, quantize
from hqp_onnx.runtimes.session import Session
from hqp_onnx.runtimes.targets import in_float8, target

RNG = np.random.default_rng(0)
E4M3 = np.array(  # S.EEEE.MMM, bias 7; 0x7F is NaN
    sorted(
        {
            s * m
            for s in (-1, 1)
            for e in range(16)
            for f in range(8)
            if e * 8 + f < 127
            for m in [(1 + f / 8) * 2.0 ** (e - 7) if e else f / 8 * 2.0**-6]
        }
    )
)


def rounded(x: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """The nearest of all 253 numbers."""
    index = np.abs(np.asarray(x / scale)[..., None] - E4M3).argmin(-1)
    return E4M3[index] * scale


def model() -> onnx.ModelProto:
    body = "h = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(h) f = Flatten(r) y = Gemm<transB=1>(f, w2, b2)"
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,2,4,4] x) => (float[N,5] y) {{ {body} }}'
    )
    shapes = {"w1": (3, 2, 3, 3), "b1": (3,), "w2": (5, 48), "b2": (5,)}
    arrays = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    return onnx.shape_inference.infer_shapes(proto)


def test_weights_and_activations_are_the_nearest_of_all_float8() -> None:
    proto, x = model(), RNG.normal(size=(6, 2, 4, 4)).astype(np.float32)
    recipe = Recipe(equalize=False, correct_bias=False, round_weights=False)
    made = quantize(to_graph(proto), [Batch({"x": x})], in_float8(target("tensorrt")), "minmax", recipe=recipe)
    given = gs.export_onnx(made.graph)
    onnx.checker.check_model(given)
    arrays = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}
    for name in ("w1", "w2"):
        rows = arrays[name].reshape(len(arrays[name]), -1)
        scale = np.float32(np.abs(rows).max(1, keepdims=True) / 448)
        arrays[name] = rounded(rows, scale).reshape(arrays[name].shape)
    fake = onnx.ModelProto()
    fake.CopyFrom(proto)
    del fake.graph.initializer[:]
    fake.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items())
    fake.graph.output.append(onnx.ValueInfoProto(name="f"))
    hidden = run(fake, {"x": rounded(x, np.float32(np.abs(x).max() / 448)).astype(np.float32)})[1]
    top = float(run_float(proto, x).max())
    expected = rounded(hidden, np.float32(top / 448)) @ arrays["w2"].T + arrays["b2"]
    for values in (onnx.reference.ReferenceEvaluator(given).run(None, {"x": x})[0], run(given, {"x": x})[0]):
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def run_float(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    more = onnx.ModelProto()
    more.CopyFrom(proto)
    more.graph.output.append(onnx.ValueInfoProto(name="f"))
    return run(more, {"x": x})[1]


def test_only_tensorrt_takes_it() -> None:
    assert in_float8(target("tensorrt-rtx")).float8
    with pytest.raises(UsageError, match="only TensorRT"):
        in_float8(target("onnxruntime"))


def test_a_session_computes_what_the_file_says() -> None:
    """With all of its optimizations, onnxruntime 1.32 is at 2 dB here."""
    images = np.load(MODELS / "fashion_mnist_calib.npz")["input"][:8].astype(np.float32)
    floats = canonicalize(to_graph(onnx.load(MODELS / "mobilenet_v3_small.onnx"))).graph
    recipe = Recipe(equalize=False, correct_bias=False, round_weights=False)
    layout, data = in_float8(target("tensorrt")), [Batch({"input": images})]
    given = gs.export_onnx(quantize(floats, data, layout, "minmax", recipe=recipe).graph)
    half = to_proto(convert_fp16(to_graph(given)).graph)
    models = (gs.export_onnx(floats), given, half)
    want, have, halved = (Session(model).run({"input": images})["logits"] for model in models)
    assert np.square(have - want).sum() < 0.02 * np.square(want).sum()  # 17 dB
    assert np.square(halved - want).sum() < 0.02 * np.square(want).sum()
    dequantized = dequantize(to_graph(given)).graph
    plain = Session(gs.export_onnx(dequantized)).run({"input": images})["logits"]
    assert np.square(plain - want).sum() < 0.002 * np.square(want).sum()
