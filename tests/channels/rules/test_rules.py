"""Every channel rule on a small graph: what is prunable, and random plans against the zero-masked original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.parser
import pytest
from oracle import require_runtime

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.channels.rules import RULES
from hqp_onnx.channels.rules.elementwise import UNARY
from hqp_onnx.channels.walk import analyze
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.prune_channels import prune_channels

HEAD = 3  # output channels of every graph, frozen


@dataclass
class Case:
    """A convolution of 8 channels, ``middle`` from ``a`` to ``b``, and a reader of ``b``.

    ``prunable`` is the number of units that may be removed; ``width`` the channels of ``b``.
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
TO_BOOL = {"Not", "IsNaN", "IsInf"}


def unary(op: str) -> Case:
    if op in TO_BOOL:
        return Case(
            "t = IsNaN(a)\n s = IsInf(a)\n v = Or(s, t)\n u = Not(v)\n b = Cast<to=1>(u)",
            8,
            ops=("Not", "IsNaN", "IsInf", "Cast"),
        )
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
        "v = Relu(w)\n s = Shape(x)\n z = Cast<to=1>(s)\n r = ReduceMin<keepdims=0>(z)\n q = Mul(v, r)\n"
        " b = Conv(a, q)",
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
    "GreaterOrEqual, LessOrEqual, Xor": Case(
        "t = GreaterOrEqual(a, c)\n u = LessOrEqual(a, d)\n v = Xor(t, u)\n z = Cast<to=1>(v)\n b = Mul(z, a)",
        8,
        ops=("GreaterOrEqual", "LessOrEqual", "Xor"),
        params={"c": (), "d": (8, 1, 1)},
    ),
    "Div scalar": Case("b = Div(a, c)", 8, ops=("Div",), params={"c": ()}),
    "Div per channel": Case("b = Div(a, c)", 0, params={"c": (8, 1, 1)}),
    "Div by a norm": Case("n = ReduceL2<axes=[2,3]>(a)\n b = Div(a, n)", 0),
    "Div by a norm above a bound": Case(
        "n = ReduceL2<axes=[2,3]>(a)\n d = Clip(n, c)\n b = Div(a, d)", 8, params={"c": ()}
    ),
    "Div by a norm above a computed bound": Case(
        "n = ReduceL2<axes=[2,3]>(a)\n l = ReduceMean<keepdims=0>(x)\n d = Clip(n, l)\n b = Div(a, d)", 0
    ),
    "Div by a norm expanded to the shape of channels": Case(
        "n = ReduceL2<axes=[2,3]>(a)\n d = Add(n, c)\n s = Shape(a)\n e = Expand(d, s)\n b = Div(a, e)",
        8,
        params={"c": ()},
    ),
    "Div of groups by their norm, expanded to the shape of groups": Case(
        "t = Reshape(a, s)\n n = ReduceL2<axes=[2,3]>(t)\n d = Cast<to=1>(n)\n f = Clip(d, bound)\n g = Cast<to=1>(f)\n"
        " z = Shape(t)\n e = Expand(g, z)\n v = Div(t, e)\n b = Reshape(v, r)",
        4,
        params={"bound": 0.5},
        ints={"s": [0, 4, 2, 64], "r": [0, 8, 8, 8]},
    ),
    "Div by Max": Case("t = Abs(a)\n d = Max(t, c)\n b = Div(a, d)", 8, params={"c": ()}),
    "Div by what may be zero": Case("t = Sigmoid(a)\n d = Sub(t, half)\n b = Div(a, d)", 0, params={"half": 0.5}),
    "EvoNorm": Case(
        "m = ReduceMean<axes=[2,3]>(a)\n d = Sub(a, m)\n q = Mul(d, d)\n v = ReduceMean<axes=[2,3]>(q)\n"
        " e = Add(v, c)\n r = Sqrt(e)\n g = Sigmoid(a)\n n = Mul(a, g)\n b = Div(n, r)",
        8,
        params={"c": ()},
    ),
    "Pow below zero": Case(
        "t = Abs(a)\n u = Add(t, c)\n v = Pow(u, p)\n b = Mul(v, a)", 8, params={"c": (), "p": -0.5}
    ),
    "Pow below zero of zero": Case("t = Abs(a)\n v = Pow(t, p)\n b = Mul(v, a)", 0, params={"p": -0.5}),
    "Reciprocal, Log": Case(
        "t = Softplus(a)\n u = Exp(t)\n v = Log(u)\n w = Reciprocal(v)\n b = Mul(w, a)", 8, ops=("Reciprocal", "Log")
    ),
    "Reciprocal of zero": Case("b = Reciprocal(a)", 0),
    "Where that leaves zeros": Case(
        "t = Greater(a, c)\n u = Where(t, a, z)\n s = ReduceSum(u, one)\n b = Sub(a, s)",
        8,
        params={"c": (), "z": 0.0},
        ints={"one": [1]},
    ),
    "Where that leaves more": Case(
        "t = Greater(a, c)\n u = Where(t, a, c)\n s = ReduceSum(u, one)\n b = Sub(a, s)",
        0,
        params={"c": ()},
        ints={"one": [1]},
    ),
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
    **{
        f"{op} over channels that leave zeros": Case(f"t = {op}<axes=[1]>(a)\n b = Sub(a, t)", 8)
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
    "ReduceSum over channels that leave zeros": Case("t = ReduceSum(a, one)\n b = Mul(a, t)", 8, ints={"one": [1]}),
    "ReduceMean over everything but the batch": Case("t = ReduceMean<axes=[-1,1,2]>(a)\n b = Mul(a, t)", 8),
    "ReduceMean over channels that leave more": Case("t = Sigmoid(a)\n u = ReduceMean<axes=[1]>(t)\n b = Sub(a, u)", 0),
    "RMSNorm in parts": Case(
        "q = Pow(a, two)\n m = ReduceMean<axes=[1]>(q)\n e = Add(m, c)\n s = Sqrt(e)\n t = Div(a, s)\n b = Mul(t, g)",
        8,
        params={"c": (), "g": (8, 1, 1)},
    ),
    "global response normalisation": Case(
        "n = ReduceL2<axes=[2,3]>(a)\n m = ReduceMean<axes=[1]>(n)\n d = Add(m, eps)\n r = Div(n, d)\n s = Mul(a, r)\n"
        " t = Mul(s, g)\n u = Add(t, h)\n b = Add(u, a)",
        8,
        params={"eps": (), "g": (8, 1, 1), "h": (8, 1, 1)},
    ),
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
    "Gemm, computed addend, summed": Case(
        "p = GlobalAveragePool(a)\n f = Flatten(p)\n t = Gemm(f, w)\n s = Sigmoid(t)\n u = Gemm(f, v, s)\n"
        ' q = Einsum<equation="nc,nc->n">(u, u)\n b = Unsqueeze(q, one)',
        8,
        1,
        params={"w": (8, 6), "v": (8, 6)},
        ints={"one": [1]},
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
    "MatMul of data": Case("t = Relu(a)\n b = MatMul(a, t)", 8),
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
    "Gather channels": Case("b = Gather<axis=1>(a, i)", 8, 4, ints={"i": [3, 1, -6, 1]}),
    "Gather channels by computed indices": Case(
        "p = ReduceMean<axes=[0,2,3], keepdims=0>(a)\n j = ArgMax<keepdims=1>(p)\n b = Gather<axis=1>(a, j)", 0, 1
    ),
    "Gather a matrix of channels": Case(
        "t = Gather<axis=1>(a, i)\n b = Reshape(t, r)", 6, 4, ints={"i": [[0, 1], [4, 5]], "r": [0, 4, 8, 8]}
    ),
    "Resize": Case(
        'b = Resize<mode="linear">(a, , scales)', 8, ops=("Resize",), params={"scales": [1.0, 1.0, 2.0, 2.0]}
    ),
    "Resize to sizes": Case(
        "p = ReduceMean<axes=[0]>(a)\n b = Resize(p, , , sizes)",
        8,
        ints={"sizes": [1, 8, 5, 5]},
        output="float[1,3,h,w] y",
    ),
    "Resize to computed sizes": Case(
        "s = Shape(x)\n n = Gather(s, zero)\n t = Concat<axis=0>(n, to)\n b = Resize(a, , , t)",
        8,
        ints={"zero": [0], "to": [8, 5, 5]},
    ),
    "Resize channels": Case("b = Resize(a, , scales)", 0, 16, params={"scales": [1.0, 2.0, 1.0, 1.0]}),
    "DepthToSpace": Case("b = DepthToSpace<blocksize=2>(a)", 2, 2, ("DepthToSpace",)),
    "DepthToSpace CRD": Case('b = DepthToSpace<blocksize=2, mode="CRD">(a)', 2, 2),
    "PixelShuffle": Case(
        "t = Reshape(a, s)\n u = Transpose<perm=[0,1,4,2,5,3]>(t)\n v = Reshape(u, r)\n b = Add(v, c)",
        2,
        2,
        params={"c": (2, 1, 1)},
        ints={"s": [0, 2, 2, 2, 8, 8], "r": [0, 2, 16, 16]},
    ),
    "SpaceToDepth": Case("b = SpaceToDepth<blocksize=2>(a)", 8, 32, ("SpaceToDepth",)),
    "GroupNormalization": Case(
        "b = GroupNormalization<num_groups=4>(a, s, c)",
        4,
        ops=("GroupNormalization",),
        params=dict.fromkeys("sc", (8,)),
        opset=21,
    ),
    "GroupNorm by InstanceNormalization": Case(
        "t = Reshape(a, s)\n u = InstanceNormalization(t, g, h)\n v = Reshape(u, r)\n w = Mul(v, c)\n b = Add(w, d)",
        4,
        params={"g": (4,), "h": (4,), "c": (8, 1, 1), "d": (8, 1, 1)},
        ints={"s": [0, 4, -1], "r": [0, 8, 8, 8]},
    ),
    "LayerNormalization": Case(
        "t = LayerNormalization(a, s, c)\n b = Relu(t)",
        8,
        ops=("LayerNormalization",),
        params=dict.fromkeys("sc", (8,)),
    ),
    "LayerNormalization of channels last": Case(
        "t = Transpose<perm=[0,2,3,1]>(a)\n u = LayerNormalization(t, s, c)\n b = Transpose<perm=[0,3,1,2]>(u)",
        8,
        ops=("LayerNormalization",),
        params=dict.fromkeys("sc", (8,)),
    ),
    "LayerNormalization by one tensor twice": Case(
        "t = Transpose<perm=[0,2,3,1]>(a)\n u = LayerNormalization(t, s, s)\n b = Transpose<perm=[0,3,1,2]>(u)",
        8,
        params={"s": (8,)},
    ),
    "LayerNormalization without bias": Case(
        "t = Transpose<perm=[0,2,3,1]>(a)\n u = LayerNormalization(t, s)\n b = Transpose<perm=[0,3,1,2]>(u)",
        8,
        params={"s": (8,)},
    ),
    "RMSNormalization of channels last": Case(
        "t = Transpose<perm=[0,2,3,1]>(a)\n u = RMSNormalization(t, s)\n b = Transpose<perm=[0,3,1,2]>(u)",
        8,
        params={"s": (8,)},
        opset=23,
    ),
    "LayerNormalization of what zeros do not stay": Case(
        "q = Sigmoid(a)\n t = Transpose<perm=[0,2,3,1]>(q)\n u = LayerNormalization(t, s)\n"
        " b = Transpose<perm=[0,3,1,2]>(u)",
        0,
        params={"s": (8,)},
    ),
    "LayerNormalization by a computed scale": Case(
        "t = Transpose<perm=[0,2,3,1]>(a)\n k = Relu(s)\n z = ReduceMax<axes=[0,1,2], keepdims=0>(t)\n"
        " m = Add(k, z)\n u = LayerNormalization(t, m)\n b = Transpose<perm=[0,3,1,2]>(u)",
        0,
        params={"s": (8,)},
    ),
    "LayerNormalization over channels": Case("b = LayerNormalization<axis=1>(a, s)", 0, params={"s": (8, 8, 8)}),
    "RMSNormalization": Case("b = RMSNormalization(a, s)", 8, ops=("RMSNormalization",), params={"s": (8,)}, opset=23),
    "LayerNorm in parts": Case(
        "m = ReduceMean<axes=[1]>(a)\n d = Sub(a, m)\n q = Mul(d, d)\n v = ReduceMean<axes=[1]>(q)\n"
        " e = Add(v, c)\n r = Sqrt(e)\n t = Div(d, r)\n b = Mul(t, s)",
        0,
        params={"c": (), "s": (8, 1, 1)},
    ),
    "Expand": Case("p = GlobalAveragePool(a)\n b = Expand(p, s)", 8, ops=("Expand",), ints={"s": [8, 4, 4]}),
    "Expand as computed": Case(
        "p = GlobalAveragePool(a)\n s = Shape(x)\n n = Gather(s, zero)\n t = Concat<axis=0>(n, to)\n b = Expand(p, t)",
        8,
        ints={"zero": [0], "to": [8, 4, 4]},
    ),
    "class token": Case(
        "s = Shape(a)\n n = Gather(s, zero)\n t = Concat<axis=0>(n, to)\n e = Expand(c, t)\n b = Concat<axis=2>(e, a)",
        8,
        params={"c": (1, 8, 1, 1)},
        ints={"zero": [0], "to": [8, 1, 8]},
    ),
    "Tile": Case("b = Tile(a, s)", 8, 16, ("Tile",), ints={"s": [1, 2, 1, 3]}),
    "ArgMax, ArgMin": Case(
        "t = ArgMax<axis=3>(a)\n u = ArgMin<axis=2>(t)\n b = Cast<to=1>(u)", 8, ops=("ArgMax", "ArgMin")
    ),
    "ArgMax over channels": Case(
        "t = ArgMax<axis=1, keepdims=0>(a)\n u = Unsqueeze(t, one)\n v = Cast<to=1>(u)\n b = Mul(a, v)",
        0,
        ints={"one": [1]},
    ),
    "CumSum": Case("b = CumSum(a, two_i)", 8, ops=("CumSum",), ints={"two_i": [2]}),
    "CumSum over channels": Case("b = CumSum(a, one)", 0, ints={"one": [1]}),
    "Trilu": Case("b = Trilu(a)", 8, ops=("Trilu",)),
    "Einsum": Case('t = Relu(a)\n b = Einsum<equation="nchw,kc->nkhw">(t, w)', 14, 6, ("Einsum",), {"w": (6, 8)}),
    "Einsum over channels": Case(
        't = Tanh(a)\n u = Einsum<equation="nchw, ncvw -> nhv">(a, t)\n b = Unsqueeze(u, one)',
        8,
        1,
        ints={"one": [1]},
    ),
    "Einsum of sigmoids by a map over channels": Case(
        't = Sigmoid(a)\n g = Conv(a, w)\n p = Mul(t, g)\n u = Einsum<equation="nchw,ncvw->nhv">(p, p)\n'
        " b = Unsqueeze(u, one)",
        0,
        1,
        params={"w": (1, 8, 1, 1)},
        ints={"one": [1]},
    ),
    "Einsum of sigmoids over channels": Case(
        't = Sigmoid(a)\n u = Einsum<equation="nchw,ncvw->nhv">(t, t)\n b = Unsqueeze(u, one)', 0, 1, ints={"one": [1]}
    ),
    "Einsum implicit": Case(
        't = Einsum<equation="nchw,cv">(a, w)\n b = Transpose<perm=[1,2,0,3]>(t)', 13, 5, params={"w": (8, 5)}
    ),
    **{
        op: Case(
            "t = Reshape(a, s)\n u = Transpose<perm=[2,0,1]>(t)\n"
            f" q = {op}<hidden_size=5>(u, w, r)\n v = Squeeze(q, one)\n b = Transpose<perm=[1,2,0]>(v)",
            13,
            5,
            (op,),
            {"w": (1, 5 * gates, 8), "r": (1, 5 * gates, 5)},
            {"s": [0, 8, 64], "one": [1]},
            reader=(HEAD, 5, 1),
            output="float[n,3,l] y",
        )
        for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1))
    },
    "shared constant": Case(
        "t = Mul(a, c)\n u = Transpose<perm=[0,2,1,3]>(a)\n v = Mul(u, c)\n w = Transpose<perm=[0,2,1,3]>(v)\n"
        " b = Add(t, w)",
        0,
        params={"c": (8, 1, 1)},
    ),
    "Reshape as computed": Case(
        "s = Shape(x)\n i = Slice(s, two_i, four)\n h = ReduceProd(i)\n t = Concat<axis=0>(zero, eight, h)\n"
        " u = Reshape(a, t)\n v = Relu(u)\n z = Concat<axis=0>(zero, eight, i)\n b = Reshape(v, z)",
        8,
        ints={"two_i": [2], "four": [4], "zero": [0], "eight": [8]},
    ),
    "shape chain": Case(
        "s = Shape(a)\n n = Gather(s, zero)\n t = Concat<axis=0>(n, minus)\n p = GlobalAveragePool(a)\n"
        " b = Reshape(p, t)",
        8,
        ops=("Shape",),
        ints={"zero": [0], "minus": [-1]},
        **FLAT,
    ),
    "shape of another tensor with the same channels": Case(
        "t = MaxPool<kernel_shape=[2,2]>(a)\n s = Shape(t)\n i = Slice(s, zero, two_i)\n j = Concat<axis=0>(i, to)\n"
        " r = Resize(a, , , j)\n u = Reshape(r, flat)\n z = Shape(r)\n b = Reshape(u, z)",
        4,
        ints={"zero": [0], "two_i": [2], "to": [5, 5], "flat": [0, 2, -1]},
    ),
    "shape of a tensor with other channels": Case(
        "t = Conv(x, w)\n s = Shape(t)\n i = Slice(s, zero, two_i)\n j = Concat<axis=0>(i, minus)\n"
        " u = Reshape(a, j)\n v = Relu(u)\n z = Concat<axis=0>(i, to)\n b = Reshape(v, z)\n",
        8,
        params={"w": (8, 3, 1, 1)},
        ints={"zero": [0], "two_i": [2], "minus": [-1], "to": [8, 8]},
    ),
    "shape of channels given out": Case("b = Relu(a)\n s = Shape(a)", 0, output="float[n,3,h,w] y, int64[4] s"),
    "shape of channels in an unknown operator": Case(
        "s = Shape(a)\n z = Cast<to=1>(s)\n v, i = TopK(z, four)\n r = ReduceSum(v)\n b = Mul(a, r)",
        0,
        ints={"four": [4]},
    ),
    "Split by number": Case("t, u, b = Split<axis=1, num_outputs=3>(a)\n", 8, 2, opset=18),
    "ReduceMax by input": Case("b = ReduceMax<noop_with_empty_axes=1>(a)", 8, opset=18),
    "ReduceMean over negative axes": Case("b = ReduceMean(a, last)", 8, ints={"last": [-1, -2]}, opset=18),
    "Pad along axes": Case("b = Pad(a, pads, , axes)", 8, 9, ints={"pads": [1, 1, 0, 1], "axes": [-3, 3]}, opset=18),
    "Resize along axes": Case("b = Resize<axes=[2, 1]>(a, , , sizes)", 8, ints={"sizes": [5, 8]}, opset=18),
    "opset 11": Case(
        "t, u = Split<axis=1, split=[5,3]>(a)\n v = ReduceSum<axes=[2], keepdims=0>(t)\n b = Unsqueeze<axes=[2]>(v)\n",
        8,
        5,
        opset=11,
    ),
    "shape measured": Case("s = Shape(a)\n z = Cast<to=1>(s)\n m = ReduceSum(z)\n b = Mul(a, m)", 0),
    "unknown operator": Case("b = LRN<size=3>(a)", 0),
    "TopK": Case("b, i = TopK(a, eight)", 0, ints={"eight": [8]}),
}
COVERED = {op for case in CASES.values() for op in case.ops}
RESTATED = ("shape", "computed", "leave zeros", "Expand", "Split", "Pad")  # what pruning rewrites
NO_ROW = {"Size", "ConstantOfShape", "Range"}  # shape arithmetic: the rule of Shape
NO_ROW |= {"com.microsoft::GroupQueryAttention"}  # tests/passes/test_expand_fused.py


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
    values = {
        name: rng.uniform(0.1, 1, shape).astype(np.float32) if isinstance(shape, tuple) else np.float32(shape)
        for name, shape in floats.items()
    }
    values |= {name: np.asarray(list_, np.int64) for name, list_ in case.ints.items()}
    values["two"] = np.float32(2)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items() if k in used)
    return model


@pytest.mark.parametrize("name", CASES)
def test_rule(name: str, check_plans: Callable[..., None]) -> None:
    case = CASES[name]
    feeds = {"x": np.random.default_rng(2).uniform(-1, 1, (2, 3, 8, 8)).astype(np.float32)}
    require_runtime(build(case), feeds)
    graph = canonicalize(to_graph(build(case))).graph
    channels = analyze(graph)
    assert len(channels.prunable) == case.prunable
    assert all(reason for reason in channels.frozen.values())
    check_plans(graph, channels, feeds)


@pytest.mark.parametrize("name", [name for name in CASES if any(word in name for word in RESTATED)])
def test_pruned_graph_has_the_remaining_units(name: str, check_plans: Callable[..., None]) -> None:
    graph = canonicalize(to_graph(build(CASES[name]))).graph
    channels = analyze(graph)
    plan = PruningPlan(channels.prunable[:1])
    pruned = canonicalize(to_graph(to_proto(prune_channels(graph, channels, plan).graph))).graph
    remaining = analyze(pruned)
    assert len(remaining.prunable) == len(channels.prunable) - len(plan)
    feeds = {"x": np.random.default_rng(2).uniform(-1, 1, (2, 3, 8, 8)).astype(np.float32)}
    check_plans(pruned, remaining, feeds, tries=3)


def test_every_rule_has_a_case() -> None:
    assert set(RULES.names) - COVERED == NO_ROW
