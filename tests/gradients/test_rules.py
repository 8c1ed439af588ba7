"""Every rule against central differences in float64, computed by onnx's reference evaluator."""

import re

import numpy as np
import onnx
import onnx.parser
import pytest
from gradients.double_ops import OURS
from gradients.rule_cases import CASES, REFUSED, ints, normal
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from oracle import runs

from hqp_onnx.errors import GradientError
from hqp_onnx.gradients.reverse import RULES, backward
from hqp_onnx.gradients.tape import Tape
from hqp_onnx.gradients.trace import Trace
from hqp_onnx.graphs.shape_only import shape_only
from hqp_onnx.passes.lowering.expand_functions import LOWERED
from hqp_onnx.passes.lowering.prepare_for_gradients import prepare_for_gradients
from hqp_onnx.runtimes.session import Session

STEP = 1e-6
# float32 gradients of values near 1; central differences in float64 are good to about 1e-9
RTOL, ATOL = 2e-5, 1e-5


def build(text, shapes, constants, opset, kind="float"):
    inputs = ", ".join(f"{kind}[{', '.join(map(str, shape))}] {name}" for name, shape in shapes.items())
    header = f'<ir_version: 10, opset_import: ["": {opset}]>'
    body = text if re.match(r"\w+(, \w+)* = ", text) else f"y = {text.lstrip('+')}"
    model = onnx.parser.parse_model(f"{header} net ({inputs}) => ({kind} y) {{ {body} }}")
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


def central_differences(model, feeds, cotangent):
    """Gradient of <cotangent, y> by every element of every input."""
    evaluator = ReferenceEvaluator(model, new_ops=OURS)

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
    return known_trace(model, {**feeds, **Session(model, outputs=names, optimize=False).run(feeds)})


def known_trace(model, tensors):
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    known = {**values, **tensors}
    values |= {name: known[name] for name in shape_only(model.graph) if name in known}
    shapes, types = ({name: getattr(x, what) for name, x in known.items()} for what in ("shape", "dtype"))
    return Trace(shapes, types, values, {}, 0)


def reverse(model, feeds, cotangent):
    """The same by the rules, in float32, run by onnxruntime."""
    ready = prepare_for_gradients(model)
    tape = Tape(ready, static_trace(ready, feeds))
    grads = backward(tape, {"y": tape.const(cotangent.astype(np.float32))}, list(feeds))
    found = [grads[name] for name in feeds if name in grads]
    values = Session(tape.model, outputs=found).run(feeds) if found else {}
    return {name: values[grads[name]] if name in grads else np.zeros_like(x) for name, x in feeds.items()}


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
    y = ReferenceEvaluator(double, new_ops=OURS).run(None, {name: wide(x) for name, x in feeds.items()})[0]
    cotangent = np.random.default_rng(9).standard_normal(y.shape)
    want = central_differences(double, feeds, cotangent)
    got = reverse(model, feeds, cotangent)
    for name in feeds:
        np.testing.assert_allclose(got[name], want[name], RTOL, ATOL, err_msg=f"{text}: {name}")


# what onnx itself cannot do in double precision; test_rule covers these rows by onnxruntime
SINGLE = {
    "MaxPool <kernel_shape = [3]> (x)",  # the reference evaluator's positions
    "ScatterElements <axis = 1> (x, i, u)",  # its GatherElements wants indices as large as the data
    'ScatterElements <reduction = "add"> (x, i, u)',
    "MeanVarianceNormalization (x)",  # the function body has float constants
}
BACKWARDS = {"LSTM", "GRU", "RNN"}  # its Scan only goes forward
DOUBLE = [case for case in CASES if case[1] not in SINGLE and case[0] not in BACKWARDS]


@pytest.mark.parametrize(
    ("op", "text", "shapes", "constants", "opset"), DOUBLE, ids=[f"{i}-{c[1]}" for i, c in enumerate(DOUBLE)]
)
def test_adjoint_in_double(op, text, shapes, constants, opset):
    """<g, J v> = <J^T g, v>: the appended nodes run in float64, in the reference evaluator."""
    feeds = {name: wide(x) for name, x in sampled(text, shapes).items()}
    model = build(
        text.replace("to = 1", "to = 11"), shapes, {name: wide(x) for name, x in constants.items()}, opset, "double"
    )
    rng = np.random.default_rng(8)
    v = {name: rng.standard_normal(x.shape) for name, x in feeds.items()}
    forward = ReferenceEvaluator(model, new_ops=OURS)
    ahead, behind = (forward.run(None, {k: x + h * v[k] for k, x in feeds.items()})[0] for h in (STEP, -STEP))
    g = rng.standard_normal(ahead.shape)
    ready = prepare_for_gradients(model)
    names = [name for node in ready.graph.node for name in node.output if name]
    values = dict(zip(names, ReferenceEvaluator(ready, new_ops=OURS).run(names, feeds), strict=True))
    tape = Tape(ready, known_trace(ready, {**feeds, **values}))
    grads = backward(tape, {"y": tape.const(g)}, list(feeds))
    found = [name for name in feeds if name in grads]
    back = ReferenceEvaluator(tape.model, new_ops=OURS).run([grads[name] for name in found], feeds) if found else []
    along = sum(float((dx * v[name]).sum()) for name, dx in zip(found, back, strict=True))
    assert along == pytest.approx(float((g * (ahead - behind)).sum()) / 2 / STEP, rel=1e-6, abs=1e-7)


def test_split_with_an_unused_output():
    header = '<ir_version: 10, opset_import: ["": 20]>'
    text = "a, b, c = Split <axis = 1> (x, s) d = Mul (a, a) y = Concat <axis = 1> (c, d)"
    model = onnx.parser.parse_model(f"{header} net (float[2, 6] x) => (float[2, 5] y) {{ {text} }}")
    model.graph.initializer.append(numpy_helper.from_array(ints(2, 1, 3), "s"))
    x, g = normal(2, 6), normal(2, 5).astype(np.float64)
    got = reverse(model, {"x": x}, g)
    want = np.concatenate([2 * x[:, :2] * g[:, 3:], np.zeros((2, 1)), g[:, :3]], axis=1)
    np.testing.assert_allclose(got["x"], want, rtol=1e-6)


def test_negative_pads():
    """The reference evaluator has none: written out by hand."""
    model = build("Pad (x, p)", {"x": (2, 5)}, {"p": ints(0, -2, 0, 1)}, 20)
    x, g = normal(2, 5), normal(2, 4).astype(np.float64)
    got = reverse(model, {"x": x}, g)
    np.testing.assert_allclose(got["x"], np.concatenate([np.zeros((2, 2)), g[:, :3]], 1), rtol=1e-6)


def test_every_rule_has_a_row():
    elsewhere = {"Split", "QuantizeLinear", "DequantizeLinear"}  # the latter two in test_straight_through
    assert {case[0] for case in CASES} | elsewhere == set(RULES.names) | set(LOWERED)


def differentiated():
    """(operator, index) of the inputs that depend on an activation in some row."""
    found = set()
    for _, text, shapes, constants, opset in CASES:
        flows = set(shapes)
        for node in build(text, shapes, constants, opset).graph.node:
            found |= {(node.op_type, index) for index, name in enumerate(node.input) if name in flows}
            flows |= set(node.output) if flows & set(node.input) else set()
    return found


def real_inputs(op):
    """Indices of the inputs of an operator that may be float."""
    schema = onnx.defs.get_schema(op)
    types = {entry.type_param_str: entry.allowed_type_strs for entry in schema.type_constraints}
    for index, entry in enumerate(schema.inputs):
        if "tensor(float)" in types.get(entry.type_str, [entry.type_str]):
            yield index


def test_every_real_input_of_every_rule_has_a_row():
    """A rule that gave one input's gradient for another's would be found by differences, if there is a row."""
    elsewhere = {"Split", "QuantizeLinear", "DequantizeLinear"}
    rows = differentiated()
    missing = [
        (op, index)
        for op in sorted(set(RULES.names) | set(LOWERED))
        for index in real_inputs(op)
        if (op, index) not in rows and index not in REFUSED.get(op, []) and not (op in elsewhere and index == 0)
    ]
    assert not missing


@pytest.mark.parametrize(
    ("op", "index", "text", "constants"),
    [
        ("BatchNormalization", 3, "BatchNormalization (x, s, s, u, k3)", {"s": normal(3), "k3": normal(3) ** 2}),
        ("BatchNormalization", 4, "w = Exp (u) y = BatchNormalization (x, s, s, s, w)", {"s": normal(3)}),
        (
            "LSTM",
            7,
            "e = Exp (u) q = Unsqueeze (e, first) y = LSTM <hidden_size = 1> (x, w, r, , , , , q)",
            {"w": normal(1, 4, 4), "r": normal(1, 4, 1), "first": ints(0)},
        ),
        ("Resize", 1, 'Resize <coordinate_transformation_mode="tf_crop_and_resize"> (x, v, s)', {}),
        ("Resize", 2, "w = Exp (u) y = Resize (x, , w)", {}),
        ("QuantizeLinear", 1, "w = Exp (v) q = QuantizeLinear (x, w) y = DequantizeLinear (q, k)", {}),
        ("DequantizeLinear", 1, "w = Exp (v) q = QuantizeLinear (x, k) y = DequantizeLinear (q, w)", {}),
    ],
)
def test_refused_inputs_name_the_operator(op, index, text, constants):
    assert index in REFUSED[op]
    feeds = {"x": normal(2, 3, 4), "u": np.zeros(3, np.float32), "v": np.zeros(6 if op == "Resize" else (), np.float32)}
    constants = {"s": np.ones(3, np.float32), "k": np.float32(0.1), **constants}
    model = build(text, {name: x.shape for name, x in feeds.items()}, constants, 20)
    used = {name for node in model.graph.node for name in node.input}
    for value in [value for value in model.graph.input if value.name not in used]:
        model.graph.input.remove(value)
    with pytest.raises(GradientError, match=f"^{op} node"):
        reverse(model, {name: x for name, x in feeds.items() if name in used}, normal(2, 3, 4))


@pytest.mark.parametrize(
    ("text", "constants", "message"),
    [
        ("Det (x)", {}, "Det node 'y' has no gradient rule; use saliency l1"),
        ("Mod <fmod = 1> (x, a)", {"a": np.float32(0.7)}, "Mod node 'y'"),
        ('Einsum <equation = "bii->bi"> (x)', {}, "a diagonal"),
    ],
)
def test_refusals_name_node_and_operator(text, constants, message):
    with pytest.raises(GradientError, match=message):
        reverse(build(text, {"x": (2, 3, 3)}, constants, 20), {"x": normal(2, 3, 3)}, normal(2, 3, 3))
