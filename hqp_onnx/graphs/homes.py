"""Where the weights of a file are, once it is turned, reshaped, cast or renamed: axis by axis.

    w [64, 32]  ->  Transpose  ->  v [32, 64]        axis 0 of v is axis 1 of w

What was removed is said of the file that was given, whose tensors its owner knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.origin import Home

_SAME = ("Cast", "Identity")
Axes = tuple[int | None, ...]


def find_homes(nodes: Iterable[gs.Node], known: Mapping[str, Home]) -> dict[str, Home]:
    """Homes of the results of nodes over constants that move one weight, and those that are ``known``.

    Args:
        nodes: in topological order.
        known: homes of constants that were folded before.
    """
    homes, shapes = dict(known), dict[str, tuple[int, ...]]()
    for node in nodes:
        source = node.inputs[0] if node.inputs else None
        home = None if source is None else homes.get(source.name) or _at_home(source)
        if source is None or home is None or len(node.outputs) != 1:
            continue
        shape = tuple(source.shape) if isinstance(source, gs.Constant) else shapes[source.name]
        moved = _moved(node, shape)
        if moved is not None:
            result = node.outputs[0].name
            axes = tuple(None if axis is None else home.axes[axis] for axis in moved[1])
            homes[result], shapes[result] = Home(home.name, home.type, axes), moved[0]
    return homes


def _at_home(tensor: gs.Tensor) -> Home | None:
    """Of an initializer of floats: itself."""
    if not isinstance(tensor, gs.Constant):
        return None
    kind = (
        tensor.dtype if isinstance(tensor.dtype, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    )
    return Home(tensor.name, int(kind), tuple(range(len(tensor.shape))))


def _moved(node: gs.Node, shape: Sequence[int]) -> tuple[tuple[int, ...], Axes] | None:
    """Shape of a node's result, and the axis of its input that each axis is; None for nodes that compute."""
    axes: list[int | None] = list(range(len(shape)))
    if operator(node) in _SAME:
        return tuple(shape), tuple(axes)
    if operator(node) == "Transpose":
        order = list(node.attrs.get("perm") or range(len(shape))[::-1])
        return tuple(shape[axis] for axis in order), tuple(order)
    target = _target(node, shape)
    if target is None:
        return None
    kept = {(int(np.prod(shape[:i])), n): i for i, n in reversed(list(enumerate(shape))) if n > 1}
    found = [kept.get((int(np.prod(target[:i])), n)) for i, n in enumerate(target)]
    return tuple(target), tuple(found)


def _target(node: gs.Node, shape: Sequence[int]) -> list[int] | None:
    """Shape that a Reshape, Squeeze or Unsqueeze of constants makes."""
    given = node.inputs[1].values.tolist() if len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant) else None
    if given is None or operator(node) not in ("Reshape", "Squeeze", "Unsqueeze"):
        return None
    probe = np.broadcast_to(np.zeros((), bool), tuple(shape))
    if operator(node) == "Unsqueeze":
        return list(np.expand_dims(probe, tuple(given)).shape)
    if operator(node) == "Squeeze":
        return list(np.squeeze(probe, tuple(given)).shape)
    filled = [shape[axis] if n == 0 else n for axis, n in enumerate(given)]
    rest = int(np.prod([n for n in filled if n != -1]))
    return [int(np.prod(shape)) // rest if n == -1 else n for n in filled]
