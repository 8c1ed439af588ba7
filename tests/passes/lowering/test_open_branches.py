"""Gradients of a model with an If are those of the model with the branch that is taken."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper
from oracle import run

from hqp_onnx import score
from hqp_onnx.errors import GradientError
from hqp_onnx.gradients.per_sample import PerSample
from hqp_onnx.passes.lowering.open_branches import open_branches

RNG = np.random.default_rng(0)
WEIGHTS = {
    name: RNG.standard_normal(shape).astype(np.float32)
    for name, shape in {"v": (6, 8), "p": (8, 8), "q": (8, 8), "u": (8, 3)}.items()
}


def model(taken: bool | None, ops: tuple[str, str] = ("Relu", "Tanh"), nested: bool = False) -> onnx.ModelProto:
    """x v -> If(flag, relu(h p), tanh(h q)) -> u; or with the branch of one condition in its place.

    ``nested``: in the first branch, another If takes the logarithm.
    """
    stored = {name: numpy_helper.from_array(x, name) for name, x in WEIGHTS.items()}

    def branch(weight: str, op: str, end: str) -> list[onnx.NodeProto]:
        return [helper.make_node("MatMul", ["h", weight], [f"{weight}m"]), helper.make_node(op, [f"{weight}m"], [end])]

    def body(weight: str, op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{weight}o", TensorProto.FLOAT, None)
        return helper.make_graph(branch(weight, op, f"{weight}o"), weight, [], [out], [stored[weight]])

    then = body("p", ops[0])
    if nested:
        then.ClearField("node")
        then.node.extend(branch("p", ops[0], "root"))
        ends = [
            helper.make_graph(
                [helper.make_node("Log", ["root"], [end])], end, [], [helper.make_tensor_value_info(end, 1, None)]
            )
            for end in ("po1", "po2")
        ]
        then.node.append(helper.make_node("If", ["is"], ["po"], then_branch=ends[0], else_branch=ends[1]))
    choice = helper.make_node("If", ["flag"], ["m"], then_branch=then, else_branch=body("q", ops[1]))
    plain = branch("p", ops[0], "m") if taken else branch("q", ops[1], "m")
    nodes = [helper.make_node("MatMul", ["x", "v"], ["h"]), *([choice] if taken is None else plain)]
    nodes.append(helper.make_node("MatMul", ["m", "u"], ["y"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])]
    inputs += [helper.make_tensor_value_info("flag", TensorProto.BOOL, ["n"])] if taken is None else []
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])]
    if taken is None:  # samples of one batch agree
        one = helper.make_node("Gather", ["flag", "first"], ["is"])
        nodes = [one, *nodes]
        choice.input[0] = "is"
    names = ["v", "u"] if taken is None else ["v", "u", "p" if taken else "q"]
    constants = [stored[name] for name in names] + [numpy_helper.from_array(np.array(0), "first")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("taken", [True, False])
def test_gradients_are_those_of_the_branch(taken: bool) -> None:
    x, labels = RNG.standard_normal((5, 6)).astype(np.float32), np.arange(5) % 3
    feeds = {"x": x, "flag": np.full(5, taken)}
    have = PerSample(model(None), {name: value[:1] for name, value in feeds.items()})(feeds, labels)
    want = PerSample(model(taken), {"x": x[:1]})({"x": x}, labels)
    for name in ("v", "u", "p" if taken else "q"):
        np.testing.assert_allclose(have[name], want[name], rtol=1e-5, atol=1e-7)
    assert not have["q" if taken else "p"].any()
    assert np.allclose(run(open_branches(model(None)), feeds)[0], run(model(taken), {"x": x})[0], atol=1e-6)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("op", ["Sqrt", "Log", "Exp"])
def test_what_is_not_finite_in_the_other_branch_does_no_harm(op: str, nested: bool) -> None:
    """The root of what is below zero is NaN, and so is zero times that."""
    x, labels = 100 * RNG.standard_normal((5, 6)).astype(np.float32), np.arange(5) % 3
    feeds = {"x": x, "flag": np.full(5, False)}
    have = PerSample(model(None, (op, "Tanh"), nested), {name: part[:1] for name, part in feeds.items()})(feeds, labels)
    want = PerSample(model(False), {"x": x[:1]})({"x": x}, labels)
    for name in ("v", "u", "q"):
        np.testing.assert_allclose(have[name], want[name], rtol=1e-5, atol=1e-7)
    assert not have["p"].any()


def test_a_branch_that_does_not_run_is_named() -> None:
    """Neither branch is at fault where only one can run on the data, as with rates of samples."""
    made = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,6] x) => (float[n,3] y) <float limit = {1e9}, int64[2] seven = {-1, 7}, int64[2] six = {-1, 6}> {
            total = ReduceSum <keepdims = 0> (x)  flag = Greater(total, limit)
            h = If (flag) <then_branch = g1 () => (float[n,6] a) { b = Reshape(x, seven) a = Reshape(b, six) },
                           else_branch = g2 () => (float[n,6] c) { c = Tanh(x) }>
            y = MatMul(h, u) }""")
    made.graph.initializer.append(numpy_helper.from_array(np.ones((6, 3), np.float32), "u"))
    with pytest.raises(GradientError, match="with both branches of each If does not run"):
        score(made, {"x": np.ones((4, 6), np.float32), "labels": np.arange(4) % 3})


def test_branches_that_share_names_stay() -> None:
    made = model(None)
    for entry in made.graph.node[2].attribute:
        entry.g.node[0].output[0] = entry.g.node[1].input[0] = "same"
    assert [node.op_type for node in open_branches(made).graph.node].count("If") == 1
