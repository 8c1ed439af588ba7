"""Pairs Q/DQ of a model: which tensors are integers, and of which scales.

    uint8 (scale, zero)  ->  int8 (scale, zero - 128)        the same real numbers

A tensor of integers has its scales from the QuantizeLinear that makes it or, an input or a constant, from the
DequantizeLinear that reads it; what moves integers without computing hands them on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.litert.facts import Facts
from hqp_onnx.runtimes.litert.file import Scales

PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})
_MOVES = frozenset(
    {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Gather", "Expand"}
    | {"Concat", "MaxPool", "GlobalMaxPool", "DepthToSpace", "SpaceToDepth"}
)


@dataclass(frozen=True)
class Stored:
    """A constant as it is stored: floats, or integers of ``scale``, [channels] along ``axis``, or [1]."""

    values: Array
    scale: Array | None = None
    axis: int | None = None

    def along(self, axis: int) -> Scales | None:
        """Their scales, where channels are on that axis of what is written."""
        return (
            None if self.scale is None else Scales(tuple(map(float, self.scale)), 0, axis if self.scale.size > 1 else 0)
        )


@dataclass(frozen=True)
class Pairs:
    """Of a model.

    Attributes:
        quantized: output of each QuantizeLinear -> what it reads.
        dequantized: output of each DequantizeLinear of an activation -> what it reads.
        scales: of all tensors of integers between them, as int8 has them.
        stored: output of each DequantizeLinear of a constant -> its integers, where these fit into int8 around 0.
    """

    quantized: Mapping[str, str]
    dequantized: Mapping[str, str]
    scales: Mapping[str, Scales]
    stored: Mapping[str, Stored]


def find_pairs(nodes: Sequence[onnx.NodeProto], constants: Sequence[onnx.NodeProto], facts: Facts) -> Pairs:
    """Of ``nodes``, in order, none of which is constant, and of those among ``constants`` that are.

    Raises:
        ModelError: integers that are not of one constant scale and 8 bits, that are computed with, or that are
            dequantized with other scales than they were quantized with.
    """
    scales = _given(nodes, facts)
    found = {node.output[0]: _stored(node, facts) for node in constants if node.op_type == "DequantizeLinear"}
    for node in nodes:
        read = [name for name in node.input if name]
        if node.op_type == "QuantizeLinear":
            scales[node.output[0]] = _scales(node, facts)
        elif node.op_type == "DequantizeLinear":
            if scales.get(read[0]) != _scales(node, facts):
                raise _refused(node, "what it reads was not quantized with its scale and zero-point")
        elif any(name in scales for name in read):
            data = read if node.op_type == "Concat" else read[:1]
            own = scales.get(read[0])
            if node.op_type not in _MOVES or own is None or any(scales.get(name) != own for name in data):
                raise _refused(node, "it reads integers that stand for others by a scale")
            scales |= {name: own for name in node.output if name}
    return Pairs(
        {node.output[0]: node.input[0] for node in nodes if node.op_type == "QuantizeLinear"},
        {node.output[0]: node.input[0] for node in nodes if node.op_type == "DequantizeLinear"},
        scales,
        {name: stored for name, stored in found.items() if stored is not None},
    )


def output_axis(node: onnx.NodeProto, rank: int) -> int:
    """Where the output channels of a weight lie."""
    if node.op_type in ("Conv", "ConvTranspose"):
        return int(node.op_type == "ConvTranspose")
    return 0 if any(entry.name == "transB" and entry.i for entry in node.attribute) else rank - 1


def _given(nodes: Sequence[onnx.NodeProto], facts: Facts) -> dict[str, Scales]:
    """Of the inputs of the graph that are integers, and of constants that are moved before they are dequantized."""
    makers = {name: node for node in nodes for name in node.output if name}
    found = {}
    for node in nodes:
        if node.op_type != "DequantizeLinear":
            continue
        source = node.input[0]
        while source in makers and makers[source].op_type in _MOVES:
            source = makers[source].input[0]
        if source not in makers:
            found[source] = _scales(node, facts)
    return found


def _scales(node: onnx.NodeProto, facts: Facts) -> Scales:
    """Of the integers of a QuantizeLinear or DequantizeLinear of an activation."""
    name = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
    kind = facts.types[name]
    if kind not in (np.int8, np.uint8):
        raise _refused(node, f"its integers are {kind}, expected int8 or uint8")
    scale = facts.values.get(node.input[1])
    zero = facts.values.get(node.input[2]) if node.input[2:] and node.input[2] else np.zeros(1)
    if scale is None or zero is None or scale.size != 1 or zero.size != 1:
        raise _refused(node, "expected one constant scale, and one zero-point")
    return Scales((float(scale.reshape(-1)[0]),), int(zero.reshape(-1)[0]) - (128 if kind == np.uint8 else 0))


def _stored(node: onnx.NodeProto, facts: Facts) -> Stored | None:
    given = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    integers, scale, *zeros = (facts.values.get(name) for name in node.input if name)
    if integers is None or scale is None or "int" not in integers.dtype.name or given.get("block_size"):
        return None
    axis = given.get("axis", 1) % integers.ndim if scale.size > 1 else None
    values = integers.astype(np.int64)
    if zeros:
        if zeros[0] is None:
            return None
        values = values - zeros[0].astype(np.int64).reshape([-1 if n == axis else 1 for n in range(values.ndim)])
    if values.min(initial=0) < -128 or values.max(initial=0) > 127:
        return None
    return Stored(values.astype(np.int8), scale.reshape(-1), axis)


def _refused(node: onnx.NodeProto, why: str) -> ModelError:
    return ModelError(f"{node.op_type} '{node.name or node.output[0]}': {why}")
