"""Shapes of operators that compute with sizes, where onnx's inference carries names only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from hqp_onnx.graphs.symbolic.expressions import (
    Expression,
    integer,
    maximum,
    minimum,
    opaque,
    product,
    quotient,
)
from hqp_onnx.graphs.symbolic.known import Dims, Reading, ShapeRule, Value

Told: TypeAlias = "Sequence[Expression | None] | None"
SHAPES: dict[str, ShapeRule] = {}
ONE = integer(1)
_FAR = 1 << 30  # of a Slice that runs to the end


def rule(*ops: str) -> Callable[[Callable[[Reading], Told]], Callable[[Reading], Told]]:
    """Register the shape of the first output of ``ops``."""

    def register(function: Callable[[Reading], Told]) -> Callable[[Reading], Told]:
        SHAPES.update(dict.fromkeys(ops, lambda r: [function(r)]))
        return function

    return register


@rule("Reshape")
def _reshape(r: Reading) -> Told:
    """0 copies a size, -1 is what is left."""
    data, target = r.dims(), r.value(1)
    if target is None:
        return None
    if data is None:
        return [size if size.nonnegative and size.value != 0 else None for size in target.flat]
    kept = r.attribute("allowzero", 0)
    sizes: list[Expression | None] = [
        data[axis] if size.value == 0 and not kept else None if size.value == -1 else size
        for axis, size in enumerate(target.flat)
    ]
    if sizes.count(None) == 1:
        given = product(size for size in sizes if size is not None)
        sizes[sizes.index(None)] = quotient(product(data), given)
    return sizes


@rule("Flatten")
def _flatten(r: Reading) -> Told:
    data, axis = r.dims(), r.attribute("axis", 1)
    if data is None:
        return [None, None]
    axis = axis + len(data) if axis < 0 else axis
    return [product(data[:axis]), product(data[axis:])]


@rule("Concat")
def _concat(r: Reading) -> Told:
    """Sizes add up along the axis."""
    shapes, known = [r.dims(i) for i in range(len(r.node.input))], r.result()
    if known is None or any(shape is None for shape in shapes):
        return None
    axis = r.attribute("axis") % len(known)
    total = integer(0)
    for shape in shapes:
        total += shape[axis] if shape else integer(0)
    return [total if i == axis else None for i in range(len(known))]


@rule("Conv", "MaxPool", "AveragePool", "LpPool")
def _window(r: Reading) -> Told:
    """floor((size + pads - extent) / stride) + 1 along each spatial axis, or ceil(size / stride)."""
    data, kernel = r.dims(), _kernel(r)
    if data is None or kernel is None or r.attribute("ceil_mode", 0) or len(data) != len(kernel) + 2:
        return None
    rank, mode = len(kernel), r.attribute("auto_pad", "NOTSET")
    strides, dilations = (r.attribute(name) or [1] * rank for name in ("strides", "dilations"))
    pads = r.attribute("pads") or [0] * 2 * rank
    sizes: list[Expression | None] = []
    for axis, size in enumerate(data[2:]):
        pad, stride = pads[axis] + pads[rank + axis] if mode == "NOTSET" else 0, integer(strides[axis])
        extent = dilations[axis] * (kernel[axis] - 1) + 1
        room = size + integer(pad - extent if mode in ("NOTSET", "VALID") else -1)
        sizes.append(room + ONE if stride == ONE else opaque("Windows", room, stride, nonnegative=True))
    return [None, None, *sizes]


@rule("ConvTranspose")
def _transposed_window(r: Reading) -> Told:
    """Stride (size - 1) + extent + output padding - pads."""
    data, kernel = r.dims(), _kernel(r)
    plain = r.attribute("auto_pad", "NOTSET") == "NOTSET" and not r.attribute("output_shape")
    if data is None or kernel is None or not plain or len(data) != len(kernel) + 2:
        return None
    rank = len(kernel)
    strides, dilations = (r.attribute(name) or [1] * rank for name in ("strides", "dilations"))
    pads, more = r.attribute("pads") or [0] * 2 * rank, r.attribute("output_padding") or [0] * rank
    added = [dilations[i] * (kernel[i] - 1) + 1 + more[i] - pads[i] - pads[rank + i] for i in range(rank)]
    sizes = [integer(s) * (n - ONE) + integer(k) for n, s, k in zip(data[2:], strides, added, strict=True)]
    return [None, None, *sizes]


@rule("Slice")
def _slice(r: Reading) -> Told:
    data, known = r.dims(), r.result()
    starts, ends = r.value(1), r.value(2)
    if data is None or known is None or starts is None or ends is None:
        return None
    axes, steps = r.numbers(3, range(starts.size)), r.numbers(4, [1] * starts.size)
    if axes is None or steps is None:
        return None
    sizes: list[Expression | None] = list(data)
    for start, end, axis, step in zip(starts.flat, ends.flat, axes, steps, strict=True):
        size = data[axis]
        first, last = _clamped(start, size), _clamped(end, size)
        between = None if first is None or last is None or step != 1 else last - first
        sizes[axis] = None if between is None else maximum(between, integer(0))
    return sizes


def _clamped(index: Expression, size: Expression) -> Expression | None:
    """A bound of a Slice with step 1, between 0 and ``size``; below 0 it counts from the end, None if that is open."""
    if index.value is not None and index.value >= _FAR:
        return size
    if index.nonnegative:
        return minimum(index, size)
    if (-index).nonnegative:
        return maximum(size + index, integer(0))
    return None


@rule("Pad")
def _pad(r: Reading) -> Told:
    data, pads = r.dims(), r.value(1)
    if data is None or pads is None:
        return None
    axes = r.numbers(3, range(len(data)))
    if axes is None:
        return None
    sizes, sides = list(data), pads.reshape(2, -1)
    for place, axis in enumerate(axes):
        sizes[axis] = data[axis] + sides[0, place] + sides[1, place]
    return sizes


@rule("Expand")
def _expand(r: Reading) -> Told:
    data, shape = r.dims(), r.value(1)
    if data is None or shape is None:
        return None
    return broadcast(data, tuple(shape.flat))


def broadcast(left: Dims, right: Dims) -> tuple[Expression | None, ...]:
    """Shape that two broadcast to; None where that is not known."""
    rank = max(len(left), len(right))
    padded = [(*[ONE] * (rank - len(dims)), *dims) for dims in (left, right)]
    return tuple(_broadcast_size(a, b) for a, b in zip(*padded, strict=True))


def _broadcast_size(a: Expression, b: Expression) -> Expression | None:
    """The size of two that broadcast: of 1 and anything the other; a constant above 1 is the size of both."""
    if a == b or b == ONE:
        return a
    if a == ONE:
        return b
    return next((size for size in (a, b) if size.value is not None), None)


@rule("Tile")
def _tile(r: Reading) -> Told:
    data, repeats = r.dims(), r.value(1)
    if data is None or repeats is None:
        return None
    return [size * times for size, times in zip(data, repeats.flat, strict=True)]


@rule("ConstantOfShape")
def _constant_of_shape(r: Reading) -> Told:
    return _sizes(r.value(0))


@rule("Range")
def _range(r: Reading) -> Told:
    first, limit, step = r.value(0), r.value(1), r.numbers(2)
    if first is None or limit is None or step is None:
        return None
    return [maximum(limit.item() - first.item(), integer(0)) if step == [1] else None]


@rule("Resize")
def _resize(r: Reading) -> Told:
    """Stated sizes; those that follow from scales are onnx's to find."""
    data, sizes = r.dims(), r.value(3)
    if data is None or sizes is None or r.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    told: list[Expression | None] = list(data)
    for axis, size in zip(r.attribute("axes", range(len(data))), sizes.flat, strict=True):
        told[axis] = size
    return told


def _sizes(value: Value | None) -> Told:
    return None if value is None else list(value.flat)


def _top_k(r: Reading) -> Sequence[Told]:
    data, count = r.dims(), r.value(1)
    if data is None or count is None:
        return [None]
    axis = r.attribute("axis", -1) % len(data)
    return [[*data[:axis], count.item(), *data[axis + 1 :]]] * 2


def _split(r: Reading) -> Sequence[Told]:
    """Stated sizes, or equal parts where the size is a multiple."""
    data, stated = r.dims(), r.value(1)
    if data is None:
        return []
    axis, parts = r.attribute("axis", 0) % len(data), len(r.node.output)
    if stated is not None:
        sizes: list[Expression | None] = list(stated.flat)
    elif r.has(1):
        return []
    else:
        part = quotient(data[axis], integer(parts))
        sizes = [part if part * integer(parts) == data[axis] else None] * parts
    return [[*data[:axis], size, *data[axis + 1 :]] for size in sizes]


SHAPES.update({"TopK": _top_k, "Split": _split})


def _kernel(r: Reading) -> list[int] | None:
    """Sizes of the window."""
    if stated := r.attribute("kernel_shape"):
        return list(stated)
    weight = r.dims(1)
    sizes = [size.value for size in weight[2:]] if weight else [None]
    return None if None in sizes else [size for size in sizes if size is not None]
