"""Reverse mode over the graph: gradients of the outputs of nodes, from the loss back to the first weight."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import onnx

from hqp_onnx.gradients.rules import RULES
from hqp_onnx.gradients.tape import Grads, Rule, Tape, refuse
from hqp_onnx.gradients.trace import reachable
from hqp_onnx.graphs.nodes import operator, reads
from hqp_onnx.graphs.recurrent import GATES

__all__ = ["RULES", "backward"]

_EVERY_OUTPUT = {"Split", *GATES}  # whose rules take the gradients of all outputs


def backward(t: Tape, seeds: Mapping[str, str], wrt: Iterable[str]) -> dict[str, str]:
    """Append the gradients of ``wrt`` and of all that lies between them and the tensors of ``seeds``.

    Args:
        t: tape of the model.
        seeds: dL/dy, in the shape of y, of the tensors y that L reads.
        wrt: tensors whose gradients are wanted; the walk goes no further back.

    Returns:
        Gradient by tensor name; tensors that reach no y, or have gradient zero, are absent.

    Raises:
        GradientError: an operator on the way has no rule.
    """
    wanted = reachable(t.model.graph, wrt, t.traced.types)
    parts = {name: [seed] for name, seed in seeds.items() if name in wanted}
    grads: dict[str, str] = {}
    for node in list(t.model.graph.node)[: _last(t, parts)][::-1]:
        for name in node.output:
            if name in parts:
                grads[name] = _sum(t, parts.pop(name))
        inputs = [i for i, name in enumerate(reads(node)) if name in wanted]
        if not inputs or grads.keys().isdisjoint(node.output):
            continue
        outer = [grads.get(name) for name in node.output]
        rule = _rule(node, outer)
        for i in inputs:
            if (grad := rule(t, node, outer, i)) is not None:
                parts.setdefault(node.input[i], []).append(grad)
    return grads | {name: _sum(t, some) for name, some in parts.items()}


def _rule(node: onnx.NodeProto, outer: Grads) -> Rule:
    rule = RULES.find(operator(node))
    if rule is None:
        raise refuse(node, "has no gradient rule")
    if operator(node) not in _EVERY_OUTPUT and any(outer[1:]):
        raise refuse(node, "has a gradient rule for its first output only")
    return rule


def _last(t: Tape, outputs: Container[str]) -> int:
    """Number of nodes up to the last that produces one of ``outputs``."""
    return max(
        (i + 1 for i, node in enumerate(t.model.graph.node) if any(o in outputs for o in node.output)), default=0
    )


def _sum(t: Tape, parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else t.op("Sum" if len(parts) > 2 else "Add", *parts)
