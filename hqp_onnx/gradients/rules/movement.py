"""Rules of the operators that only move data.

y = take(x, m, axis): y_j = x_{m_j}, or zero where m_j = -1. Then dx_i = sum over {j: m_j = i} of g_j. Slice, Pad,
Gather and Tile are such maps, one axis after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from hqp_onnx.arrays import Array
from hqp_onnx.gradients.tape import Grads, Tape, refuse, rule
from hqp_onnx.graphs.nodes import attribute, number, numbers

_END = int(np.iinfo(np.int64).max)  # of a Slice that runs to the end


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """The shape of the input again."""
    return t.reshape_like(str(g[0]), n.input[0])


@rule("Identity", "Dropout")
def identity(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str | None:
    """Unchanged; Dropout does nothing at inference, so nothing depends on its ratio."""
    if n.op_type == "Dropout" and (training := t.value(n, 2)) is not None and bool(training):
        raise refuse(n, "has no gradient rule in training mode")
    return None if i else str(g[0])


@rule("Cast", "CastLike")
def cast(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str | None:
    """Back to the type of the input; of its second input, CastLike reads the type alone."""
    if i:
        return None
    return t.op("Cast", str(g[0]), to=helper.np_dtype_to_tensor_dtype(t.traced.types[n.input[0]]))


@rule("Transpose")
def transpose(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """The inverse permutation."""
    perm = numbers(n, "perm", range(len(t.dims(n.input[0])))[::-1])
    return t.op("Transpose", str(g[0]), perm=np.argsort(perm).tolist())


@rule("Concat")
def concat(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """The slice that the operand became."""
    axis = t.axis(n, 0)
    sizes = [t.static(n, name, [axis])[0] for name in n.input]
    start = sum(sizes[:i])
    return t.op("Slice", str(g[0]), t.ints(start), t.ints(start + sizes[i]), t.ints(axis))


@rule("Split")
def split(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Concatenation; an output that does not reach the loss has gradient zero."""
    zero = t.scalar(0, n.input[0])
    parts = [grad or t.op("Expand", zero, t.op("Shape", name)) for grad, name in zip(g, n.output, strict=True) if name]
    return t.op("Concat", *parts, axis=t.axis(n, 0))


@rule("Expand")
def expand(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Sum over the repeated axes."""
    return t.reduce_to(str(g[0]), t.dims(n.output[0]), n.input[0])


@rule("Slice")
def slice_(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Every axis is a take of a range."""
    starts, ends = _vector(t, n, 1), _vector(t, n, 2)
    axes, steps = _vector(t, n, 3, range(len(starts))), _vector(t, n, 4, [1] * len(starts))
    grad = str(g[0])
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = _axis(t, n, axis)
        if t.dims(n.input[0])[axis] is None and t.dims(n.output[0])[axis] is None and step == 1 and start == 0:
            continue  # all of the batch axis: any other slice of it mixes rows and samples
        size = t.static(n, n.input[0], [axis])[0]
        last = end if step > 0 or end >= -size else None  # below -size, a negative step runs through index 0
        grad = put_back(t, n, grad, np.arange(size)[start:last:step], axis)
    return grad


@rule("Pad")
def pad(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str | None:
    """Constant padding is cut off: it is its value's; other padding adds up; negative pads restore zeros."""
    pads, mode = _vector(t, n, 1), str(attribute(n, "mode", "constant"))
    axes = [_axis(t, n, axis) for axis in _vector(t, n, 3, range(len(pads) // 2))]
    widths = {a: w for a, w in zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True) if any(w)}
    grad = str(g[0])
    if i == 2:
        return _padded_sum(t, n, grad) if mode == "constant" else None
    if mode == "constant":
        return _cut(t, grad, widths, len(t.dims(n.input[0])))
    for axis, (before, after) in widths.items():
        size = t.static(n, n.input[0], [axis])[0]
        kept = np.arange(size)[max(0, -before) : size - max(0, -after)]
        added: Any = (max(0, before), max(0, after))
        grad = put_back(t, n, grad, np.pad(kept, added, mode), axis)  # type: ignore[call-overload]
    return grad


def _padded_sum(t: Tape, n: onnx.NodeProto, g: str) -> str:
    """The gradient of the value that was padded: the sum over what it fills."""
    x, pads, value, *axes = n.input
    empty = t.op("Expand", t.scalar(0, x), t.op("Shape", x))
    filled = t.op("Pad", empty, pads, t.scalar(1, x), *axes)
    return t.reduce_to(t.mul(g, filled), t.dims(n.output[0]), value)


@rule("Tile")
def tile(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """A take of repeated ranges."""
    grad = str(g[0])
    for axis, repeats in enumerate(_vector(t, n, 1)):
        if repeats > 1:
            size = t.static(n, n.input[0], [axis])[0]
            grad = put_back(t, n, grad, np.tile(np.arange(size), repeats), axis)
    return grad


@rule("DepthToSpace")
def depth_to_space(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """SpaceToDepth, in the node's own order of channels."""
    block = int(number(n, "blocksize", 1))
    channels, height, width = t.static(n, n.input[0], (1, 2, 3))
    cells = t.reshape(str(g[0]), -1, channels // block**2, height, block, width, block)
    perm = [0, 3, 5, 1, 2, 4] if attribute(n, "mode", "DCR") == "DCR" else [0, 1, 3, 5, 2, 4]
    return t.reshape(t.op("Transpose", cells, perm=perm), -1, channels, height, width)


@rule("SpaceToDepth")
def space_to_depth(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """DepthToSpace."""
    return t.op("DepthToSpace", str(g[0]), blocksize=int(number(n, "blocksize", 1)))


def put_back(t: Tape, n: onnx.NodeProto, g: str, taken: Array, axis: int) -> str:
    """Adjoint of a take along ``axis`` of input 0: one Gather for each time that an index may be repeated."""
    size, rank = t.static(n, n.input[0], [axis])[0], len(t.dims(n.input[0]))
    if np.array_equal(taken, np.arange(size)):
        return g
    widths = [0] * 2 * rank
    if taken.size and np.array_equal(taken, np.arange(taken[0], taken[0] + taken.size)) and taken[0] >= 0:
        widths[axis], widths[rank + axis] = int(taken[0]), int(size - 1 - taken[-1])
        return t.op("Pad", g, t.ints(*widths))
    widths[rank + axis] = 1
    padded = t.op("Pad", g, t.ints(*widths))
    turns = _turns(taken, size)
    parts = [t.op("Gather", padded, t.ints(*turn), axis=axis) for turn in turns]
    return parts[0] if len(parts) == 1 else t.op("Sum", *parts)


def _cut(t: Tape, g: str, widths: Mapping[int, tuple[int, int]], rank: int) -> str:
    """Without (before, after) elements along each axis; with zeros where a width is negative."""
    positive = {axis: (max(0, a), max(0, b)) for axis, (a, b) in widths.items() if max(a, b) > 0}
    if positive:
        ends = [-after if after else _END for _, after in positive.values()]
        g = t.op("Slice", g, t.ints(*(a for a, _ in positive.values())), t.ints(*ends), t.ints(*positive))
    if min((n for width in widths.values() for n in width), default=0) >= 0:
        return g
    lost = [max(0, -widths.get(axis, (0, 0))[side]) for side in (0, 1) for axis in range(rank)]
    return t.op("Pad", g, t.ints(*lost))


def _turns(taken: Array, size: int) -> list[list[int]]:
    """turns[r][i]: where index i is taken for the r-th time, or ``len(taken)`` (the zero after the end)."""
    turns = [[len(taken)] * size]
    seen = [0] * size
    for position, index in enumerate(taken.tolist()):
        if index < 0:
            continue
        if seen[index] == len(turns):
            turns.append([len(taken)] * size)
        turns[seen[index]][index] = position
        seen[index] += 1
    return turns


def _axis(t: Tape, n: onnx.NodeProto, axis: int) -> int:
    return axis % len(t.dims(n.input[0]))


def _vector(t: Tape, n: onnx.NodeProto, index: int, default: Sequence[int] = ()) -> list[int]:
    """An integer vector input."""
    value = t.value(n, index)
    return list(default) if value is None else [int(x) for x in value.reshape(-1)]
