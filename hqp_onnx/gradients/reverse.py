"""Reverse mode over the graph: gradients of the outputs of nodes, from the loss back to the first weight."""

from __future__ import annotations

from collections.abc import Iterable

from hqp_onnx.gradients import (
    rules_elementwise,
    rules_function,
    rules_linear,
    rules_movement,
    rules_pool,
    rules_reduction,
)
from hqp_onnx.gradients.tape import RULES, Tape, refuse
from hqp_onnx.gradients.trace import reachable

__all__ = ["RULES", "backward"]
_FAMILIES = (
    rules_elementwise,
    rules_function,
    rules_linear,
    rules_movement,
    rules_pool,
    rules_reduction,
)  # each fills RULES


def backward(t: Tape, output: str, seed: str, wrt: Iterable[str]) -> dict[str, str]:
    """Append the gradients of ``wrt`` and of all that lies between them and ``output``.

    Args:
        t: tape of the model.
        output: a tensor of the model.
        seed: dL/d(output), in its shape.
        wrt: tensors whose gradients are wanted; the walk goes no further back.

    Returns:
        Gradient by tensor name; tensors that do not reach ``output`` are absent.

    Raises:
        GradientError: an operator on the way has no rule.
    """
    wanted = reachable(t.model.graph, wrt, t.traced.types)
    parts: dict[str, list[str]] = {output: [seed]} if output in wanted else {}
    grads: dict[str, str] = {}
    for node in list(t.model.graph.node)[: _last(t, output)][::-1]:
        for name in node.output:
            if name in parts:
                grads[name] = _sum(t, parts.pop(name))
        inputs = [i for i, name in enumerate(node.input) if name in wanted]
        if not inputs or grads.keys().isdisjoint(node.output):
            continue
        if node.op_type not in RULES or node.domain not in ("", "ai.onnx"):
            raise refuse(node, "has no gradient rule")
        outer = [grads.get(name) for name in node.output]
        for i in inputs:
            parts.setdefault(node.input[i], []).append(RULES[node.op_type](t, node, outer, i))
    return grads | {name: _sum(t, some) for name, some in parts.items()}


def _last(t: Tape, output: str) -> int:
    """Number of nodes up to the producer of ``output``."""
    return next((i + 1 for i, node in enumerate(t.model.graph.node) if output in node.output), 0)


def _sum(t: Tape, parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else t.op("Sum" if len(parts) > 2 else "Add", *parts)
