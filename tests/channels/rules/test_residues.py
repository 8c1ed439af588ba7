"""Residues of single operators against onnxruntime on constant tensors."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from oracle import run, runs

from hqp_onnx.channels.rules.residues import VALUES, ZERO_FIRST, apply

OPERANDS = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "PRelu"), (0.75, 0.5)),
    "Clip": (0.75, 0.1, 0.5),
    "Cast": (0.75,),
}
OPSETS = {"Gelu": 20, "Mish": 18, "Swish": 24}
ATTRIBUTES = {"Cast": {"to": TensorProto.FLOAT16}, **{op: {"axes": [0]} for op in VALUES if op.startswith("Reduce")}}


def evaluate(op: str, operands: tuple[float, ...]) -> float:
    """What onnxruntime makes of tensors [1] that hold ``operands`` (Clip takes scalars as bounds)."""
    opset = OPSETS.get(op, 17)
    if not runs(opset):
        pytest.skip(f"onnxruntime without opset {opset}")
    names = "abc"[: len(operands)]
    shapes = [[] if op == "Clip" and name != "a" else [1] for name in names]
    reduces = {"keepdims": 1} if op.startswith("Reduce") else {}
    node = helper.make_node(op, list(names), ["y"], **ATTRIBUTES.get(op, {}), **reduces)
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT16 if op == "Cast" else TensorProto.FLOAT, [1])
    graph = helper.make_graph([node], "one", inputs, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    feeds = {n: np.full(s, x, np.float32) for n, s, x in zip(names, shapes, operands, strict=True)}
    return float(run(model, feeds)[0][0])


@pytest.mark.parametrize("op", VALUES)
def test_values(op: str) -> None:
    operands = OPERANDS.get(op, (0.75,))
    more = (ATTRIBUTES["Cast"]["to"],) if op == "Cast" else ()
    assert apply(op, [*operands, *more]) == pytest.approx(evaluate(op, operands), rel=1e-6)


@pytest.mark.parametrize("op", ZERO_FIRST)
def test_zero_stays_zero(op: str) -> None:
    operands = (0.0, *OPERANDS.get(op, ())[1:])
    assert evaluate(op, operands) == 0
    assert apply(op, [0.0, *[None] * (len(operands) - 1)]) == 0


def test_unknown_and_infinite() -> None:
    assert apply("Add", [0.0, None]) is None
    assert apply("Mul", [None, 0.0]) == 0
    assert apply("Reciprocal", [0.0]) is None
    assert apply("Log", [0.0]) is None
    assert apply("Sqrt", [-1.0]) is None
    assert apply("Where", [None, 0.5, 0.5]) == 0.5
    assert apply("Where", [None, 0.5, 0.0]) is None
    assert apply("Clip", [0.0, None, 1.0]) is None
    assert apply("Cast", [np.float32(1e-12), TensorProto.FLOAT16]) == 0
    assert apply("Softmax", [0.0]) is None
