"""Residues: the value that a channel takes everywhere once its parameters are zero, where that is certain.

Pruning must give what zeroed parameters give, so what removed channels leave behind decides who may read them.
Residues pass through operators as values do: a Conv leaves 0, Sigmoid makes it 0.5, Add of a scalar eps makes it
eps, Sqrt makes that sqrt(eps). A residue of 0 drops out of any sum; one that is not 0 may divide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto

ZERO_TO_ZERO = (
    *("Relu", "LeakyRelu", "ThresholdedRelu", "Elu", "Celu", "Selu", "HardSwish", "Tanh", "Softsign", "Gelu", "Mish"),
    *("Swish", "Erf", "Abs", "Neg", "Sqrt", "Sin", "Ceil", "Floor", "Round", "Sign", "Identity", "Cast", "Dropout"),
    *("Atan", "Sinh", "Asinh"),
)
ZERO_FIRST = (*ZERO_TO_ZERO, "Div", "PRelu", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd")
VALUES: dict[str, Callable[..., float]] = {
    **dict.fromkeys(("Identity", "ReduceMean", "ReduceMax", "ReduceMin"), lambda x: x),
    "Abs": np.abs,
    "Neg": np.negative,
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "Log": np.log,
    "Reciprocal": lambda x: np.divide(1, x),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Softplus": lambda x: np.logaddexp(0, x),
    "Cast": lambda x, to=TensorProto.FLOAT: onnx.helper.tensor_dtype_to_np_dtype(to).type(x),
    "Clip": lambda x, low=-np.inf, high=np.inf: min(max(x, low), high),
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.float_power,
    "Max": lambda *x: max(x),
    "Min": lambda *x: min(x),
    "Sum": lambda *x: sum(x),
    "Mean": lambda *x: sum(x) / len(x),
}


def apply(op: str, operands: Sequence[float | None]) -> float | None:
    """Residue of a result; None where one that matters is unknown, or the result is not finite."""
    if op == "Where":
        return operands[1] if operands[1] == operands[2] else None
    if op in VALUES and None not in operands:
        with np.errstate(all="ignore"):
            value = VALUES[op](*operands)
        return value if np.isfinite(value) else None
    zero = 0 in operands if op == "Mul" else op in ZERO_FIRST and operands[0] == 0
    return 0.0 if zero else None
