"""Where the weight of an operator, its input 1, has its filters and the channels that they read.

Conv            [filters, channels / groups, kernel...]
ConvTranspose   [channels, filters / groups, kernel...]     one index covers that column of every group
Gemm            [channels, filters]                         [filters, channels] if transB
MatMul          [..., channels, filters]
"""

from __future__ import annotations

from dataclasses import dataclass

from hqp_onnx.graphs.nodes import Node, attribute, operator

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_AXES = {"Conv": (0, 1), "ConvTranspose": (1, 0), "Gemm": (-1, -2), "MatMul": (-1, -2)}
WEIGHTED = frozenset(_AXES)
"""Operators that multiply an activation by a weight."""


@dataclass(frozen=True, slots=True)
class WeightAxes:
    """``output``: the axis of filters; ``input``: the axis of what each filter contracts."""

    output: int
    input: int


def weight_axes(node: Node, rank: int) -> WeightAxes | None:
    """The axes of a weight of ``rank`` axes that ``node`` reads as its input 1; None if it is no such weight."""
    if operator(node) not in WEIGHTED or rank < 2:
        return None
    output, contracted = (axis % rank for axis in _AXES[operator(node)])
    return WeightAxes(contracted, output) if attribute(node, "transB", 0) else WeightAxes(output, contracted)
