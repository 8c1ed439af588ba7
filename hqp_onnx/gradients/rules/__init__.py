"""One gradient rule per operator, a file per family; those of other packages come by entry points (``tape.RULES``)."""

from hqp_onnx.gradients.rules import (
    elementwise,
    function,
    index,
    linear,
    movement,
    normalization,
    pool,
    quantize,
    recurrent,
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
    "recurrent",
    "reduction",
    "resize",
]
