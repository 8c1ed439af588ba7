"""What is computed, held to what onnxruntime computed of the same inputs.

Floats differ by rounding in another order of sums. Integers are also rounded in other places, which is noise of a step
here and there,

    10 log10(sum x^2 / sum (y - x)^2)  >=  15 dB

where a wrong scale, zero-point or axis leaves less; a result that is a few steps in all may differ by two.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hqp_onnx.arrays import Array

_ERROR = 1e-3  # of the largest value
_LEAST_DB = 15.0
_STEPS = 2
_NOTHING = 1e-6  # what is left of floats that cancel out


def difference(wanted: Mapping[str, Array], got: Mapping[str, Array], rounded: bool, steps: Mapping[str, float]) -> str:
    """Which output of ``got`` is not what it is in ``wanted``, and how; "" where all are.

    Args:
        wanted: onnxruntime's outputs by name.
        got: those that are held to them.
        rounded: whether the model rounds to integers on the way.
        steps: of outputs that are multiples of one.
    """
    for name, x in wanted.items():
        y = got[name]
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            return f"output '{name}' is {y.dtype} {list(y.shape)}, expected {x.dtype} {list(x.shape)}"
        step = steps.get(name, float(x.dtype.kind in "iu"))
        if why := _differs(x.astype(np.float64), y.astype(np.float64), rounded, step):
            return f"output '{name}' {why}"
    return ""


def _differs(x: Array, y: Array, rounded: bool, step: float) -> str:
    """In which way; "" where it does not."""
    finite = np.isfinite(x) & np.isfinite(y)
    if not (finite | (x == y) | (np.isnan(x) & np.isnan(y))).all():
        return "is infinite or no number elsewhere"
    x, error = x[finite], np.abs(y[finite] - x[finite])
    most, size = float(error.max(initial=0)), float(np.abs(x).max(initial=0))
    if most <= max(_NOTHING, _STEPS * step if rounded else step):
        return ""
    if not rounded:
        return "" if most <= _ERROR * size else f"differs by {most / max(size, _NOTHING):.2%}"
    decibels = 10 * np.log10(max(float(np.square(x).sum()), _NOTHING**2) / float(np.square(error).sum()))
    return "" if decibels >= _LEAST_DB else f"has {decibels:.1f} dB of signal over noise, expected {_LEAST_DB:g}"
