"""GELU, written out by exporters, as the one operator that LiteRT has for it.

    x (1 + erf(x / sqrt 2)) / 2

in whatever order its factors are multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from hqp_onnx.arrays import Array

_CLOSE = 1e-4


def join_gelus(nodes: Sequence[onnx.NodeProto], values: Mapping[str, Array]) -> list[onnx.NodeProto]:
    """``nodes`` with a Gelu in place of the last factor of each GELU; what it no longer reads is left to be dropped."""
    makers = {name: node for node in nodes for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    joined = dict(filter(None, (_gelu(node, makers, readers, values) for node in nodes if node.op_type == "Erf")))
    return [_node(node, joined) for node in nodes]


def _node(node: onnx.NodeProto, joined: Mapping[str, str]) -> onnx.NodeProto:
    source = joined.get(node.output[0]) if node.output else None
    return node if source is None else onnx.helper.make_node("Gelu", [source], node.output, node.name)


def _gelu(
    erf: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    readers: Mapping[str, Sequence[onnx.NodeProto]],
    values: Mapping[str, Array],
) -> tuple[str, str] | None:
    """The output of a GELU around ``erf``, and its input; None where there is none."""
    x, share = _scaled(erf.input[0], makers, values)
    if abs(share * math.sqrt(2) - 1) > _CLOSE:
        return None
    at, factor, times_x = erf.output[0], 1.0, False
    for number in range(4):
        if len(readers.get(at, ())) != 1:
            return None
        node = readers[at][0]
        other = next((name for name in node.input if name != at), at)
        if number == 0:
            if node.op_type != "Add" or _number(other, values) != 1:
                return None
        elif node.op_type == "Mul" and (constant := _number(other, values)) is not None:
            factor *= constant
        elif node.op_type == "Div" and node.input[0] == at and (constant := _number(other, values)):
            factor /= constant
        elif node.op_type == "Mul" and not times_x:
            source, scale = _scaled(other, makers, values)
            if source != x and other != x:
                return None
            times_x, factor = True, factor * (1.0 if other == x else scale)
        else:
            return None
        at = node.output[0]
        if times_x and abs(2 * factor - 1) < _CLOSE:
            return at, x
    return None


def _scaled(name: str, makers: Mapping[str, onnx.NodeProto], values: Mapping[str, Array]) -> tuple[str, float]:
    """What ``name`` is a multiple of, and the factor; itself and 1 where it is none."""
    node = makers.get(name)
    if node is None or node.op_type not in ("Mul", "Div"):
        return name, 1.0
    left, right = node.input
    if (constant := _number(right, values)) is not None and constant:
        return left, constant if node.op_type == "Mul" else 1 / constant
    if node.op_type == "Mul" and (constant := _number(left, values)) is not None:
        return right, constant
    return name, 1.0


def _number(name: str, values: Mapping[str, Array]) -> float | None:
    value = values.get(name)
    return None if value is None or value.dtype != np.float32 or value.size != 1 else float(value.reshape(-1)[0])
