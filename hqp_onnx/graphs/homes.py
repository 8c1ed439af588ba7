"""Where the weights of a file are, once they are turned, reshaped, cast, renamed or put together anew: axis by axis.

    w [64, 32]  ->  Transpose  ->  v [32, 64]                           axis 0 of v is axis 1 of w
    w [1, 512, 128]  ->  Slice, Slice  ->  Concat  ->  v [1, 512, 128]  gates of an LSTM in another order
    w [64, 4, 8]  ->  Reshape  ->  v [64, 32]                           axis 1 of v is axes 1 and 2 of w

What was removed is said of the file that was given, whose tensors its owner knows. The zero of quantized weights is
their zero-point.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.origin import Home

_SAME = ("Cast", "Identity")
_RESHAPED = ("Reshape", "Squeeze", "Unsqueeze")
_Moved: TypeAlias = "tuple[tuple[int, ...], Home]"


def find_homes(nodes: Iterable[gs.Node], known: Mapping[str, Home]) -> dict[str, Home]:
    """Homes of the results of nodes over constants that move one weight, and those that are ``known``.

    Args:
        nodes: in topological order.
        known: homes of constants that were folded before.
    """
    homes, shapes = dict(known), dict[str, tuple[int, ...]]()
    for node in nodes:
        sources = [homes.get(t.name) or at_home(t) for t in node.inputs[: None if node.op == "Concat" else 1]]
        first = node.inputs[0] if node.inputs else None
        if first is None or any(home is None for home in sources) or len({h.name for h in sources if h}) != 1:
            continue
        shape = tuple(first.shape) if isinstance(first, gs.Constant) else shapes.get(first.name)
        moved = None if shape is None else _moved(node, shape, [home for home in sources if home is not None])
        for output, (size, home) in zip(node.outputs, moved or (), strict=False):
            if all(source is None or source.cut <= set(home.axes) for source in sources):
                shapes[output.name], homes[output.name] = size, home
    return homes


def at_home(tensor: gs.Tensor) -> Home | None:
    """Of an initializer: itself; None of what is no constant."""
    if not isinstance(tensor, gs.Constant):
        return None
    kind = tensor.dtype
    kind = int(kind) if isinstance(kind, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    shape = tuple(tensor.shape)
    return Home(tensor.name, kind, shape, tuple(range(len(shape))), tuple(map(np.arange, shape)))


def _moved(node: gs.Node, shape: tuple[int, ...], homes: Sequence[Home]) -> list[_Moved] | None:
    """Shapes and homes of the results of a node that reads weights of these homes; None where it computes."""
    home, op = homes[0], operator(node)
    if op in _SAME:
        return [(shape, home)]
    if op == "Mul" and np.dtype(onnx.helper.tensor_dtype_to_np_dtype(home.type)).kind in "iu":
        scale = node.inputs[1]  # of integers that are stored for floats: 0 stays 0
        whole = isinstance(scale, gs.Constant) and np.broadcast_shapes(shape, scale.shape) == tuple(shape)
        return [(shape, home)] if whole and np.isfinite(scale.values).all() else None
    if op == "Transpose":
        order = list(node.attrs.get("perm") or range(len(shape))[::-1])
        return [(tuple(shape[axis] for axis in order), chosen(home, order))]
    if op == "Concat":
        return _joined(home, homes, shape, node.attrs["axis"] % len(shape))
    if not all(isinstance(t, gs.Constant) for t in node.inputs[1:]):
        return None
    if op == "Slice":
        return _cut(home, shape, *(t.values.ravel().tolist() for t in node.inputs[1:]))
    if op == "Split":
        return _split(node, home, shape)
    if op == "Gather":
        return _looked_up(node, home, shape)
    target = _target(node, shape) if op in _RESHAPED else None
    return None if target is None else [(target, _reshaped(home, shape, target))]


def _reshaped(home: Home, shape: tuple[int, ...], target: tuple[int, ...]) -> Home:
    """Axes that stay, and those that are joined of whole ones that are side by side."""
    starts = {math.prod(shape[:i]): i for i in reversed(range(len(shape))) if shape[i] > 1}
    kept: list[int | None] = []
    joined: dict[int, tuple[int, ...]] = {}
    for number, size in enumerate(target):
        first = starts.get(math.prod(target[:number])) if size > 1 else None
        kept.append(first if first is not None and shape[first] == size else None)
        if first is not None and kept[-1] is None and (axes := _side_by_side(home, shape, first, size)):
            joined[number] = axes
    made = chosen(home, kept)
    return replace(made, axes=tuple(joined.get(number, axis) for number, axis in enumerate(made.axes)))


def _side_by_side(home: Home, shape: tuple[int, ...], first: int, size: int) -> tuple[int, ...]:
    """Axes of the initializer, each whole, that the axes of a weight from ``first`` on are, ``size`` together."""
    found: list[int] = []
    for number in range(first, len(shape)):
        place, line = home.axes[number], home.indices[number]
        if shape[number] > 1:
            if not isinstance(place, int) or line is None or not np.array_equal(line, range(home.shape[place])):
                return ()
            found.append(place)
        if math.prod(shape[first : number + 1]) == size:
            return tuple(found)
    return ()


def _split(node: gs.Node, home: Home, shape: tuple[int, ...]) -> list[_Moved] | None:
    axis = node.attrs.get("axis", 0) % len(shape)
    line, count = home.indices[axis], len(node.outputs)
    if line is None:
        return None
    if len(node.inputs) > 1:
        ends = np.cumsum(node.inputs[1].values)[:-1].tolist()
    else:
        ends = [number * -(-len(line) // count) for number in range(1, count)]
    parts = np.split(line, ends)
    return [((*shape[:axis], len(part), *shape[axis + 1 :]), _with_line(home, axis, part)) for part in parts]


def _looked_up(node: gs.Node, home: Home, shape: tuple[int, ...]) -> list[_Moved] | None:
    """Rows, each at least once, for places along axes of their own."""
    axis, places = node.attrs.get("axis", 0) % len(shape), node.inputs[1].values
    if len(np.unique(places % shape[axis])) < shape[axis]:
        return None
    kept = [*range(axis), *[None] * places.ndim, *range(axis + 1, len(shape))]
    return [((*shape[:axis], *places.shape, *shape[axis + 1 :]), chosen(home, kept))]


def chosen(home: Home, axes: Sequence[int | None]) -> Home:
    """``home`` of a tensor whose axes are these of the one before."""
    return replace(
        home,
        axes=tuple(None if axis is None else home.axes[axis] for axis in axes),
        indices=tuple(None if axis is None else home.indices[axis] for axis in axes),
    )


def _with_line(home: Home, axis: int, line: IntArray | None) -> Home:
    return replace(home, indices=(*home.indices[:axis], line, *home.indices[axis + 1 :]))


def _joined(home: Home, homes: Sequence[Home], shape: tuple[int, ...], axis: int) -> list[_Moved] | None:
    """Parts of one weight, put together along an axis."""
    lines = [other.indices[axis] for other in homes]
    if any(line is None or other.axes != home.axes for line, other in zip(lines, homes, strict=True)):
        return None
    for number, line in enumerate(home.indices):
        others = [other.indices[number] for other in homes]
        if number != axis and not all(
            line is None or (other is not None and np.array_equal(line, other)) for other in others
        ):
            return None
    joined = np.concatenate([line for line in lines if line is not None])
    return [((*shape[:axis], len(joined), *shape[axis + 1 :]), _with_line(home, axis, joined))]


def _cut(
    home: Home,
    shape: tuple[int, ...],
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> list[_Moved] | None:
    """A Slice of constant bounds."""
    sizes = list(shape)
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = (axes[number] if axes else number) % len(shape)
        line, step = home.indices[axis], steps[number] if steps else 1
        if line is None or step < 1:
            return None
        home = _with_line(home, axis, line[start:end:step])
        sizes[axis] = len(line[start:end:step])
    return [(tuple(sizes), home)]


def _target(node: gs.Node, shape: Sequence[int]) -> tuple[int, ...] | None:
    """Shape that a Reshape, Squeeze or Unsqueeze of constants makes."""
    if len(node.inputs) < 2 or not isinstance(node.inputs[1], gs.Constant):
        return None
    given = node.inputs[1].values.ravel().tolist()
    probe = np.broadcast_to(np.zeros((), bool), tuple(shape))
    if operator(node) == "Unsqueeze":
        return np.expand_dims(probe, tuple(given)).shape
    if operator(node) == "Squeeze":
        return np.squeeze(probe, tuple(given)).shape
    filled = [shape[axis] if n == 0 else n for axis, n in enumerate(given)]
    rest = math.prod(n for n in filled if n != -1)
    return tuple(math.prod(shape) // rest if n == -1 else n for n in filled)
