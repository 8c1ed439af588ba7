"""Every lowering pass: a ModelProto in, left as it is; one that computes the same out, or the very same object."""

from __future__ import annotations

import inspect
import pkgutil
import typing
from collections.abc import Callable
from importlib import import_module

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import hqp_onnx.passes.lowering
from hqp_onnx.gradients.trace import trace
from hqp_onnx.graphs.unique_names import tensor_names
from hqp_onnx.runtimes.session import Session

NAMES = [module.name for module in pkgutil.iter_modules(hqp_onnx.passes.lowering.__path__)]
BODIES = {
    "absorb_pads": "p = Pad (x, pads) y = Conv (p, w)",
    "depthwise_as_products": "y = Conv <group = 3> (x, each)",
    "expand_functions": "y = MeanVarianceNormalization (x)",
    "fix_inputs": "y = Mul (x, shared)",
    "inline_constants": "c = Constant <value = float {2.0}> () y = Mul (x, c)",
    "join_loss": "y = Relu (x)",
    "lower_for_training": "y = HardSwish (x)",
    "open_branches": """z = Constant <value = float {0.0}> () s = ReduceMean <keepdims = 0> (x) c = Greater (s, z)
        y = If (c) <then_branch = then () => (float[N,3,5,4] a) { a = Relu (x) },
                    else_branch = else () => (float[N,3,5,4] b) { b = Neg (x) }>""",
    "unroll_loops": """z = ReduceMean <axes = [3], keepdims = 0> (x)
        f, y = Scan <num_scan_inputs = 1, scan_input_axes = [3], scan_output_axes = [3],
        body = b (float[n,3,5] s, float[n,3,5] a) => (float[n,3,5] t, float[n,3,5] c) { t = Add (s, a) c = Tanh (t) }>
        (z, x)""",
    "prepare_for_gradients": "c = Constant <value = float {2.0}> () y = Mul (x, c)",
}
NOTHING_TO_DO = 'i = Identity (x) p = Pad <mode = "reflect"> (i, pads) y = Conv <group = 3> (p, one)'
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 5, 4)).astype(np.float32)
CONSTANTS = {
    "pads": np.array([0, 0, 1, 0, 0, 0, 2, 1]),
    "w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "one": RNG.standard_normal((3, 1, 1, 1)).astype(np.float32),
    "shared": np.array([3.0], np.float32),
    "each": RNG.standard_normal((3, 1, 3, 3)).astype(np.float32),
}


def build(body: str) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,5,4] x) => (float y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(x, name) for name, x in CONSTANTS.items() if name in read)
    if "shared" in read:  # an input, with a default value
        model.graph.input.append(onnx.helper.make_tensor_value_info("shared", onnx.TensorProto.FLOAT, [1]))
    return model


def the_pass(name: str) -> Callable[..., onnx.ModelProto]:
    """The function of a module that bears its name."""
    found: Callable[..., onnx.ModelProto] = getattr(import_module(f"hqp_onnx.passes.lowering.{name}"), name)
    return found


def applied(name: str, model: onnx.ModelProto) -> onnx.ModelProto:
    """What a pass makes of ``model``, with what it takes besides."""
    if name == "depthwise_as_products":
        traced = trace(model, {"x": X[:1]}, None)
        return the_pass(name)(model, traced.dims, traced.types)
    if name == "fix_inputs":
        shared = {value.name for value in model.graph.input} & {"shared"}
        return the_pass(name)(model, {key: CONSTANTS[key] for key in shared})
    if name == "unroll_loops":
        return the_pass(name)(model, {"x": X[:1]})
    if name == "join_loss":
        header = '<ir_version: 8, opset_import: ["" : 17]>'
        loss = f"{header} l (float[N,3,5,4] y) => (float[N] l) {{ l = ReduceSum <keepdims = 0> (y) }}"
        return the_pass(name)(model, onnx.parser.parse_model(loss))
    return the_pass(name)(model)


def test_every_pass_has_a_row() -> None:
    assert set(NAMES) == BODIES.keys()


@pytest.mark.parametrize("name", NAMES)
def test_signature(name: str) -> None:
    function = the_pass(name)
    hints = typing.get_type_hints(function)
    assert hints[next(iter(inspect.signature(function).parameters))] is onnx.ModelProto
    assert hints["return"] is onnx.ModelProto
    assert name in import_module(f"hqp_onnx.passes.lowering.{name}").__all__


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_does_not_change_its_input_and_computes_the_same(name: str) -> None:
    model = build(BODIES[name])
    before = model.SerializeToString(deterministic=True)
    changed = applied(name, model)
    assert model.SerializeToString(deterministic=True) == before
    assert changed.SerializeToString(deterministic=True) != before
    want, found = (Session(each, ["y"]).run({"x": X})["y"] for each in (model, changed))
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "join_loss"])
def test_nothing_to_do_gives_the_same_object(name: str) -> None:
    model = build(NOTHING_TO_DO)
    assert applied(name, model) is model


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("inline_constants", "prepare_for_gradients")])
def test_names_that_happen_to_exist_do_no_harm(name: str) -> None:
    model = build(BODIES[name])
    changed = applied(name, model)
    added = sorted(tensor_names(changed.graph) - tensor_names(model.graph))
    poisoned = build(BODIES[name])
    poisoned.graph.node.extend(onnx.helper.make_node("Neg", ["x"], [new]) for new in added)
    again = applied(name, poisoned)
    written = [output for node in again.graph.node for output in node.output]
    assert len({*written, *(tensor.name for tensor in again.graph.initializer)}) == len(written) + len(
        again.graph.initializer
    )
    want, found = (Session(each, ["y"]).run({"x": X})["y"] for each in (changed, again))
    np.testing.assert_array_equal(found, want)
