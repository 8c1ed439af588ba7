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
"""Their activations have channels along axis 1, those of the others along the last."""
_AXES = {"Conv": (0, 1), "ConvTranspose": (1, 0), "Gemm": (-1, -2), "MatMul": (-1, -2)}
WEIGHTED = frozenset(_AXES)
"""Operators that multiply an activation by a weight."""


@dataclass(frozen=True, slots=True)
class WeightAxes:
    """``output``: the axis of filters; ``input``: the axis of what each filter contracts."""

    output: int
    input: int


def weight_axes(node: Node, rank: int) -> WeightAxes:
    """The axes of the weight, of ``rank`` axes, of a node whose operator is one of ``WEIGHTED``."""
    output, contracted = (axis % rank for axis in _AXES[operator(node)])
    return WeightAxes(contracted, output) if attribute(node, "transB", 0) else WeightAxes(output, contracted)
