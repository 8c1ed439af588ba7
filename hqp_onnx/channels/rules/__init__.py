"""One channel rule per operator, a file per family; those of other packages come by entry points (``registry``)."""

from hqp_onnx.channels.rules import (
    cached,
    contraction,
    convolution,
    elementwise,
    gathering,
    measuring,
    movement,
    normalization,
    recurrent,
    reduction,
    resampling,
    reshaping,
)
from hqp_onnx.channels.rules.measuring import pass_counts
from hqp_onnx.channels.rules.registry import REWRITES, RULES

__all__ = [
    "REWRITES",
    "RULES",
    "cached",
    "contraction",
    "convolution",
    "elementwise",
    "gathering",
    "measuring",
    "movement",
    "normalization",
    "pass_counts",
    "recurrent",
    "reduction",
    "resampling",
    "reshaping",
]
