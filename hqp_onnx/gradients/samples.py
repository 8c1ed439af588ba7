"""Where tensors have their samples: mostly along the first axis, in recurrent networks behind that of the steps.

A tensor of ``Trace.elsewhere`` is [..., outer, samples, inner, ...]: steps by samples, or rows of all steps, each of
all samples. With samples first, the other axes follow in their order.
"""

from __future__ import annotations

from math import prod

import onnx

from hqp_onnx.gradients.tape import Tape, refuse
from hqp_onnx.gradients.trace import Dims, Samples


def require_samples(t: Tape, node: onnx.NodeProto, name: str) -> int:
    """Rows per sample of a tensor.

    Raises:
        GradientError: samples mix, or do not lie one after the other along the first axis.
    """
    if name not in t.traced.rows:
        raise refuse(node, f"reads '{name}', whose first axis does not hold one sample after the other")
    return t.traced.rows[name]


def place_of(t: Tape, name: str) -> Samples | None:
    """Where a tensor has its samples, if elsewhere than along the first axis and of known size otherwise."""
    place = t.traced.elsewhere.get(name)
    return None if place is None or None in _others(t.dims(name), place) else place


def width(t: Tape, name: str) -> int:
    """Elements per sample of a tensor that has a place."""
    place = t.traced.elsewhere[name]
    return place.outer * place.inner * prod(n or 0 for n in _others(t.dims(name), place))


def samples_first(t: Tape, x: str, dims: Dims, place: Samples) -> str:
    """``x`` of sizes ``dims``, with samples first: [samples, ..., outer, inner, ...]."""
    split = t.reshape(x, *(0 if n is None else n for n in _split(dims, place)))
    return t.op("Transpose", split, perm=_order(dims, place))


def samples_back(t: Tape, x: str, name: str) -> str:
    """[samples, elements] in the shape of the traced tensor ``name``: undoes ``samples_first``."""
    place, dims = t.traced.elsewhere[name], t.dims(name)
    order, sizes = _order(dims, place), _split(dims, place)
    moved = t.reshape(x, *(sizes[axis] or 0 for axis in order))
    return t.reshape_like(t.op("Transpose", moved, perm=[order.index(axis) for axis in range(len(order))]), name)


def moved_axis(axis: int, rank: int, place: Samples) -> int:
    """Which axis of ``samples_first`` an axis of a tensor of ``rank`` becomes."""
    return _order((1,) * rank, place).index(axis if axis < place.axis else axis + 2)


def _others(dims: Dims, place: Samples) -> list[int | None]:
    return [n for axis, n in enumerate(dims) if axis != place.axis]


def _split(dims: Dims, place: Samples) -> list[int | None]:
    return [*dims[: place.axis], place.outer, -1, place.inner, *dims[place.axis + 1 :]]


def _order(dims: Dims, place: Samples) -> list[int]:
    first = place.axis + 1
    return [first, *(axis for axis in range(len(dims) + 2) if axis != first)]
