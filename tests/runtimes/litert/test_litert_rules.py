"""Every rule beside onnxruntime, in float, at one sample and at three; what has no counterpart is refused by name."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx.parser
import pytest
from tflite_operators import operators

from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.litert.convert import convert
from hqp_onnx.runtimes.litert.rules import RULES
from hqp_onnx.runtimes.litert.session import LiteRtSession
from hqp_onnx.runtimes.session import Session

pytest.importorskip("ai_edge_litert")

IMAGE = "float[n, 4, 9, 7] x"
CONV = "float[6, 4, 3, 3] w = {W216}, float[6] b = {W6}"
TURNED = "float[4, 6, 3, 3] w = {W216}, float[6] b = {W6}"
STEPS = "float[n, 5, 3] x"
LSTM = "float[1, 16, 3] w = {W48}, float[1, 16, 4] r = {W64}, float[1, 32] b = {W32}"
TWO = "float[2, 16, 3] w = {W96}, float[2, 16, 4] r = {W128}, float[2, 32] b = {W64}"
GRU = "float[1, 12, 3] w = {W36}, float[1, 12, 4] r = {W48}, float[1, 24] b = {W24}"
IN, OUT = "t = Transpose<perm = [1, 0, 2]>(x)", "y = Transpose<perm = [2, 0, 1, 3]>(z)"
# op -> bodies: inputs, initializers, nodes; {Wn} becomes n values
CASES: dict[str, list[tuple[str, str, str]]] = {
    "LSTM": [
        (STEPS, LSTM, f"{IN} z = LSTM<hidden_size = 4>(t, w, r, b) {OUT}"),
        (
            f"{STEPS}, float[n, 4] h, float[n, 4] c",
            f"{LSTM}, int64[1] zero = {{0}}",
            f"""{IN} h0 = Unsqueeze(h, zero) c0 = Unsqueeze(c, zero)
                s, u, v = LSTM<hidden_size = 4, direction = "reverse">(t, w, r, b, , h0, c0)
                d = Sub(u, v) k = Unsqueeze(d, zero) z = Concat<axis = 0>(s, k) {OUT}""",
        ),
        (STEPS, TWO, f'{IN} z = LSTM<hidden_size = 4, direction = "bidirectional">(t, w, r, b) {OUT}'),
    ],
    "GRU": [
        (STEPS, GRU, f"{IN} z = GRU<hidden_size = 4>(t, w, r, b) {OUT}"),
        (
            STEPS,
            GRU,
            f"""{IN} s, u = GRU<hidden_size = 4, linear_before_reset = 1, direction = "reverse">(t, w, r, b)
                y = Transpose<perm = [1, 0, 2]>(u)""",
        ),
    ],
    "RNN": [
        (
            STEPS,
            "float[1, 4, 3] w = {W12}, float[1, 4, 4] r = {W16}",
            f'{IN} z = RNN<hidden_size = 4, activations = ["Relu"]>(t, w, r) {OUT}',
        ),
    ],
    "Conv": [
        (IMAGE, CONV, "y = Conv<pads = [1, 1, 1, 1]>(x, w, b)"),
        (IMAGE, CONV, "y = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w, b)"),
        (IMAGE, CONV, "y = Conv<strides = [2, 2], auto_pad = 'SAME_LOWER'>(x, w)".replace("'", '"')),
        (IMAGE, CONV, "y = Conv<dilations = [2, 2], pads = [0, 2, 1, 2]>(x, w, b)"),
        (IMAGE, "float[8, 1, 3, 3] w = {W72}", "y = Conv<group = 4, pads = [1, 1, 1, 1]>(x, w)"),
        (IMAGE, "float[8, 2, 3, 3] w = {W144}", "y = Conv<group = 2>(x, w)"),
        ("float[n, 4, 9] x", "float[6, 4, 3] w = {W72}", "y = Conv<strides = [2], pads = [1, 1]>(x, w)"),
    ],
    "ConvTranspose": [
        (IMAGE, "float[4, 6, 2, 2] w = {W96}, float[6] b = {W6}", "y = ConvTranspose<strides = [2, 2]>(x, w, b)"),
        (IMAGE, TURNED, "y = ConvTranspose<strides = [2, 3], pads = [1, 0, 1, 2]>(x, w, b)"),
        (
            IMAGE,
            TURNED,
            "c = ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]>(x, w, b) y = Relu(c)",
        ),
        (IMAGE, "float[4, 6, 4, 4] w = {W384}", "y = ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w)"),
        (
            "float[n, 4, 9] x",
            "float[4, 6, 3] w = {W72}",
            "c = ConvTranspose<strides = [2], pads = [1, 0]>(x, w) y = Clip(c, lo, hi)",
        ),
    ],
    "MaxPool": [
        (IMAGE, "", "y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x)"),
        (IMAGE, "", "r = Relu(x) y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(r)"),
        (IMAGE, "", "y = MaxPool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>(x)"),
        ("float[n, 4, 9] x", "", "y = MaxPool<kernel_shape = [3], strides = [2]>(x)"),
    ],
    "AveragePool": [
        (IMAGE, "", "y = AveragePool<kernel_shape = [3, 3], strides = [2, 2]>(x)"),
        (IMAGE, "", "y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)"),
        (
            IMAGE,
            "",
            "y = AveragePool<kernel_shape = [3, 3], strides = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(x)",
        ),
    ],
    "GlobalAveragePool": [(IMAGE, "", "y = GlobalAveragePool(x)")],
    "GlobalMaxPool": [(IMAGE, "", "y = GlobalMaxPool(x)")],
    "Resize": [
        (
            IMAGE,
            "float[4] s = {1, 1, 2, 2}",
            'y = Resize<coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(x, , s)',
        ),
        (IMAGE, "float[4] s = {1, 1, 2, 3}", 'y = Resize<mode = "linear">(x, , s)'),
        (
            IMAGE,
            "int64[4] s = {1, 4, 5, 13}",
            'y = Resize<mode = "linear", coordinate_transformation_mode = "align_corners">(x, , , s)',
        ),
        (
            IMAGE,
            "float[4] s = {1, 1, 2, 3}",
            'y = Resize<mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel">(x, , s)',
        ),
    ],
    "DepthToSpace": [
        (IMAGE, "", "y = DepthToSpace<blocksize = 2>(x)"),
        ("float[n, 12, 3, 5] x", "", 'y = DepthToSpace<blocksize = 2, mode = "CRD">(x)'),
    ],
    "SpaceToDepth": [("float[n, 3, 8, 6] x", "", "y = SpaceToDepth<blocksize = 2>(x)")],
    "Gemm": [
        ("float[n, 5] x", "float[5, 3] w = {W15}, float[3] b = {W3}", "y = Gemm(x, w, b)"),
        ("float[n, 5] x", "float[3, 5] w = {W15}, float[3] b = {W3}", "g = Gemm<transB = 1>(x, w, b) y = Relu(g)"),
    ],
    "MatMul": [
        ("float[n, 4, 5] x", "float[5, 3] w = {W15}", "y = MatMul(x, w)"),
        ("float[n, 4, 5] x", "float[5, 3] w = {W15}, float[3] b = {W3}", "m = MatMul(x, w) y = Add(b, m)"),
        ("float[n, 4, 5] x", "", "t = Transpose<perm = [0, 2, 1]>(x) y = MatMul(x, t)"),
    ],
    "LayerNormalization": [
        ("float[n, 4, 5] x", "float[5] s = {W5}, float[5] b = {W5}", "y = LayerNormalization(x, s, b)"),
        ("float[n, 5] x", "float[5] s = {W5}", "y = LayerNormalization<epsilon = 0.1>(x, s)"),
    ],
    "Add": [
        (IMAGE, "float[4, 1, 1] c = {W4}", "p = AveragePool<kernel_shape = [2, 2]>(x) y = Add(p, c)"),
        (IMAGE, CONV, "a = Conv(x, w, b) s = Add(a, a) y = Clip(s, lo, hi)"),
        ("float[n, 3, 4] x, float[n, 1, 4] z", "", "y = Add(x, z)"),
    ],
    "Sub": [(IMAGE, "float c = {0.5}", "y = Sub(c, x)")],
    "Mul": [
        (IMAGE, "", "g = GlobalAveragePool(x) p = AveragePool<kernel_shape = [2, 2]>(x) y = Mul(p, g)"),
    ],
    "Div": [
        (IMAGE, "float[1, 4, 1, 1] c = {1.5, 2, 3, 4}", "p = GlobalAveragePool(x) y = Div(p, c)"),
        ("float[n, 3] x", "float c = {4}", "e = Exp(x) y = Div(c, e)"),
    ],
    "Pow": [("float[n, 3] x", "float c = {2}", "y = Pow(x, c)")],
    "Min": [("float[n, 3] x", "float c = {0.2}", "y = Min(x, c)")],
    "Max": [("float[n, 3] x", "float c = {0.2}", "y = Max(x, c)")],
    "BatchNormalization": [
        (
            IMAGE,
            "float[4] s = {W4}, float[4] b = {W4}, float[4] m = {W4}, float[4] v = {1, 2, 3, 4}",
            "p = AveragePool<kernel_shape = [2, 2]>(x) n = BatchNormalization(p, s, b, m, v) y = Relu(n)",
        )
    ],
    "PRelu": [(IMAGE, "float[4, 1, 1] s = {W4}", "p = AveragePool<kernel_shape = [2, 2]>(x) y = PRelu(p, s)")],
    "Clip": [
        (IMAGE, "", "y = Clip(x, lo, hi)"),
        (IMAGE, "float a = {-0.3}, float c = {0.4}", "y = Clip(x, a, c)"),
        (IMAGE, "float a = {-0.3}", "y = Clip(x, a)"),
        (IMAGE, "", "y = Clip(x)"),
    ],
    "HardSigmoid": [(IMAGE, "", "p = GlobalAveragePool(x) y = HardSigmoid<alpha = 0.16666667, beta = 0.5>(p)")],
    "LeakyRelu": [(IMAGE, "", "y = LeakyRelu<alpha = 0.2>(x)")],
    "Gelu": [(IMAGE, "", "y = Gelu(x)"), ("float[n, 3] x", "", 'y = Gelu<approximate = "tanh">(x)')],
    "Cast": [("float[n, 3] x", "", "i = Cast<to = 6>(x) y = Cast<to = 1>(i)")],
    "ReduceMean": [
        (IMAGE, "int64[2] a = {2, 3}", "p = MaxPool<kernel_shape = [2, 2]>(x) y = ReduceMean<keepdims = 0>(p, a)"),
        (IMAGE, "int64[1] a = {3}", "p = MaxPool<kernel_shape = [2, 2]>(x) y = ReduceMean<keepdims = 0>(p, a)"),
        (IMAGE, "int64[1] a = {1}", "p = MaxPool<kernel_shape = [2, 2]>(x) y = ReduceMean(p, a)"),
    ],
    "ReduceSum": [("float[n, 3, 4] x", "int64[1] a = {-1}", "y = ReduceSum(x, a)")],
    "ReduceMax": [
        ("float[n, 3, 4] x", "int64[1] a = {1}", "y = ReduceMax<keepdims = 0>(x, a)"),
        ("float[n, 3, 4] x", "int64[0] a = {}", "e = Exp(x) y = ReduceMax<noop_with_empty_axes = 1>(e, a)"),
    ],
    "ReduceMin": [("float[n, 3, 4] x", "int64[1] a = {1}", "y = ReduceMin(x, a)")],
    "Softmax": [
        ("float[n, 3, 4] x", "", "y = Softmax(x)"),
        (IMAGE, "", "p = MaxPool<kernel_shape = [2, 2]>(x) y = Softmax<axis = 1>(p)"),
    ],
    "LogSoftmax": [("float[n, 3] x", "", "y = LogSoftmax(x)")],
    "Reshape": [(IMAGE, "int64[3] s = {0, 2, -1}", "p = MaxPool<kernel_shape = [2, 2]>(x) y = Reshape(p, s)")],
    "Flatten": [(IMAGE, "", "p = MaxPool<kernel_shape = [2, 2]>(x) y = Flatten(p)")],
    "Squeeze": [(IMAGE, "int64[2] a = {2, 3}", "p = GlobalAveragePool(x) y = Squeeze(p, a)")],
    "Unsqueeze": [("float[n, 3] x", "int64[1] a = {1}", "y = Unsqueeze(x, a)")],
    "Transpose": [
        (IMAGE, "", "p = MaxPool<kernel_shape = [2, 2]>(x) y = Transpose<perm = [0, 2, 3, 1]>(p)"),
        (IMAGE, "", "p = MaxPool<kernel_shape = [2, 2]>(x) y = Transpose<perm = [0, 3, 1, 2]>(p)"),
    ],
    "Concat": [
        (IMAGE, "", "p = MaxPool<kernel_shape = [1, 1]>(x) y = Concat<axis = 1>(p, x)"),
        (IMAGE, "", "p = MaxPool<kernel_shape = [1, 1]>(x) y = Concat<axis = -1>(p, x)"),
    ],
    "Pad": [(IMAGE, "int64[8] a = {0, 1, 2, 0, 0, 0, 1, 3}", "p = MaxPool<kernel_shape = [2, 2]>(x) y = Pad(p, a)")],
    "Slice": [
        (
            IMAGE,
            "int64[2] a = {1, -4}, int64[2] b = {3, 100}, int64[2] c = {1, 3}, int64[2] d = {1, 2}",
            "p = MaxPool<kernel_shape = [2, 2]>(x) y = Slice(p, a, b, c, d)",
        )
    ],
    "Split": [
        (
            IMAGE,
            "int64[2] a = {1, 3}",
            "p = MaxPool<kernel_shape = [2, 2]>(x) s, t = Split<axis = 1>(p, a) u = ReduceMax(s) y = Mul(t, u)",
        )
    ],
    "Gather": [
        ("float[n, 5, 4] x", "int64[3] a = {0, -1, 2}", "y = Gather<axis = 1>(x, a)"),
        ("int64[n, 3] i", "float[9, 4] w = {W36}", "y = Gather(w, i)"),
        ("float[n, 5, 4] x", "int64 a = {2}", "y = Gather<axis = 1>(x, a)"),
    ],
    "Expand": [("float[n, 1, 4] x", "int64[3] s = {1, 3, 1}", "y = Expand(x, s)")],
}
LONE = {("Split", 0), ("Expand", 0), ("Resize", 2)}  # a maximum over all samples, sizes that are stated
UNARY = ("Relu", "HardSwish", "Sigmoid", "Tanh", "Exp", "Sqrt", "Abs", "Neg", "Sin", "Cos", "Floor", "Elu", "Log")
CASES |= {op: [(IMAGE, "", f"a = Abs(x) y = {op}(a)" if op in ("Sqrt", "Log") else f"y = {op}(x)")] for op in UNARY}


def model_of(inputs: str, weights: str, body: str, opset: int = 20) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    while "{W" in weights:
        count = int(weights.split("{W")[1].split("}")[0])
        values = ", ".join(map(str, rng.standard_normal(count).round(3)))
        weights = weights.replace(f"{{W{count}}}", f"{{{values}}}", 1)
    stored = ", ".join(filter(None, ["float lo = {0}, float hi = {6}", weights]))
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => (float[] y) <{stored}> {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def feeds_of(model: onnx.ModelProto, rows: int) -> dict[str, np.ndarray]:
    rng, feeds = np.random.default_rng(1), {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [d.dim_value or rows for d in kind.shape.dim]
        integers = kind.elem_type == onnx.TensorProto.INT64
        feeds[value.name] = rng.integers(0, 9, shape) if integers else rng.standard_normal(shape).astype(np.float32)
    return feeds


def require_alike(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    wanted, got = Session(model).run(feeds)["y"], LiteRtSession(model).run(feeds)["y"]
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_every_rule_has_a_case() -> None:
    assert CASES.keys() == RULES.keys()


@pytest.mark.parametrize(("op", "number"), [(op, n) for op, cases in CASES.items() for n in range(len(cases))])
def test_computes_what_onnxruntime_does(op: str, number: int) -> None:
    model = model_of(*CASES[op][number])
    for rows in (1, 3):
        feeds = feeds_of(model, rows)
        if rows > 1 and (op, number) in LONE:
            continue
        require_alike(model, feeds)


FLAT, WEIGHT = "float[n, 3, 4] x", "float[4, 2] w = {W8}"
REFUSED = [  # inputs, initializers, nodes, opset, words
    ("float[5, 2, 3] x", LSTM, "y = LSTM<hidden_size = 4, clip = 0.5>(x, w, r, b)", 20, "LSTM 'y': it has a clip"),
    (
        "float[5, 2, 3] x",
        f"{LSTM}, int32[2] l = {{5, 3}}",
        "y = LSTM<hidden_size = 4>(x, w, r, b, l)",
        20,
        "LSTM 'y': its samples have different lengths",
    ),
    (FLAT, "", "y = Elu<alpha = 0.5>(x)", 20, "Elu 'y': alpha 0.5: expected 1"),
    (FLAT, "", "y = Pad<pads = [0, 0, 1, 0, 0, 1], value = 7.0>(x)", 10, "Pad 'y': LiteRT pads zeros"),
    ("float[2, 4] x", "float[2, 1] s = {0.1, 0.5}", "y = PRelu(x, s)", 20, "PRelu 'y': its slope differs"),
    (
        "float[3, 4] x",
        "float[4, 2] w = {W8}, float[3, 1] c = {W3}",
        "y = Gemm(x, w, c)",
        20,
        "Gemm 'y': its bias is [3, 1]",
    ),
    (
        "float[2, 4] x",
        "float[4, 2] w = {W8}, float[2, 2] c = {W4}",
        "y = Gemm(x, w, c)",
        20,
        "Gemm 'y': its bias is [2, 2]",
    ),
    ("float[3, 4] x", "float[4] w = {W4}", "y = MatMul(x, w)", 20, "MatMul 'y': a vector is one of its operands"),
    ("float[3, 4] x", "float[3] w = {W3}", "y = MatMul(w, x)", 20, "MatMul 'y': a vector is one of its operands"),
    (FLAT, "int64 e = {2}", "y = Pow(x, e)", 20, "Pow 'y': its base and its exponent are of different types"),
    (
        IMAGE,
        "float[4] s = {1, 1, 1.5, 1.5}",
        'y = Resize<mode = "linear">(x, , s)',
        20,
        "Resize 'y': its scales are not",
    ),
    (
        IMAGE,
        "int64[4] s = {1, 4, 1, 14}",
        'y = Resize<mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel">(x, , , s)',
        20,
        "Resize 'y': linear, pytorch_half_pixel, round_prefer_floor has no counterpart",
    ),
    (
        IMAGE,
        "float[4, 3, 3, 3] w = {W108}",
        "y = ConvTranspose<group = 2>(x, w)",
        20,
        "ConvTranspose 'y': LiteRT transp",
    ),
    (
        IMAGE,
        TURNED,
        "y = ConvTranspose<strides = [2, 2], output_padding = [1, 1]>(x, w, b)",
        20,
        "ConvTranspose 'y': it gives pixels that no window reaches",
    ),
    (IMAGE, "float[4] s = {1, 1, 2.1, 1}", "y = Resize(x, , s)", 20, "Resize 'y': its scales"),
    (
        "float[n, 4, 8, 8] x",
        "float[4] s = {1, 1, 0.5, 0.5}",
        'y = Resize<mode = "linear", antialias = 1>(x, , s)',
        20,
        "Resize 'y': LiteRT does not smooth what it shrinks",
    ),
]


@pytest.mark.parametrize(("inputs", "weights", "body", "opset", "words"), REFUSED)
def test_refuses_what_litert_computes_otherwise(inputs: str, weights: str, body: str, opset: int, words: str) -> None:
    model = model_of(inputs, weights, body, opset)
    feeds = feeds_of(model, 1)
    Session(model).run(feeds)
    with pytest.raises(ModelError, match="^" + re.escape(words)):
        LiteRtSession(model).run(feeds)


def test_refuses_negative_indices() -> None:
    model = model_of("int64[n, 3] i", "float[9, 4] w = {W36}", "y = Gather(w, i)")
    with pytest.raises(ModelError, match="its indices are negative, and LiteRT counts from the start alone"):
        LiteRtSession(model).run({"i": np.array([[1, -1, 6]])})


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_resize_of_opset_10(mode: str) -> None:
    model = model_of(IMAGE, "float[4] s = {1, 1, 2, 2}", f'y = Resize<mode = "{mode}">(x, s)', 10)
    feeds = feeds_of(model, 2)
    require_alike(model, feeds)


@pytest.mark.parametrize("body", ["y = ReduceMean(x, a)", "m = ReduceMean(x, a) y = Sub(x, m)"])
def test_samples_that_depend_on_each_other_are_refused(body: str) -> None:
    model = model_of("float[n, 4] x", "int64[1] a = {0}", body)
    assert LiteRtSession(model).run(feeds_of(model, 1))["y"].shape == (1, 4)
    with pytest.raises(ModelError, match="samples depend on those beside them"):
        LiteRtSession(model).run(feeds_of(model, 3))


@pytest.mark.parametrize("inputs", ["float[1, 4] x, float z", "float z, float[1, 4] x"])
def test_an_input_that_is_a_single_number(inputs: str) -> None:
    model = model_of(inputs, "", "y = Mul(x, z)")
    feeds = {"x": np.ones((1, 4), np.float32), "z": np.array(3, np.float32)}
    feeds = {value.name: feeds[value.name] for value in model.graph.input}
    session = LiteRtSession(model)
    np.testing.assert_array_equal(session.run(feeds)["y"], np.full((1, 4), 3, np.float32))
    session.bound(feeds)()


def test_heads_of_attention_are_gathered_by_single_numbers() -> None:
    body = """p = MatMul(x, w) r = Reshape(p, s) t = Transpose<perm = [2, 0, 3, 1, 4]>(r)
        q = Gather(t, zero) k = Gather(t, first) v = Gather(t, second) l = Transpose<perm = [0, 1, 3, 2]>(k)
        m = MatMul(q, l) a = Softmax(m) o = MatMul(a, v) u = Transpose<perm = [0, 2, 1, 3]>(o) y = Reshape(u, z)"""
    whole = "int64 zero = {0}, int64 first = {1}, int64 second = {2}, int64[5] s = {0, 5, 3, 2, 4}"
    stored = f"{whole}, int64[3] z = {{0, 5, 8}}, float[8, 24] w = {{W192}}"
    model = model_of("float[n, 5, 8] x", stored, body)
    feeds = feeds_of(model, 2)
    require_alike(model, feeds)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("y = Hardmax(x)", "no .tflite has these operators here: Hardmax 'y'"),
        ("y = HardSigmoid(x)", "HardSigmoid 'y': alpha 0.2, beta 0.5: expected 1/6 and 0.5"),
        (
            "y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x)",
            "AveragePool 'y': its padding and count_include_pad have no counterpart",
        ),
    ],
)
def test_refuses_by_name(body: str, words: str) -> None:
    model = model_of("float[n, 4, 8, 8] x", "", body)
    with pytest.raises(ModelError, match="^" + words.replace("(", r"\(")):
        LiteRtSession(model).run(feeds_of(model, 1))


ROOT = "float root = {1.41421356}, float inverse = {0.70710678}, float one = {1}, float half = {0.5}"


@pytest.mark.parametrize(
    "body",
    [
        "u = Div(x, root) e = Erf(u) p = Add(e, one) m = Mul(x, p) y = Mul(m, half)",
        "u = Mul(inverse, x) e = Erf(u) p = Add(one, e) h = Mul(half, x) y = Mul(h, p)",
        "u = Div(x, root) e = Erf(u) p = Add(e, one) k = Mul(p, half) y = Mul(k, x)",
    ],
)
def test_gelu(body: str) -> None:
    model = model_of("float[n, 5, 6] x", ROOT, body)
    feeds = feeds_of(model, 2)
    assert [kind for kind, _ in operators(convert(model, feeds).content)] == ["GELU"]
    got = LiteRtSession(model).run(feeds)["y"]
    np.testing.assert_allclose(got, Session(model).run(feeds)["y"], rtol=1e-4, atol=1e-6)


def test_batch_normalization_joins_the_convolution_in_front() -> None:
    norm = "float[6] s = {W6}, float[6] t = {W6}, float[6] m = {W6}, float[6] v = {1, 2, 3, 4, 5, 6}"
    model = model_of(IMAGE, f"{CONV}, {norm}", "c = Conv(x, w, b) n = BatchNormalization(c, s, t, m, v) y = Relu(n)")
    feeds = feeds_of(model, 2)
    assert [kind for kind, _ in operators(convert(model, feeds).content)] == ["CONV_2D"]
    got = LiteRtSession(model).run(feeds)["y"]
    np.testing.assert_allclose(got, Session(model).run(feeds)["y"], rtol=1e-4, atol=1e-5)
