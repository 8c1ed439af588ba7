"""Units in the graphs of If, Loop and Scan: pruned equals masked, from the ledger alone, for either condition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from oracle import worst_error

from hqp_onnx.channels.channel_map import ParamAxis, PruningPlan
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.model import Model, open_model
from hqp_onnx.passes.prune_channels import prune_channels

X = np.random.default_rng(7).standard_normal((3, 6)).astype(np.float32)


def weight(name: str, *shape: int) -> onnx.TensorProto:
    rng = np.random.default_rng(sum(map(ord, name)))
    return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)


def node(op: str, inputs: str, outputs: str, **attrs: object) -> onnx.NodeProto:
    return helper.make_node(op, ["" if n == "-" else n for n in inputs.split()], outputs.split(), **attrs)


def value(name: str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, None if kind == TensorProto.FLOAT else [])


def body(
    outputs: str, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], inputs: str = ""
) -> onnx.GraphProto:
    kinds = {"i": TensorProto.INT64, "c": TensorProto.BOOL, "c_out": TensorProto.BOOL}
    ins, outs = ([value(n, kinds.get(n, TensorProto.FLOAT)) for n in text.split()] for text in (inputs, outputs))
    return helper.make_graph(nodes, "body", ins, outs, weights)


def model(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], steps: bool = False) -> onnx.ModelProto:
    """x [n, 6] or [t, n, 6], flag [] -> y."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["t", "n", 6] if steps else ["n", 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None if steps else ["n", "k"])
    if steps:
        y.type.tensor_type.shape.CopyFrom(onnx.TensorShapeProto(dim=[onnx.TensorShapeProto.Dimension()] * 3))
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    graph = helper.make_graph(nodes, "g", [x, flag], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def mlp(start: str, end: str, *sizes: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """start -> MatMul -> Relu -> MatMul -> end; names begin with ``end``."""
    nodes = [
        node("MatMul", f"{start} {end}1", f"{end}a"),
        node("Relu", f"{end}a", f"{end}r"),
        node("MatMul", f"{end}r {end}2", end),
    ]
    return nodes, [weight(f"{end}1", *sizes[:2]), weight(f"{end}2", *sizes[1:])]


def private() -> onnx.ModelProto:
    """Each branch has hidden units of its own."""
    branches = {name: body(end, *mlp("x", end, 6, size, 4)) for name, end, size in (("then", "p", 8), ("else", "q", 5))}
    return model([node("If", "flag", "y", **{f"{name}_branch": branch for name, branch in branches.items()})], [])


def alike() -> onnx.ModelProto:
    """Branches whose tensors and weights have the same names."""
    twice = [body("p", *mlp("x", "p", 6, size, 4)) for size in (8, 5)]
    return model([node("If", "flag", "y", then_branch=twice[0], else_branch=twice[1])], [])


def agreed() -> onnx.ModelProto:
    """What both branches give is read outside: their channels go together; one hidden tensor is captured by both."""
    then, other = body("p", *mlp("h", "p", 7, 8, 9)), body("q", [node("MatMul", "h w", "q")], [weight("w", 7, 9)])
    nodes = [
        node("MatMul", "x v", "a"),
        node("Relu", "a", "h"),
        node("If", "flag", "m", then_branch=then, else_branch=other),
        node("Relu", "m", "r"),
        node("MatMul", "r u", "y"),
    ]
    return model(nodes, [weight("v", 6, 7), weight("u", 9, 4)])


def passed_on() -> onnx.ModelProto:
    """One branch hands a captured tensor on."""
    then, other = body("p", *mlp("h", "p", 7, 8, 7)), body("q", [node("Identity", "h", "q")], [])
    nodes = [node("MatMul", "x v", "h"), node("If", "flag", "m", then_branch=then, else_branch=other)]
    return model([*nodes, node("MatMul", "m u", "y")], [weight("v", 6, 7), weight("u", 7, 4)])


def loop(start: list[onnx.NodeProto], initial: str, weights: list[onnx.TensorProto]) -> onnx.ModelProto:
    """s = s + mlp(s), three times; then y = s u."""
    nodes, inner = mlp("s", "p", 7, 8, 7)
    nodes = [*nodes, node("Add", "s p", "s_out"), node("Identity", "c", "c_out")]
    whole = body("c_out s_out", nodes, inner, "i c s")
    nodes = [*start, node("Loop", f"trips - {initial}", "m", body=whole), node("MatMul", "m u", "y")]
    trips = numpy_helper.from_array(np.array(3), "trips")
    return model(nodes, [*weights, trips, weight("u", 7, 4)])


def computed_state() -> onnx.ModelProto:
    return loop([node("MatMul", "x v", "h")], "h", [weight("v", 6, 7)])


def constant_state() -> onnx.ModelProto:
    """The state starts as a constant [1, 7], which the first pass makes as large as the batch."""
    nodes = [
        node("MatMul", "s w", "p"),
        node("MatMul", "x v", "h"),
        node("Tanh", "p", "t"),
        node("ReduceMean", "h", "k", axes=[0], keepdims=1),
        node("Add", "t k", "s_out"),
        node("Identity", "c", "c_out"),
    ]
    whole = body("c_out s_out", nodes, [weight("w", 7, 7), weight("v", 6, 7)], "i c s")
    nodes = [
        node("Loop", "trips - s0", "m", body=whole),
        node("MatMul", "m u", "r"),
        node("MatMul", "x q", "z"),
        node("Add", "r z", "y"),
    ]
    trips = numpy_helper.from_array(np.array(3), "trips")
    return model(nodes, [trips, weight("s0", 1, 7), weight("u", 7, 4), weight("q", 6, 4)])


def scan() -> onnx.ModelProto:
    """h = tanh(x_t v + h w), every h read outside; steps lie along the first axis of x."""
    nodes = [
        node("MatMul", "x_t v", "p"),
        node("MatMul", "h w", "q"),
        node("Add", "p q", "a"),
        node("Tanh", "a", "h_out"),
        node("Identity", "h_out", "o"),
    ]
    inner = body("h_out o", nodes, [weight("v", 6, 7), weight("w", 7, 7)], "h x_t")
    outer = [
        node("ReduceMean", "x", "m", axes=[0], keepdims=0),
        node("MatMul", "m k", "h0"),
        node("Scan", "h0 x", "last all", body=inner, num_scan_inputs=1),
        node("MatMul", "all u", "y"),
    ]
    return model(outer, [weight("k", 6, 7), weight("u", 7, 4)], steps=True)


def nested() -> onnx.ModelProto:
    """An If inside a Loop."""
    then, other = body("p", *mlp("s", "p", 7, 8, 7)), body("q", *mlp("s", "q", 7, 5, 7))
    nodes = [node("If", "flag", "d", then_branch=then, else_branch=other), node("Add", "s d", "s_out")]
    whole = body("c_out s_out", [*nodes, node("Identity", "c", "c_out")], [], "i c s")
    nodes = [node("MatMul", "x v", "h"), node("Loop", "trips - h", "m", body=whole), node("MatMul", "m u", "y")]
    trips = numpy_helper.from_array(np.array(2), "trips")
    return model(nodes, [trips, weight("v", 6, 7), weight("u", 7, 4)])


CASES: dict[Callable[[], onnx.ModelProto], int] = {
    private: 8 + 5,
    alike: 8 + 5,
    agreed: 7 + 8 + 9,
    passed_on: 8 + 7,
    computed_state: 7 + 8,
    constant_state: 7,
    scan: 7,
    nested: 7 + 8 + 5,
}


def opened(made: onnx.ModelProto) -> tuple[Model, onnx.ModelProto]:
    return open_model(made), made


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_pruned_is_masked(case: Callable[[], onnx.ModelProto]) -> None:
    found, original = opened(case())
    channels, x = found.channels(), np.stack([X, 2 * X]) if case is scan else X
    assert len(channels.prunable) == CASES[case], channels.frozen
    for seed in range(3):
        lines = [np.unique(line) for line in channels.lines]
        plan = np.random.default_rng(seed).permutation(channels.prunable)[: 4 + 2 * seed]
        plan = PruningPlan(np.array([u for u in plan if all(u != line[0] for line in lines)]))
        pruned = to_proto(prune_channels(found.graph, channels, plan).graph)
        onnx.checker.check_model(pruned)
        removed = channels.of_file().removed_slices(plan)
        source = to_proto(found.graph) if case is alike else original
        for flag in (True, False):
            assert worst_error(source, pruned, removed, {"x": x, "flag": np.array(flag)}) < 1e-5
        assert pruned.ByteSize() < to_proto(found.graph).ByteSize()


def test_a_weight_that_shares_its_name_with_a_result_keeps_it() -> None:
    """The ledger names weights as the file does; what a branch computes is named apart."""
    then = body("w", *mlp("x", "w", 6, 8, 4))
    other = body(
        "q", [node("MatMul", "x w", "q1"), node("MatMul", "q1 q2", "q")], [weight("w", 6, 5), weight("q2", 5, 4)]
    )
    for branches in ((then, other), (other, then)):
        made = model([node("If", "flag", "y", then_branch=branches[0], else_branch=branches[1])], [])
        named = {key.tensor for key in open_model(made).channels().of_file().members}
        assert {"w1", "w2", "w", "q2"} <= named
        assert frozen(made, "w", 1) == ""


def frozen(made: onnx.ModelProto, tensor: str, axis: int) -> str:
    channels = open_model(made).channels()
    reasons = {channels.frozen.get(unit, "") for unit in channels.members[ParamAxis(tensor, axis)].tolist()}
    return " ".join(sorted(reasons))


def test_a_branch_that_does_not_run_stays() -> None:
    wrong = [node("Reshape", "x size", "x7"), *mlp("x7", "q", 7, 5, 4)[0]]
    size = numpy_helper.from_array(np.array([-1, 7]), "size")
    then, other = body("p", *mlp("x", "p", 6, 8, 4)), body("q", wrong, [*mlp("x7", "q", 7, 5, 4)[1], size])
    made = model([node("If", "flag", "y", then_branch=then, else_branch=other)], [])
    assert "does not run" in frozen(made, "q1", 1)
    assert frozen(made, "p1", 1) == ""


def test_a_state_that_grows_keeps_its_channels() -> None:
    nodes = [node("MatMul", "x w", "p"), node("Concat", "s p", "s_out", axis=1), node("Identity", "c", "c_out")]
    whole = body("c_out s_out", nodes, [weight("w", 6, 3)], "i c s")
    outer = [node("MatMul", "x v", "h"), node("Loop", "trips - h", "y", body=whole)]
    made = model(outer, [numpy_helper.from_array(np.array(3), "trips"), weight("v", 6, 7)])
    assert "changes its size" in frozen(made, "w", 1)
    assert "changes its size" in frozen(made, "v", 1)


def test_a_zero_that_does_not_last_stays() -> None:
    """s' = sigmoid(s): what starts at zero does not stay there, so a norm must not read it without the unit."""
    nodes = [node("MatMul", "s w", "p"), node("Sigmoid", "p", "s_out"), node("Identity", "c", "c_out")]
    whole = body("c_out s_out", nodes, [weight("w", 7, 7)], "i c s")
    outer = [
        node("MatMul", "x v", "h"),
        node("Loop", "trips - h", "m", body=whole),
        node("ReduceSum", "m axes", "y", keepdims=1),
    ]
    constants = [numpy_helper.from_array(np.array(3), "trips"), numpy_helper.from_array(np.array([1]), "axes")]
    assert "ReduceSum" in frozen(model(outer, [*constants, weight("v", 6, 7)]), "w", 1)


def test_a_constant_that_both_branches_read_is_written_once() -> None:
    stated = helper.make_node("Constant", [], ["v"], value=weight("v", 6, 40))
    then = body("p", [node("MatMul", "x v", "p")], [])
    other = body("q", [node("MatMul", "x v", "a"), node("Relu", "a", "q")], [])
    made = model([stated, node("If", "flag", "y", then_branch=then, else_branch=other)], [])
    assert to_proto(open_model(made).graph).SerializeToString().count(weight("v", 6, 40).raw_data) == 1


def test_graphs_are_copied_with_their_weights() -> None:
    found, _ = opened(agreed())
    again = to_proto(to_graph(to_proto(found.graph)))
    assert again.ByteSize() == to_proto(found.graph).ByteSize()
