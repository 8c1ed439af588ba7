"""Float models as if in INT8, of any scale: what they would take on a chip that computes in nothing else.

A pair is put on all that operators with an INT8 rule read and give, but between one and the bias or activation that it
fuses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx
from onnx.helper import make_node

from hqp_onnx.runtimes.litert.facts import Facts
from hqp_onnx.runtimes.litert.pairs import output_axis
from hqp_onnx.runtimes.litert.rules import RULES

_SCALE, _ZERO = "hqp.any_scale", "hqp.any_zero"
_FUSED = frozenset({"Relu", "Clip"})


def assume_int8(nodes: Sequence[onnx.NodeProto], facts: Facts, outputs: Collection[str]) -> list[onnx.NodeProto]:
    """``nodes``, sorted, with pairs; constants and shapes that they need join ``facts``."""
    facts.add(_SCALE, np.array(0.05, np.float32))
    facts.add(_ZERO, np.array(-128, np.int8))  # as behind a Relu: what pads zeros pads the least value
    paired = _paired(nodes, facts)
    floats = {name for name in paired if facts.types[name] == np.float32 and name not in facts.values}
    made: list[onnx.NodeProto] = [pair for name in floats - _made(nodes) for pair in _pair(name, name, facts)]
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for place, name in enumerate(node.input):
            copy.input[place] = f"{name}/dequantized" if name in floats else name
        if _takes(node) and RULES[node.op_type].int8 == "weighted" and node.input[1] in facts.values:
            made.append(_weight(copy, facts))
        for place, name in enumerate(node.output):
            if name in floats and name in outputs:
                copy.output[place] = f"{name}/float"
                facts.like(copy.output[place], name)
        made.append(copy)
        for name, own in zip(node.output, copy.output, strict=True):
            made += _pair(name, own, facts) if name in floats else ()
            made += [make_node("Identity", [f"{name}/dequantized"], [name])] if own != name else ()
    return made


def _paired(nodes: Sequence[onnx.NodeProto], facts: Facts) -> set[str]:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    paired = {name for node in nodes if _takes(node) for name in (*node.input, *node.output) if name}
    for node in filter(_takes, nodes):
        name, rule = node.output[0], RULES[node.op_type]
        bias = readers.get(name, [])
        if rule.adds and len(bias) == 1 and _is_bias(bias[0], facts.shapes[name][-1:], facts):
            paired.discard(name)
            name = bias[0].output[0]
        after = readers.get(name, [])
        if rule.fuses and len(after) == 1 and after[0].op_type in _FUSED:
            paired.discard(name)
    return paired & facts.types.keys()


def _is_bias(node: onnx.NodeProto, shape: tuple[int, ...], facts: Facts) -> bool:
    return node.op_type == "Add" and any(name in facts.values and facts.shapes[name] == shape for name in node.input)


def _pair(name: str, source: str, facts: Facts) -> Iterator[onnx.NodeProto]:
    """Of tensor ``name``, read from ``source``."""
    q, dq = f"{name}/quantized", f"{name}/dequantized"
    facts.shapes[q], facts.types[q] = facts.shapes[name], np.dtype(np.int8)
    facts.like(dq, name)
    yield make_node("QuantizeLinear", [source, _SCALE, _ZERO], [q])
    yield make_node("DequantizeLinear", [q, _SCALE, _ZERO], [dq])


def _weight(node: onnx.NodeProto, facts: Facts) -> onnx.NodeProto:
    """The DequantizeLinear that ``node`` reads from here on, in place of its weight."""
    name = node.input[1]
    values = facts.values[name]
    axis = output_axis(node, values.ndim)
    most = np.abs(values).max(axis=tuple(n for n in range(values.ndim) if n != axis), initial=0)
    scale = (np.where(most > 0, most, 1) / 127).astype(np.float32)
    steps = scale.reshape([-1 if n == axis else 1 for n in range(values.ndim)])
    facts.add(f"{name}/int8", np.rint(values / steps).astype(np.int8))
    facts.add(f"{name}/scale", scale)
    facts.add(f"{name}/restored", values)
    node.input[1] = f"{name}/restored"
    return make_node("DequantizeLinear", [f"{name}/int8", f"{name}/scale"], [f"{name}/restored"], axis=axis)


def _made(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.output}


def _takes(node: onnx.NodeProto) -> bool:
    rule = RULES.get(node.op_type)
    return rule is not None and rule.int8 != "never" and bool(node.output)
