"""The one head of keys or values that all heads share is not repeated for each of them: a product broadcasts it.

    k [b, s, 1, d] -> Expand [b, s, 8, d] -> Transpose [b, 8, d, s]     is     k [b, s, 1, d] -> Transpose [b, 1, d, s]

for q k with q [b, 8, s, d]. Repeated, it would be eight heads that nothing makes, and none of q could be removed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.symbolic.expressions import Expression, integer
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult

__all__ = ["share_heads"]

_REPEATING = frozenset(["Expand", "Tile", "Gather", "Concat"])
_Targets = list[tuple[gs.Node, IntArray]]
_Dims = Mapping[str, tuple[Expression, ...]]


def share_heads(graph: gs.Graph, dims: _Dims) -> PassResult:
    """A copy of ``graph`` without such repetitions.

    Args:
        graph: in topological order.
        dims: what is proven of its shapes; those between a repetition and the product are others in the result.
    """
    graph = graph.copy()
    names, dropped = UniqueNames(graph), 0
    outputs = {id(tensor) for tensor in graph.outputs}
    for node in graph.nodes:
        axis = _repeated(node, dims)
        targets = None if axis is None else _up_to_product(node.outputs[0], axis, dims, outputs)
        if targets is None:
            continue
        for reshape, target in targets:
            reshape.inputs[1] = gs.Constant(names.tensor(f"{reshape.name}/shared"), target)
        (reader,) = node.outputs[0].outputs
        reader.inputs = [node.inputs[0] if t is node.outputs[0] else t for t in reader.inputs]
        dropped += 1
    graph.cleanup().toposort()
    return PassResult(graph, bool(dropped), (f"{dropped} shared heads no longer repeated",) if dropped else ())


def _repeated(node: gs.Node, dims: _Dims) -> int | None:
    """The axis of size 1, the only one, that a node makes longer by the same values."""
    if operator(node) not in _REPEATING or any(t is not node.inputs[0] for t in node.inputs if node.op == "Concat"):
        return None
    before, after = dims.get(node.inputs[0].name), dims.get(node.outputs[0].name)
    if before is None or after is None or len(before) != len(after):
        return None
    longer = [axis for axis, sizes in enumerate(zip(before, after, strict=True)) if sizes[0] != sizes[1]]
    return longer[0] if len(longer) == 1 and before[longer[0]].value == 1 else None


def _up_to_product(tensor: gs.Tensor, axis: int, dims: _Dims, outputs: set[int]) -> _Targets | None:
    """Targets of Reshapes on the way to a product that broadcasts ``axis``; None where there is no such way."""
    size, targets = dims[tensor.name][axis], _Targets()
    while len(tensor.outputs) == 1 and id(tensor) not in outputs:
        (node,) = tensor.outputs
        own = dims[tensor.name]
        if node.op == "MatMul":
            (other,) = [t for t in node.inputs if t is not tensor] or [tensor]
            theirs = dims.get(other.name, ())
            place = axis - len(own) + len(theirs)
            shared = axis < len(own) - 2 and place >= 0 and size.value is not None and theirs[place] == size
            return targets if shared else None
        result = node.outputs[0]
        if node.op == "Transpose":
            axis = list(node.attrs.get("perm") or range(len(own))[::-1]).index(axis)
        elif node.op == "Reshape" and isinstance(node.inputs[1], gs.Constant) and result.name in dims:
            made, target = dims[result.name], node.inputs[1].values
            lead = math.prod(own[:axis], start=integer(1))
            places = [i for i, n in enumerate(made) if n == size and math.prod(made[:i], start=integer(1)) == lead]
            if not places or node.attrs.get("allowzero", 0) or (0 in target[axis : axis + 1] and places[0] != axis):
                return None
            axis = places[0]
            if target[axis] > 0:
                targets.append((node, np.where(np.arange(len(target)) == axis, 1, target)))
        elif not _scales(node, tensor):
            return None
        tensor = result
    return None


def _scales(node: gs.Node, tensor: gs.Tensor) -> bool:
    """Whether a node multiplies ``tensor`` by a number, or casts it."""
    others = [t for t in node.inputs if t is not tensor]
    numbers = all(isinstance(t, gs.Constant) and t.values.size == 1 and t.values.ndim < 2 for t in others)
    return node.op in ("Cast", "Identity") or (node.op in ("Mul", "Div") and len(others) == 1 and numbers)
