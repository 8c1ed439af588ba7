"""Every channel rule on a small graph: what is prunable, and random plans against the zero-masked original."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.parser
import pytest
from oracle import worst_error

from hqp_onnx.channel_map import PruningPlan
from hqp_onnx.channel_rules import RULES
from hqp_onnx.channel_rules.elementwise import UNARY
from hqp_onnx.channels import analyze
from hqp_onnx.errors import UsageError
from hqp_onnx.model_io import to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.prune_channels import prune_channels

HEAD = 3  # output channels of every graph, frozen


@dataclass
class Case:
    """A convolution of 8 channels, ``middle`` from ``a`` to ``b``, and a reader of ``b``.

    ``prunable`` is the number of units that may leave; ``width`` the channels of ``b``.
    """

    middle: str
    prunable: int
    width: int = 8
    ops: tuple[str, ...] = ()
    params: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ints: dict[str, list[int]] = field(default_factory=dict)
    read: str = "y = Conv(b, w2)"
    reader: tuple[int, ...] | None = None
    output: str = "float[n,3,h,w] y"
    opset: int = 17


UNARY_OPSETS = {"Gelu": 20, "Mish": 18, "Swish": 24}
TO_BOOL = {"Not", "IsNaN"}


def unary(op: str) -> Case:
    if op in TO_BOOL:
        return Case("t = IsNaN(a)\n u = Not(t)\n b = Cast<to=1>(u)", 8, ops=("Not", "IsNaN", "Cast"))
    if op == "Sqrt":
        return Case("t = Abs(a)\n b = Sqrt(t)", 8, ops=("Sqrt", "Abs"))
    attribute = "<to=1>" if op == "Cast" else ""
    return Case(f"b = {op}{attribute}(a)", 8, ops=(op,), opset=UNARY_OPSETS.get(op, 17))


FLAT = {"read": "y = Gemm<transB=1>(b, w2)", "output": "float[n,3] y"}
CASES = {
    **{op: unary(op) for op in UNARY},
    "Conv with bias": Case("b = Conv<pads=[1,1,1,1]>(a, w, c)", 14, 6, ("Conv",), {"w": (6, 8, 3, 3), "c": (6,)}),
    "Conv depthwise": Case("b = Conv<group=8>(a, w, c)", 8, params={"w": (8, 1, 3, 3), "c": (8,)}),
    "Conv depthwise x2": Case("b = Conv<group=8>(a, w)", 8, 16, params={"w": (16, 1, 1, 1)}),
    "Conv grouped": Case("b = Conv<group=2>(a, w, c)", 4 + 3, 6, params={"w": (6, 4, 1, 1), "c": (6,)}),
    "ConvTranspose": Case(
        "b = ConvTranspose<strides=[2,2]>(a, w, c)", 14, 6, ("ConvTranspose",), {"w": (8, 6, 2, 2), "c": (6,)}
    ),
    "ConvTranspose depthwise": Case("b = ConvTranspose<group=8>(a, w)", 8, params={"w": (8, 1, 2, 2)}),
    "ConvTranspose grouped": Case(
        "b = ConvTranspose<group=2>(a, w, c)", 4 + 3, 6, params={"w": (8, 3, 2, 2), "c": (6,)}
    ),
    "Conv computed weight": Case(
        "v = Relu(w)\n s = Shape(x)\n z = Cast<to=1>(s)\n r = ReduceMin<keepdims=0>(z)\n q = Mul(v, r)\n b = Conv(a, q)",
        0,
        6,
        params={"w": (6, 8, 1, 1)},
    ),
    "BatchNormalization": Case(
        "b = BatchNormalization(a, s, c, m, v)", 8, ops=("BatchNormalization",), params=dict.fromkeys("scmv", (8,))
    ),
    "InstanceNormalization": Case(
        "b = InstanceNormalization(a, s, c)", 8, ops=("InstanceNormalization",), params=dict.fromkeys("sc", (8,))
    ),
    "PRelu": Case("b = PRelu(a, s)", 8, ops=("PRelu",), params={"s": (8, 1, 1)}),
    "Add residual": Case("t = Conv(a, w)\n b = Add(a, t)", 8, ops=("Add",), params={"w": (8, 8, 1, 1)}),
    "Sub constant": Case("b = Sub(a, c)", 8, ops=("Sub",), params={"c": (1, 8, 1, 1)}),
    "Sub scalar": Case("b = Sub(c, a)", 8, params={"c": ()}),
    "Mul gate": Case(
        "g = ReduceMean<axes=[2,3]>(a)\n h = Conv(g, w, c)\n s = Sigmoid(h)\n b = Mul(s, a)",
        8,
        ops=("Mul",),
        params={"w": (8, 8, 1, 1), "c": (8,)},
    ),
    "Mul spatial map": Case("g = Conv(a, w)\n b = Mul(a, g)", 8, params={"w": (1, 8, 1, 1)}),
    "Mul plane constant": Case("b = Mul(a, c)", 8, params={"c": (8, 8, 8)}),
    "Max, Min": Case("t = Relu(a)\n u = Max(t, a)\n b = Min(u, t)", 8, ops=("Max", "Min")),
    "Sum, Mean": Case("t = Relu(a)\n u = Sum(t, a, a)\n b = Mean(u, t)", 8, ops=("Sum", "Mean")),
    "Where, Greater": Case(
        "t = Greater(a, c)\n b = Where(t, a, c)", 8, ops=("Where", "Greater"), params={"c": (8, 1, 1)}
    ),
    "Less, Equal, And, Or": Case(
        "t = Less(a, c)\n u = Equal(a, c)\n v = Or(t, u)\n w = And(v, t)\n z = Cast<to=1>(w)\n b = Mul(z, a)",
        8,
        ops=("Less", "Equal", "And", "Or"),
        params={"c": ()},
    ),
    "Div scalar": Case("b = Div(a, c)", 8, ops=("Div",), params={"c": ()}),
    "Div per channel": Case("b = Div(a, c)", 0, params={"c": (8, 1, 1)}),
    "Pow": Case("t = Abs(a)\n b = Pow(t, two)", 8, ops=("Pow",)),
    "MaxPool, AveragePool": Case(
        "t = MaxPool<kernel_shape=[3,3], strides=[2,2]>(a)\n b = AveragePool<kernel_shape=[2,2]>(t)",
        8,
        ops=("MaxPool", "AveragePool"),
    ),
    "LpPool": Case("b = LpPool<kernel_shape=[2,2]>(a)", 8, ops=("LpPool",)),
    "GlobalAveragePool": Case("b = GlobalAveragePool(a)", 8, ops=("GlobalAveragePool",)),
    "GlobalMaxPool": Case("b = GlobalMaxPool(a)", 8, ops=("GlobalMaxPool",)),
    "GlobalLpPool": Case("b = GlobalLpPool(a)", 8, ops=("GlobalLpPool",)),
    **{
        op: Case(f"b = {op}<axes=[2,3]>(a)", 8, ops=(op,))
        for op in (
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSumExp",
        )
    },
    "ReduceSum": Case("b = ReduceSum(a, axes)", 8, ops=("ReduceSum",), ints={"axes": [2, 3]}),
    "ReduceLogSum": Case("t = Exp(a)\n b = ReduceLogSum<axes=[2,3]>(t)", 8, ops=("ReduceLogSum",)),
    "ReduceMean squeezed": Case("b = ReduceMean<axes=[2,3], keepdims=0>(a)", 8, **FLAT),
    "ReduceMean over channels": Case("t = ReduceMean<axes=[1]>(a)\n b = Sub(a, t)", 0),
    "Softmax spatial": Case("b = Softmax<axis=3>(a)", 8, ops=("Softmax",)),
    "LogSoftmax spatial": Case("b = LogSoftmax<axis=2>(a)", 8, ops=("LogSoftmax",)),
    "Hardmax spatial": Case("b = Hardmax<axis=2>(a)", 8, ops=("Hardmax",)),
    "Softmax over channels": Case("b = Softmax<axis=1>(a)", 0),
    "Flatten, Gemm": Case("b = Flatten(a)", 8, ops=("Flatten", "Gemm"), reader=(HEAD, 8 * 64), **FLAT),
    "Gemm, bias": Case(
        "p = GlobalAveragePool(a)\n f = Flatten(p)\n t = Gemm(f, w, c)\n b = Relu(t)",
        14,
        6,
        params={"w": (8, 6), "c": (6,)},
        **FLAT,
    ),
    "Gemm transA": Case(
        "p = GlobalAveragePool(a)\n f = Flatten(p)\n t = Transpose<perm=[1,0]>(f)\n b = Gemm<transA=1>(t, w)",
        14,
        6,
        params={"w": (8, 6)},
        **FLAT,
    ),
    "MatMul": Case(
        "t = Transpose<perm=[0,2,3,1]>(a)\n u = MatMul(t, w)\n v = Add(u, c)\n b = Transpose<perm=[0,3,1,2]>(v)",
        14,
        6,
        ("MatMul", "Transpose"),
        {"w": (8, 6), "c": (6,)},
    ),
    "MatMul from the left": Case(
        "t = Reshape(a, s)\n u = MatMul(w, t)\n b = Reshape(u, r)",
        14,
        6,
        params={"w": (6, 8)},
        ints={"s": [0, 8, 64], "r": [0, 6, 8, 8]},
    ),
    "MatMul along space": Case("b = MatMul(a, w)", 8, params={"w": (8, 8)}),
    "MatMul of data": Case("t = Relu(a)\n b = MatMul(a, t)", 0),
    "Reshape to groups": Case(
        "t = Reshape(a, s)\n u = Relu(t)\n b = Reshape(u, r)",
        4,
        ops=("Reshape",),
        ints={"s": [0, 2, 4, 8, 8], "r": [0, 8, 8, 8]},
    ),
    "channel shuffle": Case(
        "t = Reshape(a, s)\n u = Transpose<perm=[0,2,1,3,4]>(t)\n b = Reshape(u, r)",
        4,
        ints={"s": [0, 2, 4, 8, 8], "r": [0, 8, 8, 8]},
    ),
    "Reshape inferred": Case("p = GlobalAveragePool(a)\n b = Reshape(p, s)", 8, ints={"s": [-1, 8]}, **FLAT),
    "Squeeze, Unsqueeze": Case(
        "p = GlobalAveragePool(a)\n t = Squeeze(p, s)\n b = Unsqueeze(t, s)",
        8,
        ops=("Squeeze", "Unsqueeze"),
        ints={"s": [2, 3]},
    ),
    "Concat": Case(
        "t = Conv<pads=[1,1,1,1]>(x, w)\n b = Concat<axis=1>(a, t, a)", 12, 20, ("Concat",), {"w": (4, 3, 3, 3)}
    ),
    "Concat along space": Case(
        "t = Conv<pads=[1,1,1,1]>(x, w)\n b = Concat<axis=2>(a, t)", 8, params={"w": (8, 3, 3, 3)}
    ),
    "Concat constant": Case(
        "p = ReduceMean<axes=[0,2,3]>(a)\n b = Concat<axis=1>(p, c)",
        12,
        12,
        params={"c": (1, 4, 1, 1)},
        output="float[1,3,1,1] y",
    ),
    "Split": Case(
        "t, u = Split<axis=1>(a, s)\n v = Conv(u, w)\n b = Concat<axis=1>(t, v)",
        13,
        10,
        ("Split",),
        {"w": (5, 3, 1, 1)},
        {"s": [5, 3]},
    ),
    "Split equal": Case("t, u = Split<axis=1>(a)\n b = Add(t, u)", 4, 4),
    "Slice": Case("b = Slice(a, one, six, one)", 8, 5, ("Slice",), ints={"one": [1], "six": [6]}),
    "Slice with a step": Case(
        "b = Slice(a, zero, eight, one, twos)", 0, 4, ints={"zero": [0], "one": [1], "eight": [8], "twos": [2]}
    ),
    "Slice space backwards": Case(
        "b = Slice(a, last, first, axes, back)", 8, ints={"last": [-1], "first": [-9], "axes": [3], "back": [-1]}
    ),
    "Pad space": Case("b = Pad(a, pads)", 8, ops=("Pad",), ints={"pads": [0, 0, 1, 1, 0, 0, 1, 1]}),
    "Pad channels of a shortcut": Case(
        "t = Conv(a, w)\n p = Pad(a, pads)\n b = Add(p, t)",
        14,
        14,
        params={"w": (14, 8, 1, 1)},
        ints={"pads": [0, 4, 0, 0, 0, 2, 0, 0]},
    ),
    "Gather": Case(
        "t = Gather<axis=2>(a, i)\n b = Unsqueeze(t, two_i)",
        8,
        ops=("Gather",),
        ints={"i": [3], "two_i": [2]},
        read="c = Squeeze(b, two_i)\n y = Conv(c, w2)",
    ),
    "Gather channels": Case("b = Gather<axis=1>(a, i)", 0, 3, ints={"i": [3, 1, 2]}),
    "shape chain": Case(
        "s = Shape(a)\n n = Gather(s, zero)\n t = Concat<axis=0>(n, minus)\n p = GlobalAveragePool(a)\n b = Reshape(p, t)",
        8,
        ops=("Shape",),
        ints={"zero": [0], "minus": [-1]},
        **FLAT,
    ),
    "shape measured": Case("s = Shape(a)\n z = Cast<to=1>(s)\n m = ReduceSum(z)\n b = Mul(a, m)", 0),
    "unknown operator": Case("b = LRN<size=3>(a)", 0),
    "TopK": Case("b, i = TopK(a, eight)", 0, ints={"eight": [8]}),
}
COVERED = {op for case in CASES.values() for op in case.ops}
NO_ROW = {"Size", "ConstantOfShape", "Range"}  # shape arithmetic: the rule of Shape


def build(case: Case) -> onnx.ModelProto:
    text = f"""<ir_version: 8, opset_import: ["" : {case.opset}]>
    g (float[n,3,8,8] x) => ({case.output}) {{
      a = Conv<pads=[1,1,1,1]>(x, w1, b1)
      {case.middle}
      {case.read}
    }}"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(1)
    reader = case.reader or ((HEAD, case.width) if "Gemm" in case.read else (HEAD, case.width, 1, 1))
    floats = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": reader, **case.params}
    values = {name: rng.uniform(0.1, 1, shape).astype(np.float32) for name, shape in floats.items()}
    values |= {name: np.asarray(list_, np.int64) for name, list_ in case.ints.items()}
    values["two"] = np.float32(2)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items() if k in used)
    return model


@pytest.mark.parametrize("name", CASES)
def test_rule(name: str) -> None:
    case = CASES[name]
    graph = canonicalize(to_graph(build(case))).graph
    channels = analyze(graph)
    assert len(channels.prunable) == case.prunable
    assert all(reason for reason in channels.frozen.values())
    original = to_proto(graph)
    rng = np.random.default_rng(2)
    feeds = {"x": rng.uniform(-1, 1, (2, 3, 8, 8)).astype(np.float32)}
    tried = 0
    for _ in range(12):
        count = rng.integers(1, max(case.prunable, 2))
        plan = PruningPlan(rng.permutation(channels.prunable)[:count])
        try:
            pruned = prune_channels(graph, channels, plan).graph
        except UsageError:
            continue  # would empty a tensor
        assert worst_error(original, to_proto(pruned), channels.removed_slices(plan), feeds) <= 1e-5
        tried += len(plan) > 0
    assert tried or not case.prunable


def test_every_rule_has_a_case() -> None:
    assert set(RULES) - COVERED == NO_ROW
