"""Gradient rules by operator, one module per family."""

from hqp_onnx.gradients.rules import (
    elementwise,
    function,
    index,
    linear,
    movement,
    normalization,
    pool,
    quantize,
    reduction,
    resize,
)
from hqp_onnx.gradients.tape import RULES

__all__ = [
    "RULES",
    "elementwise",
    "function",
    "index",
    "linear",
    "movement",
    "normalization",
    "pool",
    "quantize",
    "reduction",
    "resize",
]
