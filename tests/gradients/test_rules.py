"""Every rule against central differences in float64, computed by onnx's reference evaluator."""

import math

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from oracle import runs

from hqp_onnx.errors import GradientError
from hqp_onnx.gradients.prepare import prepare
from hqp_onnx.gradients.reverse import RULES, backward
from hqp_onnx.gradients.tape import Tape
from hqp_onnx.gradients.trace import Trace
from hqp_onnx.runtime import Session

STEP = 1e-6
# float32 gradients of values near 1; central differences in float64 are good to about 1e-9
RTOL, ATOL = 2e-5, 1e-5

IMAGE = {"x": (2, 4, 5, 6)}
SMALL = {"x": (1, 2, 5, 6)}
PLAIN = {"x": (2, 3, 4)}


def ints(*values):
    return np.array(values, np.int64)


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


SMOOTH = ["Sigmoid", "Tanh", "Softplus", "Softsign", "Erf", "Exp", "Sin", "Cos", "Mish", "Gelu"]
KINKED = ["Relu", "Abs", "Neg", "HardSwish", "HardSigmoid", "Elu", "Selu", "Celu", "LeakyRelu"]

# (operator, text of the node, shapes of the activations, constants, opset); "+" in front of a text: x > 0.2
CASES = [
    *[(op, f"{op} (x)", PLAIN, {}, 20) for op in SMOOTH + KINKED],
    *[(op, f"+{op} (x)", PLAIN, {}, 20) for op in ("Sqrt", "Log", "Reciprocal")],
    ("Swish", "Swish <alpha = 1.3> (x)", PLAIN, {}, 24),
    ("Gelu", 'Gelu <approximate = "tanh"> (x)', PLAIN, {}, 20),
    ("HardSigmoid", "HardSigmoid <alpha = 0.3, beta = 0.4> (x)", PLAIN, {}, 20),
    ("Elu", "Elu <alpha = 0.7> (x)", PLAIN, {}, 20),
    ("Celu", "Celu <alpha = 0.7> (x)", PLAIN, {}, 20),
    ("LeakyRelu", "LeakyRelu <alpha = 0.3> (x)", PLAIN, {}, 20),
    ("ThresholdedRelu", "ThresholdedRelu <alpha = 0.5> (x)", PLAIN, {}, 20),
    ("Clip", "Clip (x, low, high)", PLAIN, {"low": np.float32(-0.5), "high": np.float32(0.8)}, 20),
    ("Clip", "Clip (x, , high)", PLAIN, {"high": np.float32(0.8)}, 20),
    ("PRelu", "PRelu (x, s)", {**PLAIN, "s": (3, 1)}, {}, 20),
    ("Add", "Add (x, u)", {**PLAIN, "u": (3, 1)}, {}, 20),
    ("Sub", "Sub (x, u)", {**PLAIN, "u": (1, 1, 4)}, {}, 20),
    ("Mul", "Mul (x, u)", {**PLAIN, "u": (2, 3, 1)}, {}, 20),
    ("Mul", "Mul (x, x)", PLAIN, {}, 20),
    ("Div", "+Div (u, x)", {"u": (4,), "x": (2, 3, 4)}, {}, 20),
    ("Pow", "+Pow (x, u)", {**PLAIN, "u": (3, 1)}, {}, 20),
    ("Pow", "Pow (x, two)", PLAIN, {"two": np.float32(2)}, 20),
    ("Pow", "Pow (x, three)", PLAIN, {"three": ints(3)}, 20),
    ("Min", "Min (x, u, c)", {**PLAIN, "u": (3, 1)}, {"c": normal(2, 3, 4)}, 20),
    ("Max", "Max (x, u)", {**PLAIN, "u": (4,)}, {}, 20),
    ("Sum", "Sum (x, u, x)", {**PLAIN, "u": (4,)}, {}, 20),
    ("Mean", "Mean (x, u, c)", {**PLAIN, "u": (4,)}, {"c": normal(2, 3, 4)}, 20),
    ("Where", "Where (c, x, u)", {**PLAIN, "u": (3, 1)}, {"c": normal(2, 3, 4) > 0}, 20),
    ("Identity", "Identity (x)", PLAIN, {}, 20),
    ("Dropout", "Dropout (x)", PLAIN, {}, 20),
    ("Cast", "Cast <to = 1> (x)", PLAIN, {}, 20),
    ("CastLike", "CastLike (x, c)", PLAIN, {"c": np.float32(1)}, 20),
    ("Flatten", "Flatten <axis = 2> (x)", IMAGE, {}, 20),
    ("Reshape", "Reshape (x, s)", PLAIN, {"s": ints(0, -1)}, 20),
    ("Squeeze", "Squeeze (x, a)", {"x": (2, 1, 3, 1)}, {"a": ints(1, 3)}, 20),
    ("Unsqueeze", "Unsqueeze (x, a)", PLAIN, {"a": ints(0, 3)}, 20),
    ("Transpose", "Transpose <perm = [1, 2, 0]> (x)", PLAIN, {}, 20),
    ("Transpose", "Transpose (x)", PLAIN, {}, 20),
    ("Concat", "Concat <axis = -1> (x, c, u, x)", {**PLAIN, "u": (2, 3, 2)}, {"c": normal(2, 3, 1)}, 20),
    ("Expand", "Expand (x, s)", {"x": (2, 1, 3)}, {"s": ints(2, 1, 4, 1)}, 20),
    ("Expand", "Expand (x, s)", {"x": (3, 1)}, {"s": ints(2, 3, 4)}, 20),
    ("Slice", "Slice (x, a, b)", PLAIN, {"a": ints(0, 1), "b": ints(2, 3)}, 20),
    (
        "Slice",
        "Slice (x, a, b, c, d)",
        IMAGE,
        {"a": ints(-1, 1), "b": ints(-99, 9), "c": ints(3, -2), "d": ints(-2, 3)},
        20,
    ),
    ("Pad", "Pad (x, p)", PLAIN, {"p": ints(0, 1, 0, 0, 2, 3)}, 20),
    ("Pad", 'Pad <mode = "reflect"> (x, p)', IMAGE, {"p": ints(0, 0, 2, 1, 0, 0, 1, 3)}, 20),
    ("Pad", 'Pad <mode = "edge"> (x, p, , a)', IMAGE, {"p": ints(2, 1, 0, 3), "a": ints(3, 2)}, 20),
    ("Gather", "Gather <axis = 1> (x, i)", PLAIN, {"i": ints(2, 0)}, 20),
    ("Gather", "Gather <axis = -1> (x, i)", PLAIN, {"i": ints(2, -1, 2, 2).reshape(2, 2)}, 20),
    ("Gather", "Gather <axis = 1> (x, i)", PLAIN, {"i": np.array(1, np.int64)}, 20),
    ("Tile", "Tile (x, r)", PLAIN, {"r": ints(1, 3, 2)}, 20),
    ("DepthToSpace", "DepthToSpace <blocksize = 2> (x)", {"x": (2, 8, 2, 3)}, {}, 20),
    ("DepthToSpace", 'DepthToSpace <blocksize = 2, mode = "CRD"> (x)', {"x": (2, 8, 2, 3)}, {}, 20),
    ("SpaceToDepth", "SpaceToDepth <blocksize = 2> (x)", {"x": (2, 2, 4, 6)}, {}, 20),
    ("ReduceSum", "ReduceSum (x)", PLAIN, {}, 20),
    ("ReduceSum", "ReduceSum <keepdims = 0> (x, a)", PLAIN, {"a": ints(-1, 1)}, 20),
    ("ReduceMean", "ReduceMean <keepdims = 0> (x, a)", PLAIN, {"a": ints(2)}, 20),
    ("ReduceMean", "ReduceMean <axes = [1, 2]> (x)", PLAIN, {}, 17),
    ("ReduceMax", "ReduceMax <keepdims = 0> (x, a)", PLAIN, {"a": ints(1)}, 20),
    ("ReduceMin", "ReduceMin (x, a)", PLAIN, {"a": ints(1, 2)}, 20),
    ("Softmax", "Softmax <axis = 1> (x)", PLAIN, {}, 20),
    ("LogSoftmax", "LogSoftmax (x)", PLAIN, {}, 20),
    ("LayerNormalization", "LayerNormalization <axis = -1> (x, s, b)", {**PLAIN, "s": (4,), "b": (4,)}, {}, 20),
    ("LayerNormalization", "LayerNormalization <axis = 1> (x, s)", PLAIN, {"s": normal(3, 4)}, 20),
    ("InstanceNormalization", "InstanceNormalization (x, s, b)", {**IMAGE, "s": (4,), "b": (4,)}, {}, 20),
    (
        "BatchNormalization",
        "BatchNormalization <epsilon = 0.01> (x, s, b, m, v)",
        IMAGE,
        {"s": normal(4), "b": normal(4), "m": normal(4), "v": normal(4) ** 2},
        20,
    ),
    ("GlobalAveragePool", "GlobalAveragePool (x)", IMAGE, {}, 20),
    ("GlobalMaxPool", "GlobalMaxPool (x)", IMAGE, {}, 20),
    ("MaxPool", "MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)", SMALL, {}, 20),
    ("MaxPool", "MaxPool <kernel_shape = [3, 3], strides = [2, 1], pads = [1, 1, 1, 1]> (x)", SMALL, {}, 20),
    ("MaxPool", "MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x)", SMALL, {}, 20),
    ("MaxPool", "MaxPool <kernel_shape = [3]> (x)", {"x": (2, 3, 7)}, {}, 20),
    ("AveragePool", "AveragePool <kernel_shape = [2, 3], strides = [2, 2]> (x)", SMALL, {}, 20),
    ("AveragePool", "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)", SMALL, {}, 20),
    (
        "AveragePool",
        "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 0, 1], strides = [2, 2], count_include_pad = 1> (x)",
        SMALL,
        {},
        20,
    ),
    ("AveragePool", "AveragePool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x)", SMALL, {}, 20),
    ("Gemm", "Gemm <alpha = 0.5, beta = 2.0> (x, u, c)", {"x": (2, 3), "u": (3, 4), "c": (4,)}, {}, 20),
    ("Gemm", "Gemm <transB = 1> (x, u)", {"x": (2, 3), "u": (4, 3)}, {}, 20),
    ("Gemm", "Gemm <transA = 1, alpha = 0.5> (x, u)", {"x": (2, 3), "u": (2, 4)}, {}, 20),
    ("Gemm", "Gemm <transA = 1, transB = 1> (x, u)", {"x": (2, 3), "u": (4, 2)}, {}, 20),
    ("MatMul", "MatMul (x, u)", {"x": (2, 3, 4), "u": (4, 5)}, {}, 20),
    ("MatMul", "MatMul (x, u)", {"x": (2, 1, 3, 4), "u": (5, 4, 2)}, {}, 20),
]


def conv_text(op, **attributes):
    listed = ", ".join(f"{name} = {value}" for name, value in attributes.items())
    return f"{op} <{listed}> (x, w)" if listed else f"{op} (x, w)"


CONVS = [
    (IMAGE["x"], (6, 4, 3, 3), {}),
    (IMAGE["x"], (6, 4, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    (IMAGE["x"], (6, 4, 3, 2), {"pads": [0, 1, 2, 1], "strides": [1, 2]}),
    (IMAGE["x"], (6, 4, 2, 2), {"dilations": [2, 3], "pads": [1, 1, 1, 1]}),
    (IMAGE["x"], (6, 4, 1, 1), {"strides": [2, 3]}),
    (IMAGE["x"], (6, 2, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    (IMAGE["x"], (4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    (IMAGE["x"], (8, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    (IMAGE["x"], (6, 4, 3, 3), {"auto_pad": '"SAME_UPPER"', "strides": [2, 2]}),
    (IMAGE["x"], (6, 4, 2, 2), {"auto_pad": '"SAME_LOWER"'}),
    ((2, 3, 9), (4, 3, 4), {"strides": [3], "pads": [2, 1]}),
    ((2, 2, 3, 4, 3), (3, 2, 2, 2, 2), {"strides": [1, 2, 1], "pads": [1, 0, 0, 1, 0, 1]}),
]
CASES += [("Conv", conv_text("Conv", **a), {"x": x}, {"w": normal(*w)}, 20) for x, w, a in CONVS]
CASES += [
    ("ConvTranspose", conv_text("ConvTranspose", **a), {"x": (2, 4, 3, 4)}, {"w": normal(*w)}, 20)
    for w, a in [
        ((4, 3, 3, 3), {}),
        ((4, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        ((4, 3, 2, 2), {"strides": [2, 2], "output_padding": [1, 1]}),
        ((4, 3, 3, 2), {"strides": [1, 2], "dilations": [2, 1]}),
    ]
]


def build(text, shapes, constants, opset, kind="float"):
    inputs = ", ".join(f"{kind}[{', '.join(map(str, shape))}] {name}" for name, shape in shapes.items())
    header = f'<ir_version: 10, opset_import: ["": {opset}]>'
    model = onnx.parser.parse_model(f"{header} net ({inputs}) => ({kind} y) {{ y = {text.lstrip('+')} }}")
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(x), name) for name, x in constants.items())
    return model


def sampled(text, shapes):
    rng = np.random.default_rng(5)
    values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    if text.startswith("+"):
        values["x"] = np.abs(values["x"]) + np.float32(0.2)
    return values


def wide(x):
    return x.astype(np.float64) if np.issubdtype(np.asarray(x).dtype, np.floating) else x


class Erf(OpRun):
    """In double precision: that of the reference evaluator is single."""

    def _run(self, x):
        return (np.vectorize(math.erf)(x),)


class Gelu(OpRun):
    """As above."""

    def _run(self, x, approximate):
        if approximate == "tanh":
            return (x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),)
        return (x / 2 * (1 + np.vectorize(math.erf)(x / np.sqrt(2))),)


def central_differences(model, feeds, cotangent):
    """Gradient of <cotangent, y> by every element of every input."""
    evaluator = ReferenceEvaluator(model, new_ops=[Erf, Gelu])

    def value(name, at, shift):
        moved = {key: wide(x).copy() for key, x in feeds.items()}
        moved[name].flat[at] += shift
        return float((cotangent * evaluator.run(None, moved)[0]).sum())

    return {
        name: np.array([value(name, i, STEP) - value(name, i, -STEP) for i in range(x.size)]).reshape(x.shape)
        / 2
        / STEP
        for name, x in feeds.items()
    }


def static_trace(model, feeds):
    """A trace of fixed shapes: these inputs share no batch axis."""
    names = [name for node in model.graph.node for name in node.output]
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    known = {**values, **feeds, **Session(model, outputs=names, optimize=False).run(feeds)}
    shapes, types = ({name: getattr(x, what) for name, x in known.items()} for what in ("shape", "dtype"))
    return Trace(shapes, types, values, {}, 0)


def reverse(model, feeds, cotangent):
    """The same by the rules, in float32, run by onnxruntime."""
    ready = prepare(model)
    tape = Tape(ready, static_trace(ready, feeds))
    grads = backward(tape, "y", tape.const(cotangent.astype(np.float32)), list(feeds))
    assert grads.keys() >= feeds.keys()
    return Session(tape.model, outputs=[grads[name] for name in feeds]).run(feeds), grads


@pytest.mark.parametrize(
    ("op", "text", "shapes", "constants", "opset"), CASES, ids=[f"{i}-{c[1]}" for i, c in enumerate(CASES)]
)
def test_rule(op, text, shapes, constants, opset):
    if not runs(opset):
        pytest.skip(f"this onnxruntime does not know opset {opset}")
    feeds = sampled(text, shapes)
    model = build(text, shapes, constants, opset)
    double = build(
        text.replace("to = 1", "to = 11"), shapes, {name: wide(x) for name, x in constants.items()}, opset, "double"
    )
    y = ReferenceEvaluator(double).run(None, {name: wide(x) for name, x in feeds.items()})[0]
    cotangent = np.random.default_rng(9).standard_normal(y.shape)
    want = central_differences(double, feeds, cotangent)
    got, names = reverse(model, feeds, cotangent)
    for name in feeds:
        np.testing.assert_allclose(got[names[name]], want[name], RTOL, ATOL, err_msg=f"{text}: {name}")


def test_split_with_an_unused_output():
    header = '<ir_version: 10, opset_import: ["": 20]>'
    text = "a, b, c = Split <axis = 1> (x, s) d = Mul (a, a) y = Concat <axis = 1> (c, d)"
    model = onnx.parser.parse_model(f"{header} net (float[2, 6] x) => (float[2, 5] y) {{ {text} }}")
    model.graph.initializer.append(numpy_helper.from_array(ints(2, 1, 3), "s"))
    x, g = normal(2, 6), normal(2, 5).astype(np.float64)
    got, names = reverse(model, {"x": x}, g)
    want = np.concatenate([2 * x[:, :2] * g[:, 3:], np.zeros((2, 1)), g[:, :3]], axis=1)
    np.testing.assert_allclose(got[names["x"]], want, rtol=1e-6)


def test_negative_pads():
    """The reference evaluator has none: written out by hand."""
    model = build("Pad (x, p)", {"x": (2, 5)}, {"p": ints(0, -2, 0, 1)}, 20)
    x, g = normal(2, 5), normal(2, 4).astype(np.float64)
    got, names = reverse(model, {"x": x}, g)
    np.testing.assert_allclose(got[names["x"]], np.concatenate([np.zeros((2, 2)), g[:, :3]], 1), rtol=1e-6)


def test_every_rule_has_a_row():
    assert {case[0] for case in CASES} | {"Split"} == RULES.keys()


@pytest.mark.parametrize(
    ("text", "constants", "message"),
    [
        ("Det (x)", {}, "Det node 'y' has no gradient rule; use --saliency l1"),
        ("CumSum (x, a)", {"a": np.array(1, np.int64)}, "CumSum node 'y'"),
        ("MatMul (x, v)", {"v": normal(3)}, "operands of rank 1"),
    ],
)
def test_refusals_name_node_and_operator(text, constants, message):
    with pytest.raises(GradientError, match=message):
        reverse(build(text, {"x": (2, 3, 3)}, constants, 20), {"x": normal(2, 3, 3)}, normal(2, 3, 3))
