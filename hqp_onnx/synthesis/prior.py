"""What a graph says of the values of its inputs.

Models that take pixels often begin with their normalization, u = (x - mean) / std, as Sub, Div, Mul, Add of constants
or a BatchNormalization. Its training data had that mean and spread, so inputs have them:

    u = k x + o   =>   mean = -o / k,  std = 1 / |k|

One small factor alone, as 1/255, brings 0 .. 1/k to 0 .. 1. Integers that pick rows of a table are below the number of
its rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import FloatArray
from hqp_onnx.graphs.nodes import operator

_COLOURS = (1, 3)
_INTEGERS = 100  # what is divided by so much is a number of a sensor: 255, 1023, 65535
_SAME = ("Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Transpose")


@dataclass(frozen=True, eq=False)
class Prior:
    """Mean and standard deviation of an input, either of a shape that goes along with its batches; and its bounds."""

    mean: FloatArray
    std: FloatArray
    low: float = -math.inf
    high: float = math.inf

    def within(self, dtype: np.dtype[Any]) -> Prior:
        """Bounded by what ``dtype`` holds, too."""
        held = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        return replace(self, low=max(self.low, float(held.min)), high=min(self.high, float(held.max)))


CONVENTIONS = tuple(
    Prior(np.array(mean), np.array(std), low, high)
    for mean, std, low, high in (
        (0.0, 1.0, -math.inf, math.inf),
        (0.5, 0.25, 0.0, 1.0),
        (127.5, 64.0, 0.0, 255.0),
        (0.0, 0.5, -1.0, 1.0),
    )
)
"""What inputs usually are: of mean 0 and standard deviation 1; 0 to 1; 0 to 255; -1 to 1."""
BYTES = CONVENTIONS[2]


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether a batch of this shape may be pixels."""
    return len(shape) == 4 and (shape[1] in _COLOURS or shape[3] in _COLOURS)


def normalization(tensor: gs.Variable, shape: tuple[int, ...]) -> Prior | None:
    """What the first nodes behind an input, of batches of this ``shape``, take for its mean and spread."""
    scale: FloatArray = np.ones(())
    offset: FloatArray = np.zeros(())
    with np.errstate(all="ignore"):
        while len(tensor.outputs) == 1:
            node = tensor.outputs[0]
            if (found := _batchnorm(node, len(shape))) is not None:
                return _bounded((found[0] - offset) / scale, found[1] / scale, shape)
            changed = _affine(node, tensor, scale, offset, len(shape))
            if changed is None:
                break
            (scale, offset), tensor = changed, node.outputs[0]
        if np.all(scale == 1):
            return None
        if np.all(offset == 0):
            high = float(1 / np.min(np.abs(scale)))
            return Prior(np.array(high / 2), np.array(high / 4), 0.0, high) if _INTEGERS <= high < math.inf else None
        return _bounded(-offset / scale, 1 / scale, shape)


def _affine(
    node: gs.Node, tensor: gs.Variable, scale: FloatArray, offset: FloatArray, rank: int
) -> tuple[FloatArray, FloatArray] | None:
    """Scale and offset behind ``node``; None if it is no sum or product with constants of a channel."""
    kind = operator(node)
    if kind in ("Identity", "Cast"):
        return scale, offset
    if kind not in ("Add", "Sub", "Mul", "Div"):
        return None
    first = node.inputs[0] is tensor
    other = node.inputs[1 if first else 0]
    if not isinstance(other, gs.Constant) or other.values.ndim > rank or sum(n > 1 for n in other.values.shape) > 1:
        return None
    c = np.asarray(other.values, np.float64)
    if kind in ("Mul", "Div"):
        factor = c if kind == "Mul" else 1 / c
        return (scale * factor, offset * factor) if first or kind == "Mul" else None
    sign = -1.0 if kind == "Sub" else 1.0
    return (scale, offset + sign * c) if first else (sign * scale, sign * offset + c)


def _batchnorm(node: gs.Node, rank: int) -> tuple[FloatArray, FloatArray] | None:
    if operator(node) != "BatchNormalization" or not all(isinstance(t, gs.Constant) for t in node.inputs[3:5]):
        return None
    mean, variance = (np.asarray(t.values, np.float64).reshape(-1, *[1] * (rank - 2)) for t in node.inputs[3:5])
    return mean, np.sqrt(variance + node.attrs.get("epsilon", 1e-5))


def _bounded(mean: FloatArray, std: FloatArray, shape: tuple[int, ...]) -> Prior | None:
    """None where these are no numbers, or do not fit the shape; pixels are in 0 .. 1 or 0 .. 255."""
    std = np.abs(std)
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        return None
    try:
        if np.broadcast_shapes(mean.shape, std.shape, shape) != shape:
            return None
    except ValueError:
        return None
    prior, most = Prior(mean, std), float((mean + std).max())
    if is_image(shape) and (mean >= 0).all() and most <= BYTES.high:
        return replace(prior, low=0.0, high=1.0 if most <= 1 else BYTES.high)
    return prior


def rows_picked(tensor: gs.Variable) -> int | None:
    """The rows of the smallest table that the integers of ``tensor`` pick rows of; None if there is none."""
    return min(_tables(tensor), default=None)


def _tables(tensor: gs.Variable) -> Iterator[int]:
    for node in tensor.outputs:
        kind = operator(node)
        if kind == "Gather" and node.inputs[1] is tensor and isinstance(node.inputs[0], gs.Constant):
            yield node.inputs[0].shape[node.attrs.get("axis", 0)]
        elif kind in _SAME and node.inputs[0] is tensor:
            yield from _tables(node.outputs[0])
