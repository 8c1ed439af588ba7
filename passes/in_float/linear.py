"""Operators of quantized operands and results: each is Q(f(DQ(x), DQ(W)))."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.passes.in_float.parts import Rewrite, Work, input_of, name_of, steps_of


def _linear(
    op: str, operands: Sequence[int], result: int, axes: Sequence[int] = (1, 1), bias: int = 0, factor: float = 1.0
) -> Rewrite:
    """The rewrite of an operator.

    Args:
        op: what it is in float.
        operands: where they are, each with its scale and zero-point behind it.
        result: where the scale of the result is, with the zero-point behind it.
        axes: of the operands, where each slice may have a scale of its own.
        bias: where int32 are, in steps of the product of both scales and ``factor``; 0 for none.
        factor: of the product.
    """

    def rewrite(work: Work, node: gs.Node) -> None:
        steps = [steps_of(node, at + 1, axis) for at, axis in zip(operands, axes, strict=False)]
        floats = [work.floats(node.inputs[at], each) for at, each in zip(operands, steps, strict=True)]
        offset = input_of(node, bias) if bias else None
        if offset is not None:
            known = isinstance(offset, gs.Constant) and all(each.known for each in steps)
            scale = np.float64(factor)
            for each in steps if known else ():
                scale = scale * each.scale.values.astype(np.float64).reshape(-1)
            values = (offset.values * scale).astype(np.float32) if known else None
            floats.append(None if values is None else work.constant(values, f"{offset.name}/float"))
        if all(x is not None for x in floats):
            _put(work, node, op, [x for x in floats if x is not None], result)

    return rewrite


def _gemm(work: Work, node: gs.Node) -> None:
    axis, alpha = 0 if node.attrs.get("transB") else 1, float(node.attrs.get("alpha", 1.0))
    _linear("Gemm", _TWO, 7, (1, axis), 6, alpha)(work, node)


def _concat(work: Work, node: gs.Node) -> None:
    """Scale and zero-point of the result, and then those of each operand behind it."""
    floats = [work.floats(node.inputs[at], steps_of(node, at + 1)) for at in range(2, len(node.inputs), 3)]
    if all(x is not None for x in floats):
        _put(work, node, "Concat", [x for x in floats if x is not None], 0)


def _where(work: Work, node: gs.Node) -> None:
    """A condition, both operands with scale and zero-point behind each, and those of the result."""
    floats = [work.floats(node.inputs[at], steps_of(node, at + 1)) for at in (1, 4)]
    if all(x is not None for x in floats):
        _put(work, node, "Where", [node.inputs[0], *(x for x in floats if x is not None)], 7)


def _put(work: Work, node: gs.Node, op: str, floats: Sequence[gs.Tensor], result: int) -> None:
    """``op`` in place of ``node``, and QuantizeLinear behind it where the result is quantized."""
    if node.attrs.get("channels_last") or node.attrs.get("opset", 13) < 13:
        return  # a layout, or a softmax, that ``op`` is not
    attrs = {name: value for name, value in node.attrs.items() if name not in ("channels_last", "opset")}
    output, wish, quantized = node.outputs[0], name_of(node), input_of(node, result) is not None
    node.outputs = []
    value = work.op(op, floats, f"{wish}/float" if quantized else wish, None if quantized else output, **attrs)
    if quantized:
        work.op("QuantizeLinear", [value, *steps_of(node, result).inputs], wish, output)


_TWO = (0, 3)
LINEAR: dict[str, Rewrite] = {
    "QLinearConv": _linear("Conv", _TWO, 6, (1, 0), 8),
    "QLinearMatMul": _linear("MatMul", _TWO, 6, (-2, -1)),
    "QGemm": _gemm,
    "QLinearAdd": _linear("Add", _TWO, 6),
    "QLinearMul": _linear("Mul", _TWO, 6),
    "QLinearConcat": _concat,
    "QLinearWhere": _where,
    "QLinearSigmoid": _linear("Sigmoid", (0,), 3),
    "QLinearLeakyRelu": _linear("LeakyRelu", (0,), 3),
    "QLinearSoftmax": _linear("Softmax", (0,), 3),
    "QLinearAveragePool": _linear("AveragePool", (0,), 3),
    "QLinearGlobalAveragePool": _linear("GlobalAveragePool", (0,), 3),
}
